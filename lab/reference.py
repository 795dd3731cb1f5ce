"""Writes docs/reference.md, the public names with their signatures, from the docstrings: `python -m lab.reference`."""

import inspect
import types
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import ovam
from lab.markdown import table
from ovam import methods

PAGE = Path(__file__).parent.parent / "docs" / "reference.md"
FUNCTIONS = ("load", "capture", "encode", "word_gains", "stream", "plan", "optimize_tokens")
"""In the order in which a user meets them; `written` fails where a public function is missing here."""

_START = """# Reference

Every public name of `ovam`, with its signature and what it does. `help(ovam.capture)` tells more: ranges, errors and
sources. Lines that use them are in [tasks](tasks.md).

The page is written by `python -m lab.reference` from the docstrings.

"""
_METHODS = """## Methods

[Published methods](methods.md) make masks instead of the library's own stages, such as
`ovam.methods.DAAM().segment(trace, words)`, or `ovam.methods.by_name("daam")`. Each has `name`, `requires` (for
`ovam.capture`), `requires_encoded` (for `ovam.encode`) and `segment`.

"""
_OPTIONS = """## Options

Each stage has one frozen object of options. Functions take its fields as keywords, so that you rarely make one
yourself. Values are checked when it is made.

"""


def written() -> str:
    """The whole page."""
    public = {name: getattr(ovam, name) for name in ovam.__all__ if name != "__version__"}
    functions = {name for name, value in public.items() if not isinstance(value, type)}
    if functions != set(FUNCTIONS):
        raise ValueError(f"public functions {functions.symmetric_difference(FUNCTIONS)}: expected each in FUNCTIONS")
    classes = [value for value in public.values() if isinstance(value, type)]
    options = [kind for kind in classes if kind.__name__.endswith("Options")]
    results = [kind for kind in classes if kind not in options]
    lines = [_START, "## Functions\n\n", *(_function(f"ovam.{name}", public[name]) for name in FUNCTIONS)]
    lines += [_METHODS, *(_method(kind) for kind in _methods())]
    lines += ["## Results\n\n", *(_result(kind) for kind in results)]
    lines += [_OPTIONS, *(_options(kind) for kind in options)]
    return "".join(lines).rstrip() + "\n"


def _methods() -> list[type]:
    """The methods that come with the package, whatever else was registered."""
    public = [getattr(methods, name) for name in methods.__all__]
    kinds = [each for each in public if isinstance(each, type) and issubclass(each, methods.Method)]
    return [kind for kind in kinds if kind is not methods.Method]


def _method(kind: type) -> str:
    """Fields of a published method: type, default and meaning."""
    about = _section(kind, "Attributes")
    rows = [
        (f"`{field.name}`", _type(field.annotation), f"`{_default(field)}`", about[field.name])
        for field in inspect.signature(kind).parameters.values()
    ]
    head = f"### ovam.methods.{kind.__name__}\n\n{_summary(kind)}\n\n"
    return f"{head}{table(('field', 'type', 'default', 'meaning'), rows)}\n"


def _function(name: str, function: Callable[..., Any]) -> str:
    return f"### {name}\n\n{_summary(function)}\n\n```text\n{_call(name, function)}\n```\n\n"


def _call(name: str, function: Callable[..., Any]) -> str:
    """The signature as it would be typed, at most 100 columns wide."""
    parts: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in parts:
            parts.append("*")
        stars = "**" if parameter.kind is parameter.VAR_KEYWORD else "*" * (parameter.kind is parameter.VAR_POSITIONAL)
        default = "" if parameter.default is parameter.empty else f"={_default(parameter)}"
        parts.append(f"{stars}{parameter.name}{default}")
    lines, line = [], f"{name}("
    for i, part in enumerate(parts):
        piece = part if i == len(parts) - 1 else f"{part}, "
        if len(line + piece) > 100:
            lines.append(line.rstrip())
            line = "    "
        line += piece
    return "\n".join([*lines, f"{line}){_returned(function)}"])


def _default(parameter: inspect.Parameter) -> str:
    """As it would be typed; three dots for what is made anew at each call."""
    text = repr(parameter.default)
    return "..." if text.startswith("<") else text


def _returned(function: Callable[..., Any]) -> str:
    """What a call gives; of a context manager nothing, which the summary tells."""
    found = getattr(function, "__annotations__", {}).get("return")
    name = found if isinstance(found, str) else getattr(found, "__name__", "")
    return "" if found is None or get_origin(found) is not None or name == "Any" else f" -> {name.strip(chr(34))}"


def _result(kind: type) -> str:
    """Attributes, properties and methods of a class."""
    about = [(f"`{name}`", text) for name, text in _section(kind, "Attributes").items()]
    methods = []
    for name, value in vars(kind).items():
        if name.startswith("_"):
            continue
        if isinstance(value, property | cached_property):
            about.append((f"`{name}`", _summary(value)))
        elif isinstance(value, staticmethod | types.FunctionType):
            methods.append((f"`{_call(name, getattr(kind, name))}`".replace("\n   ", ""), _summary(value)))
    tables = [table(("attribute", "what it is"), about)] if about else []
    tables += [table(("method", "what it does"), methods)] if methods else []
    return "\n".join([f"### ovam.{kind.__name__}\n\n{_summary(kind)}\n", *tables]) + "\n"


def _options(kind: type) -> str:
    """Fields of an options object: type, default and meaning."""
    about = _section(kind, "Attributes")
    rows = [
        (f"`{field.name}`", _type(field.annotation), f"`{_default(field)}`", about[field.name])
        for field in inspect.signature(kind).parameters.values()
    ]
    takers = [name for name in FUNCTIONS if _takes(getattr(ovam, name), kind)]
    takers += [
        f"{of.__name__}.{name}"
        for of in (ovam.Trace, ovam.AttentionMaps)
        for name in ("maps", "segment")
        if hasattr(of, name) and _takes(getattr(of, name), kind)
    ]
    about_it = f"{_summary(kind)} Taken as keywords by {', '.join(f'`{name}`' for name in takers)}."
    return f"### ovam.{kind.__name__}\n\n{about_it}\n\n{table(('field', 'type', 'default', 'meaning'), rows)}\n"


def _takes(function: Callable[..., Any], kind: type) -> bool:
    return set(inspect.signature(kind).parameters) <= set(inspect.signature(function).parameters)


def _summary(thing: object) -> str:
    """The first paragraph of a docstring on one line, without the reference to where it is told in full."""
    first = inspect.cleandoc(getattr(thing, "__doc__", None) or "").partition("\n\n")[0]
    return _plain(first.splitlines()).partition("; see `")[0].rstrip(".") + "."


def _section(kind: type, title: str) -> dict[str, str]:
    """Names and texts of a section of a class's docstring, and of those of the classes that it extends."""
    found: dict[str, list[str]] = {}
    for each in reversed(inspect.getmro(kind)):
        section = inspect.cleandoc(each.__doc__ or "").partition(f"{title}:\n")[2].partition("\n\n")[0]
        for line in section.splitlines():
            name, colon, text = line.strip().partition(": ")
            if colon and line.startswith("    ") and not line.startswith("     ") and name.isidentifier():
                entry = found[name] = [text]
            else:
                entry.append(line)
    return {name: _plain(lines) for name, lines in found.items()}


def _plain(lines: Iterable[str]) -> str:
    """Text on one line that a cell of a table holds."""
    return " ".join(" ".join(lines).split()).replace("|", "\\|")


def _type(annotation: Any) -> str:
    """A type in words that do not depend on the version of Python."""
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(_type(part) for part in get_args(annotation))
    if get_origin(annotation) is Literal:
        return " or ".join(f'"{value}"' for value in get_args(annotation))
    if annotation in (None, type(None)):
        return "None"
    name = str(getattr(annotation, "__name__", annotation)).replace("dtype", "torch.dtype")
    inside = get_args(annotation)
    return f"{name}[{', '.join(map(_type, inside))}]" if inside else name


if __name__ == "__main__":
    PAGE.write_text(written(), encoding="utf-8")
