"""What belongs to a stage's key: everything that decides its output, and nothing else."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import tasks
from tasks.core import source_code
from tasks.core import stage as subject
from tasks.core.sections import PROJECT
from tasks.core.stage import Stage, stage, stage_key
from tasks.stages import declared_stages

MODULE = '''
"""A stage to change."""
from tasks.borrowed import one
from tasks.core.sections import PROJECT
from tasks.core.stage import stage


@stage(version=1, config=object)
def toy(given, config, out):
    """Do it."""
    # Why it is done.
    out.fact(n=one() + config.n)
'''
BORROWED = """
import tasks.farther


def one():
    return tasks.farther.ONE
"""


class Config(BaseModel):
    n: int = 1
    share: float = 0.5


@dataclass(frozen=True)
class Source:
    digest: str = "d1"
    stage: str = "source"
    key: str = ""


Write = Callable[..., Stage]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write the toy stage's modules and import it anew: write(module=…, borrowed=…, farther=…) -> Stage."""
    (tmp_path / "lib").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(tmp_path / "lib")])
    monkeypatch.setattr(subject, "CONF", tmp_path / "conf")

    def forget() -> None:
        for name in ("toymodule", "tasks.borrowed", "tasks.farther"):
            sys.modules.pop(name, None)
        source_code.source_modules.cache_clear()
        source_code._module.cache_clear()
        importlib.invalidate_caches()

    def write(module: str = MODULE, borrowed: str = BORROWED, farther: str = "ONE = 1") -> Stage:
        (tmp_path / "toymodule.py").write_text(module)
        (tmp_path / "lib" / "borrowed.py").write_text(borrowed)
        (tmp_path / "lib" / "farther.py").write_text(farther)
        forget()
        return importlib.import_module("toymodule").toy

    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two versions of a file within a second share a time stamp
    yield write
    forget()


def test_the_key_stays_as_long_as_nothing_that_decides_the_output_changes(write: Write) -> None:
    first = stage_key(write(), [Source()], Config())
    assert stage_key(write(), [Source()], Config()) == first
    assert len(first) == 32


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# Why it is done.", "# Another reason."),
        ('"""Do it."""', '"""Do it, said otherwise."""'),
        ('"""A stage to change."""', ""),
        ("one() + config.n", "(one()\n             + config.n)"),
    ],
    ids=["comment", "docstring", "module docstring", "layout"],
)
def test_the_key_stays_when_only_words_or_layout_of_the_code_change(write: Write, old: str, new: str) -> None:
    assert old in MODULE
    key = stage_key(write(), [Source()], Config())
    assert stage_key(write(MODULE.replace(old, new)), [Source()], Config()) == key


@pytest.mark.parametrize(
    "changed",
    [
        {"module": MODULE.replace("one() + config.n", "one() - config.n")},
        {"module": MODULE.replace("n=one", "m=one")},
        {"module": MODULE.replace("version=1", "version=2")},
        {"module": MODULE.replace("version=1", "version=1, name='other'")},
        {"module": MODULE.replace("version=1", "version=1, libraries=('pyarrow', 'polars')")},
        {"borrowed": BORROWED.replace("return tasks", "return 2 * tasks")},
        {"farther": "ONE = 2"},
    ],
    ids=["code", "fact", "version", "name", "libraries", "imported module", "module imported by that"],
)
def test_the_key_changes_with_the_code(write: Write, changed: dict[str, str]) -> None:
    key = stage_key(write(), [Source()], Config())
    assert stage_key(write(**changed), [Source()], Config()) != key


def test_the_key_changes_with_a_librarys_version(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    key = stage_key(write(), [Source()], Config())
    monkeypatch.setattr(subject.metadata, "version", lambda _name: "0.0.1")
    assert stage_key(write(), [Source()], Config()) != key


@pytest.mark.parametrize(
    ("inputs", "config"),
    [
        ([Source("d2")], Config()),
        ([Source(), Source()], Config()),
        ([], Config()),
        ([Source()], Config(n=2)),
        ([Source()], Config(share=0.25)),
    ],
)
def test_the_key_changes_with_inputs_and_config(write: Write, inputs: list[Source], config: Config) -> None:
    toy = write()
    assert stage_key(toy, inputs, config) != stage_key(toy, [Source()], Config())


def test_the_key_tells_the_order_of_inputs(write: Write) -> None:
    toy, a, b = write(), Source("a"), Source("b")
    assert stage_key(toy, [a, b], Config()) != stage_key(toy, [b, a], Config())


def test_the_key_depends_on_an_inputs_content_and_not_on_its_key(write: Write) -> None:
    # So a change upstream that ends in the same bytes stops there.
    toy = write()
    assert stage_key(toy, [Source(key="k1")], Config()) == stage_key(toy, [Source(key="k2")], Config())


@pytest.mark.parametrize("name", ["expectations/toy.yaml", "page.html.j2"])
def test_the_key_changes_with_the_suite_and_the_conf_files_of_the_stage_alone(
    write: Write, tmp_path: Path, name: str
) -> None:
    (tmp_path / "conf" / "expectations").mkdir(parents=True)
    module = MODULE.replace("version=1", "version=1, files=('page.html.j2',)")
    path = tmp_path / "conf" / name
    path.write_text("one")
    key = stage_key(write(module), [Source()], Config())
    (tmp_path / "conf" / "expectations" / "other.yaml").write_text("not ours")
    assert stage_key(write(module), [Source()], Config()) == key
    path.write_text("two")
    assert stage_key(write(module), [Source()], Config()) != key


@pytest.mark.parametrize("parameters", ["config", "out, config", "given, settings, out"])
def test_a_stage_with_other_parameters_is_refused_when_it_is_declared(parameters: str) -> None:
    names: dict[str, Any] = {}
    exec(f"def wrong({parameters}): ...", names)
    with pytest.raises((TypeError, ValueError)):
        stage(version=1, config=Config)(names["wrong"])


def test_an_input_that_is_not_there_is_a_key_of_its_own() -> None:
    @stage(version=1, config=Config)
    def toy(given: Any, maybe: Any, config: Config, out: Any) -> None: ...

    keys = {stage_key(toy, given, Config()) for given in ([Source(), None], [Source(), Source("d2")], [Source()])}
    assert len(keys) == 3


KEY_OF_FEATURES = """
from tasks.stages import declared_stages
print(declared_stages()["features"].code["source"])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("tasks/domain/targets.py", "POSITIVE_STARS = 4", "POSITIVE_STARS = 3"),
        ("tasks/domain/schemas.py", "pa.float32()", "pa.float64()"),
        ("tasks/stages/features/groups/context.py", "(day + 3) % 7", "(day + 2) % 7"),
    ],
    ids=["label rule", "canonical table", "group of features"],
)
def test_features_are_made_again_when_what_a_word_means_changes(tmp_path: Path, file: str, old: str, new: str) -> None:
    for folder in ("tasks", "conf"):
        shutil.copytree(PROJECT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))

    changed = tmp_path / file
    assert old in changed.read_text()
    changed.write_text(changed.read_text().replace(old, new))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    after = subprocess.check_output([sys.executable, "-c", KEY_OF_FEATURES], cwd=tmp_path, env=environment, text=True)
    assert after.strip() != declared_stages()["features"].code["source"]


@pytest.mark.parametrize("stage_name", ["ingest", "ingest-items"])
def test_what_reads_the_raw_files_belongs_to_the_key(stage_name: str) -> None:
    """`from tasks import sources` names a package, whose modules are followed like any other."""
    modules = source_code.source_modules(declared_stages()[stage_name].function.__module__)
    reading = ("canonical", "readers", "discovery", "loading", "streams")
    assert {f"tasks.sources.{name}" for name in reading} <= set(modules)
