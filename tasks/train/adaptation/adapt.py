"""Continue an encoder's masked-language pre-training on the project's own text, before fine-tuning.

Domain- and task-adaptive pre-training: Gururangan et al. 2020 (arXiv:2004.10964). Dev and test texts
are never read, and an unlabelled text that repeats a passage of one is rejected.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tasks import atomic
from tasks.curate.checks.leak import leak
from tasks.curate.context import CurationContext
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
from tasks.train.curves import read_history
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from tasks.train.adaptation.masked import MaskedEncoder

VERSION = 2
MIN_TEXTS = 20


class AdaptData(Figures):
    """The numbers of texts learned from and held out, where the latter are from, and leaks rejected."""

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
        """The adapted checkpoint."""
        return self.directory / "encoder"

    def metrics(self) -> Metrics:
        """Perplexity before and after, texts and steps."""
        metrics = {f"adapt.perplexity.{when}": value for when, value in self.perplexity}
        return metrics | {"adapt.rows": float(self.rows), "adapt.steps": float(self.steps)}

    def history(self) -> Points:
        """The curves of the training."""
        return read_history(self.directory)

    def artifacts(self) -> list[Path]:
        """The figures as a file."""
        return [self.directory / "adapt.json"]

    def summary(self) -> str:
        """The perplexity, and a second line where a head was made."""
        p = self.perplexity
        line = (
            f"perplexity on {self.held_out} held-out {self.held_out_from} texts {p.before:.1f} -> "
            f"{p.after:.1f}, after {self.steps} steps over {self.rows} texts"
        )
        if self.head == "its own":
            return line
        return (
            f"{line}\nthe encoder has no head for masked words: one was made, tied to its word "
            f"embeddings, and trained alone for {self.head_steps} steps first; part of the improvement "
            f"is the head's"
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

    Where the checkpoint has no head for masked words, one is made, its decoder tied to the word
    embeddings, and trained with the encoder frozen before anything is measured. A killed stage resumes
    from its last complete checkpoint. Raises UserError where there is no mask token or too little text,
    the checkpoint's weights do not fit, or the training fails.
    """
    encoder = resolve_encoder(project, workspace)

    def build(out: Path, scratch: Path) -> AdaptResult:
        texts = select_texts(project, curated, splits)
        result = _adapt(project, texts, encoder, out, scratch, progress)
        atomic.write_json(out / "adapt.json", result.model_dump())
        return result

    t = project.train
    params = project.adapt.model_dump(mode="json") | {
        "max_length": t.max_length,
        "leak": project.curate.leak,
        "bf16": t.precision != "fp32" and has_bf16(),
    }
    digests = {"curated": curated.digest, "splits": splits.digest}
    return run_stage(
        AdaptResult,
        "adapt",
        workspace=workspace,
        version=VERSION,
        params=params,
        inputs={**digests, "encoder": digest_of_path(encoder)},
        build=build,
    )


def _adapt(
    project: Project, texts: AdaptTexts, encoder: Path, out: Path, work: Path, progress: Progress
) -> AdaptResult:
    from tasks.train.adaptation.masked import load_masked
    from tasks.train.adaptation.pretrain import pretrain, train_head

    masked = load_masked(encoder, project)
    if masked.new_head:
        train_head(masked, texts.training, progress=progress)
    before = _perplexity_before(masked, texts.held_out, work)
    training = pretrain(masked, texts.training, work=work, progress=progress)
    perplexity = Perplexity(before=before, after=masked.perplexity(texts.held_out))
    masked.save(out / "encoder", original=encoder)
    atomic.write_json(out / "history.json", training.history)
    return AdaptResult(
        **texts.data.model_dump(),
        steps=training.steps,
        resumed_from=training.resumed_from,
        head="made" if masked.new_head else "its own",
        head_steps=project.adapt.head_steps if masked.new_head else 0,
        perplexity=perplexity,
        precision="bf16" if masked.bf16 else "fp32",
    )


def _perplexity_before(masked: MaskedEncoder, held_out: list[str], work: Path) -> float:
    """The perplexity before training, measured once: a resumed run reads it."""
    path = work / "before.json"
    if not path.exists():
        atomic.write_json(path, masked.perplexity(held_out))
    return float(atomic.read_json(path))


@dataclass(frozen=True, slots=True)
class AdaptTexts:
    """Texts to learn from, texts held out, and their numbers."""

    training: list[str]
    held_out: list[str]
    data: AdaptData


def select_texts(project: Project, curated: TrainingRows, splits: SplitsResult) -> AdaptTexts:
    """The texts of an adaptation, unlabelled ones first, each part in the order of its ids.

    Raises UserError where there are too few.
    """
    settings = project.adapt
    training = _by_id(curated.read())
    unlabelled, leaks = _unlabelled(project, splits, known={r.id for r in training})
    source = unlabelled if len(unlabelled) >= MIN_TEXTS else training
    held_out = source[: min(settings.held_out, len(source) // 5)]
    held_out_ids = {r.id for r in held_out}
    rows = [r for r in [*unlabelled, *training] if r.id not in held_out_ids]
    if len(rows) < MIN_TEXTS or not held_out:
        raise UserError(
            f"adapt.epochs is {settings.epochs}, but there are {len(rows)} texts to learn from, fewer "
            f"than {MIN_TEXTS}: give data.unlabelled, or set adapt.epochs to 0"
        )
    rows = rows[: settings.max_rows]
    data = AdaptData(
        rows=len(rows),
        held_out=len(held_out),
        held_out_from="unlabelled" if source is unlabelled else "training",
        leaks=leaks,
    )
    return AdaptTexts([r.text for r in rows], [r.text for r in held_out], data)


def _by_id(rows: list[Record]) -> list[Record]:
    return sorted(rows, key=lambda r: r.id)


def _unlabelled(
    project: Project, splits: SplitsResult, *, known: set[str]
) -> tuple[list[Record], int]:
    """The unlabelled rows that are not `known`, and how many were rejected as leaks of dev or test."""
    rows = [r for r in read_records(splits.directory / "unlabelled.jsonl") if r.id not in known]
    held_out = Fingerprints.load(splits.directory / FINGERPRINTS)
    kept, leaks = leak(_by_id(rows), CurationContext(project.curate, held_out, _no_embedding))
    return kept, len(leaks)


def _no_embedding(texts: list[str]) -> Any:
    raise AssertionError("this check reads no embeddings")
