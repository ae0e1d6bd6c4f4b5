"""What a push did, or would do."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

How = Literal["sent", "there", "to send", "deleted", "to delete"]


@dataclass(frozen=True, kw_only=True)
class SentFile:
    """One file of the release, or one that the remote holds beyond it."""

    path: str
    bytes: int
    sha256: str | None
    """None for files that only the remote holds."""
    how: How


@dataclass(frozen=True, kw_only=True)
class PushReport:
    """The outcome of a push."""

    target: str
    host: str
    files: tuple[SentFile, ...]
    dry_run: bool
    is_public: bool
    """Whether a stranger gets this release there now."""
    compared: bool
    """Whether the remote was asked what it holds; a dry run without a token cannot everywhere."""
    url: str | None = None
    """Page of the release, or of its draft."""
    revision: str | None = None
    """Commit of the Hub, or number of the deposition."""
    notices: tuple[str, ...] = ()

    def count(self, how: How) -> tuple[int, int]:
        """Return number and bytes of the files of a kind."""
        sizes = [file.bytes for file in self.files if file.how == how]
        return len(sizes), sum(sizes)

    def as_dict(self) -> dict[str, Any]:
        """Return the same facts for ``--json``."""
        return asdict(self)
