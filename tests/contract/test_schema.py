"""The JSON Schemas beside the format description are those of the models."""

import importlib.util
import re
from pathlib import Path

from stbuild.corpus import names
from stbuild.corpus.samples import _PATCH_MEMBERS, _WHOLE_MEMBERS

SCHEMA = Path(__file__).parents[2] / "manifests" / "schema"


def test_schemas_are_current():
    spec = importlib.util.spec_from_file_location("generate", SCHEMA / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rendered = module.render_schemas()
    stored = {path.name: path.read_text("utf-8") for path in sorted(SCHEMA.glob("*.json"))}
    assert stored == rendered, "run `python manifests/schema/generate.py`"


def test_the_description_names_every_member_file_and_limit():
    text = (SCHEMA / "README.md").read_text("utf-8")
    members = {f"{name}.npy" for name in (*_PATCH_MEMBERS, *_WHOLE_MEMBERS)}
    assert {name for name in members if f"`{name}`" not in text} == set()
    for name in (names.CORPUS_JSON, names.LOCK_JSON, names.CHECKSUMS, names.GENES_PARQUET):
        assert name in text
    pattern = names.KEY_PATTERN.strip("^$")
    assert pattern in text, pattern
    assert re.search(r"version 1\b", text)
