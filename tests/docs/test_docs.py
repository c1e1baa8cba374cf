"""The commands and links of the documentation are real."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from flows.cli import app
from tasks.core.sections import PROJECT
from tasks.core.settings import load_settings

PAGES = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").rglob("*.md"))]


def shell_commands(page: Path) -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), flags=re.S)
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    return [shlex.split(line, comments=True) for line in lines if not line.startswith("#")]


COMMANDS = [(page.name, command) for page in PAGES for command in shell_commands(page)]
RAYMILL = [(page, c[1:]) for page, c in COMMANDS if c[0].endswith("raymill")]


def test_there_are_commands_to_check() -> None:
    assert len(RAYMILL) >= 2
    assert {"run", "test"} <= {c[1] for _, c in COMMANDS if c[0] == "make"}


@pytest.mark.parametrize(("page", "command"), [c for c in COMMANDS if c[1][0] == "make"])
def test_every_make_target_exists(page: str, command: list[str]) -> None:
    targets = re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), flags=re.M)
    assert [word for word in command[1:] if "=" not in word and word not in targets] == []


@pytest.mark.parametrize(("page", "command"), RAYMILL)
def test_every_raymill_command_and_option_exists(page: str, command: list[str]) -> None:
    group = typer.main.get_command(app)
    words = list(command)
    while words and hasattr(group, "commands"):
        group = group.commands[words.pop(0)]
    known = {name for parameter in group.params for name in parameter.opts}
    assert [w for w in words if w.startswith("--") and w not in known] == []
    overrides = [words[i + 1] for i, w in enumerate(words) if w == "--set"]
    load_settings(overrides=overrides)


def test_every_command_is_in_the_readme_and_explains_itself() -> None:
    readme = PAGES[0].read_text()

    def walk(group: object, path: str) -> list[str]:
        commands = getattr(group, "commands", None)
        return [path] if commands is None else [p for n, c in commands.items() for p in walk(c, f"{path} {n}")]

    for path in walk(typer.main.get_command(app), "raymill"):
        assert f"`{path}" in readme, path
        shown = CliRunner().invoke(app, [*path.split()[1:], "--help"])
        assert shown.exit_code == 0
        assert len(shown.output) > 100


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_the_deployment_names_a_flow_that_exists_with_a_time_zone_and_one_run_at_a_time() -> None:
    from prefect.flows import load_flow_from_entrypoint

    (deployment,) = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]
    flow = load_flow_from_entrypoint(deployment["entrypoint"])
    assert (flow.name, deployment["name"]) == ("etl-train", "default")
    assert deployment["schedules"][0]["timezone"]
    assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}
