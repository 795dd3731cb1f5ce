"""The contract of methods must be able to fail: each realistic fault of a method fails by the check meant for it."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from ovam import methods
from ovam.errors import OvamError
from ovam.methods.base import checked_words
from ovam.testing import MethodContract


class Contract(MethodContract):
    """Not collected, since its name does not begin with Test: its tests are called one by one."""

    method: ClassVar[type[methods.Method]]

    def make_method(self):
        return self.method()


@dataclass(frozen=True, kw_only=True)
class Changed(methods.Attn2Mask):
    """A method whose result a subclass changes."""

    name: ClassVar[str] = "changed"

    def segment(self, trace, words):
        return self.change(super().segment(trace, words))

    def change(self, result):
        return result


class OwnBorder(Changed):
    def change(self, result):
        return replace(result, threshold=self.threshold)


class Coarse(Changed):
    def change(self, result):
        return replace(result, labels=result.labels[::2, ::2])


class OtherNumbers(Changed):
    def change(self, result):
        return replace(result, labels=result.labels * 10)


class ForgetsTokensThreshold(Changed):
    def segment(self, trace, words):
        return replace(self, token_threshold=0.6).change(methods.Attn2Mask.segment(methods.Attn2Mask(), trace, words))


class DrawsNumbers(Changed):
    def change(self, result):
        return replace(result, scores=(result.scores + 1e-3 * torch.rand(result.scores.shape)).clamp(0, 1))


class ChangesQueries(Changed):
    def segment(self, trace, words):
        for block in trace.blocks.values():
            block.query["cond"].mul_(1.01)
        return super().segment(trace, words)


class TakesForeignTokens(Changed):
    def segment(self, trace, words):
        own = [
            word if isinstance(word, str) else replace(word, space=trace.text.space) for word in checked_words(words)
        ]
        return super().segment(trace, own)


class NeedsMoreThanItSays(methods.DatasetDiffusion):
    name = "needs more"
    requires = {}  # noqa: RUF012


class ChecksNoThreshold(Changed):
    def __post_init__(self):
        """Without the checks of the base class."""


class StretchesEveryClassTogether(Changed):
    def change(self, result):
        return replace(result, scores=result.scores / result.scores.max() * 0.99 * (0.9 + 0.1 / len(result.words)))


FAULTS = [
    (OwnBorder, "test_the_result_is_an_ordinary_segmentation"),
    (Coarse, "test_the_result_is_an_ordinary_segmentation"),
    (OtherNumbers, "test_one_word_alone_and_synonyms"),
    (OtherNumbers, "test_fitted_tokens_stand_where_words_do"),
    (ForgetsTokensThreshold, "test_thresholds_decide_how_large_a_mask_is"),
    (DrawsNumbers, "test_the_same_question_has_the_same_answer"),
    (ChangesQueries, "test_the_trace_stays_as_it_is"),
    (TakesForeignTokens, "test_tokens_of_another_text_encoder_are_refused"),
    (NeedsMoreThanItSays, "test_the_result_is_an_ordinary_segmentation"),
    (NeedsMoreThanItSays, "test_a_real_image"),
    (ChecksNoThreshold, "test_a_threshold_that_is_none_is_refused"),
    (StretchesEveryClassTogether, "test_merging_sets_of_tokens_does_not_change_a_mask"),
]


@pytest.mark.parametrize(("method", "test"), FAULTS, ids=lambda value: getattr(value, "__name__", value))
def test_a_fault_is_found(method, test):
    class Case(Contract):
        """A class of its own, since runs are shared by class."""

    Case.method = method
    with pytest.raises((AssertionError, OvamError)):
        getattr(Case(), test)()


@pytest.mark.parametrize("test", sorted({test for _, test in FAULTS}))
def test_a_method_without_fault_passes(test):
    Contract.method = Changed
    getattr(Contract(), test)()
