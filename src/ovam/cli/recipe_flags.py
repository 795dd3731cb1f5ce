"""Flags for the fields of a recipe: one flag for each field, made from the field's facts, with its help."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from ovam.cli import inputs
from ovam.cli.arguments import words_of
from ovam.cli.stages import Row
from ovam.dataset.fields import FieldInfo, info_of, type_of
from ovam.dataset.recipe import SECTIONS


def flags_of(*sections: str) -> dict[str, Row]:
    """Return the flags of some sections, as a table of options for `taking`."""
    return {one.name: _row(SECTIONS[section], one) for section in sections for one in fields(SECTIONS[section])}


def _row(section: type[Any], one: Field[Any]) -> Row:
    kind, _ = type_of(section, one.name)
    default: Any = one.default
    info, flag = info_of(one), f"--{one.name.replace('_', '-')}"
    if kind is tuple and one.name != "templates":
        return Row(_typed(str, info, _shown(default), flag, callback=_texts(info)), words_of)
    if kind is tuple:
        return Row(_typed(list[str], info, _shown(default), flag, callback=inputs.text, metavar="<str>"))
    if kind is bool:
        return Row(_typed(bool, info, "", f"{flag}/--no-{flag[2:]}"))
    if kind is str:
        return Row(_typed(str, info, default, flag, callback=inputs.model if one.name == "model" else _chosen(info)))
    bounds: dict[str, Any] = {"min": kind(info.least), "max": kind(info.most), "metavar": f"<{kind.__name__}>"}
    finite = {"callback": inputs.finite} if kind is float else {}
    return Row(_typed(kind, info, f"{default:g}", flag, **bounds, **finite))


def _typed(kind: Any, info: FieldInfo, default: str, flag: str, **more: Any) -> Any:
    help = f"{info.help} One of {', '.join(filter(None, info.choices))}." if info.choices else info.help
    return Annotated[kind | None, typer.Option(flag, help=help, show_default=default or False, **more)]


def _shown(default: Sequence[str]) -> str:
    return ", ".join(default)


def _chosen(info: FieldInfo) -> Callable[[str | None], str | None]:
    def check(value: str | None) -> str | None:
        if value is not None and info.choices and value not in info.choices:
            raise typer.BadParameter(f"{value!r}: expected one of {', '.join(filter(None, info.choices))}")
        return value if value is None else inputs.text(value)

    return check


def _texts(info: FieldInfo) -> Callable[[str | None], str | None]:
    def check(value: str | None) -> str | None:
        if value is not None and info.files:
            for name in words_of(value):
                inputs.tokens(Path(name))
        return value if value is None else inputs.text(value)

    return check


FLAGS: Mapping[str, Row] = flags_of(*SECTIONS)
"""Flags of all sections."""

FILTERS: Mapping[str, Row] = flags_of("filters")
"""Flags of the filters alone."""
