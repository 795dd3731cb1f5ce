"""The contract test class for methods that make masks from traces; see `ovam.testing` for how to use it."""

import functools
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ovam.errors import EmptyWordsError, OptionError, OvamError, SpaceMismatchError
from ovam.masks.annotations import IGNORE
from ovam.masks.result import Segmentation
from ovam.methods.base import Method
from ovam.models import load
from ovam.testing.breakdowns import raises
from ovam.tokens.optimize import optimize_tokens
from ovam.tokens.token_set import TokenSet
from ovam.trace.quantised import floats
from ovam.trace.trace import Trace
from ovam.tracing.capture import capture
from ovam.tracing.encode import encode


class MethodContract(ABC):
    """Tests of a method. A subclass writes `make_method`; it may change the pipeline and the words.

    By default the pipeline is the embedded model, which is fast. One run and one fit are made for all tests.

    Attributes:
        prompt: Prompt of the run.
        words: Two words that are asked, a phrase among them.
        size: Height and width of the runs; not square, so that mixed up sides show.
        steps: Number of denoising steps.
    """

    prompt: ClassVar[str] = "a cat on the grass"
    words: ClassVar[tuple[str, str]] = ("cat", "green grass")
    size: ClassVar[tuple[int, int]] = (96, 128)
    steps: ClassVar[int] = 4

    @abstractmethod
    def make_method(self) -> Method:
        """Make the method with its published numbers."""

    def make_pipe(self) -> Any:
        """Make the pipeline of the run."""
        return _quiet_mini()

    def test_its_numbers_are_fields_that_can_be_replaced(self) -> None:
        method = self.make_method()
        assert is_dataclass(method), f"{type(method).__name__} is no dataclass"
        own = {field.name for field in fields(method)}
        assert {"threshold", "token_threshold"} <= own, f"a threshold is missing, there are {sorted(own)}"
        other = replace(method, threshold=method.threshold / 2)
        assert other.threshold == method.threshold / 2, "the threshold was not replaced"
        assert raises(lambda: setattr(method, "threshold", 0.1), AttributeError), "the fields can be changed"
        assert method == self.make_method(), "two methods with the same numbers differ"
        assert isinstance(getattr(method, "name", None), str), "the method has no name"

    def test_a_threshold_that_is_none_is_refused(self) -> None:
        for name in ("threshold", "token_threshold"):
            for value in (0.0, 1.0, float("nan"), "0.5"):
                changes: dict[str, Any] = {name: value}
                refused = raises(functools.partial(replace, self.make_method(), **changes), OptionError)
                assert refused, f"{name}={value!r} was accepted: does __post_init__ call super().__post_init__()?"

    def test_thresholds_decide_how_large_a_mask_is(self) -> None:
        trace, tokens = self._trace(), self._tokens()
        for name, words in (("threshold", list(self.words)), ("token_threshold", tokens)):
            low, high = (self._with(name, value).segment(trace, words) for value in (0.2, 0.9))
            low_area, high_area = (sum(int(mask.sum()) for mask in each.masks.values()) for each in (low, high))
            assert low_area > high_area, f"masks with {name}=0.2 have {low_area} pixels, with 0.9 {high_area}"

    def test_the_result_is_an_ordinary_segmentation(self) -> None:
        trace = self._trace()
        self._assert_ordinary(self.make_method().segment(trace, list(self.words)), trace, self.words)

    def test_a_real_image(self) -> None:
        image = self._trace().image
        looked = {"timesteps": (100, 400), **self.make_method().requires_encoded}  # some need a time step of their own
        trace = encode(self.make_pipe(), image, **looked)
        self._assert_ordinary(self.make_method().segment(trace, list(self.words)), trace, self.words)

    def test_one_word_alone_and_synonyms(self) -> None:
        trace, (word, other) = self._trace(), self.words
        for words in (word, [word], [f"{word}|{other}"]):
            expected = (word,) if words != [f"{word}|{other}"] else (f"{word}|{other}",)
            self._assert_ordinary(self.make_method().segment(trace, words), trace, expected)

    def test_fitted_tokens_stand_where_words_do(self) -> None:
        trace, tokens = self._trace(), self._tokens()
        self._assert_ordinary(self.make_method().segment(trace, tokens), trace, tokens.classes)
        both = self.make_method().segment(trace, [self.words[1], tokens])
        self._assert_ordinary(both, trace, (self.words[1], *tokens.classes))

    def test_merging_sets_of_tokens_does_not_change_a_mask(self) -> None:
        trace, tokens = self._trace(), self._tokens()
        (group,) = tokens.groups
        name = tokens.classes[0]
        renamed = replace(group, rows=tuple(row.replace(name, "other") for row in group.rows), vectors=-group.vectors)
        renamed = replace(renamed, calibrations={})
        merged = tokens.merged(TokenSet((renamed,), tokens.space))
        alone, together = (self.make_method().segment(trace, each) for each in (tokens, merged))
        worst = float((alone.scores[0] - together.scores[0]).abs().max())
        # measured over the four methods: 6e-7 where maps are multiplied together; 0 in the others
        assert worst <= 1e-5, f"the scores of class {name!r} differ by {worst:.3g} in a merged set"

    def test_the_same_question_has_the_same_answer(self) -> None:
        trace, state = self._trace(), torch.get_rng_state()
        first, second = (self.make_method().segment(trace, list(self.words)) for _ in range(2))
        assert torch.equal(first.scores, second.scores), "two answers differ"
        assert torch.equal(state, torch.get_rng_state()), "random numbers were drawn from the user's generator"

    def test_torchs_settings_do_not_matter(self) -> None:
        trace = self._trace()
        expected = self.make_method().segment(trace, list(self.words)).scores
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = self.make_method().segment(trace, list(self.words)).scores
        assert torch.equal(found, expected), "the answer differs under autocast"

    def test_the_trace_stays_as_it_is(self) -> None:
        trace = self._trace()
        before = [values.clone() for values in _stored(trace)]
        self.make_method().segment(trace, list(self.words))
        same = [torch.equal(now, then) for now, then in zip(_stored(trace), before, strict=True)]
        assert all(same), f"{same.count(False)} stored tensors were changed"

    def test_a_saved_trace_gives_the_same(self) -> None:
        trace, tokens = self._trace(), self._tokens()
        entries: list[str | TokenSet] = [self.words[1], tokens]
        with tempfile.TemporaryDirectory() as folder:
            trace.save(Path(folder) / "run.safetensors")
            again = Trace.load(Path(folder) / "run.safetensors", text=self.make_pipe())
        found, expected = (self.make_method().segment(each, entries).scores for each in (again, trace))
        worst = float((found - expected).abs().max())
        assert worst <= 1e-5, f"scores of the saved trace differ by {worst:.3g}"

    def test_the_result_can_be_written(self) -> None:
        result = self.make_method().segment(self._trace(), list(self.words))
        with tempfile.TemporaryDirectory() as folder:
            result.save(folder)
            written = {path.name for path in Path(folder).rglob("*")}
        assert "labels.png" in written, f"no labels.png was written, only {sorted(written)}"
        result.to_coco()

    def test_words_that_cannot_be_segmented_are_refused(self) -> None:
        trace, method, word = self._trace(), self.make_method(), self.words[0]
        cases: Mapping[type[Exception], Any] = {EmptyWordsError: [], OptionError: [word, word.upper()]}
        for error, words in cases.items():
            assert raises(functools.partial(method.segment, trace, words), error), f"{words!r} gave no {error.__name__}"

    def test_tokens_of_another_text_encoder_are_refused(self) -> None:
        tokens = self._tokens()
        foreign = replace(tokens, space=replace(tokens.space, encoder="another one"))
        refused = raises(lambda: self.make_method().segment(self._trace(), foreign), SpaceMismatchError)
        assert refused, "tokens of another text encoder were taken"

    def test_a_trace_without_queries_is_refused(self) -> None:
        empty = replace(self._trace(), blocks={})
        refused = raises(lambda: self.make_method().segment(empty, list(self.words)), OvamError)
        assert refused, "a trace without queries was segmented"

    def _with(self, name: str, value: float) -> Method:
        changes: dict[str, Any] = {name: value}
        return replace(self.make_method(), **changes)

    def _trace(self) -> Trace:
        return _trace_of(type(self))

    def _tokens(self) -> TokenSet:
        return _tokens_of(type(self))

    def _assert_ordinary(self, result: Segmentation, trace: Trace, words: tuple[str, ...]) -> None:
        assert result.words == words == result.maps.words, f"words are {result.words}, expected {words}"
        assert result.size == trace.size, f"labels have the size {result.size}, the image {trace.size}"
        assert tuple(result.scores.shape) == (len(words), *trace.size), f"scores are {tuple(result.scores.shape)}"
        low, high = float(result.scores.min()), float(result.scores.max())
        assert 0 <= low <= high <= 1, f"scores are in [{low:.3g}, {high:.3g}]"
        assert result.threshold == 0.5, f"the border of the scores is {result.threshold}, expected 0.5"
        assert float(result.maps.token_maps.min()) >= 0, "a map is below 0"
        assert float(result.maps.token_maps.max()) <= 1, "a map is above 1"
        numbers = set(np.unique(result.labels))
        assert numbers <= {*range(len(words) + 1), IGNORE}, f"labels are {sorted(numbers)} for {len(words)} words"
        for number, word in enumerate(words, start=1):
            outside = (result.labels == number) & ~result[word]
            assert not outside.any(), f"{int(outside.sum())} pixels have the label of {word!r} outside its mask"
            assert 0 <= result.presence[word] <= 1, f"presence of {word!r} is {result.presence[word]}"
        nobody = (result.labels == 0) & (result.scores > 0.5).any(0)
        assert not nobody.any(), f"{int(nobody.sum())} pixels of a mask are background in the labels"


def _stored(trace: Trace) -> list[Tensor]:
    """Return the queries and the self-attention of a trace."""
    kept = [block.query for block in trace.blocks.values()] + [part.values for part in trace.self_attention.values()]
    return [floats(values) for halves in kept for values in halves.values()]


@functools.cache
def _quiet_mini() -> Any:
    pipe = load("mini")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@functools.cache
def _trace_of(case: type[MethodContract]) -> Trace:
    """Return the run of a contract, captured with what its method needs, in float32, so that a file is exact."""
    contract = case()
    pipe, (height, width) = contract.make_pipe(), case.size
    with capture(pipe, dtype=torch.float32, **contract.make_method().requires) as traces:
        seed = torch.Generator().manual_seed(0)
        pipe(case.prompt, num_inference_steps=case.steps, height=height, width=width, generator=seed)
    return traces[0]


@functools.cache
def _tokens_of(case: type[MethodContract]) -> TokenSet:
    """Return tokens of the first word, fitted for a few evaluations to the word's own mask."""
    trace, word = _trace_of(case), case.words[0]
    return optimize_tokens(trace, {word: trace.segment([word])[word]}, evaluations=3)
