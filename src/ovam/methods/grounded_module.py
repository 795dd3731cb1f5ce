"""The grounding module of Grounded Diffusion: from a UNet's features and a vector for each word to a mask of each word.

Source:
    Li et al., "Open-vocabulary Object Segmentation with Diffusion Models", ICCV 2023 (arXiv:2301.05221);
    Lipurple/Grounded-Diffusion at 5680115.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ovam.methods.fusion import MLP, Fusion
from ovam.methods.unet_read import Levels, Outline, counted
from ovam.methods.widths import HEADS, scaled

_FINEST, _WIDTH, _HIDDEN, _LAYERS, _PATCH = 128, 512, 2048, 3, 4


def grounded_layers(outline: Outline) -> list[str]:
    """Return the layers that the module reads: the output of every input block, of the middle and every output block.

    On the way up the last pair of a block and the enlarging layer after it are one output block.
    """
    names = list(outline.channels)
    enlarging = {i for i, name in enumerate(names) if ".upsamplers." in name}
    return [name for i, name in enumerate(names) if i + 1 not in enlarging]


class DecoderLayer(nn.Module):
    """A pre-norm layer: self-attention of the words, attention to the picture, and two linear layers.

    Args:
        width: Channels.
        hidden: Channels between the two linear layers.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.to_words = nn.MultiheadAttention(width, HEADS, bias=False, batch_first=True)
        self.to_picture = nn.MultiheadAttention(width, HEADS, bias=False, batch_first=True)
        self.wide, self.back = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))

    def forward(
        self, words: Float[Tensor, "batch word width"], picture: Float[Tensor, "batch patch width"]
    ) -> Float[Tensor, "batch word width"]:
        inner = self.norms[0](words)
        words = words + self.to_words(inner, inner, inner, need_weights=False)[0]
        words = words + self.to_picture(self.norms[1](words), picture, picture, need_weights=False)[0]
        return words + self.back(F.relu(self.wide(self.norms[2](words))))


class GroundingModule(nn.Module):
    """Grounded Diffusion's module. Widths are the published ones for Stable Diffusion 1, and follow the UNet otherwise.

    The levels are narrowed to 128 channels at the finest and half of it at each coarser one, and joined to one map
    (240 channels for four levels). Patches of 4 x 4 of it are what the words attend to. A word's mask is the dot
    product of its vector with the map.

    Args:
        outline: The UNet.
        halves: Number of halves of guidance whose features are read.
    """

    def __init__(self, outline: Outline, halves: int) -> None:
        super().__init__()
        count, finest = outline.count, outline.finest
        widths = [scaled(max(1, _FINEST >> level), finest) for level in range(count)]
        self.fusion = Fusion(counted(grounded_layers(outline), outline, halves), widths)
        width, depth = scaled(_WIDTH, finest), self.fusion.widths[-1]
        self.to_key = nn.Linear(depth * _PATCH**2, width, bias=False)
        self.to_query = nn.Linear(outline.space.width, width, bias=False)
        self.layers = nn.ModuleList(DecoderLayer(width, scaled(_HIDDEN, finest)) for _ in range(_LAYERS))
        self.mask = MLP(width, width, width, depth)

    def forward(
        self, levels: Levels, words: Float[Tensor, "batch word channel"]
    ) -> Float[Tensor, "batch word height width"]:
        """Return the log-odds of each word's mask at the finest grid.

        The published code resizes the fused map first; resizing the log-odds instead gives the same. The words of one
        picture attend to each other.
        """
        fused = self.fusion(levels)[-1]
        padded = F.pad(fused, (0, -fused.shape[-1] % _PATCH, 0, -fused.shape[-2] % _PATCH))
        picture = self.to_key(F.unfold(padded, _PATCH, stride=_PATCH).transpose(1, 2))
        found = self.to_query(words)
        for layer in self.layers:
            found = layer(found, picture)
        return (self.mask(found) @ fused.flatten(2)).unflatten(-1, fused.shape[-2:])
