"""The scores of the baselines that answer every test row."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from tasks.dataset.split import SealedResult, SplitsResult
from tasks.dataset.training_rows import TrainingRows
from tasks.evaluate.baselines import simple, word_vectors
from tasks.evaluate.result import ScoreResult
from tasks.evaluate.score import Answers, score_model
from tasks.labels import decode, predict_codes
from tasks.project import Project
from tasks.records import read_records
from tasks.references import digest_of_path, resolve
from tasks.workspace import Workspace

MAJORITY, DESCRIPTIONS, TFIDF = ALWAYS = "majority", "descriptions", "tfidf_logistic_regression"
STATIC, INPUT, ZERO_SHOT = "static_embeddings", "input_embeddings", "zero_shot"


def active_baselines(project: Project) -> list[str]:
    """The names of the project's baselines: ALWAYS, and those that `evaluate` switches on."""
    static = {"encoder": [INPUT], "off": []}.get(project.evaluate.static_model, [STATIC])
    return [*ALWAYS, *static, *([ZERO_SHOT] if project.evaluate.zero_shot else [])]


def score_baseline(
    project: Project,
    name: str,
    *,
    curated: TrainingRows,
    splits: SplitsResult,
    sealed: SealedResult,
    workspace: Workspace,
) -> ScoreResult:
    """The scores of the baseline `name`, one of active_baselines(project), on the test rows."""
    assert name in active_baselines(project), name
    model = _resolve_model(project, name, workspace)
    inputs = {"baseline": name} | ({"encoder": digest_of_path(model)} if model else {})
    if name not in (DESCRIPTIONS, ZERO_SHOT):
        inputs["curated"] = curated.digest
    elif name == DESCRIPTIONS and project.multi_label:  # its threshold is chosen on dev
        inputs["splits"] = splits.digest
    cut = model is not None and name != STATIC
    return score_model(
        project,
        name,
        partial(_answer, project, name, model, curated, splits),
        sealed=sealed,
        workspace=workspace,
        inputs=inputs,
        params={"max_length": project.train.max_length} if cut else {},
    )


def _resolve_model(project: Project, name: str, workspace: Workspace) -> Path | None:
    """The checkpoint or word vectors that the baseline reads, if any."""
    encoder, evaluate = project.train.model, project.evaluate
    references = {STATIC: evaluate.static_model, ZERO_SHOT: evaluate.zero_shot}
    reference = {**references, DESCRIPTIONS: encoder, INPUT: encoder}.get(name)
    if not reference:
        return None
    return resolve(reference, config_dir=project.config_dir, cache=workspace.cache, kind="model")


def _answer(
    project: Project,
    name: str,
    model: Path | None,
    curated: TrainingRows,
    splits: SplitsResult,
    texts: list[str],
) -> Answers:
    length, several = project.train.max_length, project.multi_label
    if model is None:
        rows = curated.read()
        if name == MAJORITY:
            return Answers(simple.predict_majority(rows, texts, project.label_names))
        return Answers(simple.predict_by_tfidf(rows, texts))
    if name == ZERO_SHOT:
        from tasks.evaluate.baselines.zero_shot import zero_shot_probabilities

        p = zero_shot_probabilities(
            project.labels, texts, model, max_length=length, multi_label=several
        )
        return Answers(decode(predict_codes(p, multi_label=several), project.label_names), p)
    if name == DESCRIPTIONS:
        dev = read_records(splits.directory / "dev.jsonl") if several else None
        answers = simple.predict_by_description(project.labels, texts, model, length, dev=dev)
        return Answers(answers)
    if name == STATIC:
        vectors = partial(word_vectors.average_static_embeddings, model)
    else:
        vectors = partial(word_vectors.average_input_embeddings, model, max_length=length)
    return Answers(simple.predict_by_vectors(curated.read(), texts, vectors))
