"""The page on paper: printed by a real Chromium, or said why not."""

from __future__ import annotations

import json
import re

import pytest

from noduscope.report import write as writing
from noduscope.report.pdf import find_browser
from noduscope.report.write import write_result
from test_report import make_result


@pytest.mark.skipif(find_browser() is None, reason="needs chromium")
def test_two_findings_print_to_two_a4_pages(tmp_path):
    files = write_result(make_result(), tmp_path / "out", extras=("pdf",))
    assert tmp_path / "out" / "report.pdf" in files
    pdf = (tmp_path / "out" / "report.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) == 2
    # A4 in points is 595 × 842
    boxes = re.findall(rb"/MediaBox\s*\[\s*0\s+0\s+([\d.]+)\s+([\d.]+)", pdf)
    assert boxes
    assert all(abs(float(w) - 595) < 2 and abs(float(h) - 842) < 2 for w, h in boxes)
    assert "report.pdf" in json.loads((tmp_path / "out" / "run.json").read_text())["files"]


def test_without_a_browser_the_rest_is_written_and_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "find_browser", lambda: None)
    write_result(make_result(), tmp_path / "out", extras=("pdf",))
    findings = json.loads((tmp_path / "out" / "findings.json").read_text())
    assert "no-pdf" in [w["code"] for w in findings["scan"]["warnings"]]
    assert not (tmp_path / "out" / "report.pdf").exists()
