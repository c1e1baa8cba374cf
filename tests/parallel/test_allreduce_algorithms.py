"""Every all-reduce against the obvious answer, on threads; a smaller set on Ray actors, each kind of `Comm`."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from importlib.util import find_spec
from threading import Event
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.core.errors import RankLost, RanksDisagree, UserError
from tasks.parallel.allreduce import ALGORITHMS, allreduce, allreduce_many
from tasks.parallel.allreduce_levels import TwoLevels
from tasks.parallel.comm import Comm, run_threads
from tasks.parallel.comm_actors import ActorComm, ObjectComm, run_actors
from tasks.parallel.comm_gloo import GlooComm
from tasks.parallel.comm_part import SubComm
from tasks.parallel.comm_shm import SharedMemoryComm

Array = npt.NDArray[Any]
MESSAGES = ["naive", "tree", "exchange", "ring", "rabenseifner"]
EVERYWHERE = [*MESSAGES, "direct", "hierarchical"]
OBVIOUS = {"sum": np.sum, "mean": np.mean, "max": np.max}
DTYPES = ["float64", "float32", "float16", "int64", "int8", "uint16", "bool", "complex64"]
needs_torch = pytest.mark.skipif(not find_spec("torch"), reason="gloo needs torch, the extra lab")
TINY = 128  # bytes of a window: many blocks


def reduced(comm: Comm, array: Array, operation: Any, algorithm: str, per_node: int = 3) -> Array:
    if algorithm == "hierarchical":
        comm = TwoLevels(comm, comm, per_node)
    return allreduce(comm, array, operation, algorithm)


def random(world: int, shape: Any, dtype: str, seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [(rng.standard_normal(shape) * 50).astype(dtype) for _ in range(world)]


def assert_reduced(results: list[Array], arrays: list[Array], operation: str) -> None:
    """Every rank has the same bits, and they are right: exactly for whole numbers, else up to rounding."""
    expected = OBVIOUS[operation](np.asarray(arrays), axis=0)
    kind = arrays[0].dtype.kind
    if operation == "sum" and kind in "iu":
        expected = np.sum(arrays, axis=0, dtype=arrays[0].dtype)
    assert {r.tobytes() for r in results} == {results[0].tobytes()}
    assert results[0].shape == arrays[0].shape
    assert results[0].dtype == expected.dtype
    tolerance = 0 if kind in "biu" and operation != "mean" else 20 * len(arrays) * np.finfo(results[0].dtype).eps
    np.testing.assert_allclose(results[0], expected, rtol=tolerance, atol=50 * tolerance)


@pytest.mark.parametrize("algorithm", EVERYWHERE)
@given(
    world=st.integers(1, 9),
    length=st.integers(0, 41),
    dtype=st.sampled_from(DTYPES),
    operation=st.sampled_from(list(OBVIOUS)),
    per_node=st.integers(1, 4),
)
@example(world=9, length=4, dtype="float32", operation="sum", per_node=4)  # shorter than the world, a node of one
@example(world=7, length=0, dtype="int64", operation="max", per_node=2)
def test_any_world_length_dtype_and_operation(
    algorithm: str, world: int, length: int, dtype: str, operation: str, per_node: int
) -> None:
    arrays = random(world, length, dtype)
    results = run_threads(reduced, [(a, operation, algorithm, per_node) for a in arrays], window_bytes=TINY)
    assert_reduced(results, arrays, operation)


@pytest.mark.parametrize("algorithm", [*EVERYWHERE, "auto"])
@pytest.mark.parametrize("shape", [(), (3, 5), (2, 0, 4)])
def test_any_shape_and_the_input_is_left_alone(algorithm: str, shape: tuple[int, ...]) -> None:
    arrays = [np.asarray(a) for a in random(5, shape, "float64")]
    before = [a.copy() for a in arrays]
    results = run_threads(reduced, [(a, "sum", algorithm) for a in arrays], window_bytes=TINY)
    assert_reduced(results, arrays, "sum")
    np.testing.assert_array_equal(arrays, before)


@pytest.mark.parametrize("algorithm", EVERYWHERE)
@pytest.mark.parametrize("operation", list(OBVIOUS))
@pytest.mark.parametrize("bad", [0, 3])
def test_nan_on_one_rank_is_nan_on_all(algorithm: str, operation: str, bad: int) -> None:
    arrays = random(5, 7, "float32")
    arrays[bad][2] = np.nan
    for result in run_threads(reduced, [(a, operation, algorithm) for a in arrays], window_bytes=TINY):
        assert np.flatnonzero(np.isnan(result)).tolist() == [2]


@given(world=st.integers(1, 5), sizes=st.lists(st.integers(0, 9), max_size=8), bucket=st.integers(1, 80))
def test_many_small_arrays_in_buckets(world: int, sizes: list[int], bucket: int) -> None:
    dtypes = [["float64", "int32"][size % 2] for size in sizes]
    rows = [[random(1, n, d, rank)[0] for n, d in zip(sizes, dtypes, strict=True)] for rank in range(world)]
    results = run_threads(allreduce_many, [(row, "sum", "ring", bucket) for row in rows])
    for i in range(len(sizes)):
        assert_reduced([result[i] for result in results], [row[i] for row in rows], "sum")


def counts_its_messages(comm: Comm, array: Array) -> int:
    sent = 0
    send = comm.send

    def counted(to: int, array: Array) -> None:
        nonlocal sent
        sent += array.nbytes > 0
        send(to, array)

    comm.send = counted  # type: ignore[method-assign]
    allreduce_many(comm, [array] * 100)
    return sent


def test_a_hundred_small_arrays_take_the_messages_of_one() -> None:
    assert run_threads(counts_its_messages, [(np.ones(3),)] * 4) == [6] * 4


@pytest.mark.parametrize("algorithm", EVERYWHERE)
@pytest.mark.parametrize(
    "odd", [np.ones(11), np.ones(10, np.float32), np.ones((2, 5)), np.ones(0)], ids=["longer", "dtype", "shape", "none"]
)
def test_other_shape_or_dtype_on_one_rank_is_an_error_that_says_so(algorithm: str, odd: Array) -> None:
    arrays = [np.ones(10), np.ones(10), odd, np.ones(10)]
    with pytest.raises(RanksDisagree, match=r"rank \d sent sum of") as raised:
        run_threads(reduced, [(a, "sum", algorithm, 2) for a in arrays], timeout_s=20)
    assert str(odd.dtype) in str(raised.value)


def test_another_operation_or_split_into_buckets_is_an_error_too() -> None:
    with pytest.raises(RanksDisagree, match="max of"):
        run_threads(allreduce, [(np.ones(4), "sum"), (np.ones(4), "max")])
    with pytest.raises(RanksDisagree, match="2 arrays"):
        run_threads(allreduce_many, [([np.ones(2), np.ones(3)],), ([np.ones(3), np.ones(2)],)])


def test_what_cannot_be_reduced_is_refused() -> None:
    for array, operation, algorithm, match in (
        (np.array(["a"]), "sum", "ring", "cannot reduce"),
        (np.array([{}]), "sum", "ring", "cannot reduce"),
        (np.ones(2), "median", "ring", "no operation"),
        (np.ones(2), "sum", "rings", "known: auto, naive"),
        (np.ones(2), "sum", "gloo", "built-in"),
        (np.ones(2), "sum", "hierarchical", "one level"),
    ):
        with pytest.raises(UserError, match=match):
            run_threads(allreduce, [(array, operation, algorithm)] * 2)
    with pytest.raises(UserError, match="world size 0"):
        run_threads(allreduce, [])
    with pytest.raises(UserError, match="world size 0"):
        run_actors(allreduce, [])


class Dies(Exception):
    pass


def dies_after(comm: Comm, array: Array, algorithm: str, rank: int, messages: int, die: Callable[[], None]) -> Array:
    """All-reduce; `rank` dies instead of its next message after so many."""
    if comm.rank == rank:
        left = messages

        def counted(method: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any) -> Any:
                nonlocal left
                if left == 0:
                    die()
                left -= 1
                return method(*arguments)

            return call

        for name in ("send", "recv", "send_recv"):
            setattr(comm, name, counted(getattr(comm, name)))
    return reduced(comm, array, "sum", algorithm)


def die() -> None:
    raise Dies


@pytest.mark.parametrize("algorithm", EVERYWHERE)
@pytest.mark.parametrize("rank", [0, 2])
def test_a_rank_that_dies_before_any_of_its_messages_hangs_nobody(algorithm: str, rank: int) -> None:
    for messages in range(20):
        arguments = [(np.ones(9), algorithm, rank, messages, die)] * 5
        try:
            run_threads(dies_after, arguments, timeout_s=60, window_bytes=TINY)
        except Dies:
            continue
        break
    assert messages > 1  # in every phase, until it had no message left


def waits_for_a_sleeper(comm: Comm, woken: Event) -> str:
    if comm.rank == 1:
        woken.wait()
        return ""
    comm.phase = "a test's phase"
    try:
        comm.recv(1)
    except RankLost as lost:
        return str(lost)
    finally:
        woken.set()
    return ""


def test_a_timeout_names_the_rank_and_the_phase() -> None:
    said = run_threads(waits_for_a_sleeper, [(Event(),)] * 2, timeout_s=0.05)[0]
    assert "rank 0 of 2 in a test's phase: rank 1 did not answer within 0.05 s" in said


def talks_between_groups(comm: Comm) -> float:
    """Half of the ranks reduce among themselves before all of them talk again."""
    if comm.rank < 2:
        allreduce(SubComm(comm, [0, 1]), np.ones(3))
    total = np.ones(1)
    for step in (1, 2, 3):
        total += comm.send_recv((comm.rank + step) % 4, np.ones(1), (comm.rank - step) % 4)
    return float(total[0])


def test_a_part_of_the_ranks_may_reduce_alone() -> None:
    assert run_threads(talks_between_groups, [()] * 4, timeout_s=20) == [4.0] * 4


# --- Ray actors ---

LENGTHS = (0, 1, 3, 100_003)  # in no packet, in one, in several slots


def reduced_in_all_ways(comm: Comm, rank: int, algorithms: list[str]) -> list[tuple[str, Array]]:
    comm.barrier()
    arrays = [random(3, length, "float32", length)[rank] for length in LENGTHS]
    arrays.append(random(3, 200_000, "int64", 5)[rank])
    results = [(name, reduced(comm, array, "sum", name, per_node=2)) for name in algorithms for array in arrays]
    if comm.kind == "gloo":  # its order of adding is its own
        for array, (_, result) in zip(arrays, results, strict=False):
            np.testing.assert_allclose(allreduce(comm, array, "sum", "gloo"), result, rtol=1e-4, atol=1e-4)
            np.testing.assert_array_equal(allreduce(comm, array, "max", "gloo"), allreduce(comm, array, "max"))
    return results


KINDS = [
    pytest.param(ObjectComm, ["ring", "exchange"], id="objects"),
    pytest.param(SharedMemoryComm, EVERYWHERE, id="shared-memory"),
    pytest.param(GlooComm, [*MESSAGES, "hierarchical"], id="gloo", marks=needs_torch),
]


@pytest.mark.parametrize(("over", "algorithms"), KINDS)
def test_actors_give_the_bits_of_threads(ray_session: None, over: type[ActorComm], algorithms: list[str]) -> None:
    arguments = [(rank, algorithms) for rank in range(3)]
    expected = run_threads(reduced_in_all_ways, arguments)
    actual = run_actors(reduced_in_all_ways, arguments, over=over, timeout_s=60)
    for ours, theirs in zip(actual, expected, strict=True):
        assert [(name, a.dtype, a.tobytes()) for name, a in ours] == [
            (name, a.dtype, a.tobytes()) for name, a in theirs
        ]


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("over", "algorithm", "messages"),
    [
        pytest.param(SharedMemoryComm, "direct", 5, id="shared-memory"),
        pytest.param(GlooComm, "ring", 3, id="gloo", marks=needs_torch),
    ],
)
def test_a_killed_rank_is_named_and_nothing_stays(
    ray_session: None, over: type[ActorComm], algorithm: str, messages: int
) -> None:
    before = set(os.listdir("/dev/shm"))
    with pytest.raises(RankLost, match="rank 2 died"):
        run_actors(dies_after, [(np.ones(2_000_000), algorithm, 2, messages, kill)] * 3, over=over, timeout_s=60)
    assert {name for name in set(os.listdir("/dev/shm")) - before if "raymill" in name} == set()


def different(comm: Comm) -> Array:
    return allreduce(comm, np.ones(5 + comm.rank), algorithm="auto")


@pytest.mark.parametrize("over", [SharedMemoryComm, pytest.param(GlooComm, marks=needs_torch)])
def test_actors_that_disagree_say_so(ray_session: None, over: type[ActorComm]) -> None:
    with pytest.raises(RanksDisagree, match=r"float64 \(6,\)"):
        run_actors(different, [(), ()], over=over, timeout_s=60)


def test_algorithms_are_all_tested() -> None:
    assert {*EVERYWHERE, "gloo"} == set(ALGORITHMS)
