"""Where a release came from: an in-toto Statement v1 with SLSA provenance v1.

The only file of a release with a time stamp. It names inputs by the names and digests of the lock;
no user, host or path of the machine.
"""

import json
from datetime import UTC, datetime
from typing import Any, Final

from stbuild import __version__
from stbuild.corpus import names
from stbuild.corpus.digests import sha256_bytes
from stbuild.corpus.documents import read_document
from stbuild.corpus.lock import LockDocument
from stbuild.publish.subset import Subset

PROVENANCE_JSON: Final = "provenance.intoto.json"
_BUILD_TYPE: Final = "urn:stcorpus:corpus:v1"
"""What ``corpus.lock.json`` describes, and ``stbuild rebuild`` does again."""


def make_provenance(subset: Subset, now: datetime) -> bytes:
    """Return the statement.

    Sources: the in-toto attestation framework (Statement v1) and slsa.dev/spec/v1.0/provenance.

    Parameters
    ----------
    subset
        What is published.
    now
        When it was made; kept to the second.
    """
    document, raw = subset.document, subset.tables[names.LOCK_JSON]
    lock = read_document(LockDocument, raw, names.LOCK_JSON)
    sources = {file.name: file for grid in lock.grids for file in grid.sources}
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [_named(names.CORPUS_JSON, sha256_bytes(document.to_bytes()))],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": _BUILD_TYPE,
                "externalParameters": {
                    "config": lock.config.model_dump(mode="json"),
                    "corpus_id": document.corpus_id,
                },
                "internalParameters": {"tools": lock.tools},
                "resolvedDependencies": [
                    _named(names.LOCK_JSON, sha256_bytes(raw)),
                    *(_named(name, file.sha256) for name, file in sorted(sources.items())),
                ],
            },
            "runDetails": {
                "builder": {
                    "id": "urn:stcorpus:stbuild",
                    "version": {"stcorpus": __version__},
                },
                "metadata": {"finishedOn": now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")},
            },
        },
    }
    return json.dumps(statement, indent=2, sort_keys=True).encode() + b"\n"


def _named(name: str, digest: str) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": digest}}
