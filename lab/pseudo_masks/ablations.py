"""The paper's ablations on our own maps: grids, denoiser calls, what comes after the maps, number of annotations."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.mini.measures.images import STEPS
from lab.pseudo_masks import paper
from lab.pseudo_masks.counts import Count, Entries
from lab.pseudo_masks.examples import SIMPLE, Source
from lab.pseudo_masks.figures import class_iou, miou, rank_agreement, table
from lab.pseudo_masks.rows import (
    DEFAULT,
    TOKEN,
    WORD,
    after_crf,
    block_rows,
    ours,
    plainly,
    postprocessing_rows,
    step_rows,
)
from lab.pseudo_masks.run import Study, scored, validated
from lab.pseudo_masks.tokens import tokens_of

ABLATIONS = ("blocks", "steps", "postprocessing", "annotations")
_STEPS = tuple(paper.AT_STEP)
_ANNOTATIONS = (1, 2, 5, 10)
_OF_PAPER = (64, 32, 16)  # its finest grid, half of it, a quarter


def ablate(
    pipe: Any, name: str, entries: Entries, basis: Any, classes: Sequence[str], count: int, work: Path, source: Source
) -> dict[str, Any]:
    """The figures of one ablation.

    Args:
        pipe: The model.
        name: One of `ABLATIONS`.
        entries: Words and tokens of the classes.
        basis: What tells the tokens apart from others.
        classes: Those asked.
        count: Pictures of the set, and half as many to choose thresholds on.
        work: Work folder.
        source: Of the pictures.
    """
    if name == "annotations":
        return _annotations(pipe, classes, count, work, source)
    rows = {
        "blocks": lambda: block_rows(grids_of(pipe)),
        "steps": lambda: step_rows(_STEPS, STEPS - 1),
        "postprocessing": postprocessing_rows,
    }[name]()
    on = SIMPLE if name == "steps" else source.main
    study = Study(name, rows, entries, basis)
    thresholds = validated(pipe, study, max(4, count // 2), work, source) if name != "steps" else None
    if thresholds is None:  # a scene has no denoiser calls to choose from: one threshold for all, that of all calls
        whole = Study("all steps", [ours("all", {}, refine=False, cut=plainly)], entries, basis)
        one = validated(pipe, whole, max(4, count // 2), work, source)
        thresholds = {(row.name, form): one["all", form] for row in rows for form in entries}
    counts = scored(pipe, study, on, count, work, source, thresholds)
    found = {"set": on, "pictures": count, "table": table(counts)}
    return found | {"agreement": _agreement(name, counts, grids_of(pipe))}


def grids_of(pipe: Any) -> list[int]:
    """Heights of the UNet's grids at its own size, the finest first; the coarsest of four and more is left out."""
    side, blocks = pipe.unet.config.sample_size, len(pipe.unet.config.block_out_channels)
    return [side // 2**i for i in range(min(3, blocks))]


def _agreement(name: str, counts: Sequence[Count], grids: Sequence[int]) -> dict[str, float]:
    """Spearman's correlation with the paper's figures, by form."""
    found = {}
    for place, form in enumerate((WORD, TOKEN)):
        own = {one.row: miou([c for c in counts if (c.row, c.form) == (one.row, form)], "final") for one in counts}
        known = {row: value for row, value in own.items() if value is not None}
        if name == "blocks":
            ours_named = {in_paper(row, grids): value for row, value in known.items()}
            found[form] = rank_agreement(ours_named, {key: pair[place] for key, pair in paper.GRIDS.items()})
        if name == "steps":
            theirs = {
                f"{kind} {step}": pair[place]
                for kind, of in (("at", paper.AT_STEP), ("from", paper.FROM_STEP), ("to", paper.TO_STEP))
                for step, pair in of.items()
            }
            for kind in ("at", "from", "to"):
                chosen = {row: value for row, value in known.items() if row.startswith(f"{kind} ")}
                found[f"{form}, {kind}"] = rank_agreement(chosen, theirs)
    return found


def in_paper(row: str, grids: Sequence[int]) -> str:
    """The paper's name of a choice of grids: by their place from the finest."""
    named = sorted(_OF_PAPER[list(grids).index(int(each))] for each in row.split(" + "))
    return " + ".join(map(str, named))


def _annotations(pipe: Any, classes: Sequence[str], count: int, work: Path, source: Source) -> dict[str, Any]:
    forms: dict[str, Mapping[str, Any]] = {
        f"{number} annotated": dict(tokens_of(pipe, work, source, classes, number)) for number in _ANNOTATIONS
    }
    study = Study("annotations", [ours(DEFAULT, {}, refine=True, cut=after_crf)], forms, list(_ANNOTATIONS))
    thresholds = validated(pipe, study, max(4, count // 2), work, source)
    counts = scored(pipe, study, source.main, count, work, source, thresholds)
    of_form = {form: class_iou([one for one in counts if one.form == form], "final") for form in forms}
    return {"set": source.main, "pictures": count, "table": table(counts), "classes": of_form, "agreement": {}}
