"""The changes between what two snapshots were made from, in a user's words."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.core.changes import changes
from tasks.core.snapshots import InputRef, Provenance

SHA, OTHER_SHA = "a" * 64, "b" * 64


def source(digest: str = "d1", **files: str) -> InputRef:
    contents = {"files of the input": {f"{name}.csv": text for name, text in files.items()}}
    return InputRef(name="source", stage="source", key="", digest=digest, contents=contents)


def made(**changed: Any) -> Provenance:
    about: dict[str, Any] = {
        "stage": "near-duplicates",
        "inputs": (source(a="1", b="2", c="3"),),
        "config": {"trials": 12, "params": {"depth": 6}, "names": ["x"]},
        "code": {"source": "s1", "version": "1", "xgboost": "3.2.0", "expectations/clean.yaml": SHA},
        "modules": {"tasks.stages.clean.text": "1", "tasks.domain.schemas": "2"},
        "read": {"vocab.json": SHA},
    }
    return Provenance(**{**about, **changed})


def said(then: Provenance, now: Provenance) -> list[str]:
    return [change.says for change in changes(then, now)]


def test_what_was_made_alike_has_no_changes() -> None:
    assert said(made(), made()) == []


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"trials": 24}, "setting near_duplicates.trials: 12 → 24"),
        ({"params": {"depth": 7}}, "setting near_duplicates.params.depth: 6 → 7"),
        ({"params": {"depth": 6, "eta": 0.1}}, "setting near_duplicates.params.eta: – → 0.1"),
        ({"names": ["x", "y"]}, 'setting near_duplicates.names: ["x"] → ["x", "y"]'),
        ({"trials": None}, "setting near_duplicates.trials: 12 → null"),
    ],
)
def test_a_changed_setting_is_named_with_both_values(config: dict[str, Any], expected: str) -> None:
    assert said(made(), made(config={**made().config, **config})) == [expected]


def test_a_stage_in_a_section_of_another_name_has_its_settings_named_by_that() -> None:
    (change,) = changes(made(), made(config={**made().config, "trials": 1}), section="train")
    assert change.name == "train.trials"
    assert (change.before, change.now) == (12, 1)


def test_new_changed_and_gone_files_of_the_input_are_named() -> None:
    now = source("d2", a="1", b="other", d="4", e="5", f="6", g="7")
    (line,) = said(made(), made(inputs=(now,)))
    assert line == "files of the input: 4 new (d.csv, e.csv, f.csv and 1 more), 1 changed (b.csv), 1 gone (c.csv)"


def test_other_inputs_are_named() -> None:
    ref = {"name": "raw", "stage": "ingest", "key": "k"}
    one, two = InputRef(**ref, digest="1" * 64), InputRef(**ref, digest="2" * 64)
    assert said(made(inputs=(one,)), made(inputs=(two,))) == ["ingest is another one: 11111111 → 22222222"]
    assert said(made(inputs=()), made(inputs=(one,))) == ["ingest is a new input"]
    assert said(made(inputs=(one,)), made(inputs=())) == ["ingest is no longer an input"]


def test_an_input_that_is_not_made_yet_is_no_change() -> None:
    not_yet = InputRef(name="source", stage="ingest", key="", digest="")
    assert said(made(), made(inputs=(not_yet,))) == []


def test_changed_modules_are_named() -> None:
    code = {**made().code, "source": "s2"}
    now = made(code=code, modules={"tasks.stages.clean.text": "9", "tasks.algorithms.new": "3"})
    assert said(made(), now) == [
        "code of tasks.stages.clean.text, tasks.algorithms.new (new), tasks.domain.schemas (gone)"
    ]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ({"version": "2"}, "version of the stage: 1 → 2"),
        ({"xgboost": "3.3.0"}, "xgboost 3.2.0 → 3.3.0"),
        ({"polars": "2.0"}, "polars – → 2.0"),
        ({"expectations/clean.yaml": OTHER_SHA}, "conf/expectations/clean.yaml changed"),
        ({"page.html.j2": OTHER_SHA}, "conf/page.html.j2 is new"),
    ],
)
def test_versions_libraries_and_files_in_conf_are_named(code: dict[str, str], expected: str) -> None:
    assert said(made(), made(code={**made().code, **code})) == [expected]


def test_a_file_that_settings_name_is_named() -> None:
    assert said(made(), made(read={"vocab.json": OTHER_SHA})) == ["vocab.json changed"]
    assert said(made(), made(read={})) == ["vocab.json is gone"]


def test_of_a_snapshot_made_before_reasons_were_kept_what_is_known_is_said() -> None:
    old = made(modules={}, read={}, inputs=(source("d1").model_copy(update={"contents": {}}),))
    assert said(old, made()) == []
    assert said(old, made(code={**made().code, "source": "s2"})) == [
        "its code, in a module that the older snapshot does not name"
    ]
    assert said(old, made(inputs=(source("d2", a="1"),))) == ["the input is another one: d1 → d2"]
