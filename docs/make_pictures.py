"""Make the pictures of the documentation: the synthetic chest, analysed and rendered as a user sees it.

::

    python docs/make_pictures.py [--model DIR] [--browser chromium]

No patient data is in them. Needs a Chromium to render the report page.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2

IMAGES = Path(__file__).resolve().parent / "images"
MOST_BYTES = 300_000
_WIDTH, _HEAD, _ROW = 1160, 1075, 43  # pixels: of the page, above the table of findings, of each of its rows
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main() -> None:
    """Run the demo, photograph its page, keep the most probable finding's key image."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", default="detector", help="an installed bundle's name, or its folder")
    parser.add_argument("--browser", default=next(filter(shutil.which, _BROWSERS), "chromium"))
    given = parser.parse_args()
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="noduscope-pictures-") as folder:
        out = Path(folder) / "demo"
        noduscope = str(Path(sys.executable).with_name("noduscope"))
        subprocess.run([noduscope, "demo", "-o", str(out), "--model", given.model], check=True)
        page = photograph(out / "result" / "report.html", given.browser)
        save(page, IMAGES / "report.jpg")
        key = out / "result" / "nodule-1.png"
        if not key.exists():
            raise SystemExit("the detector found nothing in the phantom: no key image to show")
        save(key, IMAGES / "key-image.jpg")


def photograph(html: Path, browser: str) -> Path:
    """A report page down to the end of its table of findings, as a PNG beside the folder."""
    result = html.parent
    picture = result.parent / "report.png"
    findings = len(json.loads((result / "findings.json").read_text(encoding="utf-8"))["nodules"])
    command = [
        browser,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={result.parent / 'browser'}",
        f"--window-size={_WIDTH},{_HEAD + _ROW * findings}",
        f"--screenshot={picture}",
        html.resolve().as_uri(),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return picture


def save(source: Path, target: Path) -> None:
    """Write an image as JPEG, as good as fits `MOST_BYTES`."""
    image = cv2.imread(str(source))
    for quality in range(92, 40, -4):
        data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1])[1]
        if data.nbytes < MOST_BYTES:
            target.write_bytes(data.tobytes())
            return
    raise SystemExit(f"{target.name} does not fit {MOST_BYTES} bytes")


if __name__ == "__main__":
    main()
