"""What synthetic and harvested rows gain, on the sealed test rows, with intervals."""

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
    """(what is gained by, from this mix, to that mix) for the mixes there are; harvested rows were added to the `chosen` one."""
    base = REAL if REAL in names else DESCRIPTIONS
    found = (
        [("synthetic", base, WITH_SYNTHETIC)]
        if WITH_SYNTHETIC in names
        else [("real", DESCRIPTIONS, REAL)]
    )
    found += [("harvested", chosen, WITH_SELF_TRAINED)]
    found += [
        ("generator " + n.removeprefix(WITHOUT), n, WITH_SYNTHETIC)
        for n in names
        if n.startswith(WITHOUT)
    ]
    return [(what, a, b) for what, a, b in found if a in names and b in names]


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
        gains = {f"lift.{g.by}": g.value for g in self.lifts}
        ends = {
            f"lift.{g.by}.{end}": getattr(g, end)
            for g in self.lifts
            for end in ("ci_low", "ci_high")
        }
        return gains | ends

    def headline(self) -> Metrics:
        return self.metrics()

    def artifacts(self) -> list[Path]:
        return [self.directory / "lift.json"]

    def summary(self) -> str:
        return "\n".join(
            f"{g.by} rows: macro-F1 {g.value:+.3f} ({g.ci_low:+.3f} to {g.ci_high:+.3f}) over {g.from_}"
            for g in self.lifts
        )


def compare_mixtures(
    true: Sequence[Label],
    answers: dict[str, list[list[Label]]],
    *,
    chosen: str,
    labels: list[str],
    samples: int,
    seed: int,
    groups: Sequence[str | None] = (),
) -> MixtureComparison:
    """Macro-F1 of each mixture, the mean over its seeds, and the differences between mixtures.

    `answers` holds, for each mixture, the answers of one model per seed; the self-trained rows were
    added to the `chosen` one. All are resampled together (a stratified paired bootstrap; with `groups`
    one of whole groups), so an interval is about the test rows; the spread over seeds is given apart.
    """
    import numpy as np

    from tasks.statistics.bootstrap import Bootstrap, group_codes
    from tasks.statistics.metrics import f1_macro

    y = encode(true, labels)
    models = [(name, encode(said, labels)) for name, own in answers.items() for said in own]
    bootstrap = Bootstrap(samples, seed, group_codes(groups))
    drawn = bootstrap.macro_f1(y, [m for _, m in models], classes=len(labels))
    seen = np.array([f1_macro(y, m, list(range(len(labels)))) for _, m in models])
    of = {name: [i for i, (n, _) in enumerate(models) if n == name] for name in answers}

    def ends(values: np.ndarray) -> dict[str, float]:
        low, high = np.quantile(values, [0.025, 0.975])
        return {"ci_low": float(low), "ci_high": float(high)}

    mixes = {
        name: MixtureScore(
            value=float(seen[i].mean()),
            **ends(drawn[:, i].mean(axis=1)),
            seeds=len(i),
            spread=float(seen[i].std(ddof=1)) if len(i) > 1 else None,
        )
        for name, i in of.items()
    }
    gains = [
        Gain(
            by=what,
            from_=a,
            to=b,
            value=float(seen[of[b]].mean() - seen[of[a]].mean()),
            **ends(drawn[:, of[b]].mean(axis=1) - drawn[:, of[a]].mean(axis=1)),
        )
        for what, a, b in gain_pairs(list(answers), chosen=chosen)
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
    """`lift.json` by a linear head on frozen embeddings, one seed: quick, and not the fine-tuned models' own difference.

    `reference` are the answers by label descriptions, where there are no real rows to start from.
    """
    encoder = resolve_encoder(project, workspace)

    def build(out: Path, scratch: Path) -> LiftResult:
        rows = open_sealed(sealed, workspace=workspace, by="lift of synthetic and harvested rows")
        answers = {
            name: [said]
            for name, said in predict_with_heads(
                project, encoder, mixtures, [r.text for r in rows]
            ).items()
        }
        if reference is not None:
            answers = {DESCRIPTIONS: [reference], **answers}
        found = compare_mixtures(
            [label_of(r) for r in rows],
            answers,
            chosen=chosen,
            labels=project.label_names,
            samples=project.evaluate.bootstrap_samples,
            seed=project.evaluate.seed,
            groups=[r.group for r in rows],
        )
        return _write(out, "quick", found)

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
    """`lift.json` from scored models: each mixture fine-tuned by the same recipe, one model per seed."""

    def build(out: Path, scratch: Path) -> LiftResult:
        rows = {name: [s.read() for s in own] for name, own in scored.items()}
        first = next(iter(rows.values()))[0]
        found = compare_mixtures(
            [a.label for a in first],
            {name: [[a.predicted for a in said] for said in own] for name, own in rows.items()},
            chosen=chosen,
            labels=project.label_names,
            samples=project.evaluate.bootstrap_samples,
            seed=project.evaluate.seed,
            groups=[a.group for a in first],
        )
        return _write(out, "full", found)

    inputs = {
        f"{name} {i}": score.digest for name, own in scored.items() for i, score in enumerate(own)
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


def _write(out: Path, how: Literal["quick", "full"], found: MixtureComparison) -> LiftResult:
    atomic.write_json(out / "lift.json", found.model_dump(by_alias=True))
    return LiftResult(how=how, mixes=found.mixes, lifts=found.lifts)
