"""The settings of trials: from the search space to a project file."""

from __future__ import annotations

from typing import Any

import yaml
from optuna import Study, Trial
from optuna.trial import FrozenTrial

from tasks.project import Project

RANGES = ("learning_rate", "weight_decay", "warmup", "label_smoothing")
PROJECT_SETTINGS = "own settings"  # the attribute of a trial with the project's own settings


def queue_project_settings(study: Study, project: Project) -> bool:
    """Queue the project's own settings as the first trial; False where they are outside the space."""
    space = project.tune.space.values()
    settings = {key: getattr(project.train, key) for key in space}
    for key, values in space.items():
        if key in (*RANGES, "epochs"):
            inside = values[0] <= settings[key] <= values[-1]
        else:
            inside = settings[key] in values
        if not inside:
            return False
    study.enqueue_trial(settings, user_attrs={PROJECT_SETTINGS: True}, skip_if_exists=True)
    return True


def suggest_settings(trial: Trial, project: Project) -> dict[str, Any]:
    """The settings of `train` to try."""
    for key, values in project.tune.space.values().items():
        if key == "epochs":
            trial.suggest_int(key, *values)
        elif key in RANGES:
            trial.suggest_float(key, *values, log=key == "learning_rate")
        else:
            trial.suggest_categorical(key, values)
    return settings_of(trial, project)


def settings_of(trial: Trial | FrozenTrial, project: Project) -> dict[str, Any]:
    """The settings of a trial in the order of the space.

    Numbers from ranges are rounded to three digits, except those of the project itself.
    """
    exact = is_project_settings(trial)
    settings = {key: trial.params[key] for key in project.tune.space.values()}
    return {k: float(f"{v:.3g}") if k in RANGES and not exact else v for k, v in settings.items()}


def is_project_settings(trial: Trial | FrozenTrial) -> bool:
    """True for the trial of the project's own settings."""
    return bool(trial.user_attrs.get(PROJECT_SETTINGS))


def as_yaml(settings: dict[str, Any], comments: list[str]) -> str:
    """The settings as `train` of a project file, under these comments."""
    lines = "".join(f"# {line}\n" for line in comments)
    return lines + yaml.safe_dump({"train": settings}, sort_keys=False)


def as_overrides(settings: dict[str, Any]) -> list[str]:
    """The settings as `train.key=value`, for `--set`."""
    return [
        f"train.{k}={yaml.safe_dump(v, default_flow_style=True).splitlines()[0]}"
        for k, v in settings.items()
    ]
