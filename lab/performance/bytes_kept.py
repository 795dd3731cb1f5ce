"""What a trace weighs, in memory and on disk, against the queries alone."""

import tempfile
from pathlib import Path
from typing import Any

from lab.performance.capture_overhead import FULL_SIZE_STEPS, MINI_STEPS
from lab.performance.models import PROMPT, Model, full_size, mini
from lab.performance.options import Options


def run(options: Options) -> dict[str, Any]:
    """Weigh a trace of each model; a quick run leaves the large one out."""
    model = mini(4 if options.quick else MINI_STEPS)
    weighed = {"mini": {"skipped": "the embedded model is not trained yet"}}
    if model is not None:
        weighed["mini"] = _weigh(model)
    if options.quick:
        weighed["full_size"] = {"skipped": "left out of quick runs"}
    else:
        weighed["full_size"] = _weigh(full_size(FULL_SIZE_STEPS))
    return {"models": weighed, "prompt": PROMPT, "seed": 0}


def _weigh(model: Model) -> dict[str, Any]:
    from ovam import capture
    from ovam.trace.quantised import floats
    from ovam.trace.static_text import StaticText

    with capture(model.pipe) as traces:
        model.run()
    trace = traces[0]
    queries = [floats(query) for block in trace.blocks.values() for query in block.query.values()]  # no copies
    assert isinstance(trace.text, StaticText)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.safetensors"
        trace.save(file)
        on_disk = file.stat().st_size
    return {
        "model": model.name,
        "weights": model.weights,
        "steps": len(trace.calls),
        "dtype": str(queries[0].dtype).removeprefix("torch."),
        "query_bytes": sum(query.numel() * query.element_size() for query in queries),
        "memory_bytes": {
            "queries": sum({query.data_ptr(): query.untyped_storage().nbytes() for query in queries}.values()),
            "key_projections": sum(projection.nbytes for projection in trace.text.projections.values()),
            "picture": len(trace.image_png or b""),
        },
        "file_bytes": on_disk,
    }
