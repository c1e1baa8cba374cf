"""Logistic regression over parties that show nobody their rows, nor their gradients: only sums leave, masked.

Minimises the mean of log(1 + exp(z)) - y z plus l2/2 |w|^2, z = x w, by gradient descent. In every step each party
sends the sum of its rows' gradients and its number of rows through a round of secure aggregation; the server moves the
weights. A party that drops out of a step is left out of that step alone. The model itself is public, and what a model
tells of its rows is another question (differential privacy).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tasks.core.errors import RunError
from tasks.parallel.secure_sum import Numbers, Party, unmasked

FEWEST = 2  # a sum of one vector is that vector
Drops = Callable[[int, int], bool]


def fit(
    rows: Sequence[tuple[Numbers, Numbers]], *, steps: int, rate: float, l2: float, drops: Drops = lambda *_: False
) -> Numbers:
    """Return the weights (d,). rows: for each party x (n, d) and y (n,) in 0..1.

    drops(step, party) tells who drops out after the keys were exchanged. Raises RunError if less than two remain.
    """
    weights = np.zeros(rows[0][0].shape[1])
    for step in range(steps):
        parties = [Party(number) for number in range(len(rows))]
        keys = {party.number: party.public_key() for party in parties}
        there = [party for party in parties if not drops(step, party.number)]
        if len(there) < FEWEST:
            raise RunError(f"{len(there)} of {len(rows)} parties are there", where="secure aggregation", fix="wait")
        vectors = {party.number: party.masked(contribution(*rows[party.number], weights), keys) for party in there}
        dropped = keys.keys() - vectors.keys()
        total = unmasked(vectors, {party.number: party.reveal(dropped) for party in there}, dropped)
        weights = weights - rate * (total[:-1] / total[-1] + l2 * weights)
    return weights


def contribution(x: Numbers, y: Numbers, weights: Numbers) -> Numbers:
    """Return a party's gradient, summed over its rows, and its number of rows."""
    slope = 0.5 * (1 + np.tanh(0.5 * (x @ weights)))
    return np.append(x.T @ (slope - y), float(len(y)))
