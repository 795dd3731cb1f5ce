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
from ovam.train.checkpoints import FOLDER, last_checkpoint, remove_torn, settle, write_settings
from ovam.train.mixture import Mixture, collated
from ovam.train.options import TrainOptions
from ovam.train.processes import is_main
from ovam.train.segmenter import Start, check_arch, start
from ovam.train.sources import Sources, read_sources
from ovam.train.validation import Validation

_RATE_NEW, _RATE_TRAINED = 5e-4, 6e-5
_WARM = 20  # a share of the steps, one in so many, in which the learning rate rises
_LOOKS = 100  # points of the loss curve


def train(
    data: Sequence[tuple[str | Path, float]],
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
        resume: Go on with the training that was stopped in this folder; it ends with the weights of an unbroken one.
        device: `cpu`, or None for a GPU where there is one. Processes that `torchrun` or `accelerate launch` starts take
            a GPU each, and share the work.
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
        raise OptionError(f"device={device!r}: expected 'cpu', or None for a GPU; choose one by CUDA_VISIBLE_DEVICES")
    if resume:
        _check_begun(folder)
    sources = read_sources(data, val, progress)
    size = options.size or sources.usual_size
    settings = {**asdict(options), "size": size, "data": sources.record(), "classes": dict(_named(sources))}
    settings = _plain({name: value for name, value in settings.items() if name != "workers"})
    checkpoint = settle(folder, settings, resume=resume)
    with _randomness_kept():
        progress("loading the model", 0, 0)
        begin = start(options.arch, sources.classes, size=size, seed=options.seed)
        validation = Validation(sources.val, sources.classes, sources.val_survey.sizes, begin.scaling)
        trainer, watch = _trainer(begin, sources, validation, folder, options, device, progress)
        if is_main():
            remove_torn(folder)
            write_settings(folder, settings)
        _run(trainer, watch, checkpoint)
        if trainer.state.global_step < trainer.state.max_steps:
            raise OvamError(
                f"the training was stopped at step {trainer.state.global_step} of {trainer.state.max_steps}: "
                "resume it with resume=True and the same options, and it ends as if it had never stopped"
            )
        about = _about(settings, begin, trainer, begun)
        if not is_main():
            return about
        from ovam.train.report import finish

        return finish(folder, about, begin, trainer, validation, sources, progress)


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


def _trainer(
    begin: Start,
    sources: Sources,
    validation: Validation,
    folder: Path,
    options: TrainOptions,
    device: str | None,
    progress: Progress,
) -> tuple[Any, Any]:
    from transformers import PrinterCallback, ProgressCallback

    from ovam.train.stopping import Watch
    from ovam.train.trainer import SegmentationTrainer

    arguments = _arguments(folder / FOLDER, options, begin, device)
    places = options.steps * options.accumulate * arguments.train_batch_size * arguments.world_size
    mixture = Mixture(
        sources.train,
        sources.weights,
        sources.classes,
        length=places,
        scaling=begin.scaling,
        augment=options.augment,
        seed=options.seed,
    )
    watch = Watch(progress)
    trainer = SegmentationTrainer(
        universal=begin.universal,
        validation=validation,
        model=begin.model,
        args=arguments,
        train_dataset=mixture,
        data_collator=collated,
        callbacks=[watch],
    )
    for printing in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printing)
    return trainer, watch


def _arguments(folder: Path, options: TrainOptions, begin: Start, device: str | None) -> Any:
    from transformers import TrainingArguments

    on_gpu = device is None and torch.cuda.is_available()
    bfloat = options.precision == "bfloat16" or (
        options.precision == "auto" and on_gpu and torch.cuda.is_bf16_supported()
    )
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=options.steps,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=options.batch_size,
        gradient_accumulation_steps=options.accumulate,
        learning_rate=options.learning_rate or (_RATE_TRAINED if begin.own_weights else _RATE_NEW),
        weight_decay=0.01,
        warmup_steps=options.steps // _WARM,
        lr_scheduler_type="linear",
        bf16=bfloat,
        fp16=options.precision == "float16",
        use_cpu=device == "cpu",
        seed=options.seed,
        eval_strategy="steps",
        eval_steps=options.rhythm,
        save_strategy="steps",
        save_steps=options.rhythm,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="miou",
        greater_is_better=True,
        logging_steps=max(1, options.steps // _LOOKS),
        ddp_find_unused_parameters=begin.universal,  # of several processes
        dataloader_num_workers=options.workers,
        dataloader_pin_memory=on_gpu,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
    )
    if arguments.n_gpu > 1:  # one process with several GPUs would cut lists of masks into pieces, and is slow
        arguments._n_gpu = 1
    return arguments


def _run(trainer: Any, watch: Any, checkpoint: Path | None) -> None:
    from ovam.train.stopping import interruptible

    with interruptible(watch):
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))


def _about(settings: dict[str, Any], begin: Start, trainer: Any, begun: float) -> dict[str, Any]:
    import accelerate
    import transformers

    model = begin.model
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
        "seconds": round(time.monotonic() - begun, 2),
    }
