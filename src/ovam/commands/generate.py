"""From a prompt to images with the maps and masks of any words, all in one folder."""

import inspect
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ovam import __version__
from ovam.asked import check_space_of
from ovam.backbones.registry import backbone_of
from ovam.capture import capture
from ovam.checks import number
from ovam.commands import GUIDANCE_SCALE, NUM_INFERENCE_STEPS, Progress, no_progress
from ovam.commands.answers import notes_of, write_all, write_run
from ovam.commands.files import write_json
from ovam.commands.folders import check_folder, kept_if_done
from ovam.errors import OptionError
from ovam.map_options import Strategy, check_joint
from ovam.masks import THRESHOLD, check_words, names_of
from ovam.models import MINI, load, text_of
from ovam.noise import check_seed
from ovam.plan import native_side
from ovam.storage import storage_of
from ovam.trace import BlockChoice, Fitted, Listed

_MOST_SIDES = 8  # of the model's own, or their eighth: far beyond what models make, and short of taking all memory
_LEAST_MULTIPLE = 8  # of every family's sides, so that most mistakes are found before a model is loaded


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
    blocks: BlockChoice = None,
    steps: int | Iterable[int] | None = None,
    storage: torch.dtype | None = None,
    preset: str | None = None,
    disk: str | Path | None = None,
    limit_gib: float | None = None,
    outputs: bool = False,
    against: Listed = (),
    threshold: float = THRESHOLD,
    strategy: Strategy = "attention",
    save_trace: bool = True,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Generate images, and write them with the maps and masks of words, which may be in the prompt or not.

    Words and prompts are checked before the model runs. Files of the same names are written over, others stay.

    Args:
        prompt: What to generate.
        words: Words and phrases to map and segment, and fitted tokens; without any, the image and its trace are
            written, which can be asked later.
        output_dir: Gets `image.png`, `maps/`, `masks/`, `sheet.png`, `labels.png`, `labels_overlay.png`,
            `run.safetensors` and `result.json`; with several images, folders `image-000/` and so on. It is made when
            the run is over.
        model: "mini", the folder of a pipeline, a model id, or a pipeline object.
        negative_prompt: What to keep away from.
        seed: Seed of the first image; the next images have the next seeds.
        num_images: Number of images.
        num_inference_steps: Steps of the sampling loop.
        guidance_scale: Weight of the prompt, from 0; 1 and below is without guidance.
        true_cfg_scale: Weight of the prompt against the negative one, above 1, in pipelines that take it apart from
            `guidance_scale` (FLUX), and there needed with a negative prompt.
        height: In pixels; the model's own by default, and from an eighth to eight times that.
        width: Likewise.
        dtype: Type of the weights, when the model is loaded here.
        device: Where the model runs, when it is loaded here.
        blocks: As in `ovam.capture`.
        steps: As in `ovam.capture`.
        storage: Type that queries are kept in, `dtype` in `ovam.capture`.
        preset: As in `ovam.capture`.
        disk: As in `ovam.capture`.
        limit_gib: As in `ovam.capture`.
        outputs: As in `ovam.capture`; they are kept as well where the strategy needs them.
        against: Words that compete for the label map and are then dropped.
        threshold: Score of the background, in (0, 1).
        strategy: As in `Trace.maps`; with "output" the words in `against` share the pixels of the maps, too.
        save_trace: Whether to write `run.safetensors`, from which more words can be asked.
        progress: Told of each denoising step.

    Returns:
        The content of `result.json`; the names of files are relative to `output_dir`.

    Raises:
        EmptyWordsError, PromptTooLongError, OptionError: words, prompt or options can't be used.
        ModelNotFoundError, UnsupportedPipelineError: the model can't be loaded or read.
        The errors of `ovam.capture`.
    """
    begun = time.monotonic()
    asked, rivals = _asked(words, against, threshold, strategy)
    _check_numbers(num_images, num_inference_steps, guidance_scale, true_cfg_scale)
    if not prompt.strip():
        raise OptionError(f"prompt={prompt!r}: expected a text that says what to generate")
    check_seed(seed, num_images)
    _check_size(_LEAST_MULTIPLE, height=height, width=width)
    storage_of(dtype=storage or torch.float16, device="cpu", disk=disk, limit_gib=limit_gib)
    folder = check_folder(output_dir)
    pipe = pipeline(model, dtype=dtype, device=device, progress=progress)
    backbone = backbone_of(pipe)
    check_sides(pipe, height=height, width=width)
    check_steps(pipe, num_inference_steps)
    check_joint(backbone.text_kind, "prompt", strategy)
    _check_texts(pipe, [prompt, negative_prompt or ""], [*asked, *rivals])
    negative = _negative(pipe, negative_prompt, true_cfg_scale)
    kept: dict[str, Any] = {"blocks": blocks, "steps": steps, "dtype": storage, "preset": preset, "disk": disk}
    with capture(pipe, **kept, limit_gib=limit_gib, outputs=outputs or strategy == "output") as traces:
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
    asking: dict[str, Any] = {"against": rivals, "threshold": threshold, "strategy": strategy}
    write: Callable[..., dict[str, Any]] = partial(write_all, words=asked, **asking) if asked else write_run
    told = {
        "command": "generate",
        "version": __version__,
        "model": traces[0].source.model if not isinstance(model, str | Path) else str(model),
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "num_inference_steps": num_inference_steps,
        "guidance_scale": guidance_scale,
        "true_cfg_scale": true_cfg_scale,
        "against": list(names_of(rivals)),
        **notes_of(traces[0], [*asked, *rivals]),
        "threshold": threshold,
        "strategy": strategy,
        "output_dir": str(folder),
    }
    with kept_if_done(folder):
        images = []
        for i, trace in enumerate(traces):
            progress("maps and masks" if asked else "writing", i, num_images)
            part = "." if num_images == 1 else f"image-{i:03d}"
            images.append({"folder": part, **write(trace, folder=folder / part, save_trace=save_trace)})
        result = {**told, "images": images, "seconds": round(time.monotonic() - begun, 2)}
        write_json(folder / "result.json", result)
    return result


def _asked(
    words: Listed, against: Listed, threshold: float, strategy: Strategy
) -> tuple[tuple[str | Fitted, ...], tuple[str | Fitted, ...]]:
    """Words and contrast words as `check_words` gives them; none are right where nothing else asks for them.

    Raises:
        OptionError: contrast words stand alone.
        The errors of `check_words`.
    """
    if isinstance(words, str) or not isinstance(words, Sequence) or words:
        return check_words(words, against, threshold, strategy=strategy)
    if against:
        raise OptionError(
            f"against={against!r} was given without words: expected the words that they compete with; leave it out to "
            "ask them later"
        )
    return (), ()


def _check_numbers(num_images: int, num_inference_steps: int, guidance: float, true_cfg: float | None) -> None:
    for name, count in {"num_images": num_images, "num_inference_steps": num_inference_steps}.items():
        if count < 1:
            raise OptionError(f"{name}={count}: expected at least 1")
    number("guidance_scale", guidance, least=0.0)
    if true_cfg is not None:
        number("true_cfg_scale", true_cfg, least=0.0)


def check_steps(pipe: Any, num_inference_steps: int) -> None:
    """Raises OptionError where there are more steps than the scheduler was trained with, which none of them takes."""
    most = int(getattr(pipe.scheduler.config, "num_train_timesteps", None) or 1000)
    if num_inference_steps > most:
        raise OptionError(
            f"num_inference_steps={num_inference_steps}: expected at most {most}, the steps that the "
            f"{type(pipe.scheduler).__name__} was trained with; models need 20 to 50 as a rule"
        )


def pipeline(model: Any, *, dtype: torch.dtype, device: str | torch.device, progress: Progress) -> Any:
    """The pipeline of a name, without a progress bar of its own; a pipeline object is taken as it is."""
    if not isinstance(model, str | Path):
        return model
    progress(f"loading {model}", 0, 0)
    pipe = load(model, dtype=dtype, device=device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def check_sides(pipe: Any, **sides: int | None) -> None:
    """Raises OptionError where a pipeline's images can't be of these sides; None is its own."""
    native = native_side(pipe) * pipe.vae_scale_factor
    for name, side in sides.items():
        if side is not None and side * _MOST_SIDES < native:
            raise OptionError(
                f"{name}={side}: expected at least {native // _MOST_SIDES} pixels, an eighth of the side of the images "
                "that the model was made for"
            )
    _check_size(backbone_of(pipe).side_multiple, _MOST_SIDES * native, **sides)


def _check_size(unit: int, largest: int | None = None, **sides: int | None) -> None:
    """Raises OptionError where the pipeline would refuse a side, make the image of another size (FLUX) or never end."""
    for name, side in sides.items():
        if side is not None and side < 1:
            raise OptionError(f"{name}={side}: expected a positive multiple of {unit} pixels")
        if side is not None and largest is not None and side > largest:
            raise OptionError(
                f"{name}={side}: expected at most {largest} pixels, {_MOST_SIDES} times the side of the images that "
                "the model was made for"
            )
        if side is not None and side % unit:
            nearest = max(1, round(side / unit)) * unit
            raise OptionError(f"{name}={side}: expected a multiple of {unit} pixels, for example {nearest}")


def _negative(pipe: Any, prompt: str | None, scale: float | None) -> dict[str, Any]:
    """What the pipeline's call is told of the negative prompt; no argument without one, since PixArt takes no None.

    Raises:
        OptionError: the pipeline would leave the prompt or its weight out without a word.
    """
    takes_scale = "true_cfg_scale" in inspect.signature(type(pipe).__call__).parameters
    if scale is not None and (not takes_scale or prompt is None or scale <= 1):
        raise OptionError(
            f"true_cfg_scale={scale:g}: expected a number above 1, together with negative_prompt, and a pipeline that "
            f"takes it, as FLUX does; this is a {type(pipe).__name__}"
        )
    if prompt is None:
        return {}
    if not takes_scale:
        return {"negative_prompt": prompt}
    if scale is None:
        raise OptionError(
            f"negative_prompt={prompt[:40]!r}: {type(pipe).__name__} leaves it out but for true_cfg_scale (on the "
            "command line --true-cfg-scale): expected that above 1, for example 4; guidance_scale is told to the model "
            "itself there"
        )
    return {"negative_prompt": prompt, "true_cfg_scale": scale}


def _check_texts(pipe: Any, prompts: Sequence[str], words: Sequence[str | Fitted]) -> None:
    """What is too long or foreign is refused before the model runs: the pipeline itself would cut it and go on.

    Raises:
        PromptTooLongError: a prompt or a word is longer than the text encoder reads.
        SpaceMismatchError: tokens were fitted for another text encoder.
    """
    text = text_of(pipe)
    for each in (*prompts, *words):
        if isinstance(each, Fitted):
            check_space_of(each, text.space)
        else:
            text.check_length(each)


def _reporting(progress: Progress, total: int) -> Callable[..., dict[str, Any]]:
    def after_step(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        progress("denoising", step + 1, total)
        return tensors

    return after_step
