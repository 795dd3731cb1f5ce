"""Pieces of masks: specks and holes by area, things as objects, cuts at necks."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ovam.errors import OptionError
from ovam.masks.instances import instances_of
from ovam.masks.regions import box_of, cleaned, pieces
from ovam.masks.splitting import split_at_necks

ROWS, COLUMNS = np.mgrid[:60, :110]


def drawn(text):
    """A label map from rows of digits; a dot is background."""
    return torch.tensor([[0 if sign == "." else int(sign) for sign in row] for row in text.split()])


def disc(row, column, radius):
    return np.hypot(ROWS - row, COLUMNS - column) < radius


SPECKLED = drawn(
    """
    111111.2
    1..11...
    1..1212.
    111111.2
    .......2
    1.......
    """
)


def test_specks_go_and_what_was_one_can_be_filled():
    found = cleaned(SPECKLED, min_area=2)
    assert torch.equal(found, drawn("111111.. 1..11... 1..1.12. 111111.2 .......2 ........"))
    filled = cleaned(SPECKLED, min_area=2, max_hole=3)
    assert torch.equal(filled, drawn("111111.. 1..11... 1..1112. 111111.2 .......2 ........"))
    assert torch.equal(SPECKLED[0], drawn("111111.2")[0]), "what was given is as it was"


def test_pieces_that_touch_at_a_corner_are_one():
    corners = drawn("1.. .1. ..1")
    assert torch.equal(cleaned(corners, min_area=3), corners)
    assert not cleaned(corners, min_area=4).any()
    assert pieces(corners.numpy() > 0)[1] == 1


def test_only_background_inside_one_word_is_a_hole():
    open_at_the_edge = drawn("1.1 1.1 111")
    between_two_words = drawn("1122 1..2 1122")
    around_another_word = drawn("111 121 111")
    for labels in (open_at_the_edge, between_two_words, around_another_word):
        assert torch.equal(cleaned(labels, max_hole=9), labels)
    closed_at_corners = drawn(".1. 1.1 .1.")
    assert torch.equal(cleaned(closed_at_corners, max_hole=1), drawn(".1. 111 .1."))
    assert torch.equal(cleaned(drawn("1111 1..1 1111"), max_hole=1), drawn("1111 1..1 1111"))


def test_masks_are_cleaned_as_masks():
    mask = drawn("111. 1.1. 111. ...1 .... 1...") > 0
    found = cleaned(mask, min_area=2, max_hole=1)
    assert found.dtype == torch.bool
    assert torch.equal(found, drawn("111. 111. 111. ...1 .... ....") > 0)


@given(st.integers(0, 2**16), st.integers(0, 9), st.integers(0, 9))
def test_cleaning_never_passes_a_pixel_of_a_large_piece_to_another_word(seed, min_area, max_hole):
    labels = torch.from_numpy(np.random.default_rng(seed).choice(3, (9, 12), p=[0.3, 0.5, 0.2]))
    found = cleaned(labels, min_area=min_area, max_hole=max_hole)
    for label in (1, 2):
        numbers, count = pieces(labels.numpy() == label)
        for piece in (numbers == number for number in range(1, count + 1)):
            large = np.count_nonzero(piece) >= min_area
            assert not large or (found.numpy()[piece] == label).all()
    if max_hole == 0:
        assert ((found == labels) | (found == 0)).all()


def test_objects_are_told_apart_with_their_boxes_areas_and_scores():
    labels = drawn("11.22 11... ....1 ..... 222..")
    scores = torch.stack([torch.full((5, 5), 0.25), torch.arange(25).reshape(5, 5) / 25])
    found = instances_of(labels, ("cat", "hot dog"), scores)
    assert [(one.word, one.label, one.area) for one in found] == [
        ("cat", 1, 4),
        ("cat", 1, 1),
        ("hot dog", 2, 3),
        ("hot dog", 2, 2),
    ]
    assert [one.box_xywh for one in found] == [(0, 0, 2, 2), (4, 2, 1, 1), (0, 4, 3, 1), (3, 0, 2, 1)]
    assert found[2].box_xyxy == (0, 4, 3, 5)
    assert [one.score for one in found] == pytest.approx([0.25, 0.25, 21 / 25, 3.5 / 25])
    assert torch.equal(sum(one.mask.long() * one.label for one in found), labels)
    assert all(box_of(one.mask.numpy()) == one.box_xywh for one in found)


def test_objects_by_word_small_ones_and_holes():
    labels = drawn("111.. 1.1.. 111.1 ..... .2...")
    scores = torch.zeros(2, 5, 5)
    assert [one.area for one in instances_of(labels, ("a", "b"), scores, apart=False)] == [9, 1]
    assert [one.area for one in instances_of(labels, ("a", "b"), scores, min_area=2)] == [8]
    assert [one.area for one in instances_of(labels, ("a", "b"), scores, min_area=2, max_hole=1)] == [9]
    assert instances_of(torch.zeros(5, 5, dtype=torch.long), ("a", "b"), scores) == ()


@pytest.mark.parametrize(
    ("shape", "areas"),
    [
        (disc(30, 25, 20) | disc(30, 61, 20), [1200, 1200]),
        (disc(30, 20, 15) | disc(30, 47, 15) | disc(30, 74, 15), [690, 680, 690]),
        (disc(30, 40, 25), [1960]),
        (disc(30, 30, 20) | disc(30, 50, 20), [1980]),  # they overlap by half: no neck
        ((np.abs(ROWS - 30) < 8) & (np.abs(COLUMNS - 50) < 40), [1185]),
        (disc(30, 40, 25) | (disc(30, 40, 28) & ((ROWS + COLUMNS) % 9 == 0)), [2010]),  # rough
    ],
)
def test_touching_things_are_cut_at_their_necks_and_others_are_not(shape, areas):
    parts = split_at_necks(shape)
    found = np.bincount(parts.ravel())[1:]
    assert len(found) == len(areas)
    assert found == pytest.approx(areas, rel=0.06)
    assert ((parts > 0) == shape).all()


def test_objects_are_cut_only_when_asked_for():
    labels = torch.from_numpy((disc(30, 25, 20) | disc(30, 61, 20)).astype(int))
    scores = torch.ones(1, *labels.shape)
    assert len(instances_of(labels, ("ball",), scores)) == 1
    cut = instances_of(labels, ("ball",), scores, split=True)
    assert [one.box_xywh[0] for one in sorted(cut, key=lambda one: one.box_xywh)] == pytest.approx([6, 43], abs=1)


@pytest.mark.user_error
@pytest.mark.parametrize("areas", [{"min_area": -1}, {"max_hole": 1.5}, {"min_area": "3"}])
def test_areas_are_whole_numbers(areas):
    with pytest.raises(OptionError, match=f"{next(iter(areas))}=.*expected a whole number"):
        cleaned(SPECKLED, **areas)
    with pytest.raises(OptionError, match="expected a whole number"):
        instances_of(SPECKLED, ("a", "b"), torch.zeros(2, 6, 8), **areas)
