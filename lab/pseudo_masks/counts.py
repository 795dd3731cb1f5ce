"""What a row reaches on one class of one picture: pixels in both masks and in either, at every threshold."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lab.pseudo_masks.examples import Example
from lab.pseudo_masks.rows import Row
from ovam.evaluate import average_precision
from ovam.maps.words import OptimisedTokens
from ovam.trace.trace import Trace

THRESHOLDS = np.linspace(0.1, 0.95, 35)
"""Candidates of a validated threshold, in each method's own scale."""

Entries = Mapping[str, Mapping[str, str | OptimisedTokens]]
"""By form and class what is asked for: the word, or its token."""


@dataclass(frozen=True)
class Count:
    """One class of one picture, by one row and form.

    Attributes:
        row: Name of the method.
        form: "word", "token" or another form.
        name: The class.
        example: Name of the picture.
        precision: Average precision of the values.
        swept: By threshold pixels in both masks and in either, without a CRF: (threshold, 2).
        published: The same at the published threshold, with the method's own CRF; None where it has none, and while
            thresholds are chosen.
        final: The same at the validated threshold, with the row's CRF; None while thresholds are chosen.
    """

    row: str
    form: str
    name: str
    example: str
    precision: float
    swept: tuple[tuple[int, int], ...]
    published: tuple[int, int] | None
    final: tuple[int, int] | None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(found: Mapping[str, Any]) -> "Count":
        def pair(value: Sequence[int] | None) -> tuple[int, int] | None:
            return None if value is None else (value[0], value[1])

        swept = tuple((both, either) for both, either in found["swept"])
        ends = {name: pair(found[name]) for name in ("published", "final")}
        return Count(**{**found, "swept": swept, **ends})


Thresholds = Mapping[tuple[str, str], float]
"""By row and form the validated threshold."""


Cuts = tuple[float | None, float | None]
"""The published threshold and the validated one; None for what is not scored."""


def counts_of(
    example: Example, traces: Mapping[str, Trace], rows: Sequence[Row], entries: Entries, thresholds: Thresholds
) -> Iterator[Count]:
    """Score every class of a picture by every row and form.

    Args:
        example: The picture.
        traces: By the rows' `needs`.
        rows: The methods.
        entries: What is asked for; forms without a class leave it out.
        thresholds: The validated ones; none while they are chosen.
    """
    for name in example.classes:
        truth = example.truth(name)
        for form, of_class in entries.items():
            if name not in of_class:
                continue
            for row in rows:
                values = row.values(traces[row.needs], of_class[name])
                choosing = not thresholds  # the published mask, perhaps with a CRF, is not looked at then
                published = None if choosing or row.published is None else row.published.get(form)
                yield _count(example, row, form, name, values, truth, (published, thresholds.get((row.name, form))))


def _count(
    example: Example, row: Row, form: str, name: str, values: np.ndarray, truth: np.ndarray, cuts: Cuts
) -> Count:
    (published, threshold), counted = cuts, example.counted

    def pair(mask: np.ndarray) -> tuple[int, int]:
        mask, real = mask[counted], truth[counted]
        return int((mask & real).sum()), int((mask | real).sum())

    return Count(
        row.name,
        form,
        name,
        example.name,
        average_precision(truth[counted], values[counted]),
        tuple(pair(values > each) for each in THRESHOLDS),
        None if published is None else pair(row.cut(values, published, example.image)),
        None if threshold is None else pair(row.cut(values, threshold, example.image)),
    )
