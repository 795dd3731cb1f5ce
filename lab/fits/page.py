"""docs/tokens-measured.md, from the JSON of the measurements: every word of it comes from here."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lab.fits.bars import bars, holds_alone, over_word
from lab.fits.generated import TRUTHS
from lab.fits.methods import DEFAULT, OWN, TWENTY, WORD
from lab.fits.outcome import OWN_SCENES
from lab.fits.scenes import FIRST, LEAST_ANNOTATED, LEAST_SCORED, MOST_WITHOUT, UNUSED
from lab.mini.measures.bars import Bar
from ovam.evaluate import Interval

SPLITS = ("test", "validation", *TRUTHS)
MODEL = "mini"
TITLES = {
    "test": "On test scenes",
    "validation": "On validation scenes",
    "generated": "On generated pictures, where both oracles agree",
    "generated-a": "On generated pictures, by oracle A alone",
    "generated-b": "On generated pictures, by oracle B alone",
}

HEAD = f"""# Tokens, measured

See how well a token that was fitted to **one** annotation works on other pictures. Every method is fitted to one
annotated scene of a class, and then finds the class in other scenes of [{MODEL}](mini.md), whose masks are exact. All
methods get the same queries and the same masks.

* **Annotations** are scenes of the training split that no training used (index {UNUSED:,} on) and that show one named
  thing alone, on {LEAST_ANNOTATED:.0%} of the pixels or more. Draw d of a class is its d-th such scene: fixed in
  advance, none left out.
* **Scored** are the first scenes of validation, on which settings were chosen, and scenes of test from number
  {FIRST["test"]} on. (The test scenes before that number were used for tables while the defaults were still being
  changed; these were not.) A scene is scored for each class that covers more than {LEAST_SCORED:.0%} of it.
* Generated pictures ("a photograph of a dog", and of two classes) are labelled by the
  [oracles](mini-measured.md#oracles), two segmentation networks; the page on mini shows their errors. Pixels on whose
  class they differ are ignored. Annotations are scenes here too, and thresholds are those for scenes. **As long as the
  oracles miss their own bars, no claim rests on these figures.**
* Every scene or picture enters through `ovam.encode` with the empty prompt and noise seeded by the scene, at the
  blocks and time steps that the report of {MODEL} chose on validation scenes.
* The class is known, and nothing else is segmented; a pixel belongs to the class if its score is above the method's own
  threshold. The word and the re-tuned protocol of the authors need a threshold, one for all classes.
  `python -m lab.fits tune` chose it on validation scenes and ten classes, together with the learning rates and numbers
  of iterations of the rivals; more rates were tried until the best one was neither the lowest nor the highest.
  `lab/fits/chosen.json` has the choices, and all that was tried. The word beside everyday words, which is where the
  default starts and which needs no annotation, is on [a page of its own](tokens-gain.md).
"""

COLUMNS = f"""**mIoU** pools the pixels of a class's scenes, and is the mean over classes and draws; for **IoU by
image** the mean over images is taken first. Differences of mIoU have their 95 % interval, from a bootstrap over
classes, draws and scenes. **AP** (average precision) needs no threshold. **Elsewhere** is the share of pixels above the
threshold in scenes without the class ({MOST_WITHOUT} at most), **own scene** the IoU on the annotations themselves,
**seconds** the median time of a fit alone. `{TWENTY}` and `{OWN}` are upper bounds: the default fitted to twenty
annotations at once, and to the same mask that is scored. The latter uses only {OWN_SCENES} scenes for each class. So
its mIoU is not comparable with the other rows; but its differences are, because both sides use these scenes.

A row that is named by options is the default with these options changed. `rows`, `evaluations`, `pull`, `distance` and
`against` are options of `ovam.optimize_tokens`. The others are trials that it does not offer (`lab/fits/trials.py`).
`noises`: the annotated picture is encoded this many times. `mirrored`: its mirror image is used as well. `timesteps`:
the annotated picture is encoded at these time steps. `weighted`: a weight of each block or head is fitted too. `heads`:
only this share of the heads is used, those in which the word fits the annotation best. `spread`: maps are refined by
the self-attention of this grid, in the fit and afterwards. `spread_asked`: the same for an ordinary fit, and only
afterwards.
"""


NAMES = SPLITS


def write(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The page; a section for each split that was measured."""
    if not results:
        return f"{HEAD}\nNothing has been measured yet: `python -m lab.fits` writes it here.\n"
    parts = [HEAD, COLUMNS, _bars(results)]
    parts += [_section(name, results[name]) for name in NAMES if name in results]
    return "\n".join(parts)


def _bars(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Judged on the test split where that was measured, else on validation, which says so."""
    split = next(split for split in NAMES if split in results)
    judged = [(split, bar) for bar in bars(results[split], results[split]["stamp"]["headroom"])]
    for truth, oracles in TRUTHS.items():
        if truth in results:
            found = results[truth]
            bar = holds_alone(found) if len(oracles) == 1 else over_word(found, found["stamp"]["headroom"])
            judged.append((truth, bar))
    rows = [(bar.goal, on, bar.found, "yes" if bar.met else "**no**") for on, bar in judged]
    verdict = _verdict([bar for _, bar in judged], split)
    return f"## Bars\n\n{verdict}\n\n" + _table(("Bar", "On", "Measured", "Met"), rows)


def _verdict(judged: Sequence[Bar], split: str) -> str:
    met = sum(bar.met for bar in judged)
    unmeasured = sum("not measured" in bar.found for bar in judged)
    text = f"{met} of {len(judged)} bars are met, {len(judged) - met - unmeasured} are missed"
    text += f", {unmeasured} are not measured." if unmeasured else "."
    if split == "validation":
        text += " The test split has not been looked at: these figures are of the scenes on which settings were chosen."
    return text


def _section(name: str, result: Mapping[str, Any]) -> str:
    made, split = result["stamp"], result["split"]
    quick = " **A quick run, not for publication.**" if made["quick"] else ""
    first = FIRST.get(split, 0)
    scored = f"{result['scenes']} pictures" if split in TRUTHS else f"Scenes {first} to {first + result['scenes'] - 1}"
    intro = (
        f"{scored}; {_scenes(result)} pairs of one and a class; "
        f"{len(next(iter(result['methods'].values()))['classes'])} classes, {result['draws']} draws.{quick}"
    )
    parts = [f"## {TITLES[split]}\n\n{intro}\n", _methods(result["methods"])]
    if result.get("slices"):
        parts.append(_slices(result["slices"]))
    parts.append(_classes(result["methods"]))
    versions = ", ".join(f"{name} {number}" for name, number in made["versions"].items())
    code = f", code {made['code']}" if "code" in made else ""  # of results before the version stood for it
    parts.append(
        f"`{made['command']}`, {made['date']}, model {made['model']}, threads: {made['threads']}, "
        f"{made['processor']}, {versions}{code}; figures and settings: "
        f"[JSON](results/tokens/{name}.json).\n"
    )
    return "\n".join(parts)


def _scenes(result: Mapping[str, Any]) -> int:
    return max(each["scenes"] for each in result["methods"].values())


def _methods(methods: Mapping[str, Any]) -> str:
    header = (
        *("Method", "mIoU", f"minus {WORD}", f"minus {DEFAULT}", "worst draw", "IoU by image", "AP", "elsewhere"),
        *("own scene", "seconds"),
    )
    rows = [
        (
            name,
            _number(each["mIoU"]),
            _interval(each.get(f"minus {WORD}")),
            _interval(each.get(f"minus {DEFAULT}")),
            _number(each["worst draw"]) if each["draws"] > 1 else "",
            *(_number(each[key]) for key in ("IoU by image", "AP", "elsewhere", "own scene")),
            f"{each['seconds']:.2f}",
        )
        for name, each in methods.items()
    ]
    return _table(header, rows)


def _slices(slices: Mapping[str, Any]) -> str:
    rows = [
        (name, str(each["scenes"]), _number(each[WORD]), _number(each[DEFAULT]), _interval(each["difference"]))
        for name, each in slices.items()
        if each["scenes"]
    ]
    return _table(("mIoU of the slice", "scenes, each for every class", WORD, DEFAULT, "difference"), rows)


def _classes(methods: Mapping[str, Any]) -> str:
    names = list(next(iter(methods.values()))["classes"])
    rows = [(name, *(_number(each["classes"].get(name)) for each in methods.values())) for name in names]
    return _table(("IoU of the class", *methods), rows)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _interval(found: Sequence[float] | None) -> str:
    if found is None:
        return ""
    each = Interval(*found)
    return f"{each.value:+.3f} ({each.low:+.3f} to {each.high:+.3f})"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
