"""The story of a row as typed models; what is not known, or may not be shown, is None or empty."""

from __future__ import annotations

from tasks.figures import Figures


class SeedInPrompt(Figures):
    """A seed row that the prompt showed; no text where these splits lack it."""

    id: str
    text: str | None


class RowRequest(Figures):
    """The request that a generated row answers, and the row's part of its cost."""

    request: str
    generator: str | None
    endpoint: str | None
    model: str | None
    round: int | None
    prompt: str | None
    drawn: dict[str, str]
    seeds: list[SeedInPrompt]
    tokens: list[float] | None
    usd: float | None
    measured: bool | None


class RowReply(Figures):
    """The reply that a row came in; `kept` is False where the cache no longer has it."""

    path: str
    text: str | None
    kept: bool


class CachedReply(RowReply):
    """The reply as it is in the cache."""

    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None


class CheckStep(Figures):
    """A check that the row passed, or that rejected it."""

    check: str
    passed: bool
    reason: str | None = None
    value: int | float | None = None


class ComparedRow(Figures):
    """The row that a check compared this one with, and where that row is."""

    id: str
    where: str
    label: str | None = None
    text: str | None = None


class DuplicateRow(Figures):
    """Why a row with the same text was rejected."""

    check: str
    reason: str


class ProbeOpinion(Figures):
    """The label that the probe predicts, the probability of the row's own, and its rank."""

    label: str
    probability: float
    own: float
    rank: float | None


class RowDecision(Figures):
    """What a person decided about the row, or undid."""

    decision: str
    label_before: str | None
    label_after: str | None
    by: str
    when: str


class TrainingUse(Figures):
    """The directory of training rows that has the row, and the models that were trained on it."""

    source: str
    label: str | None
    directory: str
    models: list[str]


class SelfTraining(Figures):
    """The score with which self-training labelled the row, and in which of its rounds."""

    score: float
    round: int


class Story(Figures):
    """What is known of a row; a rejected one has the check, the reason and the value measured.

    `asked` is its request, `steps` are the checks in their order, `other` is the row that it was
    compared with, and `same_text` are the rejected rows with its text.
    """

    id: str
    text: str | None
    label: str | None
    source: str
    fate: str
    check: str | None
    reason: str | None
    value: int | float | None
    other: ComparedRow | None
    asked: RowRequest | None
    reply: CachedReply | RowReply | None
    steps: list[CheckStep]
    opinion: ProbeOpinion | None
    decisions: list[RowDecision]
    trained_on: TrainingUse | None
    harvested: SelfTraining | None
    same_text: list[DuplicateRow]
