"""From what a suite asks for and what is given on the command line to a plan of work.

Whatever is asked for and not given is told by name; nothing is left out in silence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from sttrain.adapters.published import METHODS as PUBLISHED
from sttrain.bench.suite import Checkpoint, Suite
from sttrain.errors import BadUsageError, Problem
from sttrain.judge.candidates import EmbeddingFile, parse_embedding


@dataclass(frozen=True, kw_only=True)
class Given:
    """What the command line names, for all data sets or, as ``DATA/NAME``, for one of them."""

    data: Mapping[str, Path]
    """Corpora by ``NAME`` or ``NAME/VIEW``."""
    checkpoints: Mapping[str, Path]
    """Runs or released weights by ``NAME`` or ``DATA/NAME``."""
    weights: Mapping[str, Path]
    """Folders of published weights by method."""
    embeddings: Mapping[str, EmbeddingFile]
    """Files of vectors by ``NAME`` or ``DATA/NAME``."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A checkpoint on one data set."""

    checkpoint: Checkpoint
    run: Path
    corpus: Path
    """The corpus that it is embedded on."""


@dataclass(frozen=True, kw_only=True)
class DataPlan:
    """What is to be judged on one data set."""

    name: str
    folder: Path
    models: tuple[Model, ...]
    published: Mapping[str, Path | None]
    """Folders of weights by method; none where a method takes none."""
    embeddings: tuple[EmbeddingFile, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be done, and what cannot be."""

    data: tuple[DataPlan, ...]
    missing: tuple[Problem, ...]


def parse_given(
    data: Sequence[str],
    checkpoints: Sequence[str],
    weights: Sequence[str],
    embeddings: Sequence[str],
) -> Given:
    """Read the options of a command line.

    Raises
    ------
    BadUsageError
        Another form, or a name given twice.
    """
    return Given(
        data=_parse_paths("--data", data, "her2st=eval/"),
        checkpoints=_parse_paths("--checkpoint", checkpoints, "ours=run/"),
        weights=_parse_paths("--weights", weights, "scgpt=scGPT_human/"),
        embeddings=_parse_files(embeddings),
    )


def make_plan(suite: Suite, given: Given, beside: Path) -> Plan:
    """Lay what is given over what a suite asks for.

    Parameters
    ----------
    suite
        The suite.
    given
        Corpora, checkpoints, weights and vectors.
    beside
        Folder that paths of the suite are relative to.

    Raises
    ------
    BadUsageError
        Something is given that the suite does not ask for; the nearest name is suggested.
    """
    _require_asked(suite, given)
    folders = {d.name: beside / d.folder for d in suite.data if d.folder is not None}
    folders |= {name: path for name, path in given.data.items() if "/" not in name}
    missing = [
        _missing(f"data set '{d.name}'", f"--data {d.name}=FOLDER")
        for d in suite.data
        if d.name not in folders
    ]
    plans = []
    for entry in suite.data:
        if entry.name in folders:
            found, lacking = _plan_data(suite, given, entry.name, folders[entry.name])
            plans.append(found)
            missing += [problem for problem in lacking if problem not in missing]
    return Plan(data=tuple(plans), missing=tuple(missing))


def _plan_data(
    suite: Suite, given: Given, name: str, folder: Path
) -> tuple[DataPlan, list[Problem]]:
    missing: list[Problem] = []
    models: list[Model] = []
    for checkpoint in suite.checkpoints:
        view = folder if checkpoint.view is None else given.data.get(f"{name}/{checkpoint.view}")
        runs = given.checkpoints
        run = runs.get(f"{name}/{checkpoint.name}") or runs.get(checkpoint.name)
        if run is None:
            subject = f"checkpoint '{checkpoint.name}' ({checkpoint.what})"
            missing.append(_missing(subject, f"--checkpoint {checkpoint.name}=RUN"))
        if view is None:
            subject = f"data set '{name}' as '{checkpoint.view}' ({checkpoint.what})"
            missing.append(_missing(subject, f"--data {name}/{checkpoint.view}=FOLDER"))
        if run is not None and view is not None:
            models.append(Model(checkpoint=checkpoint, run=run, corpus=view))
    published: dict[str, Path | None] = {}
    files: list[EmbeddingFile] = []
    for method in (*suite.published, *suite.embeddings):
        file = given.embeddings.get(f"{name}/{method}") or given.embeddings.get(method)
        runs_here = method in suite.published and (
            method in given.weights or PUBLISHED[method].weights != "required"
        )
        if file is not None:
            files.append(file)
        elif runs_here:
            published[method] = given.weights.get(method)
        else:
            option = f"--embedding {name}/{method}=FILE"
            if method in suite.published:
                option = f"--weights {method}=DIR or {option}"
            missing.append(_missing(f"vectors of '{method}' on '{name}'", option))
    plan = DataPlan(
        name=name,
        folder=folder,
        models=tuple(models),
        published=published,
        embeddings=tuple(files),
    )
    return plan, missing


def _require_asked(suite: Suite, given: Given) -> None:
    """Refuse what the suite has no use for: most often a name that was mistyped."""
    data = [d.name for d in suite.data]
    views = [f"{d}/{c.view}" for d in data for c in suite.checkpoints if c.view is not None]
    models = [checkpoint.name for checkpoint in suite.checkpoints]
    vectors = [*suite.published, *suite.embeddings]
    asked = {
        "--data": (given.data, [*data, *views]),
        "--checkpoint": (given.checkpoints, _for_each(data, models)),
        "--weights": (given.weights, list(suite.published)),
        "--embedding": (given.embeddings, _for_each(data, vectors)),
    }
    problems = []
    for option, (names, known) in asked.items():
        for name in names:
            if name not in known:
                near = get_close_matches(name, known, n=1, cutoff=0.4)
                hint = f"did you mean '{near[0]}'? " if near else ""
                fix = f"{hint}it asks for: {', '.join(dict.fromkeys(known)) or 'none'}"
                what = f"suite '{suite.name}' asks for no {option[2:]} of this name"
                problems.append(Problem(code="V03", subject=f"{option} {name}", what=what, fix=fix))
    if problems:
        raise BadUsageError(*problems)


def _for_each(data: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return names alone, then each with each data set before it."""
    return [*names, *(f"{d}/{name}" for d in data for name in names)]


def _parse_paths(option: str, texts: Sequence[str], example: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    problems = []
    for text in texts:
        name, _, place = text.partition("=")
        if not name or not place or name in found:
            what = "given twice" if name in found else "NAME=PATH was expected"
            problems.append(_usage(f"{option} {text}", what, f"such as {option} {example}"))
        found[name] = Path(place)
    if problems:
        raise BadUsageError(*problems)
    return found


def _parse_files(texts: Sequence[str]) -> dict[str, EmbeddingFile]:
    found: dict[str, EmbeddingFile] = {}
    for text in texts:
        label = text.partition("=")[0]
        data, slash, _ = label.partition("/")
        file = parse_embedding(text.removeprefix(f"{data}/") if slash else text)
        key = f"{data}/{file.name}" if slash else file.name
        if key in found:
            raise BadUsageError(_usage(f"--embedding {text}", "given twice", "leave one out"))
        found[key] = file
    return found


def _missing(subject: str, option: str) -> Problem:
    what = "the suite asks for it and it is not given"
    return Problem(
        code="V25",
        subject=subject,
        what=what,
        fix=f"give {option}, or leave it out: --skip-missing",
    )


def _usage(subject: str, what: str, fix: str) -> Problem:
    return Problem(code="V15", subject=subject, what=what, fix=fix)
