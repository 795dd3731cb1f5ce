"""`ovam maps` and `ovam segment`: ask a saved trace, or an image that the model looks at."""

from pathlib import Path
from typing import Annotated

import typer

from ovam.cli import inputs
from ovam.cli.arguments import (
    asked_of,
    blocks_of,
    given,
    listed_words,
    refuse_for_trace,
    steps_of,
    torch_type,
    with_tokens,
    words_of,
)
from ovam.cli.parameters import (
    Against,
    AsJson,
    Beside,
    Blocks,
    ByStrategy,
    DType,
    EncodeMethod,
    EncodeSeed,
    KeptSteps,
    Storage,
    Threshold,
    Tokens,
    TraceModel,
    Words,
)
from ovam.cli.terminal import running, show


def maps(
    trace: Annotated[Path, typer.Argument(help="A trace, such as run.safetensors.", callback=inputs.trace)],
    words: Words = None,
    attribution_prompt: Annotated[
        str | None,
        typer.Option(
            help="A text whose words share the attention; --words then picks some of them.", callback=inputs.text
        ),
    ] = None,
    tokens: Tokens = None,
    output_dir: Beside = None,
    model: TraceModel = None,
    blocks: Blocks = None,
    steps: KeptSteps = None,
    strategy: ByStrategy = None,
    as_json: AsJson = False,
) -> None:
    """Answer from a saved trace, without running the model."""
    asked = asked_of(words, tokens) if attribution_prompt is None else listed_words(words)
    kept = given(blocks=blocks_of(blocks), steps=steps_of(steps), strategy=strategy)
    with running() as progress:
        from ovam.commands.ask import maps as run
        from ovam.maps.options import MapOptions

        result = run(
            trace,
            with_tokens(asked, tokens),
            attribution_prompt=attribution_prompt,
            output_dir=output_dir,
            model=model,
            options=MapOptions(**kept),
            progress=progress,
        )
    show(result, as_json)


def segment(
    source: Annotated[
        Path, typer.Argument(help="A trace, or an image file, which the model then looks at.", callback=inputs.source)
    ],
    words: Words = None,
    tokens: Tokens = None,
    against: Against = "",
    threshold: Threshold = None,
    strategy: ByStrategy = None,
    output_dir: Beside = None,
    model: TraceModel = None,
    prompt: Annotated[
        str | None,
        typer.Option(help="What the model is told of an image; nothing by default.", callback=inputs.text),
    ] = None,
    method: Annotated[
        EncodeMethod | None, typer.Option(help="What the model looks at of an image.", show_default="noise")
    ] = None,
    timesteps: Annotated[
        str | None,
        typer.Option(
            help="Time steps at which it looks, 0 to 999, by commas.", show_default="50 to 650", callback=inputs.text
        ),
    ] = None,
    seed: EncodeSeed = None,
    dtype: Annotated[
        DType | None, typer.Option(help="Type of the model's weights, for an image.", show_default="float32")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="Where the model runs, for an image: cpu, cuda, cuda:1.", show_default="cpu", callback=inputs.device
        ),
    ] = None,
    blocks: Blocks = None,
    steps: KeptSteps = None,
    storage: Annotated[
        Storage | None, typer.Option(help="Type that queries of an image are kept in.", show_default="float16")
    ] = None,
    limit_gib: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1_000_000,
            help="Most GiB of queries to keep of an image; by default 80 % of the free memory.",
            metavar="<float>",
            callback=inputs.finite,
        ),
    ] = None,
    outputs: Annotated[
        bool | None,
        typer.Option("--outputs", help="Keep attention outputs of an image as well (SD3, FLUX).", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write masks and a label map of words, for a saved trace or an image file."""
    looks, asked = steps_of(timesteps, "--timesteps"), asked_of(words, tokens)
    looking = given(
        prompt=prompt,
        method=None if method is None else method.value,
        timesteps=looks,
        seed=seed,
        limit_gib=limit_gib,
        outputs=outputs,
    )
    refuse_for_trace(source, **looking, **given(dtype=dtype, device=device, storage=storage))
    running_on = given(dtype=torch_type(dtype), device=device)
    kept = given(blocks=blocks_of(blocks), steps=steps_of(steps), threshold=threshold, strategy=strategy)
    with running() as progress:
        from ovam.commands.ask import Loading
        from ovam.commands.ask import segment_file as run
        from ovam.masks.options import SegmentOptions
        from ovam.tracing.encode_options import EncodeOptions

        result = run(
            source,
            with_tokens(asked, tokens),
            output_dir=output_dir,
            model=model,
            options=SegmentOptions(**kept, against=words_of(against)),
            encoding=EncodeOptions(**looking, dtype=torch_type(storage)) if looking or storage else None,
            loading=Loading(**running_on) if running_on else None,
            progress=progress,
        )
    show(result, as_json)
