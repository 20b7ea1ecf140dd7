"""The figures of the data report, as they are in figures.json and as the page shows them."""

from __future__ import annotations

from typing import Literal

from tasks.figures import Figures
from tasks.report.cost import Tokens

StepKind = Literal["row", "reply", "check"]


class FunnelStep(Figures):
    """One step of the funnel: the rows left after it by label and in all, and those it lost."""

    step: str
    kind: StepKind
    rows: dict[str, int]
    total: int
    lost: int | None


class CheckRejections(Figures):
    """The rows that a check rejected, by label and in all."""

    check: str
    rows: dict[str, int]
    total: int


class NotedRows(Figures):
    """Personal data by its kind, and doubtful rows by check."""

    personal_data: dict[str, int]
    doubtful: dict[str, int]


class SourceCounts(Figures):
    """Rows trained on, by where they come from."""

    seed: int
    synthetic: int
    harvested: int
    reviewed: int

    @property
    def total(self) -> int:
        """Rows of all sources."""
        return self.seed + self.synthetic + self.harvested + self.reviewed


class PartCost(Figures):
    """What the texts of one generator, label or round cost, and how many were accepted.

    `usd` and `measured` are None where they are not known.
    """

    name: str
    texts: int
    accepted: int
    tokens: int
    usd: float | None
    measured: bool | None
    share: float | None
    tokens_per_accepted: float | None
    usd_per_accepted: float | None


class RowCost(Figures):
    """What the rows cost in all, and by generator, label and round.

    `measured` is False where an endpoint reported no tokens, so that they were estimated, and None
    where that is not known.
    """

    tokens: Tokens
    usd: float | None
    measured: bool | None
    requests: int
    replies: int
    lost: int
    stopped: list[str]
    accepted: int
    tokens_per_accepted: float | None
    usd_per_accepted: float | None
    generator: list[PartCost]
    label: list[PartCost]
    round: list[PartCost]


class DrawnValue(Figures):
    """A value of an attribute, the texts that it was drawn for, and how many were accepted.

    `label` is None where the value is counted over all labels, `share` where there are no texts.
    """

    value: str
    label: str | None
    texts: int
    accepted: int
    share: float | None


class DrawnAttribute(Figures):
    """An attribute, the number `of` its values, and the values that were accepted least."""

    name: str
    of: int
    values: list[DrawnValue]


class SampleRow(Figures):
    """A row of the page; `text` is None where it may not be shown."""

    id: str
    label: str
    source: str
    text: str | None
    lineage: dict[str, str | int]


class RejectedSample(SampleRow):
    """A rejected row, with the reason, what was measured, and the row compared with."""

    reason: str
    value: int | float | None
    other: str | None


class Samples(Figures):
    """Sample rows: accepted ones by label, and rejected ones by check."""

    accepted: dict[str, list[SampleRow]]
    rejected: dict[str, list[RejectedSample]]


class GroupDiversity(Figures):
    """How varied a group's texts are; a figure is None where the group is too small for it.

    `words` are the 10th, 50th and 90th percentile of the words per text.
    """

    group: str
    source: str
    rows: int
    words: list[int]
    distinct_1: float | None
    distinct_2: float | None
    spread: float | None


class DiversityTable(Figures):
    """The diversity of several groups, of each over the same number of `tokens`."""

    tokens: int
    rows: list[GroupDiversity]


class Diversity(Figures):
    """The diversity of the accepted rows by label, round and generator, with the real rows."""

    label: DiversityTable
    round: DiversityTable
    generator: DiversityTable


class TwoSampleTest(Figures):
    """How well a classifier distinguishes (synthetic, real) `rows`; `p` is of `held_out` rows."""

    rows: tuple[int, int]
    auc: float
    accuracy: float
    p: float
    held_out: int


class TypicalWord(Figures):
    """A word that is typical of a side, and the shares of synthetic and real texts that have it."""

    word: str
    weight: float
    synthetic: float
    real: float


class TypicalWords(Figures):
    """The words most typical of either side."""

    synthetic: list[TypicalWord]
    real: list[TypicalWord]


class Distance(Figures):
    """Real against synthetic rows; `labelled` real ones were matched by label.

    `test` is None for too few rows.
    """

    labelled: int
    test: TwoSampleTest | None
    words: TypicalWords


class DataFigures(Figures):
    """Everything that the data report shows; `read` has the digest of each input."""

    project: str
    labels: list[str]
    funnel: list[FunnelStep]
    rejected: list[CheckRejections]
    noted: NotedRows
    balance: dict[str, SourceCounts]
    cost: RowCost
    drawn: list[DrawnAttribute]
    samples: Samples
    diversity: Diversity
    distance: Distance
    read: dict[str, str]
