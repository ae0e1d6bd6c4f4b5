"""Where a release is sent: the target's name, its endpoint, its token. Nothing is opened here."""

import os
import re
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import urlsplit

from stbuild.corpus.urls import refuse_url
from stbuild.publish.push.faults import usage
from stbuild.publish.push.options import (
    HUB_ENDPOINT,
    SANDBOX_ENDPOINT,
    ZENODO_ENDPOINT,
    PushOptions,
)

_NAME: Final = r"[A-Za-z0-9](?:[A-Za-z0-9_-]|[.-](?![.-])){0,94}"
_HUB: Final = re.compile(rf"hf:({_NAME}/{_NAME})")
_TOKEN: Final = re.compile(r"[\x21-\x7e]{8,4096}")
_ENDPOINTS: Final = {"zenodo": ZENODO_ENDPOINT, "zenodo-sandbox": SANDBOX_ENDPOINT}


@dataclass(frozen=True, kw_only=True)
class Target:
    """A place to which a release can be sent."""

    name: str
    """As the user wrote it."""
    kind: Literal["hub", "zenodo"]
    repository: str
    """``ORG/NAME`` of the Hub; empty for Zenodo."""
    endpoint: str
    token: str | None = field(repr=False)
    """From the environment; it is only sent to the endpoint."""

    @property
    def host(self) -> str:
        """Host and port, for messages."""
        return urlsplit(self.endpoint).netloc

    @property
    def variable(self) -> str:
        """Variable of the environment that holds the token."""
        return "HF_TOKEN" if self.kind == "hub" else "ZENODO_TOKEN"

    def require_token(self) -> str:
        """Return the token.

        Raises
        ------
        BadUsageError
            The environment holds none.
        """
        if self.token is None:
            raise usage(
                "P52",
                f"target '{self.name}'",
                f"{self.variable} is not set: a push needs a token with the right to write",
                f"put the token into the environment ({self.variable}=...), never on the command "
                "line; `--dry-run` needs none",
            )
        return self.token


def find_target(name: str, options: PushOptions) -> Target:
    """Return the target that a user names.

    Parameters
    ----------
    name
        ``hf:ORG/NAME``, ``zenodo`` or ``zenodo-sandbox``.
    options
        May name another endpoint; for the Hub, ``HF_ENDPOINT`` does too.

    Raises
    ------
    BadUsageError
        No such target, or an endpoint to which no token is sent.
    """
    found = _HUB.fullmatch(name)
    if found is None and name not in _ENDPOINTS:
        what = f"{name[:120]!r} is no target"
        raise usage(
            "P50", "target", what, "name hf:ORG/NAME, zenodo, zenodo-sandbox or s3://BUCKET/PREFIX"
        )
    default = _ENDPOINTS.get(name) or os.environ.get("HF_ENDPOINT") or HUB_ENDPOINT
    variable = "HF_TOKEN" if found else "ZENODO_TOKEN"
    return Target(
        name=name,
        kind="hub" if found else "zenodo",
        repository=found[1] if found else "",
        endpoint=_checked(options.endpoint or default),
        token=_token(variable),
    )


def _checked(endpoint: str) -> str:
    endpoint = endpoint.rstrip("/")
    reason = refuse_url(f"{endpoint}/api")
    scheme = endpoint.partition(":")[0].lower()
    if reason is None and (scheme not in ("http", "https") or set("?#") & set(endpoint)):
        reason = "it is not https://HOST"
    if reason is not None:
        fix = "give https://HOST, or http://127.0.0.1:PORT for a test"
        raise usage("P50", "endpoint", f"{endpoint[:120]!r} is refused: {reason}", fix)
    return endpoint


def _token(variable: str) -> str | None:
    token = os.environ.get(variable, "").strip()
    if not token:
        return None
    if _TOKEN.fullmatch(token) is None:
        what = f"what {variable} holds is no token: blanks, or less than 8 characters"
        raise usage("P52", "token", what, f"set {variable} to the token alone")
    return token
