"""Every real slice at hand, in one run: its lattice, its counts to the molecule, or why not."""

import csv

import anndata
import numpy as np
import pytest

from stbuild.config import GridConfig
from stbuild.corpus.documents import ShardConfig
from stbuild.corpus.errors import StError
from stbuild.grid.compact import slice_config
from stbuild.manifests.manifest import read_inputs
from stbuild.plan.preview import plan_slice, plan_tasks
from stbuild.reading.sections import expand_sections
from stbuild.tasks.pipeline import attempt

OPTIONS = {
    # What the data's README says about a file, as a user would put it into a sample sheet.
    "heart_1_CN73_E1": {"collisions": "first"},
    "hypothalamus": {"layout": "bin"},
    "BZ5": {"layout": "bin"},
    "BZ9": {"layout": "bin"},
    "cerebellum": {"layout": "bin"},
    "slideseq_small": {"layout": "bin"},
    "all_layers_registered": {"split_by": "section"},
    "mouse_embryo_cytassist": {"gene_id_column": "gene_ids"},
}
REFUSED = {
    "dlpfc_layout": "B023",  # positions and labels without counts
    "her2st_labels_only": "B023",
    "visium_hd_empty": "B044",  # a matrix without a single count
    "visium_probe_matrix": "B007",  # probes, not genes
    "visium_two_sections_tiny": "B007",  # two runs: each is given by itself
    "visium_human_tiny_h5": "B050",  # 100 spots of 4,235 in tissue, scattered
    "section1": "B050",  # 22 spots in tissue, scattered over a whole array
    "section2": "B050",
}


def write_sheet(path, paths):
    columns = sorted({name for options in OPTIONS.values() for name in options})
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["slice", "path", *columns])
        writer.writeheader()
        for slice_path in paths:
            stem = slice_path.stem if slice_path.suffix == ".h5ad" else slice_path.name
            name = stem if slice_path.suffix == ".h5ad" else f"raw-{stem}"
            writer.writerow({"slice": name, "path": slice_path, **OPTIONS.get(stem, {})})


@pytest.mark.filterwarnings("ignore:.*names are not unique:UserWarning")
def test_every_real_slice_is_built_or_refused_for_its_reason(shared_data, tmp_path):
    files = sorted(shared_data.glob("*/*.h5ad"))
    folders = sorted((shared_data / "raw").iterdir())
    folders += sorted((shared_data / "raw" / "visium_two_sections_tiny").iterdir())
    write_sheet(tmp_path / "s.csv", [*files, *folders])
    (tmp_path / "m.toml").write_text('name = "all"\nsamples = "s.csv"\n')
    manifest = expand_sections(read_inputs([str(tmp_path / "m.toml")]), GridConfig(), None)
    tasks = plan_tasks(manifest, GridConfig(), ShardConfig(n_per_slice=1))
    by_path = {str(path): path for path in files}
    for task in tasks:
        record = task.read.record
        outcome = attempt(plan_slice, task)
        stem = record.name.removeprefix("raw-")
        if stem in REFUSED:
            assert outcome.error is not None, record.name
            assert outcome.error.problems[0].code == REFUSED[stem]
            continue
        assert outcome.error is None, outcome.error
        plan = outcome.result
        assert plan is not None
        ledger = plan.ledger
        # Molecules read are on the grid, or dropped by a named reason (P17).
        dropped = sum(n for key, n in ledger.items() if key.startswith("molecules_dropped"))
        dropped += ledger["molecules_off_tissue"] + ledger["molecules_off_grid"]
        dropped += ledger.get("molecules_without_position", 0)
        dropped -= ledger.get("molecules_dropped_duplicates", 0)
        dropped -= ledger.get("molecules_dropped_controls", 0)
        assert ledger["molecules_read"] == ledger["molecules_on_grid"] + dropped, record.name
        source = by_path.get(record.path)
        if source is None or record.part is not None:
            continue
        data = anndata.read_h5ad(source)
        kind = data.uns["lattice"]
        assert plan.kind == kind, record.name
        assert ledger["molecules_read"] == int(data.X.sum()), record.name
        assert ledger["spots_read"] == data.n_obs
        inside = np.ones(data.n_obs, bool)
        if "in_tissue" in data.obs:
            inside = data.obs["in_tissue"].to_numpy() == 1
        counted = np.asarray(data.X.sum(axis=1)).ravel() > 0
        assert plan.n_members + ledger["spots_dropped_collisions"] == (inside & counted).sum()


def test_all_sections_of_a_registered_file_are_the_layers_by_themselves(shared_data, tmp_path):
    folder = shared_data / "breast_cancer_layers"
    (tmp_path / "s.csv").write_text(
        f"slice,path,split_by\nall,{folder / 'all_layers_registered.h5ad'},section\n"
    )
    (tmp_path / "m.toml").write_text('name = "all"\nsamples = "s.csv"\n')
    manifest = expand_sections(read_inputs([str(tmp_path / "m.toml")]), GridConfig(), None)
    assert len(manifest.records) == 4
    for number, task in enumerate(
        plan_tasks(manifest, GridConfig(), ShardConfig(n_per_slice=1)), start=1
    ):
        plan = plan_slice(task)
        alone = anndata.read_h5ad(folder / f"layer{number}.h5ad", backed="r")
        assert plan.n_spots == alone.n_obs
        assert plan.kind == "square"
        assert plan.measures["confidence"] == 1


@pytest.mark.parametrize(
    ("raw", "h5ad", "n_genes"),
    [
        ("her2st_A1", "her2st/A1", None),
        ("stutility_Hippo1", "mouse_brain_2k/Hippo1", 1000),
        ("breast_cancer_layer2", "breast_cancer_layers/layer2", None),
    ],
)
def test_originals_become_the_same_grid_as_their_h5ad(raw, h5ad, n_genes, shared_data):
    from stbuild.grid.placing import build_grid
    from stbuild.lattices import assign_cells
    from stbuild.reading.opening import read_here
    from tests.slices import record_of

    grids = []
    for path in (shared_data / "raw" / raw, shared_data / f"{h5ad}.h5ad"):
        record, config = record_of(path), GridConfig()
        read = read_here(record, slice_config(record, config))
        grids.append(build_grid(record, config, read, assign_cells(record, read, config)))
    one, two = grids
    assert one.meta.shape == two.meta.shape
    order = {name: i for i, name in enumerate(two.barcodes)}
    shared = [name for name in one.barcodes if name in order]
    if n_genes is None:
        assert len(shared) == len(two.barcodes) == len(one.barcodes)
    at = [order[name] for name in shared]
    mine = [list(one.barcodes).index(name) for name in shared]
    assert (one.rows[mine] == two.rows[at]).all()
    assert (one.cols[mine] == two.cols[at]).all()
    assert np.allclose(one.xy[mine], two.xy[at])
    columns = [list(two.genes).index(gene) for gene in one.genes]
    assert len(columns) == (n_genes or two.meta.n_genes)
    assert (one.counts[mine].toarray() == two.counts[at][:, columns].toarray()).all()


def test_a_refusal_is_one_of_ours(shared_data):
    from tests.slices import record_of

    record = record_of(shared_data / "starmap_mpfc" / "BZ5.h5ad")
    task = plan_tasks(read_inputs([record.path]), GridConfig(), ShardConfig(n_per_slice=1))[0]
    with pytest.raises(StError, match=r"B053.*--layout bin --bin-size"):
        plan_slice(task)
