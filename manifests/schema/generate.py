"""Write the JSON Schema of every document here: ``python manifests/schema/generate.py``.

A test holds the files current.
"""

import json
from pathlib import Path

from pydantic import BaseModel

from stbuild.config import GridConfig
from stbuild.corpus.documents import CorpusDocument, PatchMeta, ShardConfig, WholeMeta
from stbuild.corpus.lock import LockDocument
from stbuild.corpus.split_documents import SplitDocument
from stbuild.grid.catalogue import Catalogue
from stbuild.grid.grids import GridMeta
from stbuild.grid.store import Inventory
from stbuild.leakage.documents import LeakageReport
from stbuild.manifests.manifest import ManifestDocument, SampleRow
from sttrain.embed.external import Sidecar
from sttrain.release.document import ReleaseDocument
from sttrain.train.config import RunConfig

DOCUMENTS: dict[str, type[BaseModel]] = {
    "corpus": CorpusDocument,
    "corpus.lock": LockDocument,
    "evaluation-split": SplitDocument,
    "leakage": LeakageReport,
    "patch": PatchMeta,
    "whole-slice": WholeMeta,
    "grid": GridMeta,
    "grid-inventory": Inventory,
    "grids": Catalogue,
    "manifest": ManifestDocument,
    "sample-row": SampleRow,
    "grid-config": GridConfig,
    "shard-config": ShardConfig,
    "run-config": RunConfig,
    "released-model": ReleaseDocument,
    "embedding-sidecar": Sidecar,
}


def render_schemas() -> dict[str, str]:
    """Return file name -> JSON Schema text of every document."""
    return {
        f"{name}.json": json.dumps(model.model_json_schema(), indent=2, sort_keys=True) + "\n"
        for name, model in DOCUMENTS.items()
    }


if __name__ == "__main__":
    for file_name, text in render_schemas().items():
        (Path(__file__).parent / file_name).write_text(text, "utf-8")
