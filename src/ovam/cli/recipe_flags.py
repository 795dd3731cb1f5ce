"""Flags for the fields of a recipe: one flag for each field, made from the field's facts, with its help."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from ovam.cli import inputs
from ovam.cli.arguments import words_of
from ovam.cli.stages import Row
from ovam.dataset.fields import Told, told_of, type_of
from ovam.dataset.recipe import SECTIONS


def flags_of(*sections: str) -> dict[str, Row]:
    """Return the flags of some sections, as a table of options for `taking`."""
    return {one.name: _row(SECTIONS[section], one) for section in sections for one in fields(SECTIONS[section])}


def _row(section: type[Any], one: Field[Any]) -> Row:
    kind, _ = type_of(section, one.name)
    default: Any = one.default
    told, flag = told_of(one), f"--{one.name.replace('_', '-')}"
    if kind is tuple and one.name != "templates":
        return Row(_typed(str, told, _shown(default), flag, callback=_texts(told)), words_of)
    if kind is tuple:
        return Row(_typed(list[str], told, _shown(default), flag, callback=inputs.text, metavar="<str>"))
    if kind is bool:
        return Row(_typed(bool, told, "", f"{flag}/--no-{flag[2:]}"))
    if kind is str:
        return Row(_typed(str, told, default, flag, callback=inputs.model if one.name == "model" else _chosen(told)))
    bounds: dict[str, Any] = {"min": kind(told.least), "max": kind(told.most), "metavar": f"<{kind.__name__}>"}
    finite = {"callback": inputs.finite} if kind is float else {}
    return Row(_typed(kind, told, f"{default:g}", flag, **bounds, **finite))


def _typed(kind: Any, told: Told, default: str, flag: str, **more: Any) -> Any:
    help = f"{told.help} One of {', '.join(filter(None, told.choices))}." if told.choices else told.help
    return Annotated[kind | None, typer.Option(flag, help=help, show_default=default or False, **more)]


def _shown(default: Sequence[str]) -> str:
    return ", ".join(default)


def _chosen(told: Told) -> Callable[[str | None], str | None]:
    def check(value: str | None) -> str | None:
        if value is not None and told.choices and value not in told.choices:
            raise typer.BadParameter(f"{value!r}: expected one of {', '.join(filter(None, told.choices))}")
        return value if value is None else inputs.text(value)

    return check


def _texts(told: Told) -> Callable[[str | None], str | None]:
    def check(value: str | None) -> str | None:
        if value is not None and told.files:
            for name in words_of(value):
                inputs.tokens(Path(name))
        return value if value is None else inputs.text(value)

    return check


FLAGS: Mapping[str, Row] = flags_of(*SECTIONS)
"""Flags of all sections."""

FILTERS: Mapping[str, Row] = flags_of("filters")
"""Flags of the filters alone."""
