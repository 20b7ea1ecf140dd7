"""The evaluate stage: one directory a model, with its answers on the sealed test rows and its figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks import files
from tasks.evaluate import baselines, plots, slices
from tasks.evaluate.bootstrap import group_codes
from tasks.evaluate.metrics import measure
from tasks.evaluate.scores import confident_mistakes, measure_scores
from tasks.files import Stage
from tasks.labels import as_asked, codes, decided, known, named
from tasks.prepare import open_sealed
from tasks.project import Project
from tasks.records import Label, Record
from tasks.references import digest_of_path, resolve

VERSION = 4
BASELINES = ("majority", "descriptions", "tfidf_logistic_regression")


@dataclass(frozen=True)
class Answers:
    """One label or label set a text; and where the model gives them, probabilities of shape (rows, labels)."""

    labels: list[Label]
    scores: np.ndarray | None = None


Answer = Callable[[list[str]], Answers]


def score_bundle(project: Project, bundle: Path, *, digest: str, sealed: Stage, home: Path) -> Stage:
    """The bundle's answers on the test rows: `predictions.jsonl`, `metrics.json`, `confusion.png` (of label sets `labels.png`).

    Champion and challenger come through here alike, so a champion is scored again whenever the test rows differ.
    """

    def answer(texts: list[str]) -> Answers:
        from tasks.bundle import Classifier

        model = Classifier.load(bundle, digest=digest)
        p = model.probabilities(texts)
        # a champion may be from before the project had several labels a text, or had these labels
        several = project.multi_label
        said = named(decided(p, multi_label=model.multi_label), model.labels)
        same = model.multi_label == several and set(model.labels) == set(project.label_names)
        at = [model.labels.index(name) for name in project.label_names] if same else []
        return Answers([as_asked(a, multi_label=several) for a in said], p[:, at] if same else None)

    return _score(project, f"bundle {digest[:12]}", answer, sealed=sealed, home=home, inputs={"bundle": digest})


def score_baseline(
    project: Project, name: str, *, curated: Stage, splits: Stage, sealed: Stage, beside: Path, home: Path
) -> Stage:
    """A baseline's answers on the test rows, in the same form. `name` is one of BASELINES."""
    assert name in BASELINES, name
    inputs = {"baseline": name, "curated": curated.digest}
    encoder = None
    if name == "descriptions":
        encoder = resolve(project.train.model, beside=beside, cache=home / "cache", kind="model")
        inputs = {"baseline": name, "encoder": digest_of_path(encoder)}  # it reads no training row
        inputs |= {"splits": splits.digest} if project.multi_label else {}

    def answer(texts: list[str]) -> Answers:
        return Answers(simple(texts))

    def simple(texts: list[str]) -> list[Label]:
        if encoder is not None:
            dev = files.read_records(splits.directory / "dev.jsonl") if project.multi_label else None
            return baselines.descriptions(project.labels, texts, encoder, project.train.max_length, dev=dev)
        train = files.read_records(curated.directory / "kept.jsonl")
        if name == "majority":
            return baselines.majority(train, texts, project.label_names)
        return baselines.tfidf(train, texts)

    return _score(project, name, answer, sealed=sealed, home=home, inputs=inputs)


def _score(project: Project, who: str, answer: Answer, *, sealed: Stage, home: Path, inputs: dict[str, str]) -> Stage:
    e = project.evaluate

    def build(out: Path, work: Path) -> dict[str, Any]:
        rows: list[Record] = open_sealed(sealed, home=home, by=who)
        answers = answer([r.text for r in rows])
        true = [known(r) for r in rows]
        belongs = slices.members(rows, e.slices, project.data.keep_columns)
        files.write_lines(out / "predictions.jsonl", _said(rows, answers, belongs))
        how: dict[str, Any] = {"labels": project.label_names, "samples": e.bootstrap, "seed": e.seed}
        found = measure(true, answers.labels, groups=group_codes([r.group for r in rows]), **how)
        found["slices"] = slices.measure(rows, answers.labels, belongs, declared=list(e.slices), **how)
        title = f"{project.name}: {who}"
        if answers.scores is not None and np.isfinite(answers.scores).all():
            y = codes(true, project.label_names)
            found["scores"] = measure_scores(y, answers.scores)
            plots.reliability(found["scores"]["reliability"], title, out / "reliability.png")
            if not project.multi_label:
                files.write_lines(out / "mistakes.jsonl", _mistakes(rows, y, answers.scores, project.label_names))
        files.write_json(out / "metrics.json", found)
        if project.multi_label:
            plots.by_label(found["labels"], title, out / "labels.png")
        else:
            plots.confusion(found["confusion"], project.label_names, title, out / "confusion.png")
        return {"model": who, **{k: v for k, v in found.items() if k != "confusion"}}

    elsewhere = {"robustness", "perturbations", "cases", "serving"}  # other stages' own
    params = {"labels": project.labels, **e.model_dump(mode="json", exclude=elsewhere)}
    params |= {"columns": list(project.data.keep_columns)} if project.data.keep_columns else {}
    if "baseline" in inputs and inputs["baseline"] == "descriptions":
        params["max_length"] = project.train.max_length
    return files.stage(
        home, "evaluate", version=VERSION, params=params, inputs={**inputs, "sealed": sealed.digest}, build=build
    )


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


def _mistakes(rows: list[Record], y: np.ndarray, p: np.ndarray, labels: list[str]) -> list[dict[str, Any]]:
    """The most confident mistakes, for a person: of the model, or of whoever labelled the test rows. Nothing is edited."""
    return [
        {
            "id": rows[i].id,
            "true": labels[y[i]],
            "predicted": labels[int(p[i].argmax())],
            "score": round(said, 4),
            "score_of_true": round(true, 4),
            "text": rows[i].text,
        }
        for i, said, true in confident_mistakes(y, p)
    ]


def read_predictions(scored: Stage) -> list[dict[str, Any]]:
    """`id`, `label`, `predicted` and `slices` of every test row, in the test set's order; label sets are lists."""
    with (scored.directory / "predictions.jsonl").open(encoding="utf-8") as f:
        return [json.loads(line) for line in f]
