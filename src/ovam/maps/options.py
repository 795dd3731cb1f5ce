"""Options for making maps from a trace, and checks that they are compatible."""

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
    """Options for making maps from a trace. Values are checked when the object is made.

    Attributes:
        guidance: Half of guidance whose queries are used: "cond" (the pass with the prompt) or "uncond" (the pass with
            the negative or empty prompt). The default is "cond", if it was kept. If the run used clip-skip, words for
            "uncond" give a warning (logger `ovam`), because the pipeline applied clip-skip only to the prompt.
        blocks: The blocks to use: module paths or their beginnings ("up_blocks.1"), grid heights (16), grids
            ([(16, 24)]), or sizes relative to the finest grid ("1/4": each side is 1/4 as long). By default all blocks
            are used; "all" leaves out the blocks in a UNet's coarse "mid_block".
        steps: The steps to use: one step number, several of them, or "middle" for the middle step. By default all
            steps are used.
        keep: The axis or axes that the maps keep; the maps are averaged over all other axes. With "block" there is one
            map for each block, with "head" one for each head of each block, and with "step" one for each denoiser call.
            `AttentionMaps.kept` lists the positions on these axes.
        softmax_over: "prompt" divides the attention among the tokens of the attribution prompt, with its start and end
            tokens. "padded" divides it among all positions that the encoder reads (77 in CLIP), as the model does;
            words get less, because padding takes a part. "joint" divides it among these positions and all image pixels,
            as the model does in joint attention, which is one attention over the tokens of text and image (SD3, FLUX);
            words get even less.
        strategy: "attention" uses the attention weights of pixels over tokens. "output" compares the attention output
            of each pixel with the output of each word (`ovam.maps.output_space`); this needs joint attention and a
            capture with `outputs=True`. With "output", the values of all words at a pixel sum to 1. So a word that you
            add to a list changes the maps of the other words. Only words have maps, not tokens, and all heads of a
            block make one map.
        phrases: Phrases of a prompt that get one map each, such as phrases=["hot dog"] for "a hot dog on the grass".

    Raises:
        OptionError: a value is not allowed, or two options are not compatible.
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
                f"keep={axes!r}: expected some of {known}, but not 'block' with 'head' "
                "(every head belongs to one block: 'head' alone keeps both apart)"
            )
        if self.strategy == "output" and (self.softmax_over != "prompt" or "head" in axes):
            given = "keep='head'" if self.softmax_over == "prompt" else f"softmax_over={self.softmax_over!r}"
            raise OptionError(
                f"{given} with strategy='output', which joins all heads and has no softmax over tokens: "
                "leave the option out, or choose strategy='attention'"
            )

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The axes to keep apart."""
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
    """Check that options for joint attention are used on joint attention only.

    Raises:
        OptionError: `softmax_over` or `strategy` needs joint attention, but the keys depend on the text alone.
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


def check_at_least_two(words: Sequence[str]) -> None:
    """Check that there are at least two words; the strategy "output" needs two.

    Raises:
        OptionError: there is only one word.
    """
    if len(words) < 2:
        raise OptionError(
            f"strategy='output' for {words[0]!r} alone, which would get 1 at every pixel: expected at least two words, "
            "because their values at a pixel sum to 1; add a word for the rest of the image, such as 'background'"
        )
