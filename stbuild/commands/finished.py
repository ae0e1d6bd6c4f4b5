"""Commands on finished corpora and grids: verify, show, diff, rebuild, repair, genes, leakage."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from stbuild.commands.options import (
    cluster_config_option,
    model_options,
    open_workers,
    pick_fields,
    resolve_config,
    shared_options,
    worker_options,
)
from stbuild.commands.push import refuse_url_output
from stbuild.corpus.documents import ShardConfig
from stbuild.corpus.errors import BadInputError, IntegrityError, Problem, StError, merge_errors
from stbuild.screen import Screen, format_size

if TYPE_CHECKING:
    from stbuild.verify import VerifyReport


@click.command()
@click.argument("corpora", nargs=-1, required=True, type=click.Path())
@click.option("--quick", is_flag=True, help="Only sizes and SHA-256 of the files.")
@shared_options
def verify(corpora: tuple[str, ...], *, quick: bool, **flags: Any) -> None:
    """Re-check every claim of finished CORPORA; name each bad file and sample.

    Example: stbuild verify train/ eval/
    """
    screen = Screen(quiet=flags["quiet"], as_json=flags["as_json"])
    reports, errors = _verify_each(corpora, screen, quick=quick)
    lines = [
        f"{root}: {'BAD' if r.problems else 'good'}, {r.n_files} files, {r.n_samples:,} samples, "
        f"{format_size(r.n_bytes)}, {len(r.problems)} problems"
        for root, r in reports
    ]
    rows = [
        {"corpus": root, **vars(r), "problems": [p.as_dict() for p in r.problems]}
        for root, r in reports
    ]
    screen.result({"corpora": rows, "seconds": round(screen.seconds(), 1)}, lines)
    errors += [IntegrityError(*r.problems) for _, r in reports if r.problems]
    if errors:
        # Damage decides the exit code, whatever else could not be opened.
        raise merge_errors(sorted(errors, key=lambda error: not isinstance(error, IntegrityError)))


def _verify_each(
    corpora: tuple[str, ...], screen: Screen, *, quick: bool
) -> "tuple[list[tuple[str, VerifyReport]], list[StError]]":
    """Return the reports of the corpora, and the errors of those that cannot be opened."""
    from stbuild.corpus.reader import open_corpus
    from stbuild.verify import verify_corpus

    reports: list[tuple[str, VerifyReport]] = []
    errors: list[StError] = []
    with screen.progress() as start:
        for root in corpora:
            try:
                done = start("shards", len(open_corpus(Path(root)).document.shards))
                reports.append((root, verify_corpus(Path(root), quick=quick, done=done)))
            except StError as error:
                errors.append(error)
    return reports, errors


@click.command()
@click.argument("target", type=click.Path())
@click.argument("key", required=False)
@click.option("-o", "--output", type=click.Path(), help="PNG to write; without it, text.")
@model_options(ShardConfig, "name", "n_per_slice", "cover", "draws", "codec", "samples_per_shard",
          "whole_slices", "strict_size", "label_splits")  # fmt: skip
@shared_options
def show(target: str, key: str | None, output: str | None, **flags: Any) -> None:
    """Show a grid, or the sample KEY of a corpus, as a picture or as text.

    A slice as in the paper's Figure 2: stbuild show grids/x.zarr -o x.png

    A patch: stbuild show train/ x_w000000 -o patch.png
    """
    from stbuild.show.facts import describe_grid, show_grid, show_sample

    screen = Screen(quiet=flags["quiet"], as_json=flags["as_json"])
    config = resolve_config(ShardConfig, {}, {}, None, pick_fields(ShardConfig, flags))
    path, picture = Path(target), None if output is None else Path(output)
    if (path / "zarr.json").is_file() and key is None:
        facts = describe_grid(path) if picture is None else show_grid(path, picture, config)
    elif key is not None:
        facts = show_sample(path, key, picture)
    else:
        problem = Problem(
            code="B007", subject=f"target '{path.name}'", where=target,
            what="neither a grid, nor a corpus with a KEY",
            fix="give grids/<slice>.zarr, or a corpus folder and a sample key",
        )  # fmt: skip
        raise BadInputError(problem)
    screen.result(facts, [f"{name}: {value}" for name, value in facts.items()])


@click.command()
@click.argument("first", type=click.Path())
@click.argument("second", type=click.Path())
@shared_options
def diff(first: str, second: str, **flags: Any) -> None:
    """Say in words how two finished corpora differ; exit with 1 if they do.

    What is said of slices counts; how shards are compressed does not. Their documents are read, not
    their shards: `stbuild verify` tells whether these are whole.

    Example: stbuild diff v1/ v2/
    """
    from stbuild.verify.comparison import compare_corpora

    screen = Screen(quiet=flags["quiet"], as_json=flags["as_json"])
    found = compare_corpora(Path(first), Path(second))
    screen.result(vars(found), found.lines())
    if found.differs:
        sys.exit(1)


@click.command()
@click.argument("lock", type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(), help="Folder of the corpus.")
@click.option("--sources", required=True, type=click.Path(),
              help="Folder that the names of the sources in the lock start from.")  # fmt: skip
@click.option("--grids", type=click.Path(), help="Folder of the grids \\[default: OUTPUT-grids].")
@click.option("--verify/--no-verify", "check", default=True, show_default=True,
              help="Re-check every claim of the rebuilt corpus.")  # fmt: skip
@cluster_config_option
@worker_options
@shared_options
def rebuild(lock: str, output: str, sources: str, grids: str | None, **flags: Any) -> None:
    """Build a corpus again from LOCK (corpus.lock.json) and its sources, and compare the two.

    Example: stbuild rebuild corpus.lock.json --sources data/ -o again/ -j 2
    """
    from stbuild.build.rebuild import rebuild_corpus
    from stbuild.reading.jail import Limits
    from stbuild.verify import verify_corpus

    screen = Screen(quiet=flags["quiet"], as_json=flags["as_json"])
    out = refuse_url_output(output)
    between = Path(grids) if grids else out.with_name(f"{out.name}-grids")
    with open_workers(flags, screen.say) as runner, screen.progress() as start:
        report = rebuild_corpus(
            Path(lock), Path(sources), out, between, runner, limits=Limits(), started=start
        )
    if flags["check"] and (problems := verify_corpus(out, quick=False).problems):
        raise IntegrityError(*problems)
    document, n_other = report.document, len(report.other_bytes)
    lines = [f"corpus {document.name}: {document.corpus_id}, the content of the lock"]
    lines.append(
        f"{report.n_same_bytes:,} of {len(document.shards):,} shards byte for byte"
        + (f"; {n_other:,} in other bytes: another build of the compressor" if n_other else "")
    )
    lines += [f"other version than in the lock: {change}" for change in report.tools]
    value = {"corpus_id": document.corpus_id, "same_bytes": report.n_same_bytes}
    screen.result(value | {"other_bytes": report.other_bytes, "tools": report.tools}, lines)


@click.command()
@click.argument("corpus", type=click.Path())
@click.option("--grids", required=True, type=click.Path(), help="Grids that it was built from.")
@click.option("--vocabulary", type=click.Path(),
              help="The genes that were given to `shard`, if their table is damaged.")  # fmt: skip
@cluster_config_option
@worker_options
@shared_options
def repair(corpus: str, grids: str, vocabulary: str | None, **flags: Any) -> None:
    """Write the missing and damaged files of CORPUS again from its grids, and nothing else.

    Example: stbuild repair train/ --grids grids/
    """
    from stbuild.build.repair import repair_corpus
    from stbuild.genes.vocabulary import read_vocabulary

    screen = Screen(quiet=flags["quiet"], as_json=flags["as_json"])
    given = None if vocabulary is None else read_vocabulary(Path(vocabulary))
    with open_workers(flags, screen.say) as runner, screen.progress() as start:
        report = repair_corpus(Path(corpus), Path(grids), runner, given, started=start)
    mended = [*report.shards, *report.tables]
    lines = [f"{path}: written again, the bytes of corpus.json" for path in mended]
    screen.result(vars(report), lines or [f"{corpus}: nothing to mend"])


@click.command()
@click.argument("sources", nargs=-1, required=True, type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(), help="Table to write (TSV).")
@shared_options
def genes(sources: tuple[str, ...], output: str, **flags: Any) -> None:
    """Make a table of Ensembl ids and symbols from annotation files, for --gene-table.

    SOURCES are Ensembl or GENCODE GTF, HGNC's complete set, MGI's MRK_ENSEMBL.rpt, 10x
    features.tsv; plain or gzip.

    Example: stbuild genes Homo_sapiens.GRCh38.110.gtf.gz -o genes.tsv
    """
    from stbuild.corpus.durable import write_durable
    from stbuild.genes.tables import make_gene_table, write_gene_table

    screen = Screen(quiet=flags["quiet"], as_json=flags["as_json"])
    paths = [Path(source) for source in sources]
    table = make_gene_table(paths)
    size, digest = write_durable(Path(output), write_gene_table(table, paths))
    species = sorted({pair[2] for pair in table.pairs})
    line = f"{output}: {len(table.pairs):,} pairs of {', '.join(species)}, {format_size(size)}"
    screen.result({"pairs": len(table.pairs), "species": species, "sha256": digest}, [line])


@click.command()
@click.argument("grids", nargs=-1, required=True, type=click.Path())
@click.option("--allow", multiple=True, help="Leak that is allowed, by its name. Repeatable.")
@shared_options
def leakage(grids: tuple[str, ...], allow: tuple[str, ...], **flags: Any) -> None:
    """Look for data of one split, or of one folder of GRIDS, in another; print the certificate.

    A finished corpus that holds whole slices may stand for its grids.

    Example: stbuild leakage my-pretraining-grids/ published-evaluation-corpus/
    """
    from stbuild.build.certify import certify_folders
    from stbuild.leakage import render_certificate, require_no_leak

    screen = Screen(quiet=flags["quiet"], as_json=flags["as_json"])
    report = certify_folders([Path(folder) for folder in grids], allow)
    screen.result(report.model_dump(mode="json"), [render_certificate(report)])
    require_no_leak(report)
