"""Registering, promoting, rolling back, in a real MLflow on SQLite."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from flows.run import registry_events
from tasks.core.errors import InputError, RegistryError
from tasks.core.sections import TrackingConfig
from tasks.engines import registry, tracking
from tasks.settings import load_settings
from tasks.stages.register import model_card
from tasks.stages.register.champion_comparison import Candidate
from tasks.stages.register.stage import Decision
from tests.support.documented import of_program
from tests.support.registry_shop import Shop
from tests.support.webhook import listening

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> tracking.Tracker:
    folder = tmp_path_factory.mktemp("mlruns")
    config = TrackingConfig(
        uri=f"sqlite:///{folder / 'mlflow.db'}", experiment="raymill", system_metrics=False, price_per_core_hour=None
    )
    return tracking.Tracker.open(config, "tests", {})


@pytest.fixture
def shop(tracker: tracking.Tracker, tmp_path: Path) -> Shop:
    """An empty registry of a new name."""
    return Shop(tmp_path, tracker, f"model-{tmp_path.parent.name}-{tmp_path.name}")


@dataclass
class Story:
    """Three models registered one after the other: what was decided, and the aliases after each."""

    shop: Shop
    candidates: list[Candidate]
    decisions: list[Decision]
    aliases: list[dict[str, str]]


@pytest.fixture(scope="module")
def story(tracker: tracking.Tracker, tmp_path_factory: pytest.TempPathFactory) -> Story:
    shop = Shop(tmp_path_factory.mktemp("story"), tracker, "story")
    told = Story(shop, [], [], [])
    for rounds in (6, 4, 20):  # the second is worse than the first, the third is better
        told.candidates.append(shop.candidate(rounds))
        told.decisions.append(shop.register(told.candidates[-1]))
        told.aliases.append(shop.aliases)
    return told


@pytest.fixture
def three(shop: Shop) -> Shop:
    """Three versions without a model; 1 and 3 have been champion."""
    for number in ("1", "2", "3"):
        shop.add_version()
        if number != "2":
            registry.make_champion(shop.tracker.client, shop.name, number)
    return shop


def test_the_commands_of_the_tutorial_change_the_champion_after_runs_on_two_inputs(shop: Shop) -> None:
    for _ in range(2):
        shop.add_version()
    registry.make_champion(shop.tracker.client, shop.name, "1")  # that of the other input waits for a person
    by_hand = [c.words[2:] for c in of_program("raymill") if c.page == "docs/tutorial.md" and c.words[1] == "models"]
    champions = []
    for words in by_hand:
        if words[0] in ("promote", "rollback"):
            assert shop.raymill(*words).exit_code == 0, words
            champions.append(shop.aliases["champion"])
    assert champions == ["2", "1", "2"]


def test_the_first_model_needs_no_champion_to_become_one_and_keeps_its_records(story: Story) -> None:
    shop, candidate, decision = story.shop, story.candidates[0], story.decisions[0]
    assert decision.promoted
    version = shop.version("1")
    assert version.tags["raymill.target"] == "rating"
    assert version.tags["raymill.digest.model"] == candidate.model.digest
    assert json.loads(version.tags["raymill.snapshot_keys"]) == [s.key for s in candidate.snapshots.values()]
    assert {g["name"] for g in json.loads(version.tags["raymill.gates"])} >= {"size in MB", "milliseconds for 1 row"}
    assert decision.card.startswith("# story, version 1")
    assert version.description == model_card.shortened(decision.card, 5000, "model_card.md")
    audit = registry.history(shop.tracker.client, shop.name)[0]
    assert (audit.action, audit.from_version, audit.to_version, audit.finished) == ("promote", "", "1", True)
    assert audit.digests == candidate.digests
    assert audit.metrics["rmse_tuned"] == pytest.approx(candidate.scores.facts["measures"]["tuned"]["rmse"]["value"])
    assert "@" in audit.who
    told = json.loads(tracking.read_text(shop.tracker.client, audit.run_id, "audit.json"))
    assert told["gates"] == json.loads(version.tags["raymill.gates"])


def test_gates_block_what_is_worse_and_pass_what_is_better(story: Story) -> None:
    assert story.aliases == [
        {"champion": "1", "challenger": "1"},
        {"champion": "1", "challenger": "2"},
        {"champion": "3", "challenger": "3", "previous": "1"},
    ]
    assert [d.promoted for d in story.decisions] == [True, False, True]
    assert "gain over the champion, version 1" in str(story.decisions[1])
    assert story.shop.history() == [("promote", "", "1"), ("block", "1", "1"), ("promote", "1", "3")]
    assert [story.shop.version(v).tags["raymill.promoted"] for v in "123"] == ["true", "false", "true"]


def test_the_same_model_is_registered_and_decided_on_once(story: Story) -> None:
    for candidate, decision in list(zip(story.candidates, story.decisions, strict=True))[1:]:
        assert story.shop.register(candidate) == replace(decision, reused=True)
    assert len(story.shop.history()) == 3


def test_the_commands_say_what_is_there(story: Story) -> None:
    listed = json.loads(story.shop.raymill("list", "--json", "-").output)
    assert [(m["version"], m["aliases"]) for m in listed] == [
        ("1", ["previous"]),
        ("2", []),
        ("3", ["champion", "challenger"]),
    ]
    assert set(listed[2]["losses"]) == {"rmse_tuned", "rmse_mean", "rmse_champion"}
    told = json.loads(story.shop.raymill("history", "--json", "-").output)
    assert [t["action"] for t in told] == ["promote", "block", "promote"]
    assert "champion" in story.shop.raymill("list").output
    assert "promote" in story.shop.raymill("history").output
    assert "is champion already" in story.shop.raymill("promote", "3").output


def test_a_registry_that_does_not_answer_is_not_taken_for_an_empty_one(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*_: Any) -> Any:
        raise MlflowException("API request to http://host failed with exception refused")

    monkeypatch.setattr(story.shop.tracker.client, "get_model_version_by_alias", down)
    with pytest.raises(RegistryError, match="MLflow cannot be used"):
        story.shop.register(story.candidates[0])


def test_what_broke_off_is_taken_up_and_other_gates_decide_anew_on_the_same_version(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate = shop.candidate(10)

    def dies(*_: Any) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(model_card, "render", dies)
        with pytest.raises(KeyboardInterrupt):
            shop.register(candidate)
    assert shop.aliases == {"challenger": "1"}
    keys = [snapshot.key for snapshot in candidate.snapshots.values()]
    assert json.loads(shop.version("1").tags["raymill.snapshot_keys"]) == keys  # what `forget` finds it by
    assert not shop.register(candidate, max_loss=0.0).promoted
    assert shop.aliases == {"challenger": "1"}
    assert shop.register(candidate).promoted
    assert shop.aliases == {"champion": "1", "challenger": "1"}
    assert shop.history() == [("block", "", ""), ("promote", "", "1")]
    assert shop.register(candidate, max_loss=0.0).promoted  # no champion falls by gates


def test_a_champion_that_cannot_be_read_stays_and_what_a_person_rolled_back_comes_back_by_hand_alone(
    shop: Shop,
) -> None:
    shop.add_version()
    registry.make_champion(shop.tracker.client, shop.name, "1")
    candidate = shop.candidate(10)
    decision = shop.register(candidate)
    assert not decision.promoted
    assert "version 1 cannot be loaded" in str(decision)
    assert "raymill models promote" in str(decision)
    assert "is champion, before it version 1" in shop.raymill("promote", "2").output
    assert shop.aliases == {"champion": "2", "challenger": "2", "previous": "1"}
    assert "version 1" in shop.raymill("rollback").output
    again = shop.register(candidate, min_gain_over_champion=None, max_slice_regression=None)
    assert (again.promoted, again.reused) == (False, True)
    assert shop.aliases == {"champion": "1", "challenger": "2"}


def test_rolling_back_goes_back_step_by_step_and_no_further(three: Shop) -> None:
    assert three.raymill("promote", "2").exit_code == 0
    assert three.aliases == {"champion": "2", "previous": "3"}
    assert "version 3" in three.raymill("rollback").output
    assert three.aliases == {"champion": "3", "previous": "1"}
    assert "version 1" in three.raymill("rollback").output
    assert three.aliases == {"champion": "1"}
    assert "only champion there was" in str(three.raymill("rollback").exception)
    assert three.history() == [("promote by hand", "3", "2"), ("rollback", "2", "3"), ("rollback", "3", "1")]


def test_an_alias_moved_or_a_champion_deleted_in_mlflow_leaves_a_way_back(three: Shop) -> None:
    client = three.tracker.client
    client.set_registered_model_alias(three.name, "champion", "2")
    registry.rollback(client, three.tracker.experiment_id, three.name)
    assert three.aliases["champion"] == "3"
    client.delete_model_version(three.name, "3")
    registry.rollback(client, three.tracker.experiment_id, three.name)
    assert three.aliases["champion"] == "1"


def test_a_decision_that_was_not_carried_out_is_told_as_such(three: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(registry, "make_champion", dies)
        with pytest.raises(KeyboardInterrupt):
            registry.promote(three.tracker.client, three.tracker.experiment_id, three.name, "2")
    assert three.aliases["champion"] == "3"
    assert [t["finished"] for t in json.loads(three.raymill("history", "--json", "-").output)] == [False]


def test_what_cannot_be_done_is_an_error_that_says_why(shop: Shop) -> None:
    for command in (("list",), ("promote", "1"), ("rollback",)):
        nothing = shop.raymill(*command).exception
        assert isinstance(nothing, RegistryError)
        assert "is registered yet" in str(nothing)
    shop.add_version()
    unknown, nowhere = shop.raymill("promote", "99").exception, shop.raymill("rollback").exception
    assert isinstance(unknown, InputError)
    assert "no version 99" in str(unknown)
    assert isinstance(nowhere, RegistryError)
    assert "nothing to roll back to: there never was a champion" in str(nowhere)


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "postgresql://u:secret@127.0.0.1:9/db", "nothing://here"])
def test_a_registry_that_is_down_is_an_error_before_any_work_and_no_secret_is_told(uri: str) -> None:
    with pytest.raises(RegistryError) as caught:
        tracking.Tracker.open(
            TrackingConfig(uri=uri, experiment="x", system_metrics=False, price_per_core_hour=None), "run", {}
        )
    assert "MLflow cannot be used" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_webhook_is_told_of_models_that_are_promoted_blocked_and_rolled_back(
    story: Story, three: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening() as hook:
        monkeypatch.setenv("RAYMILL__NOTIFY__WEBHOOK", hook.url)
        settings = load_settings()
        for decision in story.decisions[:2]:
            assert decision.audit is not None
            assert registry_events.tell(settings, "story", decision.audit) == ""
        assert three.raymill("promote", "2").exit_code == three.raymill("rollback").exit_code == 0
        assert three.raymill("promote", "3").exit_code == 0  # it is champion already
    promoted, blocked, by_hand, back = hook.posted
    assert [told["event"] for told in hook.posted] == ["promoted", "blocked", "promoted", "rolled-back"]
    assert promoted["text"].startswith("version 1 of story is champion\n")
    assert blocked["text"].startswith("version 2 of story is blocked by the gates")
    assert blocked["failed_gates"] == [gate.name for gate in story.decisions[1].gates if gate.passed is False]
    assert by_hand["text"] == f"version 2 of {three.name} is champion, by hand, before it version 3\ndecided by hand"
    assert back["text"].startswith(f"version 3 of {three.name} is champion again, rolled back, before it version 2")
    assert (back["from_version"], back["to_version"]) == ("2", "3")


def test_a_webhook_that_is_down_does_not_keep_a_model_from_being_promoted(
    three: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.run.notify.PAUSES_S", (0.0, 0.0))
    monkeypatch.setenv("RAYMILL__NOTIFY__WEBHOOK", "http://127.0.0.1:9/s3cretpath")
    done = three.raymill("promote", "2")
    assert done.exit_code == 0
    assert "no notification: the webhook cannot be reached" in done.output
    assert "s3cretpath" not in done.output
    assert three.aliases["champion"] == "2"
