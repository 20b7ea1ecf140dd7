"""The robustness stage: how many answers flip when test texts are perturbed, and which of the project's own cases fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import atomic
from tasks.dataset.sealed import open_sealed
from tasks.evaluate.cases import Case, Cases, failure, filled, load_cases
from tasks.evaluate.perturb import perturbed
from tasks.labels import label_of
from tasks.project import Project
from tasks.records import NO_LABEL, Label, Record, label_text
from tasks.stage import Stage, stage
from tasks.statistics.metrics import f1_macro
from tasks.text.tokens import fold, words

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
    return bool((e.robustness and e.perturbations) or e.cases)


def robustness(project: Project, bundle: Path, *, digest: str, sealed: Stage, beside: Path, home: Path) -> Stage:
    """Flip rates of a sample of the test rows under each perturbation, and the failures of `evaluate.cases`.

    Counts: `flip_rate` (over all perturbations), `perturbations` and `cases`, by name. Files: `robustness.json`, and some examples
    in `flips.jsonl` and `failures.jsonl`. Raises UserError for a mistake in the file of cases.
    """
    e = project.evaluate
    names: list[str] = list(dict.fromkeys(e.perturbations)) if e.robustness else []
    cases = load_cases(project, beside=beside) if e.cases else None

    def build(out: Path, work: Path) -> dict[str, Any]:
        from tasks.model.bundle import Classifier

        rows = open_sealed(sealed, home=home, by=f"robustness of bundle {digest[:12]}") if names else []
        chosen = sample(rows, e.robustness)
        changed = _changed(chosen, names, project)
        asked = filled(cases) if cases else []
        model = Classifier.load(bundle, digest=digest)
        told = _ask(model, chosen, changed, asked, several=project.multi_label)
        found = {"rows": len(chosen), **_flips(out, changed, told, project.label_names)}
        found["cases"] = _graded(out, cases, asked, told, model.labels) if cases else {}
        atomic.write_json(out / "robustness.json", found)
        return found

    params = {"labels": project.labels, "rows": e.robustness, "perturbations": names}
    params |= {"multi_label": project.multi_label, "cases": cases.model_dump(mode="json") if cases else None}
    inputs = {"bundle": digest, "sealed": sealed.digest}
    return stage(home, "robustness", version=VERSION, params=params, inputs=inputs, build=build)


def sample(rows: Sequence[Record], most: int) -> list[Record]:
    """At most `most` rows: each label's first by content hash, in the labels' proportions, at least one a label where `most` allows.

    A row with several labels counts for its scarcest.
    """
    size = Counter(label for r in rows for label in r.labels or (NO_LABEL,))
    strata: dict[str, list[Record]] = {}
    for r in sorted(rows, key=lambda r: r.id):
        strata.setdefault(min(r.labels or (NO_LABEL,), key=lambda label: (size[label], label)), []).append(r)
    ranked = [(i / len(own), r.id, r) for own in strata.values() for i, r in enumerate(own)]
    return [r for _, _, r in sorted(ranked, key=lambda item: item[:2])[:most]]


def share(k: int, n: int) -> dict[str, float | None]:
    """`k` of `n` with its 95% interval (Wilson 1927); of nothing, None."""
    from scipy.stats import binomtest

    if not n:
        return {"value": None, "ci_low": None, "ci_high": None}
    low, high = binomtest(k, n).proportion_ci(confidence_level=0.95, method="wilson")
    return {"value": k / n, "ci_low": float(low), "ci_high": float(high)}


def _changed(chosen: list[Record], names: list[str], project: Project) -> dict[str, list[_Changed]]:
    """By perturbation, the rows that it changes."""
    lines = [w for line in project.labels.values() for w in words(fold(line).replace(";", " ")) if len(w) > 3]
    keep = {
        *lines,
        *(w for label in project.labels for w in words(fold(label))),
    }  # a "new law" says nothing of New York
    made = {name: [_Changed(r, perturbed(name, r.text, keep=keep)) for r in chosen] for name in names}
    return {name: [c for c in own if c.text != c.row.text] for name, own in made.items()}


def _ask(
    model: Classifier, chosen: list[Record], changed: dict[str, list[_Changed]], asked: list[Case], *, several: bool
) -> _Answered:
    """All texts in one call, those that the model reads alike once."""
    import numpy as np

    texts = list(dict.fromkeys([r.text for r in chosen] + [c.text for own in changed.values() for c in own]))
    texts = list(dict.fromkeys(texts + [text for case in asked for text in case.texts]))
    alike = model.alike(texts)
    distinct = sorted(set(alike))
    p = dict(zip(distinct, model.probabilities([texts[i] for i in distinct]), strict=True))
    rows = [p[i] for i in alike]
    answers = model.answers(np.stack(rows), multi_label=several) if rows else []
    return _Answered(*(dict(zip(texts, own, strict=True)) for own in (answers, rows, alike)))


def _flips(out: Path, changed: dict[str, list[_Changed]], told: _Answered, labels: list[str]) -> dict[str, Any]:
    """`flip_rate` and `perturbations`; and `flips.jsonl`, some of the rows whose answer flips."""
    found: dict[str, Any] = {}
    shown_rows = []
    for name, own in changed.items():
        flipped = [c for c in own if told.answers[c.text] != told.answers[c.row.text]]
        found[name] = {
            "rows": len(own),
            "read_alike": sum(told.alike[c.text] == told.alike[c.row.text] for c in own),
            "flips": len(flipped),
            "flip_rate": share(len(flipped), len(own)),
            **_f1(own, told, labels),
        }
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
    return {"flip_rate": _overall(changed, found), "perturbations": found}


def _overall(changed: dict[str, list[_Changed]], found: dict[str, Any]) -> dict[str, float | None]:
    """The share of all changed texts whose answer flips. A row's variants flip together, so the interval is that of as many
    texts as there are rows: wider than it need be, never narrower."""
    texts, flips = (sum(own[k] for own in found.values()) for k in ("rows", "flips"))
    rows = len({c.row.id for own in changed.values() for c in own})
    interval = share(round(flips / texts * rows), rows) if texts else share(0, 0)
    return {**interval, "value": flips / texts if texts else None}


def _f1(own: list[_Changed], told: _Answered, labels: list[str]) -> dict[str, float | None]:
    """Macro-F1 of the rows that the perturbation changes, over the labels that they have: before, under it, and its fall."""
    there = [label for label in labels if any(label in c.row.labels for c in own)]
    if not there:
        return {"f1_macro_before": None, "f1_macro": None, "fall": None}
    true = [label_of(c.row) for c in own]
    plain = f1_macro(true, [told.answers[c.row.text] for c in own], there)
    under = f1_macro(true, [told.answers[c.text] for c in own], there)
    return {"f1_macro_before": plain, "f1_macro": under, "fall": plain - under}


def _graded(out: Path, cases: Cases, asked: list[Case], told: _Answered, labels: list[str]) -> dict[str, Any]:
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
    atomic.write_lines(out / "failures.jsonl", [row for own in failed.values() for row in own[:SHOWN]])
    size = Counter(case.test for case in asked)
    return {
        name: {
            "kind": check.kind,
            "cases": size[name],
            "failed": len(failed[name]),
            "failure_rate": share(len(failed[name]), size[name]),
        }
        for name, check in cases.tests.items()
    }


def line(found: dict[str, Any]) -> str:
    """The flip rates in a line, for a person."""
    own = found["perturbations"]
    rates = [f"{name} {p['flip_rate']['value']:.1%}" for name, p in own.items() if p["rows"]]
    whole = found["flip_rate"]
    if whole["value"] is None:
        return "no test text was changed"
    between = f"{whole['ci_low']:.1%} to {whole['ci_high']:.1%}"
    return f"{whole['value']:.1%} of answers flip on {found['rows']} rows  ({between}; {', '.join(rates)})"


def cases_line(found: dict[str, Any]) -> str:
    """The project's own tests in a line."""
    own = found["cases"]
    total, failed = (sum(c[k] for c in own.values()) for k in ("cases", "failed"))
    odd = [f"{name} {c['failed']} of {c['cases']}" for name, c in own.items() if c["failed"]]
    return f"{failed} of {total} fail, {len(own) - len(odd)} of {len(own)} tests pass" + (
        f"  ({', '.join(odd)})" if odd else ""
    )
