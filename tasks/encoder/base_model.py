"""The encoder that is fine-tuned: its path, its name and its licence."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import yaml

from tasks.project import Project
from tasks.references import resolve
from tasks.workspace import Workspace

NOT_STATED = "not stated"
_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*$", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^# +([\w.\-/ ]{1,60})$", re.MULTILINE)
_GENERIC_NAMES = {"model", "encoder", "models", "data"}
_MAX_LICENCE = 60  # characters


@dataclass(frozen=True, slots=True)
class EncoderInfo:
    """The encoder's name, and the licence of its weights or `not stated`."""

    name: str
    licence: str


def resolve_encoder(project: Project, workspace: Workspace) -> Path:
    """The local path of the checkpoint that `train.model` names. Raises what `resolve` raises."""
    return resolve(
        project.train.model, config_dir=project.config_dir, cache=workspace.cache, kind="model"
    )


def describe_encoder(reference: str, *, config_dir: Path, cache: Path) -> EncoderInfo:
    """The encoder's name and licence, from its files.

    The name is the README's heading, otherwise that of `short_name`. The licence is from the
    README's front matter (as on the Hugging Face Hub), the first line of a LICENSE file, or the
    metadata of the package that contains it. Raises what `resolve` raises.
    """
    folder = resolve(reference, config_dir=config_dir, cache=cache, kind="model")
    folder = folder if folder.is_dir() else folder.parent
    readme = _read(folder / "README.md")
    heading = _HEADING.search(_FRONT_MATTER.sub("", readme, count=1).lstrip())
    licence = (
        _licence_in_readme(readme)
        or _licence_in_file(folder)
        or _licence_of_package(reference)
        or NOT_STATED
    )
    return EncoderInfo(
        heading.group(1).strip() if heading else short_name(reference), licence[:_MAX_LICENCE]
    )


def short_name(reference: str) -> str:
    """The last specific part of a reference: `package:bert_tiny/model` is bert_tiny."""
    parts = [part for part in re.split(r"[/:]", reference) if part]
    specific = [part for part in parts if part not in _GENERIC_NAMES]
    return (specific or parts)[-1]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _licence_in_readme(readme: str) -> str:
    match = _FRONT_MATTER.match(readme)
    try:
        front_matter = yaml.safe_load(match.group(1)) if match else None
    except yaml.YAMLError:
        return ""
    licence = front_matter.get("license") if isinstance(front_matter, dict) else None
    return licence.strip() if isinstance(licence, str) else ""


def _licence_in_file(folder: Path) -> str:
    for name in ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE"):
        for line in _read(folder / name).splitlines():
            if title := line.strip(" #"):
                return title
    return ""


def _licence_of_package(reference: str) -> str:
    """`License-Expression` or `License` of the distribution that has the `package:` reference."""
    if not reference.startswith("package:"):
        return ""
    name = reference.removeprefix("package:").partition("/")[0]
    for distribution in metadata.packages_distributions().get(name, []):
        fields = metadata.metadata(distribution)
        for field in ("License-Expression", "License"):
            lines = str(fields[field]).splitlines() if field in fields else []
            if lines and lines[0].strip():
                return lines[0].strip()
    return ""
