"""Real images on every family, and without noise: gone back along the way of sampling, or looked at as they are."""

import itertools

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

import ovam
import tiny
from ovam.backbones.registry import backbone_of
from ovam.errors import OptionError, UnsupportedPipelineError
from ovam.tracing.noise import path_to
from test_encode import photo

STATIC, JOINT = ("sd1", "sd2", "sdxl", "pixart_alpha", "pixart_sigma"), ("sd3", "flux")

# the schedulers of some families copy tensors into arrays as numpy 1 did
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def made(family):
    """Smooth enough to be gone back: sharpened random attention turns small differences into large ones.

    And with latents of the size of noise, as trained autoencoders make them.
    """
    pipe = getattr(tiny, family)()
    if family in STATIC:
        tiny.sharpen(pipe, 1 / 12)
        pipe.vae.register_to_config(scaling_factor=5.0)
    return pipe


@pytest.fixture(scope="module")
def pipes():
    return {family: made(family) for family in (*STATIC, *JOINT)}


def looked_at(pipe, **options):
    """The trace, and each latent that the denoiser was handed with its time step, float32."""
    seen, backbone = [], backbone_of(pipe)

    def note(module, args, given):
        latent, factor = args[0] if args else given["hidden_states"], pipe.vae_scale_factor
        if latent.ndim == 3:
            size = [2 * factor * (int(n) + 1) for n in given["img_ids"].amax(0)[1:]]
            latent = pipe._unpack_latents(latent, *size, factor)
        seen.append((latent.clone(), float(given["timestep"])))

    handle = backbone.denoiser.register_forward_pre_hook(note, with_kwargs=True)
    try:
        trace = ovam.encode(pipe, photo(), **{"size": (32, 32), "dtype": torch.float32, **options})
    finally:
        handle.remove()
    return trace, seen


def clean_latent(pipe):
    """By the definition, apart from the library."""
    pixels = torch.from_numpy(np.array(photo())).permute(2, 0, 1)[None] / 255 * 2 - 1
    with torch.no_grad():
        latent = pipe.vae.encode(pixels).latent_dist.mean
    return (latent - (getattr(pipe.vae.config, "shift_factor", None) or 0)) * pipe.vae.config.scaling_factor


def sampled(pipe, latent, timesteps):
    """From the latent at the first of these falling time steps to that at the last, told an empty prompt."""
    backbone = backbone_of(pipe)
    conditions = backbone.conditions("", (32, 32))
    ddim = DDIMScheduler(
        **tiny.BETAS,
        clip_sample=False,
        set_alpha_to_one=False,
        prediction_type=pipe.scheduler.config.get("prediction_type", "epsilon"),
    )
    ddim.set_timesteps(1000 // (timesteps[0] - timesteps[1]))
    for before, after in itertools.pairwise(timesteps):
        with torch.no_grad():
            predicted = backbone.look(latent, before, conditions)
        if backbone.flow:
            latent = latent + (after - before) / 1000 * predicted
        else:
            latent = ddim.step(predicted, before, latent).prev_sample
    return latent


class TestInversion:
    @pytest.mark.parametrize("family", [*STATIC, *JOINT])
    def test_sampling_again_leads_back(self, pipes, family):
        pipe = pipes[family]
        clean = clean_latent(pipe)
        with torch.random.fork_rng():
            trace, seen = looked_at(pipe, method="inversion", timesteps=(400,), inversion_steps=100)
        assert [call.timestep for call in trace.calls] == [400.0]
        assert len(seen) == trace.calls[0].index + 1 == 41
        assert torch.allclose(seen[0][0], clean, atol=1e-5)
        last = seen[-1][0]
        back = sampled(pipe, last, range(400, -1, -10))
        moved, error = ((other - clean).abs().mean() / clean.std() for other in (last, back))
        # in standard deviations of the latent; measured: 0.003 (sd3) to 0.02 (sd2), and moved by 0.19 (sd2; 0.14 with
        # the oldest libraries) to 0.58
        assert error <= 0.04
        assert moved > 0.1

    def test_kept_are_the_time_steps_asked_for(self, pipes):
        """Those on the way between are not, and one more changes none of the others."""
        both, seen = looked_at(pipes["sd1"], method="inversion", timesteps=(300, 100), inversion_steps=20)
        assert [(call.index, call.step, call.timestep) for call in both.calls] == [(2, 2, 100.0), (6, 6, 300.0)]
        assert [timestep for _, timestep in seen] == [0, 50, 100, 150, 200, 250, 300]
        one, _ = looked_at(pipes["sd1"], method="inversion", timesteps=(300,), inversion_steps=20)
        for name, block in both.blocks.items():
            assert torch.equal(block.query["cond"][:, 1:], one.blocks[name].query["cond"])
        assert both.source.seed is None

    def test_the_path(self):
        assert path_to((35, 70), 20, 1000) == (0, 35, 50, 70)
        assert path_to((0,), 20, 1000) == (0,)
        assert path_to((999,), 1, 1000) == (0, 999)

    def test_a_prediction_of_another_kind_is_refused(self):
        pipe = tiny.pixart_sigma()
        pipe.scheduler.register_to_config(prediction_type="flow_prediction")
        with pytest.raises(UnsupportedPipelineError, match=r"predicts 'flow_prediction'.*encode with method='noise'"):
            ovam.encode(pipe, photo(), method="inversion", size=(32, 32))


class TestClean:
    @pytest.mark.parametrize("family", ["sd1", "sdxl", "flux"])
    def test_one_look_at_the_latent_itself(self, pipes, family):
        trace, seen = looked_at(pipes[family], method="clean", timesteps=(261,))
        assert len(trace.calls) == len(seen) == 1
        assert torch.allclose(seen[0][0], clean_latent(pipes[family]), atol=1e-5)
        assert seen[0][1] == pytest.approx(0.261 if family == "flux" else 261)
        assert trace.calls[0].timestep == 261


class TestJointAttention:
    @pytest.mark.parametrize("family", JOINT)
    def test_noise_on_a_straight_way(self, pipes, family):
        """(1 - s) * image + s * noise at s = timestep / 1000, most noise first, and told as the scheduler tells it."""
        pipe = pipes[family]
        trace, seen = looked_at(pipe, timesteps=(100, 600), noises=2, seed=5)
        clean, random = clean_latent(pipe), torch.Generator().manual_seed(5)
        for (latent, timestep), level in zip(seen, (0.6, 0.6, 0.1, 0.1), strict=True):
            expected = (1 - level) * clean + level * torch.randn(clean.shape, generator=random)
            assert torch.allclose(latent, expected, atol=1e-5)
            assert timestep == pytest.approx(level if family == "flux" else 1000 * level)
        calls = [(call.step, call.timestep, call.sigma) for call in trace.calls]
        assert calls == [(0, 600.0, 0.6), (0, 600.0, 0.6), (1, 100.0, 0.1), (1, 100.0, 0.1)]
        assert trace.source.kind == "encoded"

    @pytest.mark.parametrize("family", JOINT)
    def test_any_words_afterwards(self, pipes, family, tmp_path):
        pipe = pipes[family]
        image = photo(48, 96)
        trace = ovam.encode(pipe, image, timesteps=(300,), size=(16, 32), outputs=True)
        assert trace.size == (48, 96)
        assert {block.grid for block in trace.blocks.values()} == {(4, 8)}
        trace.save(tmp_path / "run.safetensors")
        loaded = ovam.Trace.load(tmp_path / "run.safetensors", text=pipe)
        for strategy in ("attention", "output"):
            found, expected = (t.maps(["frog", "sky"], strategy=strategy).token_maps for t in (loaded, trace))
            assert torch.equal(found, expected)

    @pytest.mark.parametrize("family", JOINT)
    def test_size_and_pipeline(self, family):
        pipe = getattr(tiny, family)()
        before = dict(vars(pipe))
        with pytest.raises(OptionError, match=r"size=\(16, 18\).*positive multiple of 4"):
            ovam.encode(pipe, photo(), size=(16, 18))
        if family == "sd3":
            trace = ovam.encode(pipe, photo(), timesteps=(300,))
            assert {block.grid for block in trace.blocks.values()} == {(8, 8)}  # its own 16 x 16 latent in patches
        assert vars(pipe) == before

    @pytest.mark.parametrize("family", JOINT)
    def test_the_prompt_is_told(self, pipes, family):
        """An encoding of a prompt shows its words the keys that the denoiser itself had for them."""
        empty, named = (
            ovam.encode(pipes[family], photo(), prompt=text, timesteps=(300,), size=(16, 16)) for text in ("", "dog")
        )
        last = list(empty.blocks)[-1]
        assert not torch.equal(empty.blocks[last].query["cond"], named.blocks[last].query["cond"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "clean"}, "timesteps=None with method='clean': expected one"),
        ({"method": "clean", "timesteps": (1, 2)}, "expected one, the time step that the model was tuned with"),
        ({"method": "inversion", "noises": 2}, "noises=2 with method='inversion', which puts no noise on"),
        ({"method": "inversion", "inversion_steps": 0}, "inversion_steps=0: expected a whole number of at least 1"),
        ({"outputs": True}, "words have no attention outputs"),
    ],
)
def test_options(sd1, options, message):
    with pytest.raises(OptionError, match=message):
        ovam.encode(sd1, photo(), **options)


@pytest.mark.user_error
def test_a_method_that_there_is_not(sd1):
    with pytest.raises(OptionError, match="method='ddim': expected one of"):
        ovam.encode(sd1, photo(), method="ddim")
