"""What the page makes of the times of refinement and CRF."""

from collections.abc import Mapping
from typing import Any

from lab.markdown import table
from lab.measure import Ratio, middle
from lab.performance.refinement import BOTH, CRF, REFINEMENTS, THEIRS
from lab.performance.report_tokens import verdict

TEXT = """## Refinement and CRF

From one word's map to its mask: {side} x {side} pixels, self-attention of {grid} x {grid} places, which takes
{attention:.0f} MB, and a CRF of two classes with the product's defaults. The floor of refinement is the time
`torch.sum` takes to read the self-attention once for each product. The floor of the CRF is the time to read its
lattices, {lattices:.0f} MB, twice for each blur; what lays the lattices has no floor here. *{both}* is all that
`segment` does once the map is there.
"""


def goals(result: Mapping[str, Any]) -> list[list[str]]:
    """The row of the table of goals."""
    found = middle(result["seconds"][BOTH])
    budget = result["budget"]
    size = f"{result['side']} x {result['side']} pixels, {result['grid']} x {result['grid']} places"
    goal = f"refinement and CRF of one map, {size}, within {budget:g} s"
    text = f"{found.median:.2f} s ({found.low:.2f} to {found.high:.2f})"
    return [[goal, text, verdict(found.median <= budget, found.high <= budget)]]


def section(result: Mapping[str, Any]) -> str:
    """The section of the page."""
    weights = {name: count / 1e6 for name, count in result["bytes"].items()}
    text = TEXT.format(
        side=result["side"],
        grid=result["grid"],
        attention=weights["self-attention"],
        lattices=weights["lattices"],
        both=BOTH,
    )
    rows = []
    for name in (*REFINEMENTS, CRF, THEIRS, BOTH):
        if name not in result["seconds"]:
            continue
        found, over = middle(result["seconds"][name]), result["ratios"].get(f"{name} over floor")
        floor = result["seconds"].get(f"{name} floor")
        rows.append(
            [
                _stage_name(name, result["refine"]),
                f"{found.median:.3f} s ({found.low:.3f} to {found.high:.3f})",
                f"{middle(floor).median:.4f} s" if floor else "",
                str(Ratio(**over)) if over else "",
                str(found.pairs),
            ]
        )
    return f"{text}\n{table(['Stage', 'Time', 'Floor', 'Over the floor', 'Pairs'], rows)}"


def _stage_name(name: str, chosen: Mapping[str, Any]) -> str:
    if name != "refinement":
        return name
    return (
        f"refinement as by default: {chosen['method']}, {chosen['products']} products, exponent {chosen['exponent']:g}"
    )
