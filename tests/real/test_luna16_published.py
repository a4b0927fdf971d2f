"""Two published systems on LUNA16's subset 9: the official script's own outputs, to the last printed digit.

``CADAnalysis.txt``, ``froc.txt`` and ``gt_prob_vectors.csv`` are reproduced as text. Two things about them
are of their time and are told apart here:

- ``froc.txt`` lists only the bends of the curve (scikit-learn's ``roc_curve`` drops the points in the middle of
  straight runs) and, written with a scikit-learn before 0.20, no origin where the best mark is a hit. The test
  takes the bends of our full curve and leaves the origin out.
- ``bootstrapping.csv`` was drawn without a seed, so no digit of it can be met. The test shows that it is one
  draw from the distribution that ours samples: each of its values lies within the Monte Carlo error.
"""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from noduscope.evaluate.detection_scores import DetectionScores, evaluate_detections
from noduscope.evaluate.detection_tables import DetectionTables, read_tables
from noduscope.evaluate.detections import run_detections
from noduscope.evaluate.froc import GRID_RATES, FrocSettings, bootstrap
from noduscope.evaluate.matching import Findings, Marks, MarkState

SYSTEMS = ("res18_focal", "res18_split")
SCANS = "published/seriesuids_subset9.csv"


@pytest.fixture(scope="module")
def luna16(shared_data: Path) -> Path:
    return shared_data / "luna16"


def tables_of(luna16: Path, system: str, scans: str = SCANS) -> DetectionTables:
    return read_tables(
        luna16 / "published" / system / "submission.csv",
        luna16 / "annotations.csv",
        luna16 / "annotations_excluded.csv",
        luna16 / scans,
    )


@pytest.fixture(scope="module", params=SYSTEMS)
def published(request: pytest.FixtureRequest, luna16: Path) -> tuple[Path, DetectionTables, DetectionScores]:
    tables = tables_of(luna16, request.param)
    scores = evaluate_detections(tables, FrocSettings(replicates=0))
    return luna16 / "published" / request.param, tables, scores


def test_counts_as_printed(published: tuple[Path, DetectionTables, DetectionScores]) -> None:
    folder, _, scores = published
    c = scores.matching.counts
    text = (folder / "CADAnalysis.txt").read_text()
    printed = dict(re.findall(r"^ +(.+): ([\d.]+)$", text, flags=re.MULTILINE))
    assert printed == {
        "True positives": f"{c.true_positives}",
        "False positives": f"{c.false_positives}",
        "False negatives": f"{c.false_negatives}",
        "True negatives": "0",
        "Total number of candidates": f"{c.candidates}",
        "Total number of nodules": f"{c.nodules}",
        "Ignored candidates on excluded nodules": f"{c.ignored_excluded}",
        "Ignored candidates which were double detections on a nodule": f"{c.ignored_double}",
        "Sensitivity": f"{c.true_positives / c.nodules:.9f}",
        "Average number of candidates per scan": f"{c.candidates / c.scans:.9f}",
    }


def test_froc_as_printed(published: tuple[Path, DetectionTables, DetectionScores]) -> None:
    folder, _, scores = published
    curve = scores.curve
    bends = set(zip(*(counts.tolist() for counts in curve.corners()), strict=True)) - {(0, 0)}
    lines = [
        f"{fps:.9f},{sensitivity:.9f},{threshold:.9f}"
        for fps, sensitivity, threshold, fp, tp in zip(
            curve.fps_per_scan,
            curve.sensitivity,
            curve.thresholds,
            curve.false_positives.tolist(),
            curve.true_positives.tolist(),
            strict=True,
        )
        if (fp, tp) in bends
    ]
    assert lines == (folder / "froc.txt").read_text().splitlines()


def test_ground_truth_and_probability_vectors_as_printed(
    published: tuple[Path, DetectionTables, DetectionScores],
) -> None:
    """Scan by scan: its nodules, missed ones at -1e9, then its false positives.

    The order of the scans is that of the list the script was given; for res18_split that list is not handed
    out, but its order is that of the submission.
    """
    folder, tables, scores = published
    matching = scores.matching
    probability = matching.marks.probability
    scans = list(dict.fromkeys(tables.marks.series))
    assert sorted(scans) == sorted(tables.series)
    lines = []
    for uid in scans:
        scan = matching.series.index(uid)
        own = matching.nodule_mark[matching.nodule_scan == scan]
        lines += [f"1,{probability[mark] if mark >= 0 else -1e9:.9f}" for mark in own]
        false = (matching.mark_scan == scan) & (matching.mark_state == MarkState.FALSE_POSITIVE)
        lines += [f"0,{p:.9f}" for p in probability[false]]
    assert lines == (folder / "gt_prob_vectors.csv").read_text().splitlines()


def test_bootstrap_agrees_with_the_unseeded_one_within_monte_carlo_error(
    published: tuple[Path, DetectionTables, DetectionScores],
) -> None:
    folder, _, scores = published
    theirs = np.loadtxt(folder / "bootstrapping.csv", delimiter=",", skiprows=1)
    # every hundredth of their 10 000 points is enough to tell. Not every 101st: those are whole numbers of false
    # positives in 88 scans, where the last bit of their floating point and the printed digit decide which side
    # of a jump is read (see test_a_rate_hit_exactly_counts_what_comes_in_there for that rule)
    assert theirs[:, 0] == pytest.approx(np.linspace(0.125, 8, 10000), abs=1e-9)
    theirs = theirs[100::100]
    ours = bootstrap(scores.ladder, FrocSettings(replicates=3000, seed=9), theirs[:, 0]).sensitivity
    # the difference of two means of 1000 and 3000 draws, at five standard errors; float32 on their side
    error = ours.std(axis=0) * np.sqrt(1 / 1000 + 1 / 3000)
    assert (np.abs(ours.mean(axis=0) - theirs[:, 1]) <= 5 * error + 1e-6).all()
    # the k-th of 1000 draws is a quantile known to ±5 standard errors of its rank
    for column, share in ((2, 0.0255), (3, 0.9755)):
        reach = 5 * np.sqrt(share * (1 - share) * (1 / 1000 + 1 / 3000))
        low, high = np.quantile(ours, [max(share - reach, 0), min(share + reach, 1)], axis=0)
        assert (theirs[:, column] >= low - 1e-6).all()
        assert (theirs[:, column] <= high + 1e-6).all()


def test_the_agreement_is_with_drawing_scans_not_nodules(
    published: tuple[Path, DetectionTables, DetectionScores],
) -> None:
    """The check above can fail: drawing nodules alone leaves out how false positives cluster in scans."""
    folder, _, scores = published
    theirs = np.loadtxt(folder / "bootstrapping.csv", delimiter=",", skiprows=1)[100]
    sensitivity = scores.curve.at(theirs[:1])[0]
    by_nodule = np.random.default_rng(0).binomial(scores.curve.nodules, sensitivity, 3000) / scores.curve.nodules
    low, high = np.quantile(by_nodule, (0.025, 0.975))
    assert theirs[3] - theirs[2] > 1.15 * (high - low)


def test_no_warning_on_what_is_right(published: tuple[Path, DetectionTables, DetectionScores]) -> None:
    assert published[2].warnings == ()


def test_both_cpms_as_their_readers_print_them(luna16: Path) -> None:
    """From ``froc.txt`` alone: the grid reading, and the nearest row, the first among equals."""
    for system in SYSTEMS:
        scores = evaluate_detections(tables_of(luna16, system), FrocSettings(replicates=0)).to_dict()
        rows = np.loadtxt(luna16 / "published" / system / "froc.txt", delimiter=",")
        grid = np.linspace(0.125, 8, 10001)
        on_grid = np.interp(grid, rows[:, 0], rows[:, 1])
        seven, wanted = [], 0.125
        for rate, sensitivity in zip(grid, on_grid, strict=True):
            if abs(rate - wanted) < 3e-4:
                seven.append(sensitivity)
                wanted *= 2
        assert scores["froc"]["sensitivity"] == pytest.approx(seven, abs=2e-9)
        assert scores["cpm"]["interpolated"]["value"] == pytest.approx(np.mean(seven), abs=2e-9)
        first = [rows[np.argmin(np.abs(rows[:, 0] - 0.125 * 2**i)), 1] for i in range(7)]
        assert scores["cpm"]["nearest"]["value"] == pytest.approx(np.mean(first), abs=2e-9)


def moved(tables: DetectionTables, place: np.ndarray) -> DetectionTables:
    return replace(tables, marks=Marks(tables.marks.series, place, tables.marks.probability))


def codes(tables: DetectionTables) -> list[str]:
    return [w.code for w in evaluate_detections(tables, FrocSettings(replicates=0)).warnings]


@pytest.mark.parametrize("system", SYSTEMS)
def test_flipped_swapped_and_voxel_coordinates_are_noticed(luna16: Path, system: str) -> None:
    tables = tables_of(luna16, system)
    place = tables.marks.position_xyz_mm
    assert codes(moved(tables, place * (-1, -1, 1))) == ["axes-flipped"]
    assert codes(moved(tables, place[:, ::-1])) == ["axes-flipped"]
    text = evaluate_detections(moved(tables, place * (-1, -1, 1)), FrocSettings(replicates=0)).warnings[0].text
    assert "x and y negated (RAS instead of LPS)" in text
    voxels = np.abs((place - place.min(axis=0)) / 0.7)
    assert codes(moved(tables, voxels)) == ["voxel-coordinates"]


@pytest.mark.parametrize("system", SYSTEMS)
def test_low_scores_on_excluded_findings_are_noticed(luna16: Path, system: str) -> None:
    tables = tables_of(luna16, system)
    assert tables.excluded is not None
    scores = evaluate_detections(tables, FrocSettings(replicates=0, max_marks=0))
    aside = scores.matching.rows(MarkState.IGNORED)
    probability = tables.marks.probability.copy()
    probability[aside] *= 1e-3
    suspicious = replace(tables, marks=Marks(tables.marks.series, tables.marks.position_xyz_mm, probability))
    assert codes(suspicious) == ["too-good-to-be-true"]


def test_one_fold_against_the_whole_list_is_noticed(luna16: Path) -> None:
    assert codes(tables_of(luna16, "res18_focal", "seriesuids.csv")) == ["scans-without-marks", "fp-axis-diluted"]


def test_without_the_excluded_findings_the_score_falls_and_it_says_so(luna16: Path) -> None:
    tables = tables_of(luna16, "res18_focal")
    bare = evaluate_detections(replace(tables, excluded=None), FrocSettings(replicates=0))
    assert [w.code for w in bare.warnings] == ["no-excluded-findings"]
    assert bare.matching.counts.false_positives == 986 + 358
    assert bare.curve.at(GRID_RATES).mean() < 0.87


def test_the_whole_run_from_files(luna16: Path, tmp_path: Path) -> None:
    out = tmp_path / "result"
    metrics = run_detections(
        luna16 / "published" / "res18_focal" / "submission.csv",
        luna16 / "annotations.csv",
        luna16 / "annotations_excluded.csv",
        luna16 / SCANS,
        out,
        FrocSettings(),
    )
    assert json.loads((out / "metrics.json").read_text()) == metrics
    for cpm in metrics["cpm"].values():
        assert 0 < cpm["low"] < cpm["value"] < cpm["high"] < 1
    with (out / "nodules.csv").open(newline="") as file:
        nodules = list(csv.DictReader(file))
    assert [row["found"] for row in nodules] == ["0"] + ["1"] * 104
    assert float(nodules[0]["diameter_mm"]) == 3.270466947
    sizes = metrics["by_diameter"]
    assert [s["nodules"] for s in sizes] == [45, 24, 24, 12]
    assert [s["found"] for s in sizes] == [44, 24, 24, 12]


def test_all_official_nodules_are_read(luna16: Path) -> None:
    tables = tables_of(luna16, "res18_focal", "seriesuids.csv")
    assert (len(tables.nodules), len(tables.series)) == (1186, 888)
    assert tables.excluded is not None
    assert len(tables.excluded) == 35192
    assert len(Findings.none()) == 0
