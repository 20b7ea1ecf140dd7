"""Read a project file. Every mistake in it is one UserError that names the file, the key, the value and the remedy."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from tasks.errors import UserError
from tasks.project import Project

Read = TypeVar("Read", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """YAML in which `1e-4` is a number, a key that stands twice is an error, and `off` and `no` are words, as in YAML 1.2."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in own if tag != "tag:yaml.org,2002:bool"]
    for first, own in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
FLOAT = (
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*)(?:\.\d*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(*FLOAT)


def _mapping(loader: Any, node: Any, deep: bool = False) -> dict[Any, Any]:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=deep)
        line = key_node.start_mark.line + 1
        if not isinstance(key, str):
            wrote = key_node.value if isinstance(key_node, yaml.ScalarNode) else key
            raise UserError(
                f"line {line}: the key {wrote!r} is read by YAML as {type(key).__name__}: put it in quotes"
            )
        if key in seen:
            raise UserError(
                f"line {line}: the key {key!r} stands twice (first on line {seen[key]}); remove one"
            )
        seen[key] = line
    return dict(yaml.SafeLoader.construct_mapping(loader, node, deep=deep))


_Loader.add_constructor(
    "tag:yaml.org,2002:map", lambda loader, node: _mapping(loader, node, deep=True)
)


def load_project(path: Path, overrides: list[str] | tuple[str, ...] = ()) -> Project:
    """The project in `path` with `section.key=value` overrides applied. Raises UserError."""
    raw = read_mapping(
        path, absent="give the path of a project file, or write one with `reseed init`"
    )
    for override in overrides:
        _override(raw, override)
    return validate_mapping(Project, raw, path).in_folder(path.absolute().parent)


def read_mapping(
    path: Path, *, absent: str, begin: str = "`name:`, `labels:`, `data:`"
) -> dict[str, Any]:
    """What the YAML file holds. Raises UserError; `absent` and `begin` say what to do where it is not there, or no mapping."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} is not there: {absent}") from None
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"{path} can't be read: {e}") from None
    try:
        raw = yaml.load(text, Loader=_Loader)  # noqa: S506  (a SafeLoader)
    except UserError as e:
        raise UserError(f"{path}, {e}") from None
    except (yaml.YAMLError, ValueError) as e:  # a date such as 2024-99-99 is a ValueError
        raise UserError(f"{path} is not YAML: {' '.join(str(e).split())}") from None
    if not isinstance(raw, dict):
        raise UserError(
            f"{path} holds {type(raw).__name__}, not keys and values: start with {begin}"
        )
    return raw


def validate_mapping(model: type[Read], raw: dict[str, Any], path: Path) -> Read:
    """`raw`, which `path` held, as the strict `model`. Raises UserError, a sentence a mistake."""
    try:
        return model.model_validate(raw)
    except ValidationError as e:
        raise UserError("\n".join(_sentences(path, e, model))) from None


def _override(raw: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {override}: write it as section.key=value, such as train.epochs=3")
    *path, last = key.strip().split(".")
    section = raw
    for name in path:
        section = section.setdefault(name, {})
        if not isinstance(section, dict):
            raise UserError(f"--set {override}: {name!r} is a value, not a section")
    try:
        section[last] = yaml.load(value, Loader=_Loader) if value.strip() else ""  # noqa: S506
    except UserError as e:
        raise UserError(f"--set {override}: {e}") from None
    except (yaml.YAMLError, ValueError):
        section[last] = value


# in the words of the file, where Pydantic speaks of Python
REMEDIES = {
    "model_type": "write its keys and values below it, or leave it out",
    "dict_type": "write its keys and values below it",
    "tuple_type": "write a list, such as [one, two]",
    "bool_type": "write true or false",
}


def _sentences(path: Path, error: ValidationError, model: Any) -> list[str]:
    """One sentence a mistake: file, key, value, remedy."""
    lines = []
    for e in error.errors():
        where = [str(p) for p in e["loc"]]
        key = ".".join(where)
        if e["type"] == "extra_forbidden":
            known = _keys(model, where[:-1])
            close = difflib.get_close_matches(where[-1], known, n=1, cutoff=0.4)
            remedy = (
                f"did you mean {close[0]!r}?" if close else f"the keys here are {', '.join(known)}"
            )
            lines.append(f"{path}: unknown key {key!r} (value {_short(e['input'])}): {remedy}")
        elif e["type"] == "missing":
            lines.append(f"{path}: {key!r} is missing: add it")
        elif where[:1] == ["labels"] and len(where) > 1 and e["input"] is None:
            lines.append(
                f"{path}: the label {where[-1]!r} has no description: write one line of what its texts are about"
            )
        else:
            message = REMEDIES.get(e["type"], e["msg"].removeprefix("Value error, "))
            value = "" if isinstance(e["input"], dict) else f" is {_short(e['input'])}"
            lines.append(f"{path}: {key or 'the file'}{value}: {message[:1].lower() + message[1:]}")
    return lines


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _keys(model: Any, where: list[str]) -> list[str]:
    for name in where:
        if get_origin(model) is dict:  # the name is the user's own
            model = get_args(model)[1]
            continue
        field = model.model_fields.get(name) if hasattr(model, "model_fields") else None
        model = field.annotation if field else None
    return list(model.model_fields) if hasattr(model, "model_fields") else []
