"""The methods by name."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields
from typing import Any

from ovam.errors import OptionError
from ovam.methods.attn2mask import Attn2Mask
from ovam.methods.base import Method
from ovam.methods.daam import DAAM
from ovam.methods.dataset_diffusion import DatasetDiffusion
from ovam.methods.datasetdm import DatasetDM
from ovam.methods.grounded import Grounded
from ovam.methods.published import PublishedOVAM
from ovam.trace.blocks import BlockChoice

_NAME = re.compile(r"[\w-]+")
_METHODS: dict[str, Callable[[], Method]] = {
    method.name: method for method in (DAAM, Attn2Mask, PublishedOVAM, DatasetDiffusion)
}

TRAINED: Mapping[str, type[Grounded] | type[DatasetDM]] = {method.name: method for method in (Grounded, DatasetDM)}
"""Methods that need weights of their own, trained on the UNet of the trace."""


def names() -> tuple[str, ...]:
    """Return the names of all methods that need no weights of their own."""
    return tuple(_METHODS)


def by_name(name: str) -> Method:
    """Return the method of a name, with its published numbers.

    Raises:
        OptionError: no method has this name.
    """
    if not isinstance(name, str) or name not in _METHODS:
        if name in TRAINED:
            raise OptionError(
                f"method={name!r}, which needs weights: expected the method with its file, "
                f"ovam.methods.{TRAINED[name].__name__}(weights=FILE)"
            )
        raise OptionError(f"method={name!r}: expected one of {', '.join(map(repr, _METHODS))}")
    return _METHODS[name]()


def register(method: type[Method]) -> None:
    """Add your own method to `names` and `by_name`, or replace the one of its name.

    Args:
        method: A class derived from `Method`, with a `name` of letters, digits, "-" and "_", and a default for each of
            its fields.

    Raises:
        OptionError: it is something else.
    """
    if not isinstance(method, type) or not issubclass(method, Method):
        raise OptionError(f"{method!r} is no method: expected a class derived from ovam.methods.Method")
    name = getattr(method, "name", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise OptionError(
            f"{method.__name__}.name is {name!r}: expected a class variable of letters, digits, '-' and '_', as in "
            'name: ClassVar[str] = "mine"'
        )
    lacking = [field.name for field in fields(method) if field.default is MISSING and field.default_factory is MISSING]
    if lacking:
        raise OptionError(
            f"{method.__name__} has no default for {', '.join(lacking)}: expected one for each field, so that "
            f"ovam.methods.by_name({name!r}) can make it"
        )
    _METHODS[name] = method


def requires_of(methods: Iterable[Method]) -> dict[str, Any]:
    """Return options of `ovam.capture` with which one trace has what all these methods need.

    Raises:
        OptionError: two methods need different values of an option other than `blocks`, `guidance` and `steps`.
    """
    each = [dict(method.requires) for method in methods]
    halves = {needs.pop("guidance", "cond") for needs in each}
    steps = [needs.pop("steps", None) for needs in each]
    blocks = [needs.pop("blocks") for needs in each if "blocks" in needs]
    options: dict[str, Any] = {}
    if blocks:
        options["blocks"] = blocks[0] if blocks.count(blocks[0]) == len(blocks) else _joined(blocks)
    if halves != {"cond"} and each:
        options["guidance"] = halves.pop() if len(halves) == 1 else "both"
    if steps and steps[0] is not None and steps.count(steps[0]) == len(steps):
        options["steps"] = steps[0]
    for option, value in ((option, value) for needs in each for option, value in needs.items()):
        if options.setdefault(option, value) != value:
            raise OptionError(
                f"{option}={value!r} for one method, but {option}={options[option]!r} for another: expected one value; "
                "capture a run for each"
            )
    return options


def _joined(choices: Iterable[BlockChoice]) -> list[Any]:
    """Return the entries of several choices of blocks, each once."""
    entries = [entry for one in choices for entry in ([one] if isinstance(one, str | int) else one or ())]
    return list(dict.fromkeys(entries))
