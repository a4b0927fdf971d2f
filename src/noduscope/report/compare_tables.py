"""A follow-up as text: the sentence of each row, JSON, CSV, and the run's manifest."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from noduscope import __version__
from noduscope.changes import DoublingTime
from noduscope.findings import NOT_A_MEDICAL_DEVICE, Interval, ScanResult
from noduscope.growth import STATUSES, Comparison, FollowUp, Sighting
from noduscope.report.tables import RUN_SCHEMA, csv_text, input_facts, json_text, platform_facts
from noduscope.settings import Settings, settings_to_dict

SCHEMA = "noduscope.comparison/1"
RULE_NAMES = {"lung_rads_2022": "Lung-RADS v2022", "fleischner_2017": "Fleischner", "bts_2015": "BTS 2015"}
_SIDES = ("prior", "current")
COLUMNS = (
    "row",
    "status",
    *(
        f"{side}_{name}"
        for side in _SIDES
        for name in ("nodule_id", "x_mm", "y_mm", "z_mm", "diameter_mm", "volume_mm3")
    ),
    *("distance_mm", "interval_days"),
    *(f"diameter_change_{name}" for name in ("mm", "low_mm", "high_mm")),
    *(f"volume_change_{name}" for name in ("percent", "low_percent", "high_percent")),
    *(f"doubling_time_{name}" for name in ("days", "low_days", "high_days")),
    *RULE_NAMES,
    "text",
)


def describe(row: FollowUp, interval_days: int | None) -> str:
    """What became of a nodule, in a sentence or two."""
    if row.status == "gone":
        return "Marked in the prior scan; nothing there now."
    if row.status == "new":
        return "Marked in the current scan; nothing at this place in the prior scan."
    if row.status == "outside":
        seen, other = ("prior", "current") if row.prior else ("current", "prior")
        return f"Seen in the {seen} scan; its place lies outside the {other} scan."
    if row.status == "unmarked":
        missing, sighting = ("current", row.current) if row.prior and row.prior.nodule_id else ("prior", row.prior)
        return (
            f"Not marked by the detector in the {missing} scan; {_size(sighting)} seen at the mapped place, "
            f"which may be the nodule or a vessel or scar there: please look. {_change_text(row, interval_days)}"
        )
    if row.status == "unmeasured":
        return "Marked in both scans, but its size could not be measured in both."
    return _change_text(row, interval_days)


def doubling_text(time: DoublingTime) -> str:
    """A doubling time in words."""
    if time.days is not None:
        return f"{time.days:.0f} days ({_bound(time.low)} to {_bound(time.high)})"
    return f"not shorter than {time.low:.0f} days" if time.low is not None else "none: it does not grow"


def comparison_dict(comparison: Comparison) -> dict[str, Any]:
    """``comparison.json``, schema ``noduscope.comparison/1``."""
    quality = comparison.registration.quality
    return {
        "schema": SCHEMA,
        "not_a_medical_device": True,
        "notice": NOT_A_MEDICAL_DEVICE,
        "prior": _side_dict(comparison.prior),
        "current": _side_dict(comparison.current),
        "interval_days": comparison.interval_days,
        "registration": {name: round(getattr(quality, name), 3) for name in quality.__dataclass_fields__},
        "warnings": [{"code": w.code, "text": w.text} for w in comparison.warnings],
        "counts": {status: sum(r.status == status for r in comparison.rows) for status in STATUSES},
        "rows": [_row_dict(row, comparison.interval_days) for row in comparison.rows],
    }


def comparison_json(comparison: Comparison) -> str:
    """`comparison_dict` as text."""
    return json_text(comparison_dict(comparison))


def comparison_csv(comparison: Comparison) -> str:
    """One line per row; what is not known is an empty cell."""
    return csv_text(COLUMNS, (_csv_row(row, comparison.interval_days) for row in comparison.rows))


def comparison_manifest(comparison: Comparison, settings: Settings | None, files: Iterable[str]) -> str:
    """``run.json``: what made this folder. Holds no path and nothing about the patient."""
    run: dict[str, Any] = {
        "schema": RUN_SCHEMA,
        "notice": NOT_A_MEDICAL_DEVICE,
        "noduscope": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "input": [input_facts(side.scan) for side in (comparison.prior, comparison.current)],
        "interval_days": comparison.interval_days,
        "platform": platform_facts(),
        "files": sorted(files),
    }
    if settings is not None:
        run["settings"] = settings_to_dict(settings)
    return json_text(run)


def signed(value: float, digits: int = 0) -> str:
    """A number with its sign; minus as it is printed."""
    text = f"{value:+.{digits}f}"
    return f"{0:.{digits}f}" if float(text) == 0 else text.replace("-", "−")


def _change_text(row: FollowUp, interval_days: int | None) -> str:
    change, unit = (row.volume, "volume") if row.volume else (row.diameter, "mean diameter")
    if change is None:
        return "Its change could not be measured."
    p = change.percent
    amount = f"{unit} {signed(p.value)} % (95 % interval {signed(p.low)} to {signed(p.high)} %)"
    over = f" in {interval_days} days" if interval_days else ""
    if change.repeatable:
        return f"No measurable change{over}: {amount} lies inside the measurement error."
    word = "Larger" if p.value > 0 else "Smaller"
    doubt = "" if change.measurable else " The sizes are too uncertain to be sure of it: look, and measure by hand."
    time = f" Volume doubling time {doubling_text(row.doubling)}." if row.doubling and p.value > 0 else ""
    return f"{word}{over}: {amount}.{time}{doubt}"


def _size(sighting: Sighting | None) -> str:
    d = sighting.diameter_mm if sighting else None
    return f"{d.mean:.1f} mm" if d else "something"


def _bound(value: float | None) -> str:
    return "no bound" if value is None else f"{value:.0f}"


def _side_dict(result: ScanResult) -> dict[str, Any]:
    models = [{"name": m.name, "version": m.version, "sha256": m.sha256} for m in result.models]
    warnings = [{"code": w.code, "text": w.text} for w in result.warnings]
    return {**input_facts(result.scan), "models": models, "nodules": len(result.nodules), "warnings": warnings}


def _row_dict(row: FollowUp, interval_days: int | None) -> dict[str, Any]:
    """One row; what is not there is left out."""
    made: dict[str, Any] = {"row": row.id, "status": row.status, "text": describe(row, interval_days)}
    for side, seen, place in _sides(row):
        made[side] = {"place_xyz_mm": [round(p, 2) for p in place], **(_sighting_dict(seen) if seen else {})}
    if row.distance_mm is not None:
        made["distance_mm"] = round(row.distance_mm, 2)
    for name, change, unit, digits in (("volume", row.volume, "mm3", 0), ("diameter", row.diameter, "mm", 1)):
        if change is not None:
            absolute, percent = _interval_dict(change.absolute, digits), _interval_dict(change.percent, 1)
            made[f"{name}_change"] = {
                unit: absolute,
                "percent": percent,
                "measurable": change.measurable,
                "repeatable": change.repeatable,
            }
    if row.doubling is not None:
        parts = {"days": row.doubling.days, "low": row.doubling.low, "high": row.doubling.high}
        made["doubling_time_days"] = {k: None if v is None else round(v, 1) for k, v in parts.items()}
    made["rules"] = {r.key: {"met": r.met, "certain": r.certain, "rule": r.threshold} for r in row.rules}
    return made


def _sides(row: FollowUp) -> Iterable[tuple[str, Sighting | None, tuple[float, float, float]]]:
    yield "prior", row.prior, row.prior_place_xyz_mm
    yield "current", row.current, row.current_place_xyz_mm


def _sighting_dict(seen: Sighting) -> dict[str, Any]:
    made: dict[str, Any] = {"marked": seen.nodule_id is not None}
    if seen.nodule_id is not None:
        made["nodule_id"] = seen.nodule_id
    if seen.probability is not None:
        made["probability"] = round(seen.probability, 4)
    if seen.diameter_mm is not None:
        d = seen.diameter_mm
        made["diameter_mm"] = {k: round(getattr(d, k), 1) for k in ("mean", "long", "short", "low", "high")}
    if seen.volume_mm3 is not None:
        made["volume_mm3"] = _interval_dict(seen.volume_mm3, 0)
    return made


def _interval_dict(interval: Interval, digits: int) -> dict[str, float]:
    rounded = {k: round(getattr(interval, k), digits) for k in ("value", "low", "high")}
    return {k: int(v) for k, v in rounded.items()} if digits == 0 else rounded


def _csv_row(row: FollowUp, interval_days: int | None) -> list[str]:
    cells = [str(row.id), row.status]
    for _, seen, place in _sides(row):
        d, v = (seen.diameter_mm, seen.volume_mm3) if seen else (None, None)
        number = "" if seen is None or seen.nodule_id is None else str(seen.nodule_id)
        cells += [number, *(f"{p:.2f}" for p in place), f"{d.mean:.1f}" if d else "", f"{v.value:.0f}" if v else ""]
    cells += [_cell(row.distance_mm, 2), _cell(interval_days, 0)]
    cells += _interval_cells(row.diameter.absolute if row.diameter else None)
    cells += _interval_cells(row.volume.percent if row.volume else None)
    time = row.doubling or DoublingTime(None, None, None)
    cells += [_cell(v, 0) for v in (time.days, time.low, time.high)]
    met = {r.key: r.met for r in row.rules}
    answers = {True: "yes", False: "no", None: ""}
    return [*cells, *(answers[met.get(key)] for key in RULE_NAMES), describe(row, interval_days)]


def _interval_cells(interval: Interval | None) -> list[str]:
    return [_cell(getattr(interval, k), 1) if interval else "" for k in ("value", "low", "high")]


def _cell(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
