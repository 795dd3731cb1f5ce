"""The recorder of `stream`: it makes maps of given words during the run and keeps nothing else."""

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ovam.backbones.base import Backbone
from ovam.errors import NotFiniteError
from ovam.maps.attention import weight_sums
from ovam.maps.compute import Accumulator
from ovam.maps.options import MapOptions, check_at_least_two, check_joint
from ovam.maps.output_space import output_shares, word_outputs, words_alone
from ovam.maps.result import AttentionMaps, SelfAttention
from ovam.maps.synonyms import merged
from ovam.maps.words import (
    Words,
    calibrations_of,
    embed_words,
    lengths_of,
    merge_prompts,
    synonyms_in,
    thresholds_of,
    warn_of_clip_skip,
)
from ovam.precision import float32
from ovam.trace.replay import ImageStream, TextStream
from ovam.trace.text_side import ReplayedSide, TextSide
from ovam.tracing.keep_queries import check_finite
from ovam.tracing.parts import PixelPairs, Taken
from ovam.tracing.run import Place, Run, RunShape


class MapRecorder:
    """Adds each call's attention weights, or shares of its outputs, to running sums and forgets the queries."""

    def __init__(
        self,
        backbone: Backbone,
        maps: list[AttentionMaps],
        words: Words,
        options: MapOptions,
    ) -> None:
        self.backbone, self.maps, self.words, self.options = backbone, maps, words, options
        text = backbone.text_side(())
        check_joint(text.kind, options.softmax_over, options.strategy)
        self._embed(text)  # refuse unreadable words at once
        self.shape: RunShape | None = None
        self.sums: list[Accumulator] = []
        self.keys: dict[str, Tensor] = {}  # by block; with strategy="output" the words' outputs
        self.image_keys: dict[str, Tensor] = {}  # of the last observed image, for softmax_over="joint"
        self.streams: dict[int, list[TextStream]] = {}
        self.means: dict[tuple[int, str], Tensor] = {}  # self-attention by image and name
        self.counts: Counter[tuple[int, str]] = Counter()

    def _embed(self, text: TextSide) -> None:
        self.prompts = embed_words(text, self.words, self.options.softmax_over, self.options.phrases)
        self.lengths = lengths_of(self.prompts)
        self.tokens, self.spans = merge_prompts(self.prompts)
        if self.options.strategy == "output":
            check_at_least_two([span.text for span in self.spans])
        self.text = text

    @float32()
    def begin(self, shape: RunShape) -> None:
        """Embed the words once per run, as each run may skip other encoder layers. Make static keys here too."""
        self.shape = shape
        self._embed(self.backbone.text_side(shape.chosen, shape.request))
        warn_of_clip_skip(self.text.space, self.words, shape.halves[0])
        if self.text.kind == "static":
            vectors = torch.cat([prompt.vectors for prompt in self.prompts])
            self.keys = {name: self.text.keys(vectors, name, 0) for name in shape.chosen}
        grids = {name: shape.grids[name] for name in shape.chosen}
        self.sums = [Accumulator(grids, self.options.axes) for _ in range(shape.images)]
        self.means, self.counts = {}, Counter()

    @float32()
    def observe(self, place: Place, parts: Mapping[str, Taken]) -> None:
        """Run the words through the block, and add its weights or shares; or add its self-attention to the mean."""
        pairs = parts.get("self_attention")
        if isinstance(pairs, PixelPairs):
            self._add_pairs(place, pairs)
            return
        tensors = {name: taken for name, taken in parts.items() if isinstance(taken, Tensor)}
        if "conditioning" in tensors:
            self._move_on(place, ImageStream(tensors["key"], tensors["value"], tensors["conditioning"]))
        if "query" not in tensors:
            return
        if place.kept_index == 0:
            check_finite(place.block, tensors["query"])
        if self.options.strategy == "output":
            self._add_shares(place, tensors["output"])
        else:
            self._add_weights(place, tensors["query"])

    def _add_pairs(self, place: Place, pairs: PixelPairs) -> None:
        """Add the self-attention of one call to its mean."""
        assert self.shape is not None
        slot = (place.image, self.shape.sources["self_attention"][place.block])
        if slot not in self.means:
            self.means[slot] = torch.empty(pairs.query.shape[1], pairs.key.shape[1])
        self.counts[slot] += 1
        pairs.add_to(self.means[slot], 1 / self.counts[slot])

    def _self_attention(self, image: int) -> dict[str, SelfAttention]:
        assert self.shape is not None
        names = self.shape.sources.get("self_attention", {})
        grids = {kept: self.shape.grids[block] for block, kept in names.items()}
        return {name: SelfAttention(grids[name], mean) for (of, name), mean in self.means.items() if of == image}

    def _add_weights(self, place: Place, query: Tensor) -> None:
        """Add the weights of one call."""
        assert self.shape is not None
        sums = self.sums[place.image]
        weights = weight_sums(
            query[:, None],
            self.keys[place.block].to(query.device),
            scale=self.shape.blocks[place.block].scale,
            lengths=self.lengths,
            image_key=self.image_keys.get(place.block),
            keep_head=sums.keep_head,
            keep_step=sums.keep_step,
        )
        sums.add(place.block, weights, len(query))

    def _add_shares(self, place: Place, output: Tensor) -> None:
        """Add the shares of one call."""
        sums = self.sums[place.image]
        shares = output_shares(output[:, None], self.keys[place.block].to(output.device), keep_step=sums.keep_step)
        sums.add(place.block, shares, 1)

    def _move_on(self, place: Place, stream: ImageStream) -> None:
        """Run the words through this block, against the image keys and values of this call."""
        assert self.shape is not None
        assert isinstance(self.text, ReplayedSide)
        streams = self.streams.setdefault(place.image, [])
        if place.block == self.shape.watched[0]:
            streams[:] = [self.text.stream(prompt.vectors) for prompt in self.prompts]
        texts = [
            (prompt, words.enter(place.block, stream)) for prompt, words in zip(self.prompts, streams, strict=True)
        ]
        if self.options.strategy == "output":
            outputs = torch.cat([prompt.taken(of_text.output) for prompt, of_text in texts], dim=1)
            self.keys[place.block] = word_outputs(outputs, self.spans)
            return
        self.keys[place.block] = torch.cat([prompt.taken(of_text.key) for prompt, of_text in texts], dim=1)
        if self.options.softmax_over == "joint":
            self.image_keys[place.block] = stream.key[:, None]

    def finish(self, run: Run, pictures: Sequence[bytes | None], size: tuple[int, int]) -> None:
        """Make one set of maps per image."""
        if not run.kept:
            return
        tokens, spans = words_alone(self.spans) if self.options.strategy == "output" else (self.tokens, self.spans)
        results = [sums.result(run.kept) for sums in self.sums]
        if not all(bool(torch.isfinite(maps).all()) for maps in results):
            raise NotFiniteError(
                "the streamed maps contain NaN or infinity: expected finite numbers; the model's weights are damaged, "
                "or the range of the dtype is too small for this model (try torch.float32)"
            )
        apart, calibrations = self.sums[0].labels(run.kept), calibrations_of(self.words)
        self.maps += [
            merged(
                AttentionMaps(
                    maps,
                    tokens,
                    spans,
                    size,
                    apart,
                    len(self.prompts),
                    calibrations,
                    self._self_attention(image),
                    png,
                    thresholds=thresholds_of(self.words),
                ),
                synonyms_in(self.words),
                summed=self.options.strategy == "output",
            )
            for image, (maps, png) in enumerate(zip(results, pictures, strict=True))
        ]
        self.sums = []
