"""What synthetic and self-trained rows gain in macro-F1 on the sealed test rows, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from tasks import atomic
from tasks.augment.mixtures import (
    REAL,
    WITH_SELF_TRAINED,
    WITH_SYNTHETIC,
    WITHOUT,
    predict_with_heads,
)
from tasks.dataset.sealed import open_sealed
from tasks.dataset.split import SealedResult
from tasks.dataset.training_rows import TrainingRows
from tasks.encoder.base_model import resolve_encoder
from tasks.evaluate.result import ScoreResult
from tasks.figures import Figures, Interval
from tasks.labels import encode, label_of
from tasks.project import Project
from tasks.records import Label
from tasks.references import digest_of_path
from tasks.stage import Metrics, StageResult, run_stage
from tasks.workspace import Workspace

VERSION = 2
DESCRIPTIONS = "label descriptions"


def gain_pairs(names: list[str], *, chosen: str) -> list[tuple[str, str, str]]:
    """(which rows gain, mixture without them, mixture with them) for the mixtures in `names`.

    Self-trained rows were added to the `chosen` mixture.
    """
    base = REAL if REAL in names else DESCRIPTIONS
    first = ("real", DESCRIPTIONS, REAL)
    if WITH_SYNTHETIC in names:
        first = ("synthetic", base, WITH_SYNTHETIC)
    pairs = [first, ("harvested", chosen, WITH_SELF_TRAINED)]
    for name in names:
        if name.startswith(WITHOUT):
            pairs.append(("generator " + name.removeprefix(WITHOUT), name, WITH_SYNTHETIC))
    return [pair for pair in pairs if pair[1] in names and pair[2] in names]


class MixtureScore(Interval):
    """Macro-F1 of one mixture: the mean over its seeds, with the spread between them."""

    seeds: int
    spread: float | None


class Gain(Interval):
    """The gain in macro-F1 `by` some rows: from one mixture to another."""

    by: str
    from_: str = Field(alias="from")
    to: str


class MixtureComparison(Figures):
    """Macro-F1 of each mixture, and the gains between them, with 95% intervals."""

    mixes: dict[str, MixtureScore]
    lifts: list[Gain]


class LiftResult(MixtureComparison, StageResult):
    """What synthetic and self-trained rows gain on the test rows; `how` is `quick` or `full`."""

    how: Literal["quick", "full"]

    def metrics(self) -> Metrics:
        """Each gain and its interval."""
        gains = {f"lift.{g.by}": g.value for g in self.lifts}
        ends = {
            f"lift.{g.by}.{end}": getattr(g, end)
            for g in self.lifts
            for end in ("ci_low", "ci_high")
        }
        return gains | ends

    def headline(self) -> Metrics:
        """The same as `metrics`."""
        return self.metrics()

    def artifacts(self) -> list[Path]:
        """`lift.json`."""
        return [self.directory / "lift.json"]

    def summary(self) -> str:
        """One line per gain."""
        return "\n".join(
            f"{g.by} rows: macro-F1 {g.value:+.3f} ({g.ci_low:+.3f} to {g.ci_high:+.3f}) over {g.from_}"
            for g in self.lifts
        )


def compare_mixtures(
    true: Sequence[Label],
    predictions: dict[str, list[list[Label]]],
    *,
    chosen: str,
    labels: list[str],
    samples: int,
    seed: int,
    groups: Sequence[str | None] = (),
) -> MixtureComparison:
    """Macro-F1 of each mixture, the mean over its seeds, and the gains between mixtures.

    `predictions` has, for each mixture, the labels that one model per seed predicts; the
    self-trained rows were added to the `chosen` one. All are resampled together (a stratified
    paired bootstrap; of whole groups where `groups` are given), so an interval is about the test
    rows, not about the seeds.
    """
    import numpy as np

    from tasks.statistics.bootstrap import Bootstrap, group_codes
    from tasks.statistics.metrics import f1_macro

    y, classes = encode(true, labels), list(range(len(labels)))
    models = [(name, encode(p, labels)) for name, seeds in predictions.items() for p in seeds]
    bootstrap = Bootstrap(samples, seed, group_codes(groups))
    drawn = bootstrap.macro_f1(y, [predicted for _, predicted in models], classes=len(labels))
    scores = np.array([f1_macro(y, predicted, classes) for _, predicted in models])
    columns = {name: [i for i, (n, _) in enumerate(models) if n == name] for name in predictions}
    means = {name: float(scores[i].mean()) for name, i in columns.items()}
    drawn_means = {name: drawn[:, i].mean(axis=1) for name, i in columns.items()}

    def interval(values: np.ndarray) -> dict[str, float]:
        low, high = np.quantile(values, [0.025, 0.975])
        return {"ci_low": float(low), "ci_high": float(high)}

    mixes = {
        name: MixtureScore(
            value=means[name],
            **interval(drawn_means[name]),
            seeds=len(i),
            spread=float(scores[i].std(ddof=1)) if len(i) > 1 else None,
        )
        for name, i in columns.items()
    }
    gains = [
        Gain(
            by=rows,
            from_=before,
            to=after,
            value=means[after] - means[before],
            **interval(drawn_means[after] - drawn_means[before]),
        )
        for rows, before, after in gain_pairs(list(predictions), chosen=chosen)
    ]
    return MixtureComparison(mixes=mixes, lifts=gains)


def quick_lift(
    project: Project,
    mixtures: Mapping[str, TrainingRows],
    *,
    chosen: str,
    reference: list[Label] | None,
    sealed: SealedResult,
    workspace: Workspace,
) -> LiftResult:
    """`lift.json` of linear heads on frozen embeddings, with one seed: a quick estimate.

    `reference` has the labels predicted from label descriptions, for projects without real training
    rows.
    """
    encoder = resolve_encoder(project, workspace)

    def build(out: Path, scratch: Path) -> LiftResult:
        rows = open_sealed(sealed, workspace=workspace, by="lift of synthetic and harvested rows")
        by_mixture = predict_with_heads(project, encoder, mixtures, [r.text for r in rows])
        if reference is not None:
            by_mixture = {DESCRIPTIONS: reference, **by_mixture}
        comparison = compare_mixtures(
            [label_of(r) for r in rows],
            {name: [predicted] for name, predicted in by_mixture.items()},
            chosen=chosen,
            labels=project.label_names,
            samples=project.evaluate.bootstrap_samples,
            seed=project.evaluate.seed,
            groups=[r.group for r in rows],
        )
        return _write_lift(out, "quick", comparison)

    inputs = {"sealed": sealed.digest, "encoder": digest_of_path(encoder)}
    inputs |= {f"mix {name}": rows.digest for name, rows in mixtures.items()}
    params = {"max_length": project.train.max_length, "reference": reference is not None}
    return run_stage(
        LiftResult,
        "lift",
        workspace=workspace,
        version=VERSION,
        params=params | _params(project, chosen),
        inputs=inputs,
        build=build,
    )


def full_lift(
    project: Project,
    scored: Mapping[str, Sequence[ScoreResult]],
    *,
    chosen: str,
    workspace: Workspace,
) -> LiftResult:
    """`lift.json` of fine-tuned models: for each mixture, the scores of one model per seed."""

    def build(out: Path, scratch: Path) -> LiftResult:
        answers = {name: [s.read() for s in scores] for name, scores in scored.items()}
        first = next(iter(answers.values()))[0]
        comparison = compare_mixtures(
            [a.label for a in first],
            {name: [[a.predicted for a in rows] for rows in n] for name, n in answers.items()},
            chosen=chosen,
            labels=project.label_names,
            samples=project.evaluate.bootstrap_samples,
            seed=project.evaluate.seed,
            groups=[a.group for a in first],
        )
        return _write_lift(out, "full", comparison)

    inputs = {
        f"{name} {i}": score.digest
        for name, scores in scored.items()
        for i, score in enumerate(scores)
    }
    return run_stage(
        LiftResult,
        "lift",
        workspace=workspace,
        version=VERSION,
        params=_params(project, chosen),
        inputs=inputs,
        build=build,
    )


def _params(project: Project, chosen: str) -> dict[str, object]:
    return {
        "labels": project.label_names,
        "bootstrap": project.evaluate.bootstrap_samples,
        "seed": project.evaluate.seed,
        "chosen": chosen,
        "groups": project.data.group_column is not None,
    }


def _write_lift(
    out: Path, how: Literal["quick", "full"], comparison: MixtureComparison
) -> LiftResult:
    atomic.write_json(out / "lift.json", comparison.model_dump(by_alias=True))
    return LiftResult(how=how, mixes=comparison.mixes, lifts=comparison.lifts)
