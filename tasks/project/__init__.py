"""A project: one classifier's labels and settings, as strict, frozen models. tasks/project/reader.py reads it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator, Field, PrivateAttr, field_validator, model_validator

from tasks.atomic import digest_of
from tasks.errors import suggestion
from tasks.project.adaptation import Adapt
from tasks.project.base import Positive, Section, Share, Texts, _tuple
from tasks.project.curate import Curate
from tasks.project.data import Data, Split
from tasks.project.generate import Budget, Endpoint, Generate, Generator, Price
from tasks.project.predict import Predict
from tasks.project.slices import SliceRule, check_slice_name
from tasks.project.train import Train
from tasks.project.tune import Space, Tune

__all__ = [
    "Adapt",
    "Budget",
    "Curate",
    "Data",
    "Endpoint",
    "Evaluate",
    "Generate",
    "Generator",
    "Positive",
    "Predict",
    "Price",
    "Project",
    "Promote",
    "Review",
    "Schedule",
    "Section",
    "SelfTraining",
    "Share",
    "SliceRule",
    "Space",
    "Split",
    "Texts",
    "Train",
    "Tune",
]


class SelfTraining(Section):
    """How real unlabelled text is added to the training rows."""

    rounds: int = Field(
        1,
        ge=0,
        le=5,
        description="of labelling, adding and training again; 0 leaves unlabelled text alone",
    )
    confidence: Share = Field(
        0.8,
        description="least geometric mean of the calibrated probabilities of model and probe, which see the same label",
    )
    share: Share = Field(
        0.6,
        description="of the unlabelled rows, added at most; in the labels' estimated proportions",
    )
    per_label: Positive = Field(150, description="rows a label, added at most")


class Review(Section):
    """What a person looks at."""

    required_rows: int = Field(
        0, ge=0, description="doubtful rows that a person must have looked at before training"
    )


Perturbation = Literal[
    "typos", "casing", "punctuation", "whitespace", "truncation", "entities", "negation"
]


class Evaluate(Section):
    """How scores get their intervals, and what else is scored."""

    lift: Literal["full", "quick", "off"] = Field(
        "quick",
        description="what synthetic and harvested rows gain: full trains each mix over `train.seeds`, quick a linear head",
    )
    bootstrap_samples: int = Field(5000, ge=100, description="resamples")
    seed: int = Field(0, description="of the resampling")
    slices: dict[str, SliceRule] = Field(
        {}, description="named rules for test rows that are also scored apart, and judged"
    )
    robustness_rows: int = Field(
        100, ge=0, description="test rows that are asked again, perturbed; 0 switches that off"
    )
    perturbations: Annotated[tuple[Perturbation, ...], BeforeValidator(_tuple)] = Field(
        ("typos", "casing", "punctuation", "whitespace", "truncation", "entities"),
        description="of those rows; negation too where labels are topics",
    )
    cases: str | None = Field(
        None, description="a file of behavioural tests, beside the project file"
    )
    serving_rows: int = Field(
        100,
        ge=0,
        description="single dev texts whose answer is timed, 50 or more; 0 measures no cost",
    )

    static_model: str = Field(
        "encoder",
        description="word vectors of the baseline without a transformer: a model2vec folder; encoder: the encoder's own; off: none",
    )
    zero_shot: str | None = Field(
        None,
        description="an NLI checkpoint that is asked, as it is, whether a text is about each label's description",
    )
    llm_rows: int = Field(
        0,
        ge=0,
        description="test rows that the first generator is asked about; they are sent to its endpoint",
    )

    @field_validator("serving_rows")
    @classmethod
    def _enough(cls, value: int) -> int:
        if 0 < value < 50:
            raise ValueError("the slowest 5% of so few can't be told: write 50 or more, or 0")
        return value

    @field_validator("slices")
    @classmethod
    def _named(cls, value: dict[str, SliceRule]) -> dict[str, SliceRule]:
        return {check_slice_name(name): rule for name, rule in value.items()}


class Limits(Section):
    """What a better macro-F1 does not excuse."""

    label_f1: float | None = Field(
        0.1,
        gt=0,
        le=1,
        description="by which no label's F1 may fall from the champion's; null looks at none",
    )
    slice_f1: float | None = Field(
        0.1,
        gt=0,
        le=1,
        description="by which macro-F1 may fall in no slice of `evaluate.slices`; null looks at none",
    )
    ece: float | None = Field(
        0.05,
        ge=0,
        le=1,
        description="by which the calibration error may rise from the champion's; null: at will",
    )
    latency: float | None = Field(
        None,
        gt=0,
        description="times the champion's 95th percentile of latency, at most: 1.2; null: at will",
    )
    size: float | None = Field(
        None, gt=0, description="times the size of the champion's bundle, at most; null: at will"
    )
    robustness: float | None = Field(
        None,
        ge=0,
        le=1,
        description="by which the share of answers that small changes flip may rise; null: at will",
    )


class Promote(Section):
    """When the challenger becomes the champion."""

    min_gain: float = Field(
        0.0, ge=0, lt=1, description="macro-F1 by which the challenger must win"
    )
    rule: Literal["bounds", "point"] = Field(
        "bounds", description="point is the plain `its F1 is higher`"
    )
    confidence: float = Field(
        0.95,
        ge=0.5,
        lt=1,
        description="one-sided, of all verdicts on one test set together; for the rule bounds",
    )
    approval: Literal["none", "required"] = Field(
        "none", description="required: a person says yes to each promotion"
    )
    webhook: str | None = Field(
        None,
        pattern=r"^https?://\S+$",
        description="told of each promotion, signed with RESEED_WEBHOOK_SECRET; {token} in it is RESEED_WEBHOOK_TOKEN",
    )
    export_to: str | None = Field(
        None,
        pattern=r"^s3://[^/\s]+(/\S*)?$",
        description="where each champion's bundle is copied and read back: s3://bucket/prefix",
    )
    limits: Limits = Field(default_factory=Limits)


class Schedule(Section):
    """When the deployment retrains."""

    cron: str = Field("0 3 * * 1", description="when, as in prefect.yaml")
    timezone: str = Field("UTC", description="of the times in cron")

    @field_validator("cron")
    @classmethod
    def _five(cls, value: str) -> str:
        if not re.fullmatch(r"[\d*/,\-A-Za-z#]+(?: [\d*/,\-A-Za-z#]+){4}", value):
            raise ValueError(
                "write five fields: minute hour day month weekday, such as '0 3 * * 1'"
            )
        return value

    @field_validator("timezone")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            raise ValueError(
                "it is no time zone: write UTC, or a name such as Europe/Berlin"
            ) from None
        return value


# keys whose default alone goes with one label a text, or with several, and what to say of another value
ONE_LABEL_NEEDS = {
    "data.label_separator": "but a text has one label here: set multi_label to true, or leave it out",
    "data.one_column_per_label": "but a text has one label here: set multi_label to true, or leave it out",
    "generate.pairs": "but a text has one label here: set multi_label to true, or leave it out",
}
MANY_LABELS_REFUSE = {
    "generate.mode": "where a text has one author: it does not go with multi_label, so leave one of them out",
    "generate.borderline": "but with multi_label a text close to another label may have it too: set generate.pairs",
}


class Project(Section):
    """One classifier: its labels, and everything that turns them into a champion."""

    _config_dir: Path = PrivateAttr(default_factory=Path)

    name: str
    multi_label: bool = Field(False, description="a text may have several labels, or none")
    labels: dict[str, str] = Field(
        description="each label with a line that describes it; `;` parts its subtopics"
    )
    data: Data
    generate: Generate = Generate()
    curate: Curate = Curate()
    review: Review = Review()
    self_training: SelfTraining = SelfTraining()
    adapt: Adapt = Adapt()
    train: Train = Train()
    predict: Predict = Predict()
    tune: Tune = Tune()
    evaluate: Evaluate = Evaluate()
    promote: Promote = Promote()
    schedule: Schedule = Schedule()

    @field_validator("name")
    @classmethod
    def _plain(cls, value: str) -> str:
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,59}", value):
            raise ValueError("use up to 60 of a-z, 0-9, '.', '_' and '-', a letter or digit first")
        return value

    @field_validator("labels")
    @classmethod
    def _described(cls, value: dict[str, str]) -> dict[str, str]:
        if len(value) < 2:
            raise ValueError("a classifier needs at least two labels")
        for label, description in value.items():
            if not label.strip() or not description.strip():
                raise ValueError(
                    f"the label {label!r} has no description: write one line of what its texts are about"
                )
        return value

    @model_validator(mode="after")
    def _labels_known(self) -> Project:
        maps: dict[str, Any] = {"generate.per_label": self.generate.per_label}
        maps |= {f"generate.attributes.{name}": v for name, v in self.generate.attributes.items()}
        for key, value in maps.items():
            for label in value if isinstance(value, dict) else ():
                if label not in self.labels:
                    raise ValueError(
                        f"{key} names {label!r}{suggestion(label, list(self.labels))}, which is not in labels: add it there"
                    )
        self.train.check_labels(list(self.labels))
        return self

    @model_validator(mode="after")
    def _a_row_a_label(self) -> Project:
        if 0 < self.evaluate.llm_rows < len(self.labels):
            raise ValueError(
                f"evaluate.llm_rows is {self.evaluate.llm_rows}, fewer than the {len(self.labels)} labels: give a row a label at "
                f"least, or 0"
            )
        return self

    @model_validator(mode="after")
    def _tunable(self) -> Project:
        self.tune.check(self.train)
        return self

    @model_validator(mode="after")
    def _real_text(self) -> Project:
        g, d = self.generate, self.data
        if g.mode == "by_label":
            if not d.given:
                raise ValueError("give data.pool, or both data.dev and data.test")
            return self
        named = [generator.name for generator in g.generators]
        if sorted(named) != sorted(self.labels):
            raise ValueError(
                f"generate.mode by_model has the generators {', '.join(map(repr, named))} and the labels "
                f"{', '.join(map(repr, self.labels))}: give each label one generator of its name"
            )
        if d.pool or d.train or d.dev or d.test or d.unlabelled:
            raise ValueError(
                "generate.mode by_model makes its own real text: of `data`, give data.split alone"
            )
        if not d.split.train and d.split.rest != "train":
            raise ValueError(
                "generate.mode by_model trains on answers alone: set data.split.rest to train"
            )
        return self

    @model_validator(mode="after")
    def _label_sets(self) -> Project:
        for key, remedy in (MANY_LABELS_REFUSE if self.multi_label else ONE_LABEL_NEEDS).items():
            section, _, name = key.partition(".")
            part = getattr(self, section)
            value = getattr(part, name)
            if value != type(part).model_fields[name].default:
                raise ValueError(f"{key} is {value!r}, {remedy}")
        separator = self.data.label_separator
        for label in self.labels:
            if separator is not None and separator in label:
                raise ValueError(
                    f"the label {label!r} holds data.label_separator ({separator!r}): choose another separator"
                )
        return self

    @model_validator(mode="after")
    def _slices_kept(self) -> Project:
        for name, rule in self.evaluate.slices.items():
            if rule.column is not None and rule.column not in self.data.keep_columns:
                raise ValueError(
                    f"evaluate.slices.{name} reads the column {rule.column!r}{suggestion(rule.column, self.data.keep_columns)}, "
                    f"which is not in data.keep_columns: add it there"
                )
        return self

    @property
    def config_dir(self) -> Path:
        """The folder of the project file: relative paths in it start here."""
        return self._config_dir

    def in_folder(self, config_dir: Path) -> Self:
        """This project, whose relative paths start at `config_dir`."""
        copy = self.model_copy()
        copy._config_dir = config_dir
        return copy

    @property
    def label_names(self) -> list[str]:
        """The labels in the order of the file: the order of every matrix and of the model's outputs."""
        return list(self.labels)

    @property
    def digest(self) -> str:
        return digest_of(self.model_dump(mode="json"))

    def parameters(self) -> dict[str, str]:
        """Every setting under its dotted key, as text."""
        flat: dict[str, str] = {}

        def walk(prefix: str, value: Any) -> None:
            if isinstance(value, dict) and prefix != "labels":
                for key, inner in value.items():
                    walk(f"{prefix}.{key}" if prefix else str(key), inner)
            else:
                flat[prefix] = str(list(value) if prefix == "labels" else value)

        walk("", self.model_dump(mode="json"))
        return flat
