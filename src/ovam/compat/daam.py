"""DAAM's calls (castorini/daam), answered from a trace: for code that moves here line by line.

What a number means is DAAM's, but for this: maps are means over the denoiser calls where DAAM sums them; coarse grids
are enlarged bilinearly, not bicubically; a map grows to (height, width), which DAAM confuses; `plot_overlay` returns a
picture and needs no matplotlib.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ovam.capture import Captured, capture
from ovam.errors import MissingBlockError, UnknownWordError
from ovam.pictures import overlay
from ovam.prompt import Span, folded
from ovam.trace import Trace


@dataclass(frozen=True, eq=False)
class WordHeatMap:
    """Map of one word.

    Attributes:
        heatmap: Mean of its tokens' maps, not their sum as in `ovam.AttentionMaps`.
        word: As it was asked.
    """

    heatmap: Float[Tensor, "height width"]
    word: str

    @property
    def value(self) -> Float[Tensor, "height width"]:
        """The map."""
        return self.heatmap

    def expand_as(
        self, image: Image.Image, absolute: bool = False, threshold: float | None = None
    ) -> Float[Tensor, "rows columns"]:
        """The map at the image's size, bicubic.

        Args:
            image: Gives the size.
            absolute: Leave the values as they are; by default they are stretched to [0, 1].
            threshold: Give 1 above it and 0 below instead of the values.
        """
        size = (image.height, image.width)
        values = F.interpolate(self.heatmap[None, None], size, mode="bicubic")[0, 0]
        if not absolute:
            values = (values - values.min()) / (values.max() - values.min() + 1e-8)
        return values if threshold is None else (values > threshold).float()

    def plot_overlay(self, image: Image.Image, out_file: str | Path | None = None) -> Image.Image:
        """The stretched map in colours over the image; also written to `out_file` where one is given."""
        picture = overlay(image, self.expand_as(image).clamp(0, 1))
        if out_file is not None:
            picture.save(out_file)
        return picture


@dataclass(frozen=True, eq=False)
class GlobalHeatMap:
    """Maps of every token of a prompt.

    Attributes:
        heat_maps: (token, height, width): the start token, the prompt's own tokens, one end token.
        prompt: The prompt.
        words: Its words with their positions in `heat_maps`.
    """

    heat_maps: Float[Tensor, "token height width"]
    prompt: str
    words: tuple[Span, ...]

    def compute_word_heat_map(self, word: str) -> WordHeatMap:
        """Map of a word or of several that follow each other, wherever they stand in the prompt.

        Raises:
            UnknownWordError: the prompt does not have them.
        """
        asked = [folded(part) for part in word.split()]
        typed = [folded(span.text) for span in self.words]
        places = [i for i in range(len(typed)) if asked and typed[i : i + len(asked)] == asked]
        tokens = [t for i in places for span in self.words[i : i + len(asked)] for t in span.tokens]
        if not tokens:
            raise UnknownWordError(
                f"word {word!r} is not in the prompt {self.prompt!r}: expected some of {', '.join(typed)}; other words "
                "need no new run, compute_global_heat_map(prompt='...') takes any text"
            )
        return WordHeatMap(self.heat_maps[tokens].mean(0), word)


class Tracer:
    """What `trace` yields."""

    def __init__(self, traces: Captured[Trace]) -> None:
        self.traces = traces

    @property
    def last_image(self) -> Image.Image:
        """The picture of the last run."""
        return self.traces[-1].image

    @property
    def last_prompt(self) -> str:
        """The prompt of the last run, or nothing where embeddings were passed."""
        return self.traces[-1].source.prompt or ""

    def compute_global_heat_map(
        self, prompt: str | None = None, factors: Collection[int] | None = None, normalize: bool = False
    ) -> GlobalHeatMap:
        """Maps of a prompt's tokens, mean over calls, blocks and heads, among all positions that the encoder reads.

        Args:
            prompt: Any text; by default the prompt of the last run. DAAM cuts another text's words out of the run's own
                maps; here they are looked up.
            factors: By how much a grid's side is smaller than the finest's; by default all grids are used.
            normalize: Divide by the sum over the prompt's own tokens.

        Raises:
            NothingCapturedError: no run was completed.
            MissingBlockError: no grid is smaller by any of `factors`.
        """
        trace, text = self.traces[-1], self.last_prompt if prompt is None else prompt
        if factors is not None:
            finest = max(block.grid[0] for block in trace.blocks.values())
            chosen = {name: finest // block.grid[0] for name, block in trace.blocks.items()}
            names = [name for name, factor in chosen.items() if factor in factors]
            if not names:
                raise MissingBlockError(f"factors={set(factors)}: expected some of {set(chosen.values())}")
            trace = trace.select(blocks=names)
        maps = trace.maps(text, softmax_over="padded")
        own = 1 + max(token for span in maps.spans for token in span.tokens)  # then the end token
        values = maps.token_maps[: own + 1]
        if normalize:
            values = values / (values[1:-1].sum(0, keepdim=True) + 1e-6)
        return GlobalHeatMap(values, text, maps.spans)


@contextmanager
def trace(pipe: Any) -> Iterator[Tracer]:
    """Follow `pipe` inside the `with` block, as `daam.trace` does; the maps can be asked for there and afterwards.

    Args:
        pipe: A pipeline of a supported family.

    Raises:
        The errors of `ovam.capture`.
    """
    with capture(pipe) as traces:
        yield Tracer(traces)
