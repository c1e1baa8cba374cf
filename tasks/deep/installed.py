"""What the commands of tasks/deep say where their extra is not installed. Called before torch is imported."""

from __future__ import annotations

import sys
from importlib.util import find_spec


def check() -> None:
    """Exit with 2, and the command to type, unless torch and safetensors are there."""
    if not (find_spec("torch") and find_spec("safetensors")):
        print("torch is not installed\n  → pip install -c constraints.txt -e '.[deep]'", file=sys.stderr)
        sys.exit(2)
