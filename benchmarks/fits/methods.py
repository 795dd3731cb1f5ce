"""The methods by name: how each makes a class's scores from annotations, and all that it depends on."""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Literal

from benchmarks.fits import ours
from benchmarks.rivals import authors, slime, words
from benchmarks.rivals.harness import Fitted, Mask
from ovam.tokens.optimize import optimize_tokens
from ovam.trace import Trace

WORD, DEFAULT, TUNED, PUBLISHED, SCRIPT, SLIME, TWENTY, OWN = (
    "word",
    "default",
    "authors, tuned",
    "authors, published",
    "authors, script",
    "SLiMe, published",
    "20 annotations",
    "own mask",
)

Fit = Callable[[Sequence[Trace], Sequence[Mask], str], Fitted]
Taken = Literal["one", "twenty", "own"]


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        name: Of the row.
        fit: From traces, masks and a class to the class's scores in any trace.
        settings: Everything that was chosen for it.
        taken: Annotations of a fit: one of the draws, the first twenty at once, or the mask that is scored.
        drawn: Whether other draws give another result.
    """

    name: str
    fit: Fit = field(repr=False)
    settings: Mapping[str, Any]
    taken: Taken = "one"
    drawn: bool = True


def registry(chosen: Mapping[str, Any]) -> dict[str, Method]:
    """All methods of a name.

    Args:
        chosen: What `tune` found; methods that need what it lacks are left out.
    """
    default = variant({})
    found = [
        default,
        _rival(PUBLISHED, authors, authors.PUBLISHED),
        _rival(SCRIPT, authors, authors.SCRIPT),
        _rival(SLIME, slime, slime.PUBLISHED),
        Method(TWENTY, default.fit, default.settings, "twenty", drawn=False),
        Method(OWN, default.fit, default.settings, "own", drawn=False),
    ]
    if WORD in chosen:
        found.insert(0, _rival(WORD, words, words.Settings(**chosen[WORD]), drawn=False))
    if TUNED in chosen:
        found.insert(2, _rival(TUNED, authors, authors.Settings(**chosen[TUNED])))
    return {method.name: method for method in found}


def variant(options: Mapping[str, Any]) -> Method:
    """`optimize_tokens` with these keyword arguments, and its defaults beside them."""
    known = inspect.signature(optimize_tokens).parameters.values()
    settings = {each.name: each.default for each in known if each.default is not each.empty} | dict(options)
    text = ", ".join(f"{name} {json.dumps(value)}" for name, value in options.items())
    return Method(text or DEFAULT, partial(ours.fit, dict(options)), settings)


def _rival(name: str, rival: Any, settings: Any, *, drawn: bool = True) -> Method:
    return Method(name, partial(rival.fit, settings=settings), asdict(settings), drawn=drawn)
