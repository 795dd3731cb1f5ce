"""Holding a captured run against the same run without capture, and against what torch's attention kernel was given."""

from contextlib import contextmanager

import torch

import ovam
from ovam.backbones.registry import backbone_of
from ovam.testing import assert_same_image
from ovam.testing.assertions import spied_kernel

PROMPT = "a dog on the grass"
RUN = {"prompt": PROMPT, "num_inference_steps": 3, "height": 32, "width": 32, "output_type": "np"}


@contextmanager
def repeated(module, layer):
    """Let a block run one of its layers twice a call, as processors do that project pixels anew."""

    running = []

    def again(layer, inputs, output):
        if not running:
            running.append(layer)
            layer(*inputs)
            running.clear()

    handle = getattr(module, layer).register_forward_hook(again)
    try:
        yield
    finally:
        handle.remove()


def run(pipe, arguments=RUN):
    """Images of one run from a fixed seed, as numbers."""
    torch.manual_seed(0)  # some ControlNet pipelines draw from torch's own generator, whichever they are given
    return pipe(**arguments, generator=torch.Generator().manual_seed(0)).images


def assert_exact(pipe, arguments=RUN, *, row, **options):
    """Same image with and without capture, and queries bit by bit those of this row of the kernel's batch.

    Returns the trace, and per block the kernel's pairs of queries and keys, one a call: where a block calls it twice,
    its rows are one batch for joint attention, and the first call is the one to the text for cross attention.
    """
    backbone = backbone_of(pipe)
    own = next(weight.dtype for weight in backbone.denoiser.parameters() if weight.is_floating_point())
    plain = run(pipe, arguments)
    names = [name for name, block in backbone.blocks().items() if block.default]
    options = {"dtype": own, **options}
    with spied_kernel(backbone.denoiser, names) as received, ovam.capture(pipe, **options) as traces:
        assert_same_image(run(pipe, arguments), plain)
    (trace,) = traces
    kernel = {name: _by_call(pairs, len(trace.calls), backbone.text_kind) for name, pairs in received.items()}
    for name, block in trace.blocks.items():
        kept, pixels = block.query["cond"], block.grid[0] * block.grid[1]
        replayed = trace.replay.blocks.get(name)
        visible = pixels if replayed is None else replayed.key["cond"].shape[-2]  # of other images as well
        for entry, (query, _) in enumerate(kernel[name]):
            # joint attention has text at one end
            ends = (query[row, :, :pixels], query[row, :, query.shape[2] - visible :][:, :pixels])
            assert any(torch.equal(kept[:, entry], end) for end in ends), (name, entry)
    return trace, kernel


def _by_call(pairs, calls, kind):
    each = len(pairs) // calls
    groups = [pairs[i * each : (i + 1) * each] for i in range(calls)]
    if kind == "static":
        return [group[0] for group in groups]
    # image prompts are attended to by a call of their own, behind the joint one and from the image alone
    joint = [[pair for pair in group if pair[0].shape[2] == group[0][0].shape[2]] for group in groups]
    return [tuple(torch.cat([pair[part] for pair in group]) for part in (0, 1)) for group in joint]


def assert_own_keys(trace, kernel, row, tolerance):
    """Keys of the run's own prompt, made afterwards, are those of this row of the kernel's batch."""
    vectors = trace.text.embed(PROMPT, padded=True).vectors
    for name in trace.blocks:
        for call, (_, keys) in zip(trace.calls, kernel[name], strict=True):
            found = trace.text.keys(vectors, name, call.index)
            ends = (keys[row, :, : len(vectors)], keys[row, :, -len(vectors) :])
            worst = min((found - end.float()).abs().max().item() for end in ends)
            assert worst <= tolerance, (name, call.index, worst)
