"""`raymill doctor` asks the MLflow server that the settings name."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from flows.cli import doctor
from tasks.settings import load_settings


def examined(uri: str) -> doctor.Finding:
    return doctor._tracking(load_settings(overrides=[f"tracking.uri={uri}"]))


def test_a_server_that_answers_is_well_and_one_that_is_gone_is_not() -> None:
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    threading.Thread(target=server.handle_request, daemon=True).start()
    uri = f"http://nora:topsecret@127.0.0.1:{server.server_port}"
    well = examined(uri)
    server.server_close()
    gone = examined(uri)
    assert (well.level, gone.level) == ("ok", "bad")
    assert well.what.endswith("answers")
    assert "Connection refused" in gone.what
    assert "tracking.uri" in gone.fix
    assert "topsecret" not in well.what + gone.what


def test_a_file_is_not_asked() -> None:
    assert examined("sqlite:///nowhere/mlflow.db") == doctor.Finding("ok", "MLflow: sqlite:///nowhere/mlflow.db")
