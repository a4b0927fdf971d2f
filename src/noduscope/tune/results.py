"""What a study has found, as files: the best settings, a table of trials, a summary, two pictures."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from noduscope.files import replace_files
from noduscope.settings import Settings, settings_to_toml
from noduscope.tune.figures import importance_picture, parallel_picture
from noduscope.tune.space import Space

_LEAST_FOR_IMPORTANCE = 4  # below, not even an order of the settings can be told


def write_results(study: optuna.Study, space: Space, settings: Settings, out: Path) -> dict[str, Any]:
    """Write ``trials.csv`` and ``summary.json`` and, once a trial is finished, ``best.toml`` and the pictures.

    Parameters
    ----------
    settings : those that the study was begun with.

    Returns
    -------
    What ``summary.json`` holds: ``searched`` (the space's table), ``trials`` (their number by state), ``start`` and
    ``best`` (``trial``, ``score``, ``folder``, ``settings``; None where there is none), ``gain`` (best less start) and
    ``importance`` (the settings' shares of the scores' variance by fANOVA, Hutter et al. 2014, adding up to 1; empty
    with few trials).
    """
    trials = study.get_trials(deepcopy=False)
    finished = [t for t in trials if t.state == TrialState.COMPLETE]
    best = study.best_trial if finished else None
    start = next((t for t in finished if t.params == space.read_from(settings)), None)
    enough = len(finished) >= _LEAST_FOR_IMPORTANCE
    # Optuna's own default looks at where trials lie, and that is also where the search happened to look
    evaluator = FanovaImportanceEvaluator(seed=settings.tune.seed)
    shares = get_param_importances(study, evaluator=evaluator) if enough else {}
    importance = {name: float(share) for name, share in shares.items()}
    summary = {
        "searched": space.table,
        "trials": {s.name.lower(): n for s in TrialState if (n := sum(t.state == s for t in trials))},
        "start": _told(space, start),
        "best": _told(space, best),
        "gain": best.value - start.value if best and start and best.value and start.value else None,
        "importance": importance,
    }
    files = {
        "trials.csv": _table(space, trials).encode("utf-8"),
        "summary.json": (json.dumps(summary, indent=1) + "\n").encode("utf-8"),
    }
    if best:
        files["best.toml"] = settings_to_toml(space.apply(settings, best.params)).encode("utf-8")
        files["parallel.png"] = parallel_picture(space, trials)
    if importance:
        files["importance.png"] = importance_picture(importance)
    replace_files(out, files)
    return summary


def _told(space: Space, trial: FrozenTrial | None) -> dict[str, Any] | None:
    if trial is None:
        return None
    return {
        "trial": trial.number,
        "score": trial.value,
        "folder": trial.user_attrs["folder"],
        "settings": space.drawn(trial.params),
    }


def _table(space: Space, trials: Sequence[FrozenTrial]) -> str:
    """One row per trial; a trial that was stopped early has the score of its last validation."""
    file = io.StringIO()
    names = [p.name for p in space.parameters]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["trial", "state", "score", "validations", "seconds", "folder", *names])
    for t in trials:
        drawn = space.drawn(t.params)
        seconds = f"{t.duration.total_seconds():.1f}" if t.duration else ""
        row = [t.number, t.state.name.lower(), t.value, len(t.intermediate_values), seconds]
        writer.writerow(
            [*row, t.user_attrs.get("folder"), *(json.dumps(drawn[n]) if n in drawn else "" for n in names)]
        )
    return file.getvalue()
