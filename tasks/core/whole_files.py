"""Write small files atomically."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, content: bytes | str) -> None:
    """Replace a file's content atomically: a concurrent reader sees the old content or the new.

    One writer at a time. Text is written as UTF-8. Nothing is synced: a crash of the machine may lose the change.
    """
    draft = path.with_name(f"{path.name}.draft")
    draft.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(draft, path)
