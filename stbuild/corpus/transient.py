"""What may be gone at the next attempt, for whoever asks a server again."""


class TransientError(Exception):
    """Something that may be gone at the next attempt.

    Parameters
    ----------
    why
        What happened, in words.
    wait
        Seconds that the server asks to be left alone, if it does.
    """

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


def when_to_retry(error: Exception) -> bool | float:
    """Return whether to try again, or the seconds that the server asked for."""
    if not isinstance(error, TransientError):
        return False
    return True if error.wait is None else error.wait
