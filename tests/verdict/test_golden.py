"""Recorded evidence of rule version 1 leads to its verdict, whatever the code looks like by now."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.verdict import decide
from tasks.verdict.evidence import verify
from tests.conftest import ROOT
from tests.kit.golden_evidence import CASES, GOLDEN


@pytest.mark.parametrize("name", CASES)
def test_recorded_evidence_leads_to_its_verdict_byte_for_byte(name: str) -> None:
    """Where it fails, the arithmetic or a reason changed: that needs a new RULE_VERSION."""
    found = verify(GOLDEN / name)
    assert found.rule_version == decide.RULE_VERSION
    assert found.again == found.recorded and found.same


def test_the_recorded_verdicts_cover_groups_slices_limits_and_seeds() -> None:
    one, sets = (verify(GOLDEN / name).recorded for name in ("one-label", "label-sets"))
    assert one.groups and one.slices and one.measures and one.recipe and one.recipe.seeds == 3
    assert one.decision == "keep" and len(one.reasons) == 5 and one.rows == 63
    assert sets.decision == "inconclusive" and sets.more_rows and sets.groups is None


def test_changed_arithmetic_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decide, "alpha_spent", lambda alpha, use: alpha / use)
    assert verify(GOLDEN / "one-label").same is False


CHECK = """
import sys
from pathlib import Path
from tasks.verdict import decide
from tasks.verdict.evidence import verify
from tests.kit.golden_evidence import CASES, GOLDEN
print(decide.__file__, decide.decide.__doc__)
for name, make in CASES.items():
    made = make(Path(sys.argv[1]) / name)
    print(verify(GOLDEN / name).same, made.published.key, made.digest)
"""


def test_comments_and_docstrings_do_not_matter(tmp_path: Path) -> None:
    """Nothing digests source code: keys, digests and verdicts are the same without its prose."""
    bare = tmp_path / "bare"
    shutil.copytree(ROOT / "tasks", bare / "tasks", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (bare / "tasks").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
                and ast.get_docstring(node) is not None
            ):
                node.body[0] = ast.Pass()
        future = "from __future__ import annotations\n"  # must be first
        path.write_text(future + ast.unparse(tree).replace(future, ""), encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-P", "-c", CHECK, str(tmp_path / "stripped")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (bare, ROOT)))},
        capture_output=True,
        text=True,
        check=True,
    )
    first, *stripped = ran.stdout.splitlines()
    assert first == f"{bare / 'tasks' / 'verdict' / 'decide.py'} None"
    made = [make(tmp_path / "prose" / name) for name, make in CASES.items()]
    assert stripped == [f"True {m.published.key} {m.digest}" for m in made]
