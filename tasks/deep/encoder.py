"""A small transformer over GPT-2 tokens: an encoder with a pooled head, or a causal model of the next token.

    h = token[ids] + position[0..T)                       (n, T, width)
    each layer:  h = h + attention(norm(h));  h = h + down(gelu(up(norm(h))))
    regression:  outputs = head(mean over a row's tokens of norm(h))        (n, outputs)
    next-token:  logits  = head(norm(h)), every token seeing those before it    (n, T, vocabulary)

Layers normalize first (Xiong and others, On Layer Normalization, 2020), which trains without a long warm-up. Their
projections have no bias: a key's has no gradient (softmax does not see it), and Adam would scale up the rounding noise
in its place. The head is not tied to the embedding: in a pipeline they are on different ranks. No dropout: its masks
would differ by the number of ranks, and these models see each review a few times only.

The interface, for whoever trains it:

    model = build(EncoderConfig(...), seed=0)             the same weights for the same config and seed, on any rank
    model(tokens, mask)                                   tokens (n, T) int64, mask (n, T) bool: True where a token is
    model.embedding, model.layers["0"], ..., model.head   what parallel.tensor and parallel.pipeline cut at
    model.recompute = True                                keep no activations inside of layers: compute them again
    flops_per_token(config, T)                            of forward and backward, for the utilization

tasks/deep/loop.py trains any module that is called like this one. Needs the extra `deep`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from tasks.core.errors import InputError
from tasks.deep.settings import EncoderConfig


class Embedding(nn.Module):
    """ids (n, T) to h (n, T, width)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Embedding(config.positions, config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        length, known = tokens.shape[1], self.positions.num_embeddings
        if length > known:
            raise InputError(
                f"{length} tokens in a row, the model has {known} positions",
                where="text model",
                fix=f"cut rows to {known} tokens, or set positions={length}",
            )
        return self.tokens(tokens) + self.positions(torch.arange(length, device=tokens.device))


class Attention(nn.Module):
    """Attention of several heads. Of projections cut by heads, it takes the number of heads from their width."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.head_width, self.causal = config.width // config.heads, config.objective == "next-token"
        self.query, self.key, self.value, self.out = (
            nn.Linear(config.width, config.width, bias=False) for _ in range(4)
        )

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        """h: (n, T, width); mask: (n, T), of which the causal model needs nothing: padding follows what counts."""
        by_head = (*h.shape[:2], -1, self.head_width)
        q, k, v = (project(h).view(by_head).transpose(1, 2) for project in (self.query, self.key, self.value))
        seen = None if self.causal else mask[:, None, None, :]
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=self.causal)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """h (n, T, width) to the same shape."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.attention_norm, self.norm = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.attention = Attention(config)
        self.up = nn.Linear(config.width, config.hidden, bias=False)
        self.down = nn.Linear(config.hidden, config.width, bias=False)

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        h = h + self.attention(self.attention_norm(h), mask)
        return h + self.down(gelu(self.up(self.norm(h))))


class Head(nn.Module):
    """h (n, T, width) to outputs (n, outputs) or logits (n, T, vocabulary)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.pooled = config.objective == "regression"
        self.norm = nn.LayerNorm(config.width)
        self.out = nn.Linear(config.width, config.outputs if self.pooled else config.vocabulary, bias=self.pooled)

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        h = self.norm(h)
        if self.pooled:
            counted = mask[:, :, None].to(h.dtype)
            h = (h * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)
        return self.out(h)


class Encoder(nn.Module):
    """The whole model. In a pipeline a rank holds some layers, and the others hold the embedding or the head."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config, self.recompute = config, False
        self.embedding: nn.Module | None = Embedding(config)
        self.layers = nn.ModuleDict({str(i): Layer(config) for i in range(config.layers)})
        self.head: nn.Module | None = Head(config)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """tokens: (n, T) ids, or (n, T, width) from the rank before. A row without any token sees its first place."""
        sees = mask.clone()
        sees[:, 0] = True  # attention to nothing is not a number
        h = tokens if self.embedding is None else self.embedding(tokens)
        for layer in self.layers.values():
            h = checkpoint(layer, h, sees, use_reentrant=False) if self.recompute else layer(h, sees)
        return h if self.head is None else self.head(h, mask)


def build(config: EncoderConfig, seed: int) -> Encoder:
    """Make a model with weights drawn from the seed, on the CPU; torch's own random state stays as it was.

    Weights are normal with deviation 0.02, those into the residual stream smaller by the root of their number (GPT-2).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Encoder(config)
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                into_stream = name.endswith(("attention.out.weight", "down.weight"))
                nn.init.normal_(weight, std=0.02 / ((2 * config.layers) ** 0.5 if into_stream else 1))
            elif name.endswith("bias"):
                nn.init.zeros_(weight)
    return model


def flops_per_token(config: EncoderConfig, length: int) -> float:
    """Return operations of forward and backward for a token of a row of so many: 6 a weight of a matrix, and for
    attention 12 layers T width (Chowdhery and others, PaLM, 2022, appendix B). Looking up embeddings counts as none."""
    matrices = config.layers * (4 * config.width**2 + 2 * config.width * config.hidden)
    head = (
        config.width * config.vocabulary if config.objective == "next-token" else config.width * config.outputs / length
    )
    return 6 * (matrices + head) + 12 * config.layers * length * config.width
