"""`raymill up` as it is used: started, watched, a run started by command, things killed, stopped."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest

from flows.servers.supervisor import leftovers
from tasks.sources.synth import synthesize
from tests.support.browser import CHROMIUM, text_of
from tests.support.up_place import Place, wait_for

pytestmark = pytest.mark.slow

needs_a_browser = pytest.mark.skipif(not CHROMIUM, reason="no Chromium to look at pages with")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    found = Place(tmp_path_factory.mktemp("up"))
    synthesize(1_500, 7, found.root / "reviews")
    return found


@pytest.fixture(scope="module")
def running(place: Place) -> Iterator[Place]:
    process = place.up()
    yield place
    assert place.call("down").returncode == 0
    process.wait(30)
    assert process.returncode == 0, place.output
    assert leftovers(place.services) == []


def answers(port: int, path: str = "/") -> str:
    with urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return str(answer.read().decode())


class TestUp:
    def test_the_three_addresses_are_told_and_answer(self, running: Place) -> None:
        for word in (f"http://127.0.0.1:{running.prefect}", f"http://127.0.0.1:{running.mlflow}", "reports"):
            assert word in running.output
        assert "Prefect" in answers(running.prefect)
        assert "MLflow" in answers(running.mlflow)

    def test_nothing_listens_beyond_this_machine(self, running: Place) -> None:
        ours = {p.pid for p in leftovers(running.services)}
        listening = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.pid in ours]
        assert {c.laddr.port for c in listening} >= {running.prefect, running.mlflow}
        assert {c.laddr.ip for c in listening} <= {"127.0.0.1", "::1"}

    def test_status_says_that_all_is_well(self, running: Place) -> None:
        found = running.status()
        assert found["well"]
        assert set(found["services"]) == {"prefect", "mlflow", "worker"}
        assert "well" in running.call("status").stdout

    def test_the_deployment_and_its_schedule_are_there(self, running: Place) -> None:
        deployment = json.loads(answers(running.prefect, "/api/deployments/name/etl-train/default"))
        assert deployment["schedules"][0]["active"]
        assert deployment["work_pool_name"] == "raymill"
        assert deployment["job_variables"]["command"] == f"{sys.executable} -m flows.servers.engine"

    def test_a_second_one_is_refused(self, running: Place) -> None:
        done = running.shell("up")
        assert done.returncode == 1
        assert "up already" in done.stderr
        assert running.status()["well"]

    def test_a_run_is_started_by_command_and_seen_in_mlflow(self, running: Place) -> None:

        said = running.prefect_says("deployment", "run", "etl-train/default", "-p", "until=clean", "--watch")
        assert "Completed" in said, said
        runs = list((running.root / "data" / "runs").glob("*.json"))
        record = json.loads(runs[0].read_text())
        assert record["state"] == "completed"
        assert record["tracking"].endswith(str(running.mlflow))

    @pytest.mark.nightly
    @needs_a_browser
    def test_the_pages_of_prefect_show_the_run_and_a_form_with_what_can_be_chosen(self, running: Place) -> None:
        api = f"http://127.0.0.1:{running.prefect}"
        about = json.loads(running.prefect_says("deployment", "inspect", "etl-train/default", "--output", "json"))
        form = text_of(f"{api}/deployments/deployment/{about['id']}/run")
        for word in (
            "etl-train",
            "Files, folders or globs with reviews",
            "The dataset profile",
            "The last stage to run",
        ):
            assert word in form, form
        ended = ("flow-run", "ls", "--flow-name", "etl-train", "--state-type", "COMPLETED", "--output", "json")
        (run,) = json.loads(running.prefect_says(*ended))
        page = text_of(f"{api}/runs/flow-run/{run['id']}")
        for word in ("etl-train amazon-us", "Completed", "ingest: ", "clean: "):
            assert word in page, page

    @pytest.mark.nightly
    @needs_a_browser
    def test_the_page_of_mlflow_shows_the_experiment(self, running: Place) -> None:
        assert "raymill" in text_of(f"http://127.0.0.1:{running.mlflow}/#/experiments")

    def test_a_server_that_dies_is_started_again(self, running: Place) -> None:
        before = running.status()["services"]["mlflow"]
        psutil.Process(before["pid"]).kill()

        def again() -> bool:
            about = running.status()
            return bool(about["well"] and about["services"]["mlflow"]["pid"] != before["pid"])

        wait_for(again, 60, "MLflow is back")
        assert running.status()["services"]["mlflow"]["restarts"] == 1
        assert "starting it again" in running.log


class TestPorts:
    def test_who_has_the_port_is_said(self, tmp_path: Path) -> None:
        place = Place(tmp_path)
        with closing(socket.socket()) as taken:
            taken.bind(("127.0.0.1", place.mlflow))
            taken.listen()
            done = place.shell("up")
        assert done.returncode == 1
        assert f"port {place.mlflow}" in done.stderr
        assert f"process {os.getpid()}" in done.stderr
        assert "services.mlflow_port" in done.stderr

    def test_a_server_of_somebody_else_that_does_not_answer_is_told_at_once(self, tmp_path: Path) -> None:
        place = Place(tmp_path)
        place.more["PREFECT_API_URL"] = f"http://127.0.0.1:{place.prefect}/api"
        done = place.shell("up")
        assert done.returncode == 1
        for word in ("Prefect's server does not answer", "Connection refused", "PREFECT_API_URL"):
            assert word in done.stderr


@pytest.mark.nightly
class TestEnd:
    def test_down_stops_everything_and_a_run_tells_before_that_it_was_ended(self, tmp_path: Path) -> None:
        synthesize(1_500, 7, tmp_path / "reviews")
        place = Place(tmp_path)
        process = place.up()
        place.prefect_says("deployment", "run", "etl-train/default")
        records = tmp_path / "data" / "runs"
        (record,) = wait_for(lambda: [*records.glob("*.json")], 60, "a stage at work")
        assert json.loads(record.read_text())["at_work"] == ["ingest"]
        assert place.call("down").returncode == 0
        process.wait(30)
        assert process.returncode == 0
        assert leftovers(place.services) == []
        assert "nothing is up" in place.call("down").stdout
        assert place.call("status").returncode == 1
        assert json.loads(record.read_text())["state"] == "failed"
        with closing(sqlite3.connect(tmp_path / "prefect" / "prefect.db")) as database:
            states = database.execute("SELECT state_name FROM flow_run WHERE start_time IS NOT NULL").fetchall()
        assert states == [("Crashed",)]

    def test_what_a_killed_one_leaves_is_ended_by_the_next(self, tmp_path: Path) -> None:
        place = Place(tmp_path)
        first = place.up()
        worker = psutil.Process(place.status()["services"]["worker"]["pid"])
        first.kill()
        first.wait()
        second = place.up()
        assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
        assert place.status()["well"]
        second.send_signal(signal.SIGINT)
        second.wait(30)
        assert leftovers(place.services) == []
