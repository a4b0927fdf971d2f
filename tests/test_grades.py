"""`run_grades`: tables in, honest figures out; what cannot be evaluated is refused by name."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as sk

from noduscope.errors import InputRefused, SettingsError
from noduscope.evaluate.grades import GradesSettings, run_grades
from noduscope.evaluate.grades_baselines import select, size_scorer
from noduscope.evaluate.grades_tables import join

QUICK = GradesSettings(replicates=50)


def write(path: Path, header: str, rows) -> Path:
    path.write_text("\n".join([header, *(",".join(str(c) for c in row) for row in rows)]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def tables(tmp_path):
    """120 nodules of 60 patients whose malignancy depends on size and on something that only the model sees."""
    rng = np.random.default_rng(0)
    size = np.exp(rng.normal(2.2, 0.5, 120))
    hidden = rng.normal(size=120)
    labels = (2 * (np.log(size) - 2.2) + hidden + 0.5 * rng.normal(size=120)) > 0
    probability = 1 / (1 + np.exp(-(2 * (np.log(size) - 2.2) + hidden)))
    kinds = np.array(["solid", "part-solid", "ground-glass"])[rng.integers(0, 3, 120)]
    predictions = write(tmp_path / "p.csv", "id,probability", [(f"n{i}", f"{probability[i]:.6f}") for i in range(120)])
    rows = [(f"n{i}", int(labels[i]), f"p{i // 2}", f"{size[i]:.3f}", kinds[i]) for i in range(120)]
    truth = write(tmp_path / "l.csv", "id,label,patient_id,diameter_mm,type", rows)
    return predictions, truth, labels, np.round(probability, 6)


def test_the_figures_are_scikit_learns(tables, tmp_path):
    predictions, truth, labels, probability = tables
    found = run_grades(predictions, truth, tmp_path / "out", QUICK, pictures=False)
    calls = probability >= 0.5
    expected = {
        "accuracy": sk.accuracy_score(labels, calls),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, calls),
        "precision": sk.precision_score(labels, calls),
        "recall": sk.recall_score(labels, calls),
        "specificity": sk.recall_score(~labels, ~calls),
        "f1": sk.f1_score(labels, calls),
        "auc": sk.roc_auc_score(labels, probability),
        "average_precision": sk.average_precision_score(labels, probability),
        "brier": sk.brier_score_loss(labels, probability),
    }
    assert {k: found["metrics"][k]["value"] for k in expected} == pytest.approx(expected, rel=1e-5)
    assert all(m["low"] <= m["high"] for m in found["metrics"].values())
    assert (found["n"], found["patients"], found["malignant"]) == (120, 60, labels.sum())
    assert found["not_a_medical_device"] is True
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == found


def test_all_files_are_there_and_the_page_needs_no_other(tables, tmp_path):
    predictions, truth, *_ = tables
    out = tmp_path / "out"
    run_grades(predictions, truth, out, QUICK)
    assert {p.name for p in out.iterdir()} == {
        *("metrics.json", "cases.csv", "roc.csv", "reliability.csv", "decision_curve.csv", "report.html"),
        *("roc.png", "reliability.png", "decision_curve.png", "confusion.png"),
    }
    text = (out / "report.html").read_text(encoding="utf-8")
    assert "Not a medical device" in text
    assert set(re.findall(r'(?:src|href)="([^"]{5})', text)) == {"data:"}
    with (out / "cases.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 120


def test_the_same_seed_gives_the_same_bytes(tables, tmp_path):
    predictions, truth, *_ = tables
    for name in ("one", "two"):
        run_grades(predictions, truth, tmp_path / name, QUICK)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name


def test_the_model_beats_size_where_it_knows_more(tables, tmp_path):
    predictions, truth, *_ = tables
    found = run_grades(predictions, truth, tmp_path, QUICK, pictures=False)
    assert set(found["baselines"]) == {"majority", "size_only", "brock"}
    assert set(found["delong"]) == {"majority", "size_only", "brock", "diameter"}
    for rival in found["delong"].values():
        assert rival["difference"]["value"] > 0.03
        assert rival["p_value"] < 0.05
    assert found["baselines"]["majority"]["auc"]["value"] == 0.5
    assert found["baselines"]["majority"]["balanced_accuracy"]["value"] == 0.5
    assert 0.6 < found["baselines"]["size_only"]["auc"]["value"] < found["metrics"]["auc"]["value"]
    assert "spiculation: not known (the model without it)" in found["baselines"]["brock"]["assumed"]
    assert not any(text.startswith("type") for text in found["baselines"]["brock"]["assumed"])


def test_a_size_that_says_nothing_gets_no_credit_from_being_fitted(tmp_path):
    # The size is noise: a threshold and a slope fitted and judged on the same cases would still look useful.
    rng = np.random.default_rng(1)
    n = 300
    labels = rng.random(n) < 0.5
    predictions = write(tmp_path / "p.csv", "id,probability", [(i, 0.5) for i in range(n)])
    rows = [(i, int(labels[i]), i, f"{rng.uniform(4, 20):.2f}") for i in range(n)]
    truth = write(tmp_path / "l.csv", "id,label,patient_id,diameter_mm", rows)
    found = run_grades(predictions, truth, tmp_path / "out", QUICK, pictures=False)
    assert found["baselines"]["size_only"]["balanced_accuracy"]["value"] < 0.54
    assert found["baselines"]["size_only"]["auc"]["value"] < 0.56


def test_thresholds_are_chosen_on_other_patients(tables):
    predictions, truth, *_ = tables
    cases, _ = join(predictions, truth, "diameter_mm")
    selection, warnings = select(cases, 5, 0)
    assert warnings == ()
    assert len(selection.pairs) == 5
    out = np.concatenate([applied for _, applied in selection.pairs])
    assert sorted(out) == list(range(120))
    for fit, applied in selection.pairs:
        assert not set(cases.patients[fit]) & set(cases.patients[applied])


def test_a_validation_part_chooses_and_is_not_scored(tables, tmp_path):
    _, truth, labels, probability = tables
    rows = [(f"n{i}", probability[i], "validation" if i < 40 else "test") for i in range(120)]
    split = write(tmp_path / "s.csv", "id,probability,split", rows)
    found = run_grades(split, truth, tmp_path / "out", QUICK, pictures=False)
    assert found["n"] == 80
    assert found["metrics"]["auc"]["value"] == pytest.approx(sk.roc_auc_score(labels[40:], probability[40:]), rel=1e-5)
    point = found["operating_points"]["validation"]
    assert len(point["thresholds"]) == 1
    assert "validation part (40 cases)" in point["how"]
    # the threshold does not move when the test labels do
    flipped = [(f"n{i}", int(labels[i]) if i < 40 else int(not labels[i]), f"p{i // 2}") for i in range(120)]
    other = write(tmp_path / "f.csv", "id,label,patient_id", flipped)
    again = run_grades(split, other, tmp_path / "out2", QUICK, pictures=False)
    assert again["operating_points"]["validation"]["thresholds"] == point["thresholds"]


def test_train_rows_are_never_scored(tables, tmp_path):
    _, truth, _, probability = tables
    rows = [(f"n{i}", probability[i], "train" if i < 30 else "test") for i in range(120)]
    found = run_grades(
        write(tmp_path / "s.csv", "id,probability,split", rows), truth, tmp_path / "o", QUICK, pictures=False
    )
    assert found["n"] == 90
    assert "train-rows-left-out" in [w["code"] for w in found["warnings"]]


def test_the_tables_folds_are_used_when_they_go_by_patient(tables, tmp_path):
    _, truth, _, probability = tables
    for fold_of, folds, codes in ((lambda i: i // 2 % 3, 3, []), (lambda i: i % 3, 5, ["folds-not-by-patient"])):
        rows = [(f"n{i}", probability[i], fold_of(i)) for i in range(120)]
        path = write(tmp_path / "f.csv", "id,probability,fold", rows)
        found = run_grades(path, truth, tmp_path / "o", QUICK, pictures=False)
        assert len(found["operating_points"]["validation"]["thresholds"]) == folds
        assert [w["code"] for w in found["warnings"]] == codes


def test_fixed_sensitivity_is_reached(tables, tmp_path):
    predictions, truth, labels, probability = tables
    found = run_grades(predictions, truth, tmp_path, QUICK, pictures=False)["operating_points"]["sensitivity_95"]
    threshold = found["thresholds"][0]
    assert found["metrics"]["recall"]["value"] >= 0.95
    assert found["metrics"]["recall"]["value"] == pytest.approx((probability[labels] >= threshold).mean(), rel=1e-5)
    higher = min(p for p in probability if p > threshold)
    assert (probability[labels] >= higher).mean() < 0.95


def test_subgroups_hold_every_case_once(tables, tmp_path):
    predictions, truth, *_ = tables
    groups = run_grades(predictions, truth, tmp_path, QUICK, pictures=False)["subgroups"]
    assert [g["group"] for g in groups["size"]] == ["<6 mm", "6-<8 mm", "8-<15 mm", ">=15 mm"]
    assert {g["group"] for g in groups["type"]} == {"solid", "part-solid", "non-solid"}
    for sets in groups.values():
        assert sum(g["n"] for g in sets) == 120


def test_four_cases_are_enough_for_an_answer_with_warnings(tmp_path):
    predictions = write(tmp_path / "p.csv", "id,probability", [("a", 0.9), ("b", 0.8), ("c", 0.2), ("d", 0.6)])
    truth = write(tmp_path / "l.csv", "id,label", [("a", 1), ("b", 1), ("c", 0), ("d", 0)])
    found = run_grades(predictions, truth, tmp_path / "o", QUICK)
    assert found["metrics"]["auc"]["value"] == 1
    assert found["metrics"]["accuracy"]["value"] == 0.75
    assert [w["code"] for w in found["warnings"]] == ["no-patient-id", "no-size"]


def test_a_single_malignant_patient_cannot_choose_a_threshold_for_others(tmp_path):
    predictions = write(tmp_path / "p.csv", "id,probability", [("a", 0.9), ("b", 0.8), ("c", 0.2), ("d", 0.6)])
    truth = write(tmp_path / "l.csv", "id,label,patient_id", [("a", 1, 1), ("b", 0, 2), ("c", 0, 3), ("d", 0, 4)])
    found = run_grades(predictions, truth, tmp_path / "o", QUICK, pictures=False)
    assert "too-few-patients" in [w["code"] for w in found["warnings"]]
    assert "optimistic" in found["operating_points"]["validation"]["how"]
    assert found["delong"] == {}


def test_unknown_sizes_take_the_median(tmp_path):
    diameter = np.array([5.0, np.nan, 20.0, 10.0, 6.0, 15.0])
    labels = np.array([False, False, True, True, False, True])
    everyone = np.arange(6)
    scores = size_scorer(diameter, labels)(everyone, everyone)
    filled = np.where(np.isnan(diameter), 10.0, diameter)
    assert scores == pytest.approx(size_scorer(filled, labels)(everyone, everyone), abs=1e-3)


@pytest.mark.parametrize(
    ("predicted", "truth", "says"),
    [
        ("id,score\na,0.1\n", "id,label\na,1\n", "no column probability"),
        ("id,probability\na,0.1\n", "id,malignant\na,1\n", "no column label"),
        ("id,probability\na,1.2\n", "id,label\na,1\n", "from 0 to 1"),
        ("id,probability\na,nan\n", "id,label\na,1\n", "from 0 to 1"),
        ("id,probability\na,0.1\na,0.2\n", "id,label\na,1\n", "stands twice"),
        ("id,probability\na,0.1\n", "id,label\na,3\n", "expected one of 0, 1"),
        ("id,probability\n56,0.1\n", "id,label\n056,1\n", "differ only in how they are written"),
        ("id,probability\na,0.1\nb,0.2\n", "id,label\na,1\nb,1\n", "all malignant"),
        ("id,probability\n", "id,label\na,1\n", "no rows"),
        ("id,probability\na,0.1,7\n", "id,label\na,1\n", "number of columns"),
        ("id,probability\na,0.1\nb,0.2\n", "id,label,patient_id\na,1,\nb,0,p\n", "no patient_id"),
        ("id,probability\na,0.1\nb,0.2\n", "id,label,diameter_mm\na,1,big\nb,0,4\n", "expected millimetres"),
        ("id,probability,split\na,0.1,dev\n", "id,label\na,1\n", "expected one of test, validation"),
        ("id,probability\na,0.1\nb,0.2\n", "id,label,diameter_mm,sex\na,1,9,x\nb,0,4,F\n", "expected F or M"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(tmp_path, predicted, truth, says):
    (tmp_path / "p.csv").write_text(predicted)
    (tmp_path / "l.csv").write_text(truth)
    with pytest.raises(InputRefused, match=re.escape(says)):
        run_grades(tmp_path / "p.csv", tmp_path / "l.csv", tmp_path / "out", QUICK)
    assert not (tmp_path / "out").exists()


def test_missing_and_binary_files_are_refused(tmp_path):
    (tmp_path / "l.csv").write_bytes(b"\x89PNG\xff\xfe\x00")
    for name in ("absent.csv", "l.csv"):
        with pytest.raises(InputRefused):
            run_grades(tmp_path / name, tmp_path / "l.csv", tmp_path / "out", QUICK)


def test_cases_in_one_table_only_are_counted_in_a_warning(tables, tmp_path):
    predictions, truth, *_ = tables
    text = predictions.read_text().replace("n5,", "other,")
    predictions.write_text(text)
    warnings = run_grades(predictions, truth, tmp_path / "o", QUICK, pictures=False)["warnings"]
    assert [w["code"] for w in warnings] == ["prediction-without-label", "label-without-prediction"]


@pytest.mark.parametrize("wrong", [{"threshold": 0}, {"choose_by": "luck"}, {"replicates": 1}, {"sensitivity": 1.5}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(SettingsError):
        GradesSettings(**wrong)
