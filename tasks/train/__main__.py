"""`python -m tasks.train --data DIR --out DIR --model MODEL`: train.jsonl and dev.jsonl (`text`, `label`) in, a bundle out.

Every key of `train` in a project file is an option: `--learning-rate 3e-5 --class-weights '{"spam": 4}'`. With
`--multi-label` the labels of a row are a list. Several processes
share the rows of a step: `torchrun --nproc-per-node 2 -m tasks.train ...`. Needs torch, transformers, datasets and
scikit-learn; neither Prefect nor MLflow.
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
from tasks.train.arguments import processes
from tasks.train.data import RecordFile
from tasks.train.fine_tune import fine_tune
from tasks.train.stage import write_bundle
from tasks.workspace import Workspace


def _records(path: Path, *, multi_label: bool) -> Iterator[Record]:
    """The rows that can be used, one in memory at a time. Raises UserError where there is none."""
    if not path.exists():
        raise UserError(f"{path} is not there: --data must hold train.jsonl and dev.jsonl")
    sourced = "source" in column_names(path)
    faulty, usable = None, 0
    for r in read_rows(path, Columns(group="source" if sourced else None, multi_label=multi_label)):
        if r.fault:
            faulty = faulty or r
            continue
        usable += 1
        yield Record.create(r.text, r.label, _source(r), place=r.place)
    if faulty and not usable:
        raise UserError(
            f"{path} has no row that can be used; the first is at {faulty.place}: {faulty.fault}"
        )


def _looked_at(path: Path, *, multi_label: bool) -> tuple[dict[str, str], str]:
    """(where each label stands first, a digest of all that is learned from the rows), in one pass."""
    places: dict[str, str] = {}
    digest = hashlib.sha256()
    for r in _records(path, multi_label=multi_label):
        for label in r.labels:
            places.setdefault(label, r.lineage["place"])
        digest.update(json.dumps([r.text, r.label, r.source]).encode() + b"\n")
    return places, digest.hexdigest()


def _source(row: Row) -> Source:
    known = get_args(Source)
    if row.group is not None and row.group not in known:
        raise UserError(
            f"{row.place}: the source {row.group!r}{suggestion(row.group, known)} is none of {', '.join(known)}: take one of these"
        )
    return cast(Source, row.group or "seed")


def _value(written: str) -> Any:
    """A number, true, false, null, a list or a map, written as JSON; all else is text."""
    try:
        return json.loads(written)
    except json.JSONDecodeError:
        return written


def _settings(options: dict[str, str | None], labels: list[str]) -> Train:
    given: dict[str, Any] = {
        name: v if name == "model" else _value(v) for name, v in options.items() if v is not None
    }
    try:
        settings = Train(**given)
        settings.check_labels(labels)
    except ValidationError as e:
        wrong = e.errors()[0]
        said = wrong["msg"].removeprefix("Value error, ")
        if not wrong["loc"]:
            raise UserError(f"the options don't fit together: {said}") from None
        name = str(wrong["loc"][0]).replace("_", "-")
        raise UserError(f"--{name} {wrong['input']}: {said[:1].lower() + said[1:]}") from None
    except ValueError as e:
        raise UserError(str(e)) from None
    if len(settings.seeds) > 1:
        raise UserError(
            f"--seeds {list(settings.seeds)}: one model is trained here, with one seed: give one, as --seeds "
            f"'[{settings.seeds[0]}]', and another --out for each; reseed retrain trains one with each and compares them on dev"
        )
    return settings


def _need_labels(data: Path, labels: list[str], dev: dict[str, str]) -> None:
    """Raises UserError where a label of dev, each with its place, is not among the `labels` of train, or these are too few."""
    if len(labels) < 2:
        only = f"only the label {labels[0]!r}" if labels else "no label"
        raise UserError(
            f"{data / 'train.jsonl'} has {only}: a classifier needs at least two labels"
        )
    for label, place in dev.items():
        if label not in labels:
            raise UserError(
                f"{data / 'dev.jsonl'}, at {place}: the label {label!r}{suggestion(label, labels)} is "
                f"not in train.jsonl: add rows of it there, or remove it here"
            )


def _progress(done: int, total: int, note: str) -> None:
    if done % 10 == 0 or done == total:
        sys.stderr.write(f"step {done}/{total} {note}\n")


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
        "--multi-label", action="store_true", help="a row's label is a list of any number of them"
    )
    for name, field in Train.model_fields.items():
        needed = name == "model"
        told = "" if needed else f"; {json.dumps(field.default)}"
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            required=needed,
            help=f"{field.description}{told}".replace("%", "%%"),
        )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """0 when the bundle was written, 2 for the user's mistake, 1 where the hub can't be reached."""
    options = vars(_parser().parse_args(arguments))
    try:
        _train(
            options.pop("data"), options.pop("out"), options, multi_label=options.pop("multi_label")
        )
    except UserError as e:
        if os.environ.get("RANK", "0") == "0":
            sys.stderr.write(f"{e}\n")
        return 2
    except TransientError as e:
        sys.stderr.write(f"{e}\n")
        return 1
    return 0


def _train(data: Path, out: Path, options: dict[str, str | None], *, multi_label: bool) -> None:
    if out.exists():
        raise UserError(f"{out} is there already: give --out a new folder")
    rows = {split: data / f"{split}.jsonl" for split in ("train", "dev")}
    (known, train), (dev_known, dev) = (
        _looked_at(path, multi_label=multi_label) for path in rows.values()
    )
    labels = dict.fromkeys(sorted(known), "")
    _need_labels(data, list(labels), dev_known)
    settings = _settings(options, list(labels))
    # scratch that survives a kill, under what went in: other rows or settings must not go on from it
    work = (
        out.parent
        / f".{out.name}.{digest_of([settings.model_dump(mode='json'), train, dev])[:16]}.work"
    )
    with _together() as (first, wait):
        if first:
            for split, path in rows.items():
                write_records(work / f"{split}.jsonl", _records(path, multi_label=multi_label))
            _model(settings)
        wait()
        given: dict[str, Any] = {
            "settings": settings,
            "encoder": _model(settings),
            "progress": _progress,
        }
        given["multi_label"] = multi_label
        if first:
            _publish(out, work, labels, given)
        else:  # the first process writes what all have learned
            records = (RecordFile(work / f"{split}.jsonl") for split in rows)
            fine_tune(*records, labels=list(labels), work=work, **given)
        wait()
    if first:
        shutil.rmtree(work)


def _model(settings: Train) -> Path:
    """The model's folder; one on the hub is fetched into the workspace."""
    cache = Workspace(Path(os.environ.get("RESEED_HOME", ".reseed"))).cache
    return resolve(settings.model, config_dir=Path.cwd(), cache=cache, kind="model")


def _publish(out: Path, work: Path, labels: dict[str, str], given: dict[str, Any]) -> None:
    about: dict[str, object] = {}
    with atomic.publish(out, about) as beside:
        counts = write_bundle(
            beside,
            work,
            labels=labels,
            train=work / "train.jsonl",
            dev=work / "dev.jsonl",
            about={"base_model": given["settings"].model},
            **given,
        )
        about["figures"] = counts.model_dump(mode="json")
    for note in counts.notes:
        sys.stderr.write(f"{note}\n")


@contextlib.contextmanager
def _together() -> Iterator[tuple[bool, Callable[[], None]]]:
    """Whether this process is the first of those that torchrun started, and a function that waits for all of them."""
    if processes() == 1:
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
