"""docs/performance.md, written from the JSON of the measurements: every word of it comes from here."""

from collections.abc import Mapping, Sequence
from typing import Any

from lab.markdown import table
from lab.measure import Ratio
from lab.performance import report_dataset, report_refinement, report_tokens
from lab.performance.report_tokens import verdict
from lab.performance.tokens import STORED, USUAL
from ovam.tokens.options import AGAINST, PHRASES

Result = Mapping[str, Any]
CAPTURE_GOAL, SPEED_GOAL, MEMORY_GOAL, FLOOR_GOAL = 1.02, 8.0, 0.1, 3.0
ERROR_GOAL, INT8_GOAL, SMALL_GOAL = 0.02, 0.005, 0.01
ITERATION_GOAL = 1.5

HEAD = """# Performance

See how much time capture and maps take, how large a trace is, and how long the fit of a token takes. `make bench`
measures all of it and writes this page, with a JSON file for every section that has each single time.
`make bench PEER=folder` also measures the code of the paper's authors, a checkout of
[vpulab/ovam](https://github.com/vpulab/ovam) in that folder.

A speed is a ratio of two programs that took turns in one run, so that other load on the machine affects both. The table
gives the median over the pairs of times, and in brackets its 95 % bootstrap interval. Absolute times hold for this
machine only.
"""

CAPTURE = """## Capture over the plain pipeline

The time of the whole pipeline call inside `with capture(pipe)`, with float16 storage and default blocks, divided by the
time of the same call without it. Both run in turn, in one process whose memory allocator has fixed thresholds; with
glibc's defaults, a plain run would be faster because it gets the memory that the captured run before it freed. The
large models have random weights, which does not change the time. They run in the case in which a capture costs most:
without guidance, so that the denoiser does half of the usual work for the same queries; and for one step only, so that
work that a capture does once a run is not shared by many steps. Goal: at most 1.02x. For comparison: the authors' code
1.006x, attention-map-diffusers 1.0.0 1.22x; earlier work measured these once on another machine, and they were not
measured here.
"""

ADDED = """The time that a capture adds on tiny random pipelines, in which the rest takes little time: the median
difference of {pairs} pairs of runs with {calls} denoiser calls, for each call and for each kept block. Work that is
done once a run is included.
"""

BYTES = """## Bytes kept

The bytes of a trace, divided by those of its queries (pixels x channels x storage type, summed over blocks and denoiser
calls). The other parts do not grow with the number of steps: the key projections with the weights of the run, which
late words need (in the file if they take at most 32 MiB, otherwise the file refers to the model); the picture as PNG;
and the header. The last column is calculated, for the same trace with 50 steps.
"""

STORAGE = """## Storage types

How much maps and masks get worse with smaller types, on rendered scenes with exact masks. There are {scenes} test
scenes, each encoded once with the empty prompt and then rounded, with {things} things; for each thing a map of its
class word is made, in the prompt "a photograph of a ...". The IoU is pooled over a class's things, and the mean is
taken over classes. Maps are stretched to [0, 1] and cut at {threshold:g}, which was chosen for float32 on {chosen}
validation scenes. A map's error is its largest difference from the float32 map, divided by the range of the float32
map. The loss is float32's mIoU minus the row's, with its 95 % bootstrap interval over classes and things.
"""

MAPS = """## Maps from stored queries

`attention_maps` for 8 and 77 tokens from synthetic queries of SD 1.5's size: five blocks each of 64x64, 32x32 and 16x16
pixels, 8 heads, {steps} denoiser calls, {megabytes:.0f} MB in float32. The floor is the time that `torch.sum` takes to
read the same bytes once in the same run; float16 queries have their own floor, with half as many bytes. Each program
holds the queries in its own layout in its own process, and the processes take turns. Peak memory is the memory that one
computation of maps adds at most to a new process that holds the queries.
"""

ITERATION = """## One iteration of a token's fit

The loss of one class and its gradient, on the same synthetic queries: {steps} denoiser calls, {megabytes:.0f} MB in
float32. The floor is the time `torch.sum` takes to read the same bytes twice, once for the maps and once for the
gradient; float16 queries have their own floor. The authors' iteration is one of their own optimiser, with the loss at
the image's size, and a step of gradient descent, which takes almost no time. The number of iterations of a fit is not
compared here.
"""

LAYOUT = """## Order of a trace's axes

The time with step-major storage, the order in which queries arrive, divided by the time with head-major storage, which
a trace uses ([decision 0002](decisions/0002-trace-layout.md)). The queries are the same synthetic ones. *Store* copies
a run's queries call by call into new storage; *maps* makes maps of 8 tokens; *read* is one iteration of a token's
optimisation: scores with one vector for each head, and the gradient of this vector. Above 1x, head-major is faster.
"""


def write(results: Mapping[str, Result]) -> str:
    """The page; a section for each benchmark that has a result."""
    if not results:
        return f"{HEAD}\nNo measurement has been made yet: `make bench` on a quiet machine writes it here.\n"
    sections = {
        "capture_overhead": _capture,
        "bytes_kept": _bytes,
        "storage_types": _storage,
        "maps": _maps,
        "token_iteration": _iteration,
        "refinement": report_refinement.section,
        "time_to_quality": report_tokens.quality,
        "end_to_end": report_tokens.end,
        "dataset": report_dataset.section,
        "dataset_large": report_dataset.large_section,
        "layout": _layout,
    }
    parts = [HEAD, _goals(results)]
    parts += [
        section(results[name]) + _stamp(name, results[name]) for name, section in sections.items() if name in results
    ]
    return "\n".join(parts)


def _goals(results: Mapping[str, Result]) -> str:
    rows = [row for name, goals in _GOALS.items() if name in results for row in goals(results[name])]
    return "## Goals\n\n" + table(["Goal", "Measured", "Met"], rows)


def _capture_goals(result: Result) -> list[list[str]]:
    rows = []
    for key, measured in result["models"].items():
        goal = f"capture at most {CAPTURE_GOAL:g}x the plain pipeline, {measured.get('model', key.replace('_', ' '))}"
        if "skipped" in measured:
            rows.append([goal, measured["skipped"], "not measured"])
        else:
            found = Ratio(**measured["ratios"]["capture over plain"])
            rows.append([goal, str(found), verdict(found.median <= CAPTURE_GOAL, found.high <= CAPTURE_GOAL)])
    return rows


def _maps_goals(result: Result) -> list[list[str]]:
    found = {name: Ratio(**ratio) for name, ratio in result["ratios"].items()}
    floor = found["float32 8 over floor"]
    rows = [
        [
            f"8 tokens within {FLOOR_GOAL:g}x the floor",
            str(floor),
            verdict(floor.median <= FLOOR_GOAL, floor.high <= FLOOR_GOAL),
        ]
    ]
    for tokens, goal, text in ((8, 1.0, "not slower than"), (77, SPEED_GOAL, f"at least {SPEED_GOAL:g}x as fast as")):
        name = f"peer {tokens} over float32"
        goal_text = f"{tokens} tokens {text} the authors' code"
        if name in found:
            faster = found[name]
            rows.append([goal_text, str(faster), verdict(faster.median >= goal, faster.low >= goal)])
        else:
            rows.append([goal_text, "no peer was given", "not measured"])
    return [*rows, _memory_goal(result)]


def _memory_goal(result: Result) -> list[str]:
    goal = "77 tokens in at most 1/10 of its peak memory above the stored queries"
    peaks = result["peak_bytes"]
    if not peaks.get("peer", {}).get("77"):
        return [goal, "no peer was given" if "peer" not in peaks else "this system can't tell", "not measured"]
    share = peaks["float32"]["77"] / peaks["peer"]["77"]
    return [goal, f"1/{1 / share:.1f}", "yes" if share <= MEMORY_GOAL else "no"]


def _storage_goals(result: Result) -> list[list[str]]:
    measured = result["models"]["mini"]
    if "skipped" in measured:
        return [["int8 and the preset small on mini", measured["skipped"], "not measured"]]
    eight, small = (measured["settings"][name] for name in ("int8", "preset small"))
    rows = [
        [
            f"int8: maps within {ERROR_GOAL:.0%} of their range, mean of the maps (worst)",
            f"{eight['error']:.2%} ({eight['worst error']:.2%})",
            verdict(eight["error"] <= ERROR_GOAL, eight["worst error"] <= ERROR_GOAL),
        ]
    ]
    for name, found, goal in (("int8", eight, INT8_GOAL), ("preset small", small, SMALL_GOAL)):
        loss, low, high = found["loss"]
        text = f"{loss:.4f} ({low:.4f} to {high:.4f})"
        rows.append([f"{name}: at most {goal:g} mIoU lost on mini", text, verdict(loss <= goal, high <= goal)])
    return rows


def _iteration_goals(result: Result) -> list[list[str]]:
    found = Ratio(**result["ratios"]["float32 over floor"])
    goal = f"one iteration of a token's fit, one row of background, within {ITERATION_GOAL:g}x the floor"
    return [[goal, str(found), verdict(found.median <= ITERATION_GOAL, found.high <= ITERATION_GOAL)]]


_GOALS = {
    "capture_overhead": _capture_goals,
    "storage_types": _storage_goals,
    "maps": _maps_goals,
    "token_iteration": _iteration_goals,
    "refinement": report_refinement.goals,
    "time_to_quality": report_tokens.quality_goals,
    "end_to_end": report_tokens.end_goals,
    "dataset": report_dataset.goals,
    "dataset_large": report_dataset.large_goals,
}


def _capture(result: Result) -> str:
    header = ["Model", "Weights", "Steps", "Plain, s", "With capture, s", "Ratio", "Pairs", "Same image"]
    rows, skipped = [], ""
    for key, measured in result["models"].items():
        if "skipped" in measured:
            skipped += f"\n{key.replace('_', ' ')}: {measured['skipped']}.\n"
            continue
        found = Ratio(**measured["ratios"]["capture over plain"])
        times = [f"{_median(measured['seconds'][name]):.2f}" for name in ("plain", "capture")]
        same = "bit for bit" if measured["identical"] else "NO"
        steps = str(measured["steps"])
        rows.append([measured["model"], measured["weights"], steps, *times, str(found), str(found.pairs), same])
    return f"{CAPTURE}\n" + (table(header, rows) if rows else "") + skipped + _added(result.get("added", {}))


def _added(added: Mapping[str, Result]) -> str:
    if not added:
        return ""
    first = next(iter(added.values()))
    rows = [
        [
            name,
            str(found["blocks"]),
            f"{found['microseconds a call']:.0f}",
            f"{found['microseconds a block and call']:.0f}",
        ]
        for name, found in added.items()
    ]
    text = ADDED.format(pairs=len(first["seconds"]["plain"]), calls=first["calls"])
    return f"\n{text}\n" + table(["Family", "Blocks", "Microseconds a call", "a block and call"], rows)


def _bytes(result: Result) -> str:
    header = ["Model", "Steps", "Queries, MB", "In memory", "File", "Projections, MB", "Picture, MB", "In memory at 50"]
    rows, skipped = [], ""
    for key, weighed in result["models"].items():
        if "skipped" in weighed:
            skipped += f"\n{key.replace('_', ' ')}: {weighed['skipped']}.\n"
            continue
        own, memory = weighed["query_bytes"], weighed["memory_bytes"]
        rows.append(
            [
                weighed["model"],
                str(weighed["steps"]),
                f"{_mb(own)} ({weighed['dtype']})",
                f"{sum(memory.values()) / own:.3f}x",
                f"{weighed['file_bytes'] / own:.3f}x",
                _mb(memory["key_projections"]),
                _mb(memory["picture"]),
                f"{1 + (sum(memory.values()) - memory['queries']) / (50 * own / weighed['steps']):.3f}x",
            ]
        )
    return f"{BYTES}\n" + (table(header, rows) if rows else "") + skipped


def _storage(result: Result) -> str:
    measured = result["models"]["mini"]
    if "skipped" in measured:
        return f"## Storage types\n\n{measured['skipped']}.\n"
    text = STORAGE.format(
        scenes=measured["scenes"],
        things=measured["things"],
        threshold=measured["threshold"],
        chosen=measured["chosen on"],
    )
    header = ["Kept", "Bytes of a trace, MB", "Share of float32", "Map error, mean", "worst", "mIoU", "Loss of mIoU"]
    whole, rows = measured["settings"]["float32"]["bytes"], []
    for name, found in measured["settings"].items():
        loss, low, high = found["loss"]
        rows.append(
            [
                name,
                f"{found['bytes'] / 1e6:.2f}",
                f"{found['bytes'] / whole:.3f}",
                f"{found['error']:.3%}",
                f"{found['worst error']:.3%}",
                f"{found['miou']:.4f}",
                f"{loss:.4f} ({low:.4f} to {high:.4f})",
            ]
        )
    return f"{text}\n{table(header, rows)}"


def _maps(result: Result) -> str:
    text = MAPS.format(steps=result["steps"], megabytes=result["stored_bytes"]["float32"] / 1e6)
    header = [
        "Queries",
        "Tokens",
        "Time, s",
        "Over the floor",
        "The authors' time over ours",
        "Peak memory, MB",
        "Pairs",
    ]
    names = {"float32": "float32", "float16": "float16", "peer": "the authors' code, float32"}
    rows = [
        _maps_row(result, name, label, tokens)
        for tokens in ("8", "77")
        for name, label in names.items()
        if name in result["stored_bytes"]
    ]
    floors = ", ".join(
        f"{_median(result['seconds'][f'{name} floor']):.3f} s for {name}" for name in ("float32", "float16")
    )
    return f"{text}\n{table(header, rows)}\nThe floor itself: {floors}.\n\n{_differences(result)}"


def _maps_row(result: Result, name: str, label: str, tokens: str) -> list[str]:
    floor = result["ratios"][f"{'peer' if name == 'peer' else name} {tokens} over floor"]
    against = result["ratios"].get(f"peer {tokens} over {name}")
    peak = result["peak_bytes"][name][tokens]
    return [
        label,
        tokens,
        f"{_median(result['seconds'][f'{name} {tokens}']):.3f}",
        str(Ratio(**floor)),
        str(Ratio(**against)) if against else "",
        "not measured" if peak is None else _mb(peak),
        str(floor["pairs"]),
    ]


def _differences(result: Result) -> str:
    found = result["largest_difference"]
    header = [
        "Largest difference of a map's value (a mean, in [0, 1]) from ours with float32 queries",
        "8 tokens",
        "77 tokens",
    ]
    labels = {
        "float16": "ours with float16 queries",
        "peer": "the authors' code, its sum divided by the number of terms",
    }
    return table(
        header,
        [[label, *(f"{found[name][t]:.1e}" for t in ("8", "77"))] for name, label in labels.items() if name in found],
    )


def _iteration(result: Result) -> str:
    text = ITERATION.format(steps=result["steps"], megabytes=result["stored_bytes"]["float32"] / 1e6)
    header = ["Queries", "Time, s", "Over the floor", "The authors' time over ours", "Pairs"]
    names = {
        "float32": "float32, one row of background",
        "float16": "float16, one row of background",
        USUAL: f"float32, {1 + len(AGAINST)} rows of background and {len(PHRASES)} of the class, as by default",
        "peer": "the authors' code, float32",
    }
    rows = []
    for name, label in names.items():
        if name in result["stored_bytes"]:
            floor, against = Ratio(**result["ratios"][f"{name} over floor"]), result["ratios"].get(f"peer over {name}")
            time = f"{_median(result['seconds'][name]):.3f}"
            rows.append([label, time, str(floor), str(Ratio(**against)) if against else "", str(floor.pairs)])
    floors = ", ".join(f"{_median(result['seconds'][f'{name} floor']):.3f} s for {name}" for name in STORED)
    return f"{text}\n{table(header, rows)}\nThe floor itself: {floors}.\n"


def _layout(result: Result) -> str:
    header = ["Work", "Storage", "Step-major over head-major", "Head-major, s", "Pairs"]
    rows = []
    for name, found in result["ratios"].items():
        work, dtype = name.split()
        seconds = _median(result["seconds"][f"{name} head-major"])
        rows.append([work, dtype, str(Ratio(**found)), f"{seconds:.3f}", str(found["pairs"])])
    return f"{LAYOUT}\n{table(header, rows)}"


def _stamp(name: str, result: Result) -> str:
    made = result["stamp"]
    versions = ", ".join(f"{package} {number}" for package, number in made["versions"].items())
    peer = result.get("peer")
    weights = {m["model"]: m["weights"] for m in result.get("models", {}).values() if "skipped" not in m}
    model = "; ".join(f"{key}: {value}" for key, value in weights.items()) or result.get("model", "none")
    lines = [
        f"Command `{made['command']}`, {made['date']}"
        + (", **a quick run, not for publication**" if made["quick"] else ""),
        f"model {model}",
        f"seed {result['seed']}, bootstrap seed {made['bootstrap_seed']}",
        f"{made['processor']}, {made['cores']} cores, {made['threads']} threads",
        f"load average {made['load_at_start']} at the start",
        f"Python {made['python']}, {versions}",
    ]
    if peer:
        lines.append(f"{peer['repository']} at commit {peer['commit']}, sources {peer['source_hash']}")
    return f"\n*{'; '.join(lines)}.* [JSON](results/performance/{name}.json)\n"


def _median(numbers: Sequence[float]) -> float:
    return sorted(numbers)[len(numbers) // 2]


def _mb(count: int) -> str:
    return f"{count / 1e6:.1f}"
