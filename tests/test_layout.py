"""The walls: what may import what, what must not be in the sources, how long a module may be, and whose `mlflow` it is."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = {"prefect", "mlflow", "boto3"}
MOST_LINES, MOST_MODULES = 300, 13
ONE_MODULE_PER_CHECK = {"tasks/curate/checks"}  # so it may grow
STILL_LONG: set[str] = set()

# what a part of flows imports of flows, besides itself
BASE = {"flows.settings", "flows.progress", "flows.tracking"}
MAY_IMPORT = {
    "flows.settings": set(),
    "flows.progress": set(),
    "flows.tracking": BASE,
    "flows.registry": BASE,
    "flows.serving": {*BASE, "flows.registry"},
    "flows.steps": BASE,
    "flows.context": {*BASE, "flows.registry", "flows.steps"},
}
COMMANDS = {
    "flows.cli",
    "flows.generate",
    "flows.retrain",
    "flows.tune",
}  # only flows.cli imports them
# libraries of some parts alone: the registry, predicting and serving need no Prefect
ONLY_IN = {
    "prefect": {
        "flows.generate",
        "flows.progress",
        "flows.publishing",
        "flows.retrain",
        "flows.retraining",
        "flows.review",
        "flows.steps",
        "flows.tune",
    },
    "fastapi": {"flows.review", "flows.serving"},
    "nicegui": {"flows.review"},
    "boto3": {"tasks.references"},
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def part_of(module: str) -> str:
    """The top package below flows or tasks, such as flows.registry."""
    return ".".join(module.split(".")[:2])


def modules_in(folder: str) -> dict[str, Path]:
    return {module_of(path): path for path in sorted((ROOT / folder).rglob("*.py"))}


TASKS, FLOWS = modules_in("tasks"), modules_in("flows")
MODULES = TASKS | FLOWS
SOURCES = [*MODULES.values(), *sorted((ROOT / "mlflow").rglob("*.py"))]


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(nodes: Iterable[ast.AST], package: str) -> Iterator[str]:
    """The dotted names that these nodes import: modules, and what is imported from them. `package` is where the nodes are."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = (
                resolve_name("." * node.level + (node.module or ""), package)
                if node.level
                else node.module
            )
            yield from (f"{source}.{alias.name}" for alias in node.names)


def imported(nodes: Iterable[ast.AST], package: str = "here") -> set[str]:
    """The top names of the modules that these nodes import."""
    return {name.partition(".")[0] for name in imports(nodes, package)}


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below that run when the module is imported: not those in functions."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield child
            yield from at_import(child)


def package_of(module: str, path: Path) -> str:
    return module if path.name == "__init__.py" else module.rpartition(".")[0]


def import_graph(
    sources: Mapping[str, ast.Module], packages: Mapping[str, str]
) -> dict[str, set[str]]:
    """The modules that each module imports, wherever in it: at the top, in a function, or for type checking only."""
    graph: dict[str, set[str]] = {}
    for module, code in sources.items():
        graph[module] = set()
        for name in imports(ast.walk(code), packages[module]):
            while name and name not in sources:
                name = name.rpartition(".")[0]
            graph[module] |= {name} - {"", module}
    return graph


def cycle_in(graph: Mapping[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle, the first one again at the end; empty where there is no circle."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as e:
        return list(e.args[1])
    return []


TREES = {module: tree(path) for module, path in MODULES.items()}
GRAPH = import_graph(TREES, {module: package_of(module, path) for module, path in MODULES.items()})


def test_there_is_something_to_guard() -> None:
    assert {"tasks/verdict/decide.py", "flows/retrain.py", "mlflow/classifier.py"} <= {
        name_of(p) for p in SOURCES
    }
    assert sum(map(len, GRAPH.values())) > 500


def test_the_guard_itself_sees() -> None:
    code = ast.parse(
        "import a.b\nif x:\n  from c.d import e\ndef f():\n  import g\nclass H:\n  import i\nfrom . import j"
    )
    assert imported(at_import(code)) == {"a", "c", "i", "here"}
    assert imported(ast.walk(code)) == {"a", "c", "i", "g", "here"}
    assert sorted(dangers(ast.parse(DANGEROUS))) == sorted(set(DANGEROUS.splitlines()))
    assert list(dangers(ast.parse(SAFE))) == []
    assert gathered_settings(ast.parse('{"allow_pickle": True, "x": False}')) == {
        ("allow_pickle", True),
        ("x", False),
    }


@pytest.mark.parametrize(
    "back",
    [
        "import a.one",
        "from a import one",
        "from a.one import x",
        "from . import one",
        "from .one import x",
    ],
)
@pytest.mark.parametrize(
    "where", ["{}", "def f():\n  {}", "if TYPE_CHECKING:\n  {}"], ids=["top", "lazy", "types"]
)
def test_the_guard_sees_a_circle(back: str, where: str) -> None:
    sources = {
        "a": ast.parse(""),
        "a.one": ast.parse("import a.two"),
        "a.two": ast.parse(where.format(back)),
    }
    graph = import_graph(sources, dict.fromkeys(sources, "a"))
    assert set(cycle_in(graph)) == {"a.one", "a.two"}
    assert cycle_in({**graph, "a.two": set()}) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert " -> ".join(reversed(cycle_in(GRAPH))) == ""


def test_tasks_know_neither_flows_nor_what_stands_outside() -> None:
    first = {name_of(p): imported(at_import(TREES[m])) & OUTSIDE for m, p in TASKS.items()}
    ever = {
        name_of(p): imported(ast.walk(TREES[m])) & {"flows", "prefect", "mlflow", "tests"}
        for m, p in TASKS.items()
    }
    assert {path: found for path, found in first.items() if found} == {}, (
        "imported when the module is"
    )
    assert {path: found for path, found in ever.items() if found} == {}


def test_flows_know_no_tests_and_keep_to_their_layers() -> None:
    wrong = []
    for module, path in FLOWS.items():
        part = part_of(module)
        used = {part_of(m) for m in GRAPH[module] if m in FLOWS} - {part, "flows"}
        allowed = MAY_IMPORT.get(part, used if part == "flows.cli" else used - COMMANDS)
        wrong += [f"{name_of(path)} imports {m}" for m in sorted(used - allowed)]
        wrong += [f"{name_of(path)} imports tests"] * ("tests" in imported(ast.walk(TREES[module])))
    assert wrong == []
    assert {part_of(m) for m in FLOWS} >= MAY_IMPORT.keys() | COMMANDS


def test_a_library_is_imported_where_it_belongs() -> None:
    found = {m: imported(ast.walk(code)) for m, code in TREES.items()}
    wrong = [
        f"{name_of(MODULES[m])} imports {library}"
        for m, names in found.items()
        for library, parts in ONLY_IN.items()
        if library in names and part_of(m) not in parts
    ]
    assert wrong == []


@pytest.mark.slow
def test_tasks_import_where_prefect_mlflow_and_boto3_are_absent() -> None:
    names = list(TASKS)
    code = f"""
import importlib, sys
from importlib.machinery import PathFinder

find_spec = PathFinder.find_spec  # returns None for absent packages, which libraries probe for
PathFinder.find_spec = staticmethod(
    lambda name, *more: None if name.partition(".")[0] in {OUTSIDE!r} else find_spec(name, *more)
)
for name in {names!r}:
    importlib.import_module(name)
print(len([m for m in sys.modules if m.partition(".")[0] == "tasks"]), {OUTSIDE!r} & set(sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(len(names)), "set()"]


def test_our_mlflow_folder_is_no_package_and_no_flow_hides_a_library() -> None:
    assert not (ROOT / "mlflow" / "__init__.py").exists()
    assert {p.name for p in (ROOT / "flows").iterdir()} & {
        "mlflow.py",
        "prefect.py",
        "types.py",
    } == set()


@pytest.mark.parametrize("path", [None, "."], ids=["plain", "PYTHONPATH=."])
def test_mlflow_is_the_installed_one(path: str | None) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | (
        {"PYTHONPATH": path} if path else {}
    )
    code = "import mlflow; print(mlflow.__version__); print(mlflow.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    version, file = done.stdout.splitlines()
    assert version == importlib.metadata.version("mlflow")
    assert Path(file) == Path(
        str(importlib.metadata.distribution("mlflow").locate_file("mlflow/__init__.py"))
    )


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
                settings += [
                    (k.value, v)
                    for k, v in zip(d.keys, d.values, strict=True)
                    if isinstance(k, ast.Constant)
                ]
            found = any(
                isinstance(v, ast.Constant) and (k, v.value) in SETTINGS for k, v in settings
            )
            found |= ast.unparse(node.func) in {"eval", "exec", "torch.load", "__import__"}
        if found:
            yield ast.unparse(node).replace("'", '"')


def gathered_settings(module: ast.AST) -> set[tuple[object, object]]:
    """The pairs of constants in the dicts of the module: settings that are gathered before a call."""
    return {
        (k.value, v.value)
        for node in ast.walk(module)
        if isinstance(node, ast.Dict)
        for k, v in zip(node.keys, node.values, strict=True)
        if isinstance(k, ast.Constant) and isinstance(v, ast.Constant)
    }


def test_nothing_that_comes_with_data_is_run() -> None:
    found = {
        name_of(p): [*dangers(tree(p)), *sorted(SETTINGS & gathered_settings(tree(p)))]
        for p in SOURCES
    }
    assert {path: what for path, what in found.items() if what} == {}


def test_modules_are_short() -> None:
    lines = {name_of(p): len(p.read_text(encoding="utf-8").splitlines()) for p in MODULES.values()}
    long = {path: n for path, n in lines.items() if n > MOST_LINES}
    assert {path: n for path, n in long.items() if path not in STILL_LONG} == {}, (
        f"more than {MOST_LINES} lines"
    )
    assert STILL_LONG - long.keys() == set(), "short by now: take them off STILL_LONG"


def test_folders_hold_few_modules() -> None:
    modules = Counter(name_of(p.parent) for p in MODULES.values())
    many = {folder: n for folder, n in modules.items() if n > MOST_MODULES}
    assert many.keys() - ONE_MODULE_PER_CHECK == set()


def test_the_listed_packages_are_the_folders_that_are_packages() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "setuptools"
    ]["packages"]
    folders = [p.parent.relative_to(ROOT) for p in ROOT.glob("[!.]*/**/__init__.py")]
    packages = {
        ".".join(f.parts) for f in folders if f.parts[0] not in {"tests", "build", "node_modules"}
    }
    assert set(listed) == packages and len(listed) == len(packages)
