"""What a text model minimizes: the loss of each target, before the loop weighs and adds them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from tasks.core.errors import InputError

# outputs, target -> losses of target's shape. Computed in float32 whatever the model's precision.
Loss = Callable[[Tensor, Tensor], Tensor]


def squared_error(outputs: Tensor, target: Tensor) -> Tensor:
    """outputs, target: (n, K)."""
    _same_shape(outputs, target)
    return (outputs.float() - target).square()


def logistic(outputs: Tensor, target: Tensor) -> Tensor:
    """outputs: (n, K) logits; target: (n, K), 0 to 1."""
    _same_shape(outputs, target)
    return binary_cross_entropy_with_logits(outputs.float(), target, reduction="none")


def classes(outputs: Tensor, target: Tensor) -> Tensor:
    """outputs: (n, classes) logits; target: (n, 1) float, the class."""
    return cross_entropy(outputs.float(), target[:, 0].long(), reduction="none")[:, None]


def next_token(outputs: Tensor, target: Tensor) -> Tensor:
    """outputs: (n, T, vocabulary) logits; target: (n, T) ids. In nats: perplexity is exp of the mean."""
    return cross_entropy(outputs.float().flatten(0, 1), target.flatten(), reduction="none").view(target.shape)


def _same_shape(outputs: Tensor, target: Tensor) -> None:
    """Torch would repeat the shorter one."""
    if outputs.shape != target.shape:
        raise InputError(
            f"outputs {tuple(outputs.shape)} for targets {tuple(target.shape)}",
            where="rows of a step",
            fix="an output for each target: model.outputs",
        )
