"""What decides which tensors a run keeps."""

from collections.abc import Mapping
from dataclasses import dataclass

from ovam.backbones.base import Backbone
from ovam.shapes import Grid
from ovam.tracing.options import CaptureOptions


@dataclass(frozen=True)
class Wanted:
    """What decides which parts a run keeps.

    Attributes:
        backbone: Reads the pipeline.
        options: Options of the capture.
        grids: Height and width of every block's pixels.
        chosen: Names of the blocks whose queries are kept.
        calls: Number of denoiser calls to keep.
        further: Number of pixels of reference pictures, which follow the grid's in the image stream (FLUX Kontext).
    """

    backbone: Backbone
    options: CaptureOptions
    grids: Mapping[str, Grid]
    chosen: tuple[str, ...]
    calls: int = 1
    further: int = 0

    def pixels(self, name: str) -> int:
        """Return the number of pixels of a block's grid."""
        height, width = self.grids[name]
        return height * width

    def passed(self) -> tuple[str, ...]:
        """Return the blocks that a text runs through up to the last chosen one; none without joint attention."""
        names = list(self.backbone.blocks())
        return tuple(names[: names.index(self.chosen[-1]) + 1]) if self.backbone.text_kind == "replayed" else ()
