"""The robustness stage: answers that flip when test texts are perturbed, and the project's own cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tasks import atomic
from tasks.dataset.sealed import open_sealed
from tasks.dataset.split import SealedResult
from tasks.evaluate.robustness.cases import fill_cases, load_cases
from tasks.evaluate.robustness.flips import (
    PerturbationScore,
    answer_texts,
    flip_examples,
    overall_flip_rate,
    perturb_rows,
    score_perturbation,
)
from tasks.evaluate.robustness.grading import CaseScore, grade_cases
from tasks.figures import Figures
from tasks.model.bundle import BundleRef
from tasks.project import Project
from tasks.records import NO_LABEL, Record
from tasks.stage import Metrics, StageResult, Table, run_stage
from tasks.statistics.proportions import Proportion
from tasks.workspace import Workspace

VERSION = 1
SHOWN = 10  # examples of a perturbation's flips, and of a test's failing cases


class RobustnessResult(StageResult):
    """Flip rates of a sample of the test rows, overall and by perturbation, and failures by test."""

    rows: int
    flip_rate: Proportion
    perturbations: dict[str, PerturbationScore]
    cases: dict[str, CaseScore]

    def metrics(self) -> Metrics:
        """Flip rates, macro-F1 under each perturbation, and failure rates of the cases."""
        rates = {"test.flip_rate": self.flip_rate.value}
        for name, p in self.perturbations.items():
            rates[f"test.flip_rate.{name}"] = p.flip_rate.value
            rates[f"test.f1_macro_under.{name}"] = p.f1_macro
        for name, c in self.cases.items():
            rates[f"cases.failure_rate.{name}"] = c.failure_rate.value
        return {name: float(v) for name, v in rates.items() if v is not None}

    def headline(self) -> Metrics:
        """The same on the retrain's own run."""
        return self.metrics()

    def tables(self) -> dict[str, Table]:
        """Rates by perturbation and case, and the texts whose answers changed."""
        perturbations, cases = self.perturbations.items(), self.cases.items()
        return {
            "robustness": [{"perturbation": name, **_columns(p)} for name, p in perturbations],
            "cases": [{"test": name, **_columns(c)} for name, c in cases],
            "flips": atomic.read_lines(self.directory / "flips.jsonl"),
            "failures": atomic.read_lines(self.directory / "failures.jsonl"),
        }

    def artifacts(self) -> list[Path]:
        """The figures."""
        return [self.directory / "robustness.json"]

    def describe_flips(self) -> str:
        """The flip rates in one line."""
        if self.flip_rate.value is None:
            return "no test text was changed"
        rates = [f"{k} {p.flip_rate.value:.1%}" for k, p in self.perturbations.items() if p.rows]
        interval = f"{self.flip_rate.ci_low:.1%} to {self.flip_rate.ci_high:.1%}"
        rate = f"{self.flip_rate.value:.1%} of answers flip on {self.rows} rows"
        return f"{rate}  ({interval}; {', '.join(rates)})"

    def describe_cases(self) -> str:
        """The results of the project's own tests in one line."""
        cases = sum(c.cases for c in self.cases.values())
        failing = {name: c for name, c in self.cases.items() if c.failed}
        passed = f"{len(self.cases) - len(failing)} of {len(self.cases)} tests pass"
        line = f"{sum(c.failed for c in failing.values())} of {cases} fail, {passed}"
        failures = [f"{name} {c.failed} of {c.cases}" for name, c in failing.items()]
        return line + (f"  ({', '.join(failures)})" if failures else "")


def _columns(figures: Figures) -> dict[str, object]:
    """The figures as columns of a table; a proportion has three."""
    columns: dict[str, object] = {}
    for name, value in figures:
        if isinstance(value, Proportion):
            columns |= {name if part == "value" else f"{name}_{part}": v for part, v in value}
        else:
            columns[name] = value
    return columns


def has_robustness_checks(project: Project) -> bool:
    """True where the project file leaves anything to measure here."""
    e = project.evaluate
    return bool((e.robustness_rows and e.perturbations) or e.cases)


def measure_robustness(
    project: Project, bundle: BundleRef, *, sealed: SealedResult, workspace: Workspace
) -> RobustnessResult:
    """Flip rates of a sample of the test rows under each perturbation, and failing `evaluate.cases`.

    Files: `robustness.json`, and examples in `flips.jsonl` and `failures.jsonl`. Raises UserError
    for a mistake in the file of cases.
    """
    e, several = project.evaluate, project.multi_label
    names: list[str] = list(dict.fromkeys(e.perturbations)) if e.robustness_rows else []
    cases = load_cases(project) if e.cases else None

    def build(out: Path, scratch: Path) -> RobustnessResult:
        who = f"robustness of bundle {bundle.digest[:12]}"
        rows = open_sealed(sealed, workspace=workspace, by=who) if names else []
        rows = sample_rows(rows, e.robustness_rows)
        perturbed = perturb_rows(rows, names, project)
        filled = fill_cases(cases) if cases else []
        texts = [r.text for r in rows]
        texts += [p.text for changed in perturbed.values() for p in changed]
        texts += [text for case in filled for text in case.texts]
        answered = answer_texts(bundle, texts, multi_label=several)
        atomic.write_lines(out / "flips.jsonl", flip_examples(perturbed, answered, most=SHOWN))
        scores = {
            name: score_perturbation(changed, answered, project.label_names)
            for name, changed in perturbed.items()
        }
        graded: dict[str, CaseScore] = {}
        if cases:
            graded, failures = grade_cases(cases, filled, answered)
            shown = [row for failing in failures.values() for row in failing[:SHOWN]]
            atomic.write_lines(out / "failures.jsonl", shown)
        result = RobustnessResult(
            rows=len(rows),
            flip_rate=overall_flip_rate(perturbed, scores.values()),
            perturbations=scores,
            cases=graded,
        )
        atomic.write_json(out / "robustness.json", result.model_dump())
        return result

    params: dict[str, object] = {
        "labels": project.labels,
        "rows": e.robustness_rows,
        "perturbations": names,
        "multi_label": several,
        "cases": cases.model_dump(mode="json") if cases else None,
    }
    return run_stage(
        RobustnessResult,
        "robustness",
        workspace=workspace,
        version=VERSION,
        params=params,
        inputs={"bundle": bundle.digest, "sealed": sealed.digest},
        build=build,
    )


def sample_rows(rows: Sequence[Record], most: int) -> list[Record]:
    """At most `most` rows, in the labels' proportions, at least one per label where `most` allows.

    Of each label those with the first ids, which are hashes. A row with several labels counts for
    its scarcest.
    """
    sizes = Counter(label for r in rows for label in r.labels or (NO_LABEL,))
    strata: dict[str, list[Record]] = {}
    for r in sorted(rows, key=lambda r: r.id):
        scarcest = min(r.labels or (NO_LABEL,), key=lambda label: (sizes[label], label))
        strata.setdefault(scarcest, []).append(r)
    ranked = [(i / len(own), r.id, r) for own in strata.values() for i, r in enumerate(own)]
    return [r for _, _, r in sorted(ranked, key=lambda item: item[:2])[:most]]
