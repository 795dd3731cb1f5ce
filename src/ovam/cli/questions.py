"""`ovam maps` and `ovam segment`: query a saved trace, or an image that the model encodes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ovam.cli import inputs
from ovam.cli.arguments import (
    given,
    listed_words,
    method_alone,
    refine_of,
    refuse_for_traces,
    torch_type,
    with_tokens,
    words_beside_tokens,
    words_of,
)
from ovam.cli.output_parameters import MapFormats, Overwrite
from ovam.cli.parameters import (
    AsJson,
    Beside,
    DType,
    Gains,
    Method,
    MethodWeights,
    Tokens,
    TraceModel,
    Words,
)
from ovam.cli.stages import ENCODE, MAPS, MASKS, OUTPUT, REFINE, taking, typed_as
from ovam.cli.terminal import end, message_of, running, show
from ovam.errors import OptionError


@taking(maps=MAPS)
def maps(
    trace: Annotated[Path, typer.Argument(help="A trace, such as run.safetensors.", callback=inputs.trace)],
    words: Words = None,
    attribution_prompt: Annotated[
        str | None,
        typer.Option(
            help="A text among whose words the attention is divided; --words then selects some of them.",
            callback=inputs.text,
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
    listed = words_beside_tokens(words, tokens) if attribution_prompt is None else listed_words(words)
    with running() as progress:
        from ovam.commands.maps import maps as run
        from ovam.maps.options import MapOptions

        result = run(
            trace,
            with_tokens(listed, tokens),
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
        list[str],
        typer.Argument(
            help="Traces, or image files, which the model encodes; patterns like 'photos/*.jpg' as well.",
            metavar="SOURCE",
            callback=inputs.sources,
        ),
    ],
    words: Words = None,
    tokens: Tokens = None,
    method: Method = None,
    weights: MethodWeights = None,
    gains: Gains = None,
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
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    *,
    maps: Mapping[str, Any],
    refining: Mapping[str, Any],
    masks: Mapping[str, Any],
    encoding: Mapping[str, Any],
    output: Mapping[str, Any],
) -> None:
    """Write masks and a label map of words, for saved traces or image files.

    Several files, or a pattern, get a folder each in --output-dir, and a line each in results.jsonl. Files that are
    done are skipped.
    """
    listed, sources, many = words_beside_tokens(words, tokens), inputs.expanded(source), inputs.is_many(source)
    if weights is not None and method is None:
        raise OptionError(f"weights={str(weights)!r} without a method: expected `method`, grounded or datasetdm")
    own = {**typed_as(MAPS, maps), **typed_as(REFINE, refining), **typed_as(MASKS, masks), **given(gains=gains)}
    method_alone(method, own)
    refuse_for_traces(sources, {**typed_as(ENCODE, encoding), "gains": gains, "dtype": dtype, "device": device})
    if many and output_dir is None:
        raise typer.BadParameter("expected a folder for the files of several items", param_hint="--output-dir")
    loading = given(dtype=torch_type(dtype), device=device)
    with running() as progress:
        from ovam.commands.methods import method_of
        from ovam.commands.output_options import OutputOptions
        from ovam.commands.segment import Loading, segment_file
        from ovam.commands.segment_many import segment_files
        from ovam.masks.options import SegmentOptions
        from ovam.tracing.encode_options import EncodeOptions
        from ovam.tracing.word_gains import GainOptions

        settings: dict[str, Any] = {
            "words": with_tokens(listed, tokens),
            "model": model,
            "options": None if method else SegmentOptions(**maps, **masks, **refine_of(refining)),
            "method": None if method is None else method_of(method.value, weights=weights, **masks),
            "encoding": EncodeOptions(**encoding) if encoding else None,
            "loading": Loading(**loading) if loading else None,
            "gains": GainOptions(**given(seed=encoding.get("seed"))) if gains else None,
            "output": OutputOptions(**output),
            "progress": progress,
        }
        if many and output_dir is not None:
            result = segment_files(
                sources, output_dir=output_dir, overwrite=overwrite, message_of=message_of, **settings
            )
        else:
            result = segment_file(sources[0], output_dir=output_dir, **settings)
    show(result, as_json)
    end(result)
