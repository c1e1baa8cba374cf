"""The cost model: its counts are those of the code, and a fit finds the constants that made the times."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.parallel.allreduce import ALGORITHMS
from tasks.parallel.allreduce_cost import COUNTS, Machine, Measurement, fit, predict
from tasks.parallel.allreduce_table import TABLE, fastest
from tasks.parallel.comm import Comm, run_threads

LENGTH = 5040  # divisible by every world size up to 9


def counted(comm: Comm, algorithm: str) -> tuple[int, int, int]:
    """Run an algorithm; return the messages that this rank sends, the bytes in them, and those that it adds."""
    sent: list[int] = []
    added: list[int] = []
    send = comm.send

    def counted_send(to: int, array: Any) -> None:
        sent.append(array.nbytes)
        send(to, array)

    comm.send = counted_send  # type: ignore[method-assign]  # `send_recv` of threads goes through it

    def add(a: Any, b: Any, out: Any) -> None:
        added.append(out.nbytes)
        np.add(a, b, out=out)

    ALGORITHMS[algorithm](comm, np.ones(LENGTH), add)  # type: ignore[arg-type]
    return len(sent), sum(sent), sum(added)


@pytest.mark.parametrize("algorithm", ["naive", "tree", "exchange", "ring", "rabenseifner"])
@pytest.mark.parametrize("world", range(2, 10))
def test_the_counts_of_all_ranks_are_those_of_the_code(algorithm: str, world: int) -> None:
    _, in_all = COUNTS[algorithm](world)
    messages, moved, added = np.sum(run_threads(counted, [(algorithm,)] * world), axis=0)
    assert messages == in_all.steps
    nbytes = 8 * LENGTH
    # Rabenseifner's chunks are the array over a power of two, which the folded world does not always divide.
    assert moved / nbytes == pytest.approx(in_all.moved, rel=1e-3)
    assert added / nbytes == pytest.approx(in_all.added, rel=1e-3)


@given(
    alpha=st.floats(1e-6, 1e-2),
    beta=st.floats(1e-11, 1e-8),
    gamma=st.floats(1e-11, 1e-9),
    cores=st.sampled_from([1, 2, 64]),
)
def test_a_fit_finds_the_constants_that_made_the_times(alpha: float, beta: float, gamma: float, cores: int) -> None:
    machine = Machine(alpha, beta, gamma, cores)
    measured = [
        Measurement(name, world, nbytes, predict(name, world, nbytes, machine))
        for name in COUNTS
        for world in (2, 5, 8)
        for nbytes in (8, 1 << 25)
    ]
    found = fit(measured, gamma, cores)
    assert found.alpha == pytest.approx(alpha, rel=1e-6)
    assert found.beta == pytest.approx(beta, rel=1e-4)


def test_what_the_model_says_of_a_thousand_nodes() -> None:
    network = Machine(50e-6, 8 / 10e9, 0)
    small, large = ({name: predict(name, 1000, n, network) for name in COUNTS} for n in (8, 1 << 28))
    assert min(small, key=lambda name: small[name]) == "exchange"
    assert large["rabenseifner"] < large["tree"] < large["naive"]
    assert large["ring"] == pytest.approx(2 * 0.999 * (1 << 28) * 0.8e-9 + 1998 * 50e-6)


@pytest.mark.parametrize("kind", list(TABLE))
def test_auto_knows_an_algorithm_for_any_size_and_world(kind: str) -> None:
    for world in (1, 2, 8, 1000):
        for nbytes in (0, 1 << 16, 1 << 40):
            assert fastest(kind, world, nbytes) in ALGORITHMS
