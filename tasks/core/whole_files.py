"""Small files that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, content: bytes | str) -> None:
    """Put this content under the name in one step: who reads meanwhile finds what was there before, or all of it.

    One writer at a time. Text is written as UTF-8. Nothing is synced: a crash of the machine may lose the change.
    """
    draft = path.with_name(f"{path.name}.draft")
    draft.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(draft, path)
