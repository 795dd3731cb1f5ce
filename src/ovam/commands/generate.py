"""Generate images from a prompt and write them to a folder, with the maps and masks of any words."""

import inspect
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ovam import __version__
from ovam.backbones.registry import backbone_of
from ovam.checks import number, whole
from ovam.commands import GUIDANCE_SCALE, NUM_INFERENCE_STEPS, Progress, no_progress
from ovam.commands.output_options import OutputOptions
from ovam.commands.requests import plain
from ovam.commands.write_results import notes_of, write_all, write_run
from ovam.errors import OptionError
from ovam.maps.options import check_joint
from ovam.maps.words import Listed, OptimisedTokens, check_space_of, contrast_of, entries_of, names_of
from ovam.masks.options import SegmentOptions
from ovam.models import MINI, load
from ovam.output_files import write_json
from ovam.output_folders import check_folder
from ovam.run_folder import RECORD, run_folder
from ovam.text_sides import text_of
from ovam.tracing.capture import captured
from ovam.tracing.keeping import kept_for
from ovam.tracing.limits import check_sides, check_size, check_steps
from ovam.tracing.noise import check_seed
from ovam.tracing.options import CaptureOptions
from ovam.tracing.plan import both_sides

_LEAST_MULTIPLE = 8  # divides the sides in every family, so that most mistakes are found before a model is loaded


def generate(
    prompt: str,
    words: Listed = (),
    *,
    output_dir: str | Path,
    model: Any = MINI,
    negative_prompt: str | None = None,
    seed: int = 0,
    num_images: int = 1,
    num_inference_steps: int = NUM_INFERENCE_STEPS,
    guidance_scale: float = GUIDANCE_SCALE,
    true_cfg_scale: float | None = None,
    height: int | None = None,
    width: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    keeping: CaptureOptions | None = None,
    options: SegmentOptions | None = None,
    save_trace: bool = True,
    output: OutputOptions | None = None,
    request: str | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Generate images, and write them with the maps and masks of words, which may be in the prompt or not.

    Words and prompts are checked before the model runs. Files of the same names are overwritten, others stay.

    Args:
        prompt: What to generate.
        words: Words and phrases to map and segment, and optimised tokens. Without words, only the image and its trace
            are written; the trace can be queried later.
        output_dir: Folder for `image.png`, `maps/`, `masks/`, `sheet.png`, `labels.png`, `labels_overlay.png`,
            `run.safetensors` and `result.json`; with several images, folders `image-000/` and so on. It is created
            after the run.
        model: "mini", the folder of a pipeline, a model id, or a pipeline object.
        negative_prompt: What to avoid.
        seed: Seed of the first image; the next images have the next seeds.
        num_images: Number of images.
        num_inference_steps: Steps of the sampling loop.
        guidance_scale: Weight of the prompt, from 0; there is no guidance at 1 or below.
        true_cfg_scale: Weight of the prompt against the negative prompt, above 1; only in pipelines that have it
            besides `guidance_scale` (FLUX), and required there with a negative prompt.
        height: Height in pixels; the model's own by default, and from an eighth to eight times that.
        width: Width, likewise.
        dtype: Type of the weights, if the model is loaded here.
        device: Device of the model, if it is loaded here.
        keeping: As in `ovam.capture`. Attention outputs and self-attention are captured too if strategy or refinement
            needs them.
        options: As in `Trace.segment`. With the strategy "output", the words in `against` also share the pixels of the
            maps.
        save_trace: Whether to write `run.safetensors`, which can be queried with more words later.
        output: Which files of maps and masks to write; by default the pictures.
        request: Hash of what was asked, for the record of an item of a batch.
        progress: Called after each denoising step.

    Returns:
        The content of `result.json`; file names are relative to `output_dir`.

    Raises:
        EmptyWordsError, PromptTooLongError, OptionError: words, prompt or options can't be used.
        ModelNotFoundError, UnsupportedPipelineError: the model can't be loaded or is not supported.
        The errors of `ovam.capture`.
    """
    begun = time.monotonic()
    keeping, options = keeping or CaptureOptions(), options or SegmentOptions()
    entries, rivals = words_and_rivals(words, options)
    keeping = kept_for(options, keeping)
    _check_numbers(num_images, num_inference_steps, guidance_scale, true_cfg_scale)
    if not prompt.strip():
        raise OptionError(f"prompt={prompt!r}: expected a text that says what to generate")
    check_seed(seed, num_images)
    check_size(_LEAST_MULTIPLE, height=height, width=width)
    folder = check_folder(output_dir)
    pipe = pipeline(model, dtype=dtype, device=device, progress=progress)
    backbone = backbone_of(pipe)
    check_sides(pipe, height=height, width=width)
    height, width = both_sides(pipe, height, width)
    check_steps(pipe, num_inference_steps)
    check_joint(backbone.text_kind, strategy=options.strategy)
    _check_texts(pipe, [prompt, negative_prompt or ""], [*entries, *rivals])
    negative = _negative(pipe, negative_prompt, true_cfg_scale)
    with captured(pipe, keeping) as traces:
        pipe(
            prompt,
            **negative,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            height=height,
            width=width,
            num_images_per_prompt=num_images,
            generator=[torch.Generator().manual_seed(seed + i) for i in range(num_images)],
            callback_on_step_end=_reporting(progress, num_inference_steps),
        )
    write: Callable[..., dict[str, Any]] = (
        partial(write_all, words=entries, options=options, output=output) if entries else write_run
    )
    facts = {
        "command": "generate",
        "version": __version__,
        "model": traces[0].source.model if not isinstance(model, str | Path) else str(model),
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "num_inference_steps": num_inference_steps,
        "guidance_scale": guidance_scale,
        "true_cfg_scale": true_cfg_scale,
        "against": list(names_of(rivals)),
        **notes_of(traces[0], [*entries, *rivals]),
        "threshold": options.threshold,
        "strategy": options.strategy,
        "options": plain(options),
        **({"request": request} if request else {}),
        "output_dir": str(folder),
    }
    with run_folder(folder) as room:
        images = []
        for i, trace in enumerate(traces):
            progress("maps and masks" if entries else "writing", i, num_images)
            part = "." if num_images == 1 else f"image-{i:03d}"
            images.append({"folder": part, **write(trace, folder=room / part, save_trace=save_trace)})
        result = {**facts, "images": images, "seconds": round(time.monotonic() - begun, 2)}
        write_json(room / RECORD, result)
    return result


def words_and_rivals(
    words: Listed, options: SegmentOptions
) -> tuple[tuple[str | OptimisedTokens, ...], tuple[str | OptimisedTokens, ...]]:
    """Return words and contrast words; both may be empty.

    Raises:
        OptionError: there are contrast words but no words.
        The errors of `SegmentOptions.check`.
    """
    rivals = contrast_of(options.against)
    if isinstance(words, str) or not isinstance(words, Sequence) or words:
        options.check(words)
        return entries_of(words), rivals
    if rivals:
        raise OptionError(
            f"against={list(names_of(rivals))!r} was given without words: expected the words that they compete with; "
            "leave it out to query the trace later"
        )
    return (), ()


def _check_numbers(num_images: int, num_inference_steps: int, guidance: float, true_cfg: float | None) -> None:
    whole("num_images", num_images, least=1)
    whole("num_inference_steps", num_inference_steps, least=1)
    number("guidance_scale", guidance, least=0.0)
    if true_cfg is not None:
        number("true_cfg_scale", true_cfg, least=0.0)


def pipeline(model: Any, *, dtype: torch.dtype, device: str | torch.device, progress: Progress) -> Any:
    """Load a pipeline by name and disable its progress bar; a pipeline object is returned unchanged."""
    if not isinstance(model, str | Path):
        return model
    progress(f"loading {model}", 0, 0)
    pipe = load(model, dtype=dtype, device=device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _negative(pipe: Any, prompt: str | None, scale: float | None) -> dict[str, Any]:
    """Return the call's arguments for the negative prompt; none without one, since PixArt does not accept None.

    Raises:
        OptionError: the pipeline would silently ignore the prompt or its weight.
    """
    takes_scale = "true_cfg_scale" in inspect.signature(type(pipe).__call__).parameters
    if scale is not None and (not takes_scale or prompt is None or scale <= 1):
        raise OptionError(
            f"true_cfg_scale={scale:g}: expected a number above 1, together with negative_prompt, and a pipeline that "
            f"has this option, such as FLUX; this is a {type(pipe).__name__}"
        )
    if prompt is None:
        return {}
    if not takes_scale:
        return {"negative_prompt": prompt}
    if scale is None:
        raise OptionError(
            f"negative_prompt={prompt[:40]!r}: {type(pipe).__name__} ignores it without true_cfg_scale (on the "
            "command line --true-cfg-scale): expected that above 1, for example 4; guidance_scale is only an input of "
            "the model there"
        )
    return {"negative_prompt": prompt, "true_cfg_scale": scale}


def _check_texts(pipe: Any, prompts: Sequence[str], words: Sequence[str | OptimisedTokens]) -> None:
    """Check prompts and words before the model runs; the pipeline itself would cut long ones.

    Raises:
        PromptTooLongError: a prompt or a word is longer than the text encoder reads.
        SpaceMismatchError: tokens were fitted for another text encoder.
    """
    text = text_of(pipe)
    for each in (*prompts, *words):
        if isinstance(each, OptimisedTokens):
            check_space_of(each, text.space)
        else:
            text.check_length(each)


def _reporting(progress: Progress, total: int) -> Callable[..., dict[str, Any]]:
    def after_step(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        progress("denoising", step + 1, total)
        return tensors

    return after_step
