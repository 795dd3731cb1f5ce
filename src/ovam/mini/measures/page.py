"""The page of mini, from the report's figures alone; a section that was not measured says so."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from string import Template
from typing import Any

from ovam.evaluate import Interval
from ovam.mini.measures.bars import bars
from ovam.mini.measures.words import BASELINES

Figures = Mapping[str, Any]
_MISSING = "Not measured.\n"


def page(figures: Figures) -> str:
    """The Markdown page.

    Args:
        figures: As `report_on_mini` writes them: the stamp, and the measured sections by name.
    """
    training, sections = figures["training"], figures["sections"]
    phases = [
        f"{phase['iterations']} iterations of "
        + " and, in turns, ".join(f"{batch} scenes at {size} pixels" for size, batch in phase["sizes"])
        for phase in training["phases"]
    ]
    verdicts = [(bar.asked, bar.found, "yes" if bar.met else "**no**") for bar in bars(sections)]
    shown = dict.fromkeys((key for keys, _ in _SECTIONS.values() for key in keys), _MISSING)
    for name, (keys, show) in _SECTIONS.items():
        if name in sections:
            shown |= dict(zip(keys, show(sections[name]), strict=True))
    return Template((Path(__file__).parent / "page.md").read_text()).substitute(
        shown,
        command=figures["command"],
        quick="**A quick run, not for publication.** " if figures["quick"] else "",
        model=figures["model"],
        oracle_hashes=", ".join(f"{name} {value}" for name, value in figures["oracles"].items()) or "none yet",
        date=figures["date"],
        threads=figures["threads"],
        minutes=f"{sum(figures['seconds'].values()) / 60:.0f}",
        scenes=training["scenes"],
        phases=", then ".join(phases),
        iterations=training["iterations"],
        bars=_table(("bar", "measured", "met"), verdicts),
    )


def _generation(found: Figures) -> tuple[str, ...]:
    return (
        _nested(found["agreement"], "set"),
        _table(("class", "asked class is the largest"), found["by_class"].items()),
        f"Of the classes that captions of test scenes name, {found['captions']:.2f} are in the picture.\n",
    )


def _words(found: Figures) -> tuple[str, ...]:
    return (
        _word_rows({"all": found["objects"]} | found["classes"], "objects"),
        _table(("map", "AP on the object"), found["objects"]["others"].items()),
        _word_rows(found["slices"], "slice"),
    )


def _headroom(found: Figures) -> tuple[str, ...]:
    return (
        _nested(found["classes"] | {"mean": found["mean"]}, "class"),
        f"Vectors fitted on {found['annotations']} scenes, minus the word: {Interval(*found['gain'])} IoU.\n",
    )


def _masses(found: Figures) -> tuple[str, ...]:
    return (_table(found, [found.values()]),)


def _table(header: Iterable[str], rows: Any) -> str:
    names = list(header)
    lines = [names, ["---"] * len(names), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _nested(rows: Mapping[str, Mapping[str, Any]], first: str) -> str:
    columns = list(next(iter(rows.values())))
    return _table((first, *columns), [(name, *(row[column] for column in columns)) for name, row in rows.items()])


def _word_rows(found: Mapping[str, Mapping[str, Any]], first: str) -> str:
    rows = [
        (name, row["count"], row["own"], Interval(*row["gap"]), *(row["others"][kind] for kind in BASELINES))
        for name, row in found.items()
        if row["count"]
    ]
    return _table((first, "number", "own word", "above an absent class", *BASELINES), rows)


def _transfer(found: Mapping[str, Any]) -> str:
    if not found["images"]:
        return "No picture showed the asked class.\n"
    parts = [
        f"{found['images']} pictures, {found['left_out']} left out because the oracles do not see the asked class; "
        f"{found['ignored']:.1%} of the pixels ignored; threshold {found['threshold']:g} for all.\n"
    ]
    columns = ("mini", "mini, best threshold", "stable_diffusion")
    for name in ("resolutions", "one call", "from call", "up to call"):
        curve = found[name]
        rows = [(key, *(curve[column][key] for column in columns)) for key in curve["mini"]]
        header = (name, "mini", "mini, best threshold for each (oracle)", "SD 1.5")
        parts.append(f"Spearman {curve['spearman']:.2f}, {name}:\n\n" + _table(header, rows))
    return "\n".join(parts)


_SECTIONS: dict[str, tuple[tuple[str, ...], Callable[[Any], tuple[str, ...]]]] = {
    "gates": (("gates",), lambda found: (_nested(found, "baseline"),)),
    "oracles": (("oracle_rows",), lambda found: (_nested(found, "oracle"),)),
    "generation": (("agreement", "classes", "captions"), _generation),
    "memory": (("memory",), lambda found: (_table(("", "value"), found.items()),)),
    "words": (("words", "others", "slices"), _words),
    "headroom": (("headroom", "gain"), _headroom),
    "transfer": (("transfer",), lambda found: (_transfer(found),)),
    "masses": (("masses",), _masses),
    "speed": (("speed",), lambda found: (f"A guided image of 30 steps takes {found:.1f} s (median of 3).\n",)),
}
"""What the template shows of each section, and how."""
