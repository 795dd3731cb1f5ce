"""What the page makes of the speed and memory of `ovam dataset generate`."""

from collections.abc import Mapping
from typing import Any

from lab.markdown import table
from lab.measure import Ratio, middle
from lab.performance.dataset import CRF, GENERATE, GOAL, PLAIN
from lab.performance.report_tokens import verdict

TEXT = """## A data set with masks

`ovam dataset generate` on mini, {images} images in batches of {batch}, {steps} steps each, with refined masks, all
files written; and the plain pipeline with the same prompts, seeds and batches, which writes nothing. The runs
alternate. Masks of one batch are made while the model generates the next batch. As in the command, the process keeps
freed memory (`ovam.malloc`), also for the plain pipeline; otherwise its own time changes from run to run, by chance.
"""
LARGE = """## A data set of a large model

The same on a UNet of SD 1.5's size with random weights, and a small autoencoder. Each run makes {images} image of
{height} x {width} pixels in {steps} steps, with refined masks and a CRF. With so few steps, masks are a larger share of
a run than usual. The hash of the weights, made once a run, is not counted.
"""
EVERY = """
Self-attention is averaged over every {n}th call, on the finest grid alone. Masks have a mean IoU of
{iou:.3f} with those of all calls, over the classes of {images} images of mini.
"""


def goals(result: Mapping[str, Any]) -> list[list[str]]:
    """The rows of the table of goals."""
    return [_goal(result, GENERATE, "mini"), _goal(result, CRF, "mini, with a CRF")]


def large_goals(result: Mapping[str, Any]) -> list[list[str]]:
    """The row of a large model; none if it was left out."""
    if "skipped" in result:
        return []
    height, width = result["size"]
    where = f"SD 1.5's size, {height} x {width} pixels, {result['steps']} steps, with a CRF"
    return [_goal(result, CRF, where)]


def _goal(result: Mapping[str, Any], name: str, where: str) -> list[str]:
    found = Ratio(**result["ratios"][name])
    goal = f"data set with masks, {where}: at least {GOAL:g}x the plain pipeline's images per second"
    return [goal, str(found), verdict(found.median >= GOAL, found.low >= GOAL)]


def section(result: Mapping[str, Any]) -> str:
    """The section of the page."""
    text = TEXT.format(**{name: result[name] for name in ("images", "batch", "steps")}) + "\n" + _speeds(result)
    memory = result["memory"]
    levels = memory["megabytes"]
    if levels:
        later = levels[1:] or levels
        text += (
            f"\nMemory over {memory['items']} items of {memory['steps']} steps: {levels[0]:.0f} MB after "
            f"{memory['every']}, then {min(later):.0f} to {max(later):.0f} MB, {levels[-1]:.0f} MB at the end.\n"
        )
    if result["every"]["iou"] is not None:
        text += EVERY.format(**result["every"])
    return text


def large_section(result: Mapping[str, Any]) -> str:
    """The section of a large model."""
    if "skipped" in result:
        return f"## A data set of a large model\n\n{result['skipped']}\n"
    height, width = result["size"]
    text = LARGE.format(height=height, width=width, images=result["images"], steps=result["steps"])
    return f"{text}\n{_speeds(result)}"


def _speeds(measured: Mapping[str, Any]) -> str:
    rows = []
    for name, seconds in sorted(measured["seconds"].items(), key=lambda item: item[0] != PLAIN):
        time = middle(seconds).median
        ratio = "" if name == PLAIN else str(Ratio(**measured["ratios"][name]))
        rows.append([name, f"{time:.1f} s", f"{measured['images'] / time:.3g}", ratio])
    pairs = len(measured["seconds"][PLAIN])
    return table(["Run", "Time", "Images a second", f"Speed relative to plain, median of {pairs} pairs"], rows)
