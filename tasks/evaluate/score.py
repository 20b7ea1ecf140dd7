"""The evaluate stage: one directory a model, with its answers on the sealed test rows and its figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tasks import atomic
from tasks.dataset.sealed import open_sealed
from tasks.evaluate import errors, plots, slices
from tasks.evaluate.baselines import simple as baselines
from tasks.evaluate.baselines import word_vectors
from tasks.labels import decode, encode, label_of, predicted
from tasks.project import Project
from tasks.records import Label, Record, read_records
from tasks.references import digest_of_path, resolve
from tasks.stage import Stage, stage
from tasks.statistics.bootstrap import group_codes
from tasks.statistics.metrics import measure
from tasks.statistics.probability_scores import measure_scores

VERSION = 6
BASELINES = ("majority", "descriptions", "tfidf_logistic_regression")
STATIC, INPUT, ZERO_SHOT = "static_embeddings", "input_embeddings", "zero_shot"
# settings of one baseline alone, and of other stages
ALONE = {"static_model", "zero_shot", "ask_llm", "robustness", "perturbations", "cases", "serving"}


def baselines_of(project: Project) -> list[str]:
    """The baselines that answer every test row, by name: BASELINES, and what `evaluate` asks for."""
    static = {"encoder": [INPUT], "off": []}.get(project.evaluate.static_model, [STATIC])
    return [*BASELINES, *static, *([ZERO_SHOT] if project.evaluate.zero_shot else [])]


def own_settings(project: Project) -> dict[str, Any]:
    """What every score depends on beside the answers and the rows."""
    columns = {"columns": list(project.data.keep_columns)} if project.data.keep_columns else {}
    return project.evaluate.model_dump(mode="json", exclude=ALONE) | columns


@dataclass(frozen=True)
class Answers:
    """One label or label set a text; and where the model gives them, probabilities of shape (rows, labels)."""

    labels: list[Label]
    scores: np.ndarray | None = None


Answer = Callable[[list[str]], Answers]


def score_bundle(project: Project, bundle: Path, *, digest: str, sealed: Stage, home: Path) -> Stage:
    """The bundle's answers on the test rows: `predictions.jsonl`, `metrics.json`, `confusion.png` (of label sets `labels.png`),
    and the tables of tasks/evaluate/errors.py.

    Champion and challenger come through here alike, so a champion is scored again whenever the test rows differ.
    """

    def answer(texts: list[str]) -> Answers:
        from tasks.model.bundle import Classifier

        model = Classifier.load(bundle, digest=digest)
        p = model.probabilities(texts)
        # a champion may be from before the project had several labels a text, or had these labels
        several = project.multi_label
        same = model.multi_label == several and set(model.labels) == set(project.label_names)
        at = [model.labels.index(name) for name in project.label_names] if same else []
        return Answers(model.answers(p, multi_label=several), p[:, at] if same else None)

    return _score(project, f"bundle {digest[:12]}", answer, sealed=sealed, home=home, inputs={"bundle": digest})


def score_baseline(
    project: Project, name: str, *, curated: Stage, splits: Stage, sealed: Stage, beside: Path, home: Path
) -> Stage:
    """A baseline's answers on the test rows, in the same form. `name` is one of baselines_of(project)."""
    assert name in baselines_of(project), name
    e, length = project.evaluate, project.train.max_length
    reference = {STATIC: e.static_model, ZERO_SHOT: e.zero_shot, "descriptions": project.train.model}
    reference[INPUT] = project.train.model
    read = reference.get(name)
    model = resolve(read, beside=beside, cache=home / "cache", kind="model") if read else None
    inputs = {"baseline": name} | ({"encoder": digest_of_path(model)} if model else {})
    params: dict[str, Any] = {"max_length": length} if model and name != STATIC else {}
    if name in ("descriptions", ZERO_SHOT):  # they read no training row
        inputs |= {"splits": splits.digest} if project.multi_label else {}
    else:
        inputs |= {"curated": curated.digest}

    def answer(texts: list[str]) -> Answers:
        if name == ZERO_SHOT:
            from tasks.evaluate.baselines.zero_shot import zero_shot

            assert model
            p = zero_shot(project.labels, texts, model, max_length=length, multi_label=project.multi_label)
            return Answers(decode(predicted(p, multi_label=project.multi_label), project.label_names), p)
        return Answers(simple(texts))

    def simple(texts: list[str]) -> list[Label]:
        if name == "descriptions":
            assert model
            dev = read_records(splits.directory / "dev.jsonl") if project.multi_label else None
            return baselines.descriptions(project.labels, texts, model, length, dev=dev)
        train = read_records(curated.directory / "kept.jsonl")
        if name == "majority":
            return baselines.majority(train, texts, project.label_names)
        if model is None:
            return baselines.tfidf(train, texts)
        vectors = (
            partial(word_vectors.of_static, model)
            if name == STATIC
            else partial(word_vectors.of_encoder, model, max_length=length)
        )
        return baselines.mean_vectors(train, texts, vectors)

    return _score(project, name, answer, sealed=sealed, home=home, inputs=inputs, params=params)


def _score(
    project: Project,
    who: str,
    answer: Answer,
    *,
    sealed: Stage,
    home: Path,
    inputs: dict[str, str],
    params: dict[str, Any] | None = None,
) -> Stage:
    def build(out: Path, work: Path) -> dict[str, Any]:
        rows: list[Record] = open_sealed(sealed, home=home, by=who)
        return {"model": who, **measured(out, project, who, rows, answer([r.text for r in rows]))}

    params = {"labels": project.labels, **own_settings(project), **(params or {})}
    return stage(
        home, "evaluate", version=VERSION, params=params, inputs={**inputs, "sealed": sealed.digest}, build=build
    )


def measured(out: Path, project: Project, who: str, rows: list[Record], answers: Answers) -> dict[str, Any]:
    """The figures of the answers to `rows`, without the confusion; everything is written into `out`."""
    e, names = project.evaluate, project.label_names
    true = [label_of(r) for r in rows]
    belongs = slices.members(rows, e.slices, project.data.keep_columns)
    atomic.write_lines(out / "predictions.jsonl", _said(rows, answers, belongs))
    how: dict[str, Any] = {"labels": names, "samples": e.bootstrap, "seed": e.seed}
    found = measure(true, answers.labels, groups=group_codes([r.group for r in rows]), **how)
    found["slices"] = slices.measure(rows, answers.labels, belongs, declared=list(e.slices), **how)
    title = f"{project.name}: {who}"
    scores = answers.scores if answers.scores is not None and np.isfinite(answers.scores).all() else None
    if scores is not None:
        found["scores"] = measure_scores(encode(true, names), scores)
        plots.reliability(found["scores"]["reliability"], title, out / "reliability.png")
    for name, table in errors.tables(rows, answers.labels, scores, names).items():
        atomic.write_lines(out / f"{name}.jsonl", table)
    atomic.write_json(out / "metrics.json", found)
    if project.multi_label:
        plots.by_label(found["labels"], title, out / "labels.png")
    else:
        plots.confusion(found["confusion"], names, title, out / "confusion.png")
    return {k: v for k, v in found.items() if k != "confusion"} | {"probabilities": answers.scores is not None}


def _said(rows: list[Record], answers: Answers, belongs: list[list[str]]) -> list[dict[str, Any]]:
    """A line for each row: its answer, its slices, its group where there is one, and the probabilities where the model gives
    them, or null where they are no numbers: no verdict is based on such an answer."""
    said: list[dict[str, Any]] = []
    for i, (r, p) in enumerate(zip(rows, answers.labels, strict=True)):
        own: dict[str, Any] = {"id": r.id, "label": r.label, "predicted": p} | ({"group": r.group} if r.group else {})
        own["slices"] = belongs[i]
        if answers.scores is not None:
            finite = bool(np.isfinite(answers.scores[i]).all())
            own["scores"] = [round(float(v), 6) for v in answers.scores[i]] if finite else None
        said.append(own)
    return said


def on_rows(project: Project, scored: Stage, ids: set[str]) -> dict[str, float]:
    """Macro-F1 of a scored model on some of the test rows, with its 95% interval."""
    e = project.evaluate
    said = [a for a in read_predictions(scored) if a["id"] in ids]
    true, predicted = ([_label(a[side]) for a in said] for side in ("label", "predicted"))
    found = measure(true, predicted, project.label_names, samples=e.bootstrap, seed=e.seed)
    return dict(found["f1_macro"])


def _label(read: str | list[str]) -> Label:
    return tuple(read) if isinstance(read, list) else read


def read_predictions(scored: Stage) -> list[dict[str, Any]]:
    """`id`, `label`, `predicted` and `slices` of every test row, in the test set's order; label sets are lists."""
    with (scored.directory / "predictions.jsonl").open(encoding="utf-8") as f:
        return [json.loads(line) for line in f]
