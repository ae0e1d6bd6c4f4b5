"""The command ``stbuild publish``."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import rich_click as click

from stbuild.commands.options import Command, shared_options
from stbuild.commands.push import push_options, refuse_url_output, run_push
from stbuild.corpus.documents import read_config
from stbuild.publish.options import PublishOptions
from stbuild.screen import Screen, format_size


def _said(
    name: str, flag: str | None = None, *, many: bool = False
) -> Callable[[Command], Command]:
    """Make the option of one field of :class:`PublishOptions`."""
    text = PublishOptions.model_fields[name].description
    option = flag or f"--{name.replace('_', '-')}"
    more = " Repeatable." if many else ""
    return click.option(option, name, multiple=many, default=None, help=f"{text}{more}")


@click.command()
@click.argument("corpus", type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(), help="Folder of the release.")
@_said("leave_out", many=True)
@_said("stated", "--i-may-redistribute", many=True)
@_said("title")
@_said("description")
@_said("authors", "--author", many=True)
@_said("url")
@click.option("--citation", type=click.Path(exists=True, dir_okay=False),
              help="File with the citation, such as BibTeX.")  # fmt: skip
@_said("date")
@_said("release_version")
@click.option(
    "--push",
    "target",
    help="Send it on: hf:ORG/NAME, zenodo, s3://BUCKET/PREFIX ...; see `stbuild push`.",
)
@push_options
@shared_options
def publish(
    corpus: str, output: str, citation: str | None, target: str | None, **flags: Any
) -> None:
    """Make a release of a finished CORPUS: card, Croissant, licences, provenance, checksums.

    The corpus is verified first. Slices whose licence is unknown or does not allow it are refused
    by name.

    Example: stbuild publish train/ -o release/ --title "Our corpus" --author "A. Lab"

    And sent on, after a look at what that means: ... --push hf:our-lab/our-corpus --dry-run
    """
    from stbuild.publish.release import publish_release

    refuse_url_output(output)
    screen = Screen(quiet=flags["quiet"], as_json=flags["as_json"])
    said = {name: flags[name] for name in PublishOptions.model_fields if flags.get(name)}
    if citation is not None:
        said["citation"] = Path(citation).read_text("utf-8").strip()
    options = read_config(PublishOptions, said, "command line")
    with screen.progress() as start:
        summary = publish_release(
            Path(corpus), Path(output), options, datetime.now(UTC), started=start
        )
    document, release = summary.document, summary.release
    lines = [f"release of {document.name} in {output}: {document.corpus_id}"]
    if summary.already_done:
        lines.append("it is finished already; nothing was written")
    classes = ", ".join(entry.name for entry in release.licences)
    lines.append(
        f"{len(document.slices)} slices, {len(document.shards)} shards, "
        f"{format_size(summary.n_bytes)}; licences: {classes}"
    )
    if release.left_out:
        lines.append(f"left out: {', '.join(release.left_out)}")
    value = {
        "corpus_id": document.corpus_id,
        "left_out": release.left_out,
        "licences": [entry.name for entry in release.licences],
        "bytes": summary.n_bytes,
        "already_done": summary.already_done,
    }
    if target is None:
        screen.result(value, lines)
        return
    for line in lines:
        screen.say(line)
    run_push(Path(output), target, screen, flags)
