"""`--until STAGE`: the flow's stages in its order, up to this one and no further."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows import etl_train as flow_module
from flows import graph
from flows.run import context, stage_task
from flows.run.context import Run
from flows.run.names import stage_names
from flows.run.record import RunRecord, StageRow
from flows.run.usage import Usage
from tasks.core.errors import SettingsError
from tasks.settings import Settings, load_settings
from tests.support.pipeline import not_asked_for

ASKED_FOR = sorted(stage_names() - not_asked_for())
Begun = Callable[[str | None], list[str]]


@dataclass
class NoSource:
    forgotten: Any = None


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Begun:
    """Run the flow until a stage; returns the stages that it began. They do nothing but say that they are done."""
    settings = load_settings(overrides=[f"storage.root={tmp_path}"])
    names: list[str] = []

    def do(name: str) -> Any:
        names.append(name)
        context.current().record.stages.append(StageRow(name))
        return SimpleNamespace(facts={"measures": {}, "target": "rating"})

    class Task:
        def __init__(self, name: str) -> None:
            self.name = name

        def __call__(self, *_: Any) -> Any:
            return do(self.name)

    def register(*_: Any) -> Any:
        do("register")
        return SimpleNamespace(card="", gates=[], audit=None)

    @contextmanager
    def opened(settings: Settings, until: str | None) -> Iterator[Run]:
        none: Any = SimpleNamespace(waiting=[])
        meter: Any = SimpleNamespace(total=Usage)
        run = Run(settings, RunRecord(), none, none, none, none, datetime.now(UTC), 0.0, meter, none, last=until)
        token = context.CURRENT.set(run)
        yield run
        context.CURRENT.reset(token)

    monkeypatch.setattr(stage_task.StageTask, "under", lambda self, _: Task(self.name))
    monkeypatch.setattr(stage_task, "beside", lambda call: SimpleNamespace(result=call))
    monkeypatch.setattr(stage_task, "wait", lambda *_: SimpleNamespace(not_done=()))
    monkeypatch.setattr(flow_module, "_register_task", register)
    monkeypatch.setattr(flow_module, "publish", lambda *_: None)
    monkeypatch.setattr(flow_module, "open_run", opened)
    monkeypatch.setattr(graph, "discover", lambda *_: NoSource())
    monkeypatch.setattr(flow_module, "environment", SimpleNamespace(prepare=lambda: None))
    monkeypatch.setattr(flow_module, "logs", SimpleNamespace(set_up=lambda _: None))
    monkeypatch.setattr(flow_module, "notify", SimpleNamespace(remember=lambda *_: None))

    def run_until(last: str | None) -> list[str]:
        names.clear()
        record = flow_module.etl_train.fn(settings=settings, until=last)
        assert [row.stage for row in record.stages] == names
        return list(names)

    return run_until


def test_the_flow_has_every_stage_once(begun: Begun) -> None:
    assert sorted(begun(None)) == ASKED_FOR


@pytest.mark.parametrize("last", ASKED_FOR)
def test_all_stages_up_to_the_last_one_are_run(begun: Begun, last: str) -> None:
    in_order = begun(None)
    assert begun(last) == in_order[: in_order.index(last) + 1]


def test_of_two_side_by_side_the_second_is_left_out_where_the_first_is_the_last(begun: Begun) -> None:
    assert "tokenize" not in begun("count-words")
    assert begun("tokenize")[-2:] == ["count-words", "tokenize"]
    assert "tune" not in begun("train")
    assert begun("tune")[-2:] == ["train", "tune"]


def test_next_tokens_need_packed_ones() -> None:
    with pytest.raises(SettingsError, match=r"next_token.enabled[\s\S]*--set pack_tokens.enabled=true"):
        graph.find_given(load_settings(overrides=["next_token.enabled=true"]), None)


def test_a_stage_that_is_switched_off_cannot_be_the_last(begun: Begun) -> None:
    with pytest.raises(SettingsError, match="embeddings is switched off"):
        begun("embeddings")


@pytest.mark.parametrize(("last", "published"), [(None, True), ("report", True), ("evaluate", False)])
def test_the_pages_are_written_where_the_report_is_the_last_stage_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str | None, published: bool
) -> None:
    class Written(Exception):
        pass

    def write_docs(_: Run) -> None:
        raise Written

    none: Any = None
    monkeypatch.setattr(Run, "write_docs", write_docs)
    monkeypatch.setattr(flow_module, "get_run_logger", lambda: SimpleNamespace(warning=print))
    monkeypatch.setattr(flow_module.watching, "settle", lambda *_, **__: None)
    settings = load_settings(overrides=[f"storage.root={tmp_path}"])
    run = Run(settings, RunRecord(), none, none, none, none, datetime.now(UTC), 0.0, none, none, last=last)
    run.record.stages = [StageRow("evaluate"), *([StageRow("report")] if published else [])]
    run.snapshots["ingest"] = none
    with pytest.raises(Written) if published else nullcontext():
        flow_module.publish(run, none, none)
