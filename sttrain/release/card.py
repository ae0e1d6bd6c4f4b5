"""The model card of a release: ``README.md`` with the head that the Hugging Face Hub reads.

The card is a function of ``config.json`` alone. It says what the run and the corpus say, and where
they say nothing it says so; nothing is praised and no score is given.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Final

from stbuild.corpus.errors import printable
from sttrain.model.parameters import count_parameters
from sttrain.model.pretext import Loss, Objective
from sttrain.release.document import CONFIG, GENES, SUMS, WEIGHTS, ReleaseDocument, SliceTallies

LIBRARY: Final = "stcorpus"
TAGS: Final = (
    "spatial-transcriptomics", "gene-expression", "masked-autoencoder", "pytorch",
    "model_hub_mixin", "pytorch_model_hub_mixin",
)  # fmt: skip
_HUB_LICENCES: Final = frozenset({
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "cc0-1.0",
    "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0",
    "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0",
    "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "mpl-2.0",
    "epl-2.0", "unlicense", "isc", "zlib", "wtfpl", "bsl-1.0",
})  # fmt: skip
"""SPDX ids that the Hub knows, in its lower case; others are named beside ``other``."""
_UNITS: Final[Mapping[Objective, str]] = {
    "patch": "patches", "spot": "single spots",
    "multispot": "spots with their nearest neighbours",
    "slice": "spots with the macro-domains of their whole slice",
}  # fmt: skip
_LOSSES: Final[Mapping[Loss, str]] = {
    "mse": "squared error of hidden log1p(CP10K)",
    "poisson": "negative log-likelihood of hidden counts, Poisson given the library size",
    "nb": "negative log-likelihood of hidden counts, negative binomial given the library size",
}
_SHOWN: Final = 12
"""Names of a tally that are listed; the rest is counted."""
_MARKUP: Final = re.compile(r"([\\`*_\[\]<>|&#~$])")


def render_card(document: ReleaseDocument) -> str:
    """Return the text of a release's ``README.md``."""
    parts = [
        _head(document),
        f"# {escape(document.title)}",
        _what(document),
        "## Training data\n\n" + _data(document),
        "## Training\n\n" + _training(document),
        "## How to use it\n\n" + _usage(document),
        "## Limits\n\n" + "\n".join(f"- {line}" for line in _limits(document)),
        "## Files\n\n" + _files(document),
    ]
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Return `text` such that Markdown and HTML show it as it is."""
    return _MARKUP.sub(r"\\\1", printable(text)).replace("\\<", "&lt;").replace("\\&", "&amp;")


def _head(document: ReleaseDocument) -> str:
    """Return the YAML head; JSON strings are YAML strings."""
    lines = [f"library_name: {LIBRARY}"]
    licence = document.licence
    if licence is not None and licence.lower() in _HUB_LICENCES:
        lines.append(f"license: {licence.lower()}")
    elif licence is not None:
        lines += ["license: other", f"license_name: {json.dumps(licence)}"]
    lines += ["tags:", *(f"- {tag}" for tag in TAGS)]
    return "\n".join(["---", *lines, "---"])


def _what(document: ReleaseDocument) -> str:
    model, weights = document.model, document.weights
    parts = count_parameters(model, document.genes.n_genes, document.pretext)
    listed = ", ".join(f"{name} {number:,}" for name, number in parts.items())
    kind = {
        "trained": f"the weights after step {document.training.steps:,}",
        "ema": "the exponential running means of the weights",
        "initial": "the weights before the first step: **nothing was learnt**",
        "changed": "weights that were **changed after the run** that is told of below",
    }[weights.kind]
    return (
        f"A masked autoencoder of spatial transcriptomics: {_UNITS[document.pretext.objective]} "
        f"of a measured tissue in, one vector of {model.width} values per measured site out.\n\n"
        f"- Trained with objective `{document.pretext.objective}`: "
        f"{_LOSSES[document.pretext.loss]}\n"
        f"- Parameters: {weights.n_parameters:,} ({listed})\n"
        f"- Encoder: layers {model.layers}, width {model.width}, heads {model.heads}; decoder: "
        f"layers {model.decoder_layers}, width {model.decoder_width}, heads "
        f"{model.decoder_heads}\n"
        f"- Genes: {document.genes.n_genes:,}\n"
        f"- These are {kind} (checkpoint `{weights.checkpoint}`).\n"
        f"- Licence of the weights: {escape(document.licence or 'not stated')}\n"
        f"- Release id: `{document.release_id}`"
    )


def _data(document: ReleaseDocument) -> str:
    corpus = document.corpus
    samples = "views of whole slices" if document.pretext.objective == "slice" else "patches"
    text = (
        f"Corpus `{corpus.name}`, id `{corpus.corpus_id}`, split `{corpus.split}`: "
        f"{corpus.n_patches:,} {samples}."
    )
    found = corpus.slices
    if found is None:
        return f"{text}\n\nThis release was made without the corpus at hand; it says no more of it."
    rows = [
        ("Slices", f"{found.n_slices:,}, {found.n_spots:,} spots, from {found.sources:,} files"),
        (
            "Patches",
            f"{found.window} x {found.window} sites, {found.genes_per_patch:,} genes each",
        ),
        *((name, _tally(values)) for name, values in _tallies(found)),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return f"{text}\n\n| | |\n|---|---|\n{table}\n\nNumbers in brackets are slices."


def _tallies(found: SliceTallies) -> Iterator[tuple[str, Mapping[str, int]]]:
    yield "Species", found.species
    yield "Tissue", found.tissue
    yield "Platform", found.platform
    yield "Layout", found.layout
    yield "Licence of the data", found.licence


def _tally(values: Mapping[str, int]) -> str:
    ordered = sorted(values, key=lambda name: (name == "", -values[name], name))
    listed = [f"{escape(name) or 'not stated'} ({values[name]:,})" for name in ordered]
    more = len(listed) - _SHOWN
    return ", ".join(listed[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _training(document: ReleaseDocument) -> str:
    training = document.training
    lines = [
        f"- Steps: {training.steps:,} of {training.steps_planned:,} that the run was planned for",
        f"- Seed: {training.seed}",
        f"- Run: `{training.fingerprint}` (digest of configuration and corpus)",
    ]
    if training.loss is not None:
        lines.append(
            f"- Training loss: {training.loss:.4f}, mean of the {training.n_losses:,} logged "
            f"values of the last epoch's worth of steps ({_LOSSES[document.pretext.loss]})"
        )
    versions = ", ".join(f"{k} {escape(v)}" for k, v in sorted(training.environment.items()))
    lines.append(f"- Environment: {versions}")
    recipe = json.dumps(document.recipe, indent=2, sort_keys=True, ensure_ascii=True)
    recipe = recipe.replace("`", "\\u0060")  # nothing in it may close the fence
    return "\n".join(lines) + f"\n\nThe recipe:\n\n```json\n{recipe}\n```"


def _usage(document: ReleaseDocument) -> str:
    found = document.corpus.slices
    window, stride = (found.window, max(1, found.window // 2)) if found else ("SIDE", "STRIDE")
    return f"""\
Install with `pip install 'stcorpus[train,publish]'`. `MODEL` is the folder of these files, or \
`hf:OWNER/NAME` on the Hub, better `hf:OWNER/NAME@COMMIT`.

```python
from sttrain.release.loading import load_released

model, info = load_released("MODEL", release_id="{document.release_id}")
```

`sttrain.release.hub.HubAutoencoder` is the same model with `from_pretrained`, `save_pretrained` \
and `push_to_hub`. {_encoding(document)} For whole slices, build an evaluation corpus over these \
genes and embed it:

```bash
stbuild shard grids/ -o eval/ --window {window} --cover {stride} --vocabulary {GENES}
sttrain embed MODEL eval/ -o vectors.h5ad
```

The library refuses these files where a digest, a name, a shape or a value is not as released."""


def _encoding(document: ReleaseDocument) -> str:
    if document.pretext.objective == "slice":
        return (
            "It was trained on whole slices: a spot's vector depends on all spots of its slice, so "
            "that `model.encode` refuses patches."
        )
    text = (
        "`model.encode(counts, genes, totals)` takes raw counts (B, M, P, P), gene numbers (B, M) "
        f"that are lines of `{GENES}` from 0, and library sizes (B, P, P), and returns features "
        f"(B, P * P, {document.model.width})."
    )
    if document.model.centre_by == "slice":
        text += (
            " It centres values by slice and needs `means` (B, M) too: the mean log1p(CP10K) of "
            "each gene over the slice."
        )
    return text


def _limits(document: ReleaseDocument) -> Iterator[str]:
    training, genes, found = document.training, document.genes, document.corpus.slices
    if training.steps == 0:
        yield "Untrained: a control for comparisons, of no use by itself."
    elif training.steps < training.steps_planned:
        yield (f"The run was not finished: {training.steps:,} of {training.steps_planned:,} steps.")
    yield f"It knows {genes.n_genes:,} genes by these ids; any other gene is refused."
    if genes.n_silent:
        yield (
            f"{genes.n_silent:,} of them had a mean of 0 over the training patches that were "
            "looked at: they were not measured there or never counted."
        )
    if found is None:
        yield "Species, tissues and platforms of the training data are not recorded here."
    else:
        for name, values in list(_tallies(found))[:3]:
            named = {key: number for key, number in values.items() if key}
            yield f"{name}: trained on {_tally(named) or 'slices that do not say'}, on no other."
            if named and values.get(""):
                yield f"{name}: {values['']:,} of {found.n_slices:,} slices do not say."
        if document.pretext.objective != "slice":
            yield f"It was trained on windows of {found.window} x {found.window} sites."
    yield "Training saw no labels. This card gives no scores: none are part of a release."


def _files(document: ReleaseDocument) -> str:
    return (
        f"- `{WEIGHTS}`: encoder and decoder, SHA-256 `{document.weights.sha256}`\n"
        f"- `{GENES}`: one gene id a line, SHA-256 `{document.genes.digest}`\n"
        f"- `{CONFIG}`: format `{document.format}` version {document.version}: sizes, recipe, "
        "corpus id, digests\n"
        f"- `{SUMS}`: for `sha256sum -c`"
    )
