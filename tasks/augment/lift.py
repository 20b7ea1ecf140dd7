"""What synthetic and harvested rows gain, on the sealed test rows, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks import atomic
from tasks.augment.mixtures import REAL, WITH_HARVESTED, WITH_SYNTHETIC, WITHOUT, heads
from tasks.dataset.sealed import open_sealed
from tasks.labels import encode, label_of
from tasks.project import Project
from tasks.records import Label
from tasks.references import digest_of_path, resolve
from tasks.stage import Stage, stage

VERSION = 2
DESCRIPTIONS = "label descriptions"


def steps_of(names: list[str], *, chosen: str) -> list[tuple[str, str, str]]:
    """(what is gained by, from this mix, to that mix) for the mixes there are; harvested rows were added to the `chosen` one."""
    base = REAL if REAL in names else DESCRIPTIONS
    found = [("synthetic", base, WITH_SYNTHETIC)] if WITH_SYNTHETIC in names else [("real", DESCRIPTIONS, REAL)]
    found += [("harvested", chosen, WITH_HARVESTED)]
    found += [("generator " + n.removeprefix(WITHOUT), n, WITH_SYNTHETIC) for n in names if n.startswith(WITHOUT)]
    return [(what, a, b) for what, a, b in found if a in names and b in names]


def compare(
    true: Sequence[Label],
    answers: dict[str, list[list[Label]]],
    *,
    chosen: str,
    labels: list[str],
    samples: int,
    seed: int,
    groups: Sequence[str | None] = (),
) -> dict[str, Any]:
    """`mixes`: macro-F1 of each, the mean over its seeds; `lifts`: differences. Both with 95% intervals.

    `answers` holds, for each mix, the answers of one model a seed; to the `chosen` one harvested rows were added. All are
    resampled together (a stratified paired bootstrap; with `groups` one of whole groups), so an interval is about the test
    rows; the spread over seeds is given beside it.
    """
    import numpy as np

    from tasks.statistics.bootstrap import group_codes, macro_f1
    from tasks.statistics.metrics import f1_macro

    y = encode(true, labels)
    models = [(name, encode(said, labels)) for name, own in answers.items() for said in own]
    together = group_codes(groups)
    drawn = macro_f1(y, [m for _, m in models], classes=len(labels), samples=samples, seed=seed, groups=together)
    seen = np.array([f1_macro(y, m, list(range(len(labels)))) for _, m in models])
    of = {name: [i for i, (n, _) in enumerate(models) if n == name] for name in answers}

    def told(values: np.ndarray, point: float) -> dict[str, float]:
        low, high = np.quantile(values, [0.025, 0.975])
        return {"value": point, "ci_low": float(low), "ci_high": float(high)}

    mixes: dict[str, dict[str, Any]] = {
        name: {
            **told(drawn[:, i].mean(axis=1), float(seen[i].mean())),
            "seeds": len(i),
            "spread": float(seen[i].std(ddof=1)) if len(i) > 1 else None,
        }
        for name, i in of.items()
    }
    lifts = [
        {"by": what, "from": a, "to": b}
        | told(
            drawn[:, of[b]].mean(axis=1) - drawn[:, of[a]].mean(axis=1), float(seen[of[b]].mean() - seen[of[a]].mean())
        )
        for what, a, b in steps_of(list(answers), chosen=chosen)
    ]
    return {"mixes": mixes, "lifts": lifts}


def quick_lift(
    project: Project,
    mixes: dict[str, Stage],
    *,
    chosen: str,
    reference: list[Label] | None,
    sealed: Stage,
    beside: Path,
    home: Path,
) -> Stage:
    """`lift.json` by a linear head on frozen embeddings, one seed: quick, and not the fine-tuned models' own difference.

    `reference` are the answers by label descriptions, where there are no real rows to start from.
    """
    encoder = resolve(project.train.model, beside=beside, cache=home / "cache", kind="model")

    def build(out: Path, work: Path) -> dict[str, Any]:
        rows = open_sealed(sealed, home=home, by="lift of synthetic and harvested rows")
        answers = {name: [said] for name, said in heads(project, encoder, mixes, [r.text for r in rows]).items()}
        if reference is not None:
            answers = {DESCRIPTIONS: [reference], **answers}
        e = project.evaluate
        how: dict[str, Any] = {"chosen": chosen, "labels": project.label_names, "samples": e.bootstrap, "seed": e.seed}
        found = compare([label_of(r) for r in rows], answers, groups=[r.group for r in rows], **how)
        atomic.write_json(out / "lift.json", found)
        return {"how": "quick", **found}

    inputs = {"sealed": sealed.digest, "encoder": digest_of_path(encoder)}
    inputs |= {f"mix {name}": stage.digest for name, stage in mixes.items()}
    params = {"labels": project.label_names, "max_length": project.train.max_length, "reference": reference is not None}
    params |= {"bootstrap": project.evaluate.bootstrap, "seed": project.evaluate.seed, "chosen": chosen}
    params |= {"groups": True} if project.data.group_column else {}
    return stage(home, "lift", version=VERSION, params=params, inputs=inputs, build=build)


def full_lift(project: Project, scored: dict[str, list[Stage]], *, chosen: str, home: Path) -> Stage:
    """`lift.json` from scored models: each mix fine-tuned by the same recipe, one model a seed."""
    from tasks.evaluate.score import read_predictions

    def build(out: Path, work: Path) -> dict[str, Any]:
        rows = {name: [read_predictions(s) for s in own] for name, own in scored.items()}
        first = next(iter(rows.values()))[0]
        true, groups = [a["label"] for a in first], [a.get("group") for a in first]
        answers = {name: [[a["predicted"] for a in said] for said in own] for name, own in rows.items()}
        e = project.evaluate
        how: dict[str, Any] = {"chosen": chosen, "labels": project.label_names, "samples": e.bootstrap, "seed": e.seed}
        found = compare(true, answers, groups=groups, **how)
        atomic.write_json(out / "lift.json", found)
        return {"how": "full", **found}

    inputs = {f"{name} {i}": stage.digest for name, own in scored.items() for i, stage in enumerate(own)}
    params: dict[str, Any] = {"labels": project.label_names}
    params |= {"bootstrap": project.evaluate.bootstrap, "seed": project.evaluate.seed, "chosen": chosen}
    params |= {"groups": True} if project.data.group_column else {}
    return stage(home, "lift", version=VERSION, params=params, inputs=inputs, build=build)
