"""A small convolutional network over grey pictures, for the same loop as the text model.

    h = pixels / 255 - 1/2                                              (n, 1, side, side)
    each layer:  h = pool(relu(norm(convolution(h))))                   twice the channels, half the side
    outputs = head(mean of h over its places)                           (n, classes)

Layers normalize groups of a picture's own channels (Wu and He, Group Normalization, 2018). Batch normalization would
let a picture's output depend on the others of its batch, and so on the number of replicas and micro-batches.

    model = build(CnnConfig(...), classes=4, seed=0)      the same weights for the same arguments, on any rank
    model(tokens, mask)                                   tokens: pictures (n, 1, side, side) uint8; mask is not needed

The names are those of tasks/deep/encoder.py, so that parallel.zero shares it layer by layer. Needs the extra `deep`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu
from torch.utils.checkpoint import checkpoint

from tasks.deep.settings import CHANNELS_A_GROUP, CnnConfig


class Layer(nn.Module):
    """h (n, channels, s, s) to (n, more, s/2, s/2)."""

    def __init__(self, channels: int, more: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, more, kernel_size=3, padding=1, bias=False)
        self.norm = nn.GroupNorm(more // CHANNELS_A_GROUP, more)

    def forward(self, h: Tensor) -> Tensor:
        return max_pool2d(relu(self.norm(self.convolution(h))), 2)


class Cnn(nn.Module):
    """The whole model."""

    def __init__(self, config: CnnConfig, classes: int) -> None:
        super().__init__()
        self.config, self.recompute = config, False
        widths = [1, *(config.channels * 2**i for i in range(config.layers))]
        self.layers = nn.ModuleDict({str(i): Layer(*widths[i : i + 2]) for i in range(config.layers)})
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        h = tokens.float() / 255 - 0.5
        for layer in self.layers.values():
            h = checkpoint(layer, h, use_reentrant=False) if self.recompute else layer(h)
        return self.head(h.mean(dim=(2, 3)))


def build(config: CnnConfig, classes: int, seed: int) -> Cnn:
    """Make a model with weights drawn from the seed, on the CPU; torch's own random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Cnn(config, classes)
        for layer in model.layers.values():
            nn.init.kaiming_normal_(layer.convolution.weight, nonlinearity="relu")
    return model


def flops_per_picture(config: CnnConfig, classes: int) -> float:
    """Return operations of forward and backward: 6 for each weight of a convolution and place that it is used at."""
    total, channels, side = 0.0, 1, config.side
    for i in range(config.layers):
        more = config.channels * 2**i
        total += 9 * channels * more * side**2
        channels, side = more, side // 2
    return 6 * (total + channels * classes)
