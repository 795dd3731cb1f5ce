"""`python -m lab.faults`: kill runs of `ovam dataset generate`, go on with them, compare; exits with 1 on failure."""

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from lab.faults.windows import WINDOWS, arm
from ovam.dataset.checking import check
from ovam.dataset.generator import generate
from ovam.dataset.recipe import read_recipe, recipe_of
from ovam.dataset.recipe_text import recipe_text

_CHILD = "child"


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def child(recipe: Path, folder: Path, window: str, count: int) -> None:
    """Generate, in a process that ends at a moment; with `window` "" it does not."""
    if window:
        arm(window, count)
    generate(read_recipe(recipe), folder)


def killed(recipe: Path, folder: Path, window: str, count: int, seconds: float | None = None) -> bool:
    """Run a child that ends at a moment or after some seconds; return whether it was killed.

    It computes with as many threads as this process: with another number sums round otherwise.
    """
    command = [sys.executable, "-m", "lab.faults", _CHILD, str(recipe), str(folder), window, str(count)]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | threads)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.returncode not in (0, -9):
            output.seek(0)
            raise RuntimeError(output.read().decode(errors="replace"))
    return process.returncode == -9


def _recipe(model: str, number: int) -> str:
    classes = {"classes": ["dog", "cat", "car"], "number": number, "name": "faults"}
    run = {"model": model, "num_inference_steps": 2, "batch": 4, "height": 64, "width": 64}
    return recipe_text(recipe_of({"data": classes, "model": run}))


def faults(model: str, runs: int, number: int) -> dict[str, object]:
    """Kill runs and compare them with one that nobody stopped.

    Args:
        model: Name of the model.
        runs: Number of runs; half of them are killed in the windows, the others at random times.
        number: Images of a run.
    """
    chance = random.Random(0)
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        recipe, whole = Path(scratch) / "recipe.toml", Path(scratch) / "whole"
        recipe.write_text(_recipe(model, number))
        generate(read_recipe(recipe), whole)
        begun = time.monotonic()
        killed(recipe, Path(scratch) / "again", "", 0)  # how long a process takes that nobody stops
        seconds, expected = time.monotonic() - begun, digests(whole)
        for run in range(runs):
            folder = Path(scratch) / f"run-{run}"
            window = WINDOWS[run // 2 % len(WINDOWS)] if run % 2 else ""
            count = chance.randint(1, number * (3 if window == WINDOWS[0] else 1))
            dead = killed(recipe, folder, window, count, None if window else chance.uniform(0.4, 1.0) * seconds)
            items = len(list((folder / "items").glob("*.json"))) if folder.is_dir() else 0
            generate(read_recipe(recipe), folder)
            same = digests(folder) == expected
            passed = same and bool(check(folder)["passed"])
            found.append({"window": window or "any", "killed": dead, "items_before": items, "passed": passed})
            print(f"{run + 1:2d} {found[-1]}", flush=True)
    counts = {"runs": runs, "killed": sum(bool(one["killed"]) for one in found)}
    in_windows = sum(bool(one["killed"]) and one["window"] != "any" for one in found)
    return {**counts, "in_windows": in_windows, "passed": all(bool(one["passed"]) for one in found)}


def main() -> None:
    """Run the command line."""
    if sys.argv[1:2] == [_CHILD]:
        child(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
        return
    parser = argparse.ArgumentParser(prog="python -m lab.faults", description=__doc__)
    parser.add_argument("--model", default="mini", help="mini, a folder or an id")
    parser.add_argument("--runs", type=int, default=20, help="runs that are killed")
    parser.add_argument("--number", type=int, default=8, help="images of a run")
    given = parser.parse_args()
    result = faults(given.model, given.runs, given.number)
    print(json.dumps(result))
    sys.exit(0 if result["passed"] else 1)


if __name__ == "__main__":
    main()
