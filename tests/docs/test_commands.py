"""Every documented command is one that the program takes; those that cost little are run, page by page, in order."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from benchmarks.harness import known_cases
from flows.cli.main import app
from flows.run.names import check_stage_name, stage_names
from tasks.core.errors import RegistryError
from tasks.core.sections import PROJECT
from tasks.settings import load_settings
from tasks.sources import load_profile
from tasks.sources.synth import synthesize
from tests.support.documented import COMMANDS, Command, of_program

RAYMILL, PREFECT, MAKE = of_program("raymill"), of_program("prefect"), of_program("make")
PLACEHOLDER = re.compile(r"[A-Z][A-Z0-9_]*")  # PATH, NAME, VERSION
# Cheap enough to be run; models: on an empty registry.
RUN = {("data", "synth"), ("data", "inspect"), ("snapshots",), ("gc",), ("models", "list"), ("models", "history")}
RUN |= {("status",), ("down",)}


def named(commands: list[Command]) -> Any:
    return pytest.mark.parametrize("command", commands, ids=str)


@cache
def raymill() -> Any:
    return typer.main.get_command(app)


@cache
def deployments() -> dict[str, dict[str, Any]]:
    """prefect.yaml's, as FLOW/NAME."""
    found = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]
    return {f"{d['entrypoint'].rpartition(':')[2].replace('_', '-')}/{d['name']}": d for d in found}


def split(words: tuple[str, ...]) -> tuple[Any, tuple[str, ...], tuple[str, ...]]:
    """Typer's command, its name and the words after it."""
    group, name, rest = raymill(), (), words
    while rest and hasattr(group, "commands"):
        assert rest[0] in group.commands, f"no command {' '.join((*name, rest[0]))}"
        group, name, rest = group.commands[rest[0]], (*name, rest[0]), rest[1:]
    return group, name, rest


def test_there_are_commands_to_check() -> None:
    assert len(RAYMILL) >= 30
    assert {"run", "test"} <= {command.words[1] for command in MAKE}
    assert {("deployment", "run")} <= {command.words[1:3] for command in PREFECT}


@named(MAKE)
def test_every_make_target_exists(command: Command) -> None:
    targets = re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), flags=re.M)
    assert [word for word in command.words[1:] if "=" not in word and word not in targets] == []


@named(RAYMILL)
def test_raymill_takes_the_command(command: Command) -> None:
    group, name, rest = split(command.words[1:])
    if "--help" in rest:
        return
    given = group.make_context(" ".join(name), list(rest)).params  # raises what the command itself would
    load_settings(profile=given.get("profile"), overrides=given.get("overrides") or [])
    check_stage_name(given.get("until"))
    assert given.get("stage") in (None, *stage_names())
    for value, known in ((given.get("case"), known_cases()), (given.get("dataset"), None)):
        if value and not PLACEHOLDER.fullmatch(value) and not value.endswith(".yaml"):
            assert value in known if known else load_profile(value)


@named([command for command in COMMANDS if command.variables])
def test_variables_that_are_settings_are_ones_we_know(command: Command) -> None:
    for name, value in command.variables.items():
        if name.startswith("RAYMILL__") and "$" not in value:
            load_settings(overrides=[f"{name.removeprefix('RAYMILL__').lower().replace('__', '.')}={value}"])


@named(PREFECT)
def test_prefect_takes_the_command(command: Command) -> None:
    from prefect.cli._app import _app
    from prefect.flows import load_flow_from_entrypoint

    words = [word for word in command.words[1:] if word not in ("--no-prompt", "--prompt")]
    _, bound, unused, *_ = _app.parse_args(words, exit_on_error=False, print_error=False)
    assert not unused
    given = bound.arguments
    if words[0] != "deployment" or "name" not in given:
        return
    assert given["name"] in deployments()
    parameters = load_flow_from_entrypoint(deployments()[given["name"]]["entrypoint"]).parameters.properties
    for parameter in given.get("params", ()):
        name, _, value = parameter.partition("=")
        assert name in parameters
        if name == "overrides":
            load_settings(overrides=json.loads(value))
        check_stage_name(value if name == "until" else None)


def test_every_command_of_raymill_explains_itself() -> None:
    def walk(group: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        commands = getattr(group, "commands", None)
        yield from [path] if commands is None else (p for n, c in commands.items() for p in walk(c, (*path, n)))

    for path in walk(raymill(), ()):
        shown = CliRunner().invoke(app, [*path, "--help"])
        assert shown.exit_code == 0
        assert len(shown.output) > 100


@pytest.fixture
def new_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in which a page is followed, with nothing registered and nothing up."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAYMILL__STORAGE__ROOT", str(tmp_path / "data"))
    monkeypatch.setenv("RAYMILL__TRACKING__URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("RAYMILL_SERVICES_DIR", str(tmp_path / "services"))
    return tmp_path


def is_cheap(command: Command) -> bool:
    return split(command.words[1:])[1] in RUN and not any("://" in word for word in command.words)


@pytest.mark.parametrize("page", sorted({c.page for c in RAYMILL if is_cheap(c)}))
def test_the_cheap_commands_of_a_page_work_one_after_another(page: str, new_place: Path) -> None:
    synthesize(300, 7, new_place / "PATH")
    for command in (c for c in RAYMILL if c.page == page and is_cheap(c)):
        done = CliRunner().invoke(app, command.words[1:])
        said = f"{command}: {done.output}{done.exception or ''}"
        name = split(command.words[1:])[1]
        if name[0] == "models":
            assert isinstance(done.exception, RegistryError), said
            assert "no model raymill-amazon-us-rating is registered yet" in str(done.exception)
        elif "--graph" in command.words:
            assert "raymill run makes them" in said
        else:
            assert done.exit_code == (1 if name == ("status",) else 0), said


def test_pages_are_followed_that_make_data_and_look_at_it() -> None:
    followed = {(c.page, split(c.words[1:])[1]) for c in RAYMILL if is_cheap(c)}
    for name in (("data", "synth"), ("data", "inspect"), ("models", "list"), ("snapshots",)):
        assert ("docs/tutorial.md", name) in followed
