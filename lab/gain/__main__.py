"""Take the gain of tokens over their words apart, and write docs/tokens-gain.md."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from rich.progress import track

from lab.digest import syntax_of
from lab.fits.methods import WORD
from lab.fits.opened import CHOSEN, open_mini, read_chosen
from lab.fits.plan import DRAWS, SCENES, Plan
from lab.fits.store import Store
from lab.fits.traces import Traces
from lab.gain import page
from lab.gain.finding import Finding, find
from lab.gain.ladder import choose_threshold, rungs
from lab.gain.table import table
from lab.measure import stamp
from ovam.mini.scenes import CLASSES

QUICK: dict[str, Any] = {"classes": ["car", "dog"], "draws": 1, "scenes": 20}

Findings = dict[str, dict[str, list[Finding]]]


def main(given: list[str] | None = None) -> None:
    """Run the command."""
    arguments = _parser().parse_args(sys.argv[1:] if given is None else given)
    sizes: dict[str, Any] = QUICK if arguments.quick else {"classes": list(CLASSES), "draws": DRAWS, "scenes": SCENES}
    traces, _ = open_mini(arguments.work_dir)
    chosen = read_chosen(arguments.chosen, traces)
    if WORD not in chosen:
        raise SystemExit(f"{arguments.chosen} tells no threshold of the word: choose with `python -m lab.fits tune`")
    made = {**stamp(_command(arguments)), "model": traces.model, "quick": arguments.quick}
    threshold = choose_threshold(traces, sizes["scenes"])
    methods = rungs(chosen, threshold)
    plan = Plan(arguments.split, methods, sizes["classes"], sizes["draws"], sizes["scenes"])
    findings = run(plan, traces, arguments.work_dir)
    found = {
        "stamp": made,
        "split": plan.split,
        "scenes": plan.count,
        "draws": plan.draws,
        "encoded": traces.encoded,
        "threshold": threshold,
        "chosen on": sizes["scenes"],
        "settings": {method.name: dict(method.settings) for method in methods},
        **table(findings),
    }
    results = arguments.output_dir / "results" / "tokens"
    results.mkdir(parents=True, exist_ok=True)
    (results / "gain.json").write_text(json.dumps(found, indent=1) + "\n")
    (arguments.output_dir / "tokens-gain.md").write_text(page.write(found))
    print(f"wrote {arguments.output_dir / 'tokens-gain.md'}")


def run(plan: Plan, traces: Traces, work_dir: Path) -> Findings:
    """All findings, those that are missing made; classes that no scene shows are left out."""
    store = Store(work_dir, {**plan.basis(traces), "gain": syntax_of("lab.gain")}, Finding)
    wanted = list(plan.keys())
    missing = [(method, key) for method, key in wanted if store.get(key) is None]
    for method, key in track(missing, "fits") if missing else ():
        store.put(key, find(method, plan.task(method, key), traces))
    found: Findings = {method.name: {} for method in plan.methods}
    for method, key in wanted:
        finding = store.get(key)
        if finding.details:
            found[method.name].setdefault(key["class"], []).append(finding)
    return found


def _command(arguments: argparse.Namespace) -> str:
    """The command as anyone could type it, without this machine's folders."""
    return f"python -m lab.gain --split {arguments.split}" + (" --quick" if arguments.quick else "")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab.gain", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--split", choices=("test", "validation"), default="validation", help="test: for the final page only"
    )
    parser.add_argument("--quick", action="store_true", help="two classes, to see that it runs; not for publication")
    parser.add_argument("--work-dir", type=Path, default=Path("runs/fits"), help="keeps traces and findings")
    parser.add_argument("--chosen", type=Path, default=CHOSEN, help="what `python -m lab.fits tune` writes")
    parser.add_argument("--output-dir", type=Path, default=Path("docs"), help="folder of the page (default: docs)")
    return parser


if __name__ == "__main__":
    main()
