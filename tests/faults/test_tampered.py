"""A version whose files somebody changed: whatever asks for it refuses in one sentence, before anything of it is loaded or run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.registry import admin
from flows.registry.client import Version
from flows.serving import api
from tasks import atomic
from tasks.atomic import CorruptDirectory
from tasks.errors import UserError
from tasks.model.bundle import BundleRef, Classifier, check_bundle
from tests.conftest import Command
from tests.kit.registry import Store

pytestmark = pytest.mark.usefixtures("unasked")


class Evil:
    """Makes a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def code(d: Path, mark: Path) -> None:
    (d / "modeling_x.py").write_text(f"import os\nos.mkdir({str(mark)!r})\nclass Evil: ...\n")


def say(path: Path, **settings: Any) -> None:
    path.write_text(json.dumps({**atomic.read_json(path), **settings}))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def link(d: Path) -> None:
    outside = d.parent / "weights.safetensors"
    outside.write_bytes((d / "model.safetensors").read_bytes()[::-1])
    (d / "model.safetensors").unlink()
    (d / "model.safetensors").symlink_to(outside)


def climb(d: Path) -> None:
    """A manifest that lists a file beside the bundle, consistent in itself."""
    (d.parent / "evil.json").write_text("{}")
    manifest = atomic.read_json(d / atomic.MANIFEST)
    outside = d.parent / "evil.json"
    listed = [
        *manifest["files"],
        {"path": "../evil.json", "size": 2, "sha256": atomic.sha256_file(outside)},
    ]
    atomic.write_json(
        d / atomic.MANIFEST, manifest | {"files": listed, "digest": atomic.digest_of(listed)}
    )


def with_code(d: Path, mark: Path) -> None:
    code(d, mark)
    say(d / "config.json", auto_map={"AutoModelForSequenceClassification": "modeling_x.Evil"})


WAYS: dict[str, Callable[[Path, Path], Any]] = {
    "a flipped bit": lambda d, _: flip(d / "model.safetensors"),
    "cut off": lambda d, _: os.truncate(d / "model.safetensors", 1000),
    "a pickle beside": lambda d, m: (d / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(m))),
    "a pickle of another name": lambda d, m: (d / "evil.pkl").write_bytes(pickle.dumps(Evil(m))),
    "code beside": code,
    "auto_map in the config": with_code,
    "auto_map in the tokenizer's": lambda d, m: (
        code(d, m),
        say(
            d / "tokenizer_config.json",
            auto_map={"AutoTokenizer": ["modeling_x.Evil", None]},
            tokenizer_class="Evil",
        ),
    ),
    "files and manifest exchanged": lambda d, _: (flip(d / "model.safetensors"), atomic.seal(d)),
    "auto_map under a new manifest": lambda d, m: (with_code(d, m), atomic.seal(d)),
    "a link out of the bundle": lambda d, _: link(d),
    "a path that climbs": lambda d, _: climb(d),
    "a pipe": lambda d, _: os.mkfifo(d / "more.json"),
}


@pytest.fixture
def never(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was loaded in spite of all."""
    import transformers

    loaded: list[str] = []
    for name in ("AutoConfig", "AutoModelForSequenceClassification", "AutoTokenizer"):
        monkeypatch.setattr(
            getattr(transformers, name),
            "from_pretrained",
            lambda *_, **__: loaded.append("something"),
        )
    return loaded


class Case:
    """Versions 1 and 2 of which 2 is champion; `tampered` changes one of them in the store."""

    def __init__(self, store: Store, bundles: list[BundleRef], folder: Path) -> None:
        self.store, self.mark = store, folder / "mark"
        self.versions = [store.register(b) for b in bundles[:2]]
        self.whole = {v.version: folder / v.version for v in self.versions}
        for v in self.versions:
            shutil.copytree(store.stored(v), self.whole[v.version])
        store.promote(self.versions[0], None)
        store.promote(self.versions[1], self.versions[0])
        self.aliases = store.aliases()

    def tampered(self, version: Version, how: str) -> None:
        for v in self.versions:
            shutil.rmtree(self.store.stored(v))
            shutil.copytree(self.whole[v.version], self.store.stored(v))
        shutil.rmtree(self.store.settings.workspace.home / "serving", ignore_errors=True)
        WAYS[how](self.store.stored(version), self.mark)

    def refused(self, how: str, said: str, loaded: list[str]) -> None:
        assert said.strip() and "\n" not in said.strip() and "Traceback" not in said, (how, said)
        assert not self.mark.exists(), f"{how}: its code was run"
        assert loaded == [], f"{how}: it was loaded before it was refused"
        assert self.store.aliases() == self.aliases and self.store.log().intents == [], how


@pytest.fixture
def case(sqlite: Store, bundles: list[BundleRef], tmp_path: Path) -> Case:
    return Case(sqlite, bundles, tmp_path / "case")


def test_it_is_not_promoted(case: Case, never: list[str]) -> None:
    for how in WAYS:
        case.tampered(case.versions[0], how)
        with pytest.raises(CorruptDirectory) as e:
            case.store.promote(case.versions[0], case.versions[1])
        case.refused(how, str(e.value), never)


def test_it_is_not_gone_back_to(case: Case, never: list[str]) -> None:
    for how in WAYS:
        case.tampered(case.versions[0], how)
        with pytest.raises(UserError, match="version 1 of 'toy' cannot be the champion") as e:
            admin.roll_back(case.store.settings, "toy", reason="back")
        case.refused(how, str(e.value), never)


@pytest.mark.parametrize(
    "verb", [("predict", "toy", "some text"), ("serve", "toy", "--port", "0")], ids=lambda v: v[0]
)
def test_it_answers_nothing(
    verb: tuple[str, ...], case: Case, never: list[str], reseed: Command
) -> None:
    for how in WAYS:
        case.tampered(case.versions[1], how)
        code, out, err = reseed(*verb)
        last = [line for line in err.splitlines() if line.startswith("reseed: ")]
        assert code == 1 and out == "" and len(last) == 1 and "bug" not in err, (how, err)
        case.refused(how, last[0], never)


def test_it_is_not_served_where_it_was_changed_after_it_was_fetched(
    case: Case, never: list[str]
) -> None:
    from fastapi.testclient import TestClient

    for how in WAYS:
        shutil.rmtree(case.store.settings.workspace.home / "serving", ignore_errors=True)
        directory = case.store.registry.fetch(case.versions[1])
        WAYS[how](directory, case.mark)
        with TestClient(api.create_app(case.versions[1], directory)) as client:
            until = time.monotonic() + 20
            while (said := client.get("/ready").json()["detail"]) == "the model is being loaded":
                assert time.monotonic() < until
                time.sleep(0.01)
            assert client.post("/predict", json={"texts": ["some text"]}).status_code == 503
        case.refused(how, said, never)


def test_mlflow_does_not_load_it(case: Case, never: list[str]) -> None:
    """mlflow/classifier.py, which `mlflow models serve` runs."""
    import mlflow.pyfunc

    for how in WAYS:
        if how == "a pipe":  # MLflow's own copying stops at it
            continue
        case.tampered(case.versions[1], how)
        with pytest.raises(Exception, match="the model is not loaded") as e:
            mlflow.pyfunc.load_model("models:/toy/2")
        case.refused(how, str(e.value), never)


def test_a_rollback_answers_with_the_same_bytes(
    sqlite: Store, bundles: list[BundleRef], tmp_path: Path, reseed: Command
) -> None:
    """Before, with another champion, and after going back to the first; nothing that was fetched before is kept."""
    one, two = (sqlite.register(b) for b in bundles[:2])
    sqlite.promote(one, None)
    asked = tmp_path / "asked.csv"
    asked.write_text("text\n" + "\n".join(f"some text number {i}" for i in range(40)) + "\n")
    answers = []
    for name in ("before", "other", "after"):
        if name == "other":
            sqlite.promote(two, one)
        if name == "after":
            admin.roll_back(sqlite.settings, "toy", reason="back")
        shutil.rmtree(sqlite.settings.workspace.home / "serving")
        assert reseed("predict", "toy", "--in", asked, "--out", tmp_path / f"{name}.jsonl")[0] == 0
        answers.append((tmp_path / f"{name}.jsonl").read_bytes())
    assert answers[0] == answers[2] != answers[1]
    directory = sqlite.registry.fetch(one)
    for f in atomic.read_json(bundles[0].directory / atomic.MANIFEST)["files"]:
        assert (directory / f["path"]).read_bytes() == (
            bundles[0].directory / f["path"]
        ).read_bytes()
    assert check_bundle(directory, digest=bundles[0].digest) and Classifier.load(directory)
