"""`python -m tasks.train --data DIR --out DIR --model MODEL`: fine-tune an encoder; writes a bundle.

DIR holds train.jsonl and dev.jsonl (`text`, `label`). Every key of `train` in a project file is an
option: `--learning-rate 3e-5 --class-weights '{"spam": 4}'`. With `--multi-label` the labels of a row
are a list. Several processes share the rows of a step: `torchrun --nproc-per-node 2 -m tasks.train ...`.
Needs torch, transformers, datasets and scikit-learn; neither Prefect nor MLflow.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from pydantic import ValidationError

from tasks import atomic
from tasks.atomic import digest_of
from tasks.dataset.formats import column_names
from tasks.dataset.readers import Columns, Row, read_rows
from tasks.errors import TransientError, UserError, suggestion
from tasks.project import Train
from tasks.records import Record, Source, write_records
from tasks.references import resolve
from tasks.train.stage import write_bundle
from tasks.train.task import Listeners, RecordFile, TrainingTask
from tasks.workspace import Workspace


def main(arguments: list[str] | None = None) -> int:
    """0 when the bundle was written, 2 for the user's mistake, 1 where the hub is unreachable."""
    options = vars(_parser().parse_args(arguments))
    data, out, multi_label = (options.pop(name) for name in ("data", "out", "multi_label"))
    try:
        _train(data, out, options, multi_label=multi_label)
    except UserError as e:
        if os.environ.get("RANK", "0") == "0":
            sys.stderr.write(f"{e}\n")
        return 2
    except TransientError as e:
        sys.stderr.write(f"{e}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tasks.train",
        description="Fine-tune an encoder on DIR/train.jsonl, watched on DIR/dev.jsonl.",
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--out", type=Path, required=True, help="a new folder; OUT/bundle is the model"
    )
    parser.add_argument(
        "--multi-label", action="store_true", help="a row's label is a list of any number of labels"
    )
    for name, field in Train.model_fields.items():
        required = name == "model"
        default = "" if required else f"; {json.dumps(field.default)}"
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            required=required,
            help=f"{field.description}{default}".replace("%", "%%"),
        )
    return parser


def _train(data: Path, out: Path, options: dict[str, str | None], *, multi_label: bool) -> None:
    if out.exists():
        raise UserError(f"{out} exists already: give --out a new folder")
    paths = {split: data / f"{split}.jsonl" for split in ("train", "dev")}
    train, dev = (_Summary.of(path, multi_label=multi_label) for path in paths.values())
    labels = sorted(train.places)
    _check_labels(data, labels, dev.places)
    settings = _settings(options, labels)
    # scratch that survives a kill; its name keeps other rows and settings from resuming from it
    key = digest_of([settings.model_dump(mode="json"), train.digest, dev.digest])[:16]
    work = out.parent / f".{out.name}.{key}.work"
    with _processes() as (first, wait):
        if first:
            for split, path in paths.items():
                write_records(work / f"{split}.jsonl", _read(path, multi_label=multi_label))
            _fetch_model(settings)
        wait()
        rows, dev_rows = (RecordFile(work / f"{split}.jsonl") for split in paths)
        encoder, names = _fetch_model(settings), dict.fromkeys(labels, "")
        task = TrainingTask(rows, dev_rows, names, settings, encoder, multi_label)
        if first:
            _publish(task, out, work)
        else:  # the first process writes the bundle
            from tasks.train.fine_tune import fine_tune

            fine_tune(task, work=work, listeners=Listeners(_print_progress))
        wait()
    if first:
        shutil.rmtree(work)


@dataclass(frozen=True, slots=True)
class _Summary:
    """Where each label of a file appears first, and a digest of everything that is learned from it."""

    places: dict[str, str]
    digest: str

    @classmethod
    def of(cls, path: Path, *, multi_label: bool) -> _Summary:
        places: dict[str, str] = {}
        digest = hashlib.sha256()
        for r in _read(path, multi_label=multi_label):
            for label in r.labels:
                places.setdefault(label, r.lineage["place"])
            digest.update(json.dumps([r.text, r.label, r.source]).encode() + b"\n")
        return cls(places, digest.hexdigest())


def _read(path: Path, *, multi_label: bool) -> Iterator[Record]:
    """The valid rows, one in memory at a time. Raises UserError where there is none."""
    if not path.exists():
        raise UserError(f"{path} does not exist: --data must hold train.jsonl and dev.jsonl")
    group = "source" if "source" in column_names(path) else None
    invalid, valid = None, 0
    for row in read_rows(path, Columns(group=group, multi_label=multi_label)):
        if row.fault:
            invalid = invalid or row
            continue
        valid += 1
        yield Record.create(row.text, row.label, _source(row), place=row.place)
    if invalid and not valid:
        raise UserError(
            f"{path} has no valid row; the first is at {invalid.place}: {invalid.fault}"
        )


def _source(row: Row) -> Source:
    known = get_args(Source)
    if row.group is not None and row.group not in known:
        raise UserError(
            f"{row.place}: the source {row.group!r}{suggestion(row.group, known)} is unknown: use one "
            f"of {', '.join(known)}"
        )
    return cast(Source, row.group or "seed")


def _check_labels(data: Path, labels: list[str], dev: dict[str, str]) -> None:
    """Raises UserError for fewer than two labels, or a label of dev (with its place) that train lacks."""
    if len(labels) < 2:
        only = f"only the label {labels[0]!r}" if labels else "no label"
        raise UserError(
            f"{data / 'train.jsonl'} has {only}: a classifier needs at least two labels"
        )
    for label, place in dev.items():
        if label not in labels:
            raise UserError(
                f"{data / 'dev.jsonl'}, at {place}: the label {label!r}{suggestion(label, labels)} is "
                f"not in train.jsonl: add rows with it there, or remove it here"
            )


def _settings(options: dict[str, str | None], labels: list[str]) -> Train:
    values: dict[str, Any] = {
        name: v if name == "model" else _parse(v) for name, v in options.items() if v is not None
    }
    try:
        settings = Train(**values)
        settings.check_labels(labels)
    except ValidationError as e:
        error = e.errors()[0]
        message = error["msg"].removeprefix("Value error, ")
        if not error["loc"]:
            raise UserError(f"the options contradict each other: {message}") from None
        name = str(error["loc"][0]).replace("_", "-")
        raise UserError(f"--{name} {error['input']}: {message[:1].lower() + message[1:]}") from None
    except ValueError as e:
        raise UserError(str(e)) from None
    if len(settings.seeds) > 1:
        raise UserError(
            f"--seeds {list(settings.seeds)}: this command trains one model: give one seed, as --seeds "
            f"'[{settings.seeds[0]}]', and another --out for each; reseed retrain trains one model per "
            f"seed and compares them on dev"
        )
    return settings


def _parse(value: str) -> Any:
    """A number, true, false, null, a list or a map, written as JSON; otherwise text."""
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def _fetch_model(settings: Train) -> Path:
    """The model's folder; one on the hub is downloaded into the workspace."""
    cache = Workspace(Path(os.environ.get("RESEED_HOME", ".reseed"))).cache
    return resolve(settings.model, config_dir=Path.cwd(), cache=cache, kind="model")


def _print_progress(done: int, total: int, note: str) -> None:
    if done % 10 == 0 or done == total:
        sys.stderr.write(f"step {done}/{total} {note}\n")


def _publish(task: TrainingTask, out: Path, work: Path) -> None:
    manifest: dict[str, object] = {}
    about = {"base_model": task.settings.model}
    with atomic.publish(out, manifest) as folder:
        result = write_bundle(
            task, folder, work=work, about=about, listeners=Listeners(_print_progress)
        )
        manifest["figures"] = result.model_dump(mode="json")
    for note in result.notes:
        sys.stderr.write(f"{note}\n")


@contextlib.contextmanager
def _processes() -> Iterator[tuple[bool, Callable[[], None]]]:
    """True in the first process that torchrun started, and a function that waits for all of them."""
    from tasks.train.arguments import world_size

    if world_size() == 1:
        yield True, lambda: None
        return
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    try:
        yield state.is_main_process, state.wait_for_everyone
    finally:
        state.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
