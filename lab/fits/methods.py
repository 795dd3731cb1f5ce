"""The methods by name: how each makes a class's scores from annotations, and all that it depends on."""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from typing import Any, Literal

from lab.fits import ours, trials
from lab.fits.traces import PLAIN, View
from lab.rivals import authors, slime, words
from lab.rivals.harness import Fitted, Mask
from ovam.tokens.optimize import optimize_tokens
from ovam.tokens.options import PULL
from ovam.trace.trace import Trace

WORD, DEFAULT, TUNED, PUBLISHED, SCRIPT, SLIME, SLIME_TUNED, TWENTY, OWN = (
    "word",
    "default",
    "authors, tuned",
    "authors, published",
    "authors, script",
    "SLiMe, published",
    "SLiMe, tuned",
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
        views: How each annotated scene is looked at, once or several times.
    """

    name: str
    fit: Fit = field(repr=False)
    settings: Mapping[str, Any]
    taken: Taken = "one"
    drawn: bool = True
    views: Sequence[View] = (PLAIN,)


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
    if SLIME_TUNED in chosen:
        found.append(_rival(SLIME_TUNED, slime, slime.Settings(**chosen[SLIME_TUNED])))
    return {method.name: method for method in found}


def variant(options: Mapping[str, Any]) -> Method:
    """The default fit, but for these options.

    Args:
        options: Keyword arguments of `optimize_tokens`; or of a `trials.Trial`; and how each annotated scene is looked
            at: `noises`, the number of its noises, `mirrored`, its mirror image as well, and `timesteps`. Several views
            are of one annotation, which tells no more than one: the pull stays that of one.
    """
    text = ", ".join(f"{name} {json.dumps(value)}" for name, value in options.items())
    views = _views(options)
    own = {name: value for name, value in options.items() if name not in _OF_VIEWS}
    if len(views) > 1:
        own["pull"] = len(views) * own.get("pull", PULL)
    known = inspect.signature(optimize_tokens).parameters.values()
    settings = {each.name: each.default for each in known if each.default is not each.empty} | dict(options)
    tried = {each.name for each in fields(trials.Trial)} - {"pull", "rows"}
    fit = partial(trials.fit, trials.Trial(**own)) if tried & own.keys() else partial(ours.fit, own)
    return Method(text or DEFAULT, fit, settings, views=views)


_OF_VIEWS = ("noises", "mirrored", "timesteps")


def _views(options: Mapping[str, Any]) -> list[View]:
    timesteps = options.get("timesteps")
    return [
        View(noise, mirrored, timesteps and tuple(timesteps))
        for mirrored in ((False, True) if options.get("mirrored") else (False,))
        for noise in range(options.get("noises", 1))
    ]


def _rival(name: str, rival: Any, settings: Any, *, drawn: bool = True) -> Method:
    return Method(name, partial(rival.fit, settings=settings), asdict(settings), drawn=drawn)
