"""`detect`, `grade`, `demo`, `compare`: what is done with scans."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from noduscope.cli.shared import Json, Model, Out, SettingsFile, Threshold, say, working
from noduscope.console import comparison_table, demo_dict, demo_table, findings_table, grading_table, outcome_table

if TYPE_CHECKING:
    from noduscope.batch import DetectOptions, Outcome

app = typer.Typer()


class Sex(StrEnum):
    """What risk models ask for."""

    female = "female"
    male = "male"


class Smoker(StrEnum):
    """Smoking status."""

    current = "current"
    former = "former"
    never = "never"


@app.command()
def detect(
    inputs: Annotated[list[Path], typer.Argument(help="DICOM folders, zips or DICOMDIRs; NIfTI, MHD/MHA, NRRD files.")],
    out: Out,
    series: Annotated[str | None, typer.Option("--series", help="SeriesInstanceUID, where there are several.")] = None,
    threshold: Threshold = None,
    model: Model = "detector",
    workers: Annotated[int, typer.Option("--workers", min=1, help="Scans worked on at a time.")] = 1,
    age: Annotated[float | None, typer.Option("--age", help="Patient's age in years, for guidelines and risk.")] = None,
    sex: Annotated[Sex | None, typer.Option("--sex")] = None,
    smoker: Annotated[Smoker | None, typer.Option("--smoker")] = None,
    years_quit: Annotated[float | None, typer.Option("--years-quit", help="Years since the last cigarette.")] = None,
    family_history: Annotated[
        bool | None, typer.Option("--family-history/--no-family-history", help="Of lung cancer.")
    ] = None,
    emphysema: Annotated[bool | None, typer.Option("--emphysema/--no-emphysema")] = None,
    prior_cancer: Annotated[bool | None, typer.Option("--prior-cancer/--no-prior-cancer")] = None,
    baseline: Annotated[
        bool | None, typer.Option("--baseline/--follow-up", help="First screening scan, or a later one.")
    ] = None,
    extra: Annotated[
        list[str] | None, typer.Option("--extra", help="Further result forms: cad-sr, grand-challenge, fhir, pdf.")
    ] = None,
    pdf: Annotated[
        bool, typer.Option("--pdf", help="Print the page to report.pdf (needs Chromium); as --extra pdf.")
    ] = False,
    settings: SettingsFile = None,
    as_json: Json = False,
) -> None:
    """Find the nodules of chest CTs: tables, pictures and a page for each scan."""
    from noduscope.batch import detect_many, detect_one, exit_status
    from noduscope.guidelines import PatientFacts

    patient = PatientFacts(
        age_years=age,
        sex=sex.value if sex else None,
        smoker=smoker.value if smoker else None,
        years_quit=years_quit,
        family_history=family_history,
        emphysema=emphysema,
        prior_cancer=prior_cancer,
        exam=None if baseline is None else "baseline" if baseline else "follow-up",
    )
    options = _detect_options(
        settings,
        threshold,
        model,
        series_uid=series,
        workers=workers,
        patient=patient,
        extras=(*(extra or ()), *(["pdf"] if pdf else [])),
    )
    if len(inputs) == 1:
        with working(f"{inputs[0].name}: reading, searching, writing"):
            result = detect_one(inputs[0], out, options)
        say(result.to_dict() if as_json else findings_table(result, out / "report.html"))
        return
    outcomes: list[Outcome] = []
    for outcome in detect_many(inputs, out, options):
        outcomes.append(outcome)
        done = outcome.error or f"{outcome.nodules} findings in {outcome.seconds:.1f} s"
        typer.echo(f"[{len(outcomes)}/{len(inputs)}] {Path(outcome.path).name}: {done}", err=True)
    if as_json:
        say(json.loads((out / "summary.json").read_text(encoding="utf-8")))
    else:
        say(outcome_table(outcomes, out))
    raise typer.Exit(exit_status(outcomes))


@app.command()
def grade(
    scan: Annotated[Path, typer.Argument(help="A scan as for `detect`, or a cut-out around a nodule.")],
    points: Annotated[
        Path, typer.Option("--points", help="CSV with the columns coordX,coordY,coordZ (LPS mm) and any others.")
    ],
    out: Out,
    series: Annotated[str | None, typer.Option("--series", help="SeriesInstanceUID, where there are several.")] = None,
    model: Annotated[
        str, typer.Option("--model", help="Grader: an installed bundle's name, or its folder.")
    ] = "grader",
    as_json: Json = False,
) -> None:
    """Judge given places of a scan: nodule or not, size, malignancy, type, attributes."""
    from noduscope.points import run_grade

    with working(f"{scan.name}: reading, grading"):
        grades = run_grade(scan, points, out, series_uid=series, model=model)
    say(grades.to_dict() if as_json else grading_table(grades, out))
    raise typer.Exit(grades.exit_status)


@app.command()
def demo(
    out: Out = Path("demo-result"),
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another phantom.")] = 0,
    model: Model = "detector",
    as_json: Json = False,
) -> None:
    """The main job with no data at hand: a synthetic chest, planted against found."""
    from noduscope.demo import run_demo

    with working("making a synthetic chest and analysing it"):
        shown = run_demo(out, _detect_options(None, None, model), seed)
    say(demo_dict(shown) if as_json else demo_table(shown))


@app.command()
def compare(
    prior: Annotated[Path, typer.Argument(help="Earlier scan, or the result folder of an earlier detect.")],
    current: Annotated[Path, typer.Argument(help="Later scan, or its result folder.")],
    out: Out,
    prior_scan: Annotated[Path | None, typer.Option("--prior-scan", help="The scan of a prior result folder.")] = None,
    current_scan: Annotated[
        Path | None, typer.Option("--current-scan", help="The scan of a current result folder.")
    ] = None,
    prior_series: Annotated[str | None, typer.Option("--prior-series", help="SeriesInstanceUID.")] = None,
    current_series: Annotated[str | None, typer.Option("--current-series", help="SeriesInstanceUID.")] = None,
    interval_days: Annotated[
        int | None, typer.Option("--interval-days", min=1, help="Days between [default: the files' dates].")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Even if the files name different patients.")] = False,
    model: Model = "detector",
    settings: SettingsFile = None,
    as_json: Json = False,
) -> None:
    """Follow-up: match the nodules of two scans, growth and doubling time."""
    from noduscope.compare import CompareOptions, run_compare
    from noduscope.settings import load_settings

    options = CompareOptions(
        prior_scan=prior_scan,
        current_scan=current_scan,
        prior_series=prior_series,
        current_series=current_series,
        interval_days=interval_days,
        force=force,
        settings=load_settings(settings),
        detector=model,
    )
    with working("reading, searching and registering both scans"):
        made = run_compare(prior, current, out, options)
    say(made if as_json else comparison_table(made, out))


def _detect_options(settings: Path | None, threshold: float | None, model: str, **more: Any) -> DetectOptions:
    """Options of `detect` from the command line; what is given there wins over the settings file."""
    import dataclasses

    from noduscope.batch import DetectOptions
    from noduscope.settings import load_settings

    chosen = load_settings(settings)
    if threshold is not None:
        chosen = dataclasses.replace(chosen, detect=dataclasses.replace(chosen.detect, threshold=threshold))
    return DetectOptions(settings=chosen, model=model, **more)
