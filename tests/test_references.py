"""References in a project file: packages, S3 objects, hub data, and paths."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from tasks.dataset.readers import Columns, read_rows
from tasks.errors import TransientError, UserError
from tasks.references import check_reference, digest_of_path, resolve

Find = Callable[..., Path]


@pytest.fixture
def find(tmp_path: Path) -> Find:
    """Resolve a reference of a project file in `tmp_path`."""

    def find(reference: str, kind: str = "data") -> Path:
        return resolve(reference, config_dir=tmp_path, cache=tmp_path / "cache", kind=kind)

    return find


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package `carrier` that must not be imported."""
    site = tmp_path / "site"
    (site / "carrier" / "data").mkdir(parents=True)
    (site / "carrier" / "__init__.py").write_text("raise SystemExit('imported')\n")
    (site / "carrier" / "data" / "rows.csv").write_text("text,label\n")
    (site / "secret.txt").write_text("secret")
    monkeypatch.syspath_prepend(site)
    return site / "carrier"


def test_paths_are_relative_to_the_project_file(tmp_path: Path, find: Find) -> None:
    (tmp_path / "rows.csv").touch()
    assert find("rows.csv") == tmp_path / "rows.csv" == find(str(tmp_path / "rows.csv"))
    with pytest.raises(UserError) as e:
        find("data/other.csv")
    assert "'data/other.csv' does not exist" in str(e.value) and str(
        tmp_path / "data/other.csv"
    ) in str(e.value)


def test_a_package_is_located_without_importing_it(package: Path, find: Find) -> None:
    assert find("package:carrier/data") == package / "data"
    assert find("package:carrier/data/rows.csv") == package / "data" / "rows.csv"
    assert "carrier" not in sys.modules


@pytest.mark.parametrize("inner", ["../secret.txt", "data/../../secret.txt", "/etc/passwd"])
def test_a_package_reference_can_not_leave_its_package(
    package: Path, find: Find, inner: str
) -> None:
    with pytest.raises(UserError, match="leaves its package"):
        find(f"package:carrier/{inner}")


@pytest.mark.parametrize("name", ["no_such_package", "", "a.b", ".."])
def test_a_package_that_is_not_installed(find: Find, name: str) -> None:
    with pytest.raises(UserError, match=r"no package .* is installed.*pip install"):
        find(f"package:{name}/x")


def test_a_package_without_the_file(package: Path, find: Find) -> None:
    with pytest.raises(UserError, match=r"carrier is installed but has no 'nothing\.csv'"):
        find("package:carrier/nothing.csv")


PARTS = {
    "carrier_part1/data/w.gguf.part00": b"GGUF one, ",
    "carrier_part2/data/w.gguf.part01": b"and two",
}
WHOLE = b"".join(PARTS.values())


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A reference to a file that two packages carry the parts of."""
    for name, data in PARTS.items():
        path = tmp_path / "site" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
        (path.parent.parent / "__init__.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    return f"package:carrier_part*/data/*.part*#sha256={hashlib.sha256(WHOLE).hexdigest()}"


def test_parts_of_packages_are_joined_and_checked(parts: str, find: Find, tmp_path: Path) -> None:
    whole = find(parts)
    assert (
        whole.read_bytes() == WHOLE
        and whole.suffix == ".gguf"
        and whole.is_relative_to(tmp_path / "cache")
    )
    inode = whole.stat().st_ino
    assert find(parts).stat().st_ino == inode  # found, not written again
    check_reference(parts, config_dir=tmp_path)


def test_parts_that_are_not_the_whole_file(parts: str, find: Find, tmp_path: Path) -> None:
    (tmp_path / "site" / "carrier_part2" / "data" / "w.gguf.part01").write_bytes(b"and too")
    with pytest.raises(UserError, match=r"part00, w\.gguf\.part01 joined have another SHA-256"):
        find(parts)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        (
            "package:nothing_part*/data/*.part*#sha256=" + "0" * 64,
            "no installed package has such files",
        ),
        ("package:carrier_part*/data/*.part*", "end it with #sha256="),
        ("package:carrier_part*/data/*.part*#sha256=" + "0" * 63, "end it with #sha256="),
        ("package:carrier_part*/../*.part*#sha256=" + "0" * 64, "leaves its packages"),
        ("package:/etc/*#sha256=" + "0" * 64, "leaves its packages"),
        ("package:**/*#sha256=" + "0" * 64, "leaves its packages"),
        ("package:*/*#sha256=" + "0" * 64, "leaves its packages"),
    ],
)
@pytest.mark.usefixtures("parts")
def test_parts_that_can_not_be_joined(
    find: Find, tmp_path: Path, reference: str, expected: str
) -> None:
    for read in (find, lambda r: check_reference(r, config_dir=tmp_path)):
        with pytest.raises(UserError) as e:
            read(reference)
        assert expected in str(e.value) and repr(reference) in str(e.value)


def test_a_check_fetches_nothing(tmp_path: Path, package: Path) -> None:
    for reference in ("s3://bucket/x", "hf:owner/name", "package:carrier/data"):
        check_reference(reference, config_dir=tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        check_reference("gone.csv", config_dir=tmp_path)
    with pytest.raises(UserError, match="no package"):
        check_reference("package:nothing/x", config_dir=tmp_path)


def test_an_object_is_fetched_once_and_again_when_it_changed(s3: Any, find: Find) -> None:
    s3.put_object(Bucket="bucket", Key="data/rows.csv", Body=b"old")
    first = find("s3://bucket/data/rows.csv")
    assert first.read_bytes() == b"old" and first.name == "rows.csv"
    first.write_bytes(b"kept")  # shows whether it is fetched again
    assert find("s3://bucket/data/rows.csv").read_bytes() == b"kept"
    s3.put_object(Bucket="bucket", Key="data/rows.csv", Body=b"new")
    assert find("s3://bucket/data/rows.csv").read_bytes() == b"new"


def test_every_object_below_a_prefix(s3: Any, find: Find) -> None:
    for key in ("data/a/1.txt", "data/b/2.txt", "data/b/", "database/no.txt"):
        s3.put_object(Bucket="bucket", Key=key, Body=key.encode())
    folder = find("s3://bucket/data/")
    found = {
        p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()
    }
    assert found == {"a/1.txt": "data/a/1.txt", "b/2.txt": "data/b/2.txt"}
    s3.put_object(Bucket="bucket", Key="data/c/3.txt", Body=b"more")
    assert digest_of_path(find("s3://bucket/data/")) != digest_of_path(folder)


@pytest.mark.parametrize(
    "key", ["p/../../outside.txt", "p/a/../../../outside.txt", "p/{tmp}/outside.txt"]
)
def test_no_key_is_written_outside_the_cache(s3: Any, find: Find, tmp_path: Path, key: str) -> None:
    s3.put_object(Bucket="bucket", Key=key.format(tmp=tmp_path), Body=b"x")
    with pytest.raises(UserError, match="rename the object"):
        find("s3://bucket/p/")
    assert not list(tmp_path.rglob("outside.txt"))


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("s3://bucket/nothing.csv", "cannot be read (404)"),
        ("s3://bucket/nothing/", "has no objects below it"),
        ("s3://nobucket/x.csv", "cannot be read"),
        ("s3://nobucket/x/", "cannot be read (NoSuchBucket)"),
        ("s3://bucket", "names no object"),
        ("s3:///x", "names no object"),
        ("s3://not a bucket/x.csv", "cannot be read: Parameter validation failed"),
    ],
)
def test_what_is_not_in_s3(s3: Any, find: Find, reference: str, expected: str) -> None:
    with pytest.raises(UserError) as e:
        find(reference)
    assert repr(reference) in str(e.value) and expected in str(e.value)


def test_s3_without_credentials(
    find: Find, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(UserError, match="Unable to locate credentials"):
        find("s3://bucket/rows.csv")


def on_hub(
    monkeypatch: pytest.MonkeyPatch, answer: datasets.Dataset | Exception
) -> list[tuple[str, str]]:
    """What the hub answers; the list fills with (repository, split) of each question."""
    asked: list[tuple[str, str]] = []

    def load_dataset(repo: str, *, split: str, cache_dir: str) -> datasets.Dataset:
        asked.append((repo, split))
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_hub_data_has_names_for_labels(find: Find, monkeypatch: pytest.MonkeyPatch) -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )
    rows = {"text": ["a\u2028b", "c", "d", "e"], "label": [1, 0, -1, None]}
    asked = on_hub(monkeypatch, datasets.Dataset.from_dict(rows, features=features))
    path = find("hf:owner/name:test")
    assert asked == [("owner/name", "test")]
    read = [(r.text, r.label, r.fault) for r in read_rows(path, Columns())]
    assert read == [
        ("a\u2028b", "pos", None),
        ("c", "neg", None),
        ("d", None, "no label"),
        ("e", None, "no label"),
    ]
    assert find("hf:owner/name") != path and asked[1] == ("owner/name", "train")


def test_hub_data_without_classes_is_left_as_it_is(
    find: Find, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_hub(monkeypatch, datasets.Dataset.from_dict({"text": ["ä", "b"], "kind": ["x", "y"]}))
    lines = find("hf:owner/name").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"text": "ä", "kind": "x"},
        {"text": "b", "kind": "y"},
    ]


@pytest.mark.parametrize(
    ("fault", "kind", "expected"),
    [
        (datasets.exceptions.DatasetNotFoundError("gone"), UserError, "no such dataset"),
        (
            ValueError("Unknown split \"tset\". Should be one of ['train']"),
            UserError,
            "Unknown split",
        ),
        (ConnectionError("refused"), TransientError, "ConnectionError"),
        (TimeoutError(), TransientError, "TimeoutError"),
    ],
)
def test_hub_data_that_does_not_come(
    find: Find,
    monkeypatch: pytest.MonkeyPatch,
    fault: Exception,
    kind: type[Exception],
    expected: str,
) -> None:
    on_hub(monkeypatch, fault)
    with pytest.raises(kind) as e:
        find("hf:owner/name:tset")
    assert "'hf:owner/name:tset'" in str(e.value) and expected in str(e.value)


def test_a_hub_model_without_a_hub_may_come_later(find: Find) -> None:
    with pytest.raises(TransientError, match=r"'hf:owner/name'.*give a local path"):
        find("hf:owner/name", kind="model")


def test_the_digest_of_a_folder_is_of_names_and_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "a.txt").write_text("x")
    assert digest_of_path(tmp_path / "one") == digest_of_path(tmp_path / "two")
    (tmp_path / "two" / "sub" / "a.txt").rename(tmp_path / "two" / "sub" / "b.txt")
    renamed = digest_of_path(tmp_path / "two")
    assert digest_of_path(tmp_path / "one") != renamed
    (tmp_path / "two" / "sub" / "b.txt").write_text("y")
    assert digest_of_path(tmp_path / "two") != renamed
