"""Checkpoints of a training, and the settings that they belong to."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ovam.errors import OptionError
from ovam.json_text import read_json
from ovam.output_files import write_json

FOLDER = "checkpoints"
SETTINGS = "training.json"
_STATE = "trainer_state.json"  # which the Trainer writes last: a checkpoint with it is whole


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint of an output folder, or None if there is none."""
    whole = [each for each in (folder / FOLDER).glob("checkpoint-*") if _is_whole(each)]
    return max(whole, key=_step, default=None)


def remove_torn(folder: Path) -> None:
    """Remove incomplete checkpoints, which a process left that was killed while it wrote them."""
    for each in (folder / FOLDER).glob("checkpoint-*"):
        if not _is_whole(each):
            shutil.rmtree(each, ignore_errors=True)


def settle(folder: Path, settings: Mapping[str, Any], *, resume: bool) -> Path | None:
    """Return the checkpoint to continue from: the newest one when resuming, else None.

    Raises:
        OptionError: there is nothing to resume, the checkpoint was made with other settings, or a new training would
            begin in a folder with checkpoints of an old one.
    """
    newest = last_checkpoint(folder)
    if not resume:
        if newest is not None:
            raise OptionError(
                f"{folder} holds a training up to step {_step(newest)}: expected a new folder, or resume=True to go on "
                f"with it; delete {folder / FOLDER} to begin anew there"
            )
        return None
    if newest is None:
        raise OptionError(
            f"resume=True, but {folder} holds no checkpoint: expected the output folder of a training that was "
            "stopped; leave it out to begin one"
        )
    differences = _differences(_settings(folder), settings)
    if differences:
        raise OptionError(
            f"resume=True, but the training in {folder} has other settings ({'; '.join(differences)}): expected the "
            "same ones, so that it ends as if it had never stopped; begin a new one in another folder"
        )
    return newest


def write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write down what a training was begun with."""
    write_json(folder / SETTINGS, settings)


def _settings(folder: Path) -> dict[str, Any]:
    try:
        return dict(read_json(folder / SETTINGS))
    except (OSError, ValueError, TypeError) as error:
        raise OptionError(
            f"resume=True, but {folder / SETTINGS} can't be read ({error}): expected the settings of the training; "
            "begin a new one in another folder"
        ) from error


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    names = [*before, *(name for name in now if name not in before)]
    return [
        f"{name} was {before.get(name)!r}, is {now.get(name)!r}" for name in names if before.get(name) != now.get(name)
    ]


def _is_whole(checkpoint: Path) -> bool:
    try:
        return bool(read_json(checkpoint / _STATE)) and checkpoint.name.removeprefix("checkpoint-").isdigit()
    except (OSError, ValueError):
        return False


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
