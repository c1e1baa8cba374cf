"""A mixture of experts: on any grid of ranks, forward and backward, what one row after the other gives."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.errors import InputError
from tasks.parallel.comm import Comm, run_threads
from tasks.parallel.comm_actors import run_actors

torch = pytest.importorskip("torch", reason="needs the extra lab: torch")

from tasks.parallel.moe import Experts, Grid, forward  # noqa: E402

GRIDS = [(1, 1), (2, 1), (1, 2), (3, 1), (1, 3), (2, 2), (5, 1), (1, 5), (3, 2), (2, 3), (7, 1), (2, 4), (3, 3)]


def made(
    rows: int, *, width: int = 4, experts: int = 5, hidden: int = 6, out: int = 3, seed: int = 0
) -> tuple[Any, ...]:
    torch.manual_seed(seed)
    x = torch.randn(rows, width, dtype=torch.float64)
    parts = Experts(
        torch.randn(width, experts, dtype=torch.float64),
        torch.randn(experts, width, hidden, dtype=torch.float64),
        torch.randn(experts, hidden, out, dtype=torch.float64),
    )
    return x, parts, torch.randn(rows, out, dtype=torch.float64)


def row_by_row(x: Any, experts: Experts, k: int, capacity: float | None) -> tuple[Any, list[int]]:
    """The definition: queue the choices, then compute one row and one expert at a time."""
    total = experts.router.shape[1]
    limit = len(x) * k if capacity is None else -(-capacity * len(x) * k // total)
    gates, chosen = torch.topk(torch.softmax(x @ experts.router, 1), k, dim=1)
    gates = gates / gates.sum(1, keepdim=True)
    taken, kept = [0] * total, set()
    for choice in range(k):
        for row in range(len(x)):
            expert = int(chosen[row, choice])
            if taken[expert] < limit:
                taken[expert] += 1
                kept.add((row, choice))
    lines = []
    for row in range(len(x)):
        y = torch.zeros(experts.second.shape[2], dtype=x.dtype)
        for choice in range(k):
            if (row, choice) in kept:
                e = int(chosen[row, choice])
                y = y + gates[row, choice] * (torch.relu(x[row] @ experts.first[e]) @ experts.second[e])
        lines.append(y)
    return torch.stack(lines) if lines else x.new_zeros(0, experts.second.shape[2]), taken


def work(comm: Comm, x: Any, part: Experts, dy: Any, grid: Grid, k: int, capacity: float | None) -> tuple[Any, ...]:
    torch.set_num_threads(1)  # ranks are threads here
    x, part = x.detach().clone().requires_grad_(), Experts(*(w.detach().clone().requires_grad_() for w in part))
    y, load = forward(comm, x, part, grid=grid, k=k, capacity_factor=capacity)
    y.backward(dy)
    found = (y.detach(), *(torch.zeros_like(t) if t.grad is None else t.grad for t in (x, *part)))
    return tuple(t.numpy() for t in found), load.taken.tolist(), load.balance


def arguments(x: Any, experts: Experts, dy: Any, grid: Grid, k: int, capacity: float | None) -> list[Any]:
    rows = [torch.tensor_split(t, grid.groups) for t in (x, dy)]
    return [
        (rows[0][r // grid.slices], experts.part(grid, r), rows[1][r // grid.slices], grid, k, capacity)
        for r in range(grid.groups * grid.slices)
    ]


def compare(results: list[Any], x: Any, experts: Experts, dy: Any, grid: Grid, k: int, capacity: float | None) -> None:
    whole = Experts(*(w.detach().clone().requires_grad_() for w in experts))
    x = x.detach().clone().requires_grad_()
    expected, taken = row_by_row(x, whole, k, capacity)
    if len(x):
        expected.backward(dy)
    zero = [torch.zeros_like(t) if t.grad is None else t.grad for t in (x, *whole)]
    of_parts = Experts(zero[1], zero[2], zero[3])
    for r, (found, load, _) in enumerate(results):
        group = r // grid.slices
        part = of_parts.part(grid, r)
        wanted = (torch.tensor_split(expected, grid.groups)[group], torch.tensor_split(zero[0], grid.groups)[group])
        for one, other in zip(found, (*wanted, part.router, part.first, part.second), strict=True):
            torch.testing.assert_close(torch.tensor(one), other.detach(), rtol=1e-9, atol=1e-11)
        assert load == taken


@settings(max_examples=20)
@given(
    grid=st.sampled_from(GRIDS),
    rows=st.integers(0, 23),
    k=st.integers(1, 3),
    capacity=st.none() | st.sampled_from([0.25, 0.5, 1.0, 1.5]),
    seed=st.integers(0, 9),
)
def test_any_grid_gives_what_one_row_after_the_other_gives(
    grid: tuple[int, int], rows: int, k: int, capacity: float | None, seed: int
) -> None:
    shape = Grid(*grid)
    given_all = made(rows, seed=seed)
    results = run_threads(work, arguments(*given_all, shape, k, capacity))
    compare(results, *given_all, shape, k, capacity)


@pytest.mark.parametrize("grid", [(1, 1), (3, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("capacity", [None, 1.0])
def test_a_router_that_sends_every_row_to_one_expert(grid: tuple[int, int], capacity: float | None) -> None:
    shape = Grid(*grid)
    x, experts, dy = made(12)
    x[:, 0] = 5
    experts.router[:] = 0
    experts.router[0, 3] = 100
    results = run_threads(work, arguments(x, experts, dy, shape, 1, capacity))
    compare(results, x, experts, dy, shape, 1, capacity)
    assert results[0][1] == [0, 0, 0, 12 if capacity is None else 3, 0]
    assert results[0][2] == pytest.approx(5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"grid": Grid(2, 2)}, "2 groups of 2 slices on 1 ranks"),
        ({"k": 6}, "6 of 5 experts"),
        ({"k": 0}, "0 of 5 experts"),
        ({"capacity_factor": 0.0}, "capacity factor 0.0"),
        ({"nan": True}, "not finite"),
    ],
)
def test_what_cannot_be_computed_is_refused(change: dict[str, Any], said: str) -> None:
    x, experts, _ = made(3)
    if change.pop("nan", False):
        x[1, 1] = float("nan")
    options: dict[str, Any] = {"grid": Grid(1, 1), **change}
    with pytest.raises(InputError, match=said):
        run_threads(lambda comm: forward(comm, x, experts, **options), [()])


def test_on_actors_as_on_threads(ray_session: None) -> None:
    shape, given_all = Grid(2, 1), made(9)
    results = run_actors(work, arguments(*given_all, shape, 2, 1.0))
    compare(results, *given_all, shape, 2, 1.0)
