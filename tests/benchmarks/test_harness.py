"""The harness: the document is what its parts say, and every loader yields the same patches."""

import io
import itertools
import json
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from sttrain.train.config import RunConfig
from tests.benchmarks import bench_peers, bench_workers, report
from tests.benchmarks.bench import Bench
from tests.benchmarks.bench_codecs import N as N_CODEC
from tests.benchmarks.bench_codecs import codecs, measure_codecs
from tests.benchmarks.bench_embed import PlainEncoder
from tests.benchmarks.bench_grid import BASE as H5AD
from tests.benchmarks.bench_grid import dense, measure_grid, stores
from tests.benchmarks.bench_peers import BASE, CONTENDERS, Contender, Entry, measure_peers, table
from tests.benchmarks.bench_size import SizeResult, measure_reading
from tests.benchmarks.exchange import write_exchange
from tests.benchmarks.measure import ROOT, Cost
from tests.benchmarks.parts import PARTS, choose
from tests.benchmarks.peers import anndata_crops, serve, stream, webdataset_tar, zarr_crops
from tests.benchmarks.peers.protocol import Data, Peer, read_data
from tests.benchmarks.peers_env import FAILED, make_env, requirements
from tests.benchmarks.plain import PlainAutoencoder
from tests.benchmarks.profile_step import (
    ATTENTION,
    ATTENTION_PRODUCTS,
    GENES,
    OPTIMIZER,
    PRODUCTS,
    REST,
    classify,
    profile_kind,
    profile_rows,
)
from tests.corpora import write_corpus
from tests.sttrain.judged import TINY


def test_the_committed_document_is_what_its_parts_say():
    assert report.DOCUMENT.read_text(encoding="utf-8") == report.assemble(), (
        "benchmarks/speed.md was edited by hand; edit benchmarks/speed/template.md instead and run "
        "`python -m tests.benchmarks --text`"
    )


def test_every_part_has_its_place_and_module():
    template = (report.FOLDER / report.TEMPLATE).read_text(encoding="utf-8")
    assert sorted(report.places(template)) == sorted(PARTS)
    for part in PARTS.values():
        source = (ROOT / "tests" / "benchmarks" / f"{part.module}.py").read_text(encoding="utf-8")
        assert "def lines(bench: Bench) -> list[str]:" in source, part.module


def test_a_rerun_keeps_prose_and_the_other_parts(tmp_path):
    places = ["# Speed", "", "<!-- part: load -->", "", "Why.", "", "<!-- part: step -->", ""]
    (tmp_path / report.TEMPLATE).write_text("\n".join(places), encoding="utf-8")
    report.write_part("step", ["| a |", "|---|"], tmp_path)
    report.write_part("load", ["old"], tmp_path)
    report.write_part("load", ["new", "rows"], tmp_path)
    assert report.assemble(tmp_path) == "# Speed\n\nnew\nrows\n\nWhy.\n\n| a |\n|---|\n"
    (tmp_path / "step.md").unlink()
    assert "Not measured yet: `python -m tests.benchmarks step`." in report.assemble(tmp_path)
    with pytest.raises(ValueError, match="no line '<!-- part: probe -->'"):
        report.write_part("probe", [], tmp_path)


def test_parts_are_chosen_by_name_and_by_group():
    assert choose(["step", "load"]) == ["load", "step"]
    assert choose(["sttrain"]) == [n for n, p in PARTS.items() if p.group == "sttrain"]
    assert "peers" not in choose([])
    assert set(choose([])) | {"peers"} == set(PARTS)
    with pytest.raises(ValueError, match="no part is called lode; there are build, "):
        choose(["lode"])


@pytest.fixture(scope="module")
def exchange(tmp_path_factory: pytest.TempPathFactory, grids: Path, train_corpus) -> Path:
    root = tmp_path_factory.mktemp("exchange")
    write_exchange(train_corpus, grids, root)
    for codec in ("zstd", "lz4", "none"):
        (root / f"train-{codec}").symlink_to(train_corpus.root)
    return root


# webdataset leaves the closing of its tars to the collector.
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize(
    ("module", "variant"),
    [
        pytest.param(stream, "zstd", id="ours"),
        pytest.param(webdataset_tar, "", id="webdataset"),
        pytest.param(anndata_crops, "memory", id="anndata-in-memory"),
        pytest.param(anndata_crops, "backed", id="anndata-backed"),
        pytest.param(zarr_crops, "", id="zarr"),
    ],
)
def test_loaders_yield_the_patches_that_were_given(module, variant, exchange, tmp_path):
    data = read_data(exchange)
    peer = module.open_peer(data, tmp_path / "work", variant)
    serve.check_peer(peer, data, 60)
    assert sum(map(len, peer.integers())) == len(data.counts)
    assert sum(map(len, peer.floats())) == len(data.counts)
    assert serve.take_turn(peer.integers, 1e-9)["patches"] <= 32


def test_a_turn_goes_through_epochs_until_its_seconds_are_spent(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(serve, "cpu_seconds", lambda: float(next(clock)))
    turn = serve.take_turn(lambda: iter([[1, 2], [3]]), 4.5)
    assert (turn["patches"], turn["cpu"]) == (8, 5.0)


def fake(monkeypatch, open_peer) -> str:
    module = ModuleType("tests.benchmarks.peers.fake")
    module.PACKAGES, module.WHAT, module.open_peer = ("numpy",), "a stand-in", open_peer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return "fake"


def answers(name: str, root: Path, asked: str, monkeypatch) -> list[dict[str, object]]:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdin", io.StringIO(asked))
    serve.serve(name, root, root, 1e-9, out)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_loader_takes_turns_only_if_its_patches_are_right(exchange, monkeypatch):
    def right(data: Data, _work: Path, _variant: str) -> Peer:
        n = len(data.counts)
        return Peer(
            integers=lambda: iter([data.counts]),
            floats=lambda: iter([data.values(0, n)]),
            stored={"integers": data.root / "counts.npy"},
        )

    def wrong(data: Data, _work: Path, _variant: str) -> Peer:
        changed = np.array(data.counts)
        changed[-1, 0, 0, 0] += 1
        return replace(right(data, _work, _variant), integers=lambda: iter([changed]))

    def unscaled(data: Data, _work: Path, _variant: str) -> Peer:
        floats = np.log1p(data.counts).astype(np.float32)
        return replace(right(data, _work, _variant), floats=lambda: iter([floats]))

    hello, *turns = answers(fake(monkeypatch, right), exchange, "integers\nfloats\n", monkeypatch)
    assert hello["what"] == "a stand-in"
    counts = exchange / "counts.npy"
    n = len(read_data(exchange).counts)
    assert hello["bytes"] == {"integers": counts.stat().st_size / n}
    assert [turn["patches"] for turn in turns] == [n, n]
    for bad, kind in ((wrong, "integers"), (unscaled, "floats")):
        (told,) = answers(fake(monkeypatch, bad), exchange, "integers\n", monkeypatch)
        assert told == {"error": f"ValueError: a patch of {kind} is none of those that were given"}


def test_a_loader_that_does_not_work_stands_in_the_table(tmp_path, exchange):
    env = tmp_path / "env"
    env.mkdir()
    (env / FAILED).write_text(json.dumps({"litdata": "no matching distribution"}))
    (env / "bin").mkdir()
    (env / "bin" / "python").symlink_to(sys.executable)
    lit, missing = Contender("litdata", "lit", "litdata"), Contender("None", "no_such", "nothing")
    entries = measure_peers(
        exchange, tmp_path, env, 1, [lit, missing, Contender("ours", "stream:zstd", "")]
    )
    rows = table(entries)
    assert (
        "| litdata | not measured: would not install: no matching distribution | | | | | |" in rows
    )
    assert any("| None | not measured: ModuleNotFoundError: No module named" in r for r in rows)
    ours = next(row for row in rows if row.startswith("| ours |"))
    assert ours.count("|") == 8


def test_ratios_are_of_the_same_round():
    turns = [{"patches": 10, "cpu": 1.0, "wall": 2.0}, {"patches": 10, "cpu": 4.0, "wall": 4.0}]
    halves = [{"patches": 5, "cpu": 1.0, "wall": 2.0}, {"patches": 5, "cpu": 1.0, "wall": 1.0}]
    size = {"bytes": dict.fromkeys(("integers", "floats"), 1500.0)}
    (contender,) = (contender for contender in CONTENDERS if contender.title == BASE)
    base, other = Entry(contender, size), Entry(CONTENDERS[0], size)
    base.turns = {"integers": turns, "floats": turns}
    other.turns = {"integers": halves, "floats": halves}
    assert other.cost("integers") == [0.2, 0.2]
    assert "**1.25** (0.50 to 2.00)" in other.row(base)
    other.error = "a|b /home/me/x.so"
    assert other.row(base) == f"| {other.contender.title} | not measured: a/b x.so | | | | | |"


def test_peers_are_pinned_and_every_one_is_asked_for(tmp_path):
    named = [package for line in requirements() for package in line]
    assert all("==" in package for package in named)
    names = {package.partition("==")[0].partition("[")[0] for package in named}
    assert {c.package for c in CONTENDERS if c.package} <= names
    (tmp_path / FAILED).write_text("{}")
    make_env(tmp_path, "/no/such/python")  # it stands already
    with pytest.raises(ValueError, match="say where: --peers"):
        bench_peers.lines(Bench(work=tmp_path))


def test_what_a_profiled_operator_is():
    assert classify(["aten::mm", "AddmmBackward0"]) == PRODUCTS
    assert classify(["aten::bmm", "sttrain::attend_backward"]) == ATTENTION_PRODUCTS
    assert classify(["aten::mul_", "sttrain::attend"]) == ATTENTION
    assert classify(["aten::mul_", "Optimizer.step#AdamW.step"]) == OPTIMIZER
    assert classify(["aten::embedding_dense_backward", "EmbeddingBackward0"]) == GENES
    assert classify(["aten::view"]) == REST


def test_a_step_is_parted_into_kinds_of_work(tmp_path):
    from sttrain.stream.batches import PatchSource, PatchStream, StreamState
    from tests.benchmarks.bench_step import make_trainer

    source = PatchSource(write_corpus(tmp_path / "corpus", n_patches=4), "train")
    config = RunConfig.model_validate({"batch": 4, "model": TINY.model_dump()})
    batch = PatchStream(source, source.order(4, 0)).read(StreamState())
    found = profile_kind(batch, source.n_genes, config, "site", steps=2)
    assert {PRODUCTS, ATTENTION_PRODUCTS, ATTENTION, OPTIMIZER, GENES} <= found.seconds.keys()
    assert 0 < max(found.shares()) < found.floor()
    assert len(found.cpu) == 2
    assert found.products + sum(
        v for k, v in found.seconds.items() if k not in (PRODUCTS, ATTENTION_PRODUCTS)
    ) == pytest.approx(found.total)
    assert all(row.count("|") == 3 for row in profile_rows([found]))
    assert make_trainer(config, source.n_genes).done == 0


def test_stores_of_a_grid_give_back_its_counts(tmp_path, grids):
    from stbuild.grid.store import read_grid

    grid = read_grid(min(grids.glob("*.zarr")))
    rows = measure_grid(grid, tmp_path, 1)
    assert len(rows) == 4
    assert all(row.count("|") == 9 for row in rows)
    kept, values = stores(grid, tmp_path), dense(grid)
    for name, store in kept.items():
        found = store.read()
        if name in (H5AD, "stbuild grid, checked"):
            counts = found.X if name == H5AD else found.counts  # type: ignore[attr-defined]
            assert (counts != grid.counts).nnz == 0
        else:
            np.testing.assert_array_equal(found, values)


def test_codecs_give_back_what_they_were_given():
    patch = np.random.default_rng(0).poisson(0.4, (16, 8, 8)).astype(np.uint16)
    for name, (encode, decode) in codecs().items():
        found = np.frombuffer(np.ascontiguousarray(decode(encode(patch))), np.uint16)
        np.testing.assert_array_equal(found, patch.ravel(), err_msg=name)
    rows = measure_codecs([patch] * 2, 1)
    assert len(rows) == len(codecs())
    assert N_CODEC >= 32


def test_what_a_further_patch_costs_is_a_difference(tmp_path):
    small = SizeResult(1000, 3, Cost(2.0, 3.0, 100), 5000, 0.1, 1e-4)
    large = SizeResult(10000, 3, Cost(11.0, 12.0, 120), 5000, 0.2, 1e-4)
    assert large.row(small) == "| 10,000 | 3 | 1.10 | 1.00 | 120 | 5,000 | 0.20 | 0.100 |"
    assert "| - |" in small.row(None)
    root = write_corpus(tmp_path / "c", n_patches=80).root
    opened, read = measure_reading(root, 128, tmp_path / "cache")
    assert opened > 0
    assert read > 0


def test_workers_are_compared_round_by_round():
    turns = iter([(4.0, 4.0), (2.0, 5.0), (6.0, 4.0), (2.0, 4.0)])
    kinds = {"1": lambda: next(turns), "2": lambda: next(turns)}
    one, two = bench_workers.rows("x", kinds, 2)
    assert one == "| x | 1 | 5.0 | **1.00** (1.00 to 1.00) | 4.0 | **1.00** (1.00 to 1.00) |"
    assert two == "|  | 2 | 2.0 | **2.50** (2.00 to 3.00) | 4.5 | **1.12** (1.00 to 1.25) |"


def test_two_that_work_apart_count_by_halves(tmp_path):
    together = threading.Barrier(2, timeout=20)

    def turn(out):
        together.wait()  # neither gets on before the other has come
        return 9.0, {"first": 3.0, "second": 5.0}[out.name]

    wall, cpu = bench_workers.half_of_two(turn, tmp_path)
    assert 0 < wall < 10
    assert cpu == 4.0


def test_the_plain_encoder_gives_every_observed_site_a_vector():
    g = torch.Generator().manual_seed(0)
    counts, totals = torch.randint(0, 6, (2, 8, 6, 6), generator=g), torch.full((2, 6, 6), 80)
    totals[:, 0] = 0
    genes = torch.stack([torch.randperm(30, generator=g)[:8] for _ in range(2)])
    encoder = PlainEncoder(PlainAutoencoder(TINY, 30))
    with torch.inference_mode():
        found = encoder.encode(counts * (totals > 0)[:, None], genes, totals)
    assert found.shape == (2, 36, TINY.width)
    assert torch.equal(found.abs().sum(2) > 0, totals.flatten(1) > 0)
