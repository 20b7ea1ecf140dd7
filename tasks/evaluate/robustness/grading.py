"""Grade the answers to a project's own test cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tasks.evaluate.robustness.cases import Case, Cases, Check
from tasks.evaluate.robustness.flips import AnsweredTexts
from tasks.figures import Figures
from tasks.records import Label, label_text
from tasks.statistics.proportions import Proportion, proportion

if TYPE_CHECKING:
    import numpy as np

LEAST_MOVE = 0.01  # of a probability, where a directional test gives no `by`


class CaseScore(Figures):
    """How many cases of one of the project's own tests fail."""

    kind: str
    cases: int
    failed: int
    failure_rate: Proportion


def grade_cases(
    cases: Cases, filled: Sequence[Case], answered: AnsweredTexts
) -> tuple[dict[str, CaseScore], dict[str, list[dict[str, str]]]]:
    """The score of each test, and its failing cases as rows of a table."""
    import numpy as np

    failures: dict[str, list[dict[str, str]]] = {name: [] for name in cases.tests}
    for case in filled:
        check = cases.tests[case.test]
        answers = [answered.answers[text] for text in case.texts]
        p = np.stack([answered.p[text] for text in case.texts])
        failure = find_failure(check, answers, p, answered.labels)
        if failure is not None:
            row = {"test": case.test, "kind": check.kind, "texts": " / ".join(case.texts)}
            failures[case.test].append(row | failure)
    sizes = Counter(case.test for case in filled)
    scores = {
        name: CaseScore(
            kind=check.kind,
            cases=sizes[name],
            failed=len(failures[name]),
            failure_rate=proportion(len(failures[name]), sizes[name]),
        )
        for name, check in cases.tests.items()
    }
    return scores, failures


def find_failure(
    check: Check, answers: Sequence[Label], p: np.ndarray, labels: Sequence[str]
) -> dict[str, str] | None:
    """What one case expected and what was answered, where the expectation is not met.

    `answers` are to the case's texts, `p` their probabilities, shape (texts, labels), in the order
    of `labels`, the model's own.
    """
    if check.kind == "invariance":
        if len(set(answers)) == 1:
            return None
        answered = " / ".join(dict.fromkeys(map(label_text, answers)))
        return {"expected": "the same answer", "answered": answered}
    expected = check.label or ()
    if check.kind == "minimum_functionality":
        answer = answers[0]
        if answer == (tuple(sorted(set(expected))) if isinstance(answer, tuple) else expected[0]):
            return None
        return {"expected": label_text(expected), "answered": label_text(answer)}
    by = LEAST_MOVE if check.by is None else check.by
    wanted = f"the probability of {expected[0]} {check.moves}s by {by:g}"
    if expected[0] not in labels:  # a champion from before the label
        return {"expected": wanted, "answered": "the model has no such label"}
    before, after = (float(v) for v in p[:, list(labels).index(expected[0])])
    if (after - before if check.moves == "rise" else before - after) >= by:
        return None
    return {"expected": wanted, "answered": f"{before:.3f} to {after:.3f}"}
