"""Spark beside us: what is said where it cannot run, and that its session leaves nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks.cases import aggregate, etl, quality, wordcount
from benchmarks.harness import run_case
from benchmarks.peers.spark import session as spark_session
from benchmarks.peers.spark.session import java_version, missing
from tasks.core.errors import UserError


def java(folder: Path, says: str, status: int = 0) -> Path:
    """A JAVA_HOME whose java says this on standard error."""
    (folder / "bin").mkdir(parents=True)
    command = folder / "bin" / "java"
    command.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{says}\nEND\nexit {status}\n")
    command.chmod(0o755)
    return folder


@pytest.fixture
def with_pyspark(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the extra were installed."""
    monkeypatch.setattr(spark_session, "find_spec", lambda _name: object())


@pytest.mark.parametrize(
    ("says", "version"),
    [
        ('openjdk version "17.0.15" 2025-04-15\nOpenJDK Runtime Environment', 17),
        ('java version "1.8.0_402"', 8),
        ('Picked up JAVA_TOOL_OPTIONS: -Xmx1g\nopenjdk version "21" 2023-09-19', 21),
        ("The operation couldn't be completed. Unable to locate a Java Runtime.", None),
    ],
)
def test_the_version_of_java_is_read_from_what_it_says(tmp_path: Path, says: str, version: int | None) -> None:
    assert java_version(str(java(tmp_path, says) / "bin" / "java")) == version


def test_a_java_that_is_absent_old_or_broken_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_pyspark: None
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "none"))
    assert "no Java, and Spark needs 17 or later: apt-get install" in str(missing())
    monkeypatch.setenv("JAVA_HOME", str(old := java(tmp_path / "old", 'openjdk version "11.0.2"')))
    assert f"{old}/bin/java is Java 11" in str(missing())
    monkeypatch.setenv("JAVA_HOME", str(java(tmp_path / "broken", "no", 1)))
    assert "does not answer with a version" in str(missing())
    monkeypatch.setenv("JAVA_HOME", str(java(tmp_path / "new", 'openjdk version "25.0.1"')))
    assert missing() is None


def test_without_pyspark_the_command_that_brings_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spark_session, "find_spec", lambda _name: None)
    assert "pip install -c constraints.txt -e '.[spark]'" in str(missing())


def test_without_java_benches_leave_spark_out_with_the_reason_and_do_not_when_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_pyspark: None
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "none"))
    for case, peer in ((etl, "spark"), (aggregate, "spark"), (wordcount, "spark"), (quality, "mllib")):
        assert case.CASE.skip is not None
        assert "no Java" in case.CASE.skip(1000)[peer]
        with pytest.raises(UserError, match="no Java, and Spark needs 17"):
            run_case(case.CASE, size=1000, peers=[peer])


@pytest.mark.parametrize("module", ["parity", "alone"])
def test_without_java_the_commands_end_with_the_reason(tmp_path: Path, module: str) -> None:
    if missing() and "pyspark" in str(missing()):
        pytest.skip(str(missing()))
    arguments = {"parity": ["--input", str(tmp_path)], "alone": ["etl", str(tmp_path), str(tmp_path)]}[module]
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.peers.spark.{module}", *arguments],
        env={"PATH": "/usr/bin:/bin", "JAVA_HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no Java" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.nightly
def test_a_session_beside_another_spark_leaves_no_process_and_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason := missing():
        pytest.skip(reason)
    monkeypatch.setenv("SPARK_HOME", "/nowhere")  # of another Spark
    monkeypatch.setenv("PYSPARK_SUBMIT_ARGS", "--master spark://nowhere:7077 pyspark-shell")
    monkeypatch.chdir(tmp_path)
    (scratch := tmp_path / "scratch").mkdir()
    before = set(psutil.Process().children(recursive=True))
    with spark_session.session(scratch, memory_mb=512) as spark:
        spark.range(10).write.parquet(str(scratch / "ten"))
        assert spark.read.parquet(str(scratch / "ten")).count() == 10
        started = set(psutil.Process().children(recursive=True)) - before
        assert any(process.name() == "java" for process in started)
        with pytest.raises(UserError, match="another Spark session"), spark_session.session(scratch):
            pass
    assert psutil.wait_procs(started, timeout=30)[1] == []  # what Java has started ends soon after it
    assert [path.name for path in tmp_path.iterdir()] == ["scratch"]
