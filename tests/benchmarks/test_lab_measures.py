"""The lab's measurements of BLAS and activations report what they say, for each case asked for."""

from __future__ import annotations

import pytest

from benchmarks import activations, blas


def test_blas_reports_each_operation_size_dtype_and_thread_count() -> None:
    found = list(blas.rates([8, 16], ["float32", "float64"], [1]))
    assert len(found) == 3 * 2 * 2
    assert all(0 < rate.least <= rate.median <= rate.greatest for rate in found)


def test_activations_allocate_their_result_and_their_gradient() -> None:
    pytest.importorskip("torch", reason="needs the extra lab: torch")
    found = list(activations.costs(10_000, 1, ["relu", "gelu"]))
    assert [cost.name for cost in found] == ["relu", "gelu"]
    assert all(cost.forward_ms > 0 and cost.backward_ms > 0 for cost in found)
    assert all(cost.bytes_per_number >= 8 for cost in found)  # float32: y and the gradient of x
