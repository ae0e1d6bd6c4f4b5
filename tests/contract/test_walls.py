"""What each package may import and call, checked on the syntax tree of every module.

Every rule is first shown to fail on a bad snippet: a check that cannot fail is not counted.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(p for package in ("stbuild", "sttrain") for p in (ROOT / package).rglob("*.py"))
MAX_LINES = 450

BANNED_IMPORTS = {"pickle", "marshal", "shelve", "dill", "joblib", "random", "yaml", "cloudpickle"}
BANNED_CALLS = {
    "eval": "runs text as code",
    "exec": "runs text as code",
    "compile": "runs text as code",
    "hash": "differs from process to process on strings",
    "os.system": "runs a shell",
    "os.popen": "runs a shell",
    "os.listdir": "has no order; use sorted(path.iterdir())",
    "os.scandir": "has no order; use sorted(path.iterdir())",
    "os.walk": "has no order; use sorted(path.rglob())",
    "tempfile.mktemp": "is a race",
    "time.time": "jumps; use time.monotonic, and never decide by it",
    "np.load": "unpickles; use stbuild.corpus.npy",
    "numpy.load": "unpickles; use stbuild.corpus.npy",
    "np.fromfile": "checks nothing; use stbuild.corpus.npy",
}
BANNED_METHODS = {
    "extractall": "writes where the archive says",
    "unsafe_load": "runs code",
    "broadcast_object_list": "unpickles what another process sent",
    "all_gather_object": "unpickles what another process sent",
    "gather_object": "unpickles what another process sent",
    "scatter_object_list": "unpickles what another process sent",
}
LISTERS = {"glob", "iglob", "rglob", "iterdir"}
ORDER_FREE = {"sorted", "any", "all", "sum", "len", "set", "frozenset", "max", "min"}
STDLIB = sys.stdlib_module_names
FOREIGN = {
    ROOT / "stbuild" / "sources" / f"{name}.py"
    for name in ("anndata_zarr", "spatialdata", "zarr_store")
}
"""Readers of other people's stores; our own are touched in one file."""
PARTED = ("torch.distributed.device_mesh", "torch.distributed.fsdp", "torch.distributed.tensor")
"""Parts of a library that have a file of their own, apart from the rest of it."""
ONE_FILE = ("dask", "distributed", "zarr", "webdataset", "torch.distributed", *PARTED)
"""Libraries that a package touches in one file at most."""

LOADER = "sttrain/train/checkpoint.py"
"""The one file that may call torch.load."""

LAYERS = {
    "stbuild": (
        *("corpus", "config", "draws", "windows", "slices", "counts", "tools", "workspace"),
        *("screen", "genes", "sources", "tasks", "manifests", "fetch", "lattices", "reading"),
        *("grid", "splits", "leakage", "patches", "verify", "build", "plan", "show", "publish"),
        *("commands", "cli", "__main__"),
    ),
    "sttrain": (
        *("errors", "seals", "progress", "threads", "plots", "settings", "stream", "model"),
        *("train", "release", "embed", "judge", "adapters", "bench", "commands", "cli"),
        "__main__",
    ),
}
"""Modules and packages of each: one imports from those before it only."""

Rule = Callable[[ast.Module, str], Iterator[str]]


def calls(tree: ast.Module) -> Iterator[tuple[ast.Call, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of everything imported; names of a from-import are appended."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def is_in(name: str, packages: set[str] | tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def importing_at_load(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the imports that run when the module is loaded: not those of functions or types."""
    for node in tree.body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import | ast.ImportFrom | ast.If | ast.Try | ast.With):
            yield from imports(node)


def no_banned_imports(tree: ast.Module, path: str) -> Iterator[str]:
    for line, name in imports(tree):
        if is_in(name, BANNED_IMPORTS):
            yield f"{path}:{line}: imports {name}"


def no_banned_calls(tree: ast.Module, path: str) -> Iterator[str]:
    for node, name in calls(tree):
        if name in BANNED_CALLS:
            yield f"{path}:{node.lineno}: {name} {BANNED_CALLS[name]}"
        if isinstance(node.func, ast.Attribute) and node.func.attr in BANNED_METHODS:
            yield f"{path}:{node.lineno}: {name} {BANNED_METHODS[node.func.attr]}"


def no_banned_arguments(tree: ast.Module, path: str) -> Iterator[str]:
    for node, name in calls(tree):
        for keyword in node.keywords:
            given = f"{keyword.arg}={ast.unparse(keyword.value)}"
            if given in {"shell=True", "allow_pickle=True", "weights_only=False"}:
                yield f"{path}:{node.lineno}: {name}({given})"


def no_assert(tree: ast.Module, path: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            yield f"{path}:{node.lineno}: assert vanishes under -O; raise an error"


def torch_load_is_guarded(tree: ast.Module, path: str) -> Iterator[str]:
    for node, name in calls(tree):
        if name != "torch.load":
            continue
        safe = any(ast.unparse(k) == "weights_only=True" for k in node.keywords)
        if path != LOADER or not safe:
            yield f"{path}:{node.lineno}: torch.load outside {LOADER}, or not safe"


def no_thread_holds_a_table(tree: ast.Module, path: str) -> Iterator[str]:
    for node, name in calls(tree):
        if path.startswith("sttrain") and name.endswith((".read_table", ".ParquetFile")):
            yield f"{path}:{node.lineno}: a thread may outlive {name}; use read_all"


def no_webdataset_decode(tree: ast.Module, path: str) -> Iterator[str]:
    if not any(is_in(name, ("webdataset",)) for _, name in imports(tree)):
        return
    for node, _ in calls(tree):
        if isinstance(node.func, ast.Attribute) and node.func.attr in {"decode", "xdecode"}:
            yield f"{path}:{node.lineno}: webdataset's decode executes pickled members"


def listings_are_sorted(tree: ast.Module, path: str) -> Iterator[str]:
    free: set[ast.AST] = set()
    for node in ast.walk(tree):
        is_free = isinstance(node, ast.Call) and ast.unparse(node.func) in ORDER_FREE
        if is_free or isinstance(node, ast.SetComp):
            free.update(ast.walk(node))
    for call, name in calls(tree):
        if isinstance(call.func, ast.Attribute) and call.func.attr in LISTERS and call not in free:
            yield f"{path}:{call.lineno}: {name} has no order; put it into sorted()"


def sorting_is_stable(tree: ast.Module, path: str) -> Iterator[str]:
    for node, name in calls(tree):
        if name.split(".")[-1] not in {"argsort", "argpartition"}:
            continue
        if not any(ast.unparse(k) == "kind='stable'" for k in node.keywords):
            yield f"{path}:{node.lineno}: {name} without kind='stable' differs between machines"


def draws_are_our_own(tree: ast.Module, path: str) -> Iterator[str]:
    """Generator methods promise nothing across NumPy versions (reliability: P16)."""
    if not path.startswith("stbuild/"):
        return
    for node, name in calls(tree):
        if isinstance(node.func, ast.Attribute) and node.func.attr in {
            "choice",
            "shuffle",
            "permutation",
            "permuted",
        }:
            yield f"{path}:{node.lineno}: {name} is not fixed across NumPy versions"


def no_clock_decides(tree: ast.Module, path: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in {"st_mtime", "st_ctime", "st_mtime_ns"}:
            yield f"{path}:{node.lineno}: {node.attr} is no ground for a decision"


def packages_are_apart(tree: ast.Module, path: str) -> Iterator[str]:
    for line, name in imports(tree):
        if path.startswith("sttrain/") and is_in(name, ("stbuild",)):
            if not is_in(name, ("stbuild.corpus",)):
                yield f"{path}:{line}: sttrain may import stbuild.corpus only, not {name}"
        elif path.startswith("stbuild/") and is_in(name, ("sttrain", "torch")):
            yield f"{path}:{line}: stbuild imports {name}"


def the_contract_is_light(tree: ast.Module, path: str) -> Iterator[str]:
    if not path.startswith("stbuild/corpus/"):
        return
    allowed = ("numpy", "numcodecs", "pydantic", "stbuild.corpus", *STDLIB)
    for line, name in importing_at_load(tree):
        if not is_in(name, allowed):
            yield f"{path}:{line}: stbuild.corpus imports {name} when it is loaded"
    for line, name in imports(tree):
        if not is_in(name, (*allowed, "pyarrow")):
            yield f"{path}:{line}: stbuild.corpus imports {name}"


def data_flows_one_way(tree: ast.Module, path: str) -> Iterator[str]:
    package, _, rest = path.partition("/")
    layers = LAYERS[package]
    if rest == "__init__.py":
        return
    own = rest.split("/")[0].removesuffix(".py")
    if own not in layers:
        yield f"{path}: {package}/{own} has no place in LAYERS"
        return
    for line, name in imports(tree):
        other = name.split(".")[1] if name.startswith(f"{package}.") else own
        if other in layers and layers.index(other) > layers.index(own):
            yield f"{path}:{line}: {package}.{own} imports {name}, which comes after it"


def is_short(tree: ast.Module, path: str) -> Iterator[str]:
    last = max((getattr(node, "end_lineno", 0) or 0 for node in tree.body), default=0)
    if last > MAX_LINES:
        yield f"{path}: {last} lines, at most {MAX_LINES}"


RULES: list[tuple[Rule, str, list[str], list[str]]] = [
    (
        no_banned_imports,
        "stbuild/x.py",
        [
            "import pickle",
            "from marshal import loads",
            "def f():\n    import random",
            "import yaml",
        ],
        ["import json", "from numpy import random"],
    ),
    (
        no_banned_calls,
        "stbuild/x.py",
        [
            "eval('1')",
            "os.system('ls')",
            "hash('a')",
            "np.load('x')",
            "time.time()",
            "tempfile.mktemp()",
            "archive.extractall()",
            "dist.broadcast_object_list([1])",
            "sorted(os.listdir('.'))",
        ],
        ["re.compile('a')", "time.monotonic()", "model.eval()"],
    ),
    (
        no_banned_arguments,
        "stbuild/x.py",
        ["subprocess.run('ls', shell=True)", "f(x, allow_pickle=True)", "g(weights_only=False)"],
        ["subprocess.run(['ls'])", "f(x, allow_pickle=False)"],
    ),
    (no_assert, "stbuild/x.py", ["assert x"], ["if not x:\n    raise ValueError"]),
    (
        torch_load_is_guarded,
        LOADER,
        ["torch.load(f)"],
        ["torch.load(f, weights_only=True)"],
    ),
    (
        torch_load_is_guarded,
        "sttrain/embed/spots.py",
        ["torch.load(f, weights_only=True)"],
        ["load_weights(f)"],
    ),
    (
        no_thread_holds_a_table,
        "sttrain/x.py",
        ["pq.read_table(io.BytesIO(raw), use_threads=False)", "pyarrow.parquet.ParquetFile(f)"],
        ["read_all(raw)", "read_table(path, columns)"],
    ),
    (
        no_webdataset_decode,
        "sttrain/stream/batches.py",
        ["import webdataset as wds\nwds.WebDataset(u).decode('l')"],
        ["raw.decode()", "import webdataset as wds\nwds.WebDataset(u).map(f)"],
    ),
    (
        listings_are_sorted,
        "stbuild/x.py",
        ["for p in root.glob('*'):\n    f(p)", "list(root.iterdir())", "[p for p in a.rglob('*')]"],
        ["sorted(root.glob('*'))", "any(root.iterdir())", "sorted(p for p in a.rglob('*') if p)"],
    ),
    (
        sorting_is_stable,
        "stbuild/x.py",
        ["np.argsort(x)", "x.argsort(kind='quicksort')", "np.argpartition(x, 3)"],
        ["np.argsort(x, kind='stable')", "np.sort(x)"],
    ),
    (
        draws_are_our_own,
        "stbuild/x.py",
        ["rng.choice(5)", "rng.permutation(3)", "rng.shuffle(x)"],
        ["generator.random_raw(3)"],
    ),
    (no_clock_decides, "stbuild/x.py", ["path.stat().st_mtime"], ["path.stat().st_size"]),
    (
        packages_are_apart,
        "sttrain/x.py",
        [
            "from stbuild.grid.store import read_grid",
            "import stbuild.cli",
            "from stbuild import grid",
        ],
        ["from stbuild.corpus.reader import open_corpus", "from stbuild.corpus import names"],
    ),
    (
        packages_are_apart,
        "stbuild/x.py",
        ["import torch", "def f():\n    from sttrain import order"],
        ["import numpy"],
    ),
    (
        the_contract_is_light,
        "stbuild/corpus/x.py",
        [
            "import pyarrow",
            "import click",
            "from stbuild.grid.store import x",
            "def f():\n    import scipy",
            "try:\n    import pyarrow\nexcept ImportError:\n    pass",
        ],
        [
            "def f():\n    import pyarrow.parquet as pq",
            "if TYPE_CHECKING:\n    import pyarrow as pa",
            "from numcodecs import blosc\nimport json",
        ],
    ),
    (
        data_flows_one_way,
        "sttrain/model/x.py",
        [
            "from sttrain.train.run import fit",
            "def f():\n    from sttrain import judge",
            "import sttrain.cli",
        ],
        [
            "from sttrain.errors import Problem",
            "from sttrain.model.layers import Block",
            "from sttrain import __version__",
        ],
    ),
    (data_flows_one_way, "sttrain/elsewhere/x.py", ["import numpy"], []),
    (
        data_flows_one_way,
        "stbuild/grid/x.py",
        [
            "from stbuild.patches.cutting import cut_slice",
            "if TYPE_CHECKING:\n    from stbuild import build",
        ],
        ["from stbuild.reading.opening import open_slice", "from sttrain.cli import main"],
    ),
    (data_flows_one_way, "stbuild/elsewhere.py", ["import numpy"], []),
    (is_short, "stbuild/x.py", ["x = 1\n" * (MAX_LINES + 1)], ["x = 1\n" * MAX_LINES]),
]


def label(rule: Rule, path: str) -> str:
    return f"{rule.__name__}-{path.split('/')[0]}"


@pytest.mark.parametrize(
    ("rule", "path", "bad", "good"),
    RULES,
    ids=[f"{label(r[0], r[1])}-{i}" for i, r in enumerate(RULES)],
)
def test_rule_can_fail(rule: Rule, path: str, bad: list[str], good: list[str]):
    for snippet in bad:
        assert list(rule(ast.parse(snippet), path)), f"not caught: {snippet}"
    for snippet in good:
        assert not list(rule(ast.parse(snippet), path)), f"caught for nothing: {snippet}"


@pytest.mark.parametrize("rule", list(dict.fromkeys(r[0] for r in RULES)), ids=lambda r: r.__name__)
def test_packages_keep_the_rule(rule: Rule):
    assert len(MODULES) > 20
    found = [
        problem
        for path in MODULES
        for problem in rule(
            ast.parse(path.read_text(encoding="utf-8")), path.relative_to(ROOT).as_posix()
        )
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("library", ONE_FILE)
def test_a_library_is_touched_in_one_file_of_a_package(library: str):
    for package in ("stbuild", "sttrain"):
        users = {
            path.relative_to(ROOT).as_posix()
            for path in MODULES
            if path.is_relative_to(ROOT / package)
            for _, name in imports(ast.parse(path.read_text(encoding="utf-8")))
            if is_in(name, (library,))
            and path not in FOREIGN
            and (library in PARTED or not is_in(name, PARTED))
        }
        assert len(users) <= 1, f"{library} is imported in {sorted(users)}"


BLOCKER = """
import importlib, pkgutil, sys
blocked = set(sys.argv[1].split(","))
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ImportError(f"{name} is blocked by the test")
sys.meta_path.insert(0, Blocker())
for name in sys.argv[2].split(","):
    module = importlib.import_module(name)
    for found in pkgutil.walk_packages(getattr(module, "__path__", ()), name + "."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
"""
HEAVY_BUILD = "dask,distributed,zarr,h5py,anndata"
HEAVY_TRAIN = "torch,webdataset,safetensors,sklearn,tensorboard,sttrain"
PLAIN = (
    f"{HEAVY_BUILD},{HEAVY_TRAIN},pyarrow,scipy,pandas,click,rich,rich_click,matplotlib,filelock"
)


def load_without(blocked: str, modules: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BLOCKER, blocked, modules],
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("blocked", "modules"),
    [
        pytest.param(PLAIN, "stbuild.corpus", id="contract-without-anything-heavy"),
        pytest.param(f"{HEAVY_TRAIN},matplotlib", "stbuild", id="stbuild-without-torch"),
        pytest.param(f"{HEAVY_BUILD},matplotlib", "sttrain", id="sttrain-without-dask-and-zarr"),
    ],
)
def test_every_module_loads_without(blocked: str, modules: str):
    done = load_without(blocked, modules)
    assert done.returncode == 0, done.stderr


def test_the_blocker_blocks():
    assert load_without("numpy", "stbuild.corpus").returncode != 0
