"""Train a segmenter: data in, a folder out that transformers loads, with a report."""

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ovam import __version__
from ovam.errors import OptionError, OvamError
from ovam.output_folders import check_folder
from ovam.progress import Progress, no_progress
from ovam.train.checkpoints import last_checkpoint, remove_torn, settle, write_settings
from ovam.train.options import TrainOptions
from ovam.train.processes import is_main
from ovam.train.segmenter import check_arch, start
from ovam.train.sources import Sources, read_sources
from ovam.train.task import Task
from ovam.train.validation import Validation


def train(
    data: Sequence[tuple[str | Path, float | int]],
    val: str | Path,
    output_dir: str | Path,
    *,
    options: TrainOptions | None = None,
    resume: bool = False,
    device: str | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Train a segmenter on one or several data sets.

    The folder gets the model with the best validation mIoU (`config.json`, `model.safetensors`,
    `preprocessor_config.json`), a report (`report.md`, `result.json`, `curves.png`, `cases.png`) and `checkpoints`.

    Args:
        data: Folders with their weights: each has its share of every batch.
        val: Folder to validate on.
        output_dir: Folder to write to.
        options: How it is trained.
        resume: Continue the training that was stopped in this folder; it ends with the weights of an unbroken one.
        device: `cpu`, or None for a GPU where there is one. Processes that `torchrun` or `accelerate launch` starts
            take a GPU each, and share the work.
        progress: Called with the progress.

    Returns:
        What `result.json` holds.

    Raises:
        DatasetError: a data set can't be read, or does not go with the others.
        ModelNotFoundError: there is no such model.
        OptionError: nothing can be resumed, or the folder holds another training.
        OvamError: the training was interrupted; its last checkpoint is written.
    """
    begun, options, folder = time.monotonic(), options or TrainOptions(), check_folder(output_dir).absolute()
    progress = progress if is_main() else no_progress
    check_arch(options.arch)
    if device not in (None, "cpu"):
        raise OptionError(
            f"device={device!r}: expected 'cpu', or no device for a GPU; choose one by CUDA_VISIBLE_DEVICES"
        )
    if resume:
        _check_begun(folder)
    _check_output(folder, [*(source for source, _ in data), val])
    sources = read_sources(data, val, progress)
    size = options.size or sources.usual_size
    settings = {**asdict(options), "size": size, "data": sources.record(), "classes": dict(_named(sources))}
    settings = _plain({name: value for name, value in settings.items() if name != "workers"})
    checkpoint = settle(folder, settings, resume=resume)
    with _randomness_kept():
        progress("loading the model", 0, 0)
        begin = start(options.arch, sources.classes, size=size, seed=options.seed)
        validation = Validation(sources.val, sources.classes, sources.val_survey.sizes, begin.scaling)
        task = Task(folder, sources, begin, validation, options, device)
        trainer = _trained(task, settings, checkpoint, progress=progress)
        about = _about(settings, trainer, time.monotonic() - begun)
        if not is_main():
            return about
        from ovam.train.report import finish

        return finish(task, about, trainer, progress=progress)


def _trained(task: Task, settings: dict[str, Any], checkpoint: Path | None, *, progress: Progress) -> Any:
    """Run the Trainer to its end; return it, with the best weights in its model.

    Raises:
        OvamError: the training was interrupted.
    """
    from ovam.train.setup import trainer_of
    from ovam.train.stopping import interruptible

    trainer, watch = trainer_of(task, progress)
    if is_main():
        remove_torn(task.folder)
        write_settings(task.folder, settings)
    with interruptible(watch):
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    done, total = trainer.state.global_step, trainer.state.max_steps
    if done < total:
        raise OvamError(
            f"the training was stopped at step {done} of {total}: resume it with resume=True and the same options, and "
            "it ends as if it had never stopped"
        )
    return trainer


def _check_output(folder: Path, sources: Sequence[str | Path]) -> None:
    for source in sources:
        if folder.resolve() == Path(source).resolve():
            raise OptionError(f"output folder {folder} is the data set {source}: expected a folder of the model's own")


def _check_begun(folder: Path) -> None:
    if last_checkpoint(folder) is None:
        settle(folder, {}, resume=True)


def _named(sources: Sources) -> Iterator[tuple[str, str]]:
    return ((str(i), name) for i, name in zip(sources.classes.ids[1:], sources.classes.names[1:], strict=True))


def _plain(value: Any) -> Any:
    """The value as JSON gives it back."""
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


@contextmanager
def _randomness_kept() -> Iterator[None]:
    """Put back the states of random numbers, which the Trainer seeds."""
    states = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.random.set_rng_state(states[2])


def _about(settings: dict[str, Any], trainer: Any, seconds: float) -> dict[str, Any]:
    import accelerate
    import transformers

    model = trainer.model
    return {
        "command": "train",
        "version": __version__,
        "model": type(model).__name__,
        "parameters": sum(each.numel() for each in model.parameters()),
        "device": str(trainer.args.device),
        "processes": trainer.args.world_size,
        "steps": trainer.state.max_steps,
        "best_step": trainer.state.best_global_step,
        "settings": settings | {"learning_rate": trainer.args.learning_rate},
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "accelerate": accelerate.__version__,
        },
        "seconds": round(seconds, 2),
    }
