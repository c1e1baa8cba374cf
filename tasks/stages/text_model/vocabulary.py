"""The model's own vocabulary: tokens that are one word, whatever their case and the space before them, share an id."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tasks.stages.features.text_fields import folded
from tasks.stages.text_model.rows import Array


def folded_together(vocabulary: Sequence[str]) -> tuple[Array, int]:
    """Return (vocabulary,) int32: the id of each token's word, and the number of these, from 0 without gaps."""
    distinct, ids = np.unique(folded(vocabulary), return_inverse=True)
    return ids.astype(np.int32), len(distinct)
