"""The robustness stage: how many answers flip when test texts are perturbed, and which of the project's own cases fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks import atomic
from tasks.dataset.sealed import open_sealed
from tasks.dataset.split import SealedResult
from tasks.evaluate.cases import Case, Cases, failure, filled, load_cases
from tasks.evaluate.perturb import perturbed
from tasks.figures import Figures
from tasks.labels import label_of
from tasks.model.bundle import BundleRef
from tasks.project import Project
from tasks.records import NO_LABEL, Label, Record, label_text
from tasks.stage import Metrics, StageResult, Table, run_stage
from tasks.statistics.metrics import f1_macro
from tasks.text.tokens import fold, words
from tasks.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np

    from tasks.model.bundle import Classifier

VERSION = 1
SHOWN = 10  # flipped rows of a perturbation, and failing cases of a test, that a person is shown


@dataclass(frozen=True)
class _Changed:
    """A test row and what a perturbation made of its text."""

    row: Record
    text: str


@dataclass(frozen=True)
class _Answered:
    """What the model said of each text: label or label set, probabilities of shape (labels,), and which text it reads alike."""

    answers: dict[str, Label]
    p: dict[str, np.ndarray]
    alike: dict[str, int]


def wanted(project: Project) -> bool:
    """Whether the project file leaves anything to measure here."""
    e = project.evaluate
    return bool((e.robustness_rows and e.perturbations) or e.cases)


class Share(Figures):
    """A share with its 95% interval (Wilson 1927); all None of nothing."""

    value: float | None
    ci_low: float | None
    ci_high: float | None


class PerturbationScore(Figures):
    """What one perturbation does to the answers.

    `rows` counts the rows that it changes, `read_alike` those the model reads as before; macro-F1 is
    over the labels that these rows have.
    """

    rows: int
    read_alike: int
    flips: int
    flip_rate: Share
    f1_macro_before: float | None
    f1_macro: float | None
    fall: float | None


class CaseScore(Figures):
    """How many cases of one of the project's own tests fail."""

    kind: str
    cases: int
    failed: int
    failure_rate: Share


class RobustnessResult(StageResult):
    """Flip rates of a sample of the test rows, over all perturbations and by perturbation, and failures by test."""

    rows: int
    flip_rate: Share
    perturbations: dict[str, PerturbationScore]
    cases: dict[str, CaseScore]

    def metrics(self) -> Metrics:
        rates = {"test.flip_rate": self.flip_rate.value}
        for name, p in self.perturbations.items():
            rates |= {
                f"test.flip_rate.{name}": p.flip_rate.value,
                f"test.f1_macro_under.{name}": p.f1_macro,
            }
        rates |= {
            f"cases.failure_rate.{name}": c.failure_rate.value for name, c in self.cases.items()
        }
        return {name: float(v) for name, v in rates.items() if v is not None}

    def headline(self) -> Metrics:
        return self.metrics()

    def tables(self) -> dict[str, Table]:
        return {
            "robustness": [
                {"perturbation": name, **_columns(p)} for name, p in self.perturbations.items()
            ],
            "cases": [{"test": name, **_columns(c)} for name, c in self.cases.items()],
            "flips": atomic.read_lines(self.directory / "flips.jsonl"),
            "failures": atomic.read_lines(self.directory / "failures.jsonl"),
        }

    def artifacts(self) -> list[Path]:
        return [self.directory / "robustness.json"]


def _columns(figures: Figures) -> dict[str, object]:
    """The figures as columns of a table: a share with its interval is three columns."""
    columns: dict[str, object] = {}
    for name, value in figures:
        if isinstance(value, Share):
            columns |= {name if part == "value" else f"{name}_{part}": v for part, v in value}
        else:
            columns[name] = value
    return columns


def measure_robustness(
    project: Project, bundle: BundleRef, *, sealed: SealedResult, workspace: Workspace
) -> RobustnessResult:
    """Flip rates of a sample of the test rows under each perturbation, and the failures of `evaluate.cases`.

    Files: `robustness.json`, and some examples in `flips.jsonl` and `failures.jsonl`. Raises UserError
    for a mistake in the file of cases.
    """
    e = project.evaluate
    names: list[str] = list(dict.fromkeys(e.perturbations)) if e.robustness_rows else []
    cases = load_cases(project) if e.cases else None

    def build(out: Path, scratch: Path) -> RobustnessResult:
        from tasks.model.bundle import Classifier

        who = f"robustness of bundle {bundle.digest[:12]}"
        rows = open_sealed(sealed, workspace=workspace, by=who) if names else []
        chosen = sample(rows, e.robustness_rows)
        changed = _changed(chosen, names, project)
        asked = filled(cases) if cases else []
        model = Classifier.load(bundle.directory, digest=bundle.digest)
        told = _ask(model, chosen, changed, asked, several=project.multi_label)
        scores = _flips(out, changed, told, project.label_names)
        result = RobustnessResult(
            rows=len(chosen),
            flip_rate=_overall(changed, scores),
            perturbations=scores,
            cases=_graded(out, cases, asked, told, model.labels) if cases else {},
        )
        atomic.write_json(out / "robustness.json", result.model_dump())
        return result

    params: dict[str, object] = {
        "labels": project.labels,
        "rows": e.robustness_rows,
        "perturbations": names,
        "multi_label": project.multi_label,
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


def sample(rows: Sequence[Record], most: int) -> list[Record]:
    """At most `most` rows: each label's first by content hash, in the labels' proportions, at least one a label where `most` allows.

    A row with several labels counts for its scarcest.
    """
    size = Counter(label for r in rows for label in r.labels or (NO_LABEL,))
    strata: dict[str, list[Record]] = {}
    for r in sorted(rows, key=lambda r: r.id):
        strata.setdefault(
            min(r.labels or (NO_LABEL,), key=lambda label: (size[label], label)), []
        ).append(r)
    ranked = [(i / len(own), r.id, r) for own in strata.values() for i, r in enumerate(own)]
    return [r for _, _, r in sorted(ranked, key=lambda item: item[:2])[:most]]


def share(k: int, n: int) -> Share:
    """`k` of `n` with its 95% interval (Wilson 1927); of nothing, None."""
    from scipy.stats import binomtest

    if not n:
        return Share(value=None, ci_low=None, ci_high=None)
    low, high = binomtest(k, n).proportion_ci(confidence_level=0.95, method="wilson")
    return Share(value=k / n, ci_low=float(low), ci_high=float(high))


def _changed(chosen: list[Record], names: list[str], project: Project) -> dict[str, list[_Changed]]:
    """By perturbation, the rows that it changes."""
    lines = [
        w
        for line in project.labels.values()
        for w in words(fold(line).replace(";", " "))
        if len(w) > 3
    ]
    keep = {
        *lines,
        *(w for label in project.labels for w in words(fold(label))),
    }  # a "new law" says nothing of New York
    made = {
        name: [_Changed(r, perturbed(name, r.text, keep=keep)) for r in chosen] for name in names
    }
    return {name: [c for c in own if c.text != c.row.text] for name, own in made.items()}


def _ask(
    model: Classifier,
    chosen: list[Record],
    changed: dict[str, list[_Changed]],
    asked: list[Case],
    *,
    several: bool,
) -> _Answered:
    """All texts in one call, those that the model reads alike once."""
    import numpy as np

    texts = list(
        dict.fromkeys([r.text for r in chosen] + [c.text for own in changed.values() for c in own])
    )
    texts = list(dict.fromkeys(texts + [text for case in asked for text in case.texts]))
    alike = model.first_identical(texts)
    distinct = sorted(set(alike))
    p = dict(zip(distinct, model.probabilities([texts[i] for i in distinct]), strict=True))
    rows = [p[i] for i in alike]
    answers = model.answers(np.stack(rows), multi_label=several) if rows else []
    return _Answered(*(dict(zip(texts, own, strict=True)) for own in (answers, rows, alike)))


def _flips(
    out: Path, changed: dict[str, list[_Changed]], told: _Answered, labels: list[str]
) -> dict[str, PerturbationScore]:
    """By perturbation what it does; and `flips.jsonl`, some of the rows whose answer flips."""
    found: dict[str, PerturbationScore] = {}
    shown_rows = []
    for name, own in changed.items():
        flipped = [c for c in own if told.answers[c.text] != told.answers[c.row.text]]
        before, under = _f1(own, told, labels)
        found[name] = PerturbationScore(
            rows=len(own),
            read_alike=sum(told.alike[c.text] == told.alike[c.row.text] for c in own),
            flips=len(flipped),
            flip_rate=share(len(flipped), len(own)),
            f1_macro_before=before,
            f1_macro=under,
            fall=None if before is None or under is None else before - under,
        )
        shown_rows += [
            {
                "perturbation": name,
                "id": c.row.id,
                "true": label_text(label_of(c.row)),
                "before": label_text(told.answers[c.row.text]),
                "after": label_text(told.answers[c.text]),
                "text": c.text,
            }
            for c in flipped[:SHOWN]
        ]
    atomic.write_lines(out / "flips.jsonl", shown_rows)
    return found


def _overall(changed: dict[str, list[_Changed]], found: Mapping[str, PerturbationScore]) -> Share:
    """The share of all changed texts whose answer flips. A row's variants flip together, so the interval is that of as many
    texts as there are rows: wider than it need be, never narrower."""
    texts, flips = sum(s.rows for s in found.values()), sum(s.flips for s in found.values())
    rows = len({c.row.id for own in changed.values() for c in own})
    interval = share(round(flips / texts * rows), rows) if texts else share(0, 0)
    return interval.model_copy(update={"value": flips / texts if texts else None})


def _f1(
    own: list[_Changed], told: _Answered, labels: list[str]
) -> tuple[float | None, float | None]:
    """Macro-F1 of the rows that the perturbation changes, over the labels that they have: before, and under it."""
    there = [label for label in labels if any(label in c.row.labels for c in own)]
    if not there:
        return None, None
    true = [label_of(c.row) for c in own]
    plain = f1_macro(true, [told.answers[c.row.text] for c in own], there)
    under = f1_macro(true, [told.answers[c.text] for c in own], there)
    return plain, under


def _graded(
    out: Path, cases: Cases, asked: list[Case], told: _Answered, labels: list[str]
) -> dict[str, CaseScore]:
    """By test its cases and failures; and `failures.jsonl`, some of the failing cases."""
    import numpy as np

    failed: dict[str, list[dict[str, str]]] = {name: [] for name in cases.tests}
    for case in asked:
        check = cases.tests[case.test]
        p = np.stack([told.p[text] for text in case.texts])
        mistake = failure(check, [told.answers[text] for text in case.texts], p, labels)
        if mistake is not None:
            about = {"test": case.test, "kind": check.kind, "texts": " / ".join(case.texts)}
            failed[case.test].append(about | mistake)
    atomic.write_lines(
        out / "failures.jsonl", [row for own in failed.values() for row in own[:SHOWN]]
    )
    size = Counter(case.test for case in asked)
    return {
        name: CaseScore(
            kind=check.kind,
            cases=size[name],
            failed=len(failed[name]),
            failure_rate=share(len(failed[name]), size[name]),
        )
        for name, check in cases.tests.items()
    }


def line(found: RobustnessResult) -> str:
    """The flip rates in a line, for a person."""
    rates = [f"{name} {p.flip_rate.value:.1%}" for name, p in found.perturbations.items() if p.rows]
    whole = found.flip_rate
    if whole.value is None:
        return "no test text was changed"
    between = f"{whole.ci_low:.1%} to {whole.ci_high:.1%}"
    return (
        f"{whole.value:.1%} of answers flip on {found.rows} rows  ({between}; {', '.join(rates)})"
    )


def cases_line(found: RobustnessResult) -> str:
    """The project's own tests in a line."""
    own = found.cases
    total, failed = sum(c.cases for c in own.values()), sum(c.failed for c in own.values())
    odd = [f"{name} {c.failed} of {c.cases}" for name, c in own.items() if c.failed]
    passed = f"{failed} of {total} fail, {len(own) - len(odd)} of {len(own)} tests pass"
    return passed + (f"  ({', '.join(odd)})" if odd else "")
