"""The bars that refinement and masks are held to, each beside what was measured."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lab.mini.measures.bars import Bar
from lab.refine.labelled import ALL, GATED, GIVEN, WITH_GAINS
from lab.refine.steps import BLIND, CRF, GAINED_CRF, REFINED, TOKEN_CRF, TOKEN_REFINED
from ovam.evaluate import Interval

REFINED_GAIN, CRF_GAIN, BLIND_LEAD = 0.04, 0.08, 0.20
LISTED_MIOU, ALL_MIOU, ERROR = 0.70, 0.55, 0.07
FORMS = ("words", WITH_GAINS)
"""What label maps are made from: attention alone, and attention with word gains."""
FALSE_AREA, GATE_LOSS, AUROC = 0.02, 0.02, 0.93


def bars(found: Mapping[str, Any]) -> list[Bar]:
    """Return every bar; what was not measured is not met."""
    return [*_gains(found), *_slices(found), *_label_maps(found), *_absent(found), *_blind(found), *_opinions(found)]


def _gains(found: Mapping[str, Any]) -> Iterator[Bar]:
    for name in ("scenes", "generated"):
        steps = found["sets"].get(name, {}).get("steps", {})
        for step, least in (
            (REFINED, REFINED_GAIN),
            (CRF, CRF_GAIN),
            (TOKEN_REFINED, REFINED_GAIN),
            (TOKEN_CRF, CRF_GAIN),
        ):
            goal = f"{name}: {step}, above the plain one by at least {least:g}, interval above 0"
            if step not in steps:
                yield Bar(goal, "not measured", False)
                continue
            gained = Interval(*steps[step]["gain"])
            yield Bar(goal, f"{gained.value:+.3f} ({gained.low:+.3f} to {gained.high:+.3f})", _above(gained, least))


def _above(gained: Interval, least: float) -> bool:
    return gained.value >= least and gained.low > 0


def _slices(found: Mapping[str, Any]) -> Iterator[Bar]:
    for name in ("scenes", "generated"):
        each = found["sets"].get(name, {}).get("slices", {})
        goal = f"{name}: refinement and CRF raise every slice"
        if not each:
            yield Bar(goal, "not measured", False)
            continue
        worst = min(each, key=lambda slice_name: each[slice_name]["gain"][0])
        value = each[worst]["gain"][0]
        yield Bar(goal, f"least {value:+.3f}, {worst}, {each[worst]['masks']} masks", value > 0)


def _label_maps(found: Mapping[str, Any]) -> Iterator[Bar]:
    for form in FORMS:
        yield from _of_labels(found["labels"][form], form)


def _of_labels(rows: Mapping[str, Any], form: str) -> Iterator[Bar]:
    for question, least in ((GIVEN, LISTED_MIOU), (ALL, ALL_MIOU)):
        label = question if question == GIVEN else question + GATED
        yield _at_least(f"label maps of scenes, {form}, {label}, mIoU", rows[label]["miou"], least)
    error = rows[ALL + GATED]["calibration_error"]
    yield Bar(f"calibration error, {form}, {ALL}{GATED}, at most {ERROR:g}", f"{error:.3f}", error <= ERROR)


def _absent(found: Mapping[str, Any]) -> Iterator[Bar]:
    for form in FORMS:
        yield from _of_absent(found["labels"][form], found["presence_auroc"][form], form)


def _of_absent(rows: Mapping[str, Any], area_under: float, form: str) -> Iterator[Bar]:
    area, loss = rows[ALL + GATED]["false_positive_area"], rows[GIVEN]["miou"] - rows[GIVEN + GATED]["miou"]
    yield Bar(
        f"absent words, {form}{GATED}: area of classes that are not there, at most {FALSE_AREA:g}",
        f"{area:.3f}",
        area <= FALSE_AREA,
    )
    yield Bar(f"the gate's loss of mIoU, {form}, {GIVEN}, at most {GATE_LOSS:g}", f"{loss:.3f}", loss <= GATE_LOSS)
    yield _at_least(f"presence, {form}, AUROC,", area_under, AUROC)


def _blind(found: Mapping[str, Any]) -> Iterator[Bar]:
    lead = found["word_blind"]
    for step in (CRF, GAINED_CRF):
        goal = f"scenes of two things or more: {step} above {BLIND} by at least {BLIND_LEAD:g}"
        if lead is None or math.isnan(lead["lead"][step][0]):
            yield Bar(goal, "not measured", False)
            continue
        gained = Interval(*lead["lead"][step])
        yield Bar(goal, f"{gained.value:+.3f} ({gained.low:+.3f} to {gained.high:+.3f})", _above(gained, BLIND_LEAD))


def _opinions(found: Mapping[str, Any]) -> Iterator[Bar]:
    for name, each in found["opinions"].items():
        goal = f"second opinion on {name}: {each['package']}, at most {each['most']:g} apart ({each['unit']})"
        if each["difference"] is None:
            yield Bar(goal, f"not measured: {each['package']} is not installed", False)
        else:
            yield Bar(goal, f"{each['difference']:.2g}", each["difference"] <= each["most"])


def _at_least(goal: str, value: float, least: float) -> Bar:
    return Bar(f"{goal} at least {least:g}", f"{value:.3f}", value >= least)


def listed(judged: Sequence[Bar]) -> list[dict[str, Any]]:
    """Return the bars as JSON has them."""
    return [{"asked": bar.goal, "found": bar.found, "met": bool(bar.met)} for bar in judged]
