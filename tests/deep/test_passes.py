"""The orders of a pipeline's passes: each once, what is needed before, and no more in memory than the schedule says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.deep.passes import BACKWARD, FORWARD, passes

SIZES = st.integers(1, 6).flatmap(lambda stages: st.tuples(st.just(stages), st.integers(stages, 12)))


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
@given(sizes=SIZES)
def test_every_micro_batch_passes_once_each_way_and_none_waits_for_ever(schedule: str, sizes: tuple[int, int]) -> None:
    stages, count = sizes
    left = [passes(schedule, stage, stages, count) for stage in range(stages)]
    for order in left:
        for kind in (FORWARD, BACKWARD):
            assert [i for of, i in order if of == kind] == list(range(count))
        assert all(order.index((FORWARD, i)) < order.index((BACKWARD, i)) for i in range(count))
    done: set[tuple[int, str, int]] = set()
    while any(left):
        before = len(done)
        for stage, order in enumerate(left):
            kind, i = order[0] if order else ("", 0)
            source = stage - 1 if kind == FORWARD else stage + 1
            if order and (not 0 <= source < stages or (source, kind, i) in done):
                done.add((stage, *order.pop(0)))
        assert len(done) > before, "every stage waits for another"


@given(sizes=SIZES)
def test_one_forward_one_backward_holds_micro_batches_of_the_stages_to_come(sizes: tuple[int, int]) -> None:
    stages, count = sizes
    for stage in range(stages):
        held = most = 0
        for kind, _ in passes("1f1b", stage, stages, count):
            held += 1 if kind == FORWARD else -1
            most = max(most, held)
        assert most == stages - stage
