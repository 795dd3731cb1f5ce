"""What people pass by mistake is refused by name: text for a number, one value for a list, NaN, truth values, None."""

import numpy as np
import pytest
import torch

import ovam
import tiny
from ovam.errors import OvamError
from synthetic import make_trace

pytestmark = pytest.mark.user_error
PICTURE = np.zeros((32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def trace():
    return make_trace()


@pytest.fixture(scope="module")
def pipe():
    return tiny.sd1()


@pytest.mark.parametrize(
    "words",
    [None, 3, [], [None], b"sky", [b"sky"], (word for word in ["sky"]), {"sky": 1}, [["sky"]], float("nan")],
)
def test_words(trace, words):
    for ask in (trace.maps, trace.segment):
        if ask == trace.segment and isinstance(words, dict):
            continue  # its keys are words
        with pytest.raises(OvamError):
            ask(words)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("threshold", value) for value in ("0.5", float("nan"), float("inf"), True, None, [0.5], -1, 1)],
        *[("against", value) for value in (None, 3, [None], [3])],
        *[("keep", value) for value in (3, None, "pixel", ["block", "head"])],
        *[("blocks", value) for value in ({}, b"x", 1.5, True, [None], [(1, 2, 3)], "absent")],
        *[("steps", value) for value in ([], [[1]], "x", -1, 1.5, True, float("nan"), [None])],
        *[("guidance", value) for value in (1, "both", ["cond"], True)],
        *[("phrases", value) for value in (3, "hot dog", [3])],
        *[("strategy", value) for value in (None, 1, "all")],
    ],
)
def test_options_of_maps_and_masks(trace, name, value):
    with pytest.raises(OvamError, match=rf"{name}|words|step|block|half"):
        trace.segment(["sky"], **{name: value})


@pytest.mark.parametrize("size", [5, (0, 5), (-1, 5), (4.5, 5), "55", (5,), (5, 5, 5), (True, 5), None])
def test_sizes(trace, pipe, size):
    if size is not None:
        with pytest.raises(OvamError, match="size="):
            trace.maps("sky").resized(size)
        with pytest.raises(OvamError, match="size="):
            ovam.encode(pipe, PICTURE, size=size)


@pytest.mark.parametrize("word", [1.5, None, 7, "absent", b"sky", True])
def test_words_of_maps(trace, word):
    maps = trace.maps("sky")
    with pytest.raises(OvamError):
        maps[word]
    with pytest.raises(OvamError):
        maps.only([word])


@pytest.mark.parametrize("words", ["sky", [], 3, None])
def test_lists_of_words_of_maps(trace, words):
    with pytest.raises(OvamError):
        trace.maps(["sky"]).only(words)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("device", value) for value in ("gpu", 1.5, None, [])],
        *[("dtype", value) for value in ("float16", torch.int16, 16)],
        *[("limit_gib", value) for value in ("4", [4], float("nan"), float("inf"), -1, True)],
        *[("guidance", value) for value in (1, None, "half")],
        *[("steps", value) for value in (-1, "last", 1.5, [True])],
        *[("blocks", value) for value in (1.5, {1.5: 2}, [None])],
        *[("disk", value) for value in (3, "absent-folder", [])],
        *[("also", value) for value in (["x"], "x", {"x": None})],
        *[("preset", value) for value in (3, "huge")],
    ],
)
def test_options_of_a_capture(pipe, name, value):
    with pytest.raises(OvamError, match=name if name != "blocks" else "blocks"):
        ovam.capture(pipe, **{name: value}).__enter__()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("seed", value) for value in (1.5, "0", None, True, -(2**70))],
        *[("noises", value) for value in (True, 0, 1.5, "1", [1])],
        *[("timesteps", value) for value in (5, "abc", [float("nan")], [1000], [None], [], ["5"])],
        *[("prompt", value) for value in (3, None, ["a"])],
        *[("method", value) for value in (None, 3, "all")],
    ],
)
def test_options_of_encoding(pipe, name, value):
    with pytest.raises(OvamError, match=name):
        ovam.encode(pipe, PICTURE, **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("rows", value) for value in (1.5, 0, True, "1", None, 100)],
        *[("pull", value) for value in ("a", -1, float("nan"), None, True)],
        *[("ignore", value) for value in ("a", -1, 1.5)],
        *[("against", value) for value in (3, [3], [None])],
        *[("evaluations", value) for value in (0, 1.5, "9")],
        *[("licence", value) for value in (3, b"x")],
    ],
)
def test_options_of_a_fit(trace, name, value):
    mask = torch.zeros(trace.size, dtype=torch.bool)
    mask[:2] = True
    with pytest.raises(OvamError, match=f"{name}|words"):
        ovam.optimize_tokens(trace, {"sky": mask}, **{name: value})


@pytest.mark.parametrize(
    "given", [(None, {}), ("x", {}), ([3], [{}]), ("own", None), ("own", 3), ("own", "x")], ids=str
)
def test_traces_and_annotations_of_a_fit(trace, given):
    traces, annotations = given
    with pytest.raises(OvamError):
        ovam.optimize_tokens(trace if traces == "own" else traces, annotations)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"], ids=["long", "nul"])
def test_names_that_no_file_can_have(trace, tmp_path, name):
    with pytest.raises(OvamError):
        trace.save(tmp_path / f"{name}.safetensors")
    with pytest.raises(OvamError):
        ovam.Trace.load(tmp_path / name)
    with pytest.raises(OvamError):
        ovam.TokenSet.load(tmp_path / name)


@pytest.mark.parametrize("name", [None, 3, b"mini", "", "x" * 300, "a\0b"])
def test_names_of_models(name):
    with pytest.raises(OvamError):
        ovam.load(name)
