"""Dataset Diffusion's authors' own code, VinAIResearch/Dataset-Diffusion, beside ours.

Its licence is the AGPL: nothing of it is copied, it is run from the checkout. Its attention processors watch the model,
and the part of its script `gen_data.py` that turns attention into masks is executed as it stands there.
"""

import argparse
import ast
import functools
import os
import tempfile
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from lab.methods.checkout import on_the_way
from lab.methods.comparison import Agreement, Run, of_labels, of_values
from ovam.methods import DatasetDiffusion
from ovam.trace.blocks import finest_of

_NAME = "dataset-diffusion"


def agreements(run: Run, checkout: Path) -> list[Agreement]:
    """Compare the stretched maps at the image's size, and the labels with their undecided band.

    The middle block is left out on both sides: at 512 pixels it has none of the grids that are used, in smaller models
    it may.

    Args:
        run: What both sides look at; its picture is square.
        checkout: Folder of VinAIResearch/Dataset-Diffusion.
    """
    method = DatasetDiffusion()
    trace = run.captured(**method.requires)
    finest, _ = finest_of(block.grid for block in trace.blocks.values())
    values, labels = _theirs(run, checkout, finest)
    ours = F.interpolate(method.maps(trace, run.words)[None], trace.size, mode="bicubic")[0]
    result = method.segment(trace, list(run.words))
    found = [of_values(_NAME, f"map of {word!r}", ours[i], values[i]) for i, word in enumerate(run.words)]
    return [*found, of_labels(_NAME, "labels", result.labels, labels)]


def _theirs(run: Run, checkout: Path, finest: int) -> tuple[np.ndarray, np.ndarray]:
    """Return their stretched maps (class, height, width), and their labels."""
    on_the_way(checkout, "src/attn_processor.py")
    attention: Any = _module("their_attention", checkout / "src" / "attn_processor.py")
    before = dict(run.pipe.unet.attn_processors)
    controller = attention.AttentionStoreClassPrompts(start=0, end=run.steps)
    attention.register_attention_control(run.pipe, controller, attention.StoredAttnClassPromptsProcessor)
    try:
        with _class_prompt_beside(run):
            image = run.go()
    finally:
        run.pipe.unet.set_attn_processor(before)
    with tempfile.TemporaryDirectory() as folder:
        return _masks_of(checkout, run, image, controller, attention.aggregate_attention, finest, Path(folder))


@contextmanager
def _class_prompt_beside(run: Run) -> Iterator[None]:
    """Hand the class prompt to the denoiser as a third text, as their pipeline does."""
    tokens = run.pipe.tokenizer(
        " ".join(run.words),
        padding="max_length",
        max_length=run.pipe.tokenizer.model_max_length,
        return_tensors="pt",
    )
    with torch.no_grad():
        of_classes = run.pipe.text_encoder(tokens.input_ids)[0]

    def beside(module: Any, given: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        texts = torch.cat([named["encoder_hidden_states"], of_classes])
        return given, {**named, "encoder_hidden_states": texts}

    handle = run.pipe.unet.register_forward_pre_hook(beside, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _masks_of(
    checkout: Path, run: Run, image: Any, controller: Any, aggregate: Any, finest: int, folder: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Execute the loop of their script's `main` over the images of a batch, on our run; read what it leaves."""
    for name in ("image", "mask"):
        (folder / name).mkdir()
    names: dict[str, Any] = {
        "batch": [0],
        "batch_filenames": ["run.png"],
        "batch_indices": [list(range(len(run.words)))],  # each word has one token
        "batch_labels": [list(range(len(run.words) + 1))],
        "output": types.SimpleNamespace(images=[np.asarray(image) / 255]),
        "args": argparse.Namespace(work_dir=str(folder), threshold=0.6, uncertainty_threshold=0.5),
        "self_res": finest // 2,
        "cross_res": finest // 4,
        "palette": [0] * 768,
        "controller": controller,
        "aggregate_attention": functools.partial(aggregate, from_where=["up", "down"]),
        "np": np,
        "torch": torch,
        "F": F,
        "Image": Image,
        "osp": os.path,
    }
    exec(_loop_over_images(checkout / "gen_data.py"), names)
    with Image.open(folder / "mask" / "run.png") as mask:
        return np.asarray(names["outs"]), np.asarray(mask)


def _loop_over_images(script: Path) -> types.CodeType:
    """Return the innermost loop of `main` that makes and saves masks.

    Raises:
        SystemExit: the script is not the one that was read, VinAIResearch/Dataset-Diffusion at 00866c4.
    """
    tree = ast.parse(script.read_text(encoding="utf-8"))
    loops = [
        loop
        for loop in ast.walk(tree)
        if isinstance(loop, ast.For)
        and ast.unparse(loop.iter) == "range(len(batch))"
        and "matrix_power" in ast.unparse(loop)
    ]
    if len(loops) != 1:
        raise SystemExit(f"{script} has {len(loops)} loops that make masks: expected the one of commit 00866c4")
    return compile(ast.Module([loops[0]], []), str(script), "exec")


def _module(name: str, file: Path) -> types.ModuleType:
    """Import one file under another name, since theirs is `src`."""
    import importlib.util

    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
