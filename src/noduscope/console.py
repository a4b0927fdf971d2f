"""What the commands print: tables for people. Each function gives one that prints when it is called."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from noduscope import NOT_A_MEDICAL_DEVICE
from noduscope.words import counted, probability_text

if TYPE_CHECKING:
    from noduscope.batch import Outcome
    from noduscope.data.luna16 import DataTree
    from noduscope.data.prepare import Prepared
    from noduscope.demo import DemoResult
    from noduscope.findings import ScanResult
    from noduscope.points import PointGrades


def table(title: str, columns: tuple[str, ...], rows: Sequence[Sequence[str]]) -> None:
    """A table on standard output; as wide as it needs to be where that is not a terminal."""
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def findings_table(result: ScanResult, report: Path) -> Callable[[], None]:
    """The findings of one scan."""

    def show() -> None:
        rows = []
        for n in result.nodules:
            size = (
                f"{n.diameter_mm.mean:.1f} ({n.diameter_mm.low:.1f}–{n.diameter_mm.high:.1f})" if n.diameter_mm else "–"
            )
            volume = f"{n.volume_mm3.value:.0f}" if n.volume_mm3 else "–"
            place = ", ".join(f"{v:.1f}" for v in n.position_xyz_mm)
            sure = probability_text(n.probability)
            rows.append((str(n.id), sure, size, volume, n.side or "–", str(n.slice_number), place))
        columns = ("#", "probability", "diameter mm", "volume mm³", "lung", "slice", "LPS mm")
        if rows:
            table(counted(len(rows), "finding"), columns, rows)
        else:
            typer.echo(f"no finding at or above probability {result.threshold:.2f}")
        for warning in result.warnings:
            typer.echo(f"warning [{warning.code}]: {warning.text}", err=True)
        typer.echo(f"report: {report}   ({result.timing_s['total']:.1f} s)")
        typer.echo(NOT_A_MEDICAL_DEVICE)

    return show


def grading_table(grades: PointGrades, out: Path) -> Callable[[], None]:
    """What was said of each given place."""

    def show() -> None:
        rows = []
        for number, (nodule, remark) in enumerate(zip(grades.nodules, grades.remarks, strict=True), start=1):
            said = ["–"] * 4
            if nodule and nodule.grade:
                m = nodule.grade.malignancy
                size = f"{nodule.diameter_mm.mean:.1f}" if nodule.diameter_mm else "–"
                malignancy = f"{probability_text(m.value)} ({probability_text(m.low)}–{probability_text(m.high)})"
                said = [probability_text(nodule.probability), size, malignancy, nodule.grade.type]
            rows.append((str(number), *said, remark))
        table(counted(len(rows), "point"), ("#", "nodule?", "diameter mm", "malignancy", "type", "remark"), rows)
        for warning in grades.warnings:
            typer.echo(f"warning [{warning.code}]: {warning.text}", err=True)
        typer.echo(f"all of it: {out / 'grades.csv'}")
        typer.echo(NOT_A_MEDICAL_DEVICE)

    return show


def outcome_table(outcomes: list[Outcome], out: Path) -> Callable[[], None]:
    """What became of each input."""

    def show() -> None:
        rows = [
            (
                Path(o.path).name,
                o.error or "done",
                "–" if o.error else str(o.nodules),
                f"{o.seconds:.1f}",
                Path(o.folder).name,
            )
            for o in outcomes
        ]
        table("scans", ("input", "status", "findings", "s", "folder"), rows)
        typer.echo(f"all findings: {out / 'findings.csv'}")
        typer.echo(NOT_A_MEDICAL_DEVICE)

    return show


def demo_dict(shown: DemoResult) -> dict[str, Any]:
    """The demo's result for machines."""
    planted = [
        {
            "type": p.planted.type,
            "shape": p.planted.shape,
            "place": p.planted.place,
            "diameter_mm": round(p.planted.diameter_mm, 1),
            "found": p.found is not None,
            "probability": round(p.found.probability, 4) if p.found else None,
        }
        for p in shown.pairs
    ]
    return {
        "notice": NOT_A_MEDICAL_DEVICE,
        "planted": planted,
        "false_positives": len(shown.false_positives),
        "report": str(shown.report),
    }


def demo_table(shown: DemoResult) -> Callable[[], None]:
    """Planted against found."""

    def show() -> None:
        rows = []
        for pair in shown.pairs:
            p, f = pair.planted, pair.found
            found = ("yes", probability_text(f.probability)) if f else ("no", "–")
            size = f"{f.diameter_mm.mean:.1f}" if f and f.diameter_mm else "–"
            rows.append((p.type, p.shape, p.place, f"{p.diameter_mm:.1f}", *found, size))
        columns = ("type", "shape", "place", "planted mm", "found", "probability", "measured mm")
        table("planted in the synthetic chest, and found", columns, rows)
        found_all = sum(1 for p in shown.pairs if p.found)
        typer.echo(
            f"found {found_all} of {len(shown.pairs)}; findings that were not planted: {len(shown.false_positives)}"
        )
        typer.echo(f"report: {shown.report}")
        typer.echo(NOT_A_MEDICAL_DEVICE)

    return show


def froc_table(metrics: dict[str, Any], out: Path) -> Callable[[], None]:
    """Sensitivity at the seven rates, both CPMs."""

    def show() -> None:
        froc, cpm = metrics["froc"], metrics["cpm"]
        pairs = zip(froc["fps_per_scan"], froc["sensitivity"], strict=True)
        rows = [(f"{rate:g}", _number(value)) for rate, value in pairs]
        table("sensitivity", ("false positives per scan", "sensitivity"), rows)
        for kind in ("interpolated", "nearest"):
            typer.echo(f"CPM, {kind}: {_estimate(cpm[kind])}")
        for warning in metrics["warnings"]:
            typer.echo(f"warning [{warning['code']}]: {warning['text']}", err=True)
        typer.echo(f"results: {out}")
        typer.echo(NOT_A_MEDICAL_DEVICE)

    return show


def grades_table(metrics: dict[str, Any], out: Path) -> Callable[[], None]:
    """Each metric with its interval."""

    def show() -> None:
        rows = [(k.replace("_", " "), _estimate(v)) for k, v in metrics["metrics"].items() if isinstance(v, dict)]
        table(f"{metrics['n']} cases of {metrics['patients']} patients", ("metric", "value (95 % interval)"), rows)
        for warning in metrics.get("warnings", []):
            typer.echo(f"warning [{warning['code']}]: {warning['text']}", err=True)
        typer.echo(f"results: {out}")
        typer.echo(NOT_A_MEDICAL_DEVICE)

    return show


def cubes_table(metrics: dict[str, Any], out: Path) -> Callable[[], None]:
    """NoduleMNIST3D's test part beside the published rows."""

    def show() -> None:
        ours = {k: metrics["metrics"][k]["value"] for k in ("auc", "accuracy")}
        rows = {"noduscope": ours, **metrics["published"]}
        cells = [(name, _number(r["auc"]), _number(r["accuracy"])) for name, r in rows.items()]
        table("NoduleMNIST3D, official test part", ("method", "AUC", "accuracy"), cells)
        grades_table(metrics, out)()

    return show


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _estimate(found: dict[str, Any]) -> str:
    return f"{_number(found['value'])} ({_number(found.get('low'))} to {_number(found.get('high'))})"


def comparison_table(made: dict[str, Any], out: Path) -> Callable[[], None]:
    """One row per nodule of either scan."""

    def show() -> None:
        rows = [(str(r["row"]), r["status"], r["text"]) for r in made["rows"]]
        table("nodules of both scans", ("#", "status", "what changed"), rows)
        for warning in made["warnings"]:
            typer.echo(f"warning [{warning['code']}]: {warning['text']}", err=True)
        typer.echo(f"results: {out}")
        typer.echo(NOT_A_MEDICAL_DEVICE)

    return show


def tree_table(tree: DataTree) -> Callable[[], None]:
    """A data set: what is there, then what is wrong with it."""

    def show() -> None:
        held = tree.to_dict()
        rows = [("scans", str(held["scans"]))]
        if held["subsets"]:
            rows.append(("per subset", ", ".join(f"{k}: {n}" for k, n in held["subsets"].items())))
        rows += [(name, str(n)) for name, n in held["counts"].items()]
        rows += [(f"rows of {name}", str(n)) for name, n in held["tables"].items()]
        table(f"{tree.kind} in {tree.folder}", ("what", "count"), rows)
        for problem in tree.problems:
            typer.echo(f"[{problem.code}] {problem.text}")
        if not tree.problems:
            typer.echo("complete; nothing is missing")

    return show


def prepared_line(outcome: Prepared) -> str:
    """What became of one scan of `data prepare`."""
    uid = outcome.scan.series_uid
    if outcome.error:
        return f"{uid}: {outcome.error}"
    took = f"{outcome.seconds:.1f} s" if outcome.seconds else "was there"
    return f"{uid}: {outcome.size_bytes / 1e6:.1f} MB, {took}"
