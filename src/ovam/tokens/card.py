"""Describe a TokenSet as text."""

import re
from collections.abc import Mapping
from typing import Any

from ovam.maps.thresholds import Thresholds
from ovam.tokens.token_set import TokenGroup, TokenSet

LICENCES = frozenset(
    "apache-2.0 mit bsd-2-clause bsd-3-clause unlicense wtfpl gpl-3.0 lgpl-3.0 agpl-3.0 cc0-1.0 cc-by-4.0 "
    "cc-by-sa-4.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-sa-4.0 cc-by-nc-nd-4.0 openrail openrail++ "
    "creativeml-openrail-m".split()
)
"""The Hub's names for the most common licences of pictures and models."""


def facts(tokens: TokenSet) -> dict[str, Any]:
    """Return the facts about a set as plain values: its classes, its space, and a record for each group."""
    return {
        "classes": list(tokens.classes),
        "space": str(tokens.space),
        "groups": [_facts(group) for group in tokens.groups],
    }


def _facts(group: TokenGroup) -> dict[str, Any]:
    fit = group.fit
    calls = sum(map(len, fit.timesteps))
    found = {
        "classes": ", ".join(group.classes),
        "fitted": "jointly, one background" if len(group.classes) > 1 else "alone",
        "rows": len(group.rows),
        "model": fit.model or None,
        "annotations": len(fit.annotations),
        "denoiser_calls": calls,
        "blocks": len(fit.blocks),
        "half": fit.half,
        "maps": f"{fit.aggregation}, softmax over {fit.softmax_over}, refinement {fit.refinement}",
        "calibration": ", ".join(
            f"{name}: scale {c.scale:.3g}, offset {c.offset:.3g}" for name, c in group.calibrations.items()
        )
        or "stretched like a word",
        "thresholds": ", ".join(f"{name}: {_thresholds(found)}" for name, found in group.thresholds.items()) or None,
        "loss": _losses(group),
        "stopped": fit.stopped or None,
        "licence": group.licence,
        "remark": fit.remark or None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _thresholds(found: Thresholds) -> str:
    parts = [f"{name} {value:.3g}" for name, value in (("mask", found.mask), ("presence", found.presence)) if value]
    where = f", chosen on {found.pictures} pictures{' with refined maps' if found.refined else ''}"
    return " and ".join(parts or ["none"]) + (where if found.pictures else "")


def _losses(group: TokenGroup) -> str | None:
    fit = group.fit
    if fit.loss is None:
        return None
    return f"{fit.losses[0]:.4f} at first, {fit.loss:.4f} at best, in {len(fit.losses)} evaluations"


def card(tokens: TokenSet) -> str:
    """Return several lines of text: what the tokens are, where they can be used, and how they were made."""
    lines = [f"tokens for {', '.join(tokens.classes)}", f"usable with: {tokens.space}"]
    for entry in facts(tokens)["groups"]:
        lines += ["", *_lines(entry)]
    return "\n".join(lines) + "\n"


def _lines(entry: Mapping[str, Any]) -> list[str]:
    return [f"{name.replace('_', ' ')}: {value}" for name, value in entry.items()]


def model_card(tokens: TokenSet) -> str:
    """Return the card as the `README.md` of a Hub repository."""
    licences = {group.licence for group in tokens.groups}
    licence = next(iter(licences)) if len(licences) == 1 else None
    head = ["---", "library_name: ovam", "tags:", "- ovam-tokens", *licence_lines(licence or "other"), "---"]
    use = [
        "```python",
        "import ovam",
        "",
        'tokens = ovam.TokenSet.from_pretrained("owner/name")',
        "masks = trace.segment(tokens)",
        "```",
    ]
    return "\n".join([*head, "", "# Attention tokens", "", "```", card(tokens).strip(), "```", "", *use]) + "\n"


def licence_lines(licence: str) -> list[str]:
    """Return the lines about the licence for the Hub.

    The Hub accepts the names of its own list. Any other licence needs a name in small letters and dashes; the card has
    the full words.
    """
    known = licence.casefold().strip()
    if known in LICENCES:
        return [f"license: {known}"]
    return ["license: other", f"license_name: {re.sub('[^a-z0-9.]+', '-', known).strip('-') or 'other'}"]
