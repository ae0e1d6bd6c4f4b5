"""Trying again, with growing waits, what may succeed at the next attempt."""

from collections.abc import Callable
from typing import TypeVar

from stbuild.corpus.transient import TransientError, when_to_retry
from stbuild.publish.push.faults import gave_up
from stbuild.publish.push.options import PushOptions

Result = TypeVar("Result")
Say = Callable[[str], None]


def try_patiently(
    call: Callable[[], Result], host: str, where: str, options: PushOptions, say: Say
) -> Result:
    """Call until it gives no :class:`TransientError`.

    Parameters
    ----------
    call
        Safe to be called again after it failed.
    host, where
        Where it goes, for messages.
    options
        How often, and how long to wait in between.
    say
        Told of each failed attempt.

    Raises
    ------
    RemoteError
        P54: no attempt succeeded.
    """
    import stamina  # late: slow to import, and commands that send nothing need none

    tried = 0

    def attempt() -> Result:
        nonlocal tried
        tried += 1
        try:
            return call()
        except TransientError as error:
            say(f"{host}{where}: attempt {tried} of {options.attempts} failed: {error}")
            raise

    caller = stamina.RetryingCaller(
        attempts=options.attempts, timeout=None, wait_initial=options.wait,
        wait_max=options.longest_wait, wait_jitter=options.wait / 4,
    )  # fmt: skip
    try:
        return caller(when_to_retry, attempt)
    except TransientError as error:
        what = f"{error}; {tried} attempt{'s' if tried > 1 else ''}"
        raise gave_up(host, where, what) from None
