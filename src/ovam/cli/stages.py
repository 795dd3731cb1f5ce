"""Tables of the options of each stage, and a decorator that adds them to commands.

To add an option to a stage, add a row: its field in the options object, its parameter, and its converter. A command
names its stages and gets one mapping per stage, with the options that were given.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from ovam.cli import mask_parameters, output_parameters, parameters
from ovam.cli.arguments import blocks_of, steps_of, torch_type, words_of


@dataclass(frozen=True)
class Row:
    """An option of a stage.

    Attributes:
        typed: Annotation of the command's parameter, with its help.
        read: Converts the typed value to the options object's value; None keeps it.
        name: Name of the parameter, if it differs from the object's field.
    """

    typed: Any
    read: Callable[[Any], Any] | None = None
    name: str | None = None


_WHERE = {"blocks": Row(parameters.Blocks, blocks_of), "steps": Row(parameters.KeptSteps, steps_of)}
MAPS = {**_WHERE, "strategy": Row(parameters.ByStrategy)}
REFINE = {
    "refine": Row(mask_parameters.Refine),
    "method": Row(mask_parameters.RefineMethod, name="refine_method"),
    "products": Row(mask_parameters.Products),
}
MASKS = {
    "against": Row(parameters.Against, words_of),
    "threshold": Row(mask_parameters.Threshold),
    "presence": Row(mask_parameters.Presence),
    "crf": Row(mask_parameters.Crf),
    "ignore": Row(mask_parameters.Undecided),
    "min_area": Row(mask_parameters.MinArea),
    "max_hole": Row(mask_parameters.MaxHole),
}
KEEP = {
    "dtype": Row(parameters.Stored, torch_type, name="capture_dtype"),
    "limit_gib": Row(parameters.LimitGib),
    "outputs": Row(parameters.Outputs),
    "self_attention": Row(mask_parameters.SelfAttention),
    "self_attention_every": Row(mask_parameters.SelfAttentionEvery),
}
OUTPUT = {
    "formats": Row(output_parameters.Formats, words_of),
    "instances": Row(output_parameters.Instances),
    "split": Row(output_parameters.Split),
}
CAPTURE = {**_WHERE, **KEEP, "preset": Row(parameters.Preset), "disk": Row(parameters.Disk)}
ENCODE = {
    "prompt": Row(parameters.EncodePrompt),
    "method": Row(parameters.Encoding, name="encode_method"),
    "timesteps": Row(parameters.TimeSteps, functools.partial(steps_of, option="--timesteps")),
    "seed": Row(parameters.EncodeSeed),
    **KEEP,
}
FIT = {
    "against": Row(parameters.FitAgainst, words_of),
    "ignore": Row(parameters.Ignore),
    "mask_threshold": Row(parameters.MaskThreshold),
    "mask_colour": Row(parameters.MaskColour),
    **_WHERE,
    "rows": Row(parameters.Rows),
    "evaluations": Row(parameters.Evaluations),
    "pull": Row(parameters.Pull),
    "licence": Row(parameters.Licence),
}


def taking(**stages: Mapping[str, Row]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the options of stages to a command, which gets one mapping per stage with the options that were given.

    The parameters' own checks and `read` run before the command.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        parts = dict(inspect.signature(command).parameters)
        rows = {
            field if row.name is None else row.name: row.typed
            for table in stages.values()
            for field, row in table.items()
        }

        @functools.wraps(command)
        def taken(**typed: Any) -> None:
            found = {stage: _given(table, typed) for stage, table in stages.items()}
            command(**{name: value for name, value in typed.items() if name not in rows}, **found)

        own = [part.replace(annotation=hints[name]) for name, part in parts.items() if name not in stages]
        last = [part for part in own if part.name == "as_json"]
        added = [
            inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=typed)
            for name, typed in rows.items()
        ]
        parameters_ = [*(part for part in own if part not in last), *added, *last]
        taken.__signature__ = inspect.Signature(parameters_)  # type: ignore[attr-defined]
        taken.__annotations__ = {part.name: part.annotation for part in parameters_}
        return taken

    return decorate


def _given(table: Mapping[str, Row], typed: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for field, row in table.items():
        value = typed[field if row.name is None else row.name]
        if value is not None:
            found[field] = value if row.read is None else row.read(value)
    return found


def typed_as(table: Mapping[str, Row], found: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stage's given options by the names of the command's parameters, for messages."""
    return {table[field].name or field: value for field, value in found.items()}
