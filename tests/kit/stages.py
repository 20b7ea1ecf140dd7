"""Stages made by hand: rows that a test chose, in directories like those of a retrain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.records import Record, Rejected, count_by_label, write_records
from tasks.review.row_history import Places
from tasks.stage import Stage, stage
from tasks.text.fingerprints import FINGERPRINTS, Fingerprints
from tests.kit.rows import record


def generated(words: str, label: str = "fruit", *, request: int, **lineage: Any) -> Record:
    """A row that an LLM wrote in answer to request number `request`."""
    about: dict[str, Any] = {"topic": f"{label} topic", "style": "a quote", "round": 0, "generator": "one", "seeds": []}
    return record(words, label, **about | {"request": f"{request:064x}", "tokens": [10.0, 20.0]} | lineage)


def made(
    home: Path,
    name: str,
    *,
    rows: dict[str, list[Any]] | None = None,
    counts: dict[str, Any] | None = None,
    inputs: dict[str, str] | None = None,
    params: dict[str, Any] | None = None,
    fingerprints: list[Record] | None = None,
) -> Stage:
    """A published stage with these JSON Lines files."""

    def build(out: Path, work: Path) -> dict[str, Any]:
        for file, table in (rows or {}).items():
            write_records(out / file, table)
        if fingerprints is not None:
            Fingerprints.of(fingerprints).save(out / FINGERPRINTS)
        return counts or {}

    return stage(home, name, version=1, params=params or {}, inputs=inputs or {}, build=build)


class Data:
    """One round, its curation, and the splits, of rows that a test chose."""

    def __init__(
        self,
        home: Path,
        *,
        written: list[Record],
        kept: list[Record],
        set_aside: list[Rejected] | None = None,
        unread: list[Rejected] | None = None,
        dev: list[Record] | None = None,
        seed: list[Record] | None = None,
        unlabelled: list[Record] | None = None,
        test: list[Record] | None = None,
        harvested: list[Record] | None = None,
        checks: list[str] | None = None,
        counts: dict[str, Any] | None = None,
    ) -> None:
        self.home = home
        came = [*written, *(r.record for r in unread or [])]
        of_round = {"asked": count_by_label(came), "requests": len(came), "replies": len(came), "lost": 0}
        real = {"dev.jsonl": dev or [], "seed.jsonl": seed or [], "unlabelled.jsonl": unlabelled or []}
        self.sealed = made(home, "sealed", rows={"test.jsonl": test or []})
        self.splits = made(
            home,
            "splits",
            rows=real,
            counts={"seed": count_by_label(seed or []), "unlabelled": len(unlabelled or [])},
            fingerprints=[*(dev or []), *(test or [])],
        )
        self.round = made(
            home,
            "synthesise",
            rows={"rows.jsonl": written, "rejected.jsonl": unread or []},
            counts=of_round | (counts or {}),
            params={"generators": [{"name": "one", "endpoint": "http://there/v1", "model": "m"}]},
        )
        self.curated = made(
            home,
            "curate",
            rows={"kept.jsonl": kept, "rejected.jsonl": [*(unread or []), *(set_aside or [])]},
            counts={"checks": [{"name": c, "came": 0, "out": 0, "seconds": 0.0} for c in checks]} if checks else {},
            inputs={"round-0": self.round.digest, "splits": self.splits.digest},
        )
        self.harvested = (
            made(
                home,
                "harvest",
                rows={"kept.jsonl": [*kept, *harvested]},
                inputs={"training": self.curated.digest, "current": self.curated.digest},
            )
            if harvested
            else None
        )

    @property
    def stages(self) -> dict[str, Any]:
        return {
            "rounds": [self.round],
            "curated": self.curated,
            "harvested": self.harvested,
            "splits": self.splits,
        }

    @property
    def places(self) -> Places:
        more = self.harvested.directory if self.harvested else None
        return Places(self.curated.directory, self.splits.directory, [self.round.directory], more)
