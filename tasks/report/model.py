"""The report of a retrain, which the terminal, Prefect, MLflow and the HTML page show."""

from __future__ import annotations

from typing import Self

from tasks.augment.lift import MixtureComparison
from tasks.evaluate.result import LlmScore, ScoreResult
from tasks.evaluate.robustness.stage import RobustnessResult
from tasks.evaluate.score import f1_on_rows
from tasks.evaluate.serving import ServingResult
from tasks.figures import Figures, Interval
from tasks.model.inference.choose import Inference
from tasks.project import Project
from tasks.report.cost import Cost, GeneratorRows, Tokens
from tasks.synthesise.model_answers import AnswersResult
from tasks.train.adaptation.adapt import AdaptResult
from tasks.verdict.model import Decision, Verdict


class ModelScore(Figures):
    """One model's macro-F1 on the test rows with its 95% interval, main figures, and F1 by label."""

    f1_macro: float
    ci_low: float
    ci_high: float
    rows: int
    summary: dict[str, float]
    f1: dict[str, float]

    @classmethod
    def fields_of(cls, scored: ScoreResult) -> ModelScore:
        """The figures of an evaluation."""
        scores = scored.known
        return ModelScore(
            f1_macro=scores.f1_macro.value,
            ci_low=scores.f1_macro.ci_low,
            ci_high=scores.f1_macro.ci_high,
            rows=scores.rows,
            summary={name: v.value for name, v in scores.summary.items()},
            f1={label: v.f1 for label, v in scores.labels.items()},
        )

    @property
    def interval(self) -> Interval:
        """Macro-F1 with its interval."""
        return Interval(value=self.f1_macro, ci_low=self.ci_low, ci_high=self.ci_high)


class ChallengerScore(ModelScore):
    """The challenger's score, and how many times the test set was used in this workspace."""

    test_set_uses: int

    @classmethod
    def of(cls, scored: ScoreResult, *, test_set_uses: int) -> Self:
        """The score of an evaluation."""
        return cls(**ModelScore.fields_of(scored).model_dump(), test_set_uses=test_set_uses)


class ChampionScore(Figures):
    """What was measured of the champion; `score` is None where it could not be scored.

    `measures` is both models' figures of each limited measure, challenger first.
    """

    version: str
    score: ModelScore | None
    robustness: RobustnessResult | None = None
    serving: ServingResult | None = None
    measures: dict[str, tuple[float, float]]


class BaselineScore(ModelScore):
    """A baseline's score; of the LLM also what asking took.

    Where it was asked about a `sample` of the test rows, `challenger` is the challenger's macro-F1
    on these.
    """

    llm: LlmScore | None
    sample: bool
    challenger: Interval | None

    @classmethod
    def of(cls, project: Project, scored: ScoreResult, challenger: ScoreResult) -> Self:
        """The score of a baseline's evaluation, next to the challenger's."""
        on_sample = None
        if scored.sample:
            on_sample = f1_on_rows(project, challenger, {row.id for row in scored.read()})
        return cls(
            **ModelScore.fields_of(scored).model_dump(),
            llm=scored.llm,
            sample=scored.sample,
            challenger=on_sample,
        )


class GainSummary(Figures):
    """The challenger's gain in macro-F1 over its opponent, with one-sided bounds."""

    value: float | None
    lower: float | None
    upper: float | None
    opponent: str


class ModelVersion(Figures):
    """A registered version and the digest of its bundle."""

    name: str
    version: str
    bundle: str


class UndoneRound(Figures):
    """A round of self-training that was undone because dev F1 fell."""

    number: int
    dev_before: float
    dev_after: float


class LiftSummary(MixtureComparison):
    """What synthetic and self-trained rows gain, the mixture trained on, and the undone round."""

    how: str
    trained_on: str
    undone: UndoneRound | None


class LabelFirst(Figures):
    """The list of unlabelled texts that a person should label first."""

    path: str
    rows: int
    read: int
    differ: int


class SoupSummary(Figures):
    """Whether the soup of all seeds' models won, its members, and its macro-F1 on dev."""

    won: bool
    members: list[int]
    dev_f1_macro: float


class SeedsSummary(Figures):
    """Macro-F1 on dev of the model of each seed, and which one was chosen."""

    seeds: list[int]
    dev_f1_macro: list[float]
    mean: float
    spread: float
    soup: SoupSummary
    chosen: str

    def line(self) -> str:
        """Mean, spread and choice in a line."""
        each = ", ".join(f"{f1:.3f}" for f1 in self.dev_f1_macro)
        summary = f"{self.mean:.3f}, spread {self.spread:.3f} over {len(self.seeds)} seeds"
        return f"{summary} ({each}): {self.chosen}"


class RowsByLabel(Figures):
    """Rows in total and by label."""

    total: int
    by_label: dict[str, int]


class RequestedRows(RowsByLabel):
    """Rows asked for; `lost` counts requests without a reply."""

    lost: int


class RejectedRows(RowsByLabel):
    """Rejected rows, by check and by label."""

    by_reason: dict[str, int]


class RealRejected(Figures):
    """Real rows that were rejected while reading, by check, with a sentence on each kind."""

    by_reason: dict[str, int]
    notices: list[str]


class AnswersSummary(Figures):
    """With `mode: by_model`: the questions, rows by model, and why questions were left out."""

    questions: int
    rows: dict[str, int]
    left_out: dict[str, dict[str, int]]

    @classmethod
    def of(cls, answers: AnswersResult) -> Self:
        """The counts of a generation."""
        return cls(questions=answers.questions, rows=answers.rows, left_out=answers.left_out)


class DataSummary(Figures):
    """Where the rows came from and where they went.

    `given_up` has the reason for each label that was given up, `ended` why the generation ended
    early.
    """

    requested: RequestedRows
    accepted: RowsByLabel
    rejected: RejectedRows
    self_trained: RowsByLabel
    real: RowsByLabel
    real_rejected: RealRejected
    generators: dict[str, GeneratorRows]
    answers: AnswersSummary | None
    given_up: dict[str, str]
    ended: str | None
    topics_proposed: dict[str, list[str]]


class RetrainReport(Figures):
    """What a retrain trained, how good it is, and the verdict.

    `promoted` is true where the challenger became the champion; `judgement` is the verdict with
    every number behind it.
    """

    project: str
    verdict: Decision
    reasons: list[str]
    promoted: bool
    gain: GainSummary
    judgement: Verdict
    model: ModelVersion
    test: ChallengerScore
    champion: ChampionScore | None
    baselines: dict[str, BaselineScore]
    lift: LiftSummary | None
    label_first: LabelFirst | None
    robustness: RobustnessResult | None
    serving: ServingResult | None
    inference: Inference
    seeds: SeedsSummary | None
    adapted: AdaptResult | None
    data: DataSummary
    seconds: dict[str, float]
    tokens: Tokens
    cost: Cost
    generation: int
    mlflow_run_id: str
    mlflow_tracking_uri: str
    flow_run_id: str | None
    report: str
