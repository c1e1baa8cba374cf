"""Rows are dealt to replicas: each once an epoch, whatever their number."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="needs the extra deep: torch")

from tasks.core.errors import InputError  # noqa: E402
from tasks.deep.batches import Batch, ShuffledRows, cut  # noqa: E402


def numbered(count: int) -> Batch:
    """Row i holds the token i + 1: filled rows hold 0."""
    numbers = torch.arange(1, count + 1)[:, None]
    return {"tokens": numbers, "mask": numbers > 0, "target": numbers.float(), "weight": torch.ones(count, 1)}


@given(st.integers(4, 60), st.integers(4, 20), st.integers(1, 4), st.integers(0, 3))
def test_every_row_is_seen_once_an_epoch_and_filled_rows_weigh_nothing(
    rows: int, step_rows: int, replicas: int, seed: int
) -> None:
    seen: list[int] = []
    lengths = []
    for replica in range(replicas):
        batches = list(ShuffledRows(numbered(rows), step_rows, seed, replica, replicas, epochs=1)(0))
        for batch in batches:
            assert torch.equal(batch["weight"] > 0, batch["tokens"] > 0)
            seen += batch["tokens"][batch["weight"] > 0].tolist()
        lengths.append([len(batch["tokens"]) for batch in batches])
    assert sorted(seen) == list(range(1, rows + 1))
    assert all(length == lengths[0] for length in lengths)


def test_steps_do_not_depend_on_the_number_of_replicas_nor_on_where_they_begin() -> None:
    def steps(replicas: int, first: int) -> list[set[int]]:
        parts = [ShuffledRows(numbered(23), 5, 1, replica, replicas, epochs=3)(first) for replica in range(replicas)]
        return [{int(t) for batch in step for t in batch["tokens"]} - {0} for step in zip(*parts, strict=True)]

    assert steps(1, 0) == steps(3, 0)
    assert steps(1, 0)[7:] == steps(2, 7)
    assert steps(1, 0)[:5] != steps(1, 0)[5:10]  # another order every epoch


@given(st.integers(1, 20), st.integers(1, 6), st.booleans())
def test_micro_batches_hold_all_rows_and_none_is_empty(rows: int, parts: int, equal: bool) -> None:
    pieces = cut(numbered(rows), parts, equal=equal)
    assert len(pieces) == parts
    tokens = torch.cat([piece["tokens"] for piece in pieces]).flatten()
    assert tokens[tokens > 0].tolist() == list(range(1, rows + 1))
    lengths = {len(piece["tokens"]) for piece in pieces}
    assert min(lengths) >= 1
    assert not equal or len(lengths) == 1


def test_fewer_rows_than_replicas_and_tensors_of_different_lengths_are_refused() -> None:
    with pytest.raises(InputError, match="2 rows in steps of 8 for 4 replicas"):
        ShuffledRows(numbered(2), 8, replicas=4)
    with pytest.raises(InputError, match="different lengths"):
        ShuffledRows({**numbered(3), "weight": torch.ones(2, 1)}, 2)
