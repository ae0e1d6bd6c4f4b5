"""The report of a plan: whole, escaped, the same bytes; and in a browser, sortable and quiet."""

import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from stbuild.config import GridConfig
from stbuild.corpus.documents import ShardConfig
from stbuild.manifests.manifest import read_inputs
from stbuild.plan.flags import flag_slice
from stbuild.plan.page import write_qc
from stbuild.plan.pictures import histogram, picture_places, picture_totals
from stbuild.plan.preview import plan_slice, plan_tasks
from stbuild.tasks.pipeline import run_loop
from tests.conftest import SAMPLE
from tests.slices import Spec, write_slice

SUMMARY = {
    "slices": 4, "good": 3, "genes_union": 10, "genes_common": 2, "patches": 600,
    "shard_bytes": 10**6, "seconds": 3.0, "memory_bytes": 10**8,
}  # fmt: skip


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    root = tmp_path_factory.mktemp("qc")
    labels = ("a<b>", "c&d", "e")
    write_slice(root / "one.h5ad", Spec(seed=1, labels=labels))
    write_slice(root / "two.h5ad", Spec(kind="square", seed=2, rows=9, cols=9))
    (root / "broken.h5ad").write_bytes(b"<script>alert(1)</script>")
    paths = [root / "one.h5ad", root / "two.h5ad", root / "broken.h5ad", SAMPLE / "151510.h5ad"]
    manifest = read_inputs([str(path) for path in paths])
    records = tuple(
        replace(record, name="<script>alert(2)</script>") if record.name == "two" else record
        for record in manifest.records
    )
    manifest = replace(manifest, records=records)
    tasks = plan_tasks(manifest, GridConfig(label="label"), ShardConfig(), pictures=True)
    return tasks, run_loop(plan_slice, tasks, lambda: None)


@pytest.fixture(scope="module")
def page(planned, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "qc.html"
    write_qc(path, "my & corpus", planned[0], planned[1], SUMMARY)
    return path


def test_every_slice_stands_in_it_refused_ones_with_the_remedy(page):
    text = page.read_text("utf-8")
    assert len(re.findall(r"<section ", text)) == 4
    assert text.count("refused</td>") == 1
    assert "get it again" in text or "what to do" in text
    assert "my &amp; corpus" in text


def test_text_from_inputs_is_escaped(page):
    text = page.read_text("utf-8")
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(2)" in text
    assert "a&lt;b&gt;" in text
    assert text.count("<script>") == 1


def test_nothing_is_loaded_from_anywhere(page):
    text = page.read_text("utf-8")
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", text)
    assert "default-src 'none'" in text
    assert "url(" not in text


def test_the_same_plan_gives_the_same_bytes(planned, page, tmp_path):
    write_qc(tmp_path / "again.html", "my & corpus", planned[0], planned[1], SUMMARY)
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()


def test_flags_name_what_to_look_at(planned):
    plan = next(outcome.result for outcome in planned[1] if outcome.result is not None)
    texts = {flag.text for flag in flag_slice(plan)}
    assert any("panel" in text for text in texts)
    doubtful = replace(plan, measures={**plan.measures, "confidence": 0.6}, median_total=20)
    warned = [flag for flag in flag_slice(doubtful) if flag.severity == "warn"]
    assert any("60% sure" in flag.text for flag in warned)
    assert any("20 molecules" in flag.text for flag in warned)


def test_a_million_sites_stay_a_small_picture():
    rng = np.random.default_rng(0)
    totals = rng.poisson(100, (1000, 1000)).astype(np.uint32)
    xy = np.stack(np.nonzero(totals)[::-1], axis=1).astype(float)
    assert len(picture_totals(totals)) < 1_600_000
    assert len(picture_places(xy, totals[totals > 0])) < 80_000
    assert histogram(totals, "n").startswith("<figure><svg")


TRY = """
<script>
const heads = document.querySelectorAll("#slices thead th"), spots = 6;
const read = () => [...document.querySelectorAll("#slices tbody tr")]
  .map((row) => row.cells[spots].textContent).join(" ");
heads[spots].click();
document.body.dataset.up = read();
heads[spots].click();
document.body.dataset.down = read();
const wide = document.querySelector(".wide");
document.body.dataset.fits = wide.scrollWidth <= wide.clientWidth;
document.body.dataset.drawn = [...document.images].every((image) => image.naturalWidth > 0);
</script>
"""
"""What a person would do and see, written into the page by itself."""


def test_a_browser_shows_all_and_sorts_the_table(page, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on this machine: the page is not tried in a browser")
    tried = tmp_path / "tried.html"
    tried.write_text(page.read_text("utf-8").replace("</body>", f"{TRY}</body>"), "utf-8")
    done = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
            f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=3000",
            "--window-size=1300,900", "--dump-dom", tried.as_uri(),
        ],
        capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    found = dict(re.findall(r'data-(up|down|fits|drawn)="([^"]*)"', done.stdout))
    numbers = [[int(n.replace(",", "")) for n in found[k].split()] for k in ("up", "down")]
    assert numbers[0] == sorted(numbers[0])
    assert numbers[1] == numbers[0][::-1]
    assert len(numbers[0]) == 3
    assert (found["fits"], found["drawn"]) == ("true", "true")
    assert "CONSOLE" not in done.stderr
    assert "Refused to" not in done.stderr
