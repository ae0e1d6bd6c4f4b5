"""Options that a format cannot follow are refused; what is asked for is done, never passed over."""

import pytest

from stbuild.config import GridConfig
from stbuild.corpus.errors import BadInputError
from stbuild.reading.opening import read_here
from tests.slices import record_of
from tests.vendor_files import counts_of, hex_spots, write_run

PLAIN = GridConfig()
COUNTS = counts_of(64)


def write_gem(tmp_path, names=None):
    """A GEM of 64 places and 12 genes with Ensembl ids and names."""
    names = names or [f"Name{g}" for g in range(12)]
    rows = [
        f"ENSG{g:011d}\t{names[g]}\t{100 + i % 8}\t{200 + i // 8}\t{COUNTS[i, g]}"
        for i in range(64)
        for g in range(12)
        if COUNTS[i, g]
    ]
    path = tmp_path / "a.gem"
    path.write_text("\n".join(["geneID\tgeneName\tx\ty\tMIDCount", *rows]) + "\n")
    return path


def write_table(tmp_path):
    rows = [f"{i % 8}x{i // 8}\tL{i % 2}\t3\t2" for i in range(64)]
    path = tmp_path / "s.tsv"
    path.write_text("\n".join(["spot\tlabel\tGapdh\tActb", *rows]) + "\n")
    return path


def write_visium(tmp_path):
    write_run(tmp_path / "S")
    return tmp_path / "S"


def write_matrix(tmp_path):
    return write_visium(tmp_path) / "filtered_feature_bc_matrix.h5"


REFUSED = {
    "spaceranger_label": (write_visium, {"label": "nosuch"}, "B076.*'nosuch'.*--labels-file"),
    "spaceranger_layer": (write_visium, {"layer": "counts"}, "B023.*no layer 'counts'"),
    "matrix_layer": (write_matrix, {"layer": "raw"}, "B023.*'raw'.*itself was given.*--layer"),
    "matrix_no_layer": (write_matrix, {"layer": "counts"}, "B023.*no layer 'counts'"),
    "gem_label": (write_gem, {"label": "nosuch"}, "B076.*'nosuch'.*a GEM file"),
    "gem_layer": (write_gem, {"layer": "nosuch"}, "B023.*'nosuch'.*a GEM file.*leave out"),
    "gem_gene_id_column": (write_gem, {"gene_id_column": "nosuch"}, "B074.*geneID, geneName"),
    "gem_places": (write_gem, {"gene_id_column": "x"}, "B074.*geneID, geneName"),
    "table_label": (write_table, {"label": "nosuch"}, "B076.*'nosuch'"),
    "table_layer": (write_table, {"layer": "counts"}, "B023.*'counts'.*a text table"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_format_cannot_do_is_refused(name, tmp_path):
    write, options, match = REFUSED[name]
    path = write(tmp_path)
    assert read_here(record_of(path), PLAIN).counts.sum()
    with pytest.raises(BadInputError, match=match):
        read_here(record_of(path), GridConfig(**options))


@pytest.mark.parametrize(
    ("write", "match"),
    [(write_gem, "no part 'A'.*column `part` empty"), (write_table, "no column 'section'")],
)
def test_a_part_of_what_has_no_sections_is_refused(write, match, tmp_path):
    record = record_of(write(tmp_path), split_by="section", part="A")
    with pytest.raises(BadInputError, match=f"B056.*{match}"):
        read_here(record, PLAIN)


def test_a_layer_that_the_given_matrix_is_will_do(tmp_path):
    path = write_matrix(tmp_path)
    assert read_here(record_of(path), GridConfig(layer="filtered")).counts.sum()


def test_a_table_of_labels_answers_a_label_of_any_format(tmp_path):
    barcodes, *_ = hex_spots()
    table = tmp_path / "labels.csv"
    table.write_text("barcode,layer\n" + "".join(f"{b},L{i % 3}\n" for i, b in enumerate(barcodes)))
    record = record_of(write_visium(tmp_path), labels_file=str(table))
    read = read_here(record, GridConfig(label="layer"))
    assert read.labels == [f"L{i % 3}" for i in range(64)]
    with pytest.raises(BadInputError, match="B076"):
        read_here(record, GridConfig(label="nosuch"))


def test_names_of_a_gem_are_ids_where_they_are_asked_for(tmp_path):
    path = write_gem(tmp_path)
    ids = read_here(record_of(path), PLAIN)
    assert list(ids.genes) == sorted(f"ENSG{g:011d}" for g in range(12))
    for asked in ("geneID", "geneid"):
        same = read_here(record_of(path), GridConfig(gene_id_column=asked))
        assert list(same.genes) == list(ids.genes)
    for asked in ("geneName", "genename"):
        named = read_here(record_of(path), GridConfig(gene_id_column=asked))
        assert list(named.genes) == sorted(f"Name{g}" for g in range(12))
        assert named.counts.sum() == ids.counts.sum()
    mapped = read_here(record_of(path), GridConfig(gene_id_column="geneName", gene_ids="ensembl"))
    assert list(mapped.genes) == list(ids.genes)


def test_genes_of_one_name_are_duplicates_and_not_summed_in_silence(tmp_path):
    path = write_gem(tmp_path, ["Twin", "Twin", *[f"Name{g}" for g in range(2, 12)]])
    read = read_here(record_of(path), GridConfig(gene_id_column="geneName"))
    assert len(read.genes) == 10
    assert read.ledger["genes_dropped_duplicates"] == 2
    assert read.totals.sum() == COUNTS.sum()


def test_a_gene_of_two_names_is_refused(tmp_path):
    path = write_gem(tmp_path)
    with path.open("a") as file:
        file.write("ENSG00000000003\tOther\t100\t200\t1\n")
    assert read_here(record_of(path), PLAIN).counts.sum() == COUNTS.sum() + 1
    with pytest.raises(BadInputError, match=r"B074.*ENSG00000000003.*'Name3' and 'Other'"):
        read_here(record_of(path), GridConfig(gene_id_column="geneName"))


def test_a_table_of_positions_places_a_gem_or_is_refused(tmp_path):
    path, table = write_gem(tmp_path), tmp_path / "pos.csv"
    table.write_text("cell,x,y\nfoo,1,2\n")
    with pytest.raises(BadInputError, match=r"B047.*none of the 64 spots"):
        read_here(record_of(path, positions=str(table)), PLAIN)
    places = [(100 + i % 8, 200 + i // 8) for i in range(64)]
    table.write_text("cell,x,y\n" + "".join(f"{x}_{y},{2 * x},{2 * y}\n" for x, y in places))
    read = read_here(record_of(path, positions=str(table)), PLAIN)
    assert read.xy is not None
    assert sorted(map(tuple, read.xy.tolist())) == sorted((2.0 * x, 2.0 * y) for x, y in places)
