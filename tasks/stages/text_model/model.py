"""The model of the stage `text-model`: made anew or from a folder, its files, its loss, and its scores of reviews.

A review's score must not depend on the reviews beside it: what is registered has to score raw reviews as they were
scored in training, to the last bit, one by one or a thousand at once. Matrix products of other shapes add up in another
order, so each forward pass has the shape (ROWS_AT_ONCE, length), the length being the review's own, rounded up to a
multiple of LENGTH_STEP; what is missing is filled. One thread, float32, on the CPU.

Needs the extra `deep`; models from a folder need transformers, too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file, save
from torch import Tensor, nn

from tasks.core.whole_files import write_whole
from tasks.deep.encoder import build, flops_per_token
from tasks.deep.losses import logistic, squared_error
from tasks.deep.settings import EncoderConfig
from tasks.stages.text_model import pretrained
from tasks.stages.text_model.rows import ABOUT, OUTPUTS, WEIGHTS, Array, both_ends, pad, scores_of

FOLDS = "folds"
ROWS_AT_ONCE, LENGTH_STEP = 8, 8


class About(BaseModel):
    """How a model is built and called. config: of EncoderConfig, or of the Hugging Face model. filler: the id that
    stands where there is none; its own row never sees it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["encoder", "hugging-face"]
    config: dict[str, Any]
    max_tokens: int
    filler: int

    @property
    def flops_per_token(self) -> float:
        """Operations of a step for each token: exact for an encoder, else 6 a weight outside the embeddings."""
        if self.kind == "encoder":
            return flops_per_token(EncoderConfig(**self.config), self.max_tokens)
        return pretrained.flops_per_token(self.config)


def skeleton(about: About, seed: int = 0) -> nn.Module:
    """Build the model with weights drawn from the seed."""
    if about.kind == "encoder":
        return build(EncoderConfig(**about.config), seed)
    return pretrained.skeleton(about.config, len(OUTPUTS))


def loss(outputs: Tensor, target: Tensor) -> Tensor:
    """(n, OUTPUTS) losses: squared error of the stars, logistic of all others."""
    stars = OUTPUTS.index("stars")
    losses = logistic(outputs, target.clamp(0, 1))
    losses[:, stars] = squared_error(outputs[:, stars], target[:, stars])
    return losses


def write(folder: Path, about: About, weights: dict[str, Tensor], folds: Array | None) -> None:
    """Write WEIGHTS and ABOUT, each at once or not at all. folds: (vocabulary,) the model's own id of each id."""
    tensors = {name: tensor.contiguous() for name, tensor in weights.items()}
    if folds is not None:
        tensors[FOLDS] = torch.from_numpy(folds.astype(np.int32))
    write_whole(folder / WEIGHTS, save(tensors), synced=True)
    write_whole(folder / ABOUT, about.model_dump_json(indent=1), synced=True)


@dataclass(frozen=True)
class Scorer:
    """A trained model. folds: (vocabulary,) its own id of each of the tokenizer's ids, or None if they are the same."""

    about: About
    module: nn.Module
    folds: Array | None

    @classmethod
    def load(cls, folder: Path) -> Scorer:
        """Load WEIGHTS and ABOUT."""
        about = About(**json.loads((folder / ABOUT).read_text()))
        tensors = load_file(folder / WEIGHTS)
        folds = tensors.pop(FOLDS, None)
        module = skeleton(about)
        module.load_state_dict(tensors)
        return cls(about, module.eval(), None if folds is None else folds.numpy())

    def score(self, ids: Sequence[Array]) -> Array:
        """Return (n, OUTPUTS) answers for the tokenizer's ids of n reviews, of which `max_tokens` are read.

        It leaves torch with one thread.
        """
        cut = [both_ends(row, self.about.max_tokens) for row in ids]
        return self.score_own([self.folds[row] for row in cut] if self.folds is not None else cut)

    def score_own(self, ids: Sequence[Array]) -> Array:
        """Do the same with the model's own ids, cut already."""
        outputs = np.zeros((len(ids), len(OUTPUTS)), dtype=np.float32)
        steps = np.array([max(1, -(-len(row) // LENGTH_STEP)) for row in ids], dtype=np.int64)
        if torch.get_num_threads() != 1:  # products cut among threads may add up otherwise
            torch.set_num_threads(1)
        with torch.inference_mode():
            for step in np.unique(steps).tolist():
                alike = np.flatnonzero(steps == step)
                length = min(step * LENGTH_STEP, self.about.max_tokens)
                for start in range(0, len(alike), ROWS_AT_ONCE):
                    places = alike[start : start + ROWS_AT_ONCE]
                    outputs[places] = self._outputs([ids[i] for i in places], length)[: len(places)]
        return scores_of(outputs)

    def _outputs(self, rows: Sequence[Array], length: int) -> Array:
        whole = [*rows, *[rows[0]] * (ROWS_AT_ONCE - len(rows))]
        tokens, mask = pad(whole, self.about.filler, length)
        outputs: Array = self.module(torch.from_numpy(tokens), torch.from_numpy(mask)).float().numpy()
        return outputs
