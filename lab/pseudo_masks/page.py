"""The report as Markdown."""

from collections.abc import Mapping
from typing import Any

from lab.markdown import table
from lab.pseudo_masks import paper
from lab.pseudo_masks.differences import differences
from lab.pseudo_masks.rows import TOKEN, WORD

_HEAD = """# Pseudo-masks: methods with words and with tokens

Written by `{command}`, model {model}, ovam {version}.

Figures are points of IoU, pooled per class over the pictures of a set, then the mean over classes. The class is known.
Thresholds of the main column were chosen on {validation} {chosen_on}, for every method and both forms; the published
ones stand beside. A token is fitted on one annotated {fitted_on}, on all blocks. Brackets hold 95 % bounds, over
classes and pictures.

{note}
"""


def page(found: Mapping[str, Any]) -> str:
    """The whole page."""
    parts = [_HEAD.format(**found["about"])]
    if found["about"]["without_token"]:
        parts += [f"No annotated picture, and so no token: {', '.join(found['about']['without_token'])}.", ""]
    if found["about"]["left_out"]:
        parts += [f"Methods that can't read this model: {', '.join(found['about']['left_out'])}.", ""]
    parts += ["## Bars", "", _bars(found["bars"]), ""]
    for name, each in found["sets"].items():
        parts += [f"## {each['heading']}", "", _line(each), "", _main(name, each), ""]
        if each.get("picture"):
            parts += [f"![Good, median and bad cases]({each['picture']})", ""]
        if each.get("plot"):
            parts += [f"![IoU of each class]({each['plot']})", ""]
    for name, each in found["ablations"].items():
        parts += [f"## Ablation: {name}", "", f"On {each['pictures']} pictures of the set {each['set']}.", ""]
        parts += [_ablation(name, each), ""]
        if each.get("plot"):
            parts += [f"![The same as a plot, beside the paper's figures where it has some]({each['plot']})", ""]
        if each["agreement"]:
            text = ", ".join(f"{form} {value:.2f}" for form, value in each["agreement"].items())
            parts += [f"Spearman's correlation with the paper's figures: {text}.", ""]
            told = differences(name, each)
            parts += [told, ""] if told else []
    return "\n".join(parts)


def _line(each: Mapping[str, Any]) -> str:
    return f"{each['pictures']} pictures; the class of {100 * each['ignored']:.1f} % of the pixels is not known."


def _bars(lines: list[dict[str, Any]]) -> str:
    rows = [[line["bar"], line["set"], _with_bounds(line["figure"]), "yes" if line["met"] else "no"] for line in lines]
    return table(["bar", "set", "figure", "met"], rows)


def _main(name: str, each: Mapping[str, Any]) -> str:
    heads = ["method", "word", "token", "gain", "published thresholds", "AP", "in the paper"]
    lines = {(line["method"], line["form"]): line for line in each["table"]}
    rows = []
    for method in dict.fromkeys(row for row, _ in lines):
        word, token = lines.get((method, WORD)), lines.get((method, TOKEN))
        lift = each["lifts"].get(method)
        known = paper.MAIN.get(method, {}).get(name)
        rows.append(
            [
                method,
                _points(word and word["mIoU"]),
                _points(token and token["mIoU"]),
                _with_bounds([100 * x for x in lift]) if lift else "-",
                f"{_points(word and word['published threshold'])} / {_points(token and token['published threshold'])}",
                f"{_points(word and word['AP'])} / {_points(token and token['AP'])}",
                f"{known[0]} / {known[1]}" if known else "-",
            ]
        )
    return table(heads, rows)


def _ablation(name: str, each: Mapping[str, Any]) -> str:
    lines = {(line["method"], line["form"]): line["mIoU"] for line in each["table"]}
    forms = list(dict.fromkeys(form for _, form in lines))
    rows = [
        [row, *(_points(lines.get((row, form))) for form in forms)] for row in dict.fromkeys(row for row, _ in lines)
    ]
    return table([name, *forms], rows)


def _points(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _with_bounds(values: list[float]) -> str:
    value, low, high = values
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"
