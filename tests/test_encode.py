"""Real images as traces, held against the same computation done by hand."""

from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, StableDiffusionXLImg2ImgPipeline
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image

import ovam
import tiny
from ovam.errors import CaptureTooLargeError, ImageInputError, MissingBlockError, OptionError, PromptTooLongError
from ovam.tracing.encode_options import TIMESTEPS

SIDE = 32  # the tiny models' native size


def photo(height=SIDE, width=SIDE, mode="RGB"):
    """Coloured noise, the same every time."""
    channels = np.random.default_rng(0).integers(0, 256, (height, width, 4), dtype=np.uint8)
    return Image.fromarray(channels).convert(mode)


def queries(trace):
    return {name: block.query["cond"] for name, block in trace.blocks.items()}


def assert_same_queries(one, other):
    assert list(one.blocks) == list(other.blocks)
    for name, query in queries(one).items():
        assert torch.equal(query, queries(other)[name]), name


def differ(one, other):
    return all(not torch.equal(query, queries(other)[name]) for name, query in queries(one).items())


def state(pipe):
    """Everything of a pipeline that an encoding could leave changed."""
    networks = [pipe.unet, pipe.vae, pipe.text_encoder]
    modules = [module for network in networks for module in network.modules()]
    hooks = [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in modules]
    gradients = [parameter.requires_grad for parameter in pipe.unet.parameters()]
    return (
        dict(vars(pipe)),
        dict(vars(pipe.image_processor)),
        [module.training for module in modules],
        hooks,
        gradients,
        torch.get_rng_state().tolist(),
    )


@contextmanager
def unchanged(pipe):
    before = state(pipe)
    yield
    assert state(pipe) == before


def clean_latent(pipe):
    """What the denoiser is handed of the photo without noise."""
    latents = []
    handle = pipe.unet.register_forward_pre_hook(lambda unet, inputs: latents.append(inputs[0]))
    ovam.encode(pipe, photo(), method="clean", timesteps=[0])
    handle.remove()
    return latents[0]


class TestByHand:
    @pytest.mark.parametrize("pipe_name", ["sd1", "sd2"])
    @pytest.mark.parametrize("prompt", ["", 'a dog by the "STOP" sign'])
    def test_equals_the_formula(self, request, pipe_name, prompt):
        """sqrt(a) * latent + sqrt(1 - a) * noise at each time step, most noise first, and the UNet's own queries."""
        pipe = request.getfixturevalue(pipe_name)
        image = photo()
        trace = ovam.encode(pipe, image, prompt=prompt, timesteps=(100, 600), noises=2, seed=5, dtype=torch.float32)
        seen, handles = {name: [] for name in trace.blocks}, []
        for name, outputs in seen.items():
            keep = partial(lambda outputs, module, inputs, output: outputs.append(output[0]), outputs)
            handles.append(pipe.unet.get_submodule(name).to_q.register_forward_hook(keep))
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255 * 2 - 1
        noise = torch.Generator().manual_seed(5)
        with torch.no_grad():
            ids = pipe.tokenizer(prompt, padding="max_length", return_tensors="pt").input_ids
            context = pipe.text_encoder(ids).last_hidden_state
            clean = pipe.vae.encode(pixels).latent_dist.mean * pipe.vae.config.scaling_factor
            for timestep in (600, 600, 100, 100):
                signal = pipe.scheduler.alphas_cumprod[timestep]
                noisy = signal**0.5 * clean + (1 - signal) ** 0.5 * torch.randn(clean.shape, generator=noise)
                pipe.unet(noisy, timestep, context)
        for handle in handles:
            handle.remove()
        assert [(call.step, call.timestep) for call in trace.calls] == [(0, 600), (0, 600), (1, 100), (1, 100)]
        for name, query in queries(trace).items():
            by_head = [output.unflatten(-1, (query.shape[0], -1)).transpose(0, 1) for output in seen[name]]
            # measured: 4e-4 of queries up to 23, from the order of the formula's operations; with another noise: 30
            torch.testing.assert_close(query, torch.stack(by_head, dim=1), rtol=0, atol=5e-3)

    def test_defaults_cover_every_time_step_once(self, sd1):
        trace = ovam.encode(sd1, photo())
        assert [call.timestep for call in trace.calls] == sorted(TIMESTEPS, reverse=True)
        assert {query.dtype for query in queries(trace).values()} == {torch.float16}


class TestLatent:
    def test_of_an_autoencoder_without_a_distribution(self):
        pipe = tiny.sd1()
        levels = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
        pipe.vae = AutoencoderTiny(**levels, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1), scaling_factor=0.5)
        with torch.no_grad():
            expected = pipe.vae.encoder(pipe.image_processor.preprocess(photo())) * 0.5
        assert torch.equal(clean_latent(pipe), expected)

    def test_with_a_mean_and_deviation_for_each_channel(self):
        """As in the pipeline that begins with an image, which draws where `encode` takes the mode."""
        pipe = tiny.sdxl()
        pipe.vae.register_to_config(latents_mean=[-1.6, 1.9, -1.4, 2.5], latents_std=[8.5, 5.9, 6.5, 5.2])
        drawing = StableDiffusionXLImg2ImgPipeline(**pipe.components, add_watermarker=False)
        pixels = pipe.image_processor.preprocess(photo())
        with torch.no_grad(), patch.object(DiagonalGaussianDistribution, "sample", lambda found, _: found.mode()):
            expected = drawing.prepare_latents(pixels, None, 1, 1, torch.float32, "cpu", add_noise=False)
        torch.testing.assert_close(clean_latent(pipe), expected, rtol=0, atol=1e-6)  # measured: 1.5e-8


class TestImages:
    def test_file_picture_and_array_are_one_image(self, sd1, tmp_path):
        image = photo()
        image.save(tmp_path / "photo.png")
        floats = np.asarray(image).astype(np.float32) / 255
        expected = ovam.encode(sd1, image, timesteps=[300])
        for given in (tmp_path / "photo.png", str(tmp_path / "photo.png"), np.asarray(image), floats):
            assert_same_queries(ovam.encode(sd1, given, timesteps=[300]), expected)

    def test_picture_and_size_are_the_originals(self, sd1):
        """A photo twice as wide as high, at its proportions in the model's own area, and maps at its own size."""
        image = photo(50, 100)
        trace = ovam.encode(sd1, image, timesteps=[300])
        assert trace.size == (50, 100)
        assert trace.image.tobytes() == image.tobytes()
        assert {block.grid for block in trace.blocks.values()} == {(12, 24), (6, 12)}
        assert trace.maps(["dog"]).resized().token_maps.shape[-2:] == (50, 100)
        assert (trace.source.kind, trace.source.prompt, trace.source.seed) == ("encoded", "", 0)

    def test_size_for_the_model_is_height_by_width(self, sd1):
        trace = ovam.encode(sd1, photo(), timesteps=[300], size=(48, 24))
        assert {block.grid for block in trace.blocks.values()} == {(24, 12), (12, 6)}
        assert trace.size == (SIDE, SIDE)

    def test_transparent_pixels_become_white(self, sd1):
        image = photo(mode="RGBA")
        image.putalpha(0)
        trace = ovam.encode(sd1, image, timesteps=[300])
        assert trace.image.getextrema() == ((255, 255),) * 3

    def test_a_photo_is_turned_upright(self, sd1, tmp_path):
        """As cameras tell it, and as every viewer shows it."""
        lying = photo(32, 64)
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera was held upright
        lying.save(tmp_path / "phone.png", exif=exif)
        trace = ovam.encode(sd1, tmp_path / "phone.png", timesteps=[300])
        assert trace.size == (64, 32)
        assert trace.image.tobytes() == lying.transpose(Image.Transpose.ROTATE_270).tobytes()

    @pytest.mark.parametrize("mode", ["L", "P", "CMYK"])
    def test_other_kinds_of_picture(self, sd1, mode):
        trace = ovam.encode(sd1, photo(mode=mode), timesteps=[300])
        assert trace.image.tobytes() == photo(mode=mode).convert("RGB").tobytes()


class TestNoise:
    def test_seed_decides(self, sd1):
        torch.manual_seed(1)
        first = ovam.encode(sd1, photo(), timesteps=[300], seed=7)
        torch.manual_seed(2)
        assert_same_queries(ovam.encode(sd1, photo(), timesteps=[300], seed=7), first)
        assert differ(ovam.encode(sd1, photo(), timesteps=[300], seed=8), first)

    def test_each_noise_is_another(self, sd1):
        trace = ovam.encode(sd1, photo(), timesteps=[300], noises=3)
        assert [(call.index, call.step) for call in trace.calls] == [(0, 0), (1, 0), (2, 0)]
        for query in queries(trace).values():
            assert not torch.equal(query[:, 0], query[:, 1])
            assert not torch.equal(query[:, 1], query[:, 2])

    def test_prompt_reaches_the_denoiser(self, sd1):
        """All but the first block's queries are made of what the blocks before them read from the text."""
        empty, named = (
            list(queries(ovam.encode(sd1, photo(), prompt=text, timesteps=[300])).values()) for text in ("", "dog")
        )
        assert torch.equal(empty[0], named[0])
        assert not any(torch.equal(one, other) for one, other in zip(empty[1:], named[1:], strict=True))


class TestPipeline:
    def test_is_left_as_it_was(self):
        """Parts in training mode among others, frozen and trained weights, what an earlier run noted down."""
        pipe = tiny.sd1()
        pipe("a dog", num_inference_steps=1, height=SIDE, width=SIDE)
        pipe.unet.train()
        pipe.unet.mid_block.eval()
        pipe.vae.encoder.train()
        pipe.text_encoder.train()
        pipe.unet.conv_in.requires_grad_(False)
        with unchanged(pipe):
            trace = ovam.encode(pipe, photo(), prompt="a dog", timesteps=[300])
        assert not any(query.requires_grad for query in queries(trace).values())

    def test_dropout_is_off(self):
        pipe = tiny.sd1()
        calm = ovam.encode(pipe, photo(), timesteps=[300])
        for module in pipe.unet.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.5
        pipe.unet.train()
        assert_same_queries(ovam.encode(pipe, photo(), timesteps=[300]), calm)

    def test_an_earlier_runs_skipped_text_layers_do_not_matter(self):
        pipe = tiny.sd1()
        before = ovam.encode(pipe, photo(), prompt="a dog", timesteps=[300])
        pipe._clip_skip = 1  # as the pipeline notes it down in its call
        after = ovam.encode(pipe, photo(), prompt="a dog", timesteps=[300])
        assert pipe._clip_skip == 1
        assert_same_queries(after, before)
        assert after.text.space == before.text.space

    def test_is_restored_after_an_error_inside(self):
        pipe = tiny.sd1()
        pipe.unet.train()

        def fail(*args):
            raise ZeroDivisionError

        handle = pipe.unet.up_blocks[1].register_forward_pre_hook(fail)
        with unchanged(pipe), pytest.raises(ZeroDivisionError):
            ovam.encode(pipe, photo())
        handle.remove()
        assert len(ovam.encode(pipe, photo(), timesteps=[300]).calls) == 1


class TestBadInput:
    @pytest.mark.parametrize(
        ("image", "message"),
        [
            (np.zeros((32, 32), np.uint8), r"shape \(32, 32\) and type uint8: expected \(height, width, 3\)"),
            (np.zeros((3, 32, 32), np.uint8), r"shape \(3, 32, 32\)"),
            (np.zeros((32, 32, 3), np.int64), "type int64"),
            (np.full((32, 32, 3), 255.0), r"from 255.0 to 255.0: expected them in \[0, 1\]; divide by 255"),
            (np.full((32, 32, 3), -0.1), "from -0.1"),
            (np.full((32, 32, 3), np.nan), "from nan"),
            (np.zeros((0, 32, 3), np.uint8), "0 x 32 pixels"),
            (np.zeros((0, 32, 3), np.float32), "0 x 32 pixels"),
            (Image.fromarray(np.full((32, 32), 4000, np.uint16)), "mode I;16"),
            (Image.new("F", (32, 32)), "mode F"),
        ],
    )
    def test_images_of_another_kind(self, sd1, image, message):
        with unchanged(sd1), pytest.raises(ImageInputError, match=message):
            ovam.encode(sd1, image)

    @pytest.mark.user_error
    @pytest.mark.parametrize("image", [torch.zeros(32, 32, 3), None, b"PNG"])
    def test_objects_of_another_kind(self, sd1, image):
        with pytest.raises(ImageInputError, match=rf"image is a {type(image).__name__}: expected a file name"):
            ovam.encode(sd1, image)

    def test_files(self, sd1, tmp_path):
        with pytest.raises(ImageInputError, match=r"absent\.png is not there"):
            ovam.encode(sd1, tmp_path / "absent.png")
        (tmp_path / "text.png").write_text("no picture")
        with pytest.raises(ImageInputError, match=r"text\.png can't be read.*expected a PNG"):
            ovam.encode(sd1, tmp_path / "text.png")
        with pytest.raises(ImageInputError, match="can't be read"):
            ovam.encode(sd1, tmp_path)
        photo().save(tmp_path / "program.png", "EPS")  # Pillow would start Ghostscript to read it
        with pytest.raises(ImageInputError, match=r"program\.png can't be read"):
            ovam.encode(sd1, tmp_path / "program.png")
        photo().save(tmp_path / "cut.png")
        (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:900])
        with pytest.raises(ImageInputError, match=r"cut\.png can't be read"):
            ovam.encode(sd1, tmp_path / "cut.png")

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"timesteps": ()}, OptionError, r"timesteps=\(\): expected at least one"),
            ({"timesteps": (1000,)}, OptionError, "from 0 to 999"),
            ({"timesteps": (-1, 50)}, OptionError, "from 0 to 999"),
            ({"noises": 0}, OptionError, "noises=0: expected a whole number of at least 1"),
            ({"timesteps": np.array([])}, OptionError, r"timesteps=\(\): expected at least one"),
            ({"timesteps": np.array([1000])}, OptionError, "from 0 to 999"),
            ({"seed": 2**64}, OptionError, "seed=18446744073709551616: expected .* to 18446744073709551615"),
            ({"seed": -(2**63) - 1}, OptionError, "seed=-9223372036854775809: expected"),
            ({"size": (0, 32)}, OptionError, r"size=\(0, 32\): expected \(height, width\)"),
            ({"size": (32, 31)}, OptionError, "positive multiple of 2"),
            ({"blocks": [5]}, MissingBlockError, "16x16, 8x8"),
            ({"limit_gib": 1e-9}, CaptureTooLargeError, "7 denoiser calls"),
            ({"prompt": "dog " * 90}, PromptTooLongError, "92 tokens.*would be cut"),
        ],
    )
    def test_options(self, sd1, options, error, message):
        with unchanged(sd1), pytest.raises(error, match=message):
            ovam.encode(sd1, photo(), **options)

    def test_the_largest_seed_is_taken(self, sd1):
        trace = ovam.encode(sd1, photo(), timesteps=np.array([100, 300]), seed=2**64 - 1)
        assert trace.source.seed == 2**64 - 1
        assert_same_queries(trace, ovam.encode(sd1, photo(), timesteps=(100, 300), seed=2**64 - 1))
        assert [call.timestep for call in trace.calls] == [300.0, 100.0]

    @pytest.mark.user_error
    def test_time_steps_between_two(self, sd1):
        with pytest.raises(OptionError, match="whole number"):
            ovam.encode(sd1, photo(), timesteps=[50.5])
