"""The bars that fitted tokens are held to, each beside what was measured."""

from collections.abc import Mapping
from typing import Any

from lab.fits.methods import DEFAULT, PUBLISHED, TUNED, WORD
from lab.fits.scenes import ALONE, LOOKS, TOGETHER
from lab.mini.measures.bars import Bar
from ovam.evaluate import Interval

GAIN, SURE, HEADROOM_SHARE = 0.08, 0.05, 0.6
OVER_TUNED, OVER_PUBLISHED, KEPT, SECONDS = 0.03, 0.08, 0.8, 1.0


def bars(found: Mapping[str, Any], headroom: float) -> list[Bar]:
    """Every bar; those whose methods were not measured are not met.

    Args:
        found: Figures of `table`.
        headroom: Gain of vectors fitted to twenty annotations over the word, as the report of mini measured it.
    """
    methods = found["methods"]
    if DEFAULT not in methods or WORD not in methods:
        return [Bar("all bars", "the word or the default was not measured", False)]
    ours, word = methods[DEFAULT], methods[WORD]
    return [
        over_word(found, headroom),
        _over_rival(methods, TUNED, OVER_TUNED),
        _over_rival(methods, PUBLISHED, OVER_PUBLISHED),
        Bar(
            f"worst of {ours['draws']} draws above the word, mIoU",
            f"{ours['worst draw']:.3f} against {word['mIoU']:.3f}",
            ours["worst draw"] > word["mIoU"],
        ),
        *_slices(found["slices"]),
        Bar(
            f"median seconds of a fit (not of encoding and saving) at most {SECONDS:g}",
            f"{ours['seconds']:.2f}",
            ours["seconds"] <= SECONDS,
        ),
    ]


def over_word(found: Mapping[str, Any], headroom: float) -> Bar:
    """The lesser of two bars; of the interval the first asks for +5, the second for no more than a gain at all.

    Args:
        found: Figures of `table`, with the word and the default.
        headroom: As in `bars`.
    """
    gain = Interval(*found["methods"][DEFAULT][f"minus {WORD}"])
    share = HEADROOM_SHARE * headroom
    if share < GAIN:
        goal = f"default minus word, mIoU: {HEADROOM_SHARE:.0%} of the headroom of {headroom:.3f}, {share:.3f}"
        return Bar(f"{goal}, and the interval above 0", str(gain), gain.value >= share and gain.low > 0)
    goal = f"default minus word, mIoU at least {GAIN:g}, and the interval above {SURE:g}"
    return Bar(goal, str(gain), gain.value >= GAIN and gain.low > SURE)


def holds_alone(found: Mapping[str, Any]) -> Bar:
    """A gain on generated pictures is claimed only where each oracle alone sees one."""
    gain = Interval(*found["methods"][DEFAULT][f"minus {WORD}"])
    return Bar("the same by one oracle alone: the interval above 0", str(gain), gain.low > 0)


def _over_rival(methods: Mapping[str, Any], rival: str, least: float) -> Bar:
    goal = f"default minus {rival}, mIoU at least {least:g}"
    if rival not in methods:
        return Bar(goal, "not measured", False)
    value, low, high = methods[rival][f"minus {DEFAULT}"]
    return Bar(goal, str(Interval(-value, -high, -low)), -value >= least)


def _slices(slices: Mapping[str, Any]) -> list[Bar]:
    gains = {name: each["difference"][0] for name, each in slices.items() if each["scenes"]}
    if not gains:
        return [Bar("no slice falls", "no slice was measured", False)]
    worst = min(gains, key=lambda name: gains[name])
    kept = [_kept(gains, whole, part) for whole, part in ((ALONE, TOGETHER), (LOOKS["seen"], LOOKS["novel"]))]
    return [
        Bar("no slice falls below the word, mIoU", f"least: {worst}, {gains[worst]:+.3f}", gains[worst] >= 0),
        *kept,
    ]


def _kept(gains: Mapping[str, float], whole: str, part: str) -> Bar:
    goal = f"of the gain on {whole}, kept on {part}: at least {KEPT:.0%}"
    if whole not in gains or part not in gains:
        return Bar(goal, "not measured", False)
    if gains[whole] <= 0:
        return Bar(goal, f"no gain to keep: {gains[whole]:+.3f} and {gains[part]:+.3f}", False)
    share = gains[part] / gains[whole]
    return Bar(goal, f"{share:.0%} ({gains[part]:+.3f} of {gains[whole]:+.3f})", share >= KEPT)
