"""Measure, keep the numbers as JSON, and write docs/performance.md from all that are there."""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from lab.measure import stamp
from lab.performance import (
    bytes_kept,
    capture_overhead,
    dataset,
    end_to_end,
    layout,
    maps,
    refinement,
    report,
    storage_types,
    time_to_quality,
    tokens,
)
from lab.performance.options import Options

BENCHMARKS: dict[str, Callable[[Options], dict[str, Any]]] = {
    "maps": maps.run,  # first: while this process is small, and the machine's memory all but empty
    "token_iteration": tokens.run,
    "refinement": refinement.run,
    "time_to_quality": time_to_quality.run,
    "end_to_end": end_to_end.run,
    "capture_overhead": capture_overhead.run,
    "dataset": dataset.run,
    "dataset_large": dataset.run_large,
    "bytes_kept": bytes_kept.run,
    "storage_types": storage_types.run,
    "layout": layout.run,
}


def main() -> None:
    """Run the chosen benchmarks, one after the other."""
    arguments = _parser().parse_args()
    options = Options(arguments.peer, arguments.quick)
    folder = arguments.output_dir / "results" / "performance"
    folder.mkdir(parents=True, exist_ok=True)
    for name in [arguments.only] if arguments.only else BENCHMARKS:
        print(f"measuring {name} ...", flush=True)
        made = {**stamp(_command(arguments)), "quick": options.quick}
        result = {"benchmark": name, "stamp": made, **BENCHMARKS[name](options)}
        (folder / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    found = {name: json.loads(file.read_text()) for name in BENCHMARKS if (file := folder / f"{name}.json").is_file()}
    page = arguments.output_dir / "performance.md"
    page.write_text(report.write(found))
    print(f"wrote {page}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab.performance", description=__doc__)
    parser.add_argument("--peer", type=_checkout, metavar="PATH", help="checkout of vpulab/ovam to compare with")
    parser.add_argument(
        "--only", choices=sorted(BENCHMARKS), help="measure this one; the page keeps the others' numbers"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a minute's check that everything runs; not for publication"
    )
    parser.add_argument(
        "--output-dir", type=Path, default=Path("docs"), help="folder of performance.md (default: docs)"
    )
    return parser


def _checkout(given: str) -> Path:
    path = Path(given).resolve()
    if not (path / "ovam" / "stable_diffusion" / "daam_module.py").is_file():
        raise argparse.ArgumentTypeError(f"{given} is not a checkout of vpulab/ovam: it has no ovam/stable_diffusion")
    return path


def _command(arguments: argparse.Namespace) -> str:
    """The command as anyone could type it, without this machine's folders."""
    parts = ["python -m lab.performance"]
    parts += ["--peer PATH"] if arguments.peer else []
    parts += [f"--only {arguments.only}"] if arguments.only else []
    parts += ["--quick"] if arguments.quick else []
    return " ".join(parts)


if __name__ == "__main__":
    main()
