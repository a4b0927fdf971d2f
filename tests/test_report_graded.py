"""What the grader says reaches every form of the result: words, picture, page, tables, and back."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest

from noduscope.findings import Explanation, Grade, Interval
from noduscope.heads import ATTRIBUTES
from noduscope.report.earlier import read_findings
from noduscope.report.graded import explanation_picture, in_words
from noduscope.report.tables import GRADE_COLUMNS
from noduscope.report.write import write_result
from test_report import make_result

RATINGS = dict(zip(ATTRIBUTES, (4.6, 1.0, 5.9, 3.8, 3.6, 2.8, 4.2, 4.9), strict=True))
GRADE = Grade(Interval(0.9123, 0.8, 0.97), "part-solid", RATINGS)


def explanation(change, hu=-850.0):
    return Explanation(np.asarray(change, np.float32), np.full(np.shape(change), hu, np.float32), 0.7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The first of two findings is graded and explained."""
    result = make_result()
    spot = np.zeros((8, 8))
    spot[2, 6] = 1.0
    first = replace(result.nodules[0], grade=GRADE, explanation=explanation(spot))
    out = tmp_path_factory.mktemp("graded") / "out"
    write_result(replace(result, nodules=(first, *result.nodules[1:])), out)
    return out


@pytest.mark.parametrize(
    ("name", "rating", "words"),
    [
        ("spiculation", 4.2, "spiculated margin 4.2 of 5"),
        ("spiculation", 1.0, "no spiculation 1.0 of 5"),
        # called by the rating that is shown
        ("spiculation", 2.96, "spiculated margin 3.0 of 5"),
        ("lobulation", 5.0, "markedly lobulated 5.0 of 5"),
        ("margin", 1.2, "poorly defined edge 1.2 of 5"),
        ("texture", 1.3, "ground-glass texture 1.3 of 5"),
        ("texture", 4.0, "solid texture 4.0 of 5"),
        ("sphericity", 3.0, "ovoid shape 3.0 of 5"),
        ("calcification", 6.0, "no calcification 6.0 of 6"),
        ("calcification", 3.0, "calcified 3.0 of 6"),
        ("subtlety", 5.0, "obvious 5.0 of 5"),
        ("internalStructure", 1.0, "soft tissue inside 1.0 of 4"),
    ],
)
def test_an_attribute_in_words(name, rating, words):
    assert in_words({name: rating}) == (words,)


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_every_rating_of_every_attribute_has_words(name):
    for rating in (1.0, float(ATTRIBUTES[name])):
        assert len(in_words({name: rating})) == 1


def test_the_picture_is_orange_where_it_speaks_for_and_blue_where_against():
    change = np.zeros((8, 8))
    change[2, 2], change[5, 5] = 1.0, -1.0
    made = explanation_picture(explanation(change)).astype(int)
    assert made.shape == (392, 392, 3)
    # pixel k of 8 lies at 49 k + 24 of 392
    blue, _, red = made[2 * 49 + 24, 2 * 49 + 24]
    assert red > blue + 60
    blue, _, red = made[5 * 49 + 24, 5 * 49 + 24]
    assert blue > red + 60
    # far from both, the grey of the view
    assert np.ptp(made[-1, 0]) == 0


def test_a_map_of_next_to_nothing_stays_grey():
    faint = explanation_picture(explanation(np.full((8, 8), 0.005)))
    assert np.ptp(faint.astype(int), axis=2).max() < 5


def test_json_holds_the_grade_only_where_there_is_one(folder):
    first, second = json.loads((folder / "findings.json").read_text())["nodules"]
    assert first["malignancy"] == {"probability": 0.9123, "low": 0.8, "high": 0.97}
    assert (first["type"], first["attributes"]) == ("part-solid", RATINGS)
    assert not {"malignancy", "type", "attributes"} & set(second)


def test_the_table_has_the_grade_after_the_volume_and_empty_cells_without_one(folder):
    first, second = csv.DictReader(io.StringIO((folder / "findings.csv").read_text()))
    names = list(first)
    at = names.index("volume_high_mm3") + 1
    assert tuple(names[at : at + len(GRADE_COLUMNS)]) == GRADE_COLUMNS
    assert [first[c] for c in GRADE_COLUMNS] == [
        "0.9123",
        "0.8000",
        "0.9700",
        "part-solid",
        *map(str, RATINGS.values()),
    ]
    assert {second[c] for c in GRADE_COLUMNS} == {""}


def test_an_earlier_result_keeps_its_grades(folder):
    first, second = read_findings(folder).nodules
    assert first.grade == GRADE
    assert second.grade is None


def test_the_page_tells_malignancy_type_words_and_why_and_what_they_are_not(folder):
    page = (folder / "report.html").read_text(encoding="utf-8")
    first = page.split("<article", 2)[1]
    assert "<b>0.91</b> (0.80–0.97)" in first
    assert "left: 80.0%; width: 17.0%" in first
    assert "what LIDC radiologists would suspect, not a diagnosis" in first
    assert "<b>part-solid</b>" in first
    assert "spiculated margin 4.2 of 5" in first
    assert "Where hiding the image changes the malignancy estimate most" in first
    assert "no tissue was looked at" in page
    second = page.split("<article", 2)[2]
    assert "Malignancy" not in second
    assert "hiding the image" not in second


def test_a_page_without_grades_does_not_speak_of_them(tmp_path):
    write_result(make_result(), tmp_path / "out")
    body = (tmp_path / "out" / "report.html").read_text(encoding="utf-8").split("<body>")[1]
    assert "Malignancy" not in body
    assert "LIDC" not in body
