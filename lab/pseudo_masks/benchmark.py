"""A public benchmark, run: one file a picture, so that a run that broke off goes on; then the page."""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.progress import track

from lab.digest import digest, syntax_of
from lab.markdown import table
from lab.measure import stamp
from lab.pseudo_masks.annotators import state_of
from lab.pseudo_masks.examples import encoded
from lab.pseudo_masks.protocols import (
    CONCEPT_WORDS,
    GOCA_WORDS,
    MEASURED,
    OFFSETS,
    RIVALS,
    ValuesOf,
    concept_counts,
    concept_figures,
    goca_counts,
    goca_figures,
    nearest,
)
from lab.pseudo_masks.public import Item, imagenet_segmentation, is_imagenet_segmentation, pascal_voc, single
from lab.pseudo_masks.rows import DEFAULT, RETUNED, Row, main_rows, needs_of
from lab.pseudo_masks.run import CODE, write
from ovam import __version__
from ovam.errors import DatasetError, OptionError, UnsupportedPipelineError
from ovam.models import model_hash
from ovam.tracing.encode import encode

CONCEPT, GOCA = "concept-attention", "goca"
PROTOCOLS = (CONCEPT, GOCA)
PUBLISHED: Mapping[str, str] = {
    CONCEPT: "In its paper, FLUX schnell: ImageNet-Segmentation 71.0 mIoU, Pascal VOC with one class 76.5. Of DAAM on "
    "SDXL: 64.6 and 56.0.",
    GOCA: "In its paper, Pascal VOC: Stable Diffusion 1.5 60.7, FLUX 70.7. The first is contested: an independent run "
    "of the released configuration reached 54.97. That configuration reads train.txt; here it is val.txt.",
}

Counted = dict[str, Any]


def read_items(folder: Path, protocol: str) -> tuple[list[Item], str]:
    """The pictures of a benchmark, and its name in `RIVALS`.

    Raises:
        DatasetError: the folder can't be read, or its pictures and masks do not fit.
        OptionError: the protocol does not have this benchmark.
    """
    if not is_imagenet_segmentation(folder):
        return pascal_voc(folder, CONCEPT_WORDS if protocol == CONCEPT else GOCA_WORDS), "voc"
    if protocol == GOCA:
        raise OptionError(
            f"--protocol {GOCA} with --truth {folder}, which is ImageNet-Segmentation: expected Pascal VOC; "
            f"ImageNet-Segmentation has --protocol {CONCEPT}"
        )
    return imagenet_segmentation(folder), "imagenet"


def value_rows() -> list[Row]:
    """Rows whose maps differ; these protocols have no CRF, and cut maps in their own way."""
    return [row for row in main_rows() if row.name not in (RETUNED, DEFAULT)]


@torch.no_grad()
def measured(
    pipe: Any, folder: Path, protocol: str, count: int, work: Path, rows: Sequence[Row] | None = None
) -> dict[str, list[Counted]]:
    """By row the counts of each picture, those that are missing made; rows that can't read the model are left out.

    Args:
        pipe: The model.
        folder: The benchmark.
        protocol: One of `PROTOCOLS`.
        count: The first so many pictures; of ConceptAttention those of one class.
        work: Work folder.
        rows: The methods; `value_rows` by default.

    Raises:
        DatasetError, OptionError: as of `read_items`; or no picture can be scored.
    """
    items, name = read_items(folder, protocol)
    rows = value_rows() if rows is None else rows
    files = [file for item in items for file in (item.picture, item.mask)]
    basis = [model_hash(pipe), syntax_of(*CODE), protocol, name, [row.name for row in rows], state_of(files)]
    place = work / "benchmarks" / digest(basis)
    found: dict[str, list[Counted]] = {}
    chosen = _chosen(items, protocol, count)
    for number, item in enumerate(track(chosen, protocol, len(chosen))):
        file = place / f"{number:05d}.json"
        if not file.exists():
            write(file, _of_picture(pipe, item, number, protocol, RIVALS[name], rows))
        for row, counts in json.loads(file.read_text()).items():
            found.setdefault(row, []).append(counts)
    if not found:
        raise DatasetError(f"data set {folder} has no picture that {protocol} scores: expected some with one class")
    return found


def _chosen(items: Sequence[Item], protocol: str, count: int) -> list[Item]:
    found: list[Item] = []
    for item in items:
        if len(found) == count:
            break
        if protocol == GOCA or single(item.read()[1]) is not None:
            found.append(item)
    return found


def _of_picture(
    pipe: Any, item: Item, seed: int, protocol: str, rivals: Sequence[str], rows: Sequence[Row]
) -> dict[str, Counted]:
    picture, labels = item.read()
    shown = picture.resize((MEASURED, MEASURED), Image.Resampling.BICUBIC) if protocol == CONCEPT else picture
    traces = {name: encode(pipe, shown, seed=seed, **encoded(options)) for name, options in needs_of(rows).items()}
    found = {}
    for row in rows:
        values_of = functools.cache(functools.partial(row.values, traces[row.needs]))
        try:
            found[row.name] = _counts(values_of, item, labels, protocol, rivals)
        except UnsupportedPipelineError:
            continue
    return found


def _counts(values_of: ValuesOf, item: Item, labels: np.ndarray, protocol: str, rivals: Sequence[str]) -> Counted:
    if protocol == GOCA:
        return goca_counts(values_of, item.words, rivals, labels, 1 + max(item.words))
    number = single(labels)
    assert number is not None
    truth = nearest(np.where(labels == number, 1, labels).astype(np.uint8))
    return concept_counts(values_of, item.words[number], rivals, truth)


def write_benchmark(
    pipe: Any, folder: Path, protocol: str, *, count: int, work: Path, output: Path, command: str, model: str
) -> Path:
    """Measure, and write `benchmark-PROTOCOL.md` and `.json`; returns the page's file."""
    found = measured(pipe, folder, protocol, count, work)
    about = {**stamp(command), "model": f"{model} ({model_hash(pipe)})", "version": __version__}
    about |= {"protocol": protocol, "folder": folder.resolve().name, "pictures": len(next(iter(found.values())))}
    figures = {row: _figures(protocol)(counts) for row, counts in found.items()}
    output.mkdir(parents=True, exist_ok=True)
    (output / f"benchmark-{protocol}.json").write_text(
        json.dumps({"about": about, "figures": figures}, indent=1) + "\n"
    )
    (output / f"benchmark-{protocol}.md").write_text(benchmark_page(about, figures))
    return output / f"benchmark-{protocol}.md"


def _figures(protocol: str) -> Callable[[Sequence[Counted]], dict[str, Any]]:
    if protocol == GOCA:
        return goca_figures
    return lambda counts: {cut: concept_figures(counts, cut) for cut in ("mean", "argmax")}


def benchmark_page(about: Mapping[str, Any], figures: Mapping[str, Mapping[str, Any]]) -> str:
    """The figures as Markdown, in percent."""
    protocol = about["protocol"]
    if protocol == GOCA:
        heads = ["method", *(f"{offset:+.1f}" for offset in OFFSETS)]
        lines = [
            [row, *(f"{100 * of['open']:.1f} / {100 * of['released']:.1f}" for of in each.values())]
            for row, each in figures.items()
        ]
        explanation = (
            "Mean IoU of the background and the classes, by the background's offset: without the pixels left open, and "
            "with them as background, as the released code counts. The picture's list of classes is given."
        )
    else:
        names = ("accuracy", "mIoU", "released mIoU", "mAP")
        heads = ["method", "mask", *names]
        lines = [
            [row, cut, *(f"{100 * of[name]:.1f}" for name in names)]
            for row, each in figures.items()
            for cut, of in each.items()
        ]
        explanation = (
            "Masks are values above the map's own mean, or above all contrast words. The class is given. The released "
            "code for ImageNet-Segmentation counts a mask and its opposite as one: mIoU is accuracy / (2 - accuracy)."
        )
    head = f"Written by `{about['command']}`, model {about['model']}, ovam {about['version']}."
    parts = [
        f"# {about['folder']} in the protocol of {protocol}",
        "",
        head,
        "",
        f"{about['pictures']} pictures. {explanation}",
    ]
    return "\n".join([*parts, "", PUBLISHED[protocol], "", table(heads, lines)])
