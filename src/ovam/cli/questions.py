"""`ovam maps` and `ovam segment`: query a saved trace, or an image that the model encodes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ovam.cli import inputs
from ovam.cli.arguments import (
    asked_of,
    given,
    listed_words,
    refine_of,
    refuse_for_trace,
    torch_type,
    with_tokens,
    words_of,
)
from ovam.cli.output_parameters import MapFormats
from ovam.cli.parameters import (
    AsJson,
    Beside,
    DType,
    Tokens,
    TraceModel,
    Words,
)
from ovam.cli.stages import ENCODE, MAPS, MASKS, OUTPUT, REFINE, taking, typed_as
from ovam.cli.terminal import running, show


@taking(maps=MAPS)
def maps(
    trace: Annotated[Path, typer.Argument(help="A trace, such as run.safetensors.", callback=inputs.trace)],
    words: Words = None,
    attribution_prompt: Annotated[
        str | None,
        typer.Option(
            help="A text whose words share the attention; --words then selects some of them.", callback=inputs.text
        ),
    ] = None,
    tokens: Tokens = None,
    output_dir: Beside = None,
    model: TraceModel = None,
    formats: MapFormats = None,
    as_json: AsJson = False,
    *,
    maps: Mapping[str, Any],
) -> None:
    """Write the attention maps of words from a saved trace, without running the model."""
    asked = asked_of(words, tokens) if attribution_prompt is None else listed_words(words)
    with running() as progress:
        from ovam.commands.ask import maps as run
        from ovam.maps.options import MapOptions

        result = run(
            trace,
            with_tokens(asked, tokens),
            attribution_prompt=attribution_prompt,
            output_dir=output_dir,
            model=model,
            options=MapOptions(**maps),
            **given(formats=None if formats is None else words_of(formats)),
            progress=progress,
        )
    show(result, as_json)


@taking(maps=MAPS, refining=REFINE, masks=MASKS, encoding=ENCODE, output=OUTPUT)
def segment(
    source: Annotated[
        Path, typer.Argument(help="A trace, or an image file, which the model encodes.", callback=inputs.source)
    ],
    words: Words = None,
    tokens: Tokens = None,
    output_dir: Beside = None,
    model: TraceModel = None,
    dtype: Annotated[
        DType | None, typer.Option(help="Type of the model's weights, for an image.", show_default="float32")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="Device of the model, for an image: cpu, cuda, cuda:1.", show_default="cpu", callback=inputs.device
        ),
    ] = None,
    as_json: AsJson = False,
    *,
    maps: Mapping[str, Any],
    refining: Mapping[str, Any],
    masks: Mapping[str, Any],
    encoding: Mapping[str, Any],
    output: Mapping[str, Any],
) -> None:
    """Write masks and a label map of words, for a saved trace or an image file."""
    asked = asked_of(words, tokens)
    refuse_for_trace(source, {**typed_as(ENCODE, encoding), "dtype": dtype, "device": device})
    loading = given(dtype=torch_type(dtype), device=device)
    with running() as progress:
        from ovam.commands.ask import Loading
        from ovam.commands.ask import segment_file as run
        from ovam.commands.output_options import OutputOptions
        from ovam.masks.options import SegmentOptions
        from ovam.tracing.encode_options import EncodeOptions

        result = run(
            source,
            with_tokens(asked, tokens),
            output_dir=output_dir,
            model=model,
            options=SegmentOptions(**maps, **masks, **refine_of(refining)),
            encoding=EncodeOptions(**encoding) if encoding else None,
            loading=Loading(**loading) if loading else None,
            output=OutputOptions(**output),
            progress=progress,
        )
    show(result, as_json)
