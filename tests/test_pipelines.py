"""Pipelines that start from an image, or are steered by one: what is kept is what their attention computes."""

import inspect
import logging
from dataclasses import replace

import diffusers
import pytest
import torch
from PIL import Image

import ovam
import tiny
from exact import assert_exact, assert_own_keys
from ovam.backbones.registry import backbone_of, supported
from ovam.errors import UnsupportedPipelineError
from ovam.testing.assertions import ExplicitSoftmax, assert_same_image

PROMPT = "a dog on the grass"
PICTURE = Image.linear_gradient("L").resize((32, 32)).convert("RGB")
MASK = Image.radial_gradient("L").resize((32, 32)).point(lambda value: 255 * (value < 100))

pytestmark = [
    # the schedulers of some families copy tensors into arrays as numpy 1 did
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.FluxPosEmbed. is deprecated:FutureWarning"),  # diffusers' own ControlNet
]


def _controlnet(base, name):
    """A ControlNet of the denoiser's kind, whose last layers steer: they are zeros at first."""
    torch.manual_seed(1)
    if "Flux" in name:
        taken = inspect.signature(diffusers.FluxControlNetModel.__init__).parameters
        config = {key: value for key, value in base.transformer.config.items() if key in taken}
        net = diffusers.FluxControlNetModel.from_config({**config, "num_layers": 1, "num_single_layers": 1})
        last = [net.controlnet_x_embedder, *net.controlnet_blocks, *net.controlnet_single_blocks]
    elif "Diffusion3" in name:
        extra = {"num_layers": 2, "extra_conditioning_channels": int("Inpaint" in name)}
        net = diffusers.SD3ControlNetModel.from_config({**base.transformer.config, **extra})
        last = [net.pos_embed_input.proj, *net.controlnet_blocks]
    else:
        net = diffusers.ControlNetModel.from_unet(base.unet, conditioning_embedding_out_channels=(8, 16))
        last = [net.controlnet_mid_block, *net.controlnet_down_blocks]
    with torch.no_grad():
        for layer in last:
            layer.weight.normal_(std=0.3)
    return net.eval()


def _inpainting_unet(pipe):
    """A UNet of nine channels: the noisy latent, the mask and the masked latent."""
    torch.manual_seed(2)
    return type(pipe.unet).from_config(pipe.unet.config, in_channels=9).eval()


BASES = {"Flux": tiny.flux, "Diffusion3": tiny.sd3, "XL": tiny.sdxl, "": tiny.sd1}


def _make(name):
    """A tiny pipeline of this class, from the parts of its family's, and the arguments of a run."""
    base = next(make for mark, make in BASES.items() if mark in name)()
    kind, parts = getattr(diffusers, name), base.components
    arguments = {"prompt": PROMPT, "num_inference_steps": 4}
    if "ControlNet" in name:
        parts |= {"controlnet": _controlnet(base, name)}
    if "Img2Img" in name:
        arguments |= {"image": PICTURE, "strength": 0.75}
    if "Inpaint" in name or "Fill" in name:
        arguments |= {"image": PICTURE, "mask_image": MASK, "strength": 1.0, "height": 32, "width": 32}
    if "ControlNet" in name:
        only = not ("Img2Img" in name or "Inpaint" in name or "Flux" in name or "Diffusion3" in name)
        arguments |= {"image": PICTURE} if only else {"control_image": PICTURE}
    if name == "StableDiffusion3ControlNetInpaintingPipeline":  # its masked image is the ControlNet's alone
        arguments = {key: value for key, value in arguments.items() if key not in ("image", "mask_image", "strength")}
        arguments |= {"control_mask": MASK}
    arguments, instead = _of_flux(name, base, arguments)
    parts |= instead
    if "Flux" in name or "Diffusion3" in name:
        arguments |= {"height": 32, "width": 32, "max_sequence_length": 16}
    if name.startswith("StableDiffusionXLControlNet"):
        arguments |= {"height": 32, "width": 32}
    if name == "StableDiffusion3InpaintPipeline":  # which takes no others
        parts |= {part: _sixteen_channels(base.components[part]) for part in ("vae", "transformer")}
    if "LatentConsistency" in name:
        parts |= {
            "unet": _consistency_unet(base),
            "scheduler": diffusers.LCMScheduler.from_config(base.scheduler.config),
        }
    options = {"requires_safety_checker": False, "pag_applied_layers": "blocks.0" if "Diffusion3" in name else "mid"}
    taken = inspect.signature(kind.__init__).parameters
    pipe = kind(**{part: value for part, value in {**parts, **options}.items() if part in taken})
    pipe.set_progress_bar_config(disable=True)
    return pipe, arguments


def _of_flux(name, base, arguments):
    """What FLUX's further models ask for."""
    if "Fill" in name:
        return {key: value for key, value in arguments.items() if key != "strength"}, {
            "transformer": _filling_transformer(base)
        }
    if "Kontext" in name:
        return arguments | {"image": PICTURE, "max_area": 32 * 32, "_auto_resize": False}, {}
    return arguments, {}


def _filling_transformer(pipe):
    """A transformer that reads the noisy latent, the masked latent and the mask."""
    torch.manual_seed(5)
    made = type(pipe.transformer).from_config(pipe.transformer.config, in_channels=48, out_channels=16).eval()
    tiny.sharpen_joint(made, 6.0, 3.0)
    return made


def _sixteen_channels(part):
    torch.manual_seed(4)
    channels = ("in_channels", "out_channels") if "patch_size" in part.config else ("latent_channels",)
    return type(part).from_config(part.config, **dict.fromkeys(channels, 16)).eval()


def _consistency_unet(base):
    """A UNet that is told the scale of guidance as a number."""
    torch.manual_seed(3)
    return type(base.unet).from_config(base.unet.config, time_cond_proj_dim=8).eval()


def _run(pipe, arguments):
    return pipe(**arguments, generator=torch.Generator().manual_seed(0)).images[0]


READ = [name for pipe in (tiny.sd1, tiny.sdxl, tiny.sd3, tiny.flux) for name in backbone_of(pipe()).pipelines[1:]]
ELSEWHERE = ("StableDiffusionPAGPipeline", "StableDiffusionXLPAGPipeline", "StableDiffusion3PAGPipeline")
"""Shown in test_guidance.py."""

PLAIN = [name for name in READ if not any(mark in name for mark in ("PAG", "LatentConsistency", "Diffusion3", "Flux"))]


@pytest.mark.parametrize("name", PLAIN)
def test_kept_queries_give_the_attention_of_the_run_and_leave_its_image_alone(name):
    pipe, arguments = _make(name)
    plain = _run(pipe, arguments)
    with ovam.capture(pipe, dtype=torch.float32) as traces:
        assert_same_image(_run(pipe, arguments), plain)
    trace = traces[0]
    assert_same_image(trace.image, plain)
    assert len(trace.calls) == (3 if "Img2Img" in name else 4)
    explicit = {block: ExplicitSoftmax() for block in trace.blocks}
    for block, processor in explicit.items():
        pipe.unet.get_submodule(block).set_processor(processor)
    _run(pipe, arguments)
    kept = trace.maps(PROMPT, softmax_over="padded", keep=("block", "step")).token_maps
    for i, (block, processor) in enumerate(explicit.items()):
        grid = trace.blocks[block].grid
        if grid == max(other.grid for other in trace.blocks.values()):  # coarser ones were enlarged
            for step, seen in enumerate(processor.seen):
                weights = seen.weights.chunk(2)[1][0].mean(0).T.unflatten(-1, grid)
                worst = (kept[i, step] - weights).abs().max()
                assert worst < 1e-4, (block, step)  # measured 9e-6


@pytest.mark.parametrize("name", [name for name in READ if name not in (*PLAIN, *ELSEWHERE)])
def test_kept_queries_are_the_kernels_and_leave_the_image_alone(name):
    pipe, arguments = _make(name)
    row = 0 if "Flux" in name or "LatentConsistency" in name else 1
    trace, kernel = assert_exact(pipe, {**arguments, "output_type": "np"}, row=row)
    assert_own_keys(trace, kernel, row, 2e-5)  # measured: 0 static, 2.4e-6 replayed
    assert trace.source.pipeline == name


def _of_last_block(trace):
    """Keys of the run's prompt in the first and last block at the first call, where all runs have the same latent."""
    vectors, names = trace.text.embed(PROMPT, padded=True).vectors, [*trace.blocks]
    return [trace.text.keys(vectors, name, 0) for name in (names[0], names[-1])]


JOINT_CONTROL = [name for name in READ if "ControlNet" in name and ("Diffusion3" in name or "Flux" in name)]


@pytest.mark.parametrize("name", JOINT_CONTROL)
def test_late_words_meet_an_image_that_a_controlnet_steers(name):
    """What it adds stands in the kept image keys and values; its own blocks are named like the denoiser's."""
    pipe, arguments = _make(name)
    row = 0 if "Flux" in name else 1
    kept = []
    for scale in (1.0, 0.0):
        given = {**arguments, "controlnet_conditioning_scale": scale, "output_type": "np"}
        trace, kernel = assert_exact(pipe, given, row=row)
        largest = max(keys.abs().max().item() for calls in kernel.values() for _, keys in calls)
        assert_own_keys(trace, kernel, row, 1e-6 * largest)  # measured: 0 FLUX, 3.5e-7 SD3, relative to a block's own
        kept.append(_of_last_block(trace))
    (first, steered), (same, free) = kept
    assert torch.equal(first, same), "nothing is added before the first block"
    assert not torch.equal(steered, free)


def test_true_guidance_beside_a_controlnet():
    pipe, arguments = _make("FluxControlNetPipeline")
    guided = {**arguments, "negative_prompt": "a cat", "true_cfg_scale": 3.0, "output_type": "np"}
    trace, kernel = assert_exact(pipe, guided, row=0, guidance="both")
    for name, block in trace.blocks.items():
        kept, pixels = block.query["uncond"], block.grid[0] * block.grid[1]
        for entry, (query, _) in enumerate(kernel[name]):  # two rows a call: the negative pass is the second
            assert torch.equal(kept[:, entry], query[1, :, -pixels:])


@pytest.mark.parametrize("name", ["Flux2Pipeline", "QwenImagePipeline", "ZImagePipeline"])
def test_families_that_are_not_supported_are_told_what_is(name):
    expected = f"pipeline is a {name}, which is not supported: expected .* Diffusion 1, 2, XL and 3, PixArt and FLUX.1"
    with pytest.raises(UnsupportedPipelineError, match=expected), ovam.capture(type(name, (), {})()):
        pass


class Wrapped(torch.nn.Module):
    """A denoiser within another module, as trainers and adapters have it."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, *args, **kwargs):
        return self.model(*args, **kwargs)

    def __getattr__(self, name):
        return super().__getattr__(name) if name == "model" else getattr(self.model, name)


class Positional(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, a, b, c):
        return self.model(a, b, c, return_dict=False)[0]


def _traced(unet):
    example = (torch.zeros(2, 4, 16, 16), torch.tensor(1), torch.zeros(2, 77, 32))
    return torch.jit.trace(Positional(unet), example, check_trace=False)


@pytest.mark.user_error
@pytest.mark.filterwarnings("ignore:.*TorchScript|.*torch.jit|Converting a tensor")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("changed", [Wrapped, _traced], ids=["wrapped", "traced"])
def test_a_denoiser_of_another_kind_is_refused_by_name(changed):
    """Its arguments and blocks have other names."""
    pipe = tiny.sd1()
    plain = pipe.unet
    pipe.unet = changed(plain)
    for watching in (ovam.capture(pipe), ovam.stream(pipe, "dog")):
        expected = r"its unet is a (Wrapped|\w*Module), .*expected the UNet2DConditionModel itself"
        with pytest.raises(UnsupportedPipelineError, match=expected), watching:
            pass
    assert not plain._forward_pre_hooks


@pytest.mark.parametrize("make", [tiny.sd1, tiny.sdxl, tiny.sd3, tiny.flux])
def test_what_auto_pipelines_make_of_a_supported_one_is_supported(make):
    pipe = make()
    kinds = ("AutoPipelineForText2Image", "AutoPipelineForImage2Image", "AutoPipelineForInpainting")
    made = [getattr(diffusers, kind).from_pipe(pipe) for kind in kinds]
    if make is not tiny.flux:  # which has none
        made.append(diffusers.AutoPipelineForText2Image.from_pipe(pipe, enable_pag=True))
    names = [type(one).__name__ for one in made]
    assert len(set(names)) == len(names)
    assert set(names) <= set(supported())


def test_a_run_of_an_auto_pipeline():
    pipe, arguments = _make("StableDiffusionImg2ImgPipeline")
    made = diffusers.AutoPipelineForImage2Image.from_pipe(tiny.sd1())
    made.set_progress_bar_config(disable=True)
    trace, _ = assert_exact(made, {**arguments, "output_type": "np"}, row=1)
    assert_same_image(trace.image, _run(pipe, arguments))


def test_a_seed_is_noted_only_where_it_makes_the_image_again():
    pipe, arguments = _make("StableDiffusionControlNetPipeline")
    with ovam.capture(pipe) as traces:
        _run(pipe, arguments)
    assert traces[0].source.seed == 0
    pipe, arguments = _make("StableDiffusion3ControlNetPipeline")  # which draws from torch's own generator besides
    plain = _run(pipe, arguments)
    with ovam.capture(pipe) as traces:
        again = _run(pipe, arguments)
    assert again.tobytes() != plain.tobytes()
    assert traces[0].source.seed is None


CROPPING = ("StableDiffusionInpaintPipeline", "StableDiffusionXLInpaintPipeline", "StableDiffusion3InpaintPipeline")


@pytest.mark.parametrize("name", CROPPING)
def test_a_part_that_inpainting_sees_alone_is_told_of(name, caplog):
    pipe, arguments = _make(name)
    mask = Image.new("L", (64, 64))
    mask.paste(255, (8, 8, 24, 24))
    whole = {"image": PICTURE.resize((64, 64)), "mask_image": mask}
    with caplog.at_level(logging.WARNING, "ovam"), ovam.capture(pipe) as traces:
        _run(pipe, {**arguments, **whole})
        assert "padding_mask_crop" not in caplog.text
        returned = _run(pipe, {**arguments, **whole, "padding_mask_crop": 2})
    assert f"{name}: with padding_mask_crop the model sees only the part (6, 6, 26, 26) of the image" in caplog.text
    assert (returned.size, traces[1].image.size, traces[1].size) == ((64, 64), (32, 32), (32, 32))


def test_words_are_streamed():
    pipe, arguments = _make("StableDiffusionInpaintPipeline")
    with ovam.capture(pipe, dtype=torch.float32) as traces:
        _run(pipe, arguments)
    with ovam.stream(pipe, ["sky"]) as maps:
        _run(pipe, arguments)
    assert torch.allclose(maps[0]["sky"], traces[0].maps(["sky"])["sky"], atol=1e-6)


def test_real_images_are_encoded_as_by_the_familys_first_pipeline():
    for name, first in (("StableDiffusionImg2ImgPipeline", tiny.sd1), ("StableDiffusionXLInpaintPipeline", tiny.sdxl)):
        pipe, _ = _make(name)
        found = ovam.encode(pipe, PICTURE, timesteps=(100,)).maps(["dog"])["dog"]
        expected = ovam.encode(first(), PICTURE, timesteps=(100,)).maps(["dog"])["dog"]
        assert torch.equal(found, expected), name


@pytest.mark.user_error
def test_models_that_read_more_than_a_latent_are_refused_a_real_image():
    pipe, arguments = _make("StableDiffusionInpaintPipeline")
    pipe.register_modules(unet=_inpainting_unet(pipe))
    with ovam.capture(pipe) as traces:
        _run(pipe, arguments)
    assert len(traces) == 1
    with pytest.raises(UnsupportedPipelineError, match="reads 9 channels and a latent has 4"):
        ovam.encode(pipe, PICTURE)
    pipe, _ = _make("StableDiffusionXLImg2ImgPipeline")
    pipe.register_to_config(requires_aesthetics_score=True)
    with pytest.raises(UnsupportedPipelineError, match="needs an aesthetic score"):
        ovam.encode(pipe, PICTURE)


class TestFurtherImages:
    """Kontext has the image that it changes behind the one that it makes."""

    def test_words_meet_them_and_no_map_is_of_them(self, tmp_path):
        pipe, arguments = _make("FluxKontextPipeline")
        guided = {**arguments, "negative_prompt": "a cat", "true_cfg_scale": 3.0}
        with ovam.capture(pipe, dtype=torch.float32, guidance="both", outputs=True) as traces:
            _run(pipe, guided)
        with ovam.capture(pipe, dtype=torch.float32) as others:
            _run(pipe, {**guided, "image": PICTURE.transpose(Image.Transpose.FLIP_TOP_BOTTOM)})
        (trace,) = traces
        (name, *_), (height, width) = trace.blocks, trace.maps("dog").grid
        assert trace.replay.blocks[name].key["cond"].shape[-2] == 2 * height * width
        assert trace.blocks[name].query["uncond"].shape[-2] == height * width
        assert not torch.equal(trace.maps("sky").token_maps, others[0].maps("sky").token_maps)
        assert trace.maps(["dog", "sky"], strategy="output").grid == (height, width)
        own = replace(trace, source=replace(trace.source, pipeline="MyEditPipeline"))  # of a class derived from it
        own.save(tmp_path / "run.safetensors")
        again = ovam.Trace.load(tmp_path / "run.safetensors", text=pipe)
        joint = trace.maps("dog", softmax_over="joint").token_maps
        assert torch.equal(again.maps("dog", softmax_over="joint").token_maps, joint)
        with ovam.stream(pipe, "dog", softmax_over="joint") as maps:
            _run(pipe, guided)
        torch.testing.assert_close(maps[0].token_maps, joint, rtol=0, atol=1e-6)

    def test_they_are_told_by_their_number(self):
        pipe, arguments = _make("FluxKontextPipeline")
        handle = pipe.transformer.register_forward_pre_hook(_unnumbered, with_kwargs=True)
        with ovam.capture(pipe), pytest.raises(UnsupportedPipelineError, match="128 image positions, 128 of them"):
            _run(pipe, arguments)
        handle.remove()


def _unnumbered(module, args, kwargs):
    kwargs["img_ids"][:, 0] = 0
    return args, kwargs


@pytest.mark.user_error
def test_a_model_that_fills_is_refused_a_real_image():
    pipe, _ = _make("FluxFillPipeline")
    with pytest.raises(UnsupportedPipelineError, match="reads 12 channels and a latent has 4"):
        ovam.encode(pipe, PICTURE)
