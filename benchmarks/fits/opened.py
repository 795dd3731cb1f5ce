"""What every measurement of fits begins with: mini at the blocks and time steps of its report, and what was chosen."""

import json
from pathlib import Path
from typing import Any

import ovam
from benchmarks.fits.traces import Traces

REPORT = Path("docs/results/mini/report.json")
CHOSEN = Path(__file__).with_name("chosen.json")
"""What `python -m benchmarks.fits tune` writes and every measurement reads."""


def open_mini(work_dir: Path) -> tuple[Traces, dict[str, Any]]:
    """Traces of mini in a work folder, and the report of mini, which must be of the same model."""
    report = json.loads(REPORT.read_text())
    traces = Traces(ovam.load("mini"), work_dir, report["sections"]["choices"]["best"])
    if traces.model != report["model"]:
        raise SystemExit(
            f"{REPORT} is of model {report['model']}, mini is {traces.model}: blocks and time steps were chosen for "
            "another model; make the report again with `ovam mini report`"
        )
    return traces, report


def read_chosen(file: Path, model: str) -> dict[str, Any]:
    """What was chosen for this model; nothing where the file is not there."""
    chosen = json.loads(file.read_text()) if file.exists() else {}
    if chosen.get("model", model) != model:
        raise SystemExit(f"{file} is of another model: choose again with `python -m benchmarks.fits tune`")
    return chosen
