"""What every measurement of fits begins with: a model as its report chose to look with it, and what was chosen."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ovam
from lab.fits.traces import Traces
from ovam.models import MINI, model_hash

REPORT = Path("docs/results/mini/report.json")
CHOSEN = Path(__file__).with_name("chosen.json")
"""What `python -m lab.fits tune` writes and every measurement reads."""


def open_mini(work_dir: Path, self_attention: Sequence[int] | None = None) -> tuple[Traces, dict[str, Any]]:
    """Traces of mini in a work folder, and the report of mini, which must be of the same model.

    Args:
        work_dir: The folder.
        self_attention: Grids whose self-attention the traces keep.
    """
    pipe, report = ovam.load(MINI), json.loads(REPORT.read_text())
    _check(MINI, report["model"], model_hash(pipe))
    return Traces(pipe, work_dir, report["sections"]["choices"]["best"], self_attention), report


def _check(name: str, known: str | None, found: str) -> None:
    if known != found:
        raise SystemExit(
            f"{REPORT} is of {name} {known}, this one is {found}: blocks and time steps were chosen for another "
            "model; make the report again with `python -m lab.mini report`"
        )


def read_chosen(file: Path, traces: Traces) -> dict[str, Any]:
    """What was chosen for this model; nothing where the file is not there. What tells no model is for any."""
    chosen = known_choices(file)
    here, encoded = (traces.model, traces.encoded), chosen.get("basis", {}).get("encoded", traces.encoded)
    if (chosen.get("model", traces.model), encoded) != here:
        raise SystemExit(
            f"{file} is of another model, or of other blocks and time steps: choose again with "
            "`python -m lab.fits tune`"
        )
    return chosen


def known_choices(file: Path) -> dict[str, Any]:
    """What was chosen before; nothing where the file is not there."""
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return found
