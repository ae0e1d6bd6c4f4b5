"""The release folder: gate, files, checksums; it looks finished only when it is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from stbuild.build.assemble import require_files, require_whole
from stbuild.build.earlier import put_shard
from stbuild.corpus import names
from stbuild.corpus.digests import sha256_bytes
from stbuild.corpus.documents import CorpusDocument, FileEntry, read_document
from stbuild.corpus.durable import guard_disk, write_durable
from stbuild.corpus.errors import ConflictError, IntegrityError, Problem
from stbuild.corpus.outputs import refuse_foreign
from stbuild.corpus.reader import Corpus, open_corpus
from stbuild.corpus.release import RELEASE_JSON, LicenceEntry, ReleaseDocument
from stbuild.corpus.storage import read_file
from stbuild.publish.card import make_card, whole_licence
from stbuild.publish.croissant import CROISSANT_JSON, make_croissant, require_mlcroissant
from stbuild.publish.gate import pass_gate
from stbuild.publish.licences import known_licences, licence_ids, licence_text
from stbuild.publish.options import PublishOptions
from stbuild.publish.pictures import draw_pictures
from stbuild.publish.provenance import PROVENANCE_JSON, make_provenance
from stbuild.publish.subset import Subset, choose_subset
from stbuild.verify import verify_corpus
from stbuild.workspace import clear_scratch, hold_folder, is_scratch

__all__ = ["PublishOptions", "PublishSummary", "publish_release"]

_CARD = "README.md"


@dataclass(frozen=True, kw_only=True)
class PublishSummary:
    """What a run of ``publish`` did."""

    release: ReleaseDocument
    document: CorpusDocument
    already_done: bool
    n_bytes: int


def publish_release(
    root: Path,
    out: Path,
    options: PublishOptions,
    now: datetime,
    *,
    started: Callable[[str, int], Callable[[], None]] = lambda _stage, _n: lambda: None,
) -> PublishSummary:
    """Make a release of a finished corpus, or find it made.

    Parameters
    ----------
    root
        The corpus; it is verified first, every sample.
    out
        Release folder. Shards are hard links where the file system has them.
    options
        What the publisher says.
    now
        Time for the provenance, the only file with one.
    started
        Called with each stage and its number of tasks; returns what to call after each task.

    Raises
    ------
    BadUsageError
        A licence flag that names no class.
    GateError
        Slices that may not be redistributed, by name.
    IntegrityError
        The corpus is damaged, or the release is finished but files of it are missing.
    ConflictError
        The folder holds something else.
    PlatformError
        A package of the extra ``publish`` is missing; said before any work.
    """
    require_mlcroissant()
    corpus = open_corpus(root)
    out_classes, licences = pass_gate(corpus.document, options.leave_out, options.stated)
    if (done := _finished(out, corpus, options)) is not None:
        return done
    refuse_foreign(out, "release", mark=is_scratch)
    shards = started("verify", len(corpus.document.shards))
    if problems := verify_corpus(root, done=shards).problems:
        raise IntegrityError(*problems)
    subset = choose_subset(corpus, out_classes)
    with hold_folder(out):
        release = _write(corpus, subset, out, options, licences, out_classes, now, started)
        clear_scratch(out)
    return _summary(release, subset.document, out, already_done=False)


def _write(
    corpus: Corpus,
    subset: Subset,
    out: Path,
    options: PublishOptions,
    licences: tuple[LicenceEntry, ...],
    out_classes: tuple[str, ...],
    now: datetime,
    started: Callable[[str, int], Callable[[], None]],
) -> ReleaseDocument:
    document = subset.document
    done = started("shards", len(document.shards))
    for shard in document.shards:
        guard_disk(out / shard.path, partial(put_shard, corpus.root, out, shard))
        done()
    for path, raw in sorted(subset.tables.items()):
        write_durable(out / path, raw)
    extra = draw_pictures(corpus, document)
    extra[_CARD] = make_card(subset, options, licences, out_classes, sorted(extra))
    extra[CROISSANT_JSON] = make_croissant(subset, options, _licence_url(licences))
    extra[PROVENANCE_JSON] = make_provenance(subset, now)
    extra |= _texts(licences)
    files = []
    for path, raw in sorted(extra.items()):
        size, digest = write_durable(out / path, raw)
        files.append(FileEntry(path=path, bytes=size, sha256=digest))
    release = ReleaseDocument(
        corpus_id=document.corpus_id,
        of_corpus=corpus.document.corpus_id,
        of_document=sha256_bytes(corpus.document.to_bytes()),
        left_out=out_classes,
        licences=licences,
        options=options.digest(),
        files=tuple(files),
    )
    require_files(out, document.shards, document.files, release.files)
    write_durable(out / RELEASE_JSON, release.to_bytes())
    write_durable(out / names.CHECKSUMS, list_sums(document, release))
    write_durable(out / names.CORPUS_JSON, document.to_bytes())
    return release


def list_sums(document: CorpusDocument, release: ReleaseDocument) -> bytes:
    """Return ``SHA256SUMS`` of a release: every file but itself."""
    sums = {shard.path: shard.sha256 for shard in document.shards}
    sums |= {file.path: file.sha256 for file in (*document.files, *release.files)}
    sums[names.CORPUS_JSON] = sha256_bytes(document.to_bytes())
    sums[RELEASE_JSON] = sha256_bytes(release.to_bytes())
    return "".join(f"{digest}  {path}\n" for path, digest in sorted(sums.items())).encode()


def _texts(licences: tuple[LicenceEntry, ...]) -> Mapping[str, bytes]:
    found = {}
    for entry in licences:
        for name in licence_ids(entry.spdx) if entry.spdx is not None else []:
            found[f"LICENSES/{name}.txt"] = licence_text(name).encode()
    return found


def _licence_url(licences: tuple[LicenceEntry, ...]) -> str:
    name = whole_licence(licences)
    found = {key.lower(): licence for key, licence in known_licences().items()}.get(name)
    return found.url if found else "several; see LICENSES/ and the licence of every slice"


def _finished(out: Path, corpus: Corpus, options: PublishOptions) -> PublishSummary | None:
    path = out / RELEASE_JSON
    if not path.is_file() or not (out / names.CORPUS_JSON).is_file():
        return None
    release = read_document(ReleaseDocument, read_file(path), str(path))
    document = open_corpus(out).document
    if release.options != options.digest() or not _is_of(release, document, corpus.document):
        what = "it holds a release of another corpus, of other metadata, or with other options"
        raise _conflict(out, what, "give another -o folder")
    fix = f"remove {out} and publish again, or get the files from where it is published"
    require_whole(out, document.shards, document.files, release.files, fix=fix)
    return _summary(release, document, out, already_done=True)


def _is_of(release: ReleaseDocument, document: CorpusDocument, source: CorpusDocument) -> bool:
    """Tell whether a release is of a corpus as it is now: its content and what it says of it."""
    if release.of_document is None:  # of an earlier version: whole, it holds the same document
        return document == source
    return release.of_document == sha256_bytes(source.to_bytes())


def _summary(
    release: ReleaseDocument, document: CorpusDocument, out: Path, *, already_done: bool
) -> PublishSummary:
    sizes = [shard.bytes for shard in document.shards]
    sizes += [file.bytes for file in (*document.files, *release.files)]
    return PublishSummary(
        release=release,
        document=document,
        already_done=already_done,
        n_bytes=sum(sizes),
    )


def _conflict(out: Path, what: str, fix: str) -> ConflictError:
    problem = Problem(
        code="B097", subject=f"output '{out.name}'", where=str(out), what=what, fix=fix
    )
    return ConflictError(problem)
