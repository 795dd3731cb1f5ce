"""Pipelines as people set them up: with image prompts, fused, offloaded, narrow, quantised, compiled or patched."""

import logging
from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

import accelerate
import diffusers
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from diffusers.models.attention_processor import SD3IPAdapterJointAttnProcessor2_0
from diffusers.models.embeddings import IPAdapterTimeImageProjection
from packaging.version import Version
from torch import nn
from torch.nn import functional as F
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, SiglipVisionConfig, SiglipVisionModel

import ovam
import tiny
from exact import PROMPT, RUN, assert_exact, assert_own_keys, run
from ovam.backbones.registry import backbone_of
from ovam.errors import SpaceMismatchError, UnsupportedPipelineError
from ovam.testing import assert_restored, snapshot

# the schedulers of some families copy tensors into arrays as numpy 1 did
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

BLOCK = "up_blocks.2.attentions.1.transformer_blocks.0.attn2"
JOINT_RUN = {**RUN, "max_sequence_length": 16}


def with_image_prompt(pipe):
    """An IP-Adapter of the first kind: an image encoder, a projection to four tokens, keys and values of their own."""
    torch.manual_seed(3)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPVisionConfig(image_size=30, patch_size=15, projection_dim=12, **sizes)
    width = pipe.unet.config.cross_attention_dim
    pipe.register_modules(image_encoder=CLIPVisionModelWithProjection(config).eval())
    modules = [module for name, module in pipe.unet.named_modules() if name.endswith("attn2")]
    numbers = range(1, 2 * len(modules), 2)
    keys = {
        f"{i}.to_{part}_ip.weight": torch.randn(module.to_q.out_features, width)
        for i, module in zip(numbers, modules, strict=True)
        for part in "kv"
    }
    projection = {
        "proj.weight": torch.randn(4 * width, 12),
        "proj.bias": torch.randn(4 * width),
        "norm.weight": torch.ones(width),
        "norm.bias": torch.zeros(width),
    }
    pipe.load_ip_adapter({"image_proj": projection, "ip_adapter": keys}, subfolder="", weight_name="")
    return pipe


def with_joint_image_prompt(pipe):
    """The same beside joint attention: Stable Diffusion 3's reads the time step too, FLUX's sees two streams alone."""
    torch.manual_seed(3)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    image, width = {"image_size": 30, "patch_size": 15}, pipe.transformer.inner_dim
    if isinstance(pipe, StableDiffusion3Pipeline):
        encoder = SiglipVisionModel(SiglipVisionConfig(**sizes, **image))
        projection = IPAdapterTimeImageProjection(16, width, 24, heads=1, num_queries=4, timestep_in_dim=8)
        head = pipe.transformer.config.attention_head_dim
        each = [SD3IPAdapterJointAttnProcessor2_0(width, width, head, 24) for _ in pipe.transformer.attn_processors]
    else:
        encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(projection_dim=12, **sizes, **image))
        vectors = pipe.transformer.config.joint_attention_dim
        projection = nn.ModuleDict({"proj": nn.Linear(12, 4 * vectors), "norm": nn.LayerNorm(vectors)})
        each = [
            nn.ModuleDict({f"to_{part}_ip": nn.Linear(vectors, width) for part in "kv"})
            for _ in pipe.transformer.transformer_blocks
        ]
    pipe.register_modules(image_encoder=encoder.eval())
    weights = {"image_proj": projection.state_dict(), "ip_adapter": nn.ModuleList(each).state_dict()}
    pipe.load_ip_adapter(weights, "")
    pipe.set_ip_adapter_scale(1.0)
    return pipe


@contextmanager
def spied_outputs(block, kept):
    """Keep what attention's kernel puts out for the rows of text and image, not those of an image prompt."""
    kernel = F.scaled_dot_product_attention

    def spy(query, key, *args, **kwargs):
        output = kernel(query, key, *args, **kwargs)
        if running and key.shape[2] == query.shape[2]:
            kept.append(output.detach().transpose(1, 2).flatten(2))
        return output

    running = []
    handles = [
        block.register_forward_pre_hook(lambda *_: running.append(True)),
        block.register_forward_hook(lambda *_: running.clear()),
    ]
    with patch.object(F, "scaled_dot_product_attention", spy):
        yield
    for handle in handles:
        handle.remove()


class TestImagePrompt:
    @pytest.mark.parametrize("make", [tiny.sd1, tiny.sdxl])
    def test_the_image_has_keys_of_its_own(self, make):
        pipe, picture = with_image_prompt(make()), torch.rand(1, 3, 30, 30)
        shown = {**RUN, "ip_adapter_image": picture}
        trace, kernel = assert_exact(pipe, shown, row=1)
        assert_own_keys(trace, kernel, 1, 0.0)
        pipe.set_ip_adapter_scale(0.0)
        unseen, _ = assert_exact(pipe, shown, row=1)
        name = [*trace.blocks][-1]
        assert not torch.equal(trace.blocks[name].query["cond"], unseen.blocks[name].query["cond"])

    @pytest.mark.parametrize(
        ("make", "row"),
        [(tiny.sd3, 1), (partial(tiny.sd3, newer=True), 1), (tiny.flux, 0)],
        ids=["sd3", "sd35", "flux"],
    )
    def test_beside_joint_attention(self, make, row):
        pipe, picture = with_joint_image_prompt(make()), torch.rand(1, 3, 30, 30)
        shown = {**JOINT_RUN, "ip_adapter_image": picture}
        trace, kernel = assert_exact(pipe, shown, row=row)
        assert_own_keys(trace, kernel, row, 2e-5)
        pipe.set_ip_adapter_scale(0.0)
        unseen, _ = assert_exact(pipe, shown, row=row)
        name = [*trace.blocks][-1]
        assert not torch.equal(trace.blocks[name].query["cond"], unseen.blocks[name].query["cond"])
        assert not torch.equal(trace.maps("a boat").token_maps, unseen.maps("a boat").token_maps)

    def test_flux_adds_it_behind_the_attention_outputs(self):
        pipe, picture = with_joint_image_prompt(tiny.flux()), torch.rand(1, 3, 30, 30)
        block, inputs = pipe.transformer.transformer_blocks[1].attn, []
        arguments = {**JOINT_RUN, "ip_adapter_image": picture, "num_inference_steps": 1}
        with spied_outputs(block, inputs):
            trace, _ = assert_exact(pipe, arguments, row=0, outputs=True)
        kept = trace.blocks["transformer_blocks.1.attn"].output["cond"][:, 0].transpose(0, 1).flatten(1)
        assert torch.equal(kept, inputs[-1][0, -len(kept) :])

    @pytest.mark.user_error
    def test_sd3_mixes_it_into_the_attention_outputs_which_are_refused(self):
        pipe = with_joint_image_prompt(tiny.sd3())
        shown = {**JOINT_RUN, "ip_adapter_image": torch.rand(1, 3, 30, 30)}
        for watching in (ovam.capture(pipe, outputs=True), ovam.stream(pipe, "a dog", strategy="output")):
            with watching, pytest.raises(UnsupportedPipelineError, match="IP-Adapter of Stable Diffusion 3 adds"):
                run(pipe, shown)
        pipe.set_ip_adapter_scale(0.0)
        assert_exact(pipe, shown, row=1, outputs=True)


class TestFused:
    @pytest.mark.parametrize("make", [tiny.sd1, tiny.sdxl])
    def test_keys_are_those_of_the_layer_that_runs(self, make):
        pipe = make()
        pipe.fuse_qkv_projections()
        with torch.no_grad():  # what an adapter that is fused now would change, and no block asks
            for _, module in pipe.unet.named_modules():
                if hasattr(module, "to_kv"):
                    module.to_k.weight.mul_(2)
        trace, kernel = assert_exact(pipe, row=1)
        assert_own_keys(trace, kernel, 1, 1e-5)  # measured: 3e-6, the order of additions
        pipe.unfuse_qkv_projections()
        trace, kernel = assert_exact(pipe, row=1)
        assert_own_keys(trace, kernel, 1, 0.0)

    @pytest.mark.parametrize(("make", "row"), [(tiny.sd3, 1), (tiny.flux, 0)])
    def test_joint_attention(self, make, row):
        pipe = make()
        pipe.transformer.fuse_qkv_projections()
        trace, kernel = assert_exact(pipe, JOINT_RUN, row=row)
        assert_own_keys(trace, kernel, row, 2e-5)


def offloaded(pipe, way):
    """Offload to and from the CPU: the hooks are those of an accelerator, and sequential ones do take weights away."""
    if way == "model":
        pipe.enable_model_cpu_offload(device="cpu")
    elif (
        way == "sequential"
    ):  # as enable_sequential_cpu_offload does it, which names a device that accelerate can't take
        for part in pipe.components.values():
            if isinstance(part, nn.Module):
                accelerate.cpu_offload(part, torch.device("cpu"), offload_buffers=len(part._parameters) > 0)
    else:
        pipe.enable_group_offload(onload_device=torch.device("cpu"), offload_type=way)
    return pipe


# before 0.41 diffusers asks a machine without an accelerator for the accelerator's name
NO_GROUPS = torch.accelerator.current_accelerator() is None and Version(diffusers.__version__) < Version("0.41")
needs_groups = pytest.mark.skipif(NO_GROUPS, reason="this diffusers can't offload groups without an accelerator")
OFFLOAD = ("model", "sequential", pytest.param("leaf_level", marks=needs_groups))


class TestOffload:
    @pytest.mark.parametrize("way", OFFLOAD)
    @pytest.mark.parametrize(("make", "row"), [(tiny.sd1, 1), (tiny.pixart_sigma, 1), (tiny.sd3, 1), (tiny.flux, 0)])
    def test_same_image_queries_and_keys(self, make, row, way):
        options = {"clean_caption": False, "use_resolution_binning": False} if make is tiny.pixart_sigma else {}
        arguments = {**(JOINT_RUN if make in (tiny.sd3, tiny.flux) else RUN), **options}
        expected, _ = assert_exact(make(), arguments, row=row)
        pipe = offloaded(make(), way)
        trace, kernel = assert_exact(pipe, arguments, row=row)
        assert_own_keys(trace, kernel, row, 2e-5)  # measured: 0 static, 2.4e-6 replayed
        assert torch.equal(trace.maps("a boat").token_maps, expected.maps("a boat").token_maps)
        assert trace.text.space == expected.text.space

    def test_a_real_image_by_sequential_offload(self):
        pipe, picture = tiny.sd1(), torch.rand(32, 32, 3).numpy()
        expected = ovam.encode(pipe, picture, timesteps=(100,)).maps("dog").token_maps
        pipe = offloaded(tiny.sd1(), "sequential")
        assert torch.equal(ovam.encode(pipe, picture, timesteps=(100,)).maps("dog").token_maps, expected)

    @needs_groups
    @pytest.mark.user_error
    def test_weights_on_disk_are_refused(self, tmp_path):
        pipe = tiny.sd1()
        way = {"offload_type": "leaf_level", "offload_to_disk_path": str(tmp_path)}
        pipe.unet.enable_group_offload(onload_device=torch.device("cpu"), **way)
        with pytest.raises(UnsupportedPipelineError, match="on disk between calls"), ovam.capture(pipe):
            pass


@pytest.mark.filterwarnings("ignore:.upcast_vae. is deprecated:FutureWarning")  # SDXL's own call
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("make", "row"), [(tiny.sd1, 1), (tiny.sdxl, 1), (tiny.sd3, 1), (tiny.flux, 0)])
def test_narrow_pipelines(make, row, dtype):
    pipe, arguments = make().to(dtype), JOINT_RUN if make in (tiny.sd3, tiny.flux) else RUN
    trace, kernel = assert_exact(pipe, arguments, row=row)
    largest = max(keys.abs().max().item() for calls in kernel.values() for _, keys in calls)
    unit = 2**-10 if dtype == torch.float16 else 2**-7
    assert_own_keys(trace, kernel, row, 4 * unit * largest)  # measured: at most 0.0075 of a block's largest key


class Quantised(nn.Module):
    """A linear layer that keeps whole numbers and a scale for each output, and no weight, as quantisers do."""

    def __init__(self, layer):
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        scale = layer.weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("scale", scale)
        self.register_buffer("codes", (layer.weight.detach() / scale).round().to(torch.int8))
        self.register_buffer("offset", None if layer.bias is None else layer.bias.detach())

    def forward(self, rows):
        return F.linear(rows, self.codes.to(rows.dtype) * self.scale.to(rows.dtype), self.offset)


class Codes(torch.Tensor):
    """A weight of whole numbers and scales that knows little besides a linear layer, as torchao's are."""

    @staticmethod
    def __new__(cls, codes, scale):
        return torch.Tensor._make_wrapper_subclass(cls, codes.shape, dtype=scale.dtype)

    def __init__(self, codes, scale):
        self.codes, self.scale = codes, scale

    def __tensor_flatten__(self):
        return ["codes", "scale"], None

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is F.linear:
            return F.linear(args[0], args[1].codes * args[1].scale, *args[2:])
        return super().__torch_function__(func, types, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.detach.default:
            return cls(args[0].codes, args[0].scale)
        raise NotImplementedError(func)


def with_codes(layer):
    made = Quantised(layer)
    layer.weight = nn.Parameter(Codes(made.codes, made.scale), requires_grad=False)
    return layer


LAYERWISE = [(tiny.sd1, 1), (tiny.sdxl, 1), (tiny.pixart_sigma, 1), (tiny.sd3, 1), (tiny.flux, 0)]


@pytest.mark.parametrize(("make", "row"), LAYERWISE)
def test_weights_stored_in_eight_bit_floats_and_computed_with_in_others(make, row, tmp_path):
    """diffusers' layerwise casting: a layer's weights are in the type that computes within its own call alone."""
    options = {"clean_caption": False, "use_resolution_binning": False} if make is tiny.pixart_sigma else {}
    arguments, pipe = {**(JOINT_RUN if make in (tiny.sd3, tiny.flux) else RUN), **options}, make()
    denoiser = backbone_of(pipe).denoiser
    denoiser.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    trace, kernel = assert_exact(pipe, arguments, row=row, dtype=torch.float32)
    assert_own_keys(trace, kernel, row, 2e-5)  # measured: 0 static, 9.5e-7 replayed
    with ovam.stream(pipe, "a boat") as streamed:
        run(pipe, arguments)
    maps = trace.maps("a boat").token_maps
    torch.testing.assert_close(streamed[0].token_maps, maps, rtol=0, atol=1e-6)  # measured: 1.2e-7
    trace.save(tmp_path / "run.safetensors")
    loaded = ovam.Trace.load(tmp_path / "run.safetensors", text=pipe)
    assert torch.equal(loaded.maps("a boat").token_maps, maps)


def calibrated(layer, scale):
    """A layer whose input is rounded and cut by a scale that was fixed before."""
    layer.register_forward_pre_hook(lambda module, args: (args[0].div(scale).round().clamp(-127, 127) * scale,))
    made = nn.Sequential(layer)
    made.in_features, made.out_features = layer.in_features, layer.out_features
    return made


def linear_layers(denoiser):
    return [name for name, module in denoiser.named_modules() if type(module) is nn.Linear and "blocks" in name]


def quantised(denoiser, make=Quantised):
    """All linear layers in the blocks."""
    for name in linear_layers(denoiser):
        owner, _, own = name.rpartition(".")
        setattr(denoiser.get_submodule(owner), own, make(denoiser.get_submodule(name)))
    return denoiser


def dynamically(denoiser):
    """By torch itself: weights packed in eight bits, inputs rounded as they come, by one scale for a whole batch."""
    return torch.ao.quantization.quantize_dynamic(denoiser, {*linear_layers(denoiser)}, inplace=True)


class TestQuantised:
    def test_keys_are_made_by_asking_the_layers(self, tmp_path):
        pipe = tiny.sd1()
        plain, _ = assert_exact(pipe, row=1)
        quantised(pipe.unet)
        assert not any(hasattr(module.to_k, "weight") for module in pipe.unet.modules() if hasattr(module, "to_k"))
        trace, kernel = assert_exact(pipe, row=1)
        assert_own_keys(trace, kernel, 1, 0.0)
        assert not torch.equal(trace.maps("dog").token_maps, plain.maps("dog").token_maps)
        trace.save(tmp_path / "run.safetensors")
        loaded = ovam.Trace.load(tmp_path / "run.safetensors", text=pipe)
        assert torch.equal(loaded.maps("dog").token_maps, trace.maps("dog").token_maps)

    def test_keys_are_float32_where_the_model_runs_in_autocast(self):
        pipe = tiny.sd1()
        quantised(pipe.unet)
        expected, _ = assert_exact(pipe, row=1)
        with torch.autocast("cpu", torch.bfloat16):
            trace, _ = assert_exact(pipe, row=1)
        assert expected.text.projections.keys() == trace.text.projections.keys()
        for name, matrix in expected.text.projections.items():
            assert torch.equal(trace.text.projections[name], matrix), name

    @pytest.mark.parametrize(("make", "row"), [(tiny.sd3, 1), (tiny.flux, 0)])
    def test_joint_attention_runs_words_through_them(self, make, row):
        pipe = make()
        quantised(pipe.transformer)
        trace, kernel = assert_exact(pipe, JOINT_RUN, row=row)
        assert_own_keys(trace, kernel, row, 2e-5)

    def test_a_narrow_model(self):
        pipe = tiny.sd1()
        quantised(pipe.unet)
        trace, _ = assert_exact(pipe.to(torch.bfloat16), row=1)
        assert trace.text.projections[BLOCK].dtype == torch.bfloat16

    @pytest.mark.parametrize(("make", "row"), [(tiny.sd1, 1), (tiny.sd3, 1), (tiny.flux, 0)])
    def test_weights_of_a_kind_of_their_own(self, make, row, tmp_path):
        pipe = make()
        quantised(backbone_of(pipe).denoiser, with_codes)
        trace, kernel = assert_exact(pipe, RUN if make is tiny.sd1 else JOINT_RUN, row=row)
        assert_own_keys(trace, kernel, row, 2e-5)
        trace.save(tmp_path / "run.safetensors")
        loaded = ovam.Trace.load(tmp_path / "run.safetensors", text=pipe)
        assert torch.equal(loaded.maps("dog").token_maps, trace.maps("dog").token_maps)

    @pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
    @pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor, torch.quantize:UserWarning")
    @pytest.mark.parametrize(("make", "row"), [(tiny.sd1, 1), (tiny.sd3, 1), (tiny.flux, 0)])
    def test_torchs_own_dynamic_quantisation(self, make, row, caplog):
        pipe = make()
        denoiser = dynamically(backbone_of(pipe).denoiser)
        trace, kernel = assert_exact(pipe, RUN if make is tiny.sd1 else JOINT_RUN, row=row)
        largest = max(keys.abs().max().item() for calls in kernel.values() for _, keys in calls)
        assert_own_keys(trace, kernel, row, 0.06 * largest)  # measured: at most 0.028, inputs rounded by the batch
        before = trace.maps("a boat").token_maps
        assert not caplog.records
        layer = next(module for name, module in denoiser.named_modules() if name.endswith(("attn2.to_k", "add_k_proj")))
        layer.set_weight_bias(torch.quantize_per_tensor(torch.ones(layer.weight().shape), 0.1, 0, torch.qint8), None)
        if make is tiny.sd1:
            assert torch.equal(trace.maps("a boat").token_maps, before)
            assert "was changed since the run" in caplog.text
        else:
            with pytest.raises(SpaceMismatchError, match="was changed since the run"):
                trace.maps("a boat")

    @pytest.mark.user_error
    @pytest.mark.parametrize("scale", [0.003, 0.3], ids=["cut", "coarse"])
    def test_scales_from_before_are_refused(self, scale):
        pipe = tiny.sd1()
        quantised(pipe.unet, partial(calibrated, scale=scale))
        with pytest.raises(UnsupportedPipelineError, match="a Sequential, which makes keys, is not linear"):
            assert_exact(pipe, row=1)

    @pytest.mark.user_error
    def test_activations_in_codes_are_refused_by_name(self):
        pipe = tiny.sd1()
        pipe.unet.mid_block.attentions[0].proj_in.activation_qtype = torch.int8  # as optimum-quanto marks a layer
        with pytest.raises(UnsupportedPipelineError, match=r"optimum-quanto rounds the .*proj_in"), ovam.capture(pipe):
            pass


class TestChangedSince:
    """A trace answers with the projection it ran with, and says so."""

    def adapted(self):
        peft = pytest.importorskip("peft")
        pipe = tiny.sd1()
        config = peft.LoraConfig(r=2, lora_alpha=2, target_modules=["to_k"], init_lora_weights=False)
        return pipe, lambda: pipe.unet.add_adapter(config, "style")

    def test_an_adapter_that_came_later(self, caplog):
        pipe, adapt = self.adapted()
        trace, _ = assert_exact(pipe, row=1)
        before = trace.maps("a boat").token_maps
        assert not caplog.records
        adapt()
        assert torch.equal(trace.maps("a boat").token_maps, before)
        assert torch.equal(trace.maps("a boat").token_maps, before)
        (record,) = caplog.records
        assert "was changed since the run" in record.message
        assert "down_blocks.0" in record.message
        now, kernel = assert_exact(pipe, row=1)
        assert_own_keys(now, kernel, 1, 2e-5)  # measured: 6e-6, the order of additions
        assert not torch.equal(now.maps("a boat").token_maps, before)

    def test_an_adapter_whose_weight_was_set_later(self, caplog):
        pipe, adapt = self.adapted()
        adapt()
        trace, _ = assert_exact(pipe, row=1)
        pipe.unet.set_adapters("style", 0.5)
        trace.maps("dog")
        assert "was changed since the run" in caplog.text

    def test_weights_that_only_moved_are_no_change(self, caplog):
        pipe = tiny.sd1()
        trace, _ = assert_exact(pipe, row=1)
        for weight in pipe.unet.parameters():
            weight.data = weight.data.clone()
        trace.maps("dog")
        assert not caplog.records
        del pipe
        trace.maps("dog")


# torch's own, of the interpreter's deprecations
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
class TestCompiled:
    """Compiled code leaves out hooks that came later."""

    WAYS = ("wrapped", "in place", "blocks", "forward")

    def compiled(self, pipe, way, backend):
        torch._dynamo.reset()
        if way == "wrapped":
            pipe.unet = torch.compile(pipe.unet, backend=backend)
        elif way == "in place":
            pipe.unet.compile(backend=backend)
        elif way == "blocks":
            pipe.unet.mid_block.compile(backend=backend)
            pipe.unet.up_blocks[1].compile(backend=backend)
        else:
            pipe.unet.forward = torch.compile(pipe.unet.forward, backend=backend)
        return pipe

    @pytest.mark.parametrize("way", WAYS)
    def test_it_runs_uncompiled_with_a_note_and_compiled_again_afterwards(self, way, caplog):
        arguments = {**RUN, "num_inference_steps": 2}
        expected, _ = assert_exact(tiny.sd1(), arguments, row=1)
        frames = []

        def counting(graph, inputs):
            frames.append(graph)
            return graph.forward

        pipe = self.compiled(tiny.sd1(), way, counting)
        plain = run(pipe, arguments)
        compiled, before = len(frames), snapshot(pipe)
        assert compiled
        with ovam.capture(pipe, dtype=torch.float32) as traces:
            captured = run(pipe, arguments)
        assert "runs uncompiled here" in caplog.text
        assert_restored(pipe, before, "after a capture")
        assert abs(captured - plain).max() <= 1e-4  # measured: 0; a backend that fuses rounds otherwise
        for name, block in traces[0].blocks.items():
            assert torch.equal(block.query["cond"], expected.blocks[name].query["cond"])
        assert (run(pipe, arguments) == plain).all()
        assert len(frames) == compiled, "compiled anew"

    @pytest.mark.user_error
    def test_a_part_that_is_wrapped_is_refused_by_name(self):
        pipe = tiny.sd1()
        pipe.unet.mid_block = torch.compile(pipe.unet.mid_block, backend="eager")
        with (
            pytest.raises(UnsupportedPipelineError, match=r"'mid_block' is wrapped by torch\.compile"),
            ovam.capture(pipe),
        ):
            pass


@pytest.mark.parametrize("make", [tiny.sd1, tiny.sdxl, tiny.pixart_sigma, tiny.sd3, tiny.flux])
def test_a_compiled_text_encoder_is_still_the_same(make):
    """Wrapped, it has another class and other names of weights; nothing is compiled before it runs."""
    pipe = make()
    plain = backbone_of(pipe).reader().space
    for part in [part for part in pipe.components if part.startswith("text_encoder")]:
        setattr(pipe, part, torch.compile(getattr(pipe, part), backend="eager"))
    assert backbone_of(pipe).reader().space == plain


def merging(block_class):
    """A block as token merging makes it: half of the pixels before each attention, and all of them again behind it."""

    class ToMeBlock(block_class):
        _parent = block_class

        def forward(self, hidden_states, *args, **kwargs):
            return super().forward(hidden_states[:, ::2], *args, **kwargs).repeat_interleave(2, dim=1)

    return ToMeBlock


class TestMergedTokens:
    def patched(self):
        pipe = tiny.sd1()
        for module in pipe.unet.modules():
            if type(module).__name__ == "BasicTransformerBlock":
                module.__class__ = merging(type(module))
        return pipe

    @pytest.mark.user_error
    def test_refused_by_name_until_it_is_taken_off(self):
        pipe = self.patched()
        plain = run(pipe)
        for watching in (ovam.capture(pipe), ovam.stream(pipe, "dog")):
            with pytest.raises(UnsupportedPipelineError, match=r"token merging \(tomesd\).*remove_patch"), watching:
                pass
        assert (run(pipe) == plain).all()
        for module in pipe.unet.modules():
            if type(module).__name__ == "ToMeBlock":
                module.__class__ = module._parent
        assert_exact(pipe, row=1)

    @pytest.mark.user_error
    def test_pixels_that_are_missing_are_noticed_whoever_took_them(self):
        pipe = self.patched()
        for module in pipe.unet.modules():
            if type(module).__name__ == "ToMeBlock":
                type(module).__name__ = "Halved"
        with ovam.capture(pipe), pytest.raises(UnsupportedPipelineError, match=r"attends from 128 pixels.*16 x 16"):
            run(pipe)


def test_a_subclass_is_read_as_its_parent_with_a_note(caplog):
    base = tiny.sd1()
    kind = type("StudioPipeline", (type(base),), {})
    pipe = kind(**base.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    with caplog.at_level(logging.WARNING, logger="ovam"):
        trace, _ = assert_exact(pipe, row=1)
    assert "StudioPipeline is treated as its base class StableDiffusionPipeline" in caplog.text
    assert (trace.source.pipeline, trace.source.prompt) == ("StudioPipeline", PROMPT)
