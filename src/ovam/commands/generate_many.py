"""Generate images of many prompts, each in a folder of its own, and go on where an earlier run stopped."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ovam import __version__
from ovam.commands import Progress, no_progress
from ovam.commands.batch import Item, batch_of, run_batch
from ovam.commands.generate import generate, pipeline, words_and_rivals
from ovam.commands.prompt_file import Prompt
from ovam.commands.requests import request_of
from ovam.maps.words import OptimisedTokens
from ovam.masks.options import SegmentOptions
from ovam.models import MINI
from ovam.output_files import safe_names
from ovam.output_folders import check_folder
from ovam.tracing.noise import check_seed


def generate_prompts(
    prompts: Sequence[Prompt],
    words: Sequence[str] = (),
    tokens: Sequence[OptimisedTokens] = (),
    *,
    output_dir: str | Path,
    model: Any = MINI,
    negative_prompt: str | None = None,
    seed: int = 0,
    num_images: int = 1,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    message_of: Callable[[Exception], str] = str,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Generate the images of each prompt in a folder of its own, as `generate` does; the model is loaded once.

    Args:
        prompts: Prompts with their own seeds, words and negative prompts, as far as they have some.
        words: Words for prompts without own words.
        tokens: Optimised tokens for all prompts.
        output_dir: Folder for the items, `0000-a-cat` and so on, and `results.jsonl`; see `ovam.commands.batch`.
        model: As in `generate`.
        negative_prompt: For prompts without an own one.
        seed: Seed of the first prompt without an own seed; each later one has a seed of its own by its place, so
            that its images do not depend on the other prompts.
        num_images: Number of images of each prompt.
        dtype: As in `generate`.
        device: As in `generate`.
        settings: Other options of `generate`, the same for all prompts.
        overwrite: Whether to make items again that are done.
        message_of: Returns an error's message.
        progress: Called with the progress of the work.

    Returns:
        What `run_batch` returns, and the command.

    Raises:
        EmptyWordsError, OptionError: words, seeds or options of a prompt can't be used.
        ModelNotFoundError, UnsupportedPipelineError: the model can't be loaded or is not supported.
    """
    settings, folder = settings or {}, check_folder(output_dir)
    arguments: dict[str, dict[str, Any]] = {}
    items = []
    for place, prompt in enumerate(prompts):
        own = _own(prompt, words, tokens, negative_prompt, seed + place * num_images)
        words_and_rivals(own["words"], settings.get("options") or SegmentOptions())
        check_seed(own["seed"], num_images)
        own["num_images"] = num_images
        request = request_of(command="generate", model=model, dtype=dtype, **own, **settings)
        item = Item(name=f"{place:04d}-{safe_names([prompt.text])[0]}", source=prompt.text, request=request)
        arguments[item.name] = own
        items.append(item)
    batch = batch_of(items, folder, overwrite=overwrite)
    pipe = pipeline(model, dtype=dtype, device=device, progress=progress) if batch.waiting else None

    def make(item: Item, place: Path, progress: Progress) -> Mapping[str, Any]:
        own = arguments[item.name]
        return generate(output_dir=place, model=pipe, request=item.request, progress=progress, **own, **settings)

    result = run_batch(batch, make, progress, unit="prompts", message_of=message_of)
    return {"command": "generate", "version": __version__, "model": str(model), **result}


def _own(
    prompt: Prompt, words: Sequence[str], tokens: Sequence[OptimisedTokens], negative: str | None, seed: int
) -> dict[str, Any]:
    """Return a prompt's own arguments of `generate`."""
    return {
        "prompt": prompt.text,
        "words": [*(words if prompt.words is None else prompt.words), *tokens],
        "negative_prompt": negative if prompt.negative is None else prompt.negative,
        "seed": seed if prompt.seed is None else prompt.seed,
    }
