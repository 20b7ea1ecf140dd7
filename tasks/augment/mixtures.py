"""Mixes of training rows: with and without what was made up, so that what it gains is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tasks import atomic
from tasks.dataset.split import SplitsResult
from tasks.dataset.training_rows import TrainingRows
from tasks.encoder.base_model import resolve_encoder
from tasks.labels import encode, label_of
from tasks.project import Project
from tasks.records import Label, Record, count_by_label, read_records, write_records
from tasks.references import digest_of_path
from tasks.stage import StageResult, run_stage
from tasks.train.stage import TrainResult
from tasks.workspace import Workspace

VERSION = 1
REAL, WITH_SYNTHETIC, WITH_SELF_TRAINED, WITHOUT = (
    "real rows alone",
    "with synthetic",
    "with harvested",
    "without ",
)


def select_mixture(name: str, rows: list[Record]) -> list[Record]:
    """The rows of the mix `name`."""
    if name == REAL:
        return [r for r in rows if r.is_real]
    if name.startswith(WITHOUT):
        return [r for r in rows if r.lineage.get("generator") != name.removeprefix(WITHOUT)]
    assert name == WITH_SYNTHETIC, name
    return rows


def possible_mixtures(project: Project, rows: list[Record]) -> list[str]:
    """The mixes of curated rows that have every label, the smallest first: real alone, all; and without each of several generators.
    Where nothing was made up, real rows alone are all there is."""
    if rows and len(select_mixture(REAL, rows)) == len(rows):
        return [REAL]
    names = [REAL, WITH_SYNTHETIC]
    generators = list(project.generate.endpoints())
    if len(generators) > 1:
        names += [WITHOUT + name for name in generators]
    found = []
    for name in names:
        mixed = select_mixture(name, rows)
        have = count_by_label(mixed)
        if all(label in have for label in project.label_names) and (
            name == WITH_SYNTHETIC or len(mixed) < len(rows)
        ):
            found.append(name)
    return found or [WITH_SYNTHETIC]


def full_mixture(mixes: Iterable[str]) -> str:
    """The name of the mix of all curated rows."""
    return WITH_SYNTHETIC if WITH_SYNTHETIC in mixes else REAL


class MixtureResult(TrainingRows):
    """The curated rows of one mixture, by label."""

    rows: dict[str, int]


def is_full_mixture(name: str, rows: list[Record]) -> bool:
    """Whether the mixture `name` holds all of the curated rows."""
    return len(select_mixture(name, rows)) == len(rows)


def mixture(name: str, *, curated: TrainingRows, workspace: Workspace) -> MixtureResult:
    """The curated rows of the mixture `name`."""
    rows = select_mixture(name, curated.read())

    def build(out: Path, scratch: Path) -> MixtureResult:
        write_records(out / "kept.jsonl", rows)
        return MixtureResult(rows=count_by_label(rows))

    return run_stage(
        MixtureResult,
        "mix",
        workspace=workspace,
        version=VERSION,
        params={"mix": name},
        inputs={"curated": curated.digest},
        build=build,
    )


class MixtureChoiceResult(StageResult):
    """Macro-F1 on dev by mixture."""

    dev: dict[str, float]


def choose_mixture(
    project: Project,
    mixtures: Mapping[str, TrainingRows],
    *,
    splits: SplitsResult,
    workspace: Workspace,
) -> MixtureChoiceResult:
    """Macro-F1 on dev of a linear head on frozen embeddings, trained on each mixture."""
    encoder = resolve_encoder(project, workspace)

    def build(out: Path, scratch: Path) -> MixtureChoiceResult:
        from tasks.statistics.metrics import f1_macro

        dev = read_records(splits.directory / "dev.jsonl")
        true = [label_of(r) for r in dev]
        answers = predict_with_heads(project, encoder, mixtures, [r.text for r in dev])
        scores = {name: f1_macro(true, said, project.label_names) for name, said in answers.items()}
        atomic.write_json(out / "dev.json", scores)
        return MixtureChoiceResult(dev=scores)

    inputs = {"splits": splits.digest, "encoder": digest_of_path(encoder)}
    inputs |= {f"mix {name}": rows.digest for name, rows in mixtures.items()}
    params = {"labels": project.label_names, "max_length": project.train.max_length}
    return run_stage(
        MixtureChoiceResult,
        "choose",
        workspace=workspace,
        version=VERSION,
        params=params,
        inputs=inputs,
        build=build,
    )


def predict_with_heads(
    project: Project, encoder: Path, mixtures: Mapping[str, TrainingRows], texts: list[str]
) -> dict[str, list[Label]]:
    """Each mix's answers to `texts`, by a linear head on frozen embeddings. Every text is embedded once."""
    from tasks.encoder.embed import embed
    from tasks.encoder.linear_probe import fit_probe, predict_labels

    rows = {name: own.read() for name, own in mixtures.items()}
    unique = {r.id: r.text for own in rows.values() for r in own}
    x = embed(encoder, list(unique.values()), max_length=project.train.max_length)
    at = {row_id: i for i, row_id in enumerate(unique)}
    asked = embed(encoder, texts, max_length=project.train.max_length)
    found = {}
    for name, own in rows.items():
        probe = fit_probe(x[[at[r.id] for r in own]], [label_of(r) for r in own])
        found[name] = predict_labels(probe, asked)
    return found


class DevComparisonResult(StageResult):
    """Macro-F1 of two models on dev, the difference with its standard error, and whether F1 fell."""

    before: float
    after: float
    difference: float
    standard_error: float
    fell: bool

    def summary(self) -> str:
        return (
            f"dev F1 {self.before:.3f} at best before and {self.after:.3f} after; a difference of "
            f"{self.standard_error:.3f} may be chance"
        )


def compare_on_dev(
    project: Project,
    *,
    before: TrainResult,
    after: TrainResult,
    splits: SplitsResult,
    workspace: Workspace,
) -> DevComparisonResult:
    """Two trained models on dev: whether macro-F1 fell by more than one standard error.

    The error is that of a paired bootstrap over the dev rows. A fall within one standard error counts
    as none: Breiman et al. 1984, 3.4.3.
    """

    def build(out: Path, scratch: Path) -> DevComparisonResult:
        from tasks.model.bundle import Classifier

        dev = read_records(splits.directory / "dev.jsonl")
        said = [
            [p.answer for p in Classifier.load(m.bundle_directory).predict([r.text for r in dev])]
            for m in (before, after)
        ]
        groups = [r.group for r in dev]
        found = compare_answers(
            [label_of(r) for r in dev], *said, labels=project.label_names, groups=groups
        )
        atomic.write_json(out / "dev.json", found.model_dump())
        return found

    inputs = {"before": before.bundle, "after": after.bundle, "splits": splits.digest}
    params = {"labels": project.label_names, "groups": project.data.group_column is not None}
    return run_stage(
        DevComparisonResult,
        "watch",
        workspace=workspace,
        version=VERSION,
        params=params,
        inputs=inputs,
        build=build,
    )


def compare_answers(
    true: list[Label],
    before: list[Label],
    after: list[Label],
    *,
    labels: list[str],
    groups: Sequence[str | None] = (),
) -> DevComparisonResult:
    """The comparison of two models' answers to the same rows, which may come in groups. Without rows nothing fell."""
    if not true:
        return DevComparisonResult(
            before=0.0, after=0.0, difference=0.0, standard_error=0.0, fell=False
        )
    from tasks.statistics.bootstrap import Bootstrap, group_codes
    from tasks.statistics.metrics import f1_macro

    y, a, b = (encode(answers, labels) for answers in (true, before, after))
    bootstrap = Bootstrap(2000, seed=0, groups=group_codes(groups))
    drawn = bootstrap.macro_f1(y, [a, b], classes=len(labels))
    error = float((drawn[:, 1] - drawn[:, 0]).std())
    one, two = (f1_macro(true, answers, labels) for answers in (before, after))
    # a single row is one standard error, and a little more
    fell = two - one < -1.01 * error - 1e-9
    return DevComparisonResult(
        before=one, after=two, difference=two - one, standard_error=error, fell=fell
    )


def best_mixture(scores: dict[str, float]) -> str:
    """The mix with the best score; the one with more rows where they tie (the later one)."""
    return max(scores, key=lambda name: (scores[name], list(scores).index(name)))
