"""The follow-up as files: one page with both scans side by side, CSV, JSON and manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from noduscope import __version__
from noduscope.changes import Change
from noduscope.findings import NOT_A_MEDICAL_DEVICE, Nodule, ScanResult
from noduscope.growth import STATUSES, Comparison, FollowUp, Sighting, Status
from noduscope.preprocess import in_threads
from noduscope.report.compare_tables import (
    RULE_NAMES,
    comparison_csv,
    comparison_json,
    comparison_manifest,
    describe,
    doubling_text,
    signed,
)
from noduscope.report.figures import Panel, close_up_field_mm, close_ups, projection_panels
from noduscope.report.html import PLANE_NAMES, number, panel_context, render, significant
from noduscope.report.views import Anatomy
from noduscope.report.write import write_folder
from noduscope.scan import Triple
from noduscope.settings import Settings

MOST_PICTURED = 12
"""Rows with pictures: the first ones. More would make the page too large to send."""
_SIDES = ("prior", "current")
_WORDS: dict[Status, str] = {
    "grown": "larger",
    "new": "new",
    "unsure": "changed, not for sure",
    "unmarked": "marked in one only",
    "unmeasured": "not measurable",
    "smaller": "smaller",
    "stable": "no measurable change",
    "gone": "gone",
    "outside": "not covered by both",
}


@dataclass(frozen=True, slots=True, eq=False)
class SidePictures:
    """The panels of one scan: projections, and the close-ups of each pictured row (none where it was not scanned)."""

    projections: tuple[Panel, ...]
    rows: tuple[tuple[Panel, ...], ...]


def write_comparison(comparison: Comparison, out: Path, settings: Settings | None = None) -> tuple[Path, ...]:
    """Write ``comparison.html``, ``.json``, ``.csv`` and ``run.json`` into a folder, complete or not at all.

    Parameters
    ----------
    out : made with its parents; may exist when it is empty or holds an earlier result and nothing else.
    settings : the run's settings, kept in ``run.json``.

    Raises
    ------
    InputRefused
        ``out`` is a file or holds something that is not ours, or it cannot be written.
    """
    pictures = (_draw(comparison, "prior"), _draw(comparison, "current"))
    texts = {
        "comparison.html": render_comparison(comparison, pictures),
        "comparison.json": comparison_json(comparison),
        "comparison.csv": comparison_csv(comparison),
    }
    names = sorted([*texts, "run.json"])
    texts["run.json"] = comparison_manifest(comparison, settings, names)

    def fill(folder: Path) -> list[str]:
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8", newline="\n")
        return names

    return write_folder(out, fill)


def render_comparison(comparison: Comparison, pictures: tuple[SidePictures, SidePictures]) -> str:
    """The page as HTML text; everything that comes from the scans or their headers is escaped."""
    counts = {status: sum(row.status == status for row in comparison.rows) for status in STATUSES}
    rows = [_row(row, comparison.interval_days) for row in comparison.rows]
    for k, row in enumerate(rows[: len(pictures[0].rows)]):
        row["panels"] = {
            side: [
                panel_context(p, f"{side} scan, {PLANE_NAMES[p.name]} view of nodule {row['id']}") for p in own.rows[k]
            ]
            for side, own in zip(_SIDES, pictures, strict=True)
        }
    overview = {
        side: [panel_context(p, f"{side} scan, {PLANE_NAMES[p.name]} projection of the lungs") for p in own.projections]
        for side, own in zip(_SIDES, pictures, strict=True)
    }
    context = {
        "version": __version__,
        "notice": NOT_A_MEDICAL_DEVICE,
        "interval_days": comparison.interval_days,
        "counts": [(_WORDS[status], count) for status, count in counts.items() if count],
        "rows": rows,
        "pictured": len(pictures[0].rows),
        "warnings": _warning_texts(comparison),
        "overview": overview,
        "quality": comparison.registration.quality,
        "facts": [(f"{side} scan", _scan_fact(result)) for side, result in _results(comparison)],
        "models": sorted({(m.name, m.version, m.sha256[:16]) for _, r in _results(comparison) for m in r.models}),
    }
    return render("compare_page.html", context)


def _results(comparison: Comparison) -> tuple[tuple[str, ScanResult], tuple[str, ScanResult]]:
    return ("prior", comparison.prior), ("current", comparison.current)


def _draw(comparison: Comparison, side: str) -> SidePictures:
    """All pictures of one scan; both scans show a row with the same field."""
    result: ScanResult = getattr(comparison, side)
    anatomy = Anatomy.of(result)
    seen = [(row.id, getattr(row, side)) for row in comparison.rows]
    marked = tuple(_nodule(s, k, result) for k, s in seen if s is not None)
    projections = projection_panels(anatomy, replace(result, nodules=marked))
    pictured = comparison.rows[:MOST_PICTURED]
    panels: list[tuple[Panel, ...]] = [()] * len(pictured)

    def one(k: int) -> None:
        panels[k] = _close_ups(anatomy, pictured[k], result, side)

    in_threads(one, len(pictured))
    # axial and coronal: the third adds little and would make the pictures small
    return SidePictures(projections[:2], tuple(panels))


def _close_ups(anatomy: Anatomy, row: FollowUp, result: ScanResult, side: str) -> tuple[Panel, ...]:
    sighting: Sighting | None = getattr(row, side)
    place: Triple = getattr(row, f"{side}_place_xyz_mm")
    if not result.scan.geometry.contains(place):
        return ()
    field = max(close_up_field_mm(s.diameter_mm) for s in (row.prior, row.current) if s is not None)
    z, y, x = (float(i) for i in anatomy.scan.geometry.to_index(place))
    outlined = (_nodule(sighting, row.id, result), result.scan.geometry) if sighting else None
    return close_ups(anatomy, (z, y, x), field, outlined)


def _nodule(seen: Sighting, number_: int, result: ScanResult) -> Nodule:
    """A sighting in the form that pictures are drawn from, under its row's number."""
    z, y, x = (float(i) for i in result.scan.geometry.to_index(seen.position_xyz_mm))
    return Nodule(
        id=number_,
        probability=seen.probability or 0.0,
        position_xyz_mm=seen.position_xyz_mm,
        voxel_zyx=(z, y, x),
        slice_number=_slice(seen.position_xyz_mm, result),
        sop_instance_uid=None,
        diameter_mm=seen.diameter_mm,
        volume_mm3=seen.volume_mm3,
        side=seen.side,
        mask=seen.mask,
    )


def _slice(place: Triple, result: ScanResult) -> int:
    """1-based slice of a place, the nearest there is."""
    z = float(result.scan.geometry.to_index(place)[0])
    return int(np.clip(round(z), 0, result.scan.geometry.shape_zyx[0] - 1)) + 1


def _row(row: FollowUp, interval_days: int | None) -> dict[str, Any]:
    """One row's texts; what is not known is None."""
    sightings = [s for s in (row.current, row.prior) if s is not None]
    return {
        "id": row.id,
        "status": row.status,
        "word": _WORDS[row.status],
        "text": describe(row, interval_days),
        "lung": next((s.side for s in sightings if s.side), None),
        "prior": _sighting(row.prior),
        "current": _sighting(row.current),
        "volume": _change(row.volume, "mm³", 0),
        "diameter": _change(row.diameter, "mm", 1),
        "doubling": doubling_text(row.doubling) if row.doubling else None,
        "rules": [
            {"name": RULE_NAMES[r.key], "met": r.met, "certain": r.certain, "rule": r.threshold} for r in row.rules
        ],
        "distance": row.distance_mm,
        "panels": None,
    }


def _sighting(seen: Sighting | None) -> dict[str, Any] | None:
    if seen is None:
        return None
    d, v = seen.diameter_mm, seen.volume_mm3
    return {
        "id": seen.nodule_id,
        "diameter": f"{d.mean:.1f} mm" if d else None,
        "axes": f"{d.long:.1f} × {d.short:.1f} mm" if d else None,
        "range": f"{d.low:.1f} to {d.high:.1f} mm" if d else None,
        "volume": f"{number(significant(v.value, 3))} mm³" if v else None,
    }


def _change(change: Change | None, unit: str, digits: int) -> dict[str, str] | None:
    if change is None:
        return None
    a, p = change.absolute, change.percent
    return {
        "absolute": f"{signed(a.value, digits)} {unit}",
        "range": f"{signed(a.low, digits)} to {signed(a.high, digits)} {unit}",
        "percent": f"{signed(p.value)} %",
        "percent_range": f"{signed(p.low)} to {signed(p.high)} %",
    }


def _warning_texts(comparison: Comparison) -> list[str]:
    own = [f"{side.capitalize()} scan: {w.text}" for side, result in _results(comparison) for w in result.warnings]
    return [*(w.text for w in comparison.warnings), *own]


def _scan_fact(result: ScanResult) -> str:
    geometry, source = result.scan.geometry, result.scan.source
    x, y, z = geometry.spacing_xyz_mm
    described: Sequence[str] = [f"{name} {value}" for name, value in source.description]
    size = f"{geometry.shape_zyx[0]} slices, {z:.2f} mm apart; pixels of {x:.2f} × {y:.2f} mm"
    return "; ".join([size, *described, f"series {source.series_uid}"])
