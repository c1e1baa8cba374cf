"""Write small files atomically."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, content: bytes | str, *, synced: bool = False) -> None:
    """Replace a file's content atomically: a concurrent reader sees the old content or the new.

    One writer at a time. Text is written as UTF-8. Unless `synced`, a crash of the machine may lose the change, or
    leave the name with nothing in it.
    """
    draft = path.with_name(f"{path.name}.draft")
    with draft.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        if synced:
            file.flush()
            os.fsync(file.fileno())
    os.replace(draft, path)
