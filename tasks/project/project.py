"""A project: one classifier's labels and settings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Self

from pydantic import PrivateAttr, field_validator, model_validator

from tasks.atomic import digest_of
from tasks.errors import suggestion
from tasks.project.adaptation import Adapt
from tasks.project.base import Section
from tasks.project.curate import Curate, Review, SelfTraining
from tasks.project.data import Data
from tasks.project.evaluate import Evaluate
from tasks.project.generate import Generate
from tasks.project.predict import Predict
from tasks.project.promote import Promote, Schedule
from tasks.project.train import Train
from tasks.project.tune import Tune

# keys that must keep their defaults without, or with, multi_label: what to do otherwise
_ONE_LABEL = dict.fromkeys(
    ("data.label_separator", "data.one_column_per_label", "generate.pairs"),
    "but a text has one label here: set multi_label to true, or remove it",
)
_SEVERAL_LABELS = {
    "generate.mode": "which gives each text one label: remove it, or multi_label",
    "generate.borderline": "but with multi_label such a text may have both labels: set "
    "generate.pairs",
}


class Project(Section):
    """One classifier: its labels, and everything that turns them into a champion."""

    _config_dir: Path = PrivateAttr(default_factory=Path)

    name: str
    multi_label: bool = False
    """a text may have several labels, or none"""
    labels: dict[str, str]
    """each label with a line that describes it; `;` separates its subtopics"""
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

    @property
    def config_dir(self) -> Path:
        """The folder of the project file: relative paths in it start here."""
        return self._config_dir

    def in_folder(self, config_dir: Path) -> Self:
        """This project, with relative paths that start at `config_dir`."""
        copy = self.model_copy()
        copy._config_dir = config_dir
        return copy

    @property
    def label_names(self) -> list[str]:
        """The labels in the order of the file, which is that of every matrix and model output."""
        return list(self.labels)

    @property
    def digest(self) -> str:
        """The SHA-256 of all settings."""
        return digest_of(self.model_dump(mode="json"))

    def parameters(self) -> dict[str, str]:
        """Every setting as text, by its dotted key."""
        flat: dict[str, str] = {}

        def add(prefix: str, value: Any) -> None:
            if isinstance(value, dict) and prefix != "labels":
                for key, inner in value.items():
                    add(f"{prefix}.{key}" if prefix else key, inner)
            else:
                flat[prefix] = str(list(value) if prefix == "labels" else value)

        add("", self.model_dump(mode="json"))
        return flat

    @field_validator("name")
    @classmethod
    def _check_name(cls, value: str) -> str:
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,59}", value):
            raise ValueError("use up to 60 of a-z, 0-9, '.', '_' and '-', a letter or digit first")
        return value

    @field_validator("labels")
    @classmethod
    def _check_descriptions(cls, value: dict[str, str]) -> dict[str, str]:
        if len(value) < 2:
            raise ValueError("a classifier needs at least two labels: add one")
        for label, description in value.items():
            if not label.strip() or not description.strip():
                raise ValueError(
                    f"the label {label!r} has no description: write one line of what its texts are "
                    "about"
                )
        return value

    @model_validator(mode="after")
    def _check_across_sections(self) -> Project:
        self._check_labels()
        self.tune.check_space(self.train)
        self._check_real_text()
        self._check_multi_label()
        self._check_slices()
        return self

    def _check_labels(self) -> None:
        g, rows = self.generate, self.evaluate.llm_rows
        maps: dict[str, Any] = {"generate.per_label": g.per_label}
        maps |= {f"generate.attributes.{name}": values for name, values in g.attributes.items()}
        for key, value in maps.items():
            for label in value if isinstance(value, dict) else ():
                if label not in self.labels:
                    raise ValueError(
                        f"{key} names {label!r}{suggestion(label, self.label_names)}, which is not "
                        "in labels: add it there"
                    )
        self.train.check_labels(self.label_names)
        if 0 < rows < len(self.labels):
            raise ValueError(
                f"evaluate.llm_rows is {rows}, fewer than the {len(self.labels)} labels: give at "
                "least one row per label, or 0"
            )

    def _check_real_text(self) -> None:
        g, d = self.generate, self.data
        if g.mode == "by_label":
            if not d.has_held_out:
                raise ValueError("give data.pool, or both data.dev and data.test")
            return
        names = [generator.name for generator in g.generators]
        if sorted(names) != sorted(self.labels):
            raise ValueError(
                f"generate.mode by_model has the generators {', '.join(map(repr, names))} and the "
                f"labels {', '.join(map(repr, self.labels))}: give each label one generator of its "
                "name"
            )
        if d.pool or d.train or d.dev or d.test or d.unlabelled:
            raise ValueError(
                "generate.mode by_model makes its own real text: of `data`, give data.split alone"
            )
        if not d.split.train and d.split.rest != "train":
            raise ValueError(
                "generate.mode by_model trains on answers alone: set data.split.rest to train"
            )

    def _check_multi_label(self) -> None:
        for key, remedy in (_SEVERAL_LABELS if self.multi_label else _ONE_LABEL).items():
            section, _, name = key.partition(".")
            settings = getattr(self, section)
            value = getattr(settings, name)
            if value != type(settings).model_fields[name].default:
                raise ValueError(f"{key} is {value!r}, {remedy}")
        separator = self.data.label_separator
        for label in self.labels:
            if separator is not None and separator in label:
                raise ValueError(
                    f"the label {label!r} contains data.label_separator ({separator!r}): choose "
                    "another separator"
                )

    def _check_slices(self) -> None:
        columns = self.data.keep_columns
        for name, rule in self.evaluate.slices.items():
            if rule.column is not None and rule.column not in columns:
                raise ValueError(
                    f"evaluate.slices.{name} reads the column {rule.column!r}"
                    f"{suggestion(rule.column, columns)}, which is not in data.keep_columns: add "
                    "it there"
                )
