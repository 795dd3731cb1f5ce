"""The dense CRF: against exact kernels in plain loops, and against the authors' own code."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.ndimage import gaussian_filter

import reference
from ovam import errors
from ovam.mini.scenes import render, seed_of
from ovam.refine import lattice as lattices
from ovam.refine.crf import dense_crf
from ovam.refine.crf_options import CrfOptions
from ovam.refine.lattice import lattice

DATA = load_file(Path(__file__).parent / "data" / "pydensecrf.safetensors")
CASES = sorted({name.split(".")[0] for name in DATA})
RED, BLUE = (200, 40, 40), (40, 40, 200)

PAPER = {
    "iterations": 5,
    "smooth_width": 3.0,
    "smooth_weight": 3.0,
    "reach": 80.0,
    "colour_width": 13.0,
    "colour_weight": 10.0,
    "scaled": False,
}
"""The numbers of the OVAM paper's code, whatever the defaults are."""


def paper(**changed):
    return CrfOptions(**(PAPER | changed))


compiled = pytest.mark.skipif(importlib.util.find_spec("pydensecrf") is None, reason="pydensecrf2 is not installed")


def two_classes(foreground):
    foreground = torch.as_tensor(foreground, dtype=torch.float32)
    return torch.stack([1 - foreground, foreground])


def two_colours(height, width, border):
    """Red left of the border, blue right of it."""
    picture = np.empty((height, width, 3), np.uint8)
    picture[:, :border], picture[:, border:] = RED, BLUE
    return picture


def random_case(seed, classes, height, width):
    """Patches of a few colours, and noisy probabilities."""
    random = np.random.default_rng(seed)
    patches = gaussian_filter(random.normal(size=(classes, height, width)), (0, 2, 2)).argmax(0)
    colours = random.integers(60, 200, (classes, 3))
    picture = (colours[patches] + random.normal(0, 5, (height, width, 3))).clip(0, 255).astype(np.uint8)
    scores = torch.from_numpy(random.normal(size=(classes, height, width))).float()
    return torch.softmax(scores, 0), picture


def rendered(number, size):
    """A rendered scene, and its greatest thing's mask, blurred."""
    scene = render(seed_of("validation", number), split="validation", size=size)
    greatest = np.bincount(scene.labels[scene.labels > 0]).argmax()
    return two_classes(
        gaussian_filter((scene.labels == greatest).astype(np.float32), size / 30).clip(0, 1)
    ), scene.image


class TestSecondOpinion:
    @pytest.mark.parametrize(
        ("classes", "height", "width", "changed"),
        [
            (2, 10, 12, {}),
            (3, 9, 8, {}),
            (2, 12, 9, {"colour_weight": 0.0}),
            (2, 8, 11, {"smooth_weight": 0.0, "reach": 5.0}),
            (3, 9, 12, {"smooth_weight": 1.0, "colour_weight": 2.0, "reach": 8.0}),
            (2, 12, 10, {"smooth_weight": 0.0, "colour_weight": 1.0, "colour_width": 30.0}),
        ],
    )
    def test_exact_kernels_in_plain_loops(self, classes, height, width, changed):
        """The lattice's gaussian is piecewise polynomial, as the authors' own is."""
        options = paper(**changed)
        probabilities, picture = random_case(classes * height, classes, height, width)
        kernels = [
            (options.smooth_width, None, options.smooth_weight),
            (options.reach, options.colour_width, options.colour_weight),
        ]
        expected = reference.dense_crf(probabilities.numpy(), picture, options.iterations, kernels, options.clip)
        found = dense_crf(probabilities, picture, options).numpy()
        assert np.abs(found - expected).max() < 0.03  # measured 0.019

    @pytest.mark.parametrize("dimension", [1, 2, 5])
    def test_the_lattice_blurs_by_a_gaussian(self, dimension):
        points = np.random.default_rng(dimension).uniform(0, 3, (dimension, 400)).astype(np.float32)
        values = np.random.default_rng(9).uniform(size=(1, 400)).astype(np.float32)
        squares = ((points[:, :, None] - points[:, None]).astype(np.float64) ** 2).sum(0)
        exact = np.exp(-squares / 2)
        found = lattice(points)
        ours = found.blur(values)[0] / found.blur(np.ones_like(values))[0]
        assert (
            np.abs(ours - exact @ values[0] / exact.sum(1)).max() < 0.05
        )  # measured 0.029 in five dimensions, 0.002 in one


class TestAuthorsCode:
    @pytest.mark.parametrize("case", CASES)
    def test_numbers_of_their_code(self, case):
        prefix = f"{case}.options."
        chosen = {name.removeprefix(prefix): value.item() for name, value in DATA.items() if name.startswith(prefix)}
        if "iterations" in chosen:
            chosen["iterations"] = int(chosen["iterations"])
        found = dense_crf(DATA[f"{case}.given"], DATA[f"{case}.picture"].numpy(), paper(**chosen))
        expected = DATA[f"{case}.found"]
        assert (found - expected).abs().max() < 1e-4  # measured 3e-6
        assert torch.equal(found.argmax(0), expected.argmax(0))
        assert (expected - DATA[f"{case}.given"]).abs().max() > 0.3, "the case tells nothing"

    @compiled
    @pytest.mark.parametrize(("number", "size"), [(0, 128), (1, 200), (2, 97)])
    def test_rendered_scenes(self, number, size):
        probabilities, picture = rendered(number, size)
        ours, theirs = (dense_crf(probabilities, picture, paper(backend=each)) for each in ("lattice", "pydensecrf"))
        assert (ours - theirs).abs().max() < 1e-3  # measured up to 2e-4, where a pixel lies between two simplices
        assert (ours - theirs).abs().mean() < 1e-6  # measured 1e-7
        assert torch.equal(ours.argmax(0), theirs.argmax(0))

    def test_a_picture_that_can_not_be_written_to_is_copied_for_it(self, monkeypatch):
        """Pictures of Pillow are such; the C++ takes only what it could write to."""
        seen = []

        def mean_field(energies, image, options):
            seen.append(image)
            return np.exp(-energies)

        monkeypatch.setattr("ovam.refine.crf.authors_mean_field", mean_field)
        picture = two_colours(4, 4, 2)
        picture.flags.writeable = False
        dense_crf(two_classes(torch.full((4, 4), 0.5)), picture, paper(backend="pydensecrf"))
        assert seen[0].flags.writeable
        assert seen[0].flags.c_contiguous
        assert np.array_equal(seen[0], picture)

    @pytest.mark.skipif(importlib.util.find_spec("pydensecrf") is not None, reason="pydensecrf2 is installed")
    def test_it_is_named_where_it_is_not_installed(self):
        with pytest.raises(errors.MissingPackageError, match=r"pip install 'ovam\[crf\]'"):
            dense_crf(two_classes(torch.full((4, 4), 0.5)), two_colours(4, 4, 2), paper(backend="pydensecrf"))


class TestProperties:
    @pytest.mark.parametrize(("height", "width"), [(13, 31), (1, 20), (20, 1), (1, 1)])
    @pytest.mark.parametrize("classes", [2, 4])
    def test_probabilities_of_any_size(self, classes, height, width):
        probabilities, picture = random_case(3, classes, height, width)
        before = probabilities.clone()
        found = dense_crf(probabilities, picture, paper())
        assert found.shape == probabilities.shape
        assert found.dtype == torch.float32
        assert 0 <= found.min() <= found.max() <= 1
        assert (found.sum(0) - 1).abs().max() < 1e-6  # measured 1.2e-7
        assert torch.equal(found, dense_crf(probabilities, picture, paper())), "the same each time"
        assert torch.equal(probabilities, before)

    def test_the_order_of_classes_does_not_matter(self):
        probabilities, picture = random_case(4, 3, 24, 20)
        order = [2, 0, 1]
        found, moved = (dense_crf(each, picture, paper()) for each in (probabilities, probabilities[order]))
        assert (found[order] - moved).abs().max() < 1e-5  # measured 1.2e-7

    def test_height_and_width_are_told_apart(self):
        probabilities, picture = random_case(5, 2, 26, 14)
        tall = dense_crf(probabilities, picture, paper())
        wide = dense_crf(probabilities.mT, picture.transpose(1, 0, 2), paper())
        assert (tall - wide.mT).abs().max() < 0.05  # measured 0.009: the lattice's axes are not all alike

    def test_a_blurred_mask_snaps_to_the_colours_border(self):
        """It also moves there, from five pixels beside it."""
        picture = two_colours(48, 64, 37)
        mask = np.zeros((48, 64))
        mask[:, :32] = 1
        soft = two_classes(gaussian_filter(mask, 8.0))
        found = dense_crf(soft, picture, paper())[1]
        assert torch.equal(found > 0.5, torch.arange(64).expand(48, -1) < 37)
        assert not torch.equal(soft[1] > 0.5, found > 0.5)

    def test_a_picture_of_one_colour_moves_no_border(self):
        """There only the smoothness is left to say where the border is."""
        picture = np.full((40, 40, 3), 90, np.uint8)
        mask = np.full((40, 40), 0.3)
        mask[:, :20] = 0.7
        mask[10:12, 10:12] = 0.45  # a hole, which the smoothness fills
        every, smooth = (
            dense_crf(two_classes(mask), picture, paper(**changed))[1] > 0.5 for changed in ({}, {"colour_weight": 0.0})
        )
        assert torch.equal(every, torch.arange(40).expand(40, -1) < 20)
        assert torch.equal(every, smooth)

    def test_a_picture_without_kernels_changes_nothing(self):
        probabilities, picture = random_case(6, 3, 12, 12)
        found = dense_crf(probabilities, picture, paper(smooth_weight=0.0, colour_weight=0.0))
        assert (found - probabilities).abs().max() < 1e-6  # measured 1.2e-7

    def test_certain_probabilities_stay_finite(self):
        mask = torch.zeros(20, 24)
        mask[:, :12] = 1.0
        found = dense_crf(two_classes(mask), two_colours(20, 24, 12), paper())
        assert torch.isfinite(found).all()
        assert torch.equal(found[1] > 0.5, mask.bool())

    def test_corners_are_numbered_alike_where_keys_are_wide(self, monkeypatch):
        """Wide keys do not fit into one number with their place, and take the slower way."""
        keys = np.random.default_rng(0).integers(0, 40, 200)
        found, owner = lattices._numbered(keys)
        wide_found, wide_owner = lattices._numbered(keys << 55)
        assert np.array_equal(found, np.unique(keys))
        assert np.array_equal(found[owner], keys)
        assert np.array_equal(found << 55, wide_found)
        assert np.array_equal(owner, wide_owner)

    def test_points_that_are_too_far_apart(self):
        points = np.zeros((5, 2), np.float32)
        points[:, 1] = 1e5
        with pytest.raises(errors.OptionError, match="greater widths"):
            lattice(points)


class TestErrors:
    @pytest.mark.user_error
    @pytest.mark.parametrize(
        ("shape", "picture", "error", "message"),
        [
            ((2, 8, 9), np.zeros((9, 8, 3), np.uint8), errors.ProbabilityError, r"of \(8, 9\) pixels.*\(9, 8\)"),
            ((1, 8, 8), np.zeros((8, 8, 3), np.uint8), errors.ProbabilityError, "at least two classes"),
            ((8, 8), np.zeros((8, 8, 3), np.uint8), errors.ProbabilityError, r"shape \(8, 8\)"),
            ((2, 0, 8), np.zeros((0, 8, 3), np.uint8), errors.ProbabilityError, "at least one pixel"),
            ((2, 8, 8), np.zeros((8, 8, 3), np.float32), errors.ImageInputError, "float32.*expected uint8"),
            ((2, 8, 8), np.zeros((8, 8), np.uint8), errors.ImageInputError, r"shape \(8, 8\)"),
        ],
    )
    def test_what_does_not_fit(self, shape, picture, error, message):
        with pytest.raises(error, match=message):
            dense_crf(torch.full(shape, 0.5), picture, paper())

    @pytest.mark.parametrize(
        ("values", "error", "message"),
        [
            ([0.5, 0.6], errors.ProbabilityError, "differs from 1 by up to 0.1"),
            ([-0.5, 1.5], errors.ProbabilityError, "lowest probability is -0.5"),
            ([float("nan"), 0.5], errors.NotFiniteError, "NaN"),
            ([float("inf"), 0.5], errors.NotFiniteError, "infinity"),
        ],
    )
    def test_what_is_no_probability(self, values, error, message):
        probabilities = torch.tensor(values)[:, None, None].expand(2, 4, 4)
        with pytest.raises(error, match=message):
            dense_crf(probabilities, two_colours(4, 4, 2), paper())

    @pytest.mark.user_error
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"iterations": 0}, "iterations=0"),
            ({"iterations": 2.5}, "iterations=2.5"),
            ({"smooth_width": 0.5}, "smooth_width=0.5"),
            ({"reach": float("inf")}, "reach=inf"),
            ({"colour_width": "wide"}, "colour_width='wide'"),
            ({"smooth_weight": -1}, "smooth_weight=-1"),
            ({"colour_weight": float("nan")}, "colour_weight=nan"),
            ({"clip": 0}, "clip=0"),
            ({"clip": 0.5}, "clip=0.5"),
            ({"backend": "grid"}, "backend='grid': expected one of 'lattice', 'pydensecrf'"),
        ],
    )
    def test_options_are_checked_when_they_are_made(self, options, message):
        with pytest.raises(errors.OptionError, match=message):
            CrfOptions(**options)
