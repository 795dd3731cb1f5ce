"""The report as Markdown."""

from collections.abc import Mapping
from typing import Any

from lab.markdown import table
from lab.training import paper
from lab.training.study import SETS

CHART, SHEET = "training.png", "training-pictures.png"

_HEAD = """# What generated data is worth

Written by `{command}`, model {model}, ovam {version}.

{note}

A small UPerNet on a ResNet ({parameters}), with random weights at first, learns classes of Pascal VOC from rendered
scenes ("real"), from pictures that the model generated, or from both, half of each batch from each.
All rows have the same {steps} steps of {batch_size} pictures, the same learning rate ({rate:g}), augmentations and
seeds ({seeds}). The network of the last step is tested; no step is chosen.

Generated rows have the same {pictures} pictures, made with guidance scale {guidance:g}. They differ in their masks:

- *words*, *tokens*: from maps of words or of optimised tokens, without refinement;
- *refined*: from the same tokens, with refinement and a CRF; pixels that these two changed are undecided;
- *oracle*: from two segmentation networks that were trained on exact masks of far more scenes than any row here; pixels
  on which the two differ are undecided;
- *selected half*: about half of the pictures of *refined*. Two filters choose them: by mini's CLIP score, and by how
  little refinement and CRF changed the masks;
- *random half*: as many, chosen at random.

Figures are points of mIoU with the background: the IoU of each class over {tested} scenes together, then the mean over
classes. *Domain b* is a second test set, with scenes in another style. "Real labels" is the number of annotated
training scenes that a row needs. Tokens are fitted on one annotated scene of each class; these scenes are the first of
the real ones. Figures are means over the seeds; brackets give the worst and the best seed.
"""


def page(found: Mapping[str, Any]) -> str:
    """The whole page."""
    seeds = ", ".join(map(str, found["about"]["seeds"]))
    parts = [
        _HEAD.format(**found["about"] | {"seeds": seeds}).replace("\n\n\n", "\n"),
        f"![mIoU of the rows, as bars]({CHART})",
        "",
        "## Rows",
        "",
        _rows(found),
        "",
        "## The masks",
        "",
        "Compared with the oracles' masks of the same pictures. Pixels that are undecided in either mask do not count. "
        "In refined masks many wrong pixels are undecided, and this alone raises their mIoU.",
        "",
        _masks(found),
        "",
        "Which score predicts best how good a refined mask is? Rank correlation of each score with the IoU between "
        "the refined mask and the oracles' mask of a class:",
        "",
        _scores(found),
        "",
        "Which filter leaves better pictures and masks? The half of *refined* that each score prefers, and as many "
        'pictures at random. "Drawn" is the share of the classes in the prompts that the oracles see in the pictures. '
        "Area is no score: this half has masks of usual size for their classes. The scores agreement and vote need "
        "further masks, which were not made.",
        "",
        _halves(found),
        "",
        "## Bars",
        "",
        "Figures are computed from the means over the seeds. Brackets are 95 % bootstrap intervals over the test "
        "pictures. A bar is passed if the figure reaches it, even if the interval reaches below. Refinement and CRF "
        "have their default settings. No option was chosen on the test scenes.",
        "",
        _bars(found),
        "",
        "## What limits it",
        "",
        _limits(found),
        "",
        "## Published figures",
        "",
        f"A summary of the paper says that its generated data adds up to {paper.CLAIM} points to real data. Its "
        "released code has no training, so this can't be checked. Here *refined* adds, by the number of real scenes:",
        "",
        _gains(found),
        "",
        "Published figures on real photographs of Pascal VOC, with far larger segmenters and data sets. They can't be "
        "compared with those above.",
        "",
        table(["segmenter", "data", "mIoU"], [[one, data, f"{value:.1f}"] for one, data, value in paper.FIELD]),
        "",
        "## The generated pictures",
        "",
        f"![Some generated pictures with their refined masks]({SHEET})",
        "",
        _foot(found["about"]),
    ]
    return "\n".join(parts) + "\n"


def _rows(found: Mapping[str, Any]) -> str:
    heads = [
        "trained on",
        "real labels",
        *(f"{name} scenes" for name in SETS),
        *(f"{name}, no background" for name in SETS),
    ]
    lines = []
    for line in found["rows"]:
        labels = "oracle" if line["labels"] is None else str(line["labels"])
        spreads = [f"{line[n]['mean']:.1f} ({line[n]['least']:.1f} to {line[n]['most']:.1f})" for n in SETS]
        lines.append([line["row"], labels, *spreads, *(_points(line[n]["without background"]) for n in SETS)])
    return table(heads, lines)


def _masks(found: Mapping[str, Any]) -> str:
    lines = [
        [one["set"], str(one["pictures"]), f"{one['miou']:.1f}", f"{one['undecided']:.1f} %"] for one in found["masks"]
    ]
    return table(["masks", "pictures", "mIoU", "undecided"], lines)


def _halves(found: Mapping[str, Any]) -> str:
    best_first = sorted(found["halves"], key=lambda one: -one["miou"])
    lines = [
        [
            one["filter"],
            str(one["pictures"]),
            f"{one['miou']:.1f}",
            f"{one['undecided']:.1f} %",
            f"{one['drawn']:.1f} %",
        ]
        for one in best_first
    ]
    return table(["half by", "pictures", "mIoU", "undecided", "drawn"], lines)


def _scores(found: Mapping[str, Any]) -> str:
    best_first = sorted(found["scores"].items(), key=lambda score: -(score[1] or 0))
    rows = [[name, "-" if value is None else f"{value:.2f}"] for name, value in best_first]
    return table(["score", "rank correlation"], rows)


def _bars(found: Mapping[str, Any]) -> str:
    lines = []
    for line in found["bars"]:
        sign = "+" if line["unit"] == "points" else ""
        value, low, high = (_points(each, sign) for each in line["figure"])
        figure = f"{value} ({low} to {high})"
        wanted = f"{line['least']:{sign}.0f} {line['unit']}"
        lines.append([line["bar"], line["set"], wanted, figure, "pass" if line["met"] else "fail"])
    return table(["bar", "scenes", "wanted", "figure", ""], lines)


def _points(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.1f}"


def _limits(found: Mapping[str, Any]) -> str:
    """Split the distance between refined masks and real scenes into what masks and what pictures cost."""
    of = {line["row"]: line for line in found["rows"]}
    real = found["about"]["most_real"]
    rows = [
        [
            name,
            f"{of['oracle'][name]['mean'] - of['refined'][name]['mean']:+.1f}",
            f"{of[real][name]['mean'] - of['oracle'][name]['mean']:+.1f}",
        ]
        for name in SETS
    ]
    text = (
        f'The difference between the rows refined and {real} has two parts. First, the masks have errors: "masks cost" '
        "is how much the oracles' masks gain on the same pictures. Second, generated pictures differ from real scenes: "
        f'"pictures cost" is how far the oracle row is below {real}.\n\n'
    )
    tried = (
        "\n\nPart of what masks cost is knowledge of real scenes: the oracles leave out what is drawn so badly that it "
        "teaches a wrong look. [Decision 0011](../decisions/0011-masks-for-training.md) has what was tried to come "
        "nearer to them: prompts with more things, self-training, and leaving out doubtful classes."
    )
    return text + table(["scenes", "masks cost", "pictures cost"], rows) + tried


def _gains(found: Mapping[str, Any]) -> str:
    of = {line["row"]: line for line in found["rows"]}
    rows = []
    for name in found["about"]["real_rows"]:
        mixed = of[f"{name} + refined"]
        rows.append([name, *(f"{mixed[each]['mean'] - of[name][each]['mean']:+.1f}" for each in SETS)])
    return table(["real scenes", *(f"{name} scenes" for name in SETS)], rows)


def _foot(about: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    threads = f"threads of each process: {about['threads']}"
    return f"{about['date']}, {about['processor']}, {threads}, {versions}. All numbers: `training.json`."
