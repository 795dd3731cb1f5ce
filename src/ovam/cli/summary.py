"""Print a command's result: tables of plain text for people, or the whole result as JSON."""

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ovam.cli.dataset_summary import dataset_shown
from ovam.cli.printing import printing, write_json
from ovam.cli.tables import facts_table, line, table, value_text
from ovam.cli.token_summary import tokens_shown
from ovam.model_names import MINI

_WIDE = 140  # columns if there is no terminal
_BORDER = 0.5  # of presence: a word with less is rather not in the picture
_FORMED = 20  # steps that most models need to form a picture


def show(result: Mapping[str, Any], *, as_json: bool, details: bool = False, seconds: float = 0.0) -> None:
    """Print a result.

    Args:
        result: The command's result.
        as_json: Print the whole result as JSON, instead of tables with the main facts.
        details: Print more tables, if the command has them.
        seconds: Seconds of the whole command; unlike the result's own, they include the loading of libraries.

    Raises:
        OvamError: standard output is closed or full.
    """
    with printing(made=result.get("output_dir") or result.get("output")):
        if as_json:
            write_json(result)
            return
        console = Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False)
        for part in _parts(result, details):
            console.print(part)
        if "seconds" in result:
            console.print(line(f"{seconds:.1f} seconds"))


def _parts(result: Mapping[str, Any], details: bool) -> list[Table | Text]:
    if str(result.get("command", "")).startswith("dataset "):
        return dataset_shown(result)
    kind = "batch" if "skipped" in result else result.get("command")
    kinds: dict[str, Callable[[Mapping[str, Any]], list[Table | Text]]] = {
        "batch": _batch,
        "generate": _generated,
        "maps": _answered,
        "segment": _answered,
        "demo": _shown,
        "evaluate": _evaluated,
        "train": _trained,
        "plan": _plan,
        "verify": _verified,
    }
    if kind in kinds:
        return kinds[kind](result)
    if "groups" in result:
        return tokens_shown(result, details)
    if "header" in result:
        return _trace(result)
    return facts_table(result)


def _shown(result: Mapping[str, Any]) -> list[Table | Text]:
    later = result["maps"]
    heading = line("one more word, from the saved trace, without running the model:")
    return [*_images(result["generate"]), heading, *_answers(later, Path(later["output_dir"]))]


def _generated(result: Mapping[str, Any]) -> list[Table | Text]:
    return [*_images(result), *_hints(result)]


def _images(result: Mapping[str, Any]) -> list[Table | Text]:
    parts: list[Table | Text] = []
    for image in result["images"]:
        folder = Path(result["output_dir"]) / image["folder"]
        size = " x ".join(map(str, image["size"]))
        parts.append(line(f"{result['prompt']} (model {result['model']}, seed {image['seed']}, {size} pixels)"))
        parts += _answers(image, folder)
    return parts


def _answered(result: Mapping[str, Any]) -> list[Table | Text]:
    size = result.get("working_size")  # only for an image
    looked = f", encoded at {' x '.join(map(str, size))} pixels" if size else ""
    head = line(f"{result['source']} (model {result['model']}{looked})")
    return [head, *_answers(result, Path(result["output_dir"])), *(_hints(result) if looked else [])]


def _batch(result: Mapping[str, Any]) -> list[Table | Text]:
    """Return the numbers of items, and a table of those that failed."""
    numbers = (("made", result["made"]), ("skipped, as they are done", result["skipped"]), ("failed", result["failed"]))
    counts = ", ".join(f"{number} {what}" for what, number in numbers if number or what == "made")
    rows = [[one["source"], one["error"]] for one in result["failures"]]
    failed = [table(("failed", "error"), rows)] if rows else []
    return [
        line(f"{result['items']} items: {counts}"),
        *failed,
        line(f"in {result['output_dir']}: {result['results']}"),
    ]


def _hints(result: Mapping[str, Any]) -> list[Table | Text]:
    """Return hints for somebody who uses the command for the first time."""
    hints = []
    image = next(iter(result.get("images", ())), None)
    if image is not None and not image["words"] and "trace" in image["files"]:
        trace = Path(result["output_dir"]) / image["folder"] / image["files"]["trace"]
        hints.append(f'query it with words at any time: ovam maps {shlex.quote(str(trace))} --words "..."')
    if result["model"] == MINI:
        hints.append(
            "mini is a small model to try things with; it knows drawn scenes of 20 things, not photographs. "
            "--model takes another model's folder or id"
        )
    return [line(hint) for hint in hints]


def _answers(answers: Mapping[str, Any], folder: Path) -> list[Table | Text]:
    files = line(f"in {folder}: {', '.join(answers['files'].values())}")
    if not answers["words"]:
        return [files]
    columns = [name for name in ("presence", "share", "map", "mask") if name in answers["words"][0]]
    rows = [[word["word"], *(_cell(name, word[name]) for name in columns)] for word in answers["words"]]
    return [table(("word", *columns), rows), *_objects(answers.get("instances", ())), files]


def _objects(objects: Sequence[Mapping[str, Any]]) -> list[Table | Text]:
    """Return a table of the objects, if they are listed."""
    rows = [
        [one["word"], "{}, {}, {} x {}".format(*one["box_xywh"]), str(one["area"]), f"{one['score']:.2f}"]
        for one in objects
    ]
    return [table(("object", "x, y, width x height", "pixels", "score"), rows)] if rows else []


def _cell(name: str, value: Any) -> str:
    if name == "presence" and value < _BORDER:
        return f"{value:.2f}, not seen"
    return {"presence": "{:.2f}", "share": "{:.0%}"}.get(name, "{}").format(value)


def _evaluated(result: Mapping[str, Any]) -> list[Table | Text]:
    facts = {name: value for name, value in result.items() if name != "figures" and value not in (None, [])}
    return facts_table(facts | result["figures"])


def _trained(result: Mapping[str, Any]) -> list[Table | Text]:
    facts = {name: result[name] for name in ("model", "parameters", "device", "steps", "best_step")} | result["figures"]
    files = line(f"in {result['output_dir']}: {', '.join(result['files'].values())}")
    return [*facts_table(facts | {"data": result["data"], "classes": result["classes"]}), files]


def _plan(result: Mapping[str, Any]) -> list[Table | Text]:
    parts = list(dict.fromkeys(part for block in result["blocks"] for part in block["parts"]))
    rows = [
        [block["name"], "x".join(map(str, block["grid"])), *(f"{block['parts'].get(p, 0) / 2**20:.2f}" for p in parts)]
        for block in result["blocks"]
    ]
    size = "x".join(map(str, result["size"]))
    total = f"{result['pipeline']}, {size} pixels, {result['calls']} denoiser calls: {result['bytes'] / 2**30:.3f} GiB"
    return [table(("block", "grid", *(f"{part}, MiB" for part in parts)), rows), line(total)]


def _verified(result: Mapping[str, Any]) -> list[Table | Text]:
    checks = [
        [name.replace("_", " "), "passed" if each["passed"] else f"failed: {each['message']}", f"{each['seconds']:.1f}"]
        for name, each in result["checks"].items()
    ]
    words = [[thing, f"{each['own']:.3f}", f"{each['absent']:.3f}"] for thing, each in result["words"].items()]
    facts = {name: value for name, value in result.items() if name not in ("checks", "words")}
    highest = table(("drawn", "own map, highest", "absent word's, highest"), words)
    return [*facts_table(facts), table(("check", "", "seconds"), checks), highest, *_of_words(result)]


def _of_words(result: Mapping[str, Any]) -> list[Table | Text]:
    """Return an explanation of the words' numbers, which do not decide the result."""
    lower = [thing for thing, each in result["words"].items() if each["own"] <= each["absent"]]
    steps = result["num_inference_steps"]
    sentences = [
        "only the checks can pass or fail. The last table shows whether pictures and words go together: a thing "
        "that was drawn should reach a higher value than a word for something absent"
    ]
    if lower:
        sentences.append(
            f"this is not so for {', '.join(lower)}: "
            + (
                f"after {steps} steps pictures are hardly formed; try --num-inference-steps 20 or more"
                if steps < _FORMED
                else "the model may not know the thing, or may have drawn something else"
            )
        )
    return [line(each) for each in sentences]


def _trace(result: Mapping[str, Any]) -> list[Table | Text]:
    """Return tables of a trace's header, which may come from anywhere: any part of it may be missing or wrong."""
    header = result["header"]
    source, calls, blocks = (header.get(name) or {} for name in ("source", "calls", "blocks"))
    facts = {
        "file": f"{result['file']}, {result['bytes'] / 2**20:.1f} MiB, format {header.get('format_version')}",
        "size": header.get("size"),
        "halves": header.get("halves"),
        "stored in": header.get("dtype"),
        "denoiser calls": len(calls),
        "timesteps": [_of(call, "timestep") for call in calls],
        **(source if isinstance(source, Mapping) else {"source": source}),
        **{f"text {name}": value for name, value in dict(header.get("text") or {}).items()},
    }
    rows = [[value_text(_of(block, name)) for name in ("name", "grid", "heads")] for block in blocks]
    return [*facts_table(facts), table(("block", "grid", "heads"), rows)]


def _of(entry: Any, name: str) -> Any:
    return entry.get(name) if isinstance(entry, Mapping) else None
