"""Time and memory of maps from stored queries, against the time to read them once and against the peer."""

import hashlib
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from lab.measure import Contender, alternately, ratios
from lab.performance.options import Options
from lab.performance.queries import SHAPES, STEPS
from lab.performance.worker import Setting, Worker

TOKENS = (8, 77)
SEED = 0


def run(options: Options) -> dict[str, Any]:
    """Measure this library with both storage types, and the peer where there is one."""
    steps = 3 if options.quick else STEPS
    settings = {
        "float32": Setting(None, "float32", steps, SEED),
        "float16": Setting(None, "float16", steps, SEED),
    }
    if options.peer is not None:
        settings["peer"] = Setting(str(options.peer), "float32", steps, SEED)
    return {
        "model": "none: synthetic queries of SD 1.5 size",
        "seed": SEED,
        "steps": steps,
        "shapes": [[side * side, head_dim] for side, head_dim in SHAPES],
        "peer": None if options.peer is None else describe_peer(options.peer),
        "peak_bytes": _peaks(settings),
        **_times(settings, options.pairs),
    }


def _peaks(settings: dict[str, Setting]) -> dict[str, dict[str, int | None]]:
    """Highest resident memory above the stored queries, each in a fresh process."""
    peaks: dict[str, dict[str, int | None]] = {}
    for name, setting in settings.items():
        with Worker(setting, for_memory=True) as worker:
            peaks[name] = {str(tokens): worker.ask(do="peak", tokens=tokens) for tokens in TOKENS}
    return peaks


def _times(settings: dict[str, Setting], rounds: int) -> dict[str, Any]:
    with ExitStack() as stack:
        workers = {name: stack.enter_context(Worker(setting)) for name, setting in settings.items()}
        contenders = {f"{name} floor": contender(workers[name], do="floor") for name in ("float32", "float16")}
        for tokens in TOKENS:
            for name, worker in workers.items():
                contenders[f"{name} {tokens}"] = contender(worker, do="maps", tokens=tokens)
        seconds = alternately(contenders, rounds)
        return {
            "stored_bytes": {name: worker.ask(do="size") for name, worker in workers.items()},
            "seconds": seconds,
            "ratios": ratios(seconds, _pairs()),
            "largest_difference": _differences(workers),
        }


def contender(worker: Worker, **task: Any) -> Contender:
    """A task of which a process tells the seconds."""
    return lambda: float(worker.ask(**task))


def _pairs() -> dict[str, tuple[str, str]]:
    """What is divided by what."""
    pairs = {}
    for tokens in TOKENS:
        for dtype in ("float32", "float16"):
            pairs[f"{dtype} {tokens} over floor"] = (f"{dtype} {tokens}", f"{dtype} floor")
            pairs[f"peer {tokens} over {dtype}"] = (f"peer {tokens}", f"{dtype} {tokens}")
        pairs[f"peer {tokens} over floor"] = (f"peer {tokens}", "float32 floor")
    return pairs


def _differences(workers: dict[str, Worker]) -> dict[str, dict[str, float]]:
    """Largest difference of any map's value from this library's with float32 queries."""
    found: dict[str, dict[str, float]] = {name: {} for name in workers if name != "float32"}
    with tempfile.TemporaryDirectory() as folder:
        for tokens in TOKENS:
            files = {name: Path(folder) / f"{name}.npy" for name in workers}
            for name, worker in workers.items():
                worker.ask(do="maps", tokens=tokens, save=str(files[name]))
            own = np.load(files["float32"])
            for name in found:
                found[name][str(tokens)] = float(np.abs(np.load(files[name]) - own).max())
    return found


def describe_peer(checkout: Path) -> dict[str, str]:
    """Which version of the peer: its commit where the checkout knows it, and a hash of its sources."""
    digest = hashlib.sha256()
    for file in sorted((checkout / "ovam").rglob("*.py")):
        digest.update(file.relative_to(checkout).as_posix().encode() + file.read_bytes())
    process = subprocess.run(["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    commit = process.stdout.strip() if process.returncode == 0 and (checkout / ".git").exists() else "unknown"
    return {"repository": "vpulab/ovam", "commit": commit, "source_hash": digest.hexdigest()[:16]}
