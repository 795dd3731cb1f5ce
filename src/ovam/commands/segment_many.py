"""Segment many traces and images, each in a folder of its own, and go on where an earlier run stopped."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ovam import __version__
from ovam.commands import Progress, no_progress
from ovam.commands.batch import Item, batch_of, run_batch
from ovam.commands.generate import pipeline
from ovam.commands.methods import facts_of_method, kept_by, state_of_weights
from ovam.commands.output_options import OutputOptions
from ovam.commands.requests import request_of, state_of
from ovam.commands.segment import Loading, check_asked, segment_file
from ovam.commands.trace_file import is_trace
from ovam.errors import OvamError
from ovam.maps.words import Listed, entries_of
from ovam.masks.options import SegmentOptions
from ovam.methods.base import Method
from ovam.models import MINI
from ovam.output_files import safe_names
from ovam.output_folders import check_folder
from ovam.trace.file import read_header
from ovam.tracing.encode_options import EncodeOptions
from ovam.tracing.keeping import kept_for
from ovam.tracing.word_gains import GainOptions

_GENERATED = ("run.safetensors", "image.png")
"""Names that files of `generate` have in every folder."""


def segment_files(
    sources: Sequence[str | Path],
    words: Listed,
    *,
    output_dir: str | Path,
    model: str | Path | None = None,
    options: SegmentOptions | None = None,
    method: Method | None = None,
    encoding: EncodeOptions | None = None,
    loading: Loading | None = None,
    gains: GainOptions | None = None,
    output: OutputOptions | None = None,
    overwrite: bool = False,
    message_of: Callable[[Exception], str] = str,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Segment each file in a folder of its own, as `segment_file` does; each model is loaded once.

    Args:
        sources: Traces and images.
        words: As in `segment_file`.
        output_dir: Folder for the items and `results.jsonl`; see `ovam.commands.batch`. An item's folder is named after
            its file. For `run.safetensors` and `image.png`, which `generate` writes, it is named after the folder that
            the file is in.
        model: As in `segment_file`.
        options: As in `Trace.segment`.
        method: As in `segment_file`.
        encoding: For images.
        loading: For images.
        gains: For images, as in `segment_file`.
        output: Which files to write; by default the pictures.
        overwrite: Whether to make items again that are done.
        message_of: Returns an error's message.
        progress: Called with the progress of the work.

    Returns:
        What `run_batch` returns, and the command.

    Raises:
        EmptyWordsError, OptionError: words or options can't be used, or two files would have the same folder.
        ModelNotFoundError, UnsupportedPipelineError: the model can't be loaded or is not supported.
    """
    options, output = options or SegmentOptions(), output or OutputOptions()
    check_asked(words, options, method, gains)
    kept_for(options, encoding or EncodeOptions())
    shared = {"command": "segment", "words": entries_of(words), "options": options, "output": output, "model": model}
    if method is not None:
        kept_by(method, encoding or EncodeOptions())
        shared["method"] = {**facts_of_method(method), "state": state_of_weights(method)}
    of_images = {"encoding": encoding or EncodeOptions(), "loading": loading or Loading(), "gains": gains}
    paths, items = dict[str, Path](), []
    for path in map(Path, sources):
        own = {} if is_trace(path) else of_images
        request = request_of(source=path, state=state_of(path), **shared, **own)
        items.append(Item(name=_name_of(path), source=str(path), request=request))
        paths[items[-1].name] = path
    batch = batch_of(items, check_folder(output_dir), overwrite=overwrite)

    @functools.cache
    def loaded(name: str | Path, how: Loading) -> Any:
        return pipeline(name, dtype=how.dtype, device=how.device, progress=progress)

    def model_of(path: Path) -> Any:
        """Return the model that a file needs, loaded, or None for a trace that names no model that may be loaded."""
        if not is_trace(path):
            return loaded(MINI if model is None else model, loading or Loading())
        named = MINI if model is None and _names_mini(path) else model
        return None if named is None else loaded(named, Loading())

    def make(item: Item, place: Path, progress: Progress) -> Mapping[str, Any]:
        path = paths[item.name]
        own: dict[str, Any] = {} if is_trace(path) else {"encoding": encoding, "loading": loading, "gains": gains}
        return segment_file(
            path,
            words,
            output_dir=place,
            model=model_of(path),
            options=options,
            method=method,
            output=output,
            request=item.request,
            progress=progress,
            **own,
        )

    for item in batch.waiting:  # a model that can't be loaded is no error of each item
        model_of(paths[item.name])
    result = run_batch(batch, make, progress, unit="files", message_of=message_of)
    return {"command": "segment", "version": __version__, **result}


def _name_of(path: Path) -> str:
    """Return the name of a file's output folder."""
    return safe_names([path.absolute().parent.name if path.name in _GENERATED else path.stem])[0]


def _names_mini(path: Path) -> bool:
    """Whether a trace names mini as its model; a damaged file does not."""
    try:
        source = read_header(path).get("source")
    except OvamError:
        return False
    return isinstance(source, dict) and source.get("model") == MINI
