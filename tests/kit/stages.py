"""Stage results made by hand: rows that a test chose, in directories like those of a retrain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from tasks.augment.self_training import SelfTrainingResult
from tasks.curate.context import CheckCounts
from tasks.curate.stage import CurateResult, RowCounts
from tasks.dataset.split import SealedResult, SplitsResult
from tasks.figures import Figures
from tasks.records import Record, Rejected, count_by_check, count_by_label, write_records
from tasks.report.data.rows import RetrainStages
from tasks.stage import StageResult, run_stage
from tasks.synthesise.stage import SynthesiseResult
from tasks.text.fingerprints import FINGERPRINTS, Fingerprints
from tasks.workspace import RetrainData, Workspace
from tests.kit.rows import record

Result = TypeVar("Result", bound=StageResult)
Model = TypeVar("Model", bound=Figures)


def filled(model: type[Model], /, **given: Any) -> Model:
    """A model with these fields; the others are empty: 0, "", False, None, or a collection without items."""
    others = {n: _empty(f.annotation) for n, f in model.model_fields.items() if n not in given}
    return model(**others | given)


def _empty(annotation: Any) -> Any:
    if type(None) in get_args(annotation):
        return None
    if isinstance(annotation, type) and issubclass(annotation, Figures):
        return filled(annotation)
    kind = get_origin(annotation) or annotation
    if not isinstance(kind, type):  # a choice of words
        return get_args(annotation)[0]
    return kind()


def published(
    result: Result,
    home: Path,
    name: str,
    *,
    rows: Mapping[str, Sequence[Record | Rejected]] | None = None,
    inputs: dict[str, str] | None = None,
    params: dict[str, Any] | None = None,
    fingerprints: Fingerprints | None = None,
) -> Result:
    """The result as a published stage with these JSON Lines files."""

    def build(out: Path, scratch: Path) -> Result:
        for file, table in (rows or {}).items():
            write_records(out / file, table)
        if fingerprints is not None:
            fingerprints.save(out / FINGERPRINTS)
        return result

    params = {"figures": result.model_dump(mode="json"), **(params or {})}
    return run_stage(
        type(result),
        name,
        workspace=Workspace(home),
        version=1,
        params=params | {"rows": {k: [r.to_json() for r in v] for k, v in (rows or {}).items()}},
        inputs=inputs or {},
        build=build,
    )


def splits_of(
    home: Path,
    *,
    dev: Sequence[Record] = (),
    seed: Sequence[Record] = (),
    unlabelled: Sequence[Record] = (),
    test: Sequence[Record] = (),
    labels: Sequence[str] = (),
    embed: Callable[[list[str]], Any] | None = None,
) -> SplitsResult:
    """The splits of these rows, with the fingerprints of dev and test; with `embed` also their embeddings."""
    result = filled(
        SplitsResult,
        seed=count_by_label(seed),
        dev=count_by_label(dev),
        test=count_by_label(test),
        rows={"seed": len(seed), "dev": len(dev), "test": len(test)},
        unlabelled=len(unlabelled),
    )
    files = {
        "dev.jsonl": dev,
        "seed.jsonl": seed,
        "unlabelled.jsonl": unlabelled,
        "rejected.jsonl": [],
    }
    return published(
        result,
        home,
        "splits",
        rows=files,
        params={"labels": list(labels)},
        fingerprints=Fingerprints.from_records([*dev, *test], embed),
    )


def sealed_of(home: Path, test: Sequence[Record]) -> SealedResult:
    """The sealed test set of these rows."""
    return published(
        SealedResult(test=count_by_label(test)), home, "sealed", rows={"test.jsonl": test}
    )


def curated_of(
    home: Path,
    kept: Sequence[Record],
    rejected: Sequence[Rejected] = (),
    *,
    checks: Sequence[str] = (),
    inputs: dict[str, str] | None = None,
) -> CurateResult:
    """The curated rows."""
    result = filled(
        CurateResult,
        seed=count_by_label(r for r in kept if r.source == "seed"),
        accepted=count_by_label(r for r in kept if r.origin == "synthetic"),
        reviewed=count_by_label(r for r in kept if r.source == "reviewed"),
        rejected=count_by_check(rejected),
        rejected_by_label=count_by_label(r.record for r in rejected),
        rows=RowCounts(
            seed=sum(r.source == "seed" for r in kept),
            accepted=sum(r.origin == "synthetic" for r in kept),
            rejected=len(rejected),
        ),
        checks=[CheckCounts(name=c, received=0, rejected=0, seconds=0.0) for c in checks],
    )
    return published(
        result, home, "curate", rows={"kept.jsonl": kept, "rejected.jsonl": rejected}, inputs=inputs
    )


def round_of(
    home: Path, written: Sequence[Record], unusable: Sequence[Rejected] = (), **figures: Any
) -> SynthesiseResult:
    """A round of generation that wrote these rows."""
    came = [*written, *(r.record for r in unusable)]
    figures = {"asked": count_by_label(came), "requests": len(came), "replies": len(came)} | figures
    result = filled(SynthesiseResult, **figures)
    generators = [{"name": "one", "endpoint": "http://there/v1", "model": "m"}]
    files = {"rows.jsonl": written, "rejected.jsonl": unusable}
    return published(result, home, "synthesise", rows=files, params={"generators": generators})


def self_trained_of(
    home: Path, rows: Sequence[Record], *, curated: CurateResult
) -> SelfTrainingResult:
    """A round of self-training that led to these rows."""
    inputs = {"training": curated.digest, "current": curated.digest}
    result = filled(SelfTrainingResult)
    return published(
        result,
        home,
        "self_training",
        rows={"kept.jsonl": rows, "rejected.jsonl": []},
        inputs=inputs,
    )


def generated(words: str, label: str = "fruit", *, request: int, **lineage: Any) -> Record:
    """A row that an LLM wrote in answer to request number `request`."""
    about: dict[str, Any] = {
        "topic": f"{label} topic",
        "style": "a quote",
        "round": 0,
        "generator": "one",
        "seeds": [],
    }
    return record(
        words, label, **about | {"request": f"{request:064x}", "tokens": [10.0, 20.0]} | lineage
    )


class Data:
    """One round, its curation, and the splits, of rows that a test chose."""

    def __init__(
        self,
        home: Path,
        *,
        written: list[Record],
        kept: list[Record],
        rejected: list[Rejected] | None = None,
        unusable: list[Rejected] | None = None,
        dev: list[Record] | None = None,
        seed: list[Record] | None = None,
        unlabelled: list[Record] | None = None,
        test: list[Record] | None = None,
        self_trained: list[Record] | None = None,
        checks: list[str] | None = None,
        figures: dict[str, Any] | None = None,
    ) -> None:
        self.home = home
        self.sealed = sealed_of(home, test or [])
        self.splits = splits_of(
            home, dev=dev or [], seed=seed or [], unlabelled=unlabelled or [], test=test or []
        )
        self.round = round_of(home, written, unusable or [], **(figures or {}))
        self.curated = curated_of(
            home,
            kept,
            [*(unusable or []), *(rejected or [])],
            checks=checks or [],
            inputs={"round-0": self.round.digest, "splits": self.splits.digest},
        )
        self.self_trained = (
            self_trained_of(home, [*kept, *self_trained], curated=self.curated)
            if self_trained
            else None
        )

    @property
    def stages(self) -> RetrainStages:
        """The stages that wrote the rows."""
        return RetrainStages([self.round], self.curated, self.self_trained, self.splits)

    @property
    def data(self) -> RetrainData:
        """Where the stages are."""
        return RetrainData(
            config=Path("toy.yaml"),
            splits=self.splits.directory,
            curated=self.curated.directory,
            rounds=(self.round.directory,),
            self_trained=self.self_trained.directory if self.self_trained else None,
        )
