"""`raymill` called in this process: what it prints and exits with, without the seconds that a process of its own takes
to import everything, to start Ray and to start Prefect's server."""

from __future__ import annotations

import io
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from contextvars import copy_context
from dataclasses import dataclass
from unittest.mock import patch

from flows.cli.main import main


@dataclass(frozen=True)
class Done:
    """How the command ended, with the names of `subprocess.CompletedProcess`."""

    returncode: int
    stdout: str
    stderr: str


def raymill(*arguments: str, **variables: str) -> Done:
    """Call the command with these variables added to its environment.

    A command that runs stages needs the fixture `ray_session`, and the address of the fixture `server` as
    PREFECT_API_URL.
    """
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.object(sys, "argv", ["raymill", *arguments]),
        patch.dict(os.environ, variables),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            copy_context().run(main)
        except SystemExit as ended:
            status = ended.code
    return Done(int(status or 0), out.getvalue(), err.getvalue())
