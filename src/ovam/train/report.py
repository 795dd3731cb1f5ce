"""End a training: validate the best model once more, and write it with its report."""

import json
from typing import Any

import numpy as np

from ovam.evaluate import Confusion
from ovam.output_files import write_bytes, write_json, write_picture
from ovam.progress import Progress
from ovam.run_folder import RECORD, run_folder
from ovam.train.cases import Case, choose, sheet
from ovam.train.curves import curves
from ovam.train.files import read_picture
from ovam.train.page import page
from ovam.train.sources import Sources
from ovam.train.task import Task
from ovam.train.validation import Validation

FILES = {"report": "report.md", "curves": "curves.png", "cases": "cases.png", "model": "model.safetensors"}


def finish(task: Task, about: dict[str, Any], trainer: Any, *, progress: Progress) -> dict[str, Any]:
    """Write model and report, all files or none; return what `result.json` holds.

    Args:
        task: The training.
        about: Facts about it.
        trainer: The Trainer, which has ended, and whose model has its best weights by now.
        progress: Called for each validation picture.
    """
    validation, sources = task.validation, task.sources
    model, batch = trainer.model.eval(), trainer.args.per_device_eval_batch_size
    total, per_picture = Confusion.empty(len(sources.classes.names)), np.full(len(validation), np.nan)
    for done, (i, labels) in enumerate(validation.predicted(model, range(len(validation)), batch=batch)):
        progress("evaluating", done, len(validation))
        one = validation.compared(i, labels)
        total, per_picture[i] = total + one, one.mean_iou()
    chosen = choose(per_picture.tolist())
    result = {
        **about,
        "output_dir": str(task.folder),
        "data": sources.record(),
        "figures": _figures(total, per_picture),
        "classes": _classes(total, sources),
        "cases": [_case(each, validation) for each in chosen],
        "curve": _curve(trainer.state.log_history),
        "files": FILES,
    }
    rows = _rows(chosen, validation, dict(validation.predicted(model, [each.index for each in chosen], batch=1)))
    with run_folder(task.folder) as room:
        model.save_pretrained(room)
        for weights in room.glob("*.safetensors"):  # transformers writes them for their owner alone
            weights.chmod((room / "config.json").stat().st_mode)
        write_bytes(room / "preprocessor_config.json", (json.dumps(task.start.processor, indent=2) + "\n").encode())
        write_picture(room / FILES["curves"], _drawn(result["curve"], about["best_step"]))
        write_picture(room / FILES["cases"], sheet(rows, sources.classes.names))
        write_bytes(room / FILES["report"], page(result).encode())
        write_json(room / RECORD, result)
    return result


def _figures(total: Confusion, per_picture: np.ndarray) -> dict[str, float | None]:
    known = per_picture[np.isfinite(per_picture)]
    return {
        "miou": _rounded(total.mean_iou()),
        "miou_without_background": _rounded(total.mean_iou(background=False)),
        "mean_of_per_picture_miou": _rounded(float(known.mean())) if known.size else None,
        "pixel_accuracy": _rounded(float(np.trace(total.counts) / max(1, total.counts.sum()))),
    }


def _rounded(value: float) -> float | None:
    return round(value, 4) if np.isfinite(value) else None


def _classes(total: Confusion, sources: Sources) -> list[dict[str, Any]]:
    iou, trained = total.iou(), np.sum([held.pixels for held in sources.surveys], axis=0)
    return [
        {
            "class": name,
            "id": sources.classes.ids[label],
            "iou": _rounded(float(iou[label])),
            "training_pictures": int(sum(held.pictures[label] for held in sources.surveys)),
            "training_pixels": round(float(trained[label] / trained.sum()), 4),
            "validation_pictures": int(sources.val_survey.pictures[label]),
        }
        for label, name in enumerate(sources.classes.names)
    ]


def _case(case: Case, validation: Validation) -> dict[str, Any]:
    picture = validation.data.pairs[case.index][0].relative_to(validation.data.folder)
    return {"kind": case.kind, "picture": picture.as_posix(), "miou": round(case.miou, 4)}


def _rows(chosen: list[Case], validation: Validation, found: dict[int, np.ndarray]) -> list[Any]:
    return [
        (
            each.kind,
            f"mIoU {each.miou:.2f}",
            read_picture(validation.data.pairs[each.index][0]),
            validation.truth(each.index),
            found[each.index],
        )
        for each in chosen
    ]


def _curve(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Loss and mIoU by step; the loss is the mean since the point before."""
    kept = ((entry["step"], "loss" if "loss" in entry else "miou", entry) for entry in history if "step" in entry)
    return [
        {"step": step, name: round(float(entry[name if name == "loss" else "eval_miou"]), 5)}
        for step, name, entry in kept
        if name == "loss" or "eval_miou" in entry
    ]


def _drawn(curve: list[dict[str, Any]], best: int | None) -> Any:
    loss = [(point["step"], point["loss"]) for point in curve if "loss" in point]
    miou = [(point["step"], point["miou"]) for point in curve if "miou" in point]
    panels = (("loss of the training pictures", loss), ("mIoU of the validation pictures; the best is marked", miou))
    return curves(panels, mark=best)
