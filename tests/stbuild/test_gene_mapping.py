"""Gene ids: what a list looks like, what is done to it, and every molecule accounted for."""

import gzip

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stbuild.config import GridConfig
from stbuild.corpus.errors import BadInputError, BadUsageError
from stbuild.genes import ids as gene_ids
from stbuild.genes.ids import describe_genes, find_other_types, strip_version, unmangled
from stbuild.genes.tables import GeneTable, make_gene_table, read_gene_table, write_gene_table
from stbuild.genes.vocabulary import check_kinds, choose_vocabulary
from stbuild.reading.gene_mapping import find_genes, map_genes
from stbuild.sources.faults import SourceFaultError

HUMAN = ["GAPDH", "ACTB", "C1orf159", "HLA-A", "MT-CO1", "FO538757.1", "AL627309.1", "CD8A"]
HUMAN += [f"GENE{i}" for i in range(30)]
MOUSE = ["Gapdh", "Actb", "1700003E16Rik", "mt-Nd1", "H2-K1", "Gm12345", "Cd8a"]
MOUSE += [f"Gene{i}" for i in range(30)]
BARNYARD = [f"GRCh38_{gene}" for gene in HUMAN] + [f"mm10___{gene}" for gene in MOUSE]
ENSG = [f"ENSG{i:011d}" for i in range(40)]
ENSMUSG = [f"ENSMUSG{i:011d}" for i in range(40)]
TABLE = GeneTable(
    (
        (ENSG[0], "GAPDH", "human"),
        (ENSG[1], "ACTB", "human"),
        (ENSG[2], "HLA-A", "human"),
        (ENSG[3], "TWIN", "human"),
        (ENSG[4], "TWIN", "human"),
        (ENSG[5], "7SK", "human"),
        (ENSG[6], "MERGED", "human"),
        (ENSG[7], "MERGED2", "human"),
    )
)


def mapped(ids, molecules=None, other=None, table=None, types=None, **options):
    counts = np.asarray(molecules if molecules is not None else [10] * len(ids), np.int64)
    config = GridConfig(**options)
    return map_genes(ids, other, counts, config, table, subject="slice 'S'", types=types)


@pytest.mark.parametrize(
    ("ids", "kind", "species"),
    [
        (HUMAN, "symbol", ("human",)),
        (MOUSE, "symbol", ("mouse",)),
        (ENSG, "ensembl", ("human",)),
        (ENSMUSG, "ensembl", ("mouse",)),
        ([f"{g}.7" for g in ENSG], "ensembl", ("human",)),
        ([*ENSG, "EGFP"], "ensembl", ("human",)),
        ([*ENSG, *HUMAN], "mixed", ("human",)),
        (BARNYARD, "symbol", ("human", "mouse")),
        ([*ENSG, *ENSMUSG], "ensembl", ("human", "mouse")),
        (["A", "B"], "symbol", ()),
    ],
)  # fmt: skip
def test_lists_are_described(ids, kind, species):
    facts = describe_genes(ids)
    assert (facts.kind, facts.species) == (kind, species)


def test_versions_are_cut_off_ensembl_ids_alone():
    assert strip_version("ENSG00000000003.15") == "ENSG00000000003"
    assert strip_version("ENSMUSG00000064339.1") == "ENSMUSG00000064339"
    assert strip_version("FO538757.1") == "FO538757.1"
    assert strip_version("HLA.A") == "HLA.A"


@pytest.mark.parametrize(
    ("mangled", "name"),
    [
        ("X7SK", "7SK"),
        ("HLA.A", "HLA-A"),
        ("X1700003E16Rik", "1700003E16Rik"),
        ("MT.CO1", "MT-CO1"),
    ],
)
def test_what_r_may_have_made_names_from(mangled, name):
    assert name in unmangled(mangled)


def test_ids_stay_as_they_are_and_duplicates_are_left_out_with_a_count():
    found = mapped(["b", "a", "dup", "dup"], [1, 2, 3, 4])
    assert found.genes == ("a", "b")
    assert found.column.tolist() == [1, 0, -1, -1]
    ledger = found.report.as_ledger()
    assert ledger["genes_dropped_duplicates"] == 2
    assert ledger["molecules_dropped_duplicates"] == 7
    assert [notice.code for notice in found.notices] == ["B067"]


def test_duplicates_may_be_summed_or_refused():
    found = mapped(["b", "dup", "dup"], duplicate_genes="sum")
    assert found.column.tolist() == [0, 1, 1]
    assert found.report.as_ledger()["genes_summed"] == 2
    with pytest.raises(SourceFaultError, match="1 gene ids stand more than once"):
        mapped(["b", "dup", "dup"], duplicate_genes="error")


def test_where_no_gene_is_left_only_what_works_is_advised():
    with pytest.raises(SourceFaultError, match="2 dropped duplicates") as caught:
        mapped(["dup", "dup"])
    assert "--duplicate-genes sum" in caught.value.fix
    assert mapped(["dup", "dup"], duplicate_genes="sum").genes == ("dup",)
    with pytest.raises(SourceFaultError, match="2 dropped controls") as caught:
        mapped(["Blank-1", "Blank-2"])
    assert caught.value.fix == "give the counts of genes: control probes are never kept"


def test_stripping_versions_makes_duplicates_like_others():
    ids = ["ENSG00000000003.1", "ENSG00000000003.2", "ENSG00000000005.1"]
    assert mapped(ids, strip_version=True).genes == ("ENSG00000000005",)
    summed = mapped(ids, strip_version=True, duplicate_genes="sum")
    assert summed.column.tolist() == [0, 0, 1]


def test_species_are_not_mixed_by_accident():
    with pytest.raises(SourceFaultError, match="genes of human and mouse"):
        mapped([*ENSG, *ENSMUSG])
    assert len(mapped([*ENSG, *ENSMUSG], mixed_species=True).genes) == 80


def test_symbols_become_ensembl_ids_by_the_table_and_back():
    ids = ["GAPDH", "ACTB", "TWIN", "UNKNOWN"]
    found = mapped(ids, [50, 50, 5, 6], table=TABLE, gene_ids="ensembl")
    assert found.genes == (ENSG[0], ENSG[1])
    ledger = found.report.as_ledger()
    assert (ledger["genes_dropped_ambiguous"], ledger["molecules_dropped_ambiguous"]) == (1, 5)
    assert (ledger["genes_dropped_unmapped"], ledger["molecules_dropped_unmapped"]) == (1, 6)
    back = mapped([f"{g}.3" for g in ENSG[:2]], table=TABLE, gene_ids="symbol")
    assert back.genes == ("ACTB", "GAPDH")


def test_the_sources_own_pairs_come_first():
    found = mapped(["GAPDH", "NEW"], other=[ENSG[20], ENSG[21]], table=TABLE, gene_ids="ensembl")
    assert found.genes == (ENSG[20], ENSG[21])


def test_who_knew_the_other_id_is_said():
    ids, other = ["GAPDH", "ACTB", "HLA.A"], [ENSG[20], "ACTB", "HLA-A"]
    found = mapped(ids, other=other, table=TABLE, gene_ids="ensembl", unmangle=True)
    said = [notice.what for notice in found.notices if "renamed" in notice.what]
    assert said == [
        "1 genes renamed by pairs of id and name in the source itself",
        "2 genes renamed by the gene table",
        "1 genes renamed by undoing what R made of symbols",
    ]
    assert not [n for n in mapped(ids).notices if "renamed" in n.what]


def test_too_little_mapped_is_refused_with_the_share():
    with pytest.raises(SourceFaultError, match="only 10% of the molecules have ensembl ids"):
        mapped(["GAPDH", "X1", "X2"], [10, 50, 40], table=TABLE, gene_ids="ensembl")


def test_mangled_symbols_are_undone_where_somebody_knows_them():
    found = mapped(["HLA.A", "X7SK", "X1.Y"], table=TABLE, unmangle=True)
    assert found.genes == ("7SK", "HLA-A", "X1.Y")
    assert found.report.as_ledger()["genes_renamed"] == 2


def test_controls_are_left_out_and_dates_and_versions_are_told():
    ids = ["GAPDH", "NegControlProbe_00042", "Blank-1", "ERCC-00002", "1-Mar", "ENSG00000000003.2"]
    found = mapped(ids)
    assert found.report.as_ledger()["genes_dropped_controls"] == 3
    assert {"B069", "B072", "B073"} <= {notice.code for notice in found.notices}


@given(
    st.lists(
        st.tuples(
            st.sampled_from([*HUMAN[:9], *ENSG[:9], f"{ENSG[0]}.4", "TWIN", "Blank-3", "HLA.A"]),
            st.integers(0, 99),
        ),
        min_size=1,
        max_size=30,
    ),
    st.sampled_from(["source", "ensembl", "symbol"]),
    st.sampled_from(["drop", "sum"]),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_every_molecule_is_kept_or_dropped_by_a_reason(pairs, wanted, duplicates, strip, shuffler):
    options = {"gene_ids": wanted, "duplicate_genes": duplicates, "strip_version": strip}

    def attempt(listed):
        ids, counts = [p[0] for p in listed], [p[1] for p in listed]
        try:
            return mapped(ids, counts, table=TABLE, unmangle=True, **options)
        except SourceFaultError as fault:
            return fault.code

    found = attempt(pairs)
    moved = list(pairs)
    shuffler.shuffle(moved)
    again = attempt(moved)
    if isinstance(found, str):
        assert again == found
        return
    assert not isinstance(again, str)
    assert again.genes == found.genes
    counts = np.asarray([p[1] for p in pairs])
    ledger = found.report.as_ledger()
    lost = sum(n for name, n in ledger.items() if name.startswith("molecules_dropped"))
    assert counts[found.column >= 0].sum() + lost == counts.sum()
    assert list(found.genes) == sorted(set(found.genes))
    kept = np.zeros(len(found.genes), int)
    np.add.at(kept, found.column[found.column >= 0], 1)
    assert (kept >= 1).all()


GTF = (
    "#!genome-build GRCh38\n"
    '1\thavana\tgene\t1\t9\t.\t+\t.\tgene_id "ENSG00000000003"; gene_name "TSPAN6";\n'
    '1\thavana\ttranscript\t1\t9\t.\t+\t.\tgene_id "ENSG00000000003"; gene_name "OTHER";\n'
    '1\thavana\tgene\t1\t9\t.\t+\t.\tgene_id "ENSG00000000005.6"; gene_name "TNMD";\n'
)
HGNC = (
    "hgnc_id\tsymbol\tname\tensembl_gene_id\nHGNC:5\tA1BG\tx\tENSG00000121410\nHGNC:6\tNONE\ty\t\n"
)
MGI = "MGI:101757\tCfl1\tcofilin\t3.14\t19\tENSMUSG00000056201\tENSMUST0\tENSMUSP0\n"
TENX = "ENSMUSG00000051951\tXkr4\tGene Expression\n"


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        (GTF, [("ENSG00000000003", "TSPAN6", "human"), ("ENSG00000000005", "TNMD", "human")]),
        (HGNC, [("ENSG00000121410", "A1BG", "human")]),
        (MGI, [("ENSMUSG00000056201", "Cfl1", "mouse")]),
        (TENX, [("ENSMUSG00000051951", "Xkr4", "mouse")]),
    ],
    ids=["gtf", "hgnc", "mgi", "10x"],
)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_tables_are_made_from_files_that_people_download(text, pairs, packed, tmp_path):
    path = tmp_path / ("a.gz" if packed else "a.txt")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    table = make_gene_table([path])
    assert list(table.pairs) == pairs
    stored = tmp_path / "genes.tsv"
    stored.write_bytes(write_gene_table(table, [path]))
    assert read_gene_table(stored) == table
    assert stored.read_text().startswith(f"# {path.name} sha256:")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a,b,c\n", "expected the columns"),
        ("ensembl\tsymbol\tspecies\nnope\tX\thuman\n", "row 2 is no pair"),
        ("", "expected the columns"),
    ],
)
def test_bad_tables_are_refused(text, match, tmp_path):
    (tmp_path / "t.tsv").write_text(text)
    with pytest.raises(BadInputError, match=match):
        read_gene_table(tmp_path / "t.tsv")
    (tmp_path / "odd.txt").write_text("hello world\n")
    with pytest.raises(BadInputError, match="neither GTF"):
        make_gene_table([tmp_path / "odd.txt"])


def test_vocabularies_by_rule():
    slices = [["a", "b", "c"], ["b", "c", "d"], ["c", "d", "e"]]
    assert choose_vocabulary(slices, "union").genes == ("a", "b", "c", "d", "e")
    assert choose_vocabulary(slices, "intersection").genes == ("c",)
    assert choose_vocabulary(slices, "share:0.6").genes == ("b", "c", "d")
    with pytest.raises(BadInputError, match="no gene is measured in 2 of 2"):
        choose_vocabulary([["a"], ["b"]], "intersection")
    for rule in ("share:0", "share:1.5", "share:x", "most"):
        with pytest.raises(BadUsageError, match="--vocabulary"):
            choose_vocabulary(slices, rule)


def test_slices_of_other_ids_or_species_are_not_mixed_by_accident():
    per_slice = {"a": ENSG, "b": HUMAN, "c": [*HUMAN, "ZZZ"]}
    (problem,) = check_kinds(per_slice, mixed_ids=False, mixed_species=False)
    assert "Ensembl ids in 1 slices (a), symbols in 2 slices (b, c)" in problem.what
    assert check_kinds(per_slice, mixed_ids=True, mixed_species=False) == []
    both = {"a": ENSG, "m": ENSMUSG}
    (problem,) = check_kinds(both, mixed_ids=False, mixed_species=False)
    assert "human in 1 slices (a), mouse in 1 slices (m)" in problem.what
    assert check_kinds(both, mixed_ids=False, mixed_species=True) == []


def test_ids_with_versions_are_not_mixed_with_ids_without_by_accident():
    versioned = [f"{name}.{1 + i % 9}" for i, name in enumerate(ENSG)]
    per_slice = {"a": ENSG, "b": versioned, "c": [*ENSG[1:], versioned[0]]}
    (problem,) = check_kinds(per_slice, mixed_ids=False, mixed_species=False)
    assert problem.code == "B069"
    assert "with versions in 1 slices (b), without versions in 2 slices (a, c)" in problem.what
    assert "--strip-version" in problem.fix
    assert check_kinds(per_slice, mixed_ids=True, mixed_species=False) == []
    stripped = per_slice | {"b": [strip_version(name) for name in versioned]}
    assert check_kinds(stripped, mixed_ids=False, mixed_species=False) == []
    # Clone ids beside symbols tell nothing of versions.
    few = {"s": [*HUMAN, versioned[0]], "t": [*HUMAN, ENSG[0]]}
    assert check_kinds(few, mixed_ids=False, mixed_species=False) == []


def test_real_gene_lists_are_of_the_species_that_their_readme_says(shared_data):
    mouse = {"mouse_brain_2k", "mouse_olfactory_bulb", "merfish_hypothalamus", "starmap_mpfc"}
    mouse |= {"slideseq_cerebellum"}
    for path in sorted(shared_data.glob("*/*.h5ad")):
        with h5py.File(path) as file:
            var = file["var"]
            ids = [v.decode() for v in var[var.attrs["_index"]][:]]
        facts = describe_genes(ids)
        is_mouse = path.parent.name in mouse or path.stem.startswith("mouse_")
        assert facts.species == (("mouse",) if is_mouse else ("human",)), path
        assert facts.kind in ("ensembl", "symbol")


PARTS = ("A", "ENS", "G", "NEG", "PRB", "ERCC-", "00001", "12345678901", "Blank", "BLANK_", "x")


@given(st.lists(st.sampled_from(PARTS), min_size=1, max_size=4).map("".join))
def test_a_glance_at_an_id_says_what_a_close_look_says(name):
    assert gene_ids._look(name) == gene_ids._look_closely(name)


@pytest.mark.parametrize("name", ["AC123456", "B123456", "NEGPRB1", "SYSTEMCONTROL", "ACTB", "A1"])
def test_capitals_and_digits_may_still_be_something_else(name):
    assert gene_ids._look(name) == gene_ids._look_closely(name)


READS_OF_NO_GENE = (
    "__no_feature", "__ambiguous[A+B]", "__not_aligned", "__alignment_not_unique",
    "__too_low_aQual", "X__no_feature", "N_unmapped", "N_multimapping", "N_noFeature",
)  # fmt: skip


@pytest.mark.parametrize("name", [*READS_OF_NO_GENE, "Negative3", "FalseCode12", "ERCC-00002"])
def test_what_counts_reads_of_no_gene_is_none(name):
    assert describe_genes(["GAPDH", name]).controls == (name,)
    assert find_genes(["GAPDH", name], None).tolist() == [True, False]


@pytest.mark.parametrize("name", ["N", "NAT1", "NEGR1", "ERCC6", "N_gene", "nofeature", "FALSE"])
def test_genes_of_such_names_stay(name):
    assert find_genes([name], None).all()


@pytest.mark.parametrize(
    ("types", "others"),
    [
        (["Gene Expression", "Antibody Capture", "", "Custom"], [0, 1, 0, 1]),
        (["gene_expression", "gene expression", "anything", ""], [0, 0, 1, 0]),
        (["protein_coding", "lncRNA", "", "IG_C_gene"], [0, 0, 0, 0]),
        (["RNA"] * 4, [0, 0, 0, 0]),
        ([""] * 4, [0, 0, 0, 0]),
        (["RNA", "Antibody Capture", "Negative Control Probe", "Peaks"], [0, 1, 1, 1]),
    ],
)
def test_types_say_what_is_no_gene_where_they_are_known(types, others):
    ids = ["GAPDH", "ACTB", "CD3", "CD19"]
    assert find_other_types(types) == list(map(bool, others))
    assert find_genes(ids, types).tolist() == [not other for other in others]
    found = mapped(ids, types=types)
    assert list(found.genes) == sorted(g for g, other in zip(ids, others, strict=True) if not other)
    assert found.report.as_ledger().get("molecules_dropped_other_types", 0) == 10 * sum(others)
