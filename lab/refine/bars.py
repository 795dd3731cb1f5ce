"""The bars of refinement, CRF, presence and label maps on test scenes and generated pictures, with frozen defaults.

Steps from a word or a token to its mask are rows; each has the IoU of classes known to be there, pooled per class. All
thresholds are chosen on validation scenes. Label maps stand apart: the true list given, and all names asked.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.pseudo_masks.examples import CAPTIONS, SIMPLE
from lab.pseudo_masks.tokens import tokens_of
from lab.pseudo_masks.world import World
from lab.refine.cases import Case, cases, generated
from lab.refine.figures import gain, iou, slices_of, steps_of, where
from lab.refine.labelled import (
    TOKENS_WITH_GAINS,
    WITH_GAINS,
    auroc,
    best_gate,
    label_maps,
    levels_of,
    of_gains,
    of_words,
    thresholds_of,
    with_thresholds,
)
from lab.refine.opinions import opinions
from lab.refine.steps import (
    BLIND,
    CRF,
    GAINED_CRF,
    TOKEN,
    TOKEN_CRF,
    TOKEN_REFINED,
    WORDS,
    Row,
    Thresholds,
    choose_thresholds,
    rows_of,
)
from lab.refine.verdicts import bars, listed
from ovam.defaults import CHOSEN
from ovam.maps.result import AttentionMaps
from ovam.maps.thresholds import Thresholds as TokenThresholds
from ovam.masks.options import MaskOptions
from ovam.mini.scenes import CLASSES, WORLD
from ovam.models import model_hash
from ovam.tokens.token_set import merge

OPINIONS = 20
"""Scenes that second opinions are asked about."""
_GATE = 0.5


@dataclass(frozen=True, kw_only=True)
class BarOptions:
    """What is measured.

    Attributes:
        scenes: Number of test scenes.
        validation: Number of validation scenes, on which thresholds are chosen.
        pictures: Number of generated pictures of each set.
        classes: Classes that get a token, each of one annotation.
        work_dir: Keeps the tokens.
        images_dir: Keeps the pictures.
    """

    scenes: int = 200
    validation: int = 100
    pictures: int = 100
    classes: Sequence[str] = CLASSES
    work_dir: Path = Path("runs/refine")
    images_dir: Path = Path("runs/images")


def measure(pipe: Any, options: BarOptions) -> dict[str, Any]:
    """Return all figures and verdicts."""
    tokens = merge(list(tokens_of(pipe, options.work_dir, World(options.images_dir), options.classes).values()))
    gains_dir = options.work_dir
    validation = list(cases(pipe, "validation", options.validation, tokens=tokens, gains_dir=gains_dir))
    chosen = choose_thresholds(validation)
    of_tokens = thresholds_of(validation, [_tokens(case) for case in validation], chosen.get(TOKEN_REFINED, {}))
    gates = {
        WITH_GAINS: best_gate(validation, list(map(of_gains, validation)), _options(chosen[GAINED_CRF][CLASSES[0]])),
        TOKENS_WITH_GAINS: best_gate(validation, [_gained(case, of_tokens) for case in validation], _options()),
    }
    seen = list(cases(pipe, "test", options.scenes, tokens=tokens, others=True, gains_dir=gains_dir))
    rows = {"scenes": _rows(seen, chosen), "generated": []}
    for name in (SIMPLE, CAPTIONS):
        made = generated(pipe, name, options.pictures, options.images_dir, tokens=tokens)
        rows["generated"] += _rows(made, chosen)
    found = {
        "model": model_hash(pipe),
        "world": WORLD,
        "defaults": dict(CHOSEN),
        "scenes": options.scenes,
        "validation": options.validation,
        "pictures": {SIMPLE: options.pictures, CAPTIONS: options.pictures},
        "thresholds": {
            step: each if step in (TOKEN, TOKEN_REFINED) else next(iter(each.values()))
            for step, each in chosen.items()
            if step != TOKEN_CRF
        },
        "token_thresholds": {name: vars(each) for name, each in of_tokens.items()},
        "ignored": 1 - float(sum(case.counted.mean() for case in seen) / len(seen)),
        "sets": {name: _set(each) for name, each in rows.items() if each},
        "labels": {
            "words": label_maps(seen, list(map(of_words, seen)), _options(chosen[CRF][CLASSES[0]]), _GATE),
            "tokens": label_maps(seen, [with_thresholds(_tokens(case), of_tokens) for case in seen], _options(), _GATE),
            WITH_GAINS: label_maps(
                seen, list(map(of_gains, seen)), _options(chosen[GAINED_CRF][CLASSES[0]]), gates[WITH_GAINS]
            ),
            TOKENS_WITH_GAINS: label_maps(
                seen, [_gained(case, of_tokens) for case in seen], _options(), gates[TOKENS_WITH_GAINS]
            ),
        },
        "gates": {"words": _GATE, "tokens": _GATE, **gates},
        "presence_auroc": {
            "words": auroc(levels_of(seen, list(map(of_words, seen)))),
            "tokens": auroc(levels_of(seen, [_tokens(case) for case in seen])),
            WITH_GAINS: auroc(levels_of(seen, list(map(of_gains, seen)))),
        },
        "word_blind": _word_blind(seen, rows["scenes"]),
        "opinions": opinions(seen[:OPINIONS]),
    }
    return found | {"bars": listed(bars(found)), "rows": {name: list(map(vars, each)) for name, each in rows.items()}}


def _tokens(case: Case) -> Any:
    assert case.tokens is not None
    return case.tokens


def _gained(case: Case, of_tokens: Mapping[str, TokenThresholds]) -> AttentionMaps:
    assert case.gains is not None
    return with_thresholds(_tokens(case), of_tokens).with_gains(case.gains)


def _options(threshold: float = 0.5) -> MaskOptions:
    return MaskOptions(threshold=threshold, crf=True)


def _rows(seen: Any, chosen: Thresholds) -> list[Row]:
    return [row for case in seen for row in rows_of(case, chosen)]


def _set(rows: Sequence[Row]) -> dict[str, Any]:
    own = where(rows, lambda row: row.own)
    fewest = min(Counter(row.name for row in own).values(), default=0)
    return {"steps": steps_of(own), "slices": slices_of(rows, WORDS), "fewest_of_a_class": fewest}


def _word_blind(seen: Sequence[Case], rows: Sequence[Row]) -> dict[str, Any] | None:
    """IoU on scenes of two things or more of our masks, and of a foreground that knows no word after the same CRF."""
    several = {case.number for case in seen if len(case.truth) > 1}
    own = where(rows, lambda row: row.own and row.case in several)
    if not own:
        return None
    return {
        "scenes": len(several),
        "ours": {step: iou(own, step) for step in (CRF, GAINED_CRF)},
        "word_blind": iou(own, BLIND),
        "lead": {step: gain(own, step, BLIND).listed() for step in (CRF, GAINED_CRF)},
    }
