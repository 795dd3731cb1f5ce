"""One run of the embedded model, segmented by every published method, by ovam, and by one fitted token in each.

The first row is of words. The second row is of a token that was fitted to the word's own mask of another run, without a
person's annotation: it shows that a token goes into every method, not how good it is. Written to the file that is named
on the command line, or methods.png.
"""

import sys

import torch
from PIL import Image

import ovam
from ovam.page import grid

WORDS, PROMPT, SIDE = ["dog"], "a dog on the grass", 256

pipe = ovam.load("mini")
pipe.set_progress_bar_config(disable=True)
every = [ovam.methods.by_name(name) for name in ovam.methods.names()]


def run(seed: int, **options: object) -> ovam.Trace:
    """A run, captured with these options; the picture depends on the seed alone."""
    with ovam.capture(pipe, **options) as traces:
        pipe(PROMPT, num_inference_steps=25, guidance_scale=3, generator=torch.Generator().manual_seed(seed))
    return traces[0]


def tile(result: ovam.Segmentation) -> Image.Image:
    """The label map over the picture."""
    return result.overlay(legend=False).resize((SIDE, SIDE), Image.Resampling.LANCZOS)


needs = ovam.methods.requires_of(
    every
)  # all blocks, both halves of guidance, self-attention of half of the finest grid
trace, own, other = run(0, **needs), run(0), run(1, **needs)
painted = run(1).segment(WORDS, refine=True, crf=True)["dog"]
tokens = ovam.optimize_tokens(other, {"dog": painted})
rows = []
for asked, note in ((WORDS, "words"), (tokens, "a token")):
    rows.append((PROMPT, note, trace.image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)))
    rows += [(method.name, note, tile(method.segment(trace, asked))) for method in every]
    rows.append(("ovam", note, tile(own.segment(asked, refine=True, crf=True))))
grid(rows, columns=len(every) + 2).save(sys.argv[1] if len(sys.argv) > 1 else "methods.png")
