"""What the page makes of the speed and memory of `ovam dataset generate`."""

from collections.abc import Mapping
from typing import Any

from lab.markdown import table
from lab.measure import Ratio, middle
from lab.performance.dataset import GENERATE, GOAL, PLAIN
from lab.performance.report_tokens import verdict

TEXT = """## A data set with masks

`ovam dataset generate` on mini, {images} images in batches of {batch}, {steps} steps each, with refined masks and a
CRF, all files written; and the plain pipeline with the same prompts, seeds and batches, which writes nothing. They took
turns. Making masks overlaps with generating the next batch.
"""


def goals(result: Mapping[str, Any]) -> list[list[str]]:
    """The row of the table of goals."""
    found = Ratio(**result["ratios"]["plain over generate"])
    goal = f"images a second with masks, at least {GOAL:g} of the plain pipeline's, mini"
    return [[goal, str(found), verdict(found.median >= GOAL, found.low >= GOAL)]]


def section(result: Mapping[str, Any]) -> str:
    """The section of the page."""
    found, memory = Ratio(**result["ratios"]["plain over generate"]), result["memory"]
    rows = []
    for name in (PLAIN, GENERATE):
        time = middle(result["seconds"][name])
        rows.append([name, f"{time.median:.1f} s", f"{result['images'] / time.median:.2f}"])
    levels = memory["megabytes"]
    later = levels[1:] or levels
    text = (
        f"\nThe plain pipeline's time over ours: {found}, {found.pairs} pairs. Memory over {memory['items']} items of "
        f"{memory['steps']} steps: {levels[0]:.0f} MB after {memory['every']}, then {min(later):.0f} to "
        f"{max(later):.0f} MB, {levels[-1]:.0f} MB at the end.\n"
        if levels
        else ""
    )
    head = TEXT.format(images=result["images"], batch=result["batch"], steps=result["steps"])
    return f"{head}\n{table(['Run', 'Time', 'Images a second'], rows)}{text}"
