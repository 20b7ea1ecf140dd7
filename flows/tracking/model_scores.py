"""A model's scores in MLflow: on the run that measured them, and on the logged model's own page."""

from __future__ import annotations

from dataclasses import replace

from mlflow.entities import LoggedModelInput
from mlflow.exceptions import MlflowException

from flows.tracking.run import Tracking, dataset_input
from tasks.evaluate.result import ScoreResult


def log_champion_scores(
    tracking: Tracking, scored: ScoreResult, *, model_id: str, test_set: str
) -> None:
    """Log the champion's scores on the run that scored it: the retrain's own run has the challenger's.

    `test_set` is the digest of the sealed test rows.
    """
    if not model_id:
        return
    child = replace(tracking, run_id=tracking.stage_run_id(scored))
    test = ("test", test_set)
    try:
        child.log_model_metrics(scored.test_metrics(), model_id=model_id, dataset=test)
        rows = dataset_input(*test, scored.known.rows)
        child.client.log_inputs(child.run_id, datasets=[rows], models=[LoggedModelInput(model_id)])
    except MlflowException as e:
        # the logged model may have been deleted; the registry's files are what counts
        if e.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
