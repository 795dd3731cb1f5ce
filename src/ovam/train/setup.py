"""Set up the Trainer for a task; this loads transformers."""

import torch
from transformers import PrinterCallback, ProgressCallback, TrainingArguments

from ovam.progress import Progress
from ovam.train.checkpoints import FOLDER
from ovam.train.mixture import Mixture, collated
from ovam.train.stopping import Watch
from ovam.train.task import Task
from ovam.train.trainer import SegmentationTrainer

_RATE_NEW, _RATE_TRAINED = 5e-4, 6e-5
_WARM = 20  # a share of the steps, one in so many, in which the learning rate rises
_LOOKS = 100  # points of the loss curve


def trainer_of(task: Task, progress: Progress) -> tuple[SegmentationTrainer, Watch]:
    """Return the Trainer of a task, which prints nothing, and the callback that reports its steps and can stop it.

    Args:
        task: The training.
        progress: Called after every step.
    """
    sources, options, begin = task.sources, task.options, task.start
    arguments = _arguments(task)
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
        validation=task.validation,
        model=begin.model,
        args=arguments,
        train_dataset=mixture,
        data_collator=collated,
        callbacks=[watch],
    )
    for printing in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printing)
    return trainer, watch


def _arguments(task: Task) -> TrainingArguments:
    options, begin = task.options, task.start
    on_gpu = task.device is None and torch.cuda.is_available()
    bfloat = options.precision == "bfloat16" or (
        options.precision == "auto" and on_gpu and torch.cuda.is_bf16_supported()
    )
    arguments = TrainingArguments(
        output_dir=str(task.folder / FOLDER),
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
        use_cpu=task.device == "cpu",
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
