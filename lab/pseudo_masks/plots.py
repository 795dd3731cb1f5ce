"""Plots of the report: IoU of each class, and the ablations beside the paper's figures."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lab.pseudo_masks import paper
from lab.pseudo_masks.ablations import in_paper
from lab.pseudo_masks.rows import DEFAULT, TOKEN, WORD

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = {WORD: "#7a8691", TOKEN: "#1f6fb2"}
_STEPS = (("at", "one step alone", paper.AT_STEP), ("from", "from a step on", paper.FROM_STEP))
_UNTIL = ("to", "up to a step", paper.TO_STEP)

Lines = Sequence[Mapping[str, Any]]
"""Lines of `figures.table`."""


def of_classes(lines: Lines, title: str) -> "Figure":
    """Bars of each class, with words and with tokens, by our default; by the first method where it is not there."""
    methods = list(dict.fromkeys(line["method"] for line in lines))
    method = DEFAULT if DEFAULT in methods else methods[0]
    own = {line["form"]: line["classes"] for line in lines if line["method"] == method}
    names = list(dict.fromkeys(name for of in own.values() for name in of))
    figure, (axes,) = _figure(1, width=max(5.5, 0.5 * len(names) + 2.5))
    for place, (form, of) in enumerate(own.items()):
        where = [i + (place - (len(own) - 1) / 2) * 0.4 for i in range(len(names))]
        axes.bar(where, [100 * of.get(name, 0.0) for name in names], 0.4, label=form, color=_COLOURS.get(form))
    _named(axes, names)
    axes.set_title(f"{title}\n{method}", fontsize=9)
    axes.set_ylabel("IoU, points", fontsize=8)
    figure.legend(fontsize=8, loc="outside right upper")
    return figure


def of_ablation(name: str, found: Mapping[str, Any], grids: Sequence[int]) -> "Figure":
    """Curves or bars of an ablation; dashed lines and black dashes are the paper's.

    Args:
        name: One of `ABLATIONS`.
        found: What `ablate` returned.
        grids: Of the model, the finest first.
    """
    values: dict[str, dict[str, float]] = {}
    for line in found["table"]:
        if line["mIoU"] is not None:
            values.setdefault(line["form"], {})[line["method"]] = 100 * line["mIoU"]
    if name == "steps":
        return _steps(values)
    if name == "annotations":
        return _annotations(found["classes"])
    return _bars(values, _paper_of(name, grids))


def _steps(values: Mapping[str, Mapping[str, float]]) -> "Figure":
    figure, panels = _figure(3, width=12)
    for axes, (kind, title, theirs) in zip(panels, (*_STEPS, _UNTIL), strict=True):
        for place, form in enumerate((WORD, TOKEN)):
            own = {int(row.split()[1]): value for row, value in values.get(form, {}).items() if row.startswith(kind)}
            axes.plot(list(own), list(own.values()), marker="o", markersize=3, label=form, color=_COLOURS[form])
            axes.plot(
                list(theirs),
                [pair[place] for pair in theirs.values()],
                linestyle="--",
                label=f"{form}, paper",
                color=_COLOURS[form],
            )
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("step of 30", fontsize=8)
    figure.legend(*panels[0].get_legend_handles_labels(), fontsize=7, loc="outside right upper")
    return figure


def _annotations(classes: Mapping[str, Mapping[str, float]]) -> "Figure":
    """A thin line for each class, a thick one for their mean."""
    figure, (axes,) = _figure(1, width=5)
    numbers = [int(form.split()[0]) for form in classes]
    for name in dict.fromkeys(name for of in classes.values() for name in of):
        points = [(number, 100 * of[name]) for number, of in zip(numbers, classes.values(), strict=True) if name in of]
        axes.plot(*zip(*points, strict=True), color="#c5ccd3", linewidth=0.8)
    means = [100 * sum(of.values()) / len(of) if of else float("nan") for of in classes.values()]
    axes.plot(numbers, means, marker="o", color=_COLOURS[TOKEN], label="mean of the classes")
    axes.set_xticks(numbers)
    axes.set_xlabel("annotated pictures", fontsize=8)
    figure.legend(fontsize=8, loc="outside right upper")
    return figure


def _paper_of(name: str, grids: Sequence[int]) -> Callable[[str, int], float | None]:
    """From a row and the place of a form to the paper's figure."""

    def of(row: str, place: int) -> float | None:
        if name != "blocks":
            return None
        pair = paper.GRIDS.get(in_paper(row, grids))
        return None if pair is None else pair[place]

    return of


def _bars(values: Mapping[str, Mapping[str, float]], theirs: Callable[[str, int], float | None]) -> "Figure":
    names = list(dict.fromkeys(row for of in values.values() for row in of))
    figure, (axes,) = _figure(1, width=max(5.0, 0.9 * len(names) + 1.5))
    for place, form in enumerate((WORD, TOKEN)):
        own = values.get(form, {})
        where = [i + (place - 0.5) * 0.4 for i in range(len(names))]
        axes.bar(where, [own.get(row, 0.0) for row in names], 0.38, label=form, color=_COLOURS[form])
        known = {x: value for x, row in zip(where, names, strict=True) if (value := theirs(row, place)) is not None}
        label = "paper" if known and place == 0 else None
        axes.plot(
            list(known), list(known.values()), linestyle="", marker="_", markersize=14, color="black", label=label
        )
    _named(axes, names)
    figure.legend(fontsize=8, loc="outside right upper")
    return figure


def _figure(panels: int, width: float) -> tuple["Figure", "list[Axes]"]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 3.2), dpi=110, layout="constrained")
    axes = list(figure.subplots(1, panels, sharey=True, squeeze=False)[0])
    axes[0].set_ylabel("mIoU, points", fontsize=8)
    for each in axes:
        each.set_ylim(0, 100)
        each.tick_params(labelsize=7)
        each.grid(axis="y", color="#e4e7ea", linewidth=0.6)
        each.set_axisbelow(True)
    return figure, axes


def _named(axes: "Axes", names: Sequence[str]) -> None:
    axes.set_xticks(range(len(names)), list(names), rotation=35, ha="right")
