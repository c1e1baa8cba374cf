"""All-reduce: the sum, on every rank, and bit for bit the same on all of them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.errors import TransientError
from tasks.parallel.allreduce import allreduce
from tasks.parallel.comm import Comm, run_threads
from tasks.parallel.comm_actors import run_actors

Array = npt.NDArray[Any]
WORLDS = st.integers(1, 7)


def arrays_of(world: int, shape: int | tuple[int, ...], dtype: str = "float64", seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    # Far apart in size, so that another order of adding shows in the last bits.
    scale = 10.0 ** rng.integers(-3, 4, size=shape) if dtype.startswith("float") else 1000
    return [(rng.standard_normal(shape) * scale).astype(dtype) for _ in range(world)]


def bits(array: Array) -> bytes:
    return array.tobytes()


@settings(max_examples=60, deadline=None)
@given(world=WORLDS, length=st.integers(0, 40), dtype=st.sampled_from(["int64", "int32", "uint8"]))
def test_whole_numbers_add_up_exactly_at_any_world_size_and_length(world: int, length: int, dtype: str) -> None:
    given_arrays = [a.astype(dtype) for a in arrays_of(world, length, "int64")]
    for total in run_threads(allreduce, [(a,) for a in given_arrays]):
        assert total.dtype == dtype
        np.testing.assert_array_equal(total, np.sum(given_arrays, axis=0, dtype=dtype))


@settings(max_examples=60, deadline=None)
@given(world=WORLDS, length=st.integers(0, 40), dtype=st.sampled_from(["float64", "float32"]), seed=st.integers(0, 99))
def test_every_rank_has_the_same_bits_and_the_sum(world: int, length: int, dtype: str, seed: int) -> None:
    given_arrays = arrays_of(world, length, dtype, seed)
    totals = run_threads(allreduce, [(a,) for a in given_arrays])
    assert {bits(t) for t in totals} == {bits(totals[0])}
    assert totals[0].dtype == dtype
    magnitude = np.sum(np.abs(given_arrays), axis=0)
    error = np.abs(totals[0] - np.sum(given_arrays, axis=0))
    assert np.all(error <= 2 * world * np.finfo(dtype).eps * magnitude)


def test_the_same_bits_in_every_run() -> None:
    given_arrays = arrays_of(5, 33, "float32")
    runs = [run_threads(allreduce, [(a,) for a in given_arrays])[0] for _ in range(5)]
    assert len({bits(r) for r in runs}) == 1


@pytest.mark.parametrize("shape", [(), (3, 5), (2, 3, 4)])
@pytest.mark.parametrize("order", ["C", "F", "sliced"])
def test_any_shape_and_memory_order(shape: tuple[int, ...], order: str) -> None:
    given_arrays = [np.asarray(a) for a in arrays_of(3, shape)]
    if order == "F":
        given_arrays = [np.asfortranarray(a) if shape else a for a in given_arrays]
    elif order == "sliced":
        given_arrays = [np.stack([a, a], axis=-1)[..., 0] for a in given_arrays]
    for total in run_threads(allreduce, [(a,) for a in given_arrays]):
        assert total.shape == shape
        np.testing.assert_allclose(total, np.sum(given_arrays, axis=0))


@pytest.mark.parametrize("world", [1, 3])
def test_the_input_is_not_changed_and_the_result_is_a_new_array(world: int) -> None:
    given_arrays = arrays_of(world, 10)
    before = [a.copy() for a in given_arrays]
    for total in run_threads(allreduce, [(a,) for a in given_arrays]):
        total += 1
    np.testing.assert_array_equal(given_arrays, before)


def thrice(comm: Comm, array: Array) -> Array:
    """Several all-reduces in a row, of other lengths: a message of one must not end up in the next."""
    return allreduce(comm, array) + allreduce(comm, array[:3]).sum() + allreduce(comm, np.ones(1))[0]


@settings(max_examples=20, deadline=None)
@given(world=WORLDS)
def test_one_after_the_other_do_not_mix(world: int) -> None:
    given_arrays = arrays_of(world, 11)
    total = np.sum(given_arrays, axis=0)
    for result in run_threads(thrice, [(a,) for a in given_arrays]):
        np.testing.assert_allclose(result, total + total[:3].sum() + world)


def fails_on_rank_0(comm: Comm) -> None:
    if comm.rank == 0:
        raise ZeroDivisionError("rank 0")


def test_an_error_on_one_rank_is_raised() -> None:
    with pytest.raises(ZeroDivisionError, match="rank 0"):
        run_threads(fails_on_rank_0, [(), ()])


@pytest.mark.parametrize(
    ("work", "world", "length"), [(allreduce, 1, 5), (allreduce, 2, 1), (allreduce, 3, 10_001), (thrice, 3, 7)]
)
def test_actors_give_the_bits_of_the_oracle(
    ray_session: None, work: Callable[..., Array], world: int, length: int
) -> None:
    arguments = [(a,) for a in arrays_of(world, length, "float32")]
    expected, actual = run_threads(work, arguments), run_actors(work, arguments)
    assert [bits(a) for a in actual] == [bits(e) for e in expected]


def lose_the_last_rank(comm: Comm) -> None:
    if comm.rank == comm.world_size - 1:
        os.kill(os.getpid(), signal.SIGKILL)
    comm.recv(comm.world_size - 1)


@pytest.mark.timeout(120)  # the ranks that wait for the lost one must not be waited for
def test_a_lost_rank_is_a_fault_worth_a_retry(ray_session: None) -> None:
    with pytest.raises(TransientError):
        run_actors(lose_the_last_rank, [(), ()])
