"""The sections of docs/performance.md that tell how soon a token is there, from the JSON of their measurements."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lab.fits.methods import PUBLISHED, TUNED
from lab.markdown import interval, table
from lab.measure import Ratio, middle

Result = Mapping[str, Any]
SOONER_GOALS = {TUNED: 20.0, PUBLISHED: 50.0}
WHOLE_GOAL, FIT_GOAL = 3.0, 1.0
PROBLEMS = {"mini": "mini", "full_size": "SD 1.5 size"}

QUALITY = """## Time to quality

How many times faster a fit of ovam reaches the quality with which the authors' protocol ends. ovam's fit is run with
several numbers of `evaluations`, each time from the start, so every time is one that a user would see. The result is
the smallest number from which on the mean quality over all pairs is at least the rival's; the times are divided pair by
pair. The rivals are those of `lab/rivals/authors.py`, as published and re-tuned, on ovam's maps (the section above has
the time of an iteration of the authors' own code). The time is that of the whole fit, without scoring. If the smallest
number is the first one, the start may already be good enough, because it has everyday words beside the class's: compare
*nothing fitted*. There are two kinds of fits: with the default options, and with `rows=1, against=[]`, which has as
many vectors as the rivals, one for the class and one for the background.

* **mini**: {classes} annotations, one of each class, at the blocks and time steps of mini's report; quality is the IoU
  on the first {scenes} validation scenes, pooled over the scenes of a class, mean over classes.
* **SD 1.5 size**: random queries, {calls} denoiser calls, a disc as the mask; quality is the cross entropy between the
  mask and the class's map, with the best scale and offset for that map; neither fit minimises this loss. Fits have
  `pull=0` here: the pull keeps a token useful for other images, and with random queries there are none. The re-tuned
  protocol has the number of iterations that was chosen on mini; its learning rate, {rate:g}, is the best of {rates} on
  other queries.
"""

END = """## From an image and a mask to a token

`ovam.encode`, `ovam.optimize_tokens` and `TokenSet.save` on mini, from two PNG files to a file; the model is loaded.
There is one annotation for each of {classes} classes; times are medians over them, and the settings took turns. mIoU is
that of the tokens on the first {scenes} validation scenes, encoded with the same setting. The difference is to the
default, with its 95 % interval over classes and scenes. With a part of the channels, float32 queries are projected on
their strongest directions in each head before the fit; this is included in the fit's time. The scenes' own queries keep
all channels.
"""


def quality_goals(result: Result) -> list[list[str]]:
    """A row for each size, rival and series of fits."""
    rows = []
    for problem, label in PROBLEMS.items():
        for name, goal in SOONER_GOALS.items():
            for series, reached in result["problems"][problem]["rivals"][name]["reached"].items():
                text = f"{label}, {series}: as good as {name} at its end at least {goal:g}x sooner"
                if reached is None:
                    rows.append([text, "not reached", "no"])
                else:
                    found = Ratio(**reached["sooner"])
                    rows.append([text, str(found), verdict(found.median >= goal, found.low >= goal)])
    return rows


def end_goals(result: Result) -> list[list[str]]:
    """The whole way, and the fit alone, with the default settings."""
    usual = next(iter(result["settings"].values()))
    rows = []
    for text, seconds, goal in (
        ("image and mask to a saved token on mini", _whole(usual), WHOLE_GOAL),
        ("of that the fit", usual["fitting"], FIT_GOAL),
    ):
        found = middle(seconds)
        rows.append([f"{text}: at most {goal:g} s", _seconds(found), verdict(found.median <= goal, found.high <= goal)])
    return rows


def quality(result: Result) -> str:
    """The section of `time_to_quality`."""
    mini, full = (result["problems"][name] for name in PROBLEMS)
    text = QUALITY.format(
        classes=len(next(iter(mini["ours"].values()))["seconds"]),
        scenes=mini["scenes"],
        calls=full["calls"],
        rate=full["settings"][TUNED]["rate"],
        rates=", ".join(f"{each['rate']:g}" for each in full["tried"]),
    )
    header = ("Size", "Fit", "Quality", "Seconds", "As good with", "Sooner", "Pairs")
    rows = [row for problem, label in PROBLEMS.items() for row in _rows(result["problems"][problem], label)]
    return f"{text}\n{table(header, rows)}"


def _rows(problem: Result, label: str) -> list[list[str]]:
    kind = "mIoU" if problem["better"] == "higher" else "loss"

    def row(name: str, found: Result) -> list[str]:
        return [label, name, f"{kind} {found['quality']:.4f}", _seconds(middle(found["seconds"]))]

    rows = [[*row(name, found), "", "", str(len(found["seconds"]))] for name, found in problem["ours"].items()]
    for name, found in problem["rivals"].items():
        iterations = problem["settings"][name]["iterations"]
        for reached in found["reached"].values():
            given = ["not reached", ""] if reached is None else [reached["with"], str(Ratio(**reached["sooner"]))]
            rows.append([*row(f"{name}: {iterations} iterations", found), *given, str(len(found["seconds"]))])
    return rows


def end(result: Result) -> str:
    """The section of `end_to_end`."""
    kept = result["settings"]
    text = END.format(classes=len(next(iter(kept.values()))["fitting"]), scenes=result["scenes"])
    header = ("Setting", "Whole", "Encoding, s", "Fit", "Saving, s", "mIoU", "Difference")
    rows = [
        (
            name,
            _seconds(middle(_whole(found))),
            f"{np.median(found['encoding']):.2f}",
            _seconds(middle(found["fitting"])),
            f"{np.median(found['saving']):.3f}",
            f"{found['mIoU']:.3f}",
            interval(found.get("minus default")),
        )
        for name, found in kept.items()
    ]
    return f"{text}\n{table(header, rows)}"


def verdict(median_meets: bool, bound_meets: bool) -> str:
    """Whether a goal is met, by the median or by its bound as well."""
    if bound_meets:
        return "yes"
    return "by the median, the interval reaches beyond" if median_meets else "no"


def _whole(found: Result) -> list[float]:
    return [sum(each) for each in zip(found["encoding"], found["fitting"], found["saving"], strict=True)]


def _seconds(found: Ratio) -> str:
    return f"{found.median:.2f} s ({found.low:.2f} to {found.high:.2f})"
