"""Files that hold several sections: one record becomes one per section, before any work."""

from collections.abc import Sequence
from dataclasses import replace

from stbuild.config import GridConfig
from stbuild.corpus.documents import as_error
from stbuild.corpus.errors import BadInputError, Problem, StError
from stbuild.corpus.names import slugify
from stbuild.manifests.manifest import Manifest
from stbuild.reading.jail import Limits, list_jailed
from stbuild.reading.opening import list_sections
from stbuild.slices import SliceRecord


def expand_sections(manifest: Manifest, config: GridConfig, limits: Limits | None) -> Manifest:
    """Replace every record that is to be split by one record per section, sorted by name.

    A file whose sections cannot be listed stays one record: its own task refuses it, among the
    problems of all the others.

    Parameters
    ----------
    manifest
        Records; those with ``split_by`` and without ``part`` are replaced.
    config
        How the files are read.
    limits
        Read in a child process with these limits; None reads here.

    Raises
    ------
    StError
        Ids that clash.
    """
    if not any(_is_open(record) for record in manifest.records):
        return manifest
    records: list[SliceRecord] = []
    for record in manifest.records:
        if not _is_open(record):
            records.append(record)
            continue
        try:
            found = (
                list_sections(record, config)
                if limits is None
                else list_jailed(record, config, limits)
            )
        except StError:
            records.append(record)
            continue
        records += [_section(record, part) for part in found]
    if error := as_error(_clashes(records), BadInputError):
        raise error
    return replace(manifest, records=tuple(records))


def _is_open(record: SliceRecord) -> bool:
    return record.split_by is not None and record.part is None


def _section(record: SliceRecord, part: str) -> SliceRecord:
    name = f"{record.name}-{part}"
    return replace(record, name=name, slug=slugify(name), part=part, section=record.section or part)


def _clashes(records: Sequence[SliceRecord]) -> list[Problem]:
    seen: dict[str, SliceRecord] = {}
    found = []
    for record in records:
        other = seen.setdefault(record.slug, record)
        if other is not record:
            found.append(
                Problem(
                    code="B092",
                    subject=f"slice '{record.name}'",
                    where=record.path,
                    what=f"its id becomes '{record.slug}', as that of slice '{other.name}' does",
                    fix="name the sections so that they differ in letters or digits",
                )
            )
    return found
