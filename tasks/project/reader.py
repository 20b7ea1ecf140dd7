"""Read a project file. A mistake is a UserError with the file, key, value and remedy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from tasks.errors import UserError, closest
from tasks.project.project import Project

Model = TypeVar("Model", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """YAML 1.2 where it matters: `1e-4` is a number, `off` and `no` are text, keys are unique."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
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


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    lines: dict[str, int] = {}
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        line = key_node.start_mark.line + 1
        if not isinstance(key, str):
            source = key_node.value if isinstance(key_node, yaml.ScalarNode) else key
            raise UserError(
                f"line {line}: the key {source!r} is read by YAML as {type(key).__name__}: put it "
                "in quotes"
            )
        if key in lines:
            raise UserError(
                f"line {line}: the key {key!r} is repeated (first on line {lines[key]}): remove one"
            )
        lines[key] = line
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)


def load_project(path: Path, overrides: list[str] | tuple[str, ...] = ()) -> Project:
    """The project in `path` with `section.key=value` overrides applied. Raises UserError."""
    raw = read_mapping(
        path, if_missing="give the path of a project file, or write one with `reseed init`"
    )
    for override in overrides:
        _apply_override(raw, override)
    return validate_mapping(Project, raw, path).in_folder(path.absolute().parent)


def read_mapping(
    path: Path, *, if_missing: str, start_with: str = "`name:`, `labels:`, `data:`"
) -> dict[str, Any]:
    """The keys and values of a YAML file.

    Raises UserError: `if_missing` is the remedy where there is no file, `start_with` names the
    first keys where it holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: {if_missing}") from None
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"{path} cannot be read: {e}") from None
    try:
        raw = yaml.load(text, Loader=_Loader)  # noqa: S506  (a SafeLoader)
    except UserError as e:
        raise UserError(f"{path}, {e}") from None
    except (yaml.YAMLError, ValueError) as e:  # a date such as 2024-99-99 is a ValueError
        raise UserError(f"{path} is not YAML: {' '.join(str(e).split())}") from None
    if not isinstance(raw, dict):
        raise UserError(
            f"{path} holds {type(raw).__name__}, not keys and values: start with {start_with}"
        )
    return raw


def validate_mapping(model: type[Model], raw: dict[str, Any], path: Path) -> Model:
    """`raw`, which was read from `path`, as a `model`. Raises UserError with a line per mistake."""
    try:
        return model.model_validate(raw)
    except ValidationError as e:
        raise UserError("\n".join(_messages(path, e, model))) from None


def _apply_override(raw: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {override}: write it as section.key=value, such as train.epochs=3")
    *path, last = key.strip().split(".")
    section = raw
    for name in path:
        section = section.setdefault(name, {})
        if not isinstance(section, dict):
            raise UserError(
                f"--set {override}: {name!r} is a value, not a section: write {name}=VALUE"
            )
    try:
        section[last] = yaml.load(value, Loader=_Loader) if value.strip() else ""  # noqa: S506
    except UserError as e:
        raise UserError(f"--set {override}: {e}") from None
    except (yaml.YAMLError, ValueError):
        section[last] = value


# where Pydantic's message speaks of Python and not of YAML
_REMEDIES = {
    "model_type": "write its keys and values below it, or remove it",
    "dict_type": "write its keys and values below it",
    "tuple_type": "write a list, such as [one, two]",
    "bool_type": "write true or false",
}


def _messages(path: Path, error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One sentence per mistake: file, key, value, remedy."""
    messages = []
    for e in error.errors():
        *section, name = [str(part) for part in e["loc"]] or [""]
        key, value = ".".join([*section, name]), _shorten(e["input"])
        if e["type"] == "extra_forbidden":
            known = _keys_of(model, section)
            match = closest(name, known)
            remedy = f"did you mean {match!r}?" if match else f"use one of {', '.join(known)}"
            message = f"unknown key {key!r} (value {value}): {remedy}"
        elif e["type"] == "missing":
            message = f"{key!r} is missing: add it"
        elif section == ["labels"] and e["input"] is None:
            message = (
                f"the label {name!r} has no description: write one line of what its texts are about"
            )
        else:
            message = _REMEDIES.get(e["type"], e["msg"].removeprefix("Value error, "))
            message = message[:1].lower() + message[1:]
            if key:
                is_section = isinstance(e["input"], dict)
                message = f"{key}{'' if is_section else f' is {value}'}: {message}"
        messages.append(f"{path}: {message}")
    return messages


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _keys_of(model: Any, section: list[str]) -> list[str]:
    """The keys of the model that is found at the path `section` of `model`."""
    for name in section:
        if get_origin(model) is dict:  # the name is the user's own
            model = get_args(model)[1]
            continue
        field = model.model_fields.get(name) if hasattr(model, "model_fields") else None
        model = field.annotation if field else None
    return list(model.model_fields) if hasattr(model, "model_fields") else []
