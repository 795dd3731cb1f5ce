"""Write the maps of words from a saved trace, without running the denoiser."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ovam import __version__
from ovam.commands import Progress, no_progress
from ovam.commands.output_options import MAP_FORMATS, known_formats
from ovam.commands.trace_file import beside, open_trace
from ovam.commands.write_results import notes_of, write_maps
from ovam.errors import OptionError
from ovam.maps.compute import attention_maps
from ovam.maps.options import MapOptions
from ovam.maps.words import OptimisedTokens, entries_of, names_of, optimised_in
from ovam.output_files import write_json
from ovam.output_folders import check_folder
from ovam.run_folder import RECORD, run_folder


def maps(
    trace_file: str | Path,
    words: Sequence[str | OptimisedTokens] = (),
    *,
    attribution_prompt: str | None = None,
    output_dir: str | Path | None = None,
    model: str | Path | None = None,
    options: MapOptions | None = None,
    formats: Sequence[str] = ("png",),
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Write the attention maps of words from a saved trace, without running the denoiser.

    The denoiser is loaded only if the file refers to its key projections or the model is given by an id.

    Args:
        trace_file: A file that `ovam.Trace.save` or `generate` wrote.
        words: Words and phrases, each a separate attribution prompt, and optimised tokens.
        attribution_prompt: A text for which maps are made: the attention is divided among its tokens. Then `words`
            select some of its words; with none, all of them get maps.
        output_dir: Folder for `maps/`, `sheet.png` and `result.json`; by default `<file>-maps` next to the file.
        model: The model that the trace was made with, for its text encoder: "mini", a folder, or an id. It may be
            left out only if the file names mini, since a file alone never causes another model to be loaded.
        options: As in `Trace.maps`.
        formats: Files of the maps: "png", or "npy" for `maps.npy`, (word, grid height, grid width), or both.
        progress: Called with the progress of the work.

    Returns:
        The content of `result.json`; file names are relative to `output_dir`.

    Raises:
        TraceFileError: the file is no trace, damaged or newer.
        ModelNotFoundError: the text encoder is not available.
        The errors of `Trace.maps`.
    """
    begun, formats = time.monotonic(), known_formats(formats, MAP_FORMATS)
    path, options = Path(trace_file), options or MapOptions()
    if attribution_prompt is None:
        entries_of(words)
    elif optimised_in(list(words)):
        raise OptionError(
            "optimised tokens were given together with an attribution prompt, but only the prompt's words share the "
            "attention: expected one of the two; query the tokens alone"
        )
    folder = check_folder(beside(path, "maps") if output_dir is None else output_dir)
    trace = open_trace(path, model, progress)
    word_maps = attention_maps(trace, attribution_prompt or list(words), options)
    if attribution_prompt and words:
        word_maps = word_maps.only(names_of(words))
    progress("maps", 0, 0)
    with run_folder(folder) as room:
        result = {
            "command": "maps",
            "version": __version__,
            "source": str(path),
            "model": trace.source.model,
            "prompt": trace.source.prompt,
            "attribution_prompt": attribution_prompt,
            "strategy": options.strategy,
            **notes_of(trace.select(blocks=options.blocks, steps=options.steps), words),
            "output_dir": str(folder),
            **write_maps(trace, word_maps, room, formats),
            "seconds": round(time.monotonic() - begun, 2),
        }
        write_json(room / RECORD, result)
    return result
