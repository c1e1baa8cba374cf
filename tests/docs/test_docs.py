"""The documentation is whole: every command is named, every link leads somewhere, diagrams are of today's code."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from flows.cli.main import app
from flows.run.names import stage_names
from tasks.core.sections import PROJECT
from tasks.stages import declared_stages
from tests.support.documented import PAGES
from tests.support.pipeline import not_asked_for

README = PROJECT / "README.md"


def test_every_command_is_in_the_readme() -> None:
    def walk(group: Any, path: str) -> list[str]:
        commands = getattr(group, "commands", None)
        return [path] if commands is None else [p for n, c in commands.items() for p in walk(c, f"{path} {n}")]

    for path in walk(typer.main.get_command(app), "raymill"):
        assert f"`{path}" in README.read_text(), path


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, todo = set(), [README]
    while todo:
        page = todo.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        todo += [path for link in links(page) if (path := (page.parent / link).resolve()).is_file()]
    others = PROJECT / "docs" / "decisions"  # linked as a folder
    assert [str(page) for page in PAGES if page not in reached and page.parent != others] == []


def links(page: Path) -> list[str]:
    """Files and folders that a page links to."""
    found = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    return [link.partition("#")[0] for link in found if "://" not in link and not link.startswith("#")]


def anchors(page: Path) -> set[str]:
    """The headings of a page, as its links name them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.S), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(PROJECT).as_posix())
def test_links_to_files_and_headings_lead_somewhere(page: Path) -> None:
    assert [link for link in links(page) if not (page.parent / link).exists()] == []
    for link, anchor in re.findall(r"\]\(([^)\s#]*)#([^)\s]+)\)", page.read_text()):
        if "://" not in link:
            assert anchor in anchors(page.parent / link if link else page), f"{link}#{anchor}"


def test_what_the_troubleshooting_page_quotes_is_what_the_product_says() -> None:
    """Each heading quotes the fixed part of a message; `…` stands for what differs."""
    files = [*(PROJECT / "flows").rglob("*.py"), *(PROJECT / "tasks").rglob("*.py")]
    code = "".join(re.sub(r'"\s*\n\s*f?"', "", file.read_text()) for file in files)
    headings = re.findall(r"^### `(.+)`$", (PROJECT / "docs/troubleshooting.md").read_text(), flags=re.M)
    assert len(headings) >= 12
    for heading in headings:
        assert [part for part in heading.split("…") if part.strip() and part.strip() not in code] == [], heading


def test_make_clean_removes_every_folder_of_data_but_those_that_keep_whom_to_forget() -> None:
    (named,) = re.findall(r"^WRITTEN := (.+)$", (PROJECT / "Makefile").read_text(), flags=re.M)
    written = set(re.findall(r"`(\w+)/`", (PROJECT / "data/README.md").read_text()))
    assert set(named.split()) == written - {"receipts"}


def test_the_lineage_diagram_is_of_the_stages_and_inputs_of_today() -> None:
    (graph,) = re.findall(r"```mermaid\n(flowchart.*?)```", (PROJECT / "docs/architecture.md").read_text(), flags=re.S)
    edges = [(a.replace("_", "-"), b.replace("_", "-")) for a, b in re.findall(r"(\w+) --> (\w+)\n", graph)]
    assert all(re.search(r"<br/>[0-9a-f]{8}\W+$", node) for node in re.findall(r"^ +\w+\[.+$", graph, flags=re.M))
    drawn = {b for _, b in edges}
    assert {a for a, _ in edges} <= drawn | {"raw-ingest"}
    assert drawn == stage_names() - not_asked_for() - {"register"}
    for stage in drawn:
        inputs = inputs_of(stage)
        needed = [name for name, optional in inputs.items() if not optional]
        assert len(needed) <= sum(b == stage for _, b in edges) <= len(inputs), stage


def inputs_of(name: str) -> dict[str, bool]:
    """A stage function's inputs, each with whether it may be missing."""
    *inputs, _, _ = inspect.signature(declared_stages()[name].function).parameters.values()
    return {parameter.name: "None" in str(parameter.annotation) for parameter in inputs}


def test_the_deployments_name_flows_that_exist_with_a_time_zone_and_one_run_at_a_time() -> None:
    from prefect.flows import load_flow_from_entrypoint

    found = {}
    for deployment in yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]:
        flow = load_flow_from_entrypoint(deployment["entrypoint"])
        found[f"{flow.name}/{deployment['name']}"] = deployment
        assert deployment["schedules"][0]["timezone"]
        assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}
    assert {"etl-train/default", "bench/default"} <= found.keys()
