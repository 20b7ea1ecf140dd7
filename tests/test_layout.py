"""The walls: what may import what, what must not stand in the sources, and whose `mlflow` it is."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TASKS = sorted((ROOT / "tasks").rglob("*.py"))
SOURCES = [*TASKS, *sorted((ROOT / "flows").rglob("*.py")), *sorted((ROOT / "mlflow").rglob("*.py"))]
OUTSIDE = {"prefect", "mlflow", "boto3"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(nodes: Iterator[ast.AST]) -> set[str]:
    """The top names of the modules that these nodes import."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.partition(".")[0])
    return found


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below that run when the module is imported: not those in functions."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield child
            yield from at_import(child)


def test_there_is_something_to_guard() -> None:
    assert {"tasks/verdict/decide.py", "flows/retrain.py", "mlflow/classifier.py"} <= {name_of(p) for p in SOURCES}


def test_the_guard_itself_sees() -> None:
    code = ast.parse(
        "import a.b\nif x:\n  from c.d import e\ndef f():\n  import g\nclass H:\n  import i\nfrom . import j"
    )
    assert imported(at_import(code)) == {"a", "c", "i"} and imported(ast.walk(code)) == {"a", "c", "i", "g"}
    assert sorted(dangers(ast.parse(DANGEROUS))) == sorted(set(DANGEROUS.splitlines()))
    assert list(dangers(ast.parse(SAFE))) == []


@pytest.mark.parametrize("path", TASKS, ids=name_of)
def test_tasks_know_neither_flows_nor_what_stands_outside(path: Path) -> None:
    assert imported(at_import(tree(path))) & OUTSIDE == set()
    assert imported(ast.walk(tree(path))) & {"flows", "prefect", "mlflow", "tests"} == set()


def test_tasks_import_where_prefect_mlflow_and_boto3_are_absent() -> None:
    names = [".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for p in TASKS]
    code = f"""
import importlib, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {OUTSIDE!r}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
for name in {names!r}:
    importlib.import_module(name)
print(len([m for m in sys.modules if m.partition(".")[0] == "tasks"]), {OUTSIDE!r} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(len(names)), "set()"]


def test_our_mlflow_folder_is_no_package_and_no_flow_hides_a_library() -> None:
    assert not (ROOT / "mlflow" / "__init__.py").exists()
    assert {p.name for p in (ROOT / "flows").iterdir()} & {"mlflow.py", "prefect.py", "types.py"} == set()


@pytest.mark.parametrize("path", [None, "."], ids=["plain", "PYTHONPATH=."])
def test_mlflow_is_the_installed_one(path: str | None) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | ({"PYTHONPATH": path} if path else {})
    code = "import mlflow; print(mlflow.__version__); print(mlflow.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    version, file = done.stdout.splitlines()
    assert version == importlib.metadata.version("mlflow")
    assert Path(file) == Path(str(importlib.metadata.distribution("mlflow").locate_file("mlflow/__init__.py")))


DANGEROUS = """import pickle
from joblib import load
import cloudpickle as c
f(trust_remote_code=True)
f(**{"trust_remote_code": True})
np.load(p, allow_pickle=True)
eval(x)
exec(x)
torch.load(p)
from torch import load
f(weights_only=False)"""
SAFE = """model.eval()
f(trust_remote_code=False)
np.load(p, allow_pickle=False)
safetensors.load(p)
re.compile(x)"""
PICKLES = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
SETTINGS = {("trust_remote_code", True), ("allow_pickle", True), ("weights_only", False)}


def dangers(module: ast.AST) -> Iterator[str]:
    """What in the module could run code that comes with data, as source."""
    for node in ast.walk(module):
        found = False
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = {alias.name for alias in node.names}
            found = bool(imported(iter([node])) & PICKLES)
            found |= isinstance(node, ast.ImportFrom) and node.module == "torch" and "load" in names
        elif isinstance(node, ast.Call):
            settings = [(k.arg, k.value) for k in node.keywords]
            for d in (k.value for k in node.keywords if isinstance(k.value, ast.Dict)):
                settings += [(k.value, v) for k, v in zip(d.keys, d.values, strict=True) if isinstance(k, ast.Constant)]
            found = any(isinstance(v, ast.Constant) and (k, v.value) in SETTINGS for k, v in settings)
            found |= ast.unparse(node.func) in {"eval", "exec", "torch.load", "__import__"}
        if found:
            yield ast.unparse(node).replace("'", '"')


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nothing_that_comes_with_data_is_run(path: Path) -> None:
    assert list(dangers(tree(path))) == []
    for node in ast.walk(tree(path)):  # settings that are gathered in a dict first
        if isinstance(node, ast.Dict):
            pairs = [
                (k.value, v.value)
                for k, v in zip(node.keys, node.values, strict=True)
                if isinstance(k, ast.Constant) and isinstance(v, ast.Constant)
            ]
            assert SETTINGS & set(pairs) == set()


@pytest.mark.parametrize("path", TASKS, ids=name_of)
def test_modules_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 350


def test_the_listed_packages_are_the_folders_that_are_packages() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    folders = [p.parent.relative_to(ROOT) for p in ROOT.glob("[!.]*/**/__init__.py")]
    packages = {".".join(f.parts) for f in folders if f.parts[0] not in {"tests", "build", "node_modules"}}
    assert set(listed) == packages and len(listed) == len(packages)
