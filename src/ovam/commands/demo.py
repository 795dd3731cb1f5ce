"""A demo on the embedded model, offline: one run, maps of words in the prompt and not, and a query of the trace."""

import time
from pathlib import Path
from typing import Any

from ovam.commands import NUM_INFERENCE_STEPS, Progress, no_progress
from ovam.commands.generate import generate
from ovam.commands.maps import maps
from ovam.commands.write_results import TRACE_FILE
from ovam.models import MINI
from ovam.output_files import write_json
from ovam.output_folders import check_folder, kept_if_done

PROMPT = "a dog on the sand"
WORDS = ("dog", "sand", "puppy", "sky")
LATER = ("beach",)
GUIDANCE_SCALE = 3.0  # at 7.5 mini's colours are too strong


def demo(
    *,
    output_dir: str | Path = "out/demo",
    model: str | Path = MINI,
    seed: int = 0,
    num_inference_steps: int = NUM_INFERENCE_STEPS,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Generate an image, write the maps and masks of words, then query the saved trace with another word.

    Args:
        output_dir: Folder for the files of `generate`, and in `later/` those of `maps`.
        model: "mini", the folder of a pipeline, or a model id.
        seed: Seed of the image.
        num_inference_steps: Steps of the sampling loop.
        progress: Called after each denoising step.

    Returns:
        The results of `generate` and `maps`, and the total seconds.
    """
    begun = time.monotonic()
    folder = check_folder(output_dir)
    with kept_if_done(folder):
        generated = generate(
            PROMPT,
            WORDS,
            output_dir=folder,
            model=model,
            seed=seed,
            num_inference_steps=num_inference_steps,
            guidance_scale=GUIDANCE_SCALE,
            progress=progress,
        )
        later = maps(folder / TRACE_FILE, LATER, output_dir=folder / "later", model=model, progress=progress)
        seconds = round(time.monotonic() - begun, 2)
        result = {"command": "demo", "generate": generated, "maps": later, "seconds": seconds}
        write_json(folder / "demo.json", result)
    return result
