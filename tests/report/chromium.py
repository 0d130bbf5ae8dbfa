"""A page opened in headless Chromium at a width, through a frame: its own windows are never narrower than 500 pixels."""

from __future__ import annotations

__all__ = ["CHROMIUM", "opened"]

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
"""None where there is no such program."""
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--allow-file-access-from-files")
FRAME = """<!DOCTYPE html><body style="margin: 0">
<iframe src="{page}" style="width: {width}px; height: {height}px; border: 0"></iframe>
<pre id="told"></pre><script>
const frame = document.querySelector("iframe");
frame.addEventListener("load", () => {{
  const page = frame.contentDocument;
  const told = (() => {{ {script} }})();
  document.getElementById("told").textContent = JSON.stringify(told);
}});
</script>"""


def opened(page: Path, width: int, script: str, shot: Path, height: int = 2400) -> Any:  # noqa: ANN401 - what JSON holds
    """What a script returns that has the document as `page`; and a screenshot of what it leaves, `shot`, PNG."""
    frame = shot.with_suffix(".html")
    frame.write_text(FRAME.format(page=page.as_uri(), width=width, height=height, script=script))
    size = f"--window-size={max(width, 500)},{height}"
    profile = f"--user-data-dir={shot.parent / 'profile'}"
    command = [str(CHROMIUM), *FLAGS, size, profile, "--virtual-time-budget=5000"]
    done = subprocess.run([*command, "--dump-dom", frame.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    subprocess.run([*command, f"--screenshot={shot}", frame.as_uri()], capture_output=True, timeout=120, check=True)
    (found,) = re.findall(r'<pre id="told">(.*?)</pre>', done.stdout, re.DOTALL)
    return json.loads(unescape(found))
