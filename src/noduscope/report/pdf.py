"""The page on paper: printed to PDF by a headless Chromium, where one is installed."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

log = logging.getLogger(__name__)

PDF = "report.pdf"
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_PATIENCE_S = 120


def find_browser() -> str | None:
    """The first Chromium on the search path."""
    return next((found for name in _BROWSERS if (found := shutil.which(name))), None)


def print_page(page: Path, pdf: Path, browser: str) -> bool:
    """Print a local page to an A4 PDF; False, and one line in the log, where the browser fails.

    The browser runs with a profile of its own that is deleted, and without background connections.
    """
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    # Chromium refuses its sandbox to the superuser, as whom it runs in containers
    sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory(prefix="noduscope-print-") as profile:
        command = [browser, "--headless", "--disable-gpu", *quiet, *sandbox, f"--user-data-dir={profile}"]
        command += ["--no-pdf-header-footer", f"--print-to-pdf={pdf.resolve()}", page.resolve().as_uri()]
        try:
            done = subprocess.run(command, capture_output=True, timeout=_PATIENCE_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            log.warning("%s could not print the page: %s", Path(browser).name, error)
            return False
    if done.returncode != 0 or not pdf.exists():
        log.warning("%s could not print the page (exit status %d)", Path(browser).name, done.returncode)
        return False
    return True
