"""Mixtures of training rows, with and without synthetic ones, and which of them is best on dev."""

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
    """The rows of the mixture `name`."""
    if name == REAL:
        return [r for r in rows if r.is_real]
    if name.startswith(WITHOUT):
        return [r for r in rows if r.lineage.get("generator") != name.removeprefix(WITHOUT)]
    assert name == WITH_SYNTHETIC, name
    return rows


def possible_mixtures(project: Project, rows: list[Record]) -> list[str]:
    """The names of the mixtures of curated `rows` that have every label, the smallest first.

    Real rows alone, all rows, and all but those of each generator where there are several. Without
    synthetic rows there is only the mixture of real ones.
    """
    if rows and len(select_mixture(REAL, rows)) == len(rows):
        return [REAL]
    names = [REAL, WITH_SYNTHETIC]
    generators = list(project.generate.endpoints())
    if len(generators) > 1:
        names += [WITHOUT + name for name in generators]
    possible = []
    for name in names:
        selected = select_mixture(name, rows)
        is_distinct = name == WITH_SYNTHETIC or len(selected) < len(rows)
        if is_distinct and count_by_label(selected).keys() >= set(project.label_names):
            possible.append(name)
    return possible or [WITH_SYNTHETIC]


def full_mixture(names: Iterable[str]) -> str:
    """The name of the mixture of all curated rows."""
    return WITH_SYNTHETIC if WITH_SYNTHETIC in names else REAL


class MixtureResult(TrainingRows):
    """The curated rows of one mixture, by label."""

    rows: dict[str, int]


def is_full_mixture(name: str, rows: list[Record]) -> bool:
    """Whether the mixture `name` has all of the curated `rows`."""
    return len(select_mixture(name, rows)) == len(rows)


def mixture(name: str, *, curated: TrainingRows, workspace: Workspace) -> MixtureResult:
    """The curated rows of the mixture `name`."""
    rows = select_mixture(name, curated.read())

    def build(out: Path, scratch: Path) -> MixtureResult:
        write_records(out / "kept.jsonl", rows)
        return MixtureResult(rows=count_by_label(rows))

    return run_stage(
        MixtureResult,
        "mixture",
        workspace=workspace,
        version=VERSION,
        params={"mixture": name},
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
        predictions = predict_with_heads(project, encoder, mixtures, [r.text for r in dev])
        scores = {name: f1_macro(true, p, project.label_names) for name, p in predictions.items()}
        atomic.write_json(out / "dev.json", scores)
        return MixtureChoiceResult(dev=scores)

    inputs = {"splits": splits.digest, "encoder": digest_of_path(encoder)}
    inputs |= {f"mixture {name}": rows.digest for name, rows in mixtures.items()}
    params = {"labels": project.label_names, "max_length": project.train.max_length}
    return run_stage(
        MixtureChoiceResult,
        "mixture_choice",
        workspace=workspace,
        version=VERSION,
        params=params,
        inputs=inputs,
        build=build,
    )


def predict_with_heads(
    project: Project, encoder: Path, mixtures: Mapping[str, TrainingRows], texts: list[str]
) -> dict[str, list[Label]]:
    """The labels that a linear head fitted on each mixture predicts for `texts`."""
    from tasks.encoder.embed import embed
    from tasks.encoder.linear_probe import fit_probe, predict_labels

    rows = {name: training.read() for name, training in mixtures.items()}
    unique = {r.id: r.text for selected in rows.values() for r in selected}
    x = embed(encoder, list(unique.values()), max_length=project.train.max_length)
    index = {row_id: i for i, row_id in enumerate(unique)}
    x_texts = embed(encoder, texts, max_length=project.train.max_length)
    predictions = {}
    for name, selected in rows.items():
        head = fit_probe(x[[index[r.id] for r in selected]], [label_of(r) for r in selected])
        predictions[name] = predict_labels(head, x_texts)
    return predictions


class DevComparisonResult(StageResult):
    """Macro-F1 of two models on dev, their difference with its error, and whether F1 fell."""

    before: float
    after: float
    difference: float
    standard_error: float
    fell: bool

    def summary(self) -> str:
        """Both scores, and the standard error of their difference."""
        return (
            f"macro-F1 on dev {self.after:.3f}, the best so far {self.before:.3f} "
            f"(standard error of the difference {self.standard_error:.3f})"
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

    The error is that of a paired bootstrap over the dev rows. A fall within one standard error
    counts as none: Breiman et al. 1984, 3.4.3.
    """

    def build(out: Path, scratch: Path) -> DevComparisonResult:
        from tasks.model.bundle import Classifier

        dev = read_records(splits.directory / "dev.jsonl")
        predictions = [
            [p.answer for p in Classifier.load(m.bundle_directory).predict([r.text for r in dev])]
            for m in (before, after)
        ]
        comparison = compare_predictions(
            [label_of(r) for r in dev],
            *predictions,
            labels=project.label_names,
            groups=[r.group for r in dev],
        )
        atomic.write_json(out / "dev.json", comparison.model_dump())
        return comparison

    inputs = {"before": before.bundle, "after": after.bundle, "splits": splits.digest}
    params = {"labels": project.label_names, "groups": project.data.group_column is not None}
    return run_stage(
        DevComparisonResult,
        "dev_comparison",
        workspace=workspace,
        version=VERSION,
        params=params,
        inputs=inputs,
        build=build,
    )


def compare_predictions(
    true: list[Label],
    before: list[Label],
    after: list[Label],
    *,
    labels: list[str],
    groups: Sequence[str | None] = (),
) -> DevComparisonResult:
    """Two models' labels of the same rows, which may form groups; without rows F1 did not fall."""
    if not true:
        return DevComparisonResult(
            before=0.0, after=0.0, difference=0.0, standard_error=0.0, fell=False
        )
    from tasks.statistics.bootstrap import Bootstrap, group_codes
    from tasks.statistics.metrics import f1_macro

    y, y_before, y_after = (encode(values, labels) for values in (true, before, after))
    bootstrap = Bootstrap(2000, seed=0, groups=group_codes(groups))
    samples = bootstrap.macro_f1(y, [y_before, y_after], classes=len(labels))
    error = float((samples[:, 1] - samples[:, 0]).std())
    f1_before, f1_after = (f1_macro(true, values, labels) for values in (before, after))
    difference = f1_after - f1_before
    return DevComparisonResult(
        before=f1_before,
        after=f1_after,
        difference=difference,
        standard_error=error,
        fell=difference < -1.01 * error - 1e-9,  # a single row can be one error and a little more
    )


def best_mixture(scores: dict[str, float]) -> str:
    """The mixture with the best score; where some tie, the last of them, which has more rows."""
    return max(scores, key=lambda name: (scores[name], list(scores).index(name)))
