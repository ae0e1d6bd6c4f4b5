"""The documents of a corpus as typed models: what is written, and all that a reader accepts.

Every model is frozen and forbids unknown keys; reading one reports every problem at once, each
with its path. No file is opened here.
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Final, Literal, Self, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from stbuild.corpus import names
from stbuild.corpus.digests import sha256_json
from stbuild.corpus.errors import BadUsageError, IntegrityError, Problem, StError
from stbuild.corpus.jsonio import dump_document, load_strict

Sha256 = Annotated[str, StringConstraints(pattern=names.SHA256_PATTERN)]
Slug = Annotated[str, StringConstraints(pattern=names.SLUG_PATTERN)]
Key = Annotated[str, StringConstraints(pattern=names.KEY_PATTERN)]
SplitName = Annotated[str, StringConstraints(pattern=names.SPLIT_PATTERN)]
ShardPath = Annotated[str, StringConstraints(pattern=names.SHARD_PATTERN)]
FilePath = Annotated[str, StringConstraints(pattern=names.FILE_PATTERN)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Kind = Literal["patch", "slice"]


class Document(BaseModel):
    """Base of all documents: frozen, unknown keys forbidden."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def to_bytes(self) -> bytes:
        """Return the document as it is written to disk."""
        return dump_document(self.model_dump(mode="json"))


class ShardConfig(Document):
    """What decides the bytes of the shards, given the grids."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: Slug = "corpus"
    """Name of the corpus, else that of the manifest; shard files carry it."""
    window: int = Field(16, ge=1, le=names.MAX_WINDOW)
    """Patch side in sites (h = w of Eq. 6)."""
    genes: int = Field(512, ge=1, le=65535)
    """Genes kept in a patch (m of Eq. 7); fewer are padded with gene -1."""
    select: Literal["weighted", "hvg", "random"] = "weighted"
    """Gene choice: Eq. 7's variance-weighted draw, the top-m by variance, or uniform."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of every random draw."""
    n_per_slice: int | None = Field(200, ge=1, le=999_999)
    """Training patches per slice; none for an evaluation corpus."""
    cover: int | None = Field(None, ge=1, le=names.MAX_WINDOW)
    """Stride of covering windows; given, the corpus is an evaluation corpus."""
    draws: int = Field(4, ge=1, le=99)
    """Gene draws per slice of an evaluation corpus."""
    min_fill: float = Field(0.25, ge=0, le=1)
    """Least share of the slice's best-filled window that a training window must hold."""
    tries: int = Field(64, ge=1, le=10_000)
    """Origins tried per window before one is drawn among those that hold enough."""
    holes: Literal["ignore", "zero"] = "ignore"
    """Variance over observed sites only, or with unobserved sites as zeros (paper, literal)."""
    epsilon: float = Field(1e-6, ge=0, le=1e-2)
    """Smoothing of Eq. 7, on the log1p scale."""
    codec: Literal["zstd", "lz4", "none"] = "zstd"
    """Compression of the counts: Blosc zstd, Blosc lz4 (a third larger, twice as fast), none."""
    samples_per_shard: int = Field(1024, ge=1, le=1_000_000)
    """Patches in a shard file."""
    whole_slices: bool = False
    """Also write whole-slice samples into a training corpus (evaluation corpora have them)."""
    strict_size: bool = False
    """Refuse slices that would need padding, in genes or in sites."""
    assign: Literal["sheet", "donor", "section", "pair", "block"] = "sheet"
    """Who puts slices of a training corpus on splits: the sample sheet, or a draw by whole donors,
    sections or pairs of adjacent sections, or by spatial blocks of each slice with a buffer as wide
    as a window."""
    val_share: float = Field(0.0, ge=0, lt=1)
    """Share of the spots for split val, where splits are drawn."""
    test_share: float = Field(0.2, ge=0, lt=1)
    """Share of the spots for split test, where splits are drawn."""
    allow: tuple[str, ...] = ()
    """Leaks between splits that are allowed, each by the name that the refusal gives it."""
    label_splits: bool = True
    """Write evaluation splits (paper20, block20, few-shot, and by donor and pair where they are
    known) for labelled slices of an evaluation corpus."""

    @model_validator(mode="after")
    def _one_mode(self) -> Self:
        if (self.n_per_slice is None) == (self.cover is None):
            msg = "give either n_per_slice (training) or cover (evaluation), not both or neither"
            raise ValueError(msg)
        if self.cover is not None and self.cover > self.window:
            msg = f"cover stride {self.cover} leaves gaps between windows of {self.window}"
            raise ValueError(msg)
        if self.assign != "sheet" and self.val_share + self.test_share == 0:
            msg = "splits are to be drawn, but val_share and test_share are both 0"
            raise ValueError(msg)
        if self.val_share + self.test_share >= 1:
            msg = "val_share and test_share leave nothing to train on"
            raise ValueError(msg)
        if self.assign == "block":
            self._check_blocks()
        return self

    def _check_blocks(self) -> None:
        if self.whole_slices or self.cover is not None:
            msg = "a whole slice holds the blocks of every split: assign = block is for patches"
            raise ValueError(msg)
        if (self.n_per_slice or 0) < len(self.fractions()):
            msg = f"n_per_slice {self.n_per_slice} leaves a split of each slice without a patch"
            raise ValueError(msg)

    def fractions(self) -> dict[str, float]:
        """Return the wanted share of each split, where splits are drawn; none of them is 0."""
        shares = {"val": self.val_share, "test": self.test_share}
        kept = {name: share for name, share in shares.items() if share > 0}
        return {**kept, "train": 1 - sum(kept.values())}


class PatchMeta(Document):
    """``<key>.json`` of a patch."""

    format: Literal["stcorpus/patch"] = names.FORMAT_PATCH
    version: Literal[1] = names.VERSION
    key: Key
    slice: Slug
    row: Count
    """Grid row of the window's first site."""
    col: Count
    """Grid column of the window's first site."""
    window: Count | None
    """Number of a training window within its slice."""
    draw: Count
    """Gene draw; 0 in a training corpus."""
    layout: str
    """Layout of the grid, such as ``hex-offset``."""
    select: str
    seed: Count
    shape: tuple[Count, Count, Count]
    """(m, h, w) of the counts."""
    dtype: Literal["<u2", "<u4"]
    """Type of the decoded counts."""
    observed: Count
    """Observed sites, those with a total above 0."""
    n_genes: Count
    """Real genes; the other m - n_genes channels are padding."""


class WholeMeta(Document):
    """``<key>.json`` of a whole-slice sample."""

    format: Literal["stcorpus/whole-slice"] = names.FORMAT_WHOLE
    version: Literal[1] = names.VERSION
    key: Key
    slice: Slug
    grid: tuple[Count, Count]
    """(H, W) of the grid."""
    layout: str
    unit: Literal["um", "pixel", "array"]
    """Unit of the positions."""
    pitch: float | None
    """Distance of neighbouring sites along a grid row, in `unit`."""
    pitch_um: float | None
    """The same in micrometres, where known."""
    n_spots: Count
    n_genes: Count
    """Genes of the vocabulary that this slice measures."""
    dtype: Literal["<u2", "<u4"]


class SourceFile(Document):
    """One input file as it was read."""

    name: str
    """Path relative to the manifest, or the file's own name; never an absolute path."""
    bytes: Count
    sha256: Sha256


def sources_digest(sources: Sequence[SourceFile]) -> str:
    """Return one digest for all files of a slice: the file's own where there is one alone."""
    if len(sources) == 1:
        return sources[0].sha256
    return sha256_json([[file.name, file.sha256] for file in sources])


class SliceEntry(Document):
    """One slice of a corpus."""

    slug: Slug
    name: str
    """Id as the user gave it."""
    split: SplitName
    """``blocks``: the slice is parted by spatial blocks, and each patch has a split of its own."""
    generation: Count = 0
    """Number of the extension that brought it; 0 is the first build."""
    donor: str | None
    section: str | None
    pair: str | None
    """Pair of adjacent sections."""
    platform: str | None
    tissue: str | None
    species: str | None
    licence: str | None
    layout: str
    grid: tuple[Count, Count]
    n_spots: Count
    """Observed spots on the grid."""
    n_genes: Count
    """Genes that the slice measures."""
    n_vocabulary: Count
    """Those of them that are in the corpus vocabulary."""
    n_labelled: Count
    n_patches: Count
    sources: tuple[SourceFile, ...]
    """Every file that the slice was read from."""
    grid_content: Sha256
    """Content digest of the grid."""


class ShardEntry(Document):
    """One shard file."""

    path: ShardPath
    split: SplitName
    kind: Kind
    generation: Count = 0
    """Number of the extension that wrote it; 0 is the first build."""
    licence: Slug | None = None
    """Licence class of all its slices: the slug of what they say; None where they say nothing."""
    n_samples: Annotated[int, Field(ge=1)]
    bytes: Count
    sha256: Sha256
    content: Sha256
    """Digest of the keys and content digests of its samples, in stored order."""


class FileEntry(Document):
    """Any other file of the corpus."""

    path: FilePath
    bytes: Count
    sha256: Sha256


class VocabularyEntry(Document):
    """The gene vocabulary, kept in ``genes.parquet``: ids sorted within each generation."""

    n_genes: Annotated[int, Field(ge=1)]
    sizes: Annotated[tuple[Count, ...], Field(min_length=1)]
    """Genes after the first build and after each extension; the last is `n_genes`. Patches of a
    generation know the genes of their own and of earlier ones."""
    digest: Sha256
    """SHA-256 over each id and a newline, in order."""

    @model_validator(mode="after")
    def _grows(self) -> Self:
        if list(self.sizes) != sorted(self.sizes) or self.sizes[-1] != self.n_genes:
            msg = f"sizes {self.sizes} do not grow to n_genes {self.n_genes}"
            raise ValueError(msg)
        return self


class CorpusDocument(Document):
    """``corpus.json``: written last, by rename; its presence means that the corpus is done."""

    format: Literal["stcorpus/corpus"] = names.FORMAT_CORPUS
    version: Literal[1] = names.VERSION
    name: Slug
    corpus_id: Sha256
    """Identity of the corpus: digest of config, vocabulary, labels and content digests."""
    fingerprint: Sha256
    """Digest of config and grids: what a rerun compares."""
    config: ShardConfig
    vocabulary: VocabularyEntry
    labels: tuple[str, ...]
    """Label names, sorted within each generation; a label code is a position in this list, -1 is
    no label."""
    slices: tuple[SliceEntry, ...]
    shards: tuple[ShardEntry, ...]
    files: tuple[FileEntry, ...]
    """Index, genes, slices, splits and the lock; not this file and not ``SHA256SUMS``."""

    def splits(self, kind: Kind = "patch") -> tuple[str, ...]:
        """Return the splits that hold samples of a kind, sorted."""
        return tuple(sorted({s.split for s in self.shards if s.kind == kind}))

    def shards_of(self, split: str, kind: Kind = "patch") -> tuple[ShardEntry, ...]:
        """Return the shards of one split and kind, in the order that the index counts them."""
        return tuple(s for s in self.shards if s.split == split and s.kind == kind)


def is_split(path: str) -> bool:
    """Tell whether a file of a corpus is an evaluation split: part of what the corpus is.

    The leakage certificate stands beside them and is not: it says what was looked for.
    """
    return path.startswith("splits/") and "@" in path


def compute_corpus_id(
    config: ShardConfig,
    vocabulary: VocabularyEntry,
    labels: Iterable[str],
    shards: Iterable[ShardEntry],
    splits: Iterable[FileEntry],
) -> str:
    """Return the identity of a corpus: the same whatever the compressor or its version.

    SHA-256 of canonical JSON over format version, configuration without the codec, vocabulary,
    labels, the content digest of every shard and the digest of every evaluation split.
    """
    return sha256_json(
        {
            "version": names.VERSION,
            "config": config.model_dump(mode="json", exclude={"codec"}),
            "vocabulary": vocabulary.digest,
            "labels": list(labels),
            "shards": [[shard.path, shard.content] for shard in shards],
            "splits": [[file.path, file.sha256] for file in splits],
        }
    )


CONFIG_FIX: Final = "correct the value; `--help` lists what is allowed"
"""What to do about a value of a configuration that is not allowed."""
Model = TypeVar("Model", bound=BaseModel)
_WHOLE: Final = "key '(document)'"
"""Subject of what several keys of a document say together."""


def read_document(model: type[Model], raw: bytes, where: str) -> Model:
    """Parse and validate one of our own documents.

    Raises
    ------
    IntegrityError
        Every problem of the document at once, each with its path; an unknown format or version
        is named.
    """
    value = load_strict(raw, where)
    fix = "get the file again from its source; a newer format needs a newer version of this tool"
    try:
        return model.model_validate_json(raw, strict=True)
    except ValidationError as error:
        problems = list(document_problems(error, model, value, where, "C01", fix))
        raise IntegrityError(*problems) from None


def read_config(model: type[Model], value: dict[str, Any], where: str) -> Model:
    """Validate configuration that a person wrote.

    Raises
    ------
    BadUsageError
        Every problem at once; an unknown key comes with the nearest known one.
    """
    try:
        return validate_written(model, value)
    except ValidationError as error:
        problems = document_problems(error, model, value, where, "B111", CONFIG_FIX)
        raise BadUsageError(*problems) from None


def validate_written(model: type[Model], value: dict[str, Any]) -> Model:
    """Validate what a person wrote: true and false are no numbers, whatever pydantic says.

    Raises
    ------
    pydantic.ValidationError
        Unknown keys and bad values, all of them.
    """
    return model.model_validate(_spell_truths(model, value))


def _spell_truths(model: type[BaseModel], value: dict[str, Any]) -> dict[str, Any]:
    """Return the value with true and false as words where numbers are due, so that they fail."""
    spelt = dict(value)
    for name, item in value.items():
        field = model.model_fields.get(name)
        kind = None if field is None else field.annotation
        kinds = {kind, *get_args(kind)}
        if isinstance(item, bool) and kinds & {int, float} and bool not in kinds:
            spelt[name] = str(item).lower()
        elif isinstance(item, dict) and isinstance(kind, type) and issubclass(kind, BaseModel):
            spelt[name] = _spell_truths(kind, item)
    return spelt


def key_problems(model: type[BaseModel], value: dict[str, Any], where: str) -> list[Problem]:
    """Return what is wrong with the keys of a part of a configuration, each by itself.

    What several keys say together is passed over: other parts, such as flags, may still change it.
    """
    try:
        read_config(model, value, where)
    except BadUsageError as error:
        return [problem for problem in error.problems if problem.subject != _WHOLE]
    return []


def document_problems(
    error: ValidationError,
    model: type[BaseModel],
    value: object,
    where: str,
    code: str,
    fix: str,
) -> Iterable[Problem]:
    """Turn pydantic's list into ours: one problem each, with path, value and nearest name."""
    for item in error.errors(include_url=False):
        path = ".".join(str(part) for part in item["loc"])
        what, advice = item["msg"], fix
        if item["type"] == "extra_forbidden":
            what = "unknown key"
            known = _fields_at(model, item["loc"][:-1])
            near = get_close_matches(str(item["loc"][-1]), known, n=1)
            advice = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(known)}"
        elif not isinstance(item["input"], dict | list):
            what = f"{what}, got {str(item['input'])[:80]!r}"
        subject = f"key '{path}'" if path else _WHOLE
        yield Problem(code=code, subject=subject, where=where, what=what, fix=advice)


def _fields_at(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Return the keys that the model at a path inside `model` knows."""
    for part in path:
        field = model.model_fields.get(str(part))
        inner = None if field is None else field.annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        model = inner
    return list(model.model_fields)


def as_error(problems: Iterable[Problem], kind: type[StError]) -> StError | None:
    """Return an error of all `problems`, or None where there are none."""
    listed = tuple(problems)
    return kind(*listed) if listed else None
