"""The page on paper: printed by a real Chromium, or said why not."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from noduscope.guidelines import NoduleFacts, assess
from noduscope.report import write as writing
from noduscope.report.pdf import find_browser
from noduscope.report.write import write_result
from noduscope.scan import ScanWarning
from test_report import LEFT_UPPER, RIGHT_LOWER, make_result
from test_report_graded import GRADE, explanation

PLACES = (LEFT_UPPER, RIGHT_LOWER, (24.0, 30.0, -150.0), (-24.0, 2.0, -130.0), (30.0, 10.0, -176.0))
WARNINGS = (
    ScanWarning("lung-solid", "About 140 ml of solid tissue were counted as right lung: a mass, collapse or fluid."),
    ScanWarning(
        "slice-gap", "A sentence that takes two lines on paper, because it explains at length " + 12 * "and on "
    ),
)


def advised(count):
    """A result with warnings, and every guideline's longest answers: a size that reaches over their thresholds."""
    sized = make_result(tuple((place, 8.0) for place in PLACES[:count]))
    answers = assess([NoduleFacts(diameter_mm=n.diameter_mm, volume_mm3=n.volume_mm3) for n in sized.nodules])
    nodules = tuple(replace(n, guidelines=a.to_dict()) for n, a in zip(sized.nodules, answers, strict=True))
    return replace(sized, nodules=nodules, warnings=WARNINGS)


def graded(count):
    """The same with all that a grader says, of the kind that guidelines say most about."""
    result = advised(count)
    facts = [NoduleFacts(diameter_mm=n.diameter_mm, volume_mm3=n.volume_mm3).graded(GRADE) for n in result.nodules]
    why = explanation([[0.0, 1.0], [-1.0, 0.0]])
    told = zip(result.nodules, assess(facts), strict=True)
    nodules = tuple(replace(n, grade=GRADE, explanation=why, guidelines=a.to_dict()) for n, a in told)
    return replace(result, nodules=nodules)


def many(count):
    """More findings than a page's table holds."""
    result = advised(5)
    rows = [replace(result.nodules[k % 5], id=k + 1) for k in range(count)]
    return replace(result, nodules=tuple(rows))


def sheets(pdf: Path) -> list[tuple[float, float]]:
    """Width and height of each page in points."""
    data = pdf.read_bytes()
    assert data.startswith(b"%PDF")
    boxes = re.findall(rb"/MediaBox\s*\[\s*0\s+0\s+([\d.]+)\s+([\d.]+)", data)
    assert len(boxes) == len(re.findall(rb"/Type\s*/Page\b", data))
    return [(float(w), float(h)) for w, h in boxes]


@pytest.mark.skipif(find_browser() is None, reason="needs chromium")
@pytest.mark.parametrize(
    "result",
    [advised(1), advised(2), advised(5), many(40), graded(1), graded(5)],
    ids=["1", "2", "5", "40", "graded 1", "graded 5"],
)
def test_findings_and_warnings_print_to_two_a4_pages(tmp_path, result):
    files = write_result(result, tmp_path / "out", extras=("pdf",))
    assert tmp_path / "out" / "report.pdf" in files
    pages = sheets(tmp_path / "out" / "report.pdf")
    assert len(pages) == 2
    # A4 in points is 595 × 842
    assert all(abs(w - 595) < 2 and abs(h - 842) < 2 for w, h in pages)
    assert "report.pdf" in json.loads((tmp_path / "out" / "run.json").read_text())["files"]


def test_paper_says_what_it_leaves_out(tmp_path):
    write_result(many(40), tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    shown = len(re.findall(r"<tr>\s*<th scope=\"row\">", page))
    assert shown + page.count('<tr class="unprinted">') == 40
    assert f"the table holds the {shown} most probable" in page
    assert page.count('class="finding three"') == 3


def test_without_a_browser_the_rest_is_written_and_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "find_browser", lambda: None)
    write_result(make_result(), tmp_path / "out", extras=("pdf",))
    findings = json.loads((tmp_path / "out" / "findings.json").read_text())
    assert "no-pdf" in [w["code"] for w in findings["scan"]["warnings"]]
    assert not (tmp_path / "out" / "report.pdf").exists()
