"""What the gates compare: the candidate's own numbers, and whether a champion can be compared at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xgboost as xgb

from tasks.core.errors import InputError, RunError
from tasks.core.snapshot_files import part_name
from tasks.core.snapshots import Snapshot
from tasks.core.storage.store import SnapshotStore
from tasks.settings import load_settings
from tasks.stages.evaluate.stage import Judged
from tasks.stages.register import champion_comparison
from tasks.stages.register.candidate import Candidate, measure
from tasks.stages.register.champion_comparison import champion_score
from tasks.stages.register.gates import Gate, Proof
from tasks.stages.register.stage import Decision
from tests.support.packaged import packaged

FEATURES = ["n_chars", "user_mean"]
MANIFEST: dict[str, Any] = {
    "inputs": (),
    "config": {},
    "config_digest": "",
    "code": {},
    "deterministic": True,
    "seconds": {},
    "committed_at": "",
}
JUDGED = Judged(7, {"rmse": {"value": 0.75, "low": 0.7, "high": 0.8}}, {"stars 1": (7, 0.75)})


def trained(features: list[str]) -> Any:
    x = np.arange(40, dtype=np.float32).reshape(20, 2)[:, : len(features)]
    return xgb.train({"max_depth": 2}, xgb.DMatrix(x, x[:, 0], feature_names=features), 3)


@pytest.fixture
def candidate(store: SnapshotStore) -> Candidate:
    """Seven test rows in two files, one value unknown."""

    def commit(stage: str, tables: dict[str, list[pa.Table]], files: dict[str, bytes], **facts: Any) -> Snapshot:
        out = store.open_attempt(stage, "k")
        for name, parts in tables.items():
            for i, part in enumerate(parts):
                out.write_table(part_name(i, name), part)
        for file, data in files.items():
            out.write_bytes(file, data)
        out.fact(**facts)
        return store.commit(out, **MANIFEST)

    table = pa.table({n: pa.array([None, 1, 2, 3, 4, 5, 6], pa.float32()) for n in FEATURES})
    parts = [table.slice(0, 3), table.slice(3)]
    borders = {"train_until": "2020-01-01T00:00:00+00:00", "valid_until": "2020-02-01T00:00:00+00:00"}
    splits = commit("split", {"test": parts}, {}, features=FEATURES, target="rating", borders=borders)
    data = bytes(trained(FEATURES).save_raw("ubj"))
    model = commit("refit", {}, {"model.ubj": data}, features=FEATURES, params={}, rounds=3)
    slices = pa.table({"slice": ["stars 1"], "rows": [7], "loss_tuned": [0.5]})
    measures = {"tuned": {"rmse": {"value": 0.5}}, "mean": {"rmse": {"value": 1.0}}}
    about = {"rows": 7, "target": "rating", "metric": "rmse", "measures": measures}
    return Candidate(
        model, splits, commit("evaluate", {"slices": [slices]}, {}, **about), *packaged(store, data, FEATURES)
    )


def against(
    candidate: Candidate, monkeypatch: pytest.MonkeyPatch, champion: Any = FEATURES, **tags: str
) -> champion_comparison.Champion:
    """The champion's score where version 3 knows these features, or raises this error when it is loaded or scored."""

    def load(*_: Any) -> Any:
        if isinstance(champion, Exception) and not isinstance(champion, RunError):
            raise champion
        return trained(FEATURES if isinstance(champion, Exception) else champion)

    def judge(_: bytes) -> Judged:
        if isinstance(champion, RunError):
            raise champion
        return JUDGED

    monkeypatch.setattr(champion_comparison, "load_booster", load)
    version = SimpleNamespace(version=3, tags={f"raymill.{k}": v for k, v in tags.items()})
    return champion_score(candidate, SimpleNamespace(uri="u"), "m", version, judge)  # type: ignore[arg-type]


def test_the_candidate_is_measured_by_its_evaluation_and_its_file(candidate: Candidate) -> None:
    found = measure(candidate)
    assert (found.loss, found.mean, found.linear) == (0.5, 1.0, None)
    assert found.slices == {"stars 1": (7, 0.5)}
    assert found.size_bytes == candidate.package.facts["bytes"]
    assert found.proof == Proof(rows=400, missing=0, difference=0.0, digest="0123")
    assert set(found.latency_ms) == {1, 1000}
    assert all(ms > 0 for ms in found.latency_ms.values())


def test_a_champion_is_scored_on_the_candidates_test_slice(
    candidate: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = against(candidate, monkeypatch, target="rating", trained_until="2020-02-01T00:00:00+00:00")
    assert (found.version, found.loss, found.slices, found.problem, found.note) == ("3", 0.75, JUDGED.slices, "", "")
    assert champion_score(candidate, SimpleNamespace(), "m", None, lambda _: JUDGED).version == ""  # type: ignore[arg-type]


def test_a_champion_with_some_of_the_features_is_compared(
    candidate: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert against(candidate, monkeypatch, ["n_chars"]).loss == 0.75


def test_a_champion_that_may_have_learned_from_the_test_rows_is_told(
    candidate: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = against(candidate, monkeypatch, trained_until="2020-02-01T00:00:01+00:00")
    assert "learned from reviews until 2020-02-01" in found.note


@pytest.mark.parametrize(
    ("champion", "tags", "why"),
    [
        (["n_chars", "gone"], {}, "version 3 was trained on other features, such as gone"),
        (FEATURES, {"target": "helpful"}, "version 3 was trained for the target helpful, not rating"),
        (ValueError("no such artifact"), {}, "version 3 cannot be loaded (no such artifact)"),
        (RunError("its predictions are not the target's"), {}, "version 3 cannot be scored: its predictions are not"),
    ],
)
def test_what_keeps_a_champion_from_being_compared_is_told_with_the_way_out(
    candidate: Candidate, monkeypatch: pytest.MonkeyPatch, champion: Any, tags: dict[str, str], why: str
) -> None:
    found = against(candidate, monkeypatch, champion, **tags)
    assert found.loss is None
    assert why in found.problem
    assert "raymill models promote" in found.problem


def test_a_champion_with_other_features_is_scored_through_its_own_package(
    candidate: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(champion_comparison, "load_booster", lambda *_: trained(["n_chars", "gone"]))
    monkeypatch.setattr(champion_comparison.model_versions, "fetch", lambda *at: at[3] / "package")
    version, judged = SimpleNamespace(version=3, tags={"raymill.digest.package": "0123"}), []

    def judge_package(folder: Path) -> Judged:
        judged.append(folder.name)
        return JUDGED

    at: Any = (candidate, SimpleNamespace(uri="u"), "m", version, lambda _: pytest.fail("not by tonight's features"))
    found = champion_score(*at, judge_package)
    assert (found.loss, found.problem, judged) == (0.75, "", ["package"])
    assert "by its own features, such as gone" in found.note

    def refuse(_: Path) -> Judged:
        raise InputError("a package of format 9, not 1")

    assert "cannot be scored: a package of format 9" in champion_score(*at, refuse).problem


def test_a_champion_of_another_data_set_keeps_its_place(candidate: Candidate, monkeypatch: pytest.MonkeyPatch) -> None:
    own = replace(candidate, origin="/reviews/books")
    assert against(own, monkeypatch, input="/reviews/books").loss == 0.75
    assert against(own, monkeypatch).loss == 0.75  # of a version that did not keep its input
    assert against(replace(own, origin=""), monkeypatch, input="/reviews/all").loss == 0.75  # named: any input
    for same in ("/all, /reviews/books", "/reviews/books"):
        assert against(own, monkeypatch, input=same).loss == 0.75
    daily = replace(own, origin="/in/2026-11-30")
    assert against(daily, monkeypatch, input="/in/2026-11-29").loss == 0.75
    named = replace(own, dataset="books", origin="")
    assert "belongs to the data set films, not books" in against(named, monkeypatch, dataset="films").problem
    found = against(own, monkeypatch, input="/reviews/all")
    assert found.loss is None
    assert "version 3 learned from another input, /reviews/all (a data set with a name of its own" in found.problem


def test_a_registered_model_is_named_after_its_data_set_and_target() -> None:
    def name_of(*overrides: str) -> str:
        settings = load_settings(overrides=overrides)
        return settings.registry.name_for("rating", settings.data.called)

    assert name_of() == "raymill-amazon-us-rating"
    assert name_of("data.dataset=/profiles/shop.yaml") == "raymill-shop-rating"
    assert name_of("data.name=books") == "raymill-books-rating"
    assert name_of("registry.model_name=stars") == "stars"
    named, unnamed = (load_settings(overrides=[*o, "data.input=x/y"]).data for o in (["data.name=books"], []))
    assert (named.origin, unnamed.origin) == ("", str(Path("x/y").absolute()))


def test_a_registry_that_goes_down_over_the_champion_is_no_reason_against_it(
    candidate: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConnectionError):
        against(candidate, monkeypatch, ConnectionError("refused"))


def test_a_decision_names_what_failed_or_else_what_was_passed() -> None:
    passed, failed, not_there = Gate("size", 1, 2, True), Gate("loss", 2, 1, False), Gate("champion", None, None, None)
    assert str(Decision("4", True, (passed, not_there))) == "version 4 is champion: passed size"
    assert str(Decision("4", False, (passed, failed))) == "version 4 is challenger: loss: 2, limit 1, not passed"
    assert "all are off" in str(Decision("4", True, ()))
