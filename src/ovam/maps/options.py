"""How maps are made of a trace: the options of the stage, and which of them go together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from ovam.checks import listed
from ovam.errors import OptionError
from ovam.shapes import Axis
from ovam.trace.blocks import BlockChoice, checked_blocks
from ovam.trace.calls import Half, StepChoice, step_numbers
from ovam.trace.text_side import TextKind

SoftmaxOver = Literal["prompt", "padded", "joint"]
Strategy = Literal["attention", "output"]


@dataclass(frozen=True, kw_only=True)
class MapOptions:
    """How maps are made of a trace. Values are checked when it is made.

    Attributes:
        guidance: Which half's queries; by default the conditional one where it was kept. With clip-skip, text for the
            unconditional one is noted (logger `ovam`, level WARNING): that half was read without.
        blocks: Blocks by module path or its beginning ("up_blocks.1"), by grid height (16) or grid ([(16, 24)]); all
            by default.
        steps: Step numbers or one, or "middle" for the one in the middle; all by default.
        keep: Axes to leave apart, or one, for studies: "block" or "head" (every head of every block, `kept["head"]`
            names them), and "step" (every denoiser call). The mean is taken over the others.
        softmax_over: "prompt" divides the attention among the prompt's own tokens, start and end included;
            "padded" among all positions the encoder reads (77 in CLIP), as the model itself does, which
            leaves less for each word, by as much as padding draws; "joint" among these and all image pixels, as the
            model itself does in joint attention (SD3, FLUX), which leaves less still.
        strategy: "attention", the weights of pixels over tokens; or in joint attention "output", how like a pixel's
            attention output is to each word's, of a capture with `outputs=True` (`ovam.maps.output_space`). The
            words, two or more, share every pixel, so that here adding an entry to a list does change the others'
            maps; there are no maps of tokens, and all heads make one map of a block.
        phrases: Of a prompt, words in a row that are one unit: phrases=["hot dog"] of "a hot dog on the grass".

    Raises:
        OptionError: a value is none of these, or two do not go together.
    """

    guidance: Half | None = None
    blocks: BlockChoice = None
    steps: StepChoice = None
    keep: Axis | Sequence[Axis] = ()
    softmax_over: SoftmaxOver = "prompt"
    strategy: Strategy = "attention"
    phrases: Sequence[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", checked_blocks(self.blocks))
        object.__setattr__(self, "steps", step_numbers(self.steps))
        object.__setattr__(self, "phrases", _texts("phrases", self.phrases))
        _one_of("guidance", self.guidance, (*get_args(Half), None))
        _one_of("softmax_over", self.softmax_over, get_args(SoftmaxOver))
        _one_of("strategy", self.strategy, get_args(Strategy))
        axes, known = self.axes, get_args(Axis)
        if not set(axes) <= set(known) or {"block", "head"} <= set(axes):
            raise OptionError(
                f"keep={axes!r}: expected some of {known}, and not 'block' with 'head' "
                "(every head belongs to one block: 'head' alone keeps both apart)"
            )
        if self.strategy == "output" and (self.softmax_over != "prompt" or "head" in axes):
            given = "keep='head'" if self.softmax_over == "prompt" else f"softmax_over={self.softmax_over!r}"
            raise OptionError(
                f"{given} with strategy='output', in which the words share each pixel, by the channels of all "
                "heads together: leave the option out, or choose strategy='attention'"
            )

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The axes to leave apart."""
        return (self.keep,) if isinstance(self.keep, str) else tuple(listed("keep", self.keep))


def _one_of(name: str, value: object, known: Sequence[object]) -> None:
    if not any(value == each for each in known if isinstance(value, str) or value is None):
        raise OptionError(f"{name}={value!r}: expected one of {tuple(known)}")


def _texts(name: str, values: Sequence[str]) -> tuple[str, ...]:
    texts = listed(name, values)
    if not all(isinstance(value, str) for value in texts):
        raise OptionError(f"{name}={values!r}: expected a list of strings")
    return tuple(texts)


def check_joint(kind: TextKind, softmax_over: SoftmaxOver = "prompt", strategy: Strategy = "attention") -> None:
    """Whether image and text share the attention at all.

    Raises:
        OptionError: they do not, and a softmax over both, or the outputs of both, was asked for.
    """
    if strategy == "output" and kind == "static":
        raise OptionError(
            "strategy='output' on cross attention, in which words have no outputs: expected 'attention'; "
            "'output' is for models whose image and text share the attention (SD3, FLUX)"
        )
    if softmax_over == "joint" and kind == "static":
        raise OptionError(
            "softmax_over='joint' on cross attention, in which pixels attend to text alone: expected "
            "'prompt' or 'padded'; 'joint' is for models whose image and text share the attention (SD3, FLUX)"
        )


def check_rivals(words: Sequence[str]) -> None:
    """Whether there are words for output-space maps to share every pixel among.

    Raises:
        OptionError: there is one alone.
    """
    if len(words) < 2:
        raise OptionError(
            f"strategy='output' for {words[0]!r} alone, which would get every pixel whole: expected at "
            "least two words, which share them; add what else is to be seen, such as 'background'"
        )
