"""A further kind of kept tensor is one entry of a table: reserved, kept, counted, saved and read like the others."""

import pytest
import torch

import ovam
import tiny
from ovam.errors import OptionError
from ovam.trace.blocks import choose_blocks
from ovam.tracing.parts import PARTS, Part

SIZE = {"height": 32, "width": 48}


def lengths(wanted):
    """Of the blocks that are asked for, the length of every query."""
    specs = wanted.backbone.blocks()
    if "length" not in wanted.options.also:
        return {}
    names = choose_blocks({name: wanted.grids[name] for name in specs}, wanted.options.also["length"])
    return {name: (specs[name].heads, wanted.pixels(name), 1) for name in names}


def length_of(block, seen, row, spec):
    return seen.query[row].norm(dim=-1, keepdim=True)


@pytest.fixture
def part(monkeypatch):
    entry = Part("length", "lengths of queries", lengths, length_of, pixel_axes=(1,), exact=True)
    monkeypatch.setitem(PARTS, "length", entry)
    return entry


def test_a_part_of_somebody_s_own_is_kept_saved_and_selected(part, tmp_path):
    pipe = tiny.sd1()
    pipe.set_progress_bar_config(disable=True)
    options = {"blocks": [16], "also": {"length": [16, 8]}, "dtype": torch.float32, "guidance": "both"}
    with ovam.capture(pipe, **options) as traces:
        pipe("a dog", num_inference_steps=3, **SIZE)
    (trace,) = traces
    planned = ovam.plan(pipe, num_inference_steps=3, **options, **SIZE)
    assert planned.nbytes == trace.nbytes
    assert {block.grid for block in planned.blocks} == {(16, 24), (8, 12)}
    assert sum("lengths of queries" in block.parts for block in planned.blocks) == len(trace.parts["length"])
    for name, block in trace.blocks.items():
        for half in trace.halves:
            kept = trace.parts["length"][name].values[half]
            # of the queries as they came, before they were copied: measured 0
            assert (kept - block.query[half].norm(dim=-1, keepdim=True)).abs().max() < 1e-5
    trace.save(tmp_path / "run.safetensors")
    loaded = ovam.Trace.load(tmp_path / "run.safetensors")
    assert loaded.parts.keys() == {"length"}
    for name, each in trace.parts["length"].items():
        assert torch.equal(loaded.parts["length"][name].values["uncond"], each.values["uncond"])
        fewer = loaded.select(steps=[0, 2]).parts["length"][name].values["cond"]
        assert torch.equal(fewer, each.values["cond"][:, [0, 2]])


def test_a_part_that_there_is_not_is_named():
    with pytest.raises(OptionError, match="also='depth': expected some of query, output"):
        ovam.capture(tiny.sd1(), also={"depth": None}).__enter__()
