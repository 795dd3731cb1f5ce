"""The result of a segmentation: a label map and masks of words, with exports to other formats."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from ovam.colours import Colour, label_colours
from ovam.errors import OptionError, UnknownWordError
from ovam.maps.result import AttentionMaps
from ovam.masks.coco_export import Form, coco_of
from ovam.masks.detections import detections_of
from ovam.masks.instances import Instance, instances_of
from ovam.masks.label_studio import Tool, label_studio_of
from ovam.masks.outlines import Polygon, polygons_of
from ovam.masks.regions import Box, box_of, cleaned
from ovam.masks.run_lengths import Rle, rle_of
from ovam.prompt import is_name
from ovam.shapes import LabelMap, Mask


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Masks of words at the image's size.

    `result["cat"]` is the mask of one word: the pixels where its score is above the threshold, whatever the scores of
    the other words are. So masks may overlap. The scores themselves depend on the other words in four cases: the words
    share one attribution prompt, a CRF was used, the strategy is "output", or there are contrast words (`against`),
    which lower the scores.

    In `labels` each pixel has at most one word. `instances`, `overlay` and the exports of objects use `labels`.

    Attributes:
        labels: 0 is background, 1 is the first word, 2 the second, and so on; 255 marks undecided pixels, which only
            the option `ignore` makes.
        words: The words, in the order of the maps.
        scores: Calibrated map of each word, (word, height, width), in [0, 1].
        presence: For each word the probability, in [0, 1], that the picture shows it; below 0.5 it is probably absent
            (`ovam.masks.presence`).
        threshold: Score of the background.
        maps: The maps from which the masks were made, contrast words included.
        min_area: Pieces with fewer pixels were removed from labels and masks.
        max_hole: Holes of up to this many pixels were filled.
    """

    labels: LabelMap
    words: tuple[str, ...]
    scores: Tensor
    presence: Mapping[str, float]
    threshold: float
    maps: AttentionMaps
    min_area: int = 0
    max_hole: int = 0

    def __getitem__(self, word: str) -> Mask:
        """Return the binary mask of a word: the pixels where its score is above the threshold, cleaned.

        Raises:
            UnknownWordError: the word was not segmented.
        """
        places = [i for i, name in enumerate(self.words) if is_name(word, name)]
        if not places:
            raise UnknownWordError(
                f"word {word!r} was not segmented, but these words were: {', '.join(map(repr, self.words))}; "
                f"segment the trace again with {word!r} in the list, which needs no new run of the model"
            )
        mask = self.scores[places[0]] > self.threshold
        return cleaned(mask, min_area=self.min_area, max_hole=self.max_hole)

    @property
    def masks(self) -> dict[str, Mask]:
        """The masks by word, as `result[word]` gives them."""
        return {word: self[word] for word in self.words}

    @property
    def legend(self) -> dict[str, Colour]:
        """The colour of each word in overlays and in `labels.png`: red, green and blue, 0 to 255."""
        return dict(zip(self.words, label_colours(len(self.words))[1:], strict=True))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image."""
        height, width = self.labels.shape
        return height, width

    def instances(
        self, *, apart: bool = True, min_area: int = 0, max_hole: int = 0, split: bool = False
    ) -> tuple[Instance, ...]:
        """Return things as separate objects, from the label map; see `ovam.masks.instances.instances_of`."""
        return instances_of(
            self.labels, self.words, self.scores, apart=apart, min_area=min_area, max_hole=max_hole, split=split
        )

    def overlay(self, *, opacity: float = 0.55, legend: bool = True) -> Image.Image:
        """Return the labels over the picture in the legend's colours; see `ovam.pictures.label_map_picture`.

        Raises:
            NothingCapturedError: there is no picture, because the run returned latents.
            OptionError: the opacity lies outside [0, 1].
        """
        from ovam.pictures import label_map_picture

        return label_map_picture(self.maps.picture(), self, opacity=opacity, legend=legend)

    def polygons(self, *, tolerance: float | int = 1.0) -> dict[str, tuple[Polygon, ...]]:
        """Return the outlines of each word's mask; see `ovam.masks.outlines.polygons_of`."""
        return {word: polygons_of(mask.cpu().numpy(), tolerance=tolerance) for word, mask in self.masks.items()}

    def boxes(self) -> dict[str, Box | None]:
        """Return the box around each mask, (x, y, width, height) in pixels as in COCO; None for an empty mask."""
        return {word: box_of(mask.cpu().numpy()) for word, mask in self.masks.items()}

    def rle(self) -> dict[str, Rle]:
        """Return each word's mask as COCO's packed run lengths; see `ovam.masks.run_lengths.rle_of`."""
        return {word: rle_of(mask.cpu().numpy()) for word, mask in self.masks.items()}

    def to_coco(
        self,
        instances: Sequence[Instance] | None = None,
        *,
        file_name: str = "image.png",
        image_id: int = 1,
        categories: Mapping[str, int] | None = None,
        form: Form = "rle",
        tolerance: float | int = 1.0,
    ) -> dict[str, Any]:
        """Return COCO's JSON of this image; see `ovam.masks.coco_export.coco_of`.

        `instances` are the objects to write, such as `result.instances(min_area=20)`; by default `result.instances()`.
        """
        return coco_of(
            self._chosen(instances),
            self.words,
            self.size,
            file_name=file_name,
            image_id=image_id,
            categories=categories,
            form=form,
            tolerance=tolerance,
        )

    def to_label_studio(
        self,
        instances: Sequence[Instance] | None = None,
        *,
        image: str = "image.png",
        tool: Tool = "brush",
        tolerance: float | int = 1.0,
        from_name: str = "tag",
        to_name: str = "image",
    ) -> dict[str, Any]:
        """Return a task with predictions for Label Studio; see `ovam.masks.label_studio.label_studio_of`.

        `instances` are the objects to write, such as `result.instances(min_area=20)`; by default `result.instances()`.
        """
        return label_studio_of(
            self._chosen(instances),
            self.size,
            image=image,
            tool=tool,
            tolerance=tolerance,
            from_name=from_name,
            to_name=to_name,
        )

    def to_supervision(self, instances: Sequence[Instance] | None = None) -> Any:
        """Return `supervision.Detections`, if that package is installed; see `ovam.masks.detections.detections_of`.

        `instances` are the objects to take, such as `result.instances(min_area=20)`; by default `result.instances()`.
        """
        return detections_of(self._chosen(instances), self.size)

    def save(self, folder: str | Path) -> None:
        """Write masks, label map, overlay and tables to a folder; see `ovam.mask_files.save_segmentation`.

        Files of an earlier result in the folder are removed.
        """
        from ovam.mask_files import save_segmentation

        save_segmentation(self, Path(folder))

    def _chosen(self, instances: Sequence[Instance] | None) -> Sequence[Instance]:
        """Return the objects to write.

        Raises:
            OptionError: one of the objects has a word or an image size that this result does not have.
        """
        if instances is None:
            return self.instances()
        strange = next((o for o in instances if o.word not in self.words or o.numbers.shape != self.labels.shape), None)
        if strange is not None:
            raise OptionError(f"{strange!r} is not an object of {self!r}: expected objects of result.instances(...)")
        return instances

    def _repr_png_(self) -> bytes | None:
        """Return the overlay for a notebook, or None if there is no picture."""
        from ovam.notebook import segmentation_png

        return segmentation_png(self)

    def __repr__(self) -> str:
        height, width = self.size
        return f"Segmentation({', '.join(map(repr, self.words))}; {height} x {width} pixels)"
