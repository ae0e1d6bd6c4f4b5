"""Vectors of checkpoints and published models, made once for all that decides them.

A file in ``vectors/`` is named by the digest of weights, model, corpus and settings, so that suites
share it, a rerun reads it, and another model under the same name never takes its place. A file that
was damaged is named and refused, never made again in silence; removed, it is made by a rerun.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from stbuild.corpus.digests import sha256_json
from stbuild.corpus.durable import guard_disk
from stbuild.corpus.reader import Corpus, open_corpus
from sttrain import __version__
from sttrain.adapters.published import PublishedConfig, Request, embed_published
from sttrain.bench.suite import VECTORS
from sttrain.embed.embeddings import Embeddings, align_embeddings, read_embeddings, refuse_damage
from sttrain.embed.evaluation import EvaluationSet
from sttrain.embed.spots import choose_inference, embed_checkpoint
from sttrain.errors import IntegrityError, StError
from sttrain.judge.candidates import GivenVectors
from sttrain.judge.rows import DAMAGED
from sttrain.model.inference import InferenceConfig

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class VectorCache:
    """Vectors of one folder of results."""

    root: Path
    data: EvaluationSet
    """The corpus that the vectors are judged on; every slice of it has to be there."""
    device: str = "cpu"
    progress: Progress | None = None
    say: Callable[[str], None] = lambda _: None

    def of_checkpoint(
        self,
        name: str,
        run: Path,
        corpus: Path,
        *,
        initial: bool,
        inference: InferenceConfig | None = None,
    ) -> GivenVectors:
        """Return the vectors of a checkpoint, embedding the corpus if that was not done yet.

        They are made as its recipe says, or as `inference` says.

        Raises
        ------
        BadInputError
            No checkpoint, genes unknown to it, a corpus of other slices than the judged one.
        IntegrityError
            A damaged checkpoint, corpus or file of vectors.
        """
        from sttrain.release.encoder import load_encoder

        _, info = load_encoder(run, initial=initial, say=self.say)
        changes = {} if inference is None else inference.model_dump()
        made_of = {
            "checkpoint": info.digest,
            "model": info.identity,
            "seed": info.seed,
            "inference": choose_inference(info, changes).model_dump(mode="json"),
            "corpus": open_corpus(corpus).document.corpus_id,
        }

        def make(path: Path) -> None:
            embed_checkpoint(
                run,
                corpus,
                path,
                untrained=initial,
                inference=changes,
                device=self.device,
                progress=self.progress,
                say=self.say,
            )

        return self._vectors(name, made_of, make)

    def of_published(self, name: str, weights: Path | None, corpus: Corpus) -> GivenVectors:
        """Return the vectors of a published model.

        Raises
        ------
        BadInputError
            Weights or a corpus that it cannot use.
        PlatformError
            Its package is missing.
        """
        config = PublishedConfig()
        made_of = {
            "published": name,
            "settings": config.model_dump(mode="json"),
            "weights": None if weights is None else _folder_digest(weights),
            "corpus": corpus.document.corpus_id,
        }
        request = Request(
            config=config, weights=weights, device=self.device, progress=self.progress
        )
        return self._vectors(
            name, made_of, lambda path: _discard(embed_published(name, corpus.root, path, request))
        )

    def _vectors(
        self, name: str, made_of: Mapping[str, object], make: Callable[[Path], None]
    ) -> GivenVectors:
        digest = sha256_json({"sttrain": __version__, **made_of})[:16]
        path = self.root / VECTORS / f"{name}_{digest}.parquet"
        if not path.exists():
            guard_disk(path, lambda: path.parent.mkdir(parents=True, exist_ok=True))
            make(path)
        barcodes = {slug: self.data.barcodes(slug) for slug in self.data.slices}
        vectors = align_embeddings(_read(path, made_of), barcodes, f"'{name}'")
        return GivenVectors(name=name, vectors=vectors)


def _read(path: Path, made_of: Mapping[str, object]) -> Embeddings:
    """Read a file of ours.

    Raises
    ------
    IntegrityError
        It is damaged, or another one under its name.
    """
    wanted = {"checkpoint": made_of.get("checkpoint"), "corpus_id": made_of["corpus"]}
    try:
        found = read_embeddings(path)
        for key, expected in wanted.items():
            if expected is not None and (came := found.provenance.get(key)) != expected:
                what = f"its {key} is {str(came)[:16]}, {str(expected)[:16]} was expected"
                raise refuse_damage(path, what)
    except StError as error:
        raise IntegrityError(*(replace(p, fix=DAMAGED) for p in error.problems)) from error
    return found


def _folder_digest(folder: Path) -> str:
    """Return a digest of the files of a folder of weights, names and contents."""
    listed = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                found = sha256()
                while block := file.read(1 << 20):
                    found.update(block)
            listed.append([str(path.relative_to(folder)), found.hexdigest()])
    return sha256_json(listed)


def _discard(_: object) -> None:
    """Take a result that is of no use here."""
