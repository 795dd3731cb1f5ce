"""The bars that the instrument is held to, each beside what was measured."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lab.mini.baselines import GATE
from lab.mini.measures.oracles import AUTOENCODER


@dataclass(frozen=True)
class Bar:
    """A line of the table: what is asked, what was found, and whether that is enough."""

    goal: str
    found: str
    met: bool


def bars(sections: Mapping[str, Any]) -> list[Bar]:
    """Every bar; those of a section that was not measured are not met."""
    found: list[Bar] = []
    for section, judge in _JUDGES.items():
        missing = Bar(f"all bars of the section {section!r}", "not measured", False)
        found += judge(sections[section]) if section in sections else [missing]
    return found


def _at_least(goal: str, value: float, least: float) -> Bar:
    return Bar(f"{goal} at least {least:g}", f"{value:.3f}", value >= least)


def _blind(found: Mapping[str, Any]) -> list[Bar]:
    twice = [name for name, said in found["mistaken"].items() if len(said) > 1]
    return [
        Bar("blind test: at least 32 of 40 pictures named right", str(found["right"]), found["right"] >= 32),
        Bar("classes named wrong in both of their pictures, at most 2", str(len(twice)), len(twice) <= 2),
    ]


def _gates(found: Mapping[str, Any]) -> list[Bar]:
    return [
        Bar(f"gate: {name} at most {GATE:g} mIoU", f"{row['miou']:.3f}", row["miou"] <= GATE)
        for name, row in found.items()
    ]


def _oracles(found: Mapping[str, Any]) -> list[Bar]:
    reached = found["ways"][AUTOENCODER]["a"]["mIoU"]
    return [_at_least(f"oracle A, mIoU on test scenes {AUTOENCODER},", reached, 0.85)]


def _generation(found: Mapping[str, Any]) -> list[Bar]:
    worst = min(found["by_class"], key=found["by_class"].get)
    agreed = found["agreement"]["all"]["classes"]
    return [
        _at_least("agreement of the oracles on generated pictures, mIoU of classes and background,", agreed, 0.75),
        _at_least("one-object prompts: the asked class is the largest in", found["one_object"], 0.90),
        _at_least(f"the same for the worst class ({worst})", found["by_class"][worst], 0.60),
        _at_least("two-object prompts: both are there in", found["two_objects"], 0.70),
    ]


def _memory(found: Mapping[str, Any]) -> list[Bar]:
    distances = [
        Bar(
            f"distance to the nearest training scene not below that of test scenes, {part}",
            f"{found[f'generated {part}']:.3f} against {found[f'test {part}']:.3f}",
            found[f"generated {part}"] >= found[f"test {part}"],
        )
        for part in ("median", "lowest twentieth", "nearest")
    ]
    share, low, _ = found["generated nearer to training"]
    nearer = (
        "generated pictures that lie nearer to training than to unused scenes, no more than one half by its interval"
    )
    return [*distances, Bar(nearer, f"{share:.3f}", low <= 0.5)]


def _words(found: Mapping[str, Any]) -> list[Bar]:
    objects = found["objects"]
    return [
        _at_least("class word on its own object, AP,", objects["own"], 0.70),
        _at_least("above a random absent class word by", objects["gap"][0], 0.30),
        _at_least("presence, AUROC,", found["presence_auroc"], 0.85),
        _at_least("ground words, (AP - share) / (1 - share),", found["grounds"]["normalised"]["own"], 0.40),
    ]


def _headroom(found: Mapping[str, Any]) -> list[Bar]:
    weak = found["word below 0.45"]
    return [
        _at_least("headroom: fitted tokens above the word, mIoU,", found["gain"][0], 0.10),
        Bar("classes whose word has an IoU below 0.45, at least 6", str(weak), weak >= 6),
    ]


def _transfer(found: Mapping[str, Any]) -> list[Bar]:
    names = ("resolutions", "one call", "from call", "up to call", "classes")
    return [
        _at_least(f"Spearman with Stable Diffusion 1.5, {name}, wanted", found[name]["spearman"][0], 0.7)
        if name in found
        else Bar(f"Spearman with Stable Diffusion 1.5, {name}, wanted at least 0.7", "no picture to measure", False)
        for name in names
    ]


def _speed(found: float) -> list[Bar]:
    return [Bar("a guided image of 30 steps, at most 2 s", f"{found:.1f} s", found <= 2)]


_JUDGES: dict[str, Callable[[Any], list[Bar]]] = {
    "blind": _blind,
    "gates": _gates,
    "oracles": _oracles,
    "generation": _generation,
    "memory": _memory,
    "words": _words,
    "headroom": _headroom,
    "transfer": _transfer,
    "speed": _speed,
}
