"""``--set KEY=VALUE``: single keys of a TOML document, from the command line."""

from collections.abc import Mapping, Sequence
from typing import Any

from stbuild.corpus.toml import parse_toml
from sttrain.errors import BadUsageError, Problem


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Parse ``key=value`` texts; values are TOML, or plain text where they are not.

    Raises
    ------
    BadUsageError
        A text without ``=``, or a key that is set twice to different values.
    """
    parsed: dict[str, Any] = {}
    for text in settings:
        key, equals, raw = text.partition("=")
        if not equals or not key.strip():
            fix = "write key=value, such as optimizer.lr=3e-4 or probe.seeds=3"
            raise BadUsageError(config_problem("--set", f"{text!r} sets nothing", fix))
        try:
            value = parse_toml(f"value = {raw}")["value"]
        except ValueError:
            value = raw.strip()
        key = key.strip()
        if parsed.setdefault(key, value) != value:
            raise BadUsageError(twice_set(key, parsed[key], value))
    return parsed


def twice_set(key: str, first: object, second: object) -> Problem:
    """Return the problem of a key that the command line sets to two values."""
    what = f"key '{key}' is set to {first!r:.40} and to {second!r:.40}"
    return config_problem("command line", what, "say it once")


def lay_over(value: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    """Set keys of a document, such as ``optimizer.lr``; sections that are not there are made.

    Raises
    ------
    BadUsageError
        A key below something that is no section.
    """
    for key, item in overrides.items():
        _assign(value, key, item)


def _assign(value: dict[str, Any], key: str, item: object) -> None:
    *sections, last = key.split(".")
    for section in sections:
        inner = value.setdefault(section, {})
        if not isinstance(inner, dict):
            fix = "give the key as section.name, such as optimizer.lr"
            raise BadUsageError(
                config_problem(f"key '{key}'", f"'{section}' is not a section", fix)
            )
        value = inner
    value[last] = item


def config_problem(where: str, what: str, fix: str) -> Problem:
    """Return a problem of a recipe or suite: a file, a key or a flag."""
    return Problem(code="B111", subject="config", where=where, what=what, fix=fix)
