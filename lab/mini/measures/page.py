"""The pages of mini, from the report's figures alone; a section that was not measured says so.

`page` is what a reader needs, on one screen; `measured` has the tables behind it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from lab.mini.measures.bars import bars
from lab.mini.measures.choices import TIMES
from lab.mini.measures.words import GROUND_BASELINES, THING_BASELINES
from lab.mini.training.doubling import FACTOR
from ovam.evaluate import Interval

Figures = Mapping[str, Any]
_MISSING = "Not measured.\n"


def page(figures: Figures) -> str:
    """The short Markdown page: what mini is, its pictures, its bars.

    Args:
        figures: As `report_on_mini` writes them: the stamp, and the measured sections by name.
    """
    sections, size = figures["sections"], figures["size"]
    grids = [size // FACTOR // 2**level for level in range(3)]
    verdicts = [(bar.goal, bar.found, "yes" if bar.met else "**no**") for bar in bars(sections)]
    return _filled(
        "page.md",
        figures,
        size=size,
        grids=f"{grids[0]}, {grids[1]} and {grids[2]}",
        blind=_blind(sections.get("blind")),
        bars=_table(("bar", "measured", "met"), verdicts),
    )


def measured(figures: Figures) -> str:
    """The long Markdown page: every table, and the recipe.

    Args:
        figures: As for `page`.
    """
    training, sections = figures["training"], figures["sections"]
    phases = [
        f"{phase['iterations']} iterations of "
        + " and, in turns, ".join(f"{batch} scenes at {size} pixels" for size, batch in _sizes(phase))
        for phase in training["phases"]
    ]
    shown = dict.fromkeys((key for keys, _ in _SECTIONS.values() for key in keys), _MISSING)
    for name, (keys, show) in _SECTIONS.items():
        if name in sections:
            shown |= dict(zip(keys, show(sections[name]), strict=True))
    return _filled(
        "measured.md",
        figures,
        **shown,
        oracle_hashes=", ".join(f"{name} {value}" for name, value in figures["oracles"].items()) or "none yet",
        threads=figures["threads"],
        minutes=f"{sum(figures['seconds'].values()) / 60:.0f}",
        scenes=training["scenes"],
        phases=", then ".join(phases),
        iterations=training["iterations"],
        history=training["history"],
    )


def _filled(template: str, figures: Figures, **values: Any) -> str:
    quick = "**A quick run, not for publication.** " if figures["quick"] else ""
    stamp = {key: figures[key] for key in ("command", "model", "date")}
    return Template((Path(__file__).parent / template).read_text()).substitute(stamp, quick=quick, **values)


def _blind(found: Figures | None) -> str:
    """What somebody saw who knew the twenty classes and not the prompts."""
    if found is None:
        return "Nobody who did not know the prompts has named these pictures yet.\n"
    wrong = ", ".join(f"{name} ({', '.join(said)})" for name, said in found["mistaken"].items())
    others = f"; taken for others: {wrong}" if wrong else ""
    return (
        "Somebody who did not know the prompts named the main thing of these pictures, in another order, from the "
        f"list of the twenty classes: **{found['right']} of {found['pictures']} are right**{others}. "
        "The answers are in [blind.json](results/mini/blind.json).\n"
    )


def _sizes(phase: Figures) -> list[list[int]]:
    """Sizes and batches that a phase takes in turns: version 1 had several, recipe 2 has one."""
    sizes: list[list[int]] = phase.get("sizes") or [[phase["size"], phase["batch"]]]
    return sizes


def _oracles(found: Figures) -> tuple[str, ...]:
    rows = {f"{name}, {way}": row for way, names in found["ways"].items() for name, row in names.items()}
    return _nested(rows, "oracle"), _nested(found["classes"], "class")


def _generation(found: Figures) -> tuple[str, ...]:
    oracles = found["by_oracle"]
    keys = {
        "one object: the asked class is the largest": "one_object",
        "two objects: both are there": "two_objects",
        "captions: of the classes they name, are there": "captions",
    }
    shares = {name: {oracle: each[key] for oracle, each in oracles.items()} for name, key in keys.items()}
    classes = {name: {oracle: each["by_class"][name] for oracle, each in oracles.items()} for name in found["by_class"]}
    return _nested(found["agreement"], "set"), _nested(shares, "prompts"), _nested(classes, "class")


def _words(found: Figures) -> tuple[str, ...]:
    objects, grounds = found["objects"], found["grounds"]
    rows = [(kind, value, objects["own beside"][kind]) for kind, value in objects["others"].items()]
    normalised = [
        (kind, grounds["others"].get(kind, grounds["own"]), value) for kind, value in grounds["normalised"].items()
    ]
    return (
        _word_rows({"all": objects} | found["classes"], "objects", THING_BASELINES),
        _table(("map", "AP on the object", "own word's on the same objects"), rows),
        _word_rows(found["slices"], "slice", THING_BASELINES),
        _word_rows({"all": grounds}, "grounds", GROUND_BASELINES),
        _table(("map", "AP on the ground", "(AP - share) / (1 - share)"), normalised),
    )


def _choices(found: Figures) -> tuple[str, ...]:
    best = found["best"]
    times = "; ".join(f"{name} {', '.join(map(str, steps))}" for name, steps in TIMES.items())
    return (
        _table(found["settings"][0], [row.values() for row in found["settings"]]),
        f"Chosen: time steps {', '.join(map(str, best['timesteps']))} of the blocks "
        f"{', '.join(f'`{name}`' for name in best['blocks'])}. Time steps by name: {times}.\n",
    )


def _headroom(found: Figures) -> tuple[str, ...]:
    methods, rulers = list(found["mean"]), list(found["mean"]["word"])
    rows = [(method, *(found["mean"][method].get(ruler, "") for ruler in rulers)) for method in methods]
    classes = [(name, *(row[method]["IoU"] for method in methods)) for name, row in found["classes"].items()]
    return (
        _table(("mean of classes", *rulers), rows),
        _table(("IoU", *methods), classes),
        f"Tokens fitted on {found['annotations']} scenes, minus the word, on {found['held_back']} others: "
        f"{Interval(*found['gain'])} IoU. The grid has {' x '.join(map(str, found['grid']))} places.\n",
    )


def _encoding(found: Figures) -> tuple[str, ...]:
    """A row for each model and way."""
    rows = [(name, way, *row.values()) for name, ways in found.items() for way, row in ways.items()]
    return (_table(("model", "method", "own word", "above an absent one", "above noise"), rows),)


def _masses(found: Figures) -> tuple[str, ...]:
    kinds = ("start", "words", "end", "padding")
    return (_table(("model", *kinds), [("mini", *(found[kind] for kind in kinds))]),)


def _table(header: Iterable[str], rows: Any) -> str:
    names = list(header)
    lines = [names, ["---"] * len(names), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return str(Interval(*value))
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _nested(rows: Mapping[str, Mapping[str, Any]], first: str) -> str:
    columns = list(next(iter(rows.values())))
    return _table((first, *columns), [(name, *(row[column] for column in columns)) for name, row in rows.items()])


def _word_rows(found: Mapping[str, Mapping[str, Any]], first: str, baselines: Sequence[str]) -> str:
    rows = [
        (name, row["count"], row["own"], row["gap"], *(row["others"][kind] for kind in baselines))
        for name, row in found.items()
        if row["count"]
    ]
    return _table((first, "number", "own word", "above an absent one", *baselines), rows)


def _transfer(found: Mapping[str, Any]) -> str:
    if not found["images"]:
        return "No picture showed the asked class.\n"
    parts = [
        f"{found['images']} pictures, {found['left_out']} left out because the oracles do not see the asked class; "
        f"{found['ignored']:.1%} of the pixels ignored; threshold {found['threshold']:g} for all.\n"
    ]
    columns = ("mini", "mini, best threshold", "stable_diffusion")
    for name in ("resolutions", "one call", "from call", "up to call", "classes"):
        curve = found[name]
        rows = [(key, *(curve[column][key] for column in columns)) for key in curve["mini"]]
        header = (name, "mini", "mini, best threshold for each (oracle)", "SD 1.5")
        parts.append(f"Spearman {_cell(curve['spearman'])}, {name}:\n\n" + _table(header, rows))
    return "\n".join(parts)


_SECTIONS: dict[str, tuple[tuple[str, ...], Callable[[Any], tuple[str, ...]]]] = {
    "gates": (("gates",), lambda found: (_nested(found, "baseline"),)),
    "oracles": (("oracle_rows", "oracle_classes"), _oracles),
    "generation": (("agreement", "asked", "classes"), _generation),
    "memory": (("memory",), lambda found: (_table(("", "value"), found.items()),)),
    "choices": (("choices", "chosen"), _choices),
    "words": (("words", "others", "slices", "grounds", "ground_maps"), _words),
    "headroom": (("headroom", "headroom_classes", "gain"), _headroom),
    "transfer": (("transfer",), lambda found: (_transfer(found),)),
    "encoding": (("encoding",), _encoding),
    "masses": (("masses",), _masses),
    "speed": (("speed",), lambda found: (f"A guided image of 30 steps takes {found:.1f} s (median).\n",)),
}
"""What the template shows of each section, and how."""
