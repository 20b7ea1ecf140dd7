"""Turn a reference in a project file into a local path.

path/to/file              relative to the project file
package:NAME/inner/path   a file of an installed package, which is not imported
package:NAME*/inner/*.part*#sha256=HEX
                          the matching files of all installed packages, joined in order of name
s3://bucket/key           one object, or every object below a prefix that ends in /
hf:owner/name             a model of the Hugging Face Hub, or for data hf:owner/name[:split]
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
from pathlib import Path, PurePosixPath
from typing import Any

from tasks import atomic
from tasks.errors import TransientError, UserError


def resolve(reference: str, *, config_dir: Path, cache: Path, kind: str = "data") -> Path:
    """The local path of `reference`; what is remote is downloaded into `cache`.

    Raises UserError where it does not exist, TransientError where a store cannot be reached.
    """
    scheme, _, rest = reference.partition(":")
    if scheme == "package":
        return _join_parts(reference, cache) if "*" in rest else _package(reference, rest)
    if scheme == "s3":
        return _s3(reference, cache)
    if scheme == "hf":
        return _hub_model(rest, cache) if kind == "model" else _hub_data(rest, cache)
    path = Path(reference).expanduser()
    path = path if path.is_absolute() else config_dir / path
    if not path.exists():
        raise UserError(
            f"{reference!r} does not exist: looked for {path}; paths are relative to the project "
            "file"
        )
    return path


def check_reference(reference: str, *, config_dir: Path) -> None:
    """Raise UserError for a missing local path or package, without downloading or writing."""
    if reference.startswith("package:") and "*" in reference:
        _find_parts(reference)
    elif not reference.startswith(("s3:", "hf:")):
        resolve(reference, config_dir=config_dir, cache=config_dir)


def _find_parts(reference: str) -> tuple[list[Path], str]:
    """(the matching files of installed packages by name, the SHA-256 of the joined file)."""
    pattern, _, digest = reference.removeprefix("package:").partition("#sha256=")
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise UserError(
            f"{reference!r} joins files: end it with #sha256= and the 64 hex digits of the joined "
            "file's SHA-256"
        )
    if ".." in PurePosixPath(pattern).parts or "**" in pattern or not pattern[:1].isidentifier():
        raise UserError(
            f"{reference!r} leaves its packages: start it with a package's name, without '..' and "
            "'**'"
        )
    for root in filter(Path.is_dir, map(Path, sys.path)):
        files = sorted((p for p in root.glob(pattern) if p.is_file()), key=lambda p: (p.name, p))
        if files:
            return files, digest
    raise UserError(f"{reference!r}: no installed package has such files: `pip install` one first")


def _join_parts(reference: str, cache: Path) -> Path:
    """The joined file, whose SHA-256 was checked."""
    parts, digest = _find_parts(reference)
    target = cache / "joined" / f"{digest}{PurePosixPath(parts[0].stem).suffix}"
    if not target.exists():
        data = b"".join(p.read_bytes() for p in parts)
        if hashlib.sha256(data).hexdigest() != digest:
            names = ", ".join(p.name for p in parts)
            raise UserError(
                f"{reference!r}: {names} joined have another SHA-256: install the packages again, "
                "all in the same version"
            )
        atomic.write_bytes(target, data)
    return target


def _package(reference: str, rest: str) -> Path:
    name, _, inner = rest.partition("/")
    try:
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise UserError(f"{reference!r}: no package {name!r} is installed: `pip install` it first")
    roots = [Path(p) for p in spec.submodule_search_locations or []]
    if ".." in PurePosixPath(inner).parts or inner.startswith("/"):
        raise UserError(f"{reference!r} leaves its package: use a path inside {name}")
    for root in roots:
        if (root / inner).exists():
            return root / inner
    raise UserError(
        f"{reference!r}: {name} is installed but has no {inner!r}, looked for in "
        f"{', '.join(map(str, roots))}: correct the path"
    )


def s3_client() -> Any:
    """A client that makes up to eight attempts, with the environment's credentials and endpoint."""
    import boto3
    from botocore.config import Config

    return boto3.client("s3", config=Config(retries={"mode": "standard", "max_attempts": 8}))


def _s3(reference: str, cache: Path) -> Path:
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        NoCredentialsError,
        ParamValidationError,
    )

    bucket, _, key = reference.removeprefix("s3://").partition("/")
    if not bucket or not key:
        raise UserError(
            f"{reference!r} names no object: write s3://bucket/key, or s3://bucket/prefix/"
        )
    try:
        download = _download_prefix if key.endswith("/") else _download_object
        return download(s3_client(), bucket, key, cache / "s3")
    except ClientError as e:
        code = str(e.response.get("Error", {}).get("Code", ""))
        if code in {"404", "NoSuchKey", "NoSuchBucket", "403", "AccessDenied"}:
            raise UserError(
                f"{reference!r} cannot be read ({code}): check the name and the credentials"
            ) from None
        raise TransientError(f"{reference!r}: {e}") from None
    except (NoCredentialsError, ParamValidationError) as e:
        raise UserError(f"{reference!r} cannot be read: {' '.join(str(e).split())}") from None
    except BotoCoreError as e:
        raise TransientError(f"{reference!r}: {e}") from None


def _download_object(client: Any, bucket: str, key: str, cache: Path) -> Path:
    tag = client.head_object(Bucket=bucket, Key=key)["ETag"]
    folder = cache / hashlib.sha256(f"{bucket}/{key}@{tag}".encode()).hexdigest()[:24]
    target = folder / PurePosixPath(key).name
    _download(client, bucket, key, target)
    return target


def _download_prefix(client: Any, bucket: str, prefix: str, cache: Path) -> Path:
    """The folder of all objects below the prefix, by their names after it."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    objects = [
        (o["Key"], o["ETag"])
        for page in pages
        for o in page.get("Contents", [])
        if not o["Key"].endswith("/")
    ]
    if not objects:
        raise UserError(f"'s3://{bucket}/{prefix}' has no objects below it: correct the prefix")
    folder = cache / hashlib.sha256(repr((bucket, objects)).encode()).hexdigest()[:24]
    for key, _ in objects:
        inner = key.removeprefix(prefix)
        if ".." in PurePosixPath(inner).parts or inner.startswith("/"):
            raise UserError(f"s3://{bucket}/{key} has '..' or '//' in its key: rename the object")
        _download(client, bucket, key, folder / inner)
    return folder


def _download(client: Any, bucket: str, key: str, target: Path) -> None:
    if not target.exists():
        atomic.write_bytes(target, client.get_object(Bucket=bucket, Key=key)["Body"].read())


def _hub_model(repo: str, cache: Path) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        patterns = ["*.json", "*.txt", "*.model", "model*.safetensors"]
        return Path(snapshot_download(repo, cache_dir=cache / "hub", allow_patterns=patterns))
    except RepositoryNotFoundError:
        raise UserError(
            f"'hf:{repo}': the Hub has no such public model: correct the name, or set HF_TOKEN"
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as e:
        raise TransientError(
            f"'hf:{repo}': the Hub cannot be reached ({type(e).__name__}): give a local path"
        ) from None


def _hub_data(name: str, cache: Path) -> Path:
    """A split of a Hub dataset as one JSONL file, with the names of class labels."""
    from datasets import ClassLabel, load_dataset
    from datasets.exceptions import DatasetNotFoundError

    repo, _, split = name.partition(":")
    try:
        data = load_dataset(repo, split=split or "train", cache_dir=str(cache / "hub"))
    except DatasetNotFoundError:
        raise UserError(
            f"'hf:{name}': the Hub has no such dataset, or cannot be reached: correct the name, or "
            "give a local path"
        ) from None
    except (ConnectionError, OSError) as e:
        raise TransientError(
            f"'hf:{name}': the Hub cannot be reached ({type(e).__name__}): give a local path"
        ) from None
    except ValueError as e:  # an unknown split, a dataset with configurations
        raise UserError(
            f"'hf:{name}': {' '.join(str(e).split())}: write hf:owner/name:split"
        ) from None
    for column, feature in data.features.items():
        if isinstance(feature, ClassLabel):
            names = feature.names
            data = data.cast_column(column, data.features[column]).map(
                lambda row, c=column, n=names: {c + "__name": _class_name(n, row[c])}
            )
            data = data.remove_columns(column).rename_column(column + "__name", column)
    target = cache / "hub-data" / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.jsonl"
    target.parent.mkdir(parents=True, exist_ok=True)
    data.to_json(str(target), force_ascii=False)
    return target


def _class_name(names: list[str], code: int | None) -> str | None:
    """The name of a class; None for -1, which the Hub writes where a row has no label."""
    return names[code] if code is not None and code >= 0 else None


def digest_of_path(path: Path) -> str:
    """SHA-256 of a file's bytes, or of the names and bytes of all files below a folder."""
    if path.is_file():
        return atomic.sha256_file(path)
    return atomic.digest_of(atomic.list_files(path))
