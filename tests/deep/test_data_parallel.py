"""Where replicas need the search for unused parameters, and where it would only cost."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="needs the extra deep: torch")

from tasks.deep.data_parallel import keeps_buckets  # noqa: E402
from tasks.deep.encoder import build  # noqa: E402
from tasks.deep.plan import Layout, plan  # noqa: E402
from tests.support.text_models import MODEL  # noqa: E402


@pytest.mark.parametrize(("replicas", "needed"), [(2, False), (3, True)])
def test_unused_parameters_are_searched_for_where_the_order_of_sums_counts(replicas: int, needed: bool) -> None:
    place = replace(plan(), layout=Layout(1, replicas, 1), world_size=replicas)
    assert keeps_buckets(build(MODEL, 0), place) is needed
    assert keeps_buckets(torch.nn.Linear(2, 2), place)
