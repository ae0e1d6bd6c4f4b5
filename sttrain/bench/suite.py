"""A suite: which methods are judged on which data sets, how, and what was printed about it.

A suite is a TOML file that a person writes; it holds no path of a machine unless someone puts one
there. What it needs beside the package (corpora, checkpoints, weights) is given when it is run.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, StringConstraints

from stbuild.corpus.documents import Document, Slug, read_config
from stbuild.corpus.errors import merge_errors
from stbuild.corpus.toml import parse_toml
from sttrain.adapters.published import find_method as find_published
from sttrain.errors import BadInputError, BadUsageError, Problem
from sttrain.judge.methods import NAME, find_methods, is_taken
from sttrain.judge.metrics import METRICS
from sttrain.judge.probe_config import ClusterConfig, HeadName, ProbeConfig, ReconstructConfig
from sttrain.model.inference import InferenceConfig
from sttrain.settings import lay_over

MethodName = Annotated[str, StringConstraints(pattern=f"^{NAME.pattern}$")]
Table = Literal["table1", "table2", "table3", "table4", "table5", "table6", "table7"]
FOLDER: Final = Path("manifests") / "suites"
"""Where the suites of this project stand in its source tree."""
VECTORS: Final = "vectors"
"""Folder of the vectors that suites make, beside those of their data sets."""


class DataSet(Document):
    """An evaluation corpus that a suite is run on."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: Slug
    """Name in tables; that of its sheet in ``manifests/corpora`` where there is one."""
    folder: str | None = None
    """Folder of the corpus, beside the suite; `--data NAME=FOLDER` goes before it."""


class Checkpoint(Document):
    """A model that is given as a run or as released weights, and embedded when it is judged."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: MethodName
    """Name in tables."""
    what: str
    """What it has to be, for whoever trains it: objective, window, genes."""
    untrained: bool = False
    """Judge the weights before its first step too, as NAME-untrained."""
    view: Slug | None = None
    """Embed it on another corpus of the same slices (another window, other genes), given as
    `--data NAME/VIEW=FOLDER`; it is judged on the same spots and splits as everything else."""
    inference: InferenceConfig | None = None
    """How its vectors are made, instead of as its recipe says; both weights alike."""


class Exclusion(Document):
    """A head that a method is not judged with: it would cost more than it tells."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    method: str
    """Name of a control, a model or vectors of the suite."""
    heads: tuple[HeadName, ...] = Field(min_length=1)
    """Heads of the suite's probe."""


class Suite(Document):
    """All that decides the rows of a suite, given corpora and models."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: Slug
    """Name of the suite and of the files that it leaves."""
    title: str
    """What it shows, in a line."""
    table: Table | None = None
    """Table of the paper that it repeats, whose printed numbers are shown beside."""
    printed: str | None = None
    """File of the printed numbers, beside the suite."""
    data: tuple[DataSet, ...] = Field(min_length=1)
    """Data sets."""
    methods: tuple[str, ...] = ()
    """Controls, by the names of `sttrain bench --list`."""
    checkpoints: tuple[Checkpoint, ...] = ()
    """Models, given as `--checkpoint NAME=RUN`."""
    published: tuple[str, ...] = ()
    """Published models: `--weights NAME=DIR` runs one here, `--embedding` takes its vectors."""
    embeddings: tuple[MethodName, ...] = ()
    """Vectors of others, given as `--embedding NAME=FILE` or `--embedding DATA/NAME=FILE`."""
    metrics: tuple[str, ...] = Field(("accuracy", "ari_pred"), min_length=1)
    """Metrics of the tables of classifiers."""
    without: tuple[Exclusion, ...] = ()
    """Heads that single methods are not judged with."""
    probe: ProbeConfig | None = None
    """Classifiers under frozen splits."""
    cluster: ClusterConfig | None = None
    """Domains without labels."""
    reconstruct: ReconstructConfig | None = None
    """Hidden squares, filled by the checkpoints and by means."""

    def heads_of(self, method: str) -> tuple[HeadName, ...]:
        """Return the heads that a method is judged with; reductions go with their method."""
        heads = self.probe.heads if self.probe else ()
        left = {h for e in self.without if e.method == method for h in e.heads}
        return tuple(head for head in heads if head not in left)


def read_suite(path: Path, overrides: Mapping[str, Any] | None = None) -> Suite:
    """Read and check a suite.

    Parameters
    ----------
    path
        TOML file.
    overrides
        Values by dotted key, such as ``probe.seeds``, laid over it.

    Raises
    ------
    BadInputError
        No such file, or no TOML.
    BadUsageError
        Unknown keys, methods or metrics, names that stand twice, nothing to do: all at once.
    """
    try:
        value = parse_toml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        what = f"no suite could be read: {error}" if not isinstance(error, OSError) else "no file"
        fix = "give a .toml file; `sttrain bench --list` names those of this project"
        raise BadInputError(_problem(path, "B111", what, fix)) from error
    lay_over(value, overrides or {})
    suite = read_config(Suite, value, str(path))
    _require_sense(suite, path)
    return suite


def known_suites(folder: Path) -> list[Suite]:
    """Return the suites of a folder, names ascending; none where there is no folder.

    Raises
    ------
    StError
        The problems of every bad file at once.
    """
    return [read_suite(path) for path in sorted(folder.glob("*.toml"))]


def _require_sense(suite: Suite, path: Path) -> None:
    """Refuse what no run could make sense of, all at once."""
    errors: list[BadUsageError] = []
    for check in (_unknown_controls, _unknown_published, _other_faults):
        try:
            check(suite, path)
        except BadUsageError as error:
            errors.append(error)
    if errors:
        raise merge_errors(errors)


def _unknown_controls(suite: Suite, path: Path) -> None:
    del path
    find_methods(suite.methods)


def _unknown_published(suite: Suite, path: Path) -> None:
    del path
    for name in suite.published:
        find_published(name)


def _other_faults(suite: Suite, path: Path) -> None:
    models = [*suite.published, *suite.embeddings]
    for checkpoint in suite.checkpoints:
        models += [checkpoint.name]
        models += [untrained_name(checkpoint)] if checkpoint.untrained else []
    faults = [f"the name {name} stands twice" for name in _twice(models)]
    faults += [f"data set {name} stands twice" for name in _twice(d.name for d in suite.data)]
    if any(d.name == VECTORS for d in suite.data):
        faults.append(f"data set {VECTORS} has the name of the folder of vectors")
    faults += [f"'{name}' is the name of a control" for name in models if is_taken(name)]
    faults += [
        f"unknown metric '{name}', choose among {', '.join(METRICS)}"
        for name in suite.metrics
        if name not in METRICS
    ]
    known = {*suite.methods, *models}
    faults += [
        f"heads of '{e.method}' are left out, which the suite does not judge"
        for e in suite.without
        if e.method not in known
    ]
    if suite.probe is None and suite.cluster is None and suite.reconstruct is None:
        faults.append("no task; give [probe], [cluster] or [reconstruct]")
    if (suite.probe or suite.cluster) and not (models or suite.methods):
        faults.append("no method to judge")
    if faults:
        fix = "correct the suite; `sttrain bench --list` names what is known"
        raise BadUsageError(*(_problem(path, "V15", what, fix) for what in faults))


def untrained_name(checkpoint: Checkpoint) -> str:
    """Return the name of a checkpoint's first weights in tables."""
    return f"{checkpoint.name}-untrained"


def _twice(names: Iterable[str]) -> Sequence[str]:
    listed = list(names)
    return sorted({name for name in listed if listed.count(name) > 1})


def _problem(path: Path, code: str, what: str, fix: str) -> Problem:
    return Problem(code=code, subject=f"suite '{path.name}'", where=str(path), what=what, fix=fix)
