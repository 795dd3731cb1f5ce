"""How maps are made of weights or outputs: the choices that there are, and which of them go together."""

from collections.abc import Sequence
from typing import Literal, get_args

from ovam.aggregate import Axis
from ovam.errors import OptionError
from ovam.trace import TextKind

SoftmaxOver = Literal["prompt", "padded", "joint"]
Strategy = Literal["attention", "output"]


def check_options(keep: Sequence[Axis], softmax_over: str, strategy: str = "attention") -> None:
    """Whether these are choices that there are, and go together.

    Raises:
        OptionError: they are not.
    """
    known = get_args(Axis)
    if not set(keep) <= set(known) or {"block", "head"} <= set(keep):
        raise OptionError(
            f"keep={tuple(keep)!r}: expected some of {known}, and not 'block' with 'head' "
            "(every head belongs to one block: 'head' alone keeps both apart)"
        )
    if softmax_over not in get_args(SoftmaxOver):
        raise OptionError(f"softmax_over={softmax_over!r}: expected one of {get_args(SoftmaxOver)}")
    if strategy not in get_args(Strategy):
        raise OptionError(f"strategy={strategy!r}: expected one of {get_args(Strategy)}")
    if strategy == "output" and (softmax_over != "prompt" or "head" in keep):
        asked = "keep='head'" if softmax_over == "prompt" else f"softmax_over={softmax_over!r}"
        raise OptionError(
            f"{asked} was asked of strategy='output', in which the words share each pixel, by the channels of all "
            "heads together: leave the option out, or ask for strategy='attention'"
        )


def check_joint(kind: TextKind, softmax_over: SoftmaxOver, strategy: Strategy = "attention") -> None:
    """Whether image and text share the attention at all.

    Raises:
        OptionError: they do not, and a softmax over both, or the outputs of both, was asked for.
    """
    if strategy == "output" and kind == "static":
        raise OptionError(
            "strategy='output' was asked of cross attention, in which words have no outputs: expected 'attention'; "
            "'output' is for models whose image and text share the attention (SD3, FLUX)"
        )
    if softmax_over == "joint" and kind == "static":
        raise OptionError(
            "softmax_over='joint' was asked of cross attention, in which pixels attend to text alone: expected "
            "'prompt' or 'padded'; 'joint' is for models whose image and text share the attention (SD3, FLUX)"
        )


def check_rivals(words: Sequence[str]) -> None:
    """Whether there are words for output-space maps to share every pixel among.

    Raises:
        OptionError: there is one alone.
    """
    if len(words) < 2:
        raise OptionError(
            f"strategy='output' was asked for {words[0]!r} alone, which would get every pixel whole: expected at "
            "least two words, which share them; add what else is to be seen, such as 'background'"
        )
