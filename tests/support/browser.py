"""Pages as a browser shows them: headless Chromium, the text of what it has rendered."""

from __future__ import annotations

import re
import shutil
import subprocess
from html import unescape
from tempfile import TemporaryDirectory

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
RENDERED_MS = 30_000  # of the page's own clock, which runs as fast as it can


def text_of(url: str, *flags: str) -> str:
    """The words on a page once its scripts have run. flags: more of Chromium's."""
    with TemporaryDirectory(prefix="raymill-browser-") as profile:
        command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
        command += flags
        command += ["--window-size=1400,2000", f"--virtual-time-budget={RENDERED_MS}"]
        done = subprocess.run([*command, "--dump-dom", url], capture_output=True, text=True, timeout=180)
    body = re.sub(r"<(script|style)\b.*?</\1>", " ", done.stdout, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())
