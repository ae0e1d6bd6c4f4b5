"""Shards: which sample goes where, and the writing of one shard file.

The plan is a pure function of keys, splits and configuration. A shard is a pure function of its
plan and the parts; its record is written last.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from stbuild.build.parts import PartReader, PartRecord, Sample
from stbuild.corpus import names
from stbuild.corpus.digests import chain_digest, sha256_file, sha256_json
from stbuild.corpus.documents import (
    Count,
    Document,
    Kind,
    Sha256,
    ShardConfig,
    ShardEntry,
    SplitName,
    read_document,
)
from stbuild.corpus.durable import write_durable
from stbuild.corpus.jsonio import dump_canonical
from stbuild.corpus.storage import read_file
from stbuild.corpus.tar import END
from stbuild.draws import hashed_order
from stbuild.tasks.parcels import Parcel, write_parcel
from stbuild.workspace import holder_of

_PATCHES_PER_SLICE_SAMPLE = 64
"""A whole slice weighs about as much as this many patches."""


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """The samples of one shard, in stored order."""

    path: str
    split: str
    kind: Kind
    generation: int
    licence: str | None
    """Licence class of all its slices."""
    samples: tuple[tuple[str, Sample], ...]
    """(slug, sample)."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys, in stored order."""
        return tuple(sample.key for _, sample in self.samples)


@dataclass(frozen=True, kw_only=True)
class Member:
    """What a slice must tell to be planned."""

    part: PartRecord
    generation: int
    licence: str | None
    """Licence class."""


def plan_shards(
    members: Sequence[Member], config: ShardConfig, earlier: Sequence[ShardPlan] = ()
) -> list[ShardPlan]:
    """Assign every sample of every part to a shard.

    A shard holds samples of one split, kind, generation and licence class. Within those, samples
    are ordered by the hash of (seed, key), so every shard mixes all slices and plain sequential
    reading trains well. Numbers go on over the generations, so an extension moves no shard.

    Parameters
    ----------
    members
        Parts of all slices.
    config
        Name, seed and samples per shard.
    earlier
        Shards of the generations before, which stand already.

    Returns
    -------
    list of ShardPlan
        Earlier ones included, by split, kind, generation, licence class and number.
    """
    groups: dict[_Group, list[tuple[str, Sample]]] = defaultdict(list)
    for member in members:
        for sample in member.part.samples:
            group = _Group(sample.split, sample.kind, member.generation, member.licence or "")
            groups[group].append((member.part.slug, sample))
    plans: dict[_Group, list[ShardPlan]] = defaultdict(list)
    for plan in earlier:
        plans[_Group(plan.split, plan.kind, plan.generation, plan.licence or "")].append(plan)
    for group in sorted(groups):
        same = (group.split, group.kind, group.licence)
        start = sum(len(p) for g, p in plans.items() if (g.split, g.kind, g.licence) == same)
        plans[group] = _fill_shards(group, groups[group], config, start)
    return [plan for group in sorted(plans) for plan in plans[group]]


class _Group(NamedTuple):
    split: str
    kind: Kind
    generation: int
    licence: str


def _fill_shards(
    group: _Group, samples: Sequence[tuple[str, Sample]], config: ShardConfig, start: int
) -> list[ShardPlan]:
    order = hashed_order("shard", config.seed, [sample.key for _, sample in samples])
    size = config.samples_per_shard
    if group.kind == "slice":
        size = max(1, size // _PATCHES_PER_SLICE_SAMPLE)
    licence = group.licence or None
    return [
        ShardPlan(
            path=names.shard_path(config.name, group.split, group.kind, number, licence),
            split=group.split,
            kind=group.kind,
            generation=group.generation,
            licence=licence,
            samples=tuple(samples[i] for i in order[first : first + size]),
        )
        for number, first in enumerate(range(0, len(order), size), start)
    ]


def plan_digest(plans: Sequence[ShardPlan]) -> str:
    """Return the digest of a plan: the path and keys of every shard, in order."""
    return sha256_json([[plan.path, list(plan.keys)] for plan in plans])


class ShardRecord(Document):
    """Says that a shard is done; scratch beside the parts."""

    format: Literal["stcorpus/shard"] = "stcorpus/shard"
    version: Literal[1] = names.VERSION
    fingerprint: Sha256
    keys: Sha256
    """Digest of the planned keys."""
    entry: ShardEntry


class PlanDocument(Document):
    """A plan as it lies in scratch for the task that writes the shard."""

    format: Literal["stcorpus/shard-plan"] = "stcorpus/shard-plan"
    version: Literal[1] = names.VERSION
    path: str
    split: SplitName
    kind: Kind
    generation: Count
    licence: str | None
    slugs: tuple[str, ...]
    samples: tuple[Sample, ...]


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """One shard to write, from :func:`shard_task`."""

    path: str
    """Of the shard, inside the corpus."""
    plan: Parcel
    root: Path
    """Corpus folder."""
    work: Path
    """Scratch folder with ``parts/`` and ``shards/``."""
    fingerprint: str

    @property
    def name(self) -> str:
        """Path of the shard, for messages."""
        return self.path

    @property
    def mark(self) -> Path:
        """File of the run that a worker must see."""
        return holder_of(self.work)


def shard_task(plan: ShardPlan, root: Path, work: Path, fingerprint: str) -> ShardTask:
    """Lay a shard's plan down in scratch and return the task that writes the shard.

    Parameters
    ----------
    plan
        The plan; a thousand samples of it weigh half a megabyte, so it does not travel.
    root, work
        Corpus folder and its scratch folder.
    fingerprint
        Of the whole build.

    Raises
    ------
    ResourceError
        The disk refuses.
    """
    document = PlanDocument(
        path=plan.path,
        split=plan.split,
        kind=plan.kind,
        generation=plan.generation,
        licence=plan.licence,
        slugs=tuple(slug for slug, _ in plan.samples),
        samples=tuple(sample for _, sample in plan.samples),
    )
    # Of a sample of a part no more is written than a `Sample` has.
    raw = dump_canonical(document.model_dump(mode="json"))
    return ShardTask(
        path=plan.path,
        plan=write_parcel(work, f"{Path(plan.path).name}.json", raw),
        root=root.absolute(),
        work=work.absolute(),
        fingerprint=fingerprint,
    )


def _read_plan(task: ShardTask) -> ShardPlan:
    found = read_document(PlanDocument, task.plan.read(), str(task.plan.path))
    return ShardPlan(
        path=found.path,
        split=found.split,
        kind=found.kind,
        generation=found.generation,
        licence=found.licence,
        samples=tuple(zip(found.slugs, found.samples, strict=True)),
    )


def write_shard(task: ShardTask) -> ShardEntry:
    """Write one shard from the parts, or return the entry of the finished one.

    Raises
    ------
    IntegrityError
        A part changed since it was written.
    ResourceError
        The disk refuses.
    """
    plan, path = _read_plan(task), task.root / task.path
    keys = sha256_json(list(plan.keys))
    record_path = task.work / "shards" / f"{Path(plan.path).name}.json"
    if record_path.is_file() and path.is_file():
        record = read_document(ShardRecord, read_file(record_path), str(record_path))
        same = record.fingerprint == task.fingerprint and record.keys == keys
        if same and sha256_file(path) == record.entry.sha256:
            return record.entry
    size, digest = write_durable(path, _blocks(task, plan), held=task.mark)
    entry = ShardEntry(
        path=plan.path,
        split=plan.split,
        kind=plan.kind,
        generation=plan.generation,
        licence=plan.licence,
        n_samples=len(plan.samples),
        bytes=size,
        sha256=digest,
        content=chain_digest((s.key, bytes.fromhex(s.content)) for _, s in plan.samples),
    )
    record = ShardRecord(fingerprint=task.fingerprint, keys=keys, entry=entry)
    write_durable(record_path, record.to_bytes())
    return entry


def _blocks(task: ShardTask, plan: ShardPlan) -> Iterator[bytes]:
    with PartReader(task.work / "parts") as reader:
        for slug, sample in plan.samples:
            yield reader.read(slug, sample)
    yield END
