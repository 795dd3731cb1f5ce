"""Stage 3: the denoiser, a UNet with cross attention at grids of 32, 16 and 8, trained on noise prediction.

Half size first, where a picture costs a third, then both in turns, full size alone last. Captions are dropped in
10 % of samples, for guidance. No mask of a thing supervises the attention.

In half of the samples the end and padding tokens are masked out of the context. Each of them holds the whole
caption, so that a denoiser may do without the words: without masking, padding took more than half of the attention.
With masking alone a class word's map was still no better on its object than an absent word's, hence the alignment.

In some samples the caption is joined with that of another scene or gives way to it, as captions from the web name
much that is not in their picture: only there must the denoiser find out which words are true of what it sees. It did
not by itself, so that it is told which of the words belong to the picture: see `matching`.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from ovam.mini.training import alignment, matching
from ovam.mini.training.loop import (
    DEVICE,
    Average,
    Log,
    batches,
    half_precision,
    load_tensors,
    save_tensors,
)
from ovam.mini.training.pool import Pool
from ovam.mini.training.text_tower import PICTURE_SIZE, PictureTower

RATE, WARM_ITERATIONS, COOLING_ITERATIONS = 6e-4, 100, 1000
CAPTION_SHARES, MASKED_ENDS = (0.1, 0.1, 0.45, 0.35), 0.5  # none, foreign, joined, own
_CHECKPOINT_EVERY = 100


@dataclass(frozen=True)
class Phase:
    """`iterations` iterations on pictures of `sizes` in turns, each with its number of pictures a batch."""

    iterations: int
    sizes: tuple[tuple[int, int], ...]


PHASES = (Phase(4000, ((64, 64),)), Phase(3500, ((128, 32), (64, 64))), Phase(4000, ((128, 32),)))


@dataclass(frozen=True)
class _Texts:
    """Texts of a batch: hidden states (sample, position, width), which positions may be attended, which belong."""

    states: Tensor
    attended: Tensor
    belongs: Tensor


def build_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=32,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 128, 192),
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        layers_per_block=1,
        cross_attention_dim=192,
        attention_head_dim=(2, 4, 6),  # numbers of heads, 32 channels each
        norm_num_groups=16,
    )


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion 1's noise schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def _loss_weights(scheduler: DDIMScheduler, timesteps: Tensor) -> Tensor:
    """Weight 1 / sqrt(signal to noise) of each sample's loss: Yu et al., arXiv:2310.08442.

    An error in the noise is a small one in the picture where little noise is left, and a large one where the
    shapes are decided; unweighted, or weighted by Hang et al. (arXiv:2303.09556), mini drew textures without shapes.
    """
    signal = scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
    return ((1 - signal) / signal).sqrt()


def _rate(iteration: int, since_resumed: int, total: int) -> float:
    """The learning rate: warmed up after every start, constant, and linearly down to 0 at the very end."""
    return RATE * min(1.0, (since_resumed + 1) / WARM_ITERATIONS, (total - iteration) / COOLING_ITERATIONS)


def checkpoint_of(folder: Path) -> Path:
    """Where a run's raw and averaged weights and its iteration are kept."""
    return folder.with_suffix(".checkpoint.safetensors")


def averaged_unet(folder: Path) -> tuple[UNet2DConditionModel, int]:
    """The averaged weights of a run as they stand, and the iteration they are of."""
    tensors = load_tensors(checkpoint_of(folder))
    model = build_unet()
    model.load_state_dict({name[4:]: value.cpu() for name, value in tensors.items() if name.startswith("ema.")})
    return model, int(tensors["iteration"])


class DenoiserTraining:
    """State of the run: raw weights, averaged weights, iteration; resumes from its own checkpoint.

    The rate is constant until the last stretch, so that a run may be broken off, shipped and taken up again at any
    iteration before it. The optimiser's moments are not kept: it is warmed up again.
    """

    def __init__(
        self,
        folder: Path,
        latents: dict[int, Tensor],
        pool: Pool,
        tokenizer: CLIPTokenizer,
        encoder: CLIPTextModel,
        tower: PictureTower,
        *,
        seed: int = 0,
    ) -> None:
        self.seed = 2 + 10**6 * seed
        self.folder, self.latents, self.pool = folder, latents, pool
        self.tokenizer, self.encoder = tokenizer, encoder.eval().requires_grad_(False)
        torch.manual_seed(self.seed)
        self.model, self.scheduler = build_unet().to(DEVICE), build_scheduler()
        self.alignment = alignment.Alignment(self.model, tower).to(DEVICE)
        self.matching = matching.Matching(self.model)
        self._names_nothing = self._tokens(matching.NAME_NOTHING)
        self.iteration = 0
        self.average = Average(self.model)
        self.checkpoint = checkpoint_of(folder)
        if self.checkpoint.exists():
            self._resume()
        torch.manual_seed(self.seed + self.iteration)  # a run that is taken up again sees other noise than before

    def _resume(self) -> None:
        tensors = load_tensors(self.checkpoint)
        self.iteration = int(tensors.pop("iteration"))
        self.model.load_state_dict({k[4:]: v for k, v in tensors.items() if k.startswith("raw.")})
        if told := {k[6:]: v for k, v in tensors.items() if k.startswith("align.")}:
            self.alignment.load_state_dict(told)
        self.average.values = {name: tensors[f"ema.{name}"] for name in self.average.values}  # in the model's order

    def _save(self) -> None:
        tensors = {f"raw.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"align.{name}": value for name, value in self.alignment.state_dict().items()}
        tensors |= {f"ema.{name}": value for name, value in self.average.values.items()}
        save_tensors(tensors | {"iteration": torch.tensor(self.iteration)}, self.checkpoint)

    def _texts(self, indices: Tensor, random: np.random.Generator) -> _Texts:
        """A text for each scene, with or without the scene's own caption."""
        captions = [self._captions(i, random) for i in indices.tolist()]
        shuffled = [[pair[i] for i in random.permutation(2)] for pair in captions]
        texts = [", ".join(filter(None, pair)) for pair in shuffled]
        ids = self.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        ends = (ids == self.encoder.config.eos_token_id).int().argmax(1, keepdim=True)
        unmasked = torch.from_numpy(random.random((len(ids), 1)) >= MASKED_ENDS) | (ends == 1)  # 1: no word at all
        attended = unmasked | (torch.arange(ids.shape[1]) < ends)
        states = self.encoder(ids.to(DEVICE)).last_hidden_state.detach()
        return _Texts(states, attended.to(DEVICE), self._belonging(captions, ids).to(DEVICE))

    def _captions(self, scene: int, random: np.random.Generator) -> tuple[str, str]:
        """A caption of the scene, and one of any other scene; either may be empty."""
        kind = random.choice(["none", "foreign", "joined", "own"], p=CAPTION_SHARES)
        other = int(random.integers(len(self.pool.captions)))
        return (
            str(random.choice(self.pool.captions[scene])) if kind in ("joined", "own") else "",
            str(random.choice(self.pool.captions[other])) if kind in ("joined", "foreign") else "",
        )

    def _belonging(self, captions: list[tuple[str, str]], ids: Tensor) -> Tensor:
        """Where two captions are joined, 1 for tokens of the own alone and -1 for those of the other alone; else 0."""
        belongs = torch.zeros(ids.shape, dtype=torch.int64)
        for i, pair in enumerate(captions):
            if all(pair):
                own, other = (self._tokens(text) - self._names_nothing for text in pair)
                belongs[i] += torch.isin(ids[i], torch.tensor([*own - other]))
                belongs[i] -= torch.isin(ids[i], torch.tensor([*other - own])).int()
        return belongs

    def _tokens(self, text: str) -> set[int]:
        return set(self.tokenizer(text, add_special_tokens=False).input_ids)

    def _loss(self, clean: Tensor, pictures: Tensor, texts: _Texts) -> dict[str, Tensor]:
        noise = torch.randn_like(clean)
        timesteps = torch.randint(0, self.scheduler.config.num_train_timesteps, (len(clean),), device=DEVICE)
        noisy = self.scheduler.add_noise(clean, noise, timesteps)
        signal = self.scheduler.alphas_cumprod.to(DEVICE)[timesteps]
        with half_precision():
            predicted = self.model(noisy, timesteps, texts.states, encoder_attention_mask=texts.attended).sample
            misaligned = self.alignment.loss(pictures)
            mismatched = self.matching.loss(texts.belongs, signal)
        errors = (predicted.float() - noise).square().mean((1, 2, 3))
        wrong = (errors * _loss_weights(self.scheduler, timesteps)).mean()
        return {"loss": wrong, "misaligned": misaligned, "mismatched": mismatched}

    def run(self, phases: tuple[Phase, ...] = PHASES) -> None:
        """Train through `phases`, from wherever the checkpoint stands."""
        trained = [*self.model.parameters(), *self.alignment.parameters()]
        optimiser = torch.optim.AdamW(trained, lr=RATE, betas=(0.9, 0.99), weight_decay=1e-2)
        log = Log(self.folder.with_suffix(".log.jsonl"))
        resumed_at, end_of_phase, end = self.iteration, 0, sum(phase.iterations for phase in phases)
        random = np.random.default_rng(self.seed + self.iteration)
        of_size = {
            (size, batch): batches(
                len(self.latents[size]), batch, torch.Generator().manual_seed(self.seed + self.iteration)
            )
            for phase in phases
            for size, batch in phase.sizes
        }
        for phase in phases:
            end_of_phase += phase.iterations
            while self.iteration < end_of_phase:
                size, batch = phase.sizes[self.iteration % len(phase.sizes)]
                indices = next(of_size[size, batch])
                pictures = self.pool.pictures(indices.numpy(), PICTURE_SIZE).to(DEVICE)
                texts = self._texts(indices, random)
                losses = self._loss(self.latents[size][indices].to(DEVICE).float(), pictures, texts)
                optimiser.param_groups[0]["lr"] = _rate(self.iteration, self.iteration - resumed_at, end)
                optimiser.zero_grad(set_to_none=True)
                total = losses["loss"] + alignment.WEIGHT * losses["misaligned"]
                (total + matching.WEIGHT * losses["mismatched"]).backward()
                torch.nn.utils.clip_grad_norm_(trained, 1.0)
                optimiser.step()
                self.iteration += 1
                self.average.update(self.iteration)
                log.add(self.iteration, **{name: loss.item() for name, loss in losses.items()})
                if self.iteration % _CHECKPOINT_EVERY == 0:
                    self._save()
        self._save()
