"""What Evidently is given: columns with as many values in each bin as were counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flows.run import evidently_page
from tasks.core.errors import SettingsError


def test_values_stand_in_their_bins_and_missing_ones_are_missing() -> None:
    edges = {"a": [0.0, 2.5], "nothing": []}
    found = evidently_page.values({"a": [3, 1, 2, 4], "nothing": [0, 5]}, edges)
    there = found["a"][np.isfinite(found["a"])]
    counts = np.bincount(np.searchsorted(edges["a"], there, side="left"), minlength=3)
    assert (counts.tolist(), int(np.isnan(found["a"]).sum())) == ([3, 1, 2], 4)
    assert np.isnan(found["nothing"]).all()
    assert len(found["nothing"]) == 5


def test_without_the_extra_it_is_said_before_anything_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidently_page, "find_spec", lambda _name: None)
    with pytest.raises(SettingsError, match=r"Evidently is not installed(?s:.*)\[evidently\]"):
        evidently_page.check_installed()


@pytest.mark.nightly
def test_evidentlys_report_is_a_page_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("evidently", reason="the extra evidently is not installed")
    sides = [{"a": np.arange(40.0) + shift, "nothing": np.full(40, np.nan)} for shift in (0, 30)]
    evidently_page.report(*sides, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "Drift" in page
    assert 'src="http' not in page
