"""Pages as Debian's Chromium shows them, without any driver: its own command line prints the page that it made."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

_OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-default-apps --disable-extensions --hide-scrollbars "
    "--virtual-time-budget=4000 --enable-logging=stderr --v=0"
)


def chromium() -> str:
    """The browser; without one the test is skipped, or fails where it was meant to run."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        missing = "needs Chromium (apt-get install -y --no-install-recommends chromium)"
        if os.environ.get("RLLAVA_REQUIRE_CHROMIUM") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    return found


def shown(page: Path, profile: Path, *, fragment: str = "", width: int = 1280) -> tuple[str, str]:
    """The page's HTML after its scripts have run, and what the browser logged."""
    command = [chromium(), *_OPTIONS.split(), f"--user-data-dir={profile}", f"--window-size={width},900"]
    net_log = profile.parent / f"{profile.name}.net.json"
    command += [f"--log-net-log={net_log}", "--dump-dom", f"{page.resolve().as_uri()}{fragment}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, done.stderr


def console(log: str) -> list[str]:
    """What the page itself complained of: script errors, blocked requests."""
    return [line for line in log.splitlines() if "CONSOLE" in line]


def requests(profile: Path) -> set[str]:
    """Addresses that were asked of the network, by the browser's own log of it."""
    text = (profile.parent / f"{profile.name}.net.json").read_text(encoding="utf-8", errors="replace")
    return set(re.findall(r'"url":"(https?://[^"]+)"', text))


def cards(dom: str) -> list[dict[str, object]]:
    """The values of the cards that are not hidden, in the order shown."""
    tags = re.findall(r'<article class="card"[^>]*>', dom)
    return [
        json.loads(unescape(re.search(r'data-values="([^"]*)"', tag)[1]))
        for tag in tags
        if not re.search(r"\shidden(=|>|\s)", tag)
    ]
