"""The page of the bars, written from the figures."""

from collections.abc import Mapping
from typing import Any

from lab.markdown import interval, table
from lab.refine.steps import CRF, GRID, REFINED, WORD, WORDS

HEAD = """# Refinement and masks, measured

How much refinement and the CRF add to the mask of a word and of a token of one annotation, what label maps reach, and
what becomes of words that are not there. `python -m lab.refine bars` measures all of it and writes this page.

* **Scenes** are rendered test scenes with exact masks; they enter with the empty prompt. **Generated** pictures are the
  model's own, of two sets of prompts; where both oracles agree is the truth, other pixels count for nothing.
* A class that covers too few pixels is not asked. Each class is asked by its bare name, by itself; other words stand
  among the slices.
* IoU is pooled over a class's pictures, then the mean of the classes is taken. Intervals are 95 %, over classes and
  pictures.
* A token is fitted on one annotation, one draw of it for each class, and on all blocks; words and tokens are read
  from the blocks that the model keeps by default.
* Thresholds are chosen on validation scenes: one for all words, one for each token. Refinement, CRF and presence have
  the product's frozen defaults.
* **Gains** are word gains (`ovam.word_gains`): how much better the denoiser predicts noise when it reads the
  word. They cost 18 runs of the denoiser a word here, and are measured on scenes alone.
"""
_SETS = {"scenes": "Test scenes", "generated": "Generated pictures"}


def write(found: Mapping[str, Any]) -> str:
    """Return the page."""
    parts = [HEAD, _about(found), _bars(found)]
    parts += [_set(name, found) for name in _SETS if name in found["sets"]]
    return "\n".join([*parts, _labels(found), _opinions(found)])


def _about(found: Mapping[str, Any]) -> str:
    made, pictures = found["stamp"], ", ".join(f"{count} {name}" for name, count in found["pictures"].items())
    versions = ", ".join(f"{package} {number}" for package, number in made["versions"].items())
    quick = ", **a quick run, not for publication**" if found["quick"] else ""
    chosen = found["defaults"]
    parts = [
        f"Command `{made['command']}`, {made['date']}{quick}",
        f"model {found['model']}, world {found['world']}",
        f"{found['scenes']} test scenes, {found['validation']} validation scenes, generated pictures: {pictures}",
        f"defaults made by `{chosen.get('made_by', 'hand')}` on model {chosen.get('model')}",
        f"share of the scenes' pixels that is ignored: {found['ignored']:.3f}",
        f"bootstrap seed {made['bootstrap_seed']}",
        f"{made['processor']}, {made['threads']} threads",
        f"Python {made['python']}, {versions}",
    ]
    return f"*{'; '.join(parts)}.* [JSON](refinement.json)\n"


def _bars(found: Mapping[str, Any]) -> str:
    rows = [[bar["asked"], bar["found"], "yes" if bar["met"] else "**no**"] for bar in found["bars"]]
    return "## Bars\n\n" + table(["bar", "measured", "met"], rows)


def _set(name: str, found: Mapping[str, Any]) -> str:
    each = found["sets"][name]
    header = [
        "step",
        "IoU",
        "gain (95 %)",
        "over",
        "mean of the pictures' IoU",
        "away from outlines",
        "average precision",
    ]
    rows = [
        [
            step,
            f"{row['iou']:.3f}",
            interval(row["gain"]),
            "" if row["gain"] is None else row["over"],
            f"{row['iou_by_picture']:.3f}",
            f"{row['iou_away_from_outlines']:.3f}",
            f"{row['average_precision']:.3f}",
        ]
        for step, row in each["steps"].items()
    ]
    masks = f"{each['steps'][WORD]['masks']} masks, of a class at least {each['fewest_of_a_class']}"
    text = f"## {_SETS[name]}\n\n{masks}. *{GRID}* is no ceiling of steps that read pixels.\n"
    return f"{text}\n{table(header, rows)}\n{_slices(each['slices'])}"


def _slices(each: Mapping[str, Any]) -> str:
    rows = [
        [name, str(row["masks"]), *(f"{row['iou'][step]:.3f}" for step in WORDS), interval(row["gain"])]
        for name, row in each.items()
    ]
    return table(["slice", "masks", WORD, REFINED, CRF, "gain of the last over the first"], rows)


def _labels(found: Mapping[str, Any]) -> str:
    header = [
        *("asked by", "question", "mIoU with background", "calibration error", "mean of the pictures'"),
        *("area of classes that are not there", "coverage"),
    ]
    rows = [
        [
            form,
            question,
            *(f"{row[key]:.3f}" for key in ("miou", "calibration_error", "calibration_error_by_picture")),
            f"{row['false_positive_area']:.3f}",
            "1",
        ]
        for form, each in found["labels"].items()
        for question, row in each.items()
    ]
    lead = found["word_blind"]
    ours = ", ".join(f"{step} {value:.3f}" for step, value in lead["ours"].items()) if lead else ""
    blind = (
        f"\nOn {lead['scenes']} scenes of two things or more: {ours}; a foreground that knows no word, after the same "
        f"refinement and CRF, {lead['word_blind']:.3f}.\n"
        if lead
        else ""
    )
    auroc = found["presence_auroc"]
    levels = ", ".join(f"{form} {value:.3f}" for form, value in auroc.items())
    presence = f"\nPresence, AUROC, mean of the classes: {levels}.\n"
    gates = ", ".join(f"{gate:g} for {form}" for form, gate in found["gates"].items())
    text = (
        "## Label maps of test scenes\n\nRefined, with a CRF. The gate drops words with less presence than this: "
        f"{gates}. With gains it was chosen on validation scenes.\n"
    )
    return f"{text}\n{table(header, rows)}{presence}{blind}"


def _opinions(found: Mapping[str, Any]) -> str:
    rows = [
        [
            name,
            each["package"],
            "not installed" if each["difference"] is None else f"{each['difference']:.2g}",
            f"{each['most']:g}",
            each["unit"],
        ]
        for name, each in found["opinions"].items()
    ]
    return "## Second opinions\n\n" + table(["what", "whose", "greatest difference", "allowed", "of"], rows)
