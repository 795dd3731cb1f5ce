"""Features of a UNet: outputs of its layers at the last kept call, held against hooks of the test on the same run."""

import pytest
import torch

import ovam
import tiny
from ovam.errors import OptionError, TraceFileError
from ovam.testing import assert_restored, assert_same_image, snapshot
from test_trace_file import contents, rewrite

# the schedulers of some families copy tensors into arrays as numpy 1 did
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SIZE = {"height": 24, "width": 32}
LAYERS = {  # of tiny Stable Diffusion 1, in running order: channels, and how often the grid is halved
    "conv_in": (8, 0),
    "down_blocks.0.attentions.0": (8, 0),
    "down_blocks.0.downsamplers.0": (8, 1),
    "down_blocks.1.attentions.0": (16, 1),
    "down_blocks.1.downsamplers.0": (16, 2),
    "down_blocks.2.resnets.0": (16, 2),
    "mid_block": (16, 2),
    "up_blocks.0.resnets.0": (16, 2),
    "up_blocks.0.resnets.1": (16, 2),
    "up_blocks.0.upsamplers.0": (16, 1),
    "up_blocks.1.attentions.0": (16, 1),
    "up_blocks.1.attentions.1": (16, 1),
    "up_blocks.1.upsamplers.0": (16, 0),
    "up_blocks.2.attentions.0": (8, 0),
    "up_blocks.2.attentions.1": (8, 0),
}


def generate(pipe, prompt="a dog", **changes):
    generator = torch.Generator().manual_seed(0)
    return pipe(prompt, **{"num_inference_steps": 3, "generator": generator, "output_type": "np", **SIZE, **changes})


class Outputs:
    """Outputs of the layers by name, one a call."""

    def __init__(self, unet, names):
        self.seen = {name: [] for name in names}
        self.handles = [unet.get_submodule(name).register_forward_hook(self.taking(name)) for name in names]

    def taking(self, name):
        def take(module, inputs, output):
            self.seen[name].append((output[0] if isinstance(output, tuple) else output).clone())

        return take

    def remove(self):
        for handle in self.handles:
            handle.remove()


def run(pipe, *, names=tuple(LAYERS), steps=3, prompt="a dog", **options):
    """Traces of a run with features, and the layers' outputs by hooks of the test."""
    outputs = Outputs(pipe.unet, names)
    with ovam.capture(pipe, features=True, dtype=torch.float32, **options) as traces:
        generate(pipe, prompt, num_inference_steps=steps)
    outputs.remove()
    return traces, outputs.seen


def assert_features(trace, seen, rows, call=-1):
    """The kept features are these rows of the call's outputs, by half."""
    assert list(trace.features) == list(seen)
    for name, part in trace.features.items():
        assert part.values.keys() == rows.keys()
        for half, row in rows.items():
            assert torch.equal(part.values[half], seen[name][call][row])


class TestValues:
    def test_a_batch_of_two_with_guidance(self):
        traces, seen = run(tiny.sd1(), prompt=["a dog", "a cat on the grass"], guidance="both")
        for i, trace in enumerate(traces):  # the unconditional half comes first in the batch
            assert_features(trace, seen, {"uncond": i, "cond": 2 + i})
        shapes = {name: tuple(part.values["cond"].shape) for name, part in traces[0].features.items()}
        assert shapes == {name: (width, 12 >> level, 16 >> level) for name, (width, level) in LAYERS.items()}

    def test_the_last_kept_step_is_what_steps_say(self):
        (trace,), seen = run(tiny.sd1(), steps=4)
        assert_features(trace, seen, {"cond": 1})
        outputs = Outputs((pipe := tiny.sd1()).unet, LAYERS)
        with ovam.capture(pipe, features=True, dtype=torch.float32, steps=[0, 2]) as traces:
            generate(pipe, num_inference_steps=4)
        outputs.remove()
        assert_features(traces[0], outputs.seen, {"cond": 1}, call=2)

    def test_a_run_that_is_stopped_keeps_its_last_call(self):
        pipe = tiny.sd1()

        def stop(pipe, step, timestep, kept):
            pipe._interrupt = step == 1
            return kept

        outputs = Outputs(pipe.unet, LAYERS)
        with ovam.capture(pipe, features=True, dtype=torch.float32) as traces:
            generate(pipe, num_inference_steps=5, callback_on_step_end=stop)
        outputs.remove()
        assert len(traces[0].calls) == 2
        assert_features(traces[0], outputs.seen, {"cond": 1})

    def test_what_free_u_changes_in_place_is_kept_as_it_was(self):
        pipe = tiny.sd1()
        pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.4, b2=1.6)
        (trace,), seen = run(pipe)
        assert_features(trace, seen, {"cond": 1})

    def test_a_real_image(self, sd1):
        outputs = Outputs(sd1.unet, LAYERS)
        trace = ovam.encode(
            sd1, torch.rand(24, 32, 3).numpy(), features=True, dtype=torch.float32, timesteps=(1, 300), size=(24, 32)
        )
        outputs.remove()
        assert_features(trace, outputs.seen, {"cond": 0})
        assert trace.calls[-1].timestep == 1

    @pytest.mark.parametrize("make", [tiny.sd2, tiny.sdxl])
    def test_other_unets(self, make):
        pipe = make()
        names = list(ovam.backbones.registry.backbone_of(pipe).feature_layers())
        (trace,), seen = run(pipe, names=names)
        assert_features(trace, seen, {"cond": 1})

    def test_the_image_is_the_same_and_no_hook_stays(self, sd1):
        plain = generate(sd1).images
        before = snapshot(sd1)  # with what the run itself notes in the pipeline
        with ovam.capture(sd1, features=True):
            images = generate(sd1).images
        assert_same_image(images, plain)
        assert_restored(sd1, before, "after a capture with features")

        def stop(*_):
            raise RuntimeError("stop here")

        with pytest.raises(RuntimeError, match="stop here"), ovam.capture(sd1, features=True):
            generate(sd1, callback_on_step_end=stop)
        assert_restored(sd1, before, "after an error in a capture with features")


class TestKeeping:
    @pytest.mark.parametrize(("dtype", "kept"), [(torch.float16, torch.float16), (torch.int8, torch.float16)])
    def test_planned_and_kept_bytes_agree(self, sd1, dtype, kept):
        options = {"features": True, "guidance": "both", "dtype": dtype}
        with ovam.capture(sd1, **options) as traces:
            generate(sd1)
        planned = ovam.plan(sd1, num_inference_steps=3, **options, **SIZE)
        assert planned.nbytes == traces[0].nbytes
        own = {block.name: block.parts["features"] for block in planned.blocks if "features" in block.parts}
        assert own == {name: 2 * part.values["cond"].nbytes for name, part in traces[0].features.items()}
        assert {part.values["uncond"].dtype for part in traces[0].features.values()} == {kept}
        # of one call alone, whatever the number of steps
        longer = ovam.plan(sd1, num_inference_steps=9, **options, **SIZE)
        assert sum(block.parts.get("features", 0) for block in longer.blocks) == sum(own.values())

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
    def test_saved_and_loaded(self, sd1, tmp_path, dtype):
        with ovam.capture(sd1, features=True, guidance="both", dtype=dtype) as traces:
            generate(sd1)
        traces[0].save(tmp_path / "run.safetensors")
        loaded = ovam.Trace.load(tmp_path / "run.safetensors")
        assert list(loaded.features) == list(traces[0].features)
        for name, part in traces[0].features.items():
            found = loaded.features[name]
            assert (found.grid, found.averaged, found.last) == (part.grid, False, True)
            assert all(torch.equal(found.values[half], part.values[half]) for half in ("cond", "uncond"))
        loaded.save(tmp_path / "again.safetensors")
        assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "run.safetensors").read_bytes()

    def test_a_selection_keeps_them_with_the_last_call(self, sd1):
        with ovam.capture(sd1, features=True) as traces:
            generate(sd1)
        assert traces[0].select(steps=[0, 2]).features.keys() == traces[0].features.keys()
        assert traces[0].select(steps=[0, 1]).features == {}
        assert traces[0].select(blocks=[(12, 16)]).features.keys() == traces[0].features.keys()

    def test_on_a_disk(self, sd1, tmp_path):
        for disk in (None, tmp_path):
            with ovam.capture(sd1, features=True, disk=disk) as traces:
                generate(sd1)
            found = traces[0].features["mid_block"].values["cond"].clone()
            expected = found if disk is None else expected  # noqa: F821, of the round before
        assert torch.equal(found, expected)

    def test_nothing_is_kept_without_being_asked_for(self, sd1):
        with ovam.capture(sd1) as traces:
            generate(sd1)
        assert traces[0].features == {}

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda entry: entry.update(grid=[6, 9]), "because the header says a grid of 6 x 9"),
            (lambda entry: entry.update(last=False), "expected averaged=false, last=true"),
            (lambda entry: entry.update(last="yes"), "expected true or false"),
            (lambda entry: entry.update(dtype="int8"), "as dtype one of float32"),
            (lambda entry: entry.update(name="mid"), "features/cond/mid is missing"),
        ],
    )
    def test_a_damaged_file_is_refused(self, sd1, tmp_path, change, message):
        with ovam.capture(sd1, features=True) as traces:
            generate(sd1)
        path = tmp_path / "run.safetensors"
        traces[0].save(path)
        header, tensors = contents(path)
        change(header["parts"]["features"][3])
        rewrite(path, header, tensors)
        with pytest.raises(TraceFileError, match=message):
            ovam.Trace.load(path)


@pytest.mark.parametrize("make", [tiny.pixart_alpha, tiny.sd3, tiny.flux])
def test_families_without_a_unet_are_named(make):
    pipe = make()
    with pytest.raises(OptionError, match=f"features=True on a {type(pipe).__name__}, whose denoiser is no UNet"):
        ovam.capture(pipe, features=True).__enter__()


@pytest.mark.user_error
def test_the_option_is_true_or_false(sd1):
    with pytest.raises(OptionError, match="features='all': expected True or False"):
        ovam.capture(sd1, features="all").__enter__()
