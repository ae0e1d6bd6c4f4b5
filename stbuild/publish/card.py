"""``README.md`` of a release: what is in it, how it was made, how to load it, and its limits.

Everything is computed from the corpus or said by the publisher; nothing is known otherwise. The
YAML head is that of the Hugging Face Hub.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from stbuild.corpus.documents import CorpusDocument, read_document
from stbuild.corpus.errors import PlatformError, Problem, printable
from stbuild.corpus.names import BLOCKS
from stbuild.corpus.release import LicenceEntry
from stbuild.leakage import LeakageReport, render_certificate
from stbuild.leakage.documents import LEAKAGE_JSON
from stbuild.publish.licences import known_licences, licence_ids
from stbuild.publish.options import PublishOptions
from stbuild.publish.snippets import render_loading
from stbuild.publish.subset import Subset

_ROWS = 200
"""Rows of a table; the rest stands in ``slices.parquet``."""
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M"),
          (10**7, "1M<n<10M"), (10**8, "10M<n<100M"), (10**9, "100M<n<1B"))  # fmt: skip
_FACTS = ("name", "split", "donor", "section", "tissue", "platform", "species", "licence")
_ESCAPED = re.compile(r"([\\`*_{}\[\]<>()#+!|~&$])")


def make_card(
    subset: Subset,
    options: PublishOptions,
    licences: Sequence[LicenceEntry],
    left_out: Sequence[str],
    pictures: Iterable[str],
) -> bytes:
    """Return the dataset card as Markdown with its YAML head.

    Parameters
    ----------
    subset, options
        What is published, and what the publisher says of it.
    licences, left_out
        Licence classes of the release, and those that are not in it.
    pictures
        Paths of the pictures.

    Raises
    ------
    PlatformError
        huggingface_hub is not installed.
    """
    document = subset.document
    parts = [
        *_opening(document, options),
        *_contents(document),
        *render_loading(document),
        *_pictures(pictures),
        *_slices(document),
        *_licences(licences, left_out),
        *_making(document),
        *_limits(document),
        *_certificate(subset),
        *_trust(document),
        "## Citation\n",
        "```text",
        printable(options.cite_as(document)).replace("\\n", "\n").replace("`", "'"),
        "```",
    ]
    return (_head(document, options, licences) + "\n".join(parts) + "\n").encode()


def escape(text: object) -> str:
    """Return text that comes from an input so that it can do nothing in Markdown or HTML."""
    return _ESCAPED.sub(r"\\\1", printable(text)).replace("\\<", "&lt;").replace("\\>", "&gt;")


def whole_licence(licences: Sequence[LicenceEntry]) -> str:
    """Return the licence of the whole as the Hub names it: the only one, or ``other``."""
    only = licences[0].spdx if len(licences) == 1 else None
    return only.lower() if only is not None and len(licence_ids(only)) == 1 else "other"


def _head(
    document: CorpusDocument, options: PublishOptions, licences: Sequence[LicenceEntry]
) -> str:
    try:
        from huggingface_hub import DatasetCardData
    except ImportError as error:
        what, fix = f"the card's head needs it, but {error}", "pip install 'stcorpus[publish]'"
        problem = Problem(code="E009", subject="huggingface_hub", what=what, fix=fix)
        raise PlatformError(problem) from error
    n = sum(shard.n_samples for shard in document.shards)
    tags = ["biology", "spatial-transcriptomics", "gene-expression", "webdataset", "croissant"]
    data = DatasetCardData(
        license=whole_licence(licences),
        pretty_name=options.title or document.name,
        size_categories=[next((word for limit, word in _SIZES if n < limit), "n>1T")],
        tags=tags,
        configs=list(_configs(document)),
    )
    return f"---\n{data.to_yaml()}\n---\n\n"


def _configs(document: CorpusDocument) -> Iterator[dict[str, object]]:
    """Yield a configuration of the Hub for patches, and one for whole slices."""
    for kind, name in (("patch", "patches"), ("slice", "whole-slices")):
        files = []
        for split in document.splits("patch" if kind == "patch" else "slice"):
            shards = document.shards_of(split, "patch" if kind == "patch" else "slice")
            files.append({"split": split, "path": [shard.path for shard in shards]})
        if files:
            yield {"config_name": name, "data_files": files, "default": kind == "patch"}


def _opening(document: CorpusDocument, options: PublishOptions) -> Iterator[str]:
    yield f"# {escape(options.title or document.name)}\n"
    if options.description:
        yield f"{escape(options.description)}\n"
    config = document.config
    n = sum(entry.n_patches for entry in document.slices)
    mode = "evaluation" if config.cover is not None else "training"
    yield (
        f"A {mode} corpus of spatial-transcriptomics patches: {n:,} patches of {config.genes} "
        f"genes x {config.window} x {config.window} sites from {len(document.slices):,} slices "
        f"({sum(e.n_spots for e in document.slices):,} spots), over a vocabulary of "
        f"{document.vocabulary.n_genes:,} genes. Raw counts, gene indices and library sizes; "
        "the format is described in `stcorpus`, manifests/schema/README.md.\n"
    )
    yield f"Corpus id `{document.corpus_id}`: name it where you report results.\n"


def _contents(document: CorpusDocument) -> Iterator[str]:
    yield "## Contents\n"
    yield "| split | kind | shards | samples | bytes |"
    yield "|---|---|---|---|---|"
    groups: dict[tuple[str, str], list[int]] = {}
    for shard in document.shards:
        row = groups.setdefault((shard.split, shard.kind), [0, 0, 0])
        row[0] += 1
        row[1] += shard.n_samples
        row[2] += shard.bytes
    for (split, kind), (n, samples, size) in sorted(groups.items()):
        what = "whole slices" if kind == "slice" else "patches"
        yield f"| {split} | {what} | {n:,} | {samples:,} | {size:,} |"
    yield ""
    splits = [file.path for file in document.files if "@" in file.path]
    if splits:
        yield f"Evaluation splits by barcode: {', '.join(f'`{path}`' for path in splits)}.\n"


def _pictures(paths: Iterable[str]) -> Iterator[str]:
    listed = list(paths)
    if listed:
        yield "## Pictures\n"
        yield "Library sizes of some slices, as the patches show them.\n"
        yield from (f"![{path.split('/')[-1].removesuffix('.png')}]({path})" for path in listed)
        yield ""


def _slices(document: CorpusDocument) -> Iterator[str]:
    yield "## Slices\n"
    yield f"| slice | {' | '.join(_FACTS[1:])} | spots | labelled | genes | patches |"
    yield "|---" * (len(_FACTS) + 4) + "|"
    for entry in document.slices[:_ROWS]:
        facts = [getattr(entry, name) for name in _FACTS]
        numbers = (entry.n_spots, entry.n_labelled, entry.n_genes, entry.n_patches)
        cells = ["unknown" if fact is None else escape(fact) for fact in facts]
        yield f"| {' | '.join([*cells, *(f'{number:,}' for number in numbers)])} |"
    if len(document.slices) > _ROWS:
        yield f"\nThe other {len(document.slices) - _ROWS:,} slices stand in `slices.parquet`."
    yield ""


def _licences(licences: Sequence[LicenceEntry], left_out: Sequence[str]) -> Iterator[str]:
    yield "## Licences\n"
    yield "Every shard holds slices of one class only, which stands in its file name.\n"
    yield "| class | SPDX | terms | slices | |"
    yield "|---|---|---|---|---|"
    for entry in licences:
        names = [] if entry.spdx is None else licence_ids(entry.spdx)
        known = [known_licences()[name] for name in names if name in known_licences()]
        terms = ", ".join(dict.fromkeys(term for found in known for term in found.terms))
        stated = "redistribution stated by the publisher" if entry.stated else ""
        spdx = "not stated" if entry.spdx is None else f"`{entry.spdx}`"
        yield f"| {entry.name} | {spdx} | {terms or '-'} | {len(entry.slices):,} | {stated} |"
    yield ""
    if left_out:
        yield f"Left out of this release: shards of class {', '.join(left_out)}.\n"


def _making(document: CorpusDocument) -> Iterator[str]:
    config = document.config.model_dump(mode="json")
    yield "## How it was made\n"
    yield (
        "`corpus.lock.json` holds every source with its SHA-256, the configuration and the "
        "versions of what determines bytes; `stbuild rebuild corpus.lock.json` makes the corpus "
        "again.\n"
    )
    shown = {key: value for key, value in config.items() if value not in (None, [], False)}
    yield "| option | value |"
    yield "|---|---|"
    yield from (f"| {key} | {escape(value)} |" for key, value in shown.items())
    yield ""


def _limits(document: CorpusDocument) -> Iterator[str]:
    slices = document.slices
    yield "## Limits and biases\n"
    for name, values in (
        ("tissue", [entry.tissue for entry in slices]),
        ("platform", [entry.platform for entry in slices]),
        ("species", [entry.species for entry in slices]),
    ):
        yield f"- {name}: {_shares(values)}."
    donors = Counter(entry.donor for entry in slices if entry.donor is not None)
    unknown = sum(entry.donor is None for entry in slices)
    most = f"; the most frequent has {max(donors.values())} slices" if donors else ""
    yield f"- donors: {len(donors)} known{most}; {unknown} slices of unknown donor."
    labelled = sum(entry.n_labelled for entry in slices)
    spots = max(1, sum(entry.n_spots for entry in slices))
    yield f"- {labelled / spots:.0%} of the spots carry a label."
    few = [entry for entry in slices if entry.n_vocabulary < document.config.genes]
    if few:
        yield f"- {len(few)} slices measure fewer genes than a patch holds; the rest is padding."
    if any(entry.split == BLOCKS for entry in slices):
        yield "- splits are spatial blocks of the same slices: they share donors and sections."
    if document.config.cover is None:
        yield "- windows are drawn at random, so sites lie in several patches or in none."
    yield (
        "- a site with library size 0 was not measured; a gene outside a slice's panel is "
        "unknown, not zero.\n"
    )


def _shares(values: Sequence[str | None]) -> str:
    times: Mapping[str | None, int] = Counter(values)
    listed = sorted(times.items(), key=lambda item: (-item[1], str(item[0])))
    text = [f"{'unknown' if name is None else escape(name)} {n:,}" for name, n in listed[:10]]
    more = [f"{len(listed) - 10} others"] if len(listed) > 10 else []
    return ", ".join(text + more)


def _certificate(subset: Subset) -> Iterator[str]:
    raw = subset.tables.get(LEAKAGE_JSON)
    if raw is None:
        yield "## Leakage\n"
        yield (
            "One split alone: nothing to keep apart. Check it against your own data with "
            "`stbuild leakage`.\n"
        )
        return
    text = render_certificate(read_document(LeakageReport, raw, LEAKAGE_JSON))
    yield re.sub(r"^#", "##", text, flags=re.MULTILINE)


def _trust(document: CorpusDocument) -> Iterator[str]:
    yield "## Verify\n"
    yield "```sh"
    yield "sha256sum -c SHA256SUMS        # no tool of ours"
    yield "stbuild verify .               # every claim, every sample"
    yield "```\n"
    yield (
        f"`corpus.json` must name the corpus id `{document.corpus_id}`. Never decode members with "
        "webdataset's own `.decode()`: it executes pickled members of a stranger's shard.\n"
    )
