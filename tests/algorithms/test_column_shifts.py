"""Columns of two tables compared: missing values, means, and the distance of their distributions."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.algorithms import column_shifts
from tasks.algorithms.column_shifts import Shift, shifts
from tasks.algorithms.distances import (
    population_stability_index,
    psi_by_chance,
    total_variation,
    total_variation_by_chance,
)

COUNTS = st.lists(st.integers(0, 1000), min_size=2, max_size=12)


@given(COUNTS, st.integers(1, 50))
def test_equal_shares_have_no_distance(counts: list[int], times: int) -> None:
    more = [count * times for count in counts]
    assert population_stability_index(counts, more) == pytest.approx(0, abs=1e-12)
    assert total_variation(dict(enumerate(map(int, counts))), dict(enumerate(more))) == pytest.approx(0)  # type: ignore


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=2, max_size=12))
def test_distances_are_symmetric_and_not_negative(pairs: list[tuple[int, int]]) -> None:
    a, b = ([pair[i] for pair in pairs] for i in (0, 1))
    assert population_stability_index(a, b) == pytest.approx(population_stability_index(b, a))
    assert population_stability_index(a, b) >= 0
    names: list[dict[str | None, int]] = [{str(i): n for i, n in enumerate(side)} for side in (a, b)]
    assert 0 <= total_variation(*names) <= 1 + 1e-12
    assert total_variation(*names) == pytest.approx(total_variation(*reversed(names)))


def test_distances_of_known_shares() -> None:
    # 0.2 ln(0.7 / 0.5) - 0.2 ln(0.3 / 0.5), with so many rows that half a row does not count
    n = 10_000_000
    assert population_stability_index([n, n], [1.4 * n, 0.6 * n]) == pytest.approx(0.16946, abs=1e-4)
    assert total_variation({"x": 5, "y": 5}, {"x": 7, "z": 3}) == pytest.approx(0.5)
    assert total_variation({"x": 5}, {"y": 3}) == 1


def test_chance_is_what_samples_of_one_distribution_have() -> None:
    rng = np.random.default_rng(7)
    shares = [0.1, 0.2, 0.3, 0.4]
    psi, variation = [], []
    for _ in range(300):
        a, b = rng.multinomial(500, shares), rng.multinomial(800, shares)
        psi.append(population_stability_index(a, b))
        variation.append(total_variation(*({str(i): int(n) for i, n in enumerate(side)} for side in (a, b))))
    assert np.mean(psi) == pytest.approx(psi_by_chance(a, b), rel=0.15)
    named: list[dict[str | None, int]] = [{str(i): int(n) for i, n in enumerate(side)} for side in (a, b)]
    assert np.mean(variation) == pytest.approx(total_variation_by_chance(*named), rel=0.15)


def compared(folder: Path, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Shift]:
    """Write each side in two files, compare all columns."""
    sides = []
    for name, columns in (("a", a), ("b", b)):
        table, files = pa.table(columns), []
        for part, rows in enumerate((table.slice(0, 3), table.slice(3))):
            files.append(folder / f"{name}-{part}.parquet")
            pq.write_table(rows, files[-1])
        sides.append(files)
    return {shift.column: shift for shift in shifts(*sides, list(a))}


def test_numbers_are_summed_up_and_binned(tmp_path: Path) -> None:
    a, b = list(range(100)), [50.0 + i / 2 for i in range(100)]
    x = compared(tmp_path, {"x": [float(i) for i in a]}, {"x": b})["x"]
    assert (x.kind, x.measure) == ("number", "PSI")
    assert (x.a["mean"], x.b["mean"]) == (49.5, 74.75)
    assert (x.a["min"], x.a["max"], x.b["min"], x.b["max"]) == (0, 99, 50, 99.5)
    assert x.a["std"] == pytest.approx(np.std(a, ddof=1))
    edges = [np.quantile(a, q / 10, method="lower") for q in range(1, 10)]
    counts = [Counter(np.searchsorted(edges, side, side="left").tolist()) for side in (a, b)]
    expected = population_stability_index(*([of[i] for i in range(10)] + [0] for of in counts))
    assert x.distance == pytest.approx(expected)


def test_equal_columns_do_not_differ_and_the_most_different_come_first(tmp_path: Path) -> None:
    a = {"same": list(range(50)), "much": list(range(50)), "little": list(range(50))}
    b = {"same": list(range(50)), "much": [9] * 50, "little": [*range(40), *range(10)]}
    found = compared(tmp_path, a, b)
    assert list(found) == ["much", "little", "same"]
    assert not found["same"].differs
    assert found["same"].distance == 0
    assert found["little"].differs


def test_missing_values_are_counted_and_are_a_bin(tmp_path: Path) -> None:
    nan, inf = float("nan"), float("inf")
    x = compared(tmp_path, {"x": [1.0, 2.0, 3.0, 4.0]}, {"x": [1.0, None, nan, inf]})["x"]
    assert (x.a["missing"], x.b["missing"]) == (0, 3)
    assert (x.b["mean"], x.b["max"]) == (1, 1)
    assert x.distance > 0.25


def test_a_column_without_values_can_be_compared(tmp_path: Path) -> None:
    nothing = pa.array([None] * 4, pa.float64())
    x = compared(tmp_path, {"x": nothing}, {"x": [1.0, 2.0, 3.0, 4.0]})["x"]
    assert (x.a["missing"], x.a["mean"], x.b["missing"]) == (4, None, 0)
    assert x.distance > 1


def test_few_texts_are_categories_and_many_are_compared_by_length(tmp_path: Path) -> None:
    a = {"shop": ["Books"] * 30 + ["Toys"] * 20, "text": [f"text {i}" for i in range(50)]}
    b = {"shop": ["Books"] * 10 + ["Toys"] * 30 + [None] * 10, "text": [f"a longer text {i}" for i in range(50)]}
    found = compared(tmp_path, a, b)
    shop, text = found["shop"], found["text"]
    assert (shop.kind, shop.distance) == ("category", pytest.approx(0.4))
    assert (shop.a["top"], shop.b["top"]) == ({"Books": 0.6, "Toys": 0.4}, {"Books": 0.2, "Toys": 0.6})
    assert (shop.a["missing"], shop.b["missing"]) == (0, 10)
    assert (text.kind, text.measure) == ("length", "PSI of lengths")
    assert text.b["mean"] - text.a["mean"] == pytest.approx(9)
    assert text.distance > 0.25


def test_lists_times_truths_and_whole_numbers(tmp_path: Path) -> None:
    day = [datetime(2024, 1, i + 1, tzinfo=UTC) for i in range(20)]
    a = {"ids": [[1] * (i % 3) for i in range(20)], "when": day, "ok": [True] * 20, "n": list(range(20))}
    b = {"ids": [[1] * 5 for _ in range(20)], "when": day[10:] * 2, "ok": [True, False] * 10, "n": [None, *range(19)]}
    found = compared(tmp_path, a, b)
    assert (found["ids"].kind, found["ids"].b["mean"]) == ("length", 5)
    assert found["when"].b["min"] == day[10].timestamp() * 1000
    assert (found["ok"].measure, found["ok"].distance) == ("TV", pytest.approx(0.5))
    assert found["n"].b["missing"] == 1


def test_columns_of_another_kind_and_of_one_side_are_left_out(tmp_path: Path) -> None:
    for name, values in (("a", ["1", "2"]), ("b", [1, 2])):
        pq.write_table(pa.table({"x": values, "y": [1, 2], "s": [{"q": 1}] * 2}), tmp_path / f"{name}.parquet")
    assert [s.column for s in shifts([tmp_path / "a.parquet"], [tmp_path / "b.parquet"], ["x", "y", "s"])] == ["y"]


def test_deciles_come_from_evenly_spaced_rows_and_all_rows_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(7)
    a, b = {"x": rng.normal(size=4000)}, {"x": rng.normal(1, size=4000)}
    exact = compared(tmp_path, a, b)["x"]
    monkeypatch.setattr(column_shifts, "SAMPLE_ROWS", 500)
    near = compared(tmp_path, a, b)["x"]
    assert (near.a, near.b) == (exact.a, exact.b)
    assert near.distance == pytest.approx(exact.distance, rel=0.1)
    assert near.distance != exact.distance
