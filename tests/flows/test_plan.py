"""`raymill plan` agrees with what a run on the same settings, input and code then does, and names the reasons."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows.run.planning import StagePlan
from tasks.core import stage as stage_module
from tasks.core.digests import digest_of
from tasks.core.errors import InputError, SettingsError
from tasks.core.sections import PROJECT
from tasks.core.settings import CONF
from tasks.core.source_code import source_modules
from tasks.sources import partitions
from tasks.sources.synth import synthesize
from tests.support.command import raymill
from tests.support.walked_runs import Place


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A place after one whole run."""
    place = Place(tmp_path_factory.mktemp("plan"))
    synthesize(60, 7, place.reviews)
    assert not any(place.run().values())
    return place


@pytest.fixture
def place(first: Place, tmp_path: Path) -> Place:
    shutil.copytree(first.root, tmp_path, dirs_exist_ok=True)
    return Place(tmp_path, runs=1)


def assert_agrees(planned: dict[str, StagePlan], done: dict[str, bool]) -> None:
    """What is planned as reused is reused, what runs runs, and nothing else is done."""
    assert [name for name in planned if name != "register"] == list(done)
    for name, reused in done.items():
        assert planned[name].tonight in (("reused", "may run") if reused else ("runs", "may run")), name
        assert planned[name].tonight != "reused" or planned[name].digest


def those(planned: dict[str, StagePlan], tonight: str) -> list[str]:
    return [name for name, stage in planned.items() if stage.tonight == tonight]


def reasons(stage: StagePlan) -> list[str]:
    return [change.says for change in stage.changes]


def test_of_an_unchanged_run_all_is_reused_and_nothing_is_written(place: Place) -> None:
    before = sorted(p.as_posix() for p in place.root.rglob("*"))
    planned = place.plan()
    assert set(those(planned, "reused")) == set(planned) - {"register"}
    assert sorted(p.as_posix() for p in place.root.rglob("*")) == before
    assert_agrees(planned, place.run())


def test_before_the_first_run_all_runs(place: Place) -> None:
    shutil.rmtree(place.root / "data")
    planned = place.plan()
    assert set(those(planned, "runs")) == set(planned) - {"register"}
    assert planned["clean"].note == "no snapshot yet"
    assert not (place.root / "data").exists()
    assert_agrees(planned, place.run())


def test_a_setting_of_a_late_stage_runs_it_and_maybe_what_is_made_from_it(place: Place) -> None:
    planned = place.plan("tune.trials=24")
    assert those(planned, "runs") == ["tune"]
    assert reasons(planned["tune"]) == ["setting tune.trials: 12 → 24"]
    assert planned["tune"].run == "night-1"
    assert those(planned, "may run") == ["refit", "evaluate", "package", "prove", "reference", "report"]
    assert planned["refit"].waits_for == ("tune",)
    done = place.run("tune.trials=24")
    assert_agrees(planned, done)
    assert [name for name, reused in done.items() if not reused] == ["tune"]  # the output came out as before


def test_where_an_output_changes_what_is_made_from_it_runs(place: Place) -> None:
    planned = place.plan("tune.trials=24")
    done = place.run("tune.trials=24", tune="other")
    assert_agrees(planned, done)
    assert [name for name, reused in done.items() if not reused] == ["tune", "refit", "report"]


def test_a_setting_of_an_early_stage(place: Place) -> None:
    planned = place.plan("clean.remove_urls=false", "evaluate.short_chars=7")
    assert those(planned, "reused") == ["ingest"]
    assert those(planned, "runs") == ["clean", "evaluate"]
    assert reasons(planned["clean"]) == ["setting clean.remove_urls: true → false"]
    assert reasons(planned["evaluate"])[0].startswith("setting evaluate.short_chars: ")
    assert_agrees(planned, place.run("clean.remove_urls=false", "evaluate.short_chars=7", clean="other"))


def test_a_new_and_a_changed_file_of_the_input_are_named(place: Place) -> None:
    (old,) = place.reviews.iterdir()
    shutil.copy(old, place.reviews / f"zz{old.suffix}")
    planned = place.plan()
    assert reasons(planned["ingest"]) == [f"files of the input: 1 new (zz{old.suffix})"]
    assert_agrees(planned, place.run())
    old.unlink()
    synthesize(50, 8, place.root / "more")
    (more,) = (place.root / "more").iterdir()
    shutil.copy(more, place.reviews / f"zz{old.suffix}")
    (line,) = reasons(place.plan()["ingest"])
    assert line == f"files of the input: 1 changed (zz{old.suffix}), 1 gone ({old.name})"


def test_parts_that_are_taken_over_are_counted(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitions, "PART_MIN_BYTES", 1)
    place.run("ingest.min_rows=2")
    synthesize(50, 8, place.root / "more")
    shutil.copy(place.root / "more" / "part-00000.parquet", place.reviews / "zz.parquet")
    assert place.plan("ingest.min_rows=2")["ingest"].parts == (1, 2)
    assert place.plan("ingest.max_columns=1999")["ingest"].parts == (0, 2)


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = tmp_path / "conf"
    shutil.copytree(CONF, copy)
    monkeypatch.setattr(stage_module, "CONF", copy)
    return copy


def test_changed_expectations_run_their_stage_alone(place: Place, conf: Path) -> None:
    with (conf / "expectations" / "clean.yaml").open("a") as suite:
        suite.write("\n# Stricter from now on.\n")
    planned = place.plan()
    assert those(planned, "runs") == ["clean"]
    assert reasons(planned["clean"]) == ["conf/expectations/clean.yaml changed"]
    done = place.run()
    assert_agrees(planned, done)
    assert [name for name, reused in done.items() if not reused] == ["clean"]


def test_a_changed_module_is_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def edited(module: str) -> dict[str, str]:
        found = source_modules(module)
        return {**found, "tasks.stages.tune.search": "0" * 64} if "tasks.stages.tune.search" in found else found

    monkeypatch.setattr(stage_module, "source_modules", edited)
    monkeypatch.setattr(stage_module, "source_digest", lambda module: digest_of(edited(module)))
    planned = place.plan()
    assert those(planned, "runs") == ["tune"]
    assert reasons(planned["tune"]) == ["code of tasks.stages.tune.search"]
    assert_agrees(planned, place.run())


def test_another_version_of_a_library(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    version = stage_module.metadata.version
    monkeypatch.setattr(stage_module.metadata, "version", lambda n: "9.9" if n == "xgboost" else version(n))
    planned = place.plan()
    (change,) = planned["train"].changes
    assert change.says == f"xgboost {version('xgboost')} → 9.9"
    assert_agrees(planned, place.run())


def test_an_optional_stage_is_planned_when_it_is_switched_on(place: Place) -> None:
    planned = place.plan("embeddings.enabled=true")
    assert planned["embeddings"].note == "no snapshot yet"
    assert reasons(planned["features"]) == ["embeddings is a new input"]
    assert planned["features"].tonight == "runs"
    assert_agrees(planned, place.run("embeddings.enabled=true"))


def test_the_plan_ends_where_the_run_does(place: Place) -> None:
    planned = place.plan("clean.remove_urls=false", until="tokenize")
    assert list(planned)[-1] == "tokenize"
    assert_agrees(planned, place.run("clean.remove_urls=false", until="tokenize"))


def test_going_back_to_earlier_settings_reuses_their_snapshots(place: Place) -> None:
    place.run("tune.trials=24", tune="other")
    planned = place.plan()
    assert set(those(planned, "reused")) == set(planned) - {"register"}
    assert_agrees(planned, place.run())


def test_changes_are_those_since_the_newest_run(place: Place) -> None:
    place.run("tune.trials=24")
    planned = place.plan("tune.trials=30")
    assert reasons(planned["tune"]) == ["setting tune.trials: 24 → 30"]
    assert planned["tune"].run == "night-2"


def test_a_removed_snapshot_is_made_again(place: Place) -> None:
    shutil.rmtree(place.store.root / "split")
    planned = place.plan()
    assert those(planned, "runs") == ["split"]
    assert planned["split"].note == "its snapshot was removed"
    assert_agrees(planned, place.run())


def test_a_manifest_made_before_reasons_were_kept_is_read(place: Place) -> None:
    for path in place.store.root.glob("*/*/manifest.json"):
        about = json.loads(path.read_text())
        del about["modules"], about["read"]
        for read in about["inputs"]:
            del read["contents"]
        path.write_text(json.dumps(about))
    planned = place.plan("tune.trials=24")
    assert those(planned, "runs") == ["tune"]
    assert reasons(planned["tune"]) == ["setting tune.trials: 12 → 24"]


def test_a_wrong_input_or_setting_is_the_error_of_a_run(place: Place) -> None:
    place.reviews.rename(place.root / "elsewhere")
    with pytest.raises(InputError, match="no such file"):
        place.plan()
    (place.root / "elsewhere").rename(place.reviews)
    with pytest.raises(SettingsError, match="embeddings is switched off"):
        place.plan(until="embeddings")


def test_the_command_prints_the_plan_and_the_same_as_json(place: Place) -> None:
    words = ["plan", "--input", str(place.reviews), "--dataset", "amazon-us"]
    words += ["--set", f"storage.root={place.root / 'data'}", "--set", "tune.trials=24"]
    said = raymill(*words, COLUMNS="80")
    assert said.returncode == 0, said.stderr
    assert "setting tune.trials: 12 → 24" in said.stdout
    assert max(map(len, said.stdout.splitlines())) <= 80
    as_json = json.loads(raymill(*words, "--json", "-").stdout)
    (tune,) = [stage for stage in as_json["stages"] if stage["stage"] == "tune"]
    assert tune["tonight"] == "runs"
    assert tune["changes"][0] | {"says": ""} == {
        "kind": "setting",
        "name": "tune.trials",
        "says": "",
        "before": 12,
        "now": 24,
    }
    refused = raymill("plan", "--until", "cleen")
    assert refused.returncode == 2
    assert "no stage 'cleen'" in refused.stderr


def test_the_systems_that_take_seconds_to_import_are_not_imported() -> None:
    code = "import sys, flows.cli.plan, flows.cli.diff; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, text=True, capture_output=True, check=True)
    assert {"prefect", "ray", "mlflow", "xgboost", "matplotlib"}.isdisjoint(done.stdout.split())
