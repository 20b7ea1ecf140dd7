"""A curated directory with doubtful rows, and its splits, as a retrain would leave them: for the tests of review."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path

from tasks.encoder.embed import embed
from tasks.project import Project
from tasks.project.reader import load_project
from tasks.records import Record, Rejected
from tasks.workspace import RetrainData
from tests.kit import toy
from tests.kit.stages import curated_of, splits_of

XSS = (
    "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'> </script>{{ 7*7 }} "
    '<iframe srcdoc="<script>parent.hacked = 3</script>"></iframe> javascript:alert(1)'
)


@dataclass(frozen=True)
class Place:
    """Where it all is. `wrong` are the rows whose label is not their text's, `hidden` those that no one may see."""

    project: Project
    config: Path
    splits: Path
    curated: Path
    kept: list[Record]
    wrong: set[str]
    hidden: set[str]

    @property
    def data(self) -> RetrainData:
        return RetrainData(config=self.config, splits=self.splits, curated=self.curated)


def row(kind: str, seed: int, label: str | None = None, prefix: str = "") -> Record:
    """A generated row of these words, labelled as such or otherwise."""
    text = prefix + toy.sentence(toy.WRITTEN[kind], random.Random(f"{kind}{seed}"))
    lineage = {
        "topic": toy.LABELS[kind].split(";")[0],
        "style": "plain",
        "round": 0,
        "generator": "scripted",
    }
    return Record.create(text, label or kind, "synthetic", **lineage)


def real(kind: str, seed: int, source: str) -> Record:
    text = toy.sentence(toy.REAL[kind], random.Random(f"{source}{kind}{seed}"))
    return Record.create(text, kind, source)  # type: ignore[arg-type]


def of(
    kinds: tuple[str, ...],
    seed: int,
    labels: tuple[str, ...] | None = None,
    source: str = "synthetic",
) -> Record:
    """A row of the words of these kinds, or of none, with their labels or with others."""
    words = toy.REAL if source in ("dev", "test") else toy.WRITTEN
    rng = random.Random(f"{source}{kinds}{seed}")
    text = toy.sentence([w for k in kinds for w in words[k]] or toy.FILLER, rng, 28)
    return Record.create(text, kinds if labels is None else labels, source)  # type: ignore[arg-type]


KINDS = [("metal",), ("fruit",), ("bird",), ("fruit", "metal"), ("bird", "fruit"), ()]


def place_of_sets(folder: Path, encoder: Path, *, required: int = 0) -> Place:
    """As `place`, of a multi-label project. Of its rows six lack a label or have one too many, one of them set aside."""
    wrong = [
        of(("metal",), 100, ("bird",)),
        of(("fruit", "metal"), 101, ("fruit",)),
        of(("fruit", "metal"), 102, ("fruit",)),
        of(("bird",), 103, ("bird", "metal")),
        of((), 104, ("bird",)),
    ]
    aside = of(("metal",), 105, ())
    kept = [of(kinds, i) for kinds in KINDS for i in range(20)] + wrong
    return place(
        folder,
        encoder,
        kept=kept,
        rejected=[Rejected(aside, "off_label", "the probe does not see '(no label)'", 0.1)],
        test=[of(kinds, i, source="test") for kinds in KINDS for i in range(4)],
        dev=[of(kinds, i, source="dev") for kinds in KINDS for i in range(4)],
        required=required,
        wrong=[*wrong, aside],
    )


def place(
    folder: Path,
    encoder: Path,
    *,
    kept: list[Record] | None = None,
    rejected: list[Rejected] | None = None,
    test: list[Record] | None = None,
    dev: list[Record] | None = None,
    wrong: list[Record] | None = None,
    required: int = 0,
) -> Place:
    """The project, its splits and its curated rows below `folder`. Of the rows given by default, six are mislabelled."""
    config = toy.project(
        folder / "project",
        endpoint="http://127.0.0.1:9/v1",
        encoder=encoder,
        review={"required_rows": required},
        multi_label=dev is not None and isinstance(dev[0].label, tuple),
    )
    project = load_project(config)
    dev = dev or [real(kind, i, "dev") for kind in toy.LABELS for i in range(6)]
    test = test or [real(kind, i, "test") for kind in toy.LABELS for i in range(6)]
    aside = [row("metal", 103, "bird"), row("bird", 104, "fruit")] if wrong is None else []
    wrong = wrong or [
        row("metal", 100, "fruit"),
        row("bird", 101, "metal", XSS + " "),
        row("fruit", 102, "bird"),
    ]
    wrong += [row("metal", 105, "fruit")] if aside else []  # as the first
    leaked, short, twice = (
        row("metal", 200),
        row("bird", 201),
        replace(test[0], source="synthetic", label="bird"),
    )
    if kept is None:
        kept = [row(kind, i) for kind in toy.LABELS for i in range(14)] + wrong
    if rejected is None:
        rejected = [
            Rejected(r, "off_label", f"the probe does not see {r.label!r}", 0.1) for r in aside
        ]
        rejected += [
            Rejected(leaked, "leak", "0.90 of it", 0.9, test[0].id),
            Rejected(short, "length", "short"),
        ]
        rejected += [Rejected(twice, "two_labels", "the same text under two labels", 1.0, twice.id)]
        rejected += [Rejected(dev[0], "off_label", "a dev row that strayed in", 0.1)]

    labels = project.label_names
    splits = splits_of(
        folder, dev=dev, test=test, labels=labels, embed=lambda texts: embed(encoder, texts)
    )
    made = curated_of(folder, kept, rejected, inputs={"splits": splits.digest})
    return Place(
        project,
        config,
        splits.directory,
        made.directory,
        kept,
        {r.id for r in (*wrong, *aside)},
        {r.id for r in (*dev, *test, leaked, short, twice)},
    )
