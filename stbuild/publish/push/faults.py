"""What can go wrong with a push: each error names host, path and status, and never the token."""

from typing import Final

from stbuild.corpus.errors import (
    BadInputError,
    BadUsageError,
    ConflictError,
    IntegrityError,
    Problem,
    RemoteError,
    StError,
)

PASSING: Final = frozenset({408, 423, 425, 429, 500, 502, 503, 504, 520, 522, 524})
"""Answers that may be another one the next time."""
AGAIN: Final = "run the same command again: what has arrived is not sent again"


def usage(code: str, subject: str, what: str, fix: str) -> BadUsageError:
    """Return the error of a flag or of the environment."""
    return BadUsageError(Problem(code=code, subject=subject, what=what, fix=fix))


def bad_release(root: str, what: str, fix: str) -> BadInputError:
    """Return the error of a folder that is no finished release."""
    return BadInputError(Problem(code="P51", subject="release", where=root, what=what, fix=fix))


def refused(host: str, where: str, what: str, fix: str) -> RemoteError:
    """Return the error of a request that no rerun mends."""
    return RemoteError(
        Problem(code="P53", subject=f"host '{host}'", where=where, what=what, fix=fix)
    )


def gave_up(host: str, where: str, what: str) -> RemoteError:
    """Return the error of a request that failed at every attempt."""
    return RemoteError(
        Problem(code="P54", subject=f"host '{host}'", where=where, what=what, fix=AGAIN)
    )


def conflict(host: str, where: str, what: str, fix: str) -> ConflictError:
    """Return the error of a remote that holds something else."""
    return ConflictError(
        Problem(code="P55", subject=f"host '{host}'", where=where, what=what, fix=fix)
    )


def strange(host: str, where: str, what: str) -> RemoteError:
    """Return the error of an answer that is not this interface's."""
    fix = "check the endpoint; if it is right, the service has changed: please report this"
    return RemoteError(
        Problem(code="P56", subject=f"host '{host}'", where=where, what=what, fix=fix)
    )


def differs(host: str, where: str, what: str) -> IntegrityError:
    """Return the error of bytes that are not those of the release."""
    return IntegrityError(
        Problem(code="P58", subject=f"host '{host}'", where=where, what=what, fix=AGAIN)
    )


def shorten(text: str, most: int = 300) -> str:
    """Return the first line or so of what a server says."""
    return " ".join(text.split())[:most].rstrip(".")


def without(error: StError, secret: str | None) -> StError:
    """Return the error without a secret, whatever text it came by."""
    if not secret or secret not in str([problem.as_dict() for problem in error.problems]):
        return error
    told = [
        {name: text and text.replace(secret, "<token>") for name, text in problem.as_dict().items()}
        for problem in error.problems
    ]
    return type(error)(
        *(
            Problem(
                code=item["code"] or "", subject=item["subject"] or "", where=item["where"],
                what=item["what"] or "", fix=item["fix"] or "",
            )
            for item in told
        )
    )  # fmt: skip
