"""The report as a page of Markdown, which is readable alone."""

from collections.abc import Mapping, Sequence
from typing import Any


def page(result: Mapping[str, Any]) -> str:
    """Write the page of a result."""
    figures, settings = result["figures"], result["settings"]
    parts = [
        f"# {settings['arch']}: mIoU {_text(figures['miou'])}",
        f"{result['model']} with {result['parameters'] / 1e6:.1f} million parameters, trained for {result['steps']} "
        f"steps on {result['device']} in {result['seconds'] / 60:.1f} minutes. The model in this folder is that of "
        f"step {result['best_step']}, whose mIoU of the validation pictures was highest.",
        "```python\nfrom ovam.train import load\n\nlabels = load('this folder')('photo.png')  # class ids, at the "
        "photo's size; transformers loads the folder as well\n```",
        "## Figures\n\n"
        + _table(("figure", "value"), [(name.replace("_", " "), _text(value)) for name, value in figures.items()])
        + "\n\nIoU is pooled over all validation pictures; ignored pixels are left out. Validation pictures chose the "
        "step, so expect a little less on other pictures.",
        "## Data\n\n" + _records(result["data"]),
        "## Classes\n\n" + _records(result["classes"]),
        "## Curves\n\n![Loss and mIoU by step](curves.png)",
        "## Pictures\n\nThose with the highest mIoU, around the median, and with the lowest; chosen by rule, not by "
        "hand. Ignored pixels are white.\n\n![Pictures with true and predicted labels](cases.png)\n\n"
        + _records(result["cases"]),
        "## How it was made\n\n"
        + _table(("option", "value"), [(name, _text(value)) for name, value in settings.items() if name != "data"])
        + "\n\n"
        + ", ".join(f"{name} {version}" for name, version in result["versions"].items())
        + f", ovam {result['version']}. Numbers of this page: `result.json`.",
    ]
    return "\n\n".join(parts) + "\n"


def _records(records: Sequence[Mapping[str, Any]]) -> str:
    if not records:
        return "none"
    return _table(
        [name.replace("_", " ") for name in records[0]], [[_text(value) for value in each.values()] for each in records]
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in each) + " |" for each in lines)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    if value is None:
        return "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
