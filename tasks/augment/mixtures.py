"""Mixes of training rows: with and without what was made up, so that what it gains is known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tasks import atomic
from tasks.labels import encode, label_of
from tasks.project import Project
from tasks.records import Label, Record, count_by_label, read_records, write_records
from tasks.references import digest_of_path, resolve
from tasks.stage import Stage, stage

VERSION = 1
REAL, WITH_SYNTHETIC, WITH_HARVESTED, WITHOUT = "real rows alone", "with synthetic", "with harvested", "without "


def of_rows(name: str, rows: list[Record]) -> list[Record]:
    """The rows of the mix `name`."""
    if name == REAL:
        return [r for r in rows if r.is_real]
    if name.startswith(WITHOUT):
        return [r for r in rows if r.lineage.get("generator") != name.removeprefix(WITHOUT)]
    assert name == WITH_SYNTHETIC, name
    return rows


def possible(project: Project, rows: list[Record]) -> list[str]:
    """The mixes of curated rows that have every label, the smallest first: real alone, all; and without each of several generators.
    Where nothing was made up, real rows alone are all there is."""
    if rows and len(of_rows(REAL, rows)) == len(rows):
        return [REAL]
    names = [REAL, WITH_SYNTHETIC]
    generators = list(project.generate.sources())
    if len(generators) > 1:
        names += [WITHOUT + name for name in generators]
    found = []
    for name in names:
        mixed = of_rows(name, rows)
        have = count_by_label(mixed)
        if all(label in have for label in project.label_names) and (name == WITH_SYNTHETIC or len(mixed) < len(rows)):
            found.append(name)
    return found or [WITH_SYNTHETIC]


def whole(mixes: Iterable[str]) -> str:
    """The name of the mix of all curated rows."""
    return WITH_SYNTHETIC if WITH_SYNTHETIC in mixes else REAL


def mix(name: str, *, curated: Stage, home: Path) -> Stage:
    """`kept.jsonl`: the curated rows of one mix. The mix of them all is the curated directory itself."""
    every = read_records(curated.directory / "kept.jsonl")
    rows = of_rows(name, every)
    if len(rows) == len(every):
        return curated

    def build(out: Path, work: Path) -> dict[str, Any]:
        write_records(out / "kept.jsonl", rows)
        return {"rows": count_by_label(rows)}

    return stage(home, "mix", version=VERSION, params={"mix": name}, inputs={"curated": curated.digest}, build=build)


def quick_choice(project: Project, mixes: dict[str, Stage], *, splits: Stage, beside: Path, home: Path) -> Stage:
    """Counts `dev`: macro-F1 on dev of a linear head on frozen embeddings, trained on each mix."""
    encoder = resolve(project.train.model, beside=beside, cache=home / "cache", kind="model")

    def build(out: Path, work: Path) -> dict[str, Any]:
        from tasks.statistics.metrics import f1_macro

        dev = read_records(splits.directory / "dev.jsonl")
        true = [label_of(r) for r in dev]
        answers = heads(project, encoder, mixes, [r.text for r in dev])
        scores = {name: f1_macro(true, said, project.label_names) for name, said in answers.items()}
        atomic.write_json(out / "dev.json", scores)
        return {"dev": scores}

    inputs = {"splits": splits.digest, "encoder": digest_of_path(encoder)}
    inputs |= {f"mix {name}": stage.digest for name, stage in mixes.items()}
    params = {"labels": project.label_names, "max_length": project.train.max_length}
    return stage(home, "choose", version=VERSION, params=params, inputs=inputs, build=build)


def heads(project: Project, encoder: Path, mixes: dict[str, Stage], texts: list[str]) -> dict[str, list[Label]]:
    """Each mix's answers to `texts`, by a linear head on frozen embeddings. Every text is embedded once."""
    from tasks.encoder.embed import embed
    from tasks.encoder.linear_probe import answers, fit_probe

    rows = {name: read_records(stage.directory / "kept.jsonl") for name, stage in mixes.items()}
    unique = {r.id: r.text for own in rows.values() for r in own}
    x = embed(encoder, list(unique.values()), max_length=project.train.max_length)
    at = {row_id: i for i, row_id in enumerate(unique)}
    asked = embed(encoder, texts, max_length=project.train.max_length)
    found = {}
    for name, own in rows.items():
        probe = fit_probe(x[[at[r.id] for r in own]], [label_of(r) for r in own])
        found[name] = answers(probe, asked)
    return found


def watch(project: Project, *, before: Stage, after: Stage, splits: Stage, home: Path) -> Stage:
    """Counts of two trained models on dev: macro-F1 `before` and `after`, their `difference` and its `standard_error`, and
    whether it `fell` by more than that.

    The error is of a paired bootstrap over the dev rows. A fall within one standard error is none: Breiman et al. 1984, 3.4.3.
    """

    def build(out: Path, work: Path) -> dict[str, Any]:
        from tasks.model.bundle import Classifier

        dev = read_records(splits.directory / "dev.jsonl")
        said = [
            [p.answer for p in Classifier.load(s.directory / "bundle").predict([r.text for r in dev])]
            for s in (before, after)
        ]
        groups = [r.group for r in dev]
        found = difference([label_of(r) for r in dev], *said, labels=project.label_names, groups=groups)
        atomic.write_json(out / "dev.json", found)
        return found

    inputs = {"before": before.counts["bundle"], "after": after.counts["bundle"], "splits": splits.digest}
    params: dict[str, Any] = {"labels": project.label_names} | ({"groups": True} if project.data.group_column else {})
    return stage(home, "watch", version=VERSION, params=params, inputs=inputs, build=build)


def difference(
    true: list[Label],
    before: list[Label],
    after: list[Label],
    *,
    labels: list[str],
    groups: Sequence[str | None] = (),
) -> dict[str, Any]:
    """What `watch` counts, of answers to the same rows, which may come in groups. Without rows nothing fell."""
    if not true:
        return {"before": 0.0, "after": 0.0, "difference": 0.0, "standard_error": 0.0, "fell": False}
    from tasks.statistics.bootstrap import group_codes, macro_f1
    from tasks.statistics.metrics import f1_macro

    y, a, b = (encode(answers, labels) for answers in (true, before, after))
    drawn = macro_f1(y, [a, b], classes=len(labels), samples=2000, seed=0, groups=group_codes(groups))
    error = float((drawn[:, 1] - drawn[:, 0]).std())
    one, two = (f1_macro(true, answers, labels) for answers in (before, after))
    found = {"before": one, "after": two, "difference": two - one, "standard_error": error}
    return found | {"fell": two - one < -1.01 * error - 1e-9}  # a single row is one standard error, and a little more


def best(scores: dict[str, float]) -> str:
    """The mix with the best score; the one with more rows where they tie (the later one)."""
    return max(scores, key=lambda name: (scores[name], list(scores).index(name)))
