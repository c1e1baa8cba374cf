"""A local Spark session: on loopback, without its pages, its files in one folder, and no process left when it ends.

Spark needs Java 17 or later and the extra `spark`. `missing` says what is not there; benches then leave Spark out and
tests are skipped, with that reason.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tasks.core.errors import UserError

JAVA = 17  # the oldest that Spark 4 runs on
LOOPBACK = "127.0.0.1"
ANSWER_S = 60  # within which `java -version` must answer, on a busy machine too
END_S = 60  # within which the Java process must end
# Of another Spark on this machine, or from spark-submit: they would decide which Spark starts, and how.
FOREIGN = ("SPARK_", "PYSPARK_")


def missing() -> str | None:
    """Say what is missing to run Spark here, and how to get it; None if nothing is."""
    if find_spec("pyspark") is None:
        return "pyspark is not installed: pip install -c constraints.txt -e '.[spark]'"
    java = java_command()
    if java is None:
        return f"there is no Java, and Spark needs {JAVA} or later: apt-get install openjdk-17-jre-headless"
    version = java_version(java)
    if version is None:
        return f"{java} -version does not answer with a version; Spark needs Java {JAVA} or later"
    if version < JAVA:
        return f"{java} is Java {version}, and Spark needs {JAVA} or later: set JAVA_HOME to one"
    return None


def java_command() -> str | None:
    """Find the Java that Spark would start: that of JAVA_HOME, else the first on the path."""
    home = os.environ.get("JAVA_HOME")
    return shutil.which(str(Path(home, "bin", "java"))) if home else shutil.which("java")


def java_version(java: str) -> int | None:
    """Return the feature version, 8 for "1.8.0_402" and 17 for "17.0.15"; None if the command does not say one."""
    try:
        said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=ANSWER_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r'version "(?:1\.)?(\d+)', said.stderr + said.stdout)
    return int(found.group(1)) if found and said.returncode == 0 else None


@contextmanager
def session(
    scratch: Path, *, threads: int = 2, memory_mb: int = 2048, more: Mapping[str, str] | None = None
) -> Iterator[Any]:
    """Start Spark with so many task threads and so much Java heap, and end it with its process.

    scratch: an existing folder for all that Spark writes by itself. more: other settings of Spark, by name. Raises
    UserError if Spark cannot run here, or already does in this process.
    """
    if reason := missing():
        raise UserError(reason, where="Spark")
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

    if SparkContext._active_spark_context is not None:
        raise UserError("another Spark session is running in this process", where="Spark", fix="end it first")
    builder = SparkSession.builder
    for name, value in (spark_settings(scratch, threads, memory_mb) | dict(more or {})).items():
        builder = builder.config(name, value)
    with _own_environment():
        spark = builder.getOrCreate()
    try:
        yield spark
    finally:
        spark.stop()
        _end_java()


def spark_settings(scratch: Path, threads: int, memory_mb: int) -> dict[str, str]:
    """Return what differs from Spark's defaults."""
    return {
        "spark.app.name": "beside-raymill",
        "spark.master": f"local[{threads}]",
        "spark.driver.memory": f"{memory_mb}m",
        "spark.driver.bindAddress": LOOPBACK,
        "spark.driver.host": LOOPBACK,
        # No performance file in /tmp that other users can read, no IPv6 twin of a loopback socket.
        "spark.driver.extraJavaOptions": f"-Djava.net.preferIPv4Stack=true -Djava.io.tmpdir={scratch} -XX:-UsePerfData",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
        "spark.local.dir": str(scratch / "blocks"),
        "spark.sql.warehouse.dir": str(scratch / "warehouse"),
        "spark.sql.catalogImplementation": "in-memory",  # Hive's would write a database to the working directory
        "spark.sql.session.timeZone": "UTC",
        # 200 by default, for clusters: each costs a task. Adaptive execution merges small ones, but never makes more.
        "spark.sql.shuffle.partitions": str(4 * threads),
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MILLIS",  # not the deprecated INT96
        "spark.sql.parquet.compression.codec": "zstd",
        "spark.hadoop.parquet.compression.codec.zstd.level": "1",  # as all sides write
    }


@contextmanager
def _own_environment() -> Iterator[None]:
    """Hide the variables of another Spark while ours starts, and give it loopback and this Python."""
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(FOREIGN)}
    given = {"SPARK_LOCAL_IP": LOOPBACK, "PYSPARK_PYTHON": sys.executable}
    os.environ.update(given)
    try:
        yield
    finally:
        for name in given:
            os.environ.pop(name, None)
        os.environ.update(hidden)


def _end_java() -> None:
    """End the Java process, which Spark would keep until this one ends: it goes when its standard input closes."""
    from pyspark import SparkContext

    gateway = SparkContext._gateway
    SparkContext._gateway = SparkContext._jvm = None
    if gateway is None:
        return
    gateway.shutdown()
    process = gateway.proc
    process.stdin.close()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
