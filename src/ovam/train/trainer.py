"""transformers' Trainer for segmentation: a fixed order of pictures, and validation by our own confusion matrix."""

from typing import Any

import numpy as np
import torch
from transformers import Trainer

from ovam.evaluate import Confusion
from ovam.train.classes import IGNORE
from ovam.train.scores import masks_and_classes
from ovam.train.validation import Validation


class SegmentationTrainer(Trainer):  # type: ignore[misc] # transformers is not typed
    """Trains on a `Mixture` in its own order, and evaluates on a `Validation`.

    Args:
        universal: Whether the model takes masks and their classes, not labels of pixels.
        validation: What it is evaluated on.
        settings: Keywords of transformers' Trainer.
    """

    def __init__(self, *, universal: bool, validation: Validation, **settings: Any) -> None:
        super().__init__(eval_dataset=validation, **settings)
        self._universal, self._validation = universal, validation
        self.model_accepts_loss_kwargs = False  # these models' losses are means over pixels, not sums over words

    def _get_train_sampler(self, *_: Any, **__: Any) -> torch.utils.data.Sampler[int]:
        """The mixture is in its order already, and in the same one after a resumption."""
        return torch.utils.data.SequentialSampler(self.train_dataset)

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        """Return the loss of a batch. It is 0 if no pixel has a label, because the mean over no pixels would be NaN."""
        pixels, labels = inputs["pixel_values"], inputs["labels"]
        empty = not bool((labels != IGNORE).any())
        if empty:
            labels = torch.zeros_like(labels)
        if self._universal:
            masks, classes = masks_and_classes(labels, self.model.config.num_labels)
            output = model(pixel_values=pixels, mask_labels=masks, class_labels=classes)
        else:
            output = model(pixel_values=pixels, labels=labels)
        loss = output.loss.mean() * (0.0 if empty else 1.0)  # of several GPUs in one process; shape (1,) of Mask2Former
        return (loss, output) if return_outputs else loss

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        _load_weights(self.model if model is None else model, resume_from_checkpoint)

    def _load_best_model(self) -> None:
        _load_weights(self.model, self.state.best_model_checkpoint)

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Return mean IoU of the validation pictures, over the labels that are true somewhere, and pixel accuracy."""
        total = self._confusion()
        counts = total.counts
        metrics = {
            f"{metric_key_prefix}_miou": total.mean_iou(),
            f"{metric_key_prefix}_accuracy": float(np.trace(counts) / max(1, counts.sum())),
        }
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _confusion(self) -> Confusion:
        """Confusion over all processes, each of which compares its share of the pictures."""
        training, total = self.model.training, Confusion.empty(len(self._validation.classes.names))
        self.model.eval()
        with self.compute_loss_context_manager():
            share = range(self.args.process_index, len(self._validation), self.args.world_size)
            batch = self.args.per_device_eval_batch_size
            for index, labels in self._validation.predicted(self.model, share, batch=batch):
                total += self._validation.compared(index, labels)
        self.model.train(training)
        if self.args.world_size > 1:
            counts = torch.from_numpy(total.counts).to(self.args.device)
            total = Confusion(self.accelerator.reduce(counts, "sum").cpu().numpy(), total.ignored)
        return total


def _load_weights(model: Any, folder: str) -> None:
    """Load a checkpoint as transformers loads any model.

    Files have the names that weights had in older releases, and `from_pretrained` translates them. The Trainer's own
    loading does not, up to transformers 5.23 at least: it passes over all weights with another name, without an error
    (a SegFormer's projections, a Mask2Former's whole encoder).
    """
    model.load_state_dict(type(model).from_pretrained(folder).state_dict())
