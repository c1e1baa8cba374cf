"""The journal of ended trials, which a killed search is taken up from."""

from __future__ import annotations

from pathlib import Path

from tasks.tune import Journal


def test_what_is_appended_after_a_cut_line_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    path.write_text('{"valid_rmse": 1.0}\n{"valid_rm')
    journal = Journal(path)
    assert journal.read() == [{"valid_rmse": 1.0}]
    journal.append({"valid_rmse": 0.5})
    assert Journal(path).read() == [{"valid_rmse": 1.0}, {"valid_rmse": 0.5}]


def test_a_trial_without_a_finite_score_is_left_out(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "trials.jsonl")
    assert journal.read() == []
    for rmse in (0.5, float("nan"), float("inf")):
        journal.append({"valid_rmse": rmse})
    assert journal.read() == [{"valid_rmse": 0.5}]
