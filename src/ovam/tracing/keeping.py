"""What a run keeps, so that the masks that were asked for can be made."""

from dataclasses import replace
from typing import TypeVar

from ovam.errors import OptionError
from ovam.masks.options import SegmentOptions
from ovam.refine.options import refine_choice
from ovam.tracing.options import KeepOptions

Kept = TypeVar("Kept", bound=KeepOptions)


def kept_for(options: SegmentOptions, keeping: Kept) -> Kept:
    """Return what to keep of a run so that masks can be made with these options.

    Raises:
        OptionError: the maps are to be refined, but no self-attention is to be kept.
    """
    refines = refine_choice(options.refine) is not None
    if refines and keeping.self_attention is False:
        raise OptionError(
            "self_attention=False with refine=True, which needs the run's self-attention: expected self_attention=True "
            "with refine=True, or neither"
        )
    whole_of_it = refines and keeping.self_attention is None
    return replace(
        keeping,
        outputs=keeping.outputs or options.strategy == "output",
        self_attention=True if whole_of_it else keeping.self_attention,
    )
