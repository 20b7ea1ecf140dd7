"""Go on with an encoder's masked-language pre-training on the project's own text, before it is fine-tuned.

Domain- and task-adaptive pre-training: Gururangan et al. 2020 (arXiv:2004.10964). Dev and test texts are never read, and
an unlabelled text that repeats a passage of one is left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from tasks import atomic
from tasks.curate.checks.leak import leak
from tasks.dataset.split import SplitsResult
from tasks.dataset.training_rows import TrainingRows
from tasks.encoder.base_model import resolve_encoder
from tasks.encoder.embed import has_bf16
from tasks.errors import UserError
from tasks.figures import Figures
from tasks.progress import Points, Progress, silent
from tasks.project import Project
from tasks.records import Record, read_records
from tasks.references import digest_of_path
from tasks.stage import Metrics, StageResult, run_stage
from tasks.text.fingerprints import FINGERPRINTS, Fingerprints
from tasks.train.adaptation.masked import (
    Masked,
    history_of,
    load_masked,
    save_encoder,
    train_masked,
    warm_head,
)
from tasks.train.curves import read_history
from tasks.workspace import Workspace

VERSION = 2
FEWEST = 20  # texts


class AdaptData(Figures):
    """Texts learned from and held out, where the held-out ones are from, and unlabelled texts left out as leaks."""

    rows: int
    held_out: int
    held_out_from: Literal["unlabelled", "training"]
    leaks: int


class Perplexity(Figures):
    """Pseudo-perplexity over the same masked tokens of held-out texts."""

    before: float
    after: float


class AdaptResult(AdaptData, StageResult):
    """An adapted encoder in `encoder/`, a Hugging Face directory.

    `head` is `made` where the checkpoint has no head for masked words; `head_steps` are the steps that
    the new head was trained alone.
    """

    steps: int
    resumed_from: int
    head: Literal["made", "its own"]
    head_steps: int
    perplexity: Perplexity
    precision: str

    @property
    def encoder(self) -> Path:
        return self.directory / "encoder"

    def metrics(self) -> Metrics:
        metrics = {f"adapt.perplexity.{when}": value for when, value in self.perplexity}
        return metrics | {"adapt.rows": float(self.rows), "adapt.steps": float(self.steps)}

    def history(self) -> Points:
        return read_history(self.directory)

    def artifacts(self) -> list[Path]:
        return [self.directory / "adapt.json"]

    def summary(self) -> str:
        p = self.perplexity
        line = (
            f"perplexity on {self.held_out} held-out {self.held_out_from} texts {p.before:.1f} -> {p.after:.1f}, "
            f"after {self.steps} steps over {self.rows} texts"
        )
        if self.head == "its own":
            return line
        return (
            f"{line}\nthe encoder has no head for masked words: one was made, tied to its word embeddings, and "
            f"trained alone for {self.head_steps} steps first; part of the improvement is the head's"
        )


def adapt(
    project: Project,
    *,
    curated: TrainingRows,
    splits: SplitsResult,
    workspace: Workspace,
    progress: Progress = silent,
) -> AdaptResult:
    """The encoder after masked-language training: `encoder/`, `adapt.json` and `history.json`.

    A head for masked words is made where the checkpoint has none, its decoder tied to the word
    embeddings, and trained with the encoder frozen before anything is measured. A killed stage goes on
    from its last whole checkpoint. Raises UserError where there is no mask token or too little text,
    the checkpoint's weights do not fit, or the training fails.
    """
    encoder = resolve_encoder(project, workspace)

    def build(out: Path, scratch: Path) -> AdaptResult:
        texts, held, data = _texts(project, curated, splits)
        masked = load_masked(encoder, project)
        made = masked.new_head
        if made:
            warm_head(masked, texts, project.adapt, progress=progress)
        before = _before(masked, held, project, scratch)
        steps, resumed, log = train_masked(
            masked, texts, project.adapt, work=scratch, progress=progress
        )
        after = masked.perplexity(held, project.adapt)
        save_encoder(masked, encoder, out / "encoder")
        result = AdaptResult(
            **data.model_dump(),
            steps=steps,
            resumed_from=resumed,
            head="made" if made else "its own",
            head_steps=project.adapt.head_steps if made else 0,
            perplexity=Perplexity(before=before, after=after),
            precision="bf16" if masked.bf16 else "fp32",
        )
        atomic.write_json(out / "adapt.json", result.model_dump())
        atomic.write_json(out / "history.json", history_of(log))
        return result

    t = project.train
    params = project.adapt.model_dump(mode="json") | {
        "max_length": t.max_length,
        "leak": project.curate.leak,
        "bf16": t.precision != "fp32" and has_bf16(),
    }
    inputs = {
        "curated": curated.digest,
        "splits": splits.digest,
        "encoder": digest_of_path(encoder),
    }
    return run_stage(
        AdaptResult,
        "adapt",
        workspace=workspace,
        version=VERSION,
        params=params,
        inputs=inputs,
        build=build,
    )


def _texts(
    project: Project, curated: TrainingRows, splits: SplitsResult
) -> tuple[list[str], list[str], AdaptData]:
    """(texts to learn from, texts held out, counts). The unlabelled ones come first; by content hash."""
    a = project.adapt
    training = _by_hash(curated.read())
    unlabelled, leaks = _unlabelled(project, splits, {r.id for r in training})
    source = unlabelled if len(unlabelled) >= FEWEST else training
    held = source[: min(a.held_out, len(source) // 5)]
    out = {r.id for r in held}
    rows = [r for r in [*unlabelled, *training] if r.id not in out]
    if len(rows) < FEWEST or not held:
        raise UserError(
            f"adapt.epochs is {a.epochs}, but there are {len(rows)} texts to learn from, fewer than {FEWEST}: give "
            f"data.unlabelled, or set adapt.epochs to 0"
        )
    rows = rows[: a.max_rows]
    counts = AdaptData(
        rows=len(rows),
        held_out=len(held),
        held_out_from="unlabelled" if source is unlabelled else "training",
        leaks=leaks,
    )
    return [r.text for r in rows], [r.text for r in held], counts


def _by_hash(rows: list[Record]) -> list[Record]:
    return sorted(rows, key=lambda r: r.id)


def _unlabelled(
    project: Project, splits: SplitsResult, known: set[str]
) -> tuple[list[Record], int]:
    """The unlabelled rows that stand nowhere else, and how many were left out as leaks of dev or test."""
    from tasks.curate.context import CurationContext

    rows = [r for r in read_records(splits.directory / "unlabelled.jsonl") if r.id not in known]
    context = CurationContext(
        project.curate, Fingerprints.load(splits.directory / FINGERPRINTS), _no_embedding
    )
    kept, leaks = leak(_by_hash(rows), context)
    return kept, len(leaks)


def _no_embedding(texts: list[str]) -> Any:
    raise AssertionError("this check reads no embeddings")


def _before(masked: Masked, held: list[str], project: Project, work: Path) -> float:
    """The perplexity before, measured once: a resumed run has it from its first try."""
    path = work / "before.json"
    if not path.exists():
        atomic.write_json(path, masked.perplexity(held, project.adapt))
    return float(atomic.read_json(path))
