"""The search itself: trials of an objective over a space, kept in a study file that any number of processes share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from noduscope.errors import InputRefused, NoduscopeError, SettingsError
from noduscope.settings import Settings, settings_from_dict, settings_hash, settings_to_dict
from noduscope.tune.results import write_results
from noduscope.tune.space import Space

log = logging.getLogger(__name__)

Report = Callable[[int, float], None]
"""Told the number of a validation, from 0, and its score; raises `optuna.TrialPruned` when the trial is hopeless."""
Objective = Callable[[Settings, Path, Report], float]
"""Gives the score, higher is better, that these settings reach; may keep files in the folder and go on from them."""

_DONE = (TrialState.COMPLETE, TrialState.PRUNED)
_FAILURES_IN_A_ROW = 3


def tune(objective: Objective, space: Space, settings: Settings, study: Path, out: Path, trials: int) -> dict[str, Any]:
    """Search a space until the study holds a number of trials, and write what was found.

    The first trial is the settings as they are, so that the gain over them is known. A trial that fails is told and
    does not count. Interrupted, the trial is drawn again first; as its folder follows from its settings, an
    objective that keeps checkpoints goes on from them.

    Parameters
    ----------
    objective : what is to be made large.
    settings : those that no parameter of the space names, and how to search (`TuneSettings`).
    study : the study's journal, made where it is missing. Several processes may work on one at the same time; it
        needs no server and is safe on network disks.
    out : folder for the results and for the trials' own folders.
    trials : how many the study shall hold, finished or stopped early, those of earlier calls and other processes
        included. What other processes are at when that is reached, they finish.

    Returns
    -------
    What ``summary.json`` holds; see `write_results`.

    Raises
    ------
    SettingsError
        When the study was begun with other settings.
    InputRefused
        When the study's file cannot be written or is none.
    NoduscopeError
        When three trials in a row failed.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # what goes well, the lines below tell
    opened = open_study(study, space, settings)
    run = _Run(objective, space, settings, out, trials)
    try:
        if run.left(opened) > 0:
            opened.optimize(run.trial, callbacks=[run.after], catch=(Exception,))
    finally:
        # also when interrupted: what is known so far
        summary = write_results(opened, space, settings, out)
    if run.failures >= _FAILURES_IN_A_ROW:
        raise NoduscopeError(f"{run.failures} trials in a row failed; the messages above say why")
    return summary


def open_study(path: Path, space: Space, settings: Settings) -> optuna.Study:
    """Open a study or begin it; see `tune`."""
    how = settings.tune
    options: dict[str, Any] = {
        "study_name": space.table,
        "storage": _storage(path),
        "sampler": _SeededByTrial(how.seed, how.startup_trials),
        "pruner": optuna.pruners.MedianPruner(how.startup_trials, how.warmup_validations),
    }
    try:
        study = optuna.create_study(direction="maximize", **options)
    except optuna.exceptions.DuplicatedStudyError:
        study = optuna.load_study(**options)
    else:
        study.set_user_attr("settings", settings_to_dict(settings))
        as_it_is = space.read_from(settings)
        if as_it_is is not None:
            study.enqueue_trial(as_it_is)
    begun_with = settings_from_dict(study.user_attrs.get("settings", settings_to_dict(settings)))
    if begun_with != settings:
        other = [f"[{t}]" for t in settings_to_dict(settings) if getattr(begun_with, t) != getattr(settings, t)]
        raise SettingsError(
            f"{path} holds a study with other settings in {', '.join(other)}; give another file or the same settings"
        )
    return study


def _storage(path: Path) -> JournalStorage:
    """A journal: appended to under a lock that network disks have too, which SQLite's is not."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Optuna would append to any file
        if path.exists() and path.stat().st_size and not _begins_a_journal(path):
            raise InputRefused(f"{path} is not a study's journal; give another file")
        return JournalStorage(JournalFileBackend(str(path)))
    except OSError as error:
        raise InputRefused(f"cannot write the study {path}: {error.strerror or error}") from error


def _begins_a_journal(path: Path) -> bool:
    with path.open("rb") as file:
        return b'"op_code"' in file.readline()


class _Run:
    """One process's part in a study."""

    def __init__(self, objective: Objective, space: Space, settings: Settings, out: Path, trials: int) -> None:
        self.objective, self.space, self.settings = objective, space, settings
        self.out, self.trials = out, trials
        self.failures = 0

    def left(self, study: optuna.Study) -> int:
        """How many trials the study still lacks."""
        return self.trials - len(study.get_trials(deepcopy=False, states=_DONE))

    def trial(self, trial: optuna.Trial) -> float:
        """Draw settings and score them."""
        for parameter in self.space.parameters:
            parameter.draw(trial)
        chosen = self.space.apply(self.settings, trial.params)
        folder = self.out / "trials" / settings_hash(chosen)
        trial.set_user_attr("folder", folder.name)
        drawn = self.space.drawn(trial.params).items()
        log.info("trial %d: %s", trial.number, ", ".join(f"{k} {_short(v)}" for k, v in drawn))

        def report(step: int, score: float) -> None:
            trial.report(score, step)
            if trial.should_prune():
                raise optuna.TrialPruned

        try:
            return self.objective(chosen, folder, report)
        except KeyboardInterrupt:
            trial.study.enqueue_trial(trial.params)
            raise

    def after(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Say how a trial ended, and stop when there are enough or nothing works."""
        if trial.state == TrialState.COMPLETE:
            log.info("trial %d: %.4f (best %.4f)", trial.number, trial.value, study.best_value)
        else:
            log.info("trial %d: %s", trial.number, trial.state.name.lower())
        self.failures = self.failures + 1 if trial.state == TrialState.FAIL else 0
        if self.left(study) <= 0 or self.failures >= _FAILURES_IN_A_ROW:
            study.stop()


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class _SeededByTrial(BaseSampler):
    """The tree-structured Parzen estimator, seeded anew for each trial.

    One seed for the whole study would make processes that share it draw the same settings; a trial's number is its own.
    """

    def __init__(self, seed: int, startup_trials: int) -> None:
        self.seed, self.startup_trials = seed, startup_trials
        self.of_trial = TPESampler(seed=seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        # a prime keeps neighbouring seeds apart
        seed = (self.seed * 1_000_003 + trial.number) % 2**32
        self.of_trial = TPESampler(seed=seed, n_startup_trials=self.startup_trials)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.of_trial.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self.of_trial.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self.of_trial.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self.of_trial.after_trial(study, trial, state, values)
