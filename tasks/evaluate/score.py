"""The evaluate stage: one directory a model, with its answers on the sealed test rows and its figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tasks import atomic
from tasks.dataset.sealed import open_sealed
from tasks.dataset.split import SealedResult, SplitsResult
from tasks.dataset.training_rows import TrainingRows
from tasks.evaluate import errors, plots, slices
from tasks.evaluate.baselines import simple as baselines
from tasks.evaluate.baselines import word_vectors
from tasks.evaluate.slices import SliceScore
from tasks.figures import Figures, Interval
from tasks.labels import decode, encode, label_of, predict_codes
from tasks.model.bundle import BundleRef
from tasks.project import Project
from tasks.records import Label, Record, read_records
from tasks.references import digest_of_path, resolve
from tasks.stage import Metrics, StageResult, Table, run_stage
from tasks.statistics.bootstrap import group_codes
from tasks.statistics.metrics import measure
from tasks.statistics.probability_scores import measure_scores
from tasks.statistics.scores import ProbabilityScores, Scores
from tasks.workspace import Workspace

VERSION = 6
BASELINES = ("majority", "descriptions", "tfidf_logistic_regression")
PREDICTIONS, METRICS = FILES = "predictions.jsonl", "metrics.json"
ENDS = ("ci_low", "ci_high")
LLM_METRICS = ("unparsed_share", "usd", "tokens", "usd_per_text", "tokens_per_text")
STATIC, INPUT, ZERO_SHOT = "static_embeddings", "input_embeddings", "zero_shot"
# settings of one baseline alone, and of other stages
ALONE = {
    "static_model",
    "zero_shot",
    "llm_rows",
    "robustness_rows",
    "perturbations",
    "cases",
    "serving_rows",
}


def baselines_of(project: Project) -> list[str]:
    """The baselines that answer every test row, by name: BASELINES, and what `evaluate` asks for."""
    static = {"encoder": [INPUT], "off": []}.get(project.evaluate.static_model, [STATIC])
    return [*BASELINES, *static, *([ZERO_SHOT] if project.evaluate.zero_shot else [])]


def shared_settings(project: Project) -> dict[str, object]:
    """What every score depends on besides the answers and the rows."""
    settings = project.evaluate.model_dump(mode="json", exclude=ALONE)
    return settings | {"columns": list(project.data.keep_columns)}


@dataclass(frozen=True)
class Answers:
    """One label or label set per text; and where the model gives them, probabilities of shape (rows, labels)."""

    labels: list[Label]
    scores: np.ndarray | None = None


Answer = Callable[[list[str]], Answers]


class ScoredRow(Figures):
    """One model's answer to one test row.

    `scores` are its probabilities in the order of the labels: None where the model gives none, or
    where they are not numbers, which `broken` tells.
    """

    id: str
    label: str | tuple[str, ...]
    predicted: str | tuple[str, ...]
    group: str | None = None
    slices: tuple[str, ...]
    scores: tuple[float, ...] | None = None
    broken: bool = False


class Latency(Figures):
    """Seconds per text at the median and the 95th percentile; None where no text was timed."""

    p50: float | None
    p95: float | None
    texts: int


class LlmScore(Figures):
    """What asking an LLM for labels took; `unparsed` counts answers that are no label."""

    name: str
    local: bool
    unparsed: int
    unparsed_share: float
    latency: Latency
    tokens: int
    tokens_per_text: float
    usd: float
    usd_per_text: float
    measured: bool
    stopped: str | None


class ScoreResult(StageResult):
    """One model's scores on the sealed test rows; `scores` is None where no row was answered.

    `probabilities` is true where the model gives them, and `calibration` how good they are. `sample`
    is true where some of the test rows were asked about, which `llm` alone is.
    """

    model: str
    scores: Scores | None
    slices: list[SliceScore]
    calibration: ProbabilityScores | None
    probabilities: bool
    sample: bool = False
    llm: LlmScore | None = None

    @property
    def known(self) -> Scores:
        """The scores of a model that answered."""
        assert self.scores is not None, self.model
        return self.scores

    def read(self) -> list[ScoredRow]:
        """The answer to each test row, in the test set's order."""
        return read_answers(self.directory / PREDICTIONS)

    def metrics(self) -> Metrics:
        llm = {f"llm.{name}": float(getattr(self.llm, name)) for name in LLM_METRICS if self.llm}
        return llm | (self.test_metrics() if self.scores else {})

    def test_metrics(self) -> Metrics:
        """`test.f1_macro` and the other figures with their intervals, and F1 per label with its own."""
        whole = self.known.summary | self.known.more
        metrics = {f"test.{name}": v.value for name, v in whole.items()}
        metrics |= {
            f"test.{name}.{end}": getattr(v, end) for name, v in whole.items() for end in ENDS
        }
        metrics |= {
            f"test.{k}": v
            for k, v in (self.calibration.by_name() if self.calibration else {}).items()
        }
        for label, v in self.known.labels.items():
            metrics |= {f"test.f1.{label}.{end}": getattr(v, f"f1_{end}") for end in ENDS}
        for s in self.slices:
            if s.f1_macro:
                metrics[f"test.f1_macro.{s.name}"[:200]] = s.f1_macro.value
        return metrics | {f"test.f1.{label}": v.f1 for label, v in self.known.labels.items()}

    def tables(self) -> dict[str, Table]:
        tables: dict[str, Table] = {
            name: atomic.read_lines(self.directory / f"{name}.jsonl") for name in errors.TABLES
        }
        return tables | {"slices": [s.row() for s in self.slices]}

    def pictures(self) -> list[Path]:
        return sorted(self.directory.glob("*.png"))

    def artifacts(self) -> list[Path]:
        return [*self.pictures(), *(p for name in FILES if (p := self.directory / name).exists())]


def read_answers(path: Path) -> list[ScoredRow]:
    """The rows of a file of answers."""
    with path.open("rb") as f:
        return [ScoredRow.model_validate_json(line) for line in f]


def score_bundle(
    project: Project, bundle: BundleRef, *, sealed: SealedResult, workspace: Workspace
) -> ScoreResult:
    """The bundle's scores on the test rows, with `predictions.jsonl`, `metrics.json` and pictures.

    Champion and challenger come through here alike, so a champion is scored again whenever the test rows differ.
    """

    def answer(texts: list[str]) -> Answers:
        from tasks.model.bundle import Classifier

        model = Classifier.load(bundle.directory, digest=bundle.digest)
        p = model.probabilities(texts)
        # a champion may be from before the project had several labels per text, or had these labels
        several = project.multi_label
        same = model.multi_label == several and set(model.labels) == set(project.label_names)
        at = [model.labels.index(name) for name in project.label_names] if same else []
        return Answers(model.answers(p, multi_label=several), p[:, at] if same else None)

    who, inputs = f"bundle {bundle.digest[:12]}", {"bundle": bundle.digest}
    return _score(
        project, who, answer, sealed=sealed, workspace=workspace, inputs=inputs, params={}
    )


def score_baseline(
    project: Project,
    name: str,
    *,
    curated: TrainingRows,
    splits: SplitsResult,
    sealed: SealedResult,
    workspace: Workspace,
) -> ScoreResult:
    """A baseline's scores on the test rows, in the same form. `name` is one of baselines_of(project)."""
    assert name in baselines_of(project), name
    model = _baseline_model(project, name, workspace)
    inputs = {"baseline": name} | ({"encoder": digest_of_path(model)} if model else {})
    if name in ("descriptions", ZERO_SHOT):  # they read no training row
        inputs |= {"splits": splits.digest} if project.multi_label else {}
    else:
        inputs |= {"curated": curated.digest}
    params: dict[str, object] = (
        {"max_length": project.train.max_length} if model and name != STATIC else {}
    )
    answer = partial(_baseline_answers, project, name, model, curated, splits)
    return _score(
        project, name, answer, sealed=sealed, workspace=workspace, inputs=inputs, params=params
    )


def _baseline_model(project: Project, name: str, workspace: Workspace) -> Path | None:
    """The checkpoint or word vectors that the baseline reads, if any."""
    e = project.evaluate
    references = {STATIC: e.static_model, ZERO_SHOT: e.zero_shot}
    references |= dict.fromkeys(("descriptions", INPUT), project.train.model)
    reference = references.get(name)
    if not reference:
        return None
    return resolve(reference, config_dir=project.config_dir, cache=workspace.cache, kind="model")


def _baseline_answers(
    project: Project,
    name: str,
    model: Path | None,
    curated: TrainingRows,
    splits: SplitsResult,
    texts: list[str],
) -> Answers:
    length = project.train.max_length
    if name == ZERO_SHOT:
        from tasks.evaluate.baselines.zero_shot import zero_shot

        assert model
        p = zero_shot(
            project.labels, texts, model, max_length=length, multi_label=project.multi_label
        )
        return Answers(
            decode(predict_codes(p, multi_label=project.multi_label), project.label_names), p
        )
    if name == "descriptions":
        assert model
        dev = read_records(splits.directory / "dev.jsonl") if project.multi_label else None
        return Answers(baselines.descriptions(project.labels, texts, model, length, dev=dev))
    train = curated.read()
    if name == "majority":
        return Answers(baselines.majority(train, texts, project.label_names))
    if model is None:
        return Answers(baselines.tfidf(train, texts))
    if name == STATIC:
        vectors = partial(word_vectors.of_static, model)
    else:
        vectors = partial(word_vectors.of_encoder, model, max_length=length)
    return Answers(baselines.mean_vectors(train, texts, vectors))


def _score(
    project: Project,
    who: str,
    answer: Answer,
    *,
    sealed: SealedResult,
    workspace: Workspace,
    inputs: Mapping[str, str],
    params: Mapping[str, object],
) -> ScoreResult:
    def build(out: Path, scratch: Path) -> ScoreResult:
        rows = open_sealed(sealed, workspace=workspace, by=who)
        return measured(out, project, who, rows, answer([r.text for r in rows]))

    return run_stage(
        ScoreResult,
        "evaluate",
        workspace=workspace,
        version=VERSION,
        params={"labels": project.labels, **shared_settings(project), **params},
        inputs={**inputs, "sealed": sealed.digest},
        build=build,
    )


def measured(
    out: Path, project: Project, who: str, rows: list[Record], answers: Answers
) -> ScoreResult:
    """The scores of the answers to `rows`; answers, tables and pictures are written into `out`."""
    e, names = project.evaluate, project.label_names
    true = [label_of(r) for r in rows]
    belongs = slices.members(rows, e.slices, project.data.keep_columns)
    atomic.write_lines(out / PREDICTIONS, _answer_rows(rows, answers, belongs))
    groups = group_codes([r.group for r in rows])
    scores = measure(
        true, answers.labels, names, samples=e.bootstrap_samples, seed=e.seed, groups=groups
    )
    of_slices = slices.measure(
        rows,
        answers.labels,
        belongs,
        labels=names,
        declared=list(e.slices),
        samples=e.bootstrap_samples,
        seed=e.seed,
    )
    p = answers.scores if answers.scores is not None and np.isfinite(answers.scores).all() else None
    calibration = measure_scores(encode(true, names), p) if p is not None else None
    for name, table in errors.tables(rows, answers.labels, p, names).items():
        atomic.write_lines(out / f"{name}.jsonl", table)
    result = ScoreResult(
        model=who,
        scores=scores,
        slices=of_slices,
        calibration=calibration,
        probabilities=answers.scores is not None,
    )
    atomic.write_json(out / METRICS, result.model_dump(mode="json"))
    _draw(result, f"{project.name}: {who}", names, out)
    return result


def _draw(result: ScoreResult, title: str, labels: list[str], out: Path) -> None:
    if result.calibration:
        plots.reliability(result.calibration.reliability, title, out / "reliability.png")
    confusion = result.known.confusion
    if isinstance(confusion, dict):
        plots.by_label(result.known.labels, title, out / "labels.png")
    else:
        plots.confusion(confusion, labels, title, out / "confusion.png")


def _answer_rows(
    rows: list[Record], answers: Answers, belongs: list[list[str]]
) -> Iterator[dict[str, object]]:
    """A ScoredRow for each row, as JSON, without what is not known of it."""
    for i, (r, p) in enumerate(zip(rows, answers.labels, strict=True)):
        row: dict[str, object] = {"id": r.id, "label": r.label, "predicted": p}
        row |= {"group": r.group} if r.group else {}
        row["slices"] = belongs[i]
        if answers.scores is not None and np.isfinite(answers.scores[i]).all():
            row["scores"] = [round(float(v), 6) for v in answers.scores[i]]
        elif answers.scores is not None:
            row["broken"] = True
        yield row


def f1_on_rows(project: Project, scored: ScoreResult, ids: set[str]) -> Interval:
    """Macro-F1 of a scored model on some of the test rows, with its 95% interval."""
    e = project.evaluate
    rows = [a for a in scored.read() if a.id in ids]
    true, answers = [a.label for a in rows], [a.predicted for a in rows]
    return measure(
        true, answers, project.label_names, samples=e.bootstrap_samples, seed=e.seed
    ).f1_macro
