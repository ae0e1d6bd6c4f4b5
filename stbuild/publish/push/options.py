"""What a push is told besides the release and the target; nothing here changes a byte sent."""

from dataclasses import dataclass
from typing import Final

HUB_ENDPOINT: Final = "https://huggingface.co"
ZENODO_ENDPOINT: Final = "https://zenodo.org"
SANDBOX_ENDPOINT: Final = "https://sandbox.zenodo.org"


@dataclass(frozen=True, kw_only=True)
class PushOptions:
    """How patient a push is, and what it may do at the remote."""

    endpoint: str | None = None
    """Another server of the same interface: https, or http on this machine."""
    private: bool = False
    """Make a repository that does not exist yet a private one (Hub)."""
    replace: bool = False
    """Delete, in the same commit, files of the repository that the release does not hold (Hub)."""
    deposition: int | None = None
    """Draft to go on with, else the one that an earlier run of this release made (Zenodo)."""
    attempts: int = 6
    """Times that a request is tried."""
    wait: float = 1.0
    """Seconds before the second attempt; doubled with each further one."""
    longest_wait: float = 30.0
    timeout: float = 120.0
    """Seconds without an answer, or without progress of a transfer, that end an attempt."""
    jobs: int = 4
    """Files sent at a time (Hub)."""
