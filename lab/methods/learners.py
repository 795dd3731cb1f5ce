"""What one step of training does: the loss of a method's module on one sample."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from lab.methods.losses import PUBLISHED, Weighing, decoder_loss, grounding_loss
from lab.methods.samples import Sample
from ovam.maps.resize import resize
from ovam.methods.class_vectors import Vector, padded_mean, word_rows, word_vector
from ovam.methods.datasetdm import DatasetDM, best_mask, with_attention
from ovam.methods.datasetdm_decoder import THING
from ovam.methods.grounded import Grounded
from ovam.methods.grounded_module import grounded_layers
from ovam.methods.unet_read import Outline, features_of
from ovam.mini.scenes import CLASSES
from ovam.trace.calls import Half
from ovam.trace.text_side import TextSide, TokenEmbedding


@dataclass(frozen=True, eq=False)
class Learner(ABC):
    """A method that learns from one sample at a time, with its module on the CPU.

    Attributes:
        text: Text side of the model's traces.
        outline: The model's UNet.
        halves: Halves of guidance whose features are read.
        module: The method's module.
        classes: Classes that are learnt.
    """

    text: TextSide
    outline: Outline
    halves: tuple[Half, ...]
    module: nn.Module
    classes: Sequence[str]

    @abstractmethod
    def loss(self, sample: Sample, rng: np.random.Generator) -> Tensor:
        """Return the loss on a sample; `rng` chooses what is asked."""

    @abstractmethod
    def log_odds(self, sample: Sample, name: str) -> Tensor:
        """Return the log-odds of a class's mask (height, width), at any size."""


@dataclass(frozen=True, eq=False)
class GroundedLearner(Learner):
    """Grounded Diffusion: the masks of one class that is there, or of two that are asked together.

    Attributes:
        top_instance: Whether the target is the class's largest object alone, as in the authors' code, and not all of
            them.
    """

    top_instance: bool = False

    @cached_property
    def vectors(self) -> dict[str, Vector]:
        """Vector of each class of the world."""
        return {name: word_vector(self.text, Grounded.template, name) for name in CLASSES}

    def loss(self, sample: Sample, rng: np.random.Generator) -> Tensor:
        there = sample.names(self.classes)
        names = [str(name) for name in rng.permutation(there)[: rng.integers(1, 3)]]
        found = self._module(sample, names)
        wanted = np.stack([sample.mask(name, top_instance=self.top_instance) for name in names])
        found = resize(found, (wanted.shape[1], wanted.shape[2]))
        return grounding_loss(found, torch.from_numpy(wanted).float(), torch.from_numpy(sample.known))

    def log_odds(self, sample: Sample, name: str) -> Tensor:
        return self._module(sample, [name])[0]

    def _module(self, sample: Sample, names: Sequence[str]) -> Tensor:
        levels = features_of(sample.trace(), grounded_layers(self.outline), self.outline.levels, self.halves)
        return self.module(levels, torch.stack([self.vectors[name] for name in names])[None])[0]


@dataclass(frozen=True, eq=False)
class DatasetDMLearner(Learner):
    """DatasetDM: the mask of one class that is there.

    Attributes:
        as_released: Whether the decoder is told the same class for every sample, as the authors' loader of Pascal VOC
            does by mistake: the first class, aeroplane. The prompt whose attention is read names the true class.
        weighing: Numbers of the loss.
    """

    as_released: bool = False
    weighing: Weighing = PUBLISHED

    @cached_property
    def vectors(self) -> dict[str, Vector]:
        """Vector of each class of the world."""
        return {name: padded_mean(self.text, name) for name in CLASSES}

    @cached_property
    def prompts(self) -> dict[str, TokenEmbedding]:
        """Prompt with each class of the world."""
        return {name: word_rows(self.text, DatasetDM.template, name, padded=True)[0] for name in CLASSES}

    def loss(self, sample: Sample, rng: np.random.Generator) -> Tensor:
        name = str(rng.choice(sample.names(self.classes)))
        scores, masks = self._module(sample, name, CLASSES[0] if self.as_released else name)
        wanted = torch.from_numpy(sample.mask(name))[None].float()
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        return decoder_loss(scores[0], masks[0], torch.tensor([THING]), wanted, generator, self.weighing)

    def log_odds(self, sample: Sample, name: str) -> Tensor:
        return best_mask(*self._module(sample, name, name))

    def _module(self, sample: Sample, name: str, shown: str) -> tuple[Tensor, Tensor]:
        trace = sample.trace()
        features = features_of(trace, list(self.outline.channels), self.outline.levels, self.halves)
        levels = with_attention(features, trace, self.outline, self.prompts[name])
        return self.module(levels, self.vectors[shown][None])
