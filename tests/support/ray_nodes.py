"""Ray clusters for tests: nodes of one machine, each a `ray start` of its own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tasks.engines import cluster

# What `cluster.start` sets in this process for a session of its own would keep nodes on loopback.
SESSION = (*cluster.LOCAL_ENV, *cluster.WORKER_ENV)
TOKEN = "a-token-of-these-tests-alone"
RAY = str(Path(sys.executable).with_name("ray"))
# The GCS declares a node dead after seconds, not half a minute. The token: servers that listen on more than loopback
# require authentication.
ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": TOKEN,
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "4",
}


def without_session() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in SESSION}


@dataclass
class Node:
    """One `ray start`, and the folder that it writes to."""

    process: subprocess.Popen[str]
    folder: Path

    @property
    def lives(self) -> bool:
        return any(process.name() == "raylet" for process in self.processes())

    def processes(self) -> list[psutil.Process]:
        try:
            mother = psutil.Process(self.process.pid)
            return [mother, *mother.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> None:
        """Kill the node as a machine dies: the raylet by SIGKILL, then its children."""
        doomed = sorted(self.processes(), key=lambda p: p.name() != "raylet")
        for process in doomed:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        self.process.wait(timeout=30)

    def tasks(self) -> set[str]:
        """Names of the functions and actors that ran on this node, as its workers logged them."""
        logs = self.folder.glob("session_*/logs/worker-*.out")
        return {name for log in logs for name in re.findall(r"^:(?:task|actor)_name:(.*)$", log.read_text(), re.M)}


@dataclass
class Nodes:
    """A cluster. Use as a context: all its processes end with it."""

    address: str = ""
    nodes: list[Node] = field(default_factory=list)

    def __enter__(self) -> Nodes:
        return self

    def __exit__(self, *_: Any) -> None:
        for node in self.nodes:
            node.kill()
            shutil.rmtree(node.folder, ignore_errors=True)

    @property
    def environment(self) -> dict[str, str]:
        """Of a driver of this cluster."""
        return {**without_session(), **ENVIRONMENT, "RAY_ADDRESS": self.address}

    def start(
        self, cpus: int, *, around: Sequence[str] = (), ip: str | None = None, env: Mapping[str, str] | None = None
    ) -> Node:
        """Start a node, the first one as the head, and wait until it runs.

        around: a command that runs it, such as `ip netns exec NAME`. ip: its own address, by default the machine's.
        """
        folder = Path(tempfile.mkdtemp(prefix="rm", dir="/tmp"))  # short: a socket's path has 107 characters at most
        if self.address:
            which = [f"--address={self.address}"]
        else:
            port = free_port()
            which = ["--head", f"--port={port}", "--include-dashboard=false"]
        command = [
            *(*around, RAY, "start", "--block", "--disable-usage-stats", "--log-color=false", *which),
            *(f"--num-cpus={cpus}", "--num-gpus=0", "--object-store-memory=100000000", f"--temp-dir={folder}"),
            *("--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"),
            *([f"--node-ip-address={ip}"] if ip else []),
        ]
        process = subprocess.Popen(
            command,
            env={**without_session(), **ENVIRONMENT, **(env or {})},
            cwd=folder,  # none that the project could be imported from
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        node = Node(process, folder)
        self.nodes.append(node)
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if "Ray runtime started" in line:
                break
        else:
            raise AssertionError(f"no node: {said}")
        if not self.address:
            found = re.search(r"--address='?([\d.]+:\d+)", said) or re.search(r"Local node IP: ([\d.]+)", said)
            assert found, said
            self.address = found.group(1) if ":" in found.group(1) else f"{found.group(1)}:{port}"
        return node


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port
