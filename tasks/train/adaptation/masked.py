"""Masked-language training of an encoder: load it with a head, warm a new head, train, measure, save."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.atomic import digest_of
from tasks.encoder.embed import has_bf16, max_input_length
from tasks.errors import UserError
from tasks.progress import Progress, silent
from tasks.project import Adapt, Project
from tasks.train.arguments import on_one_device
from tasks.train.load import check_weights, missing_weights
from tasks.train.resume import (
    Asked,
    NotFinite,
    Terminated,
    check_finite,
    latest_checkpoint,
    out_of_memory,
    seal_and_rotate,
    sigterm_noted,
    step_of,
)
from tasks.train.trainer import reporting


@dataclass
class Masked:
    """An encoder under a head that guesses masked tokens."""

    model: Any
    tokenizer: Any
    max_length: int
    bf16: bool
    new_head: bool

    def encoded(self, texts: list[str]) -> list[dict[str, Any]]:
        """Token ids of each text, with a mark on the special ones, which are never masked."""
        names = {
            "truncation": True,
            "max_length": self.max_length,
            "return_special_tokens_mask": True,
        }
        rows = self.tokenizer(texts, **names)
        return [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]

    def masker(self, settings: Adapt, **options: Any) -> Callable[[list[dict[str, Any]]], Any]:
        """A collator that masks `mlm_probability` of the tokens: of these 80% by the mask, 10% by another word, 10% not, as in BERT.

        The masks hang on the seed and on which texts stand together in what order: so they change from epoch to epoch, and
        a training that was stopped within an epoch draws those it would have drawn.
        """
        import torch
        from transformers import DataCollatorForLanguageModeling

        collator = DataCollatorForLanguageModeling(
            self.tokenizer,
            mlm=True,
            mlm_probability=settings.mlm_probability,
            seed=settings.seed,
            **options,
        )

        def masked(rows: list[dict[str, Any]]) -> Any:
            drawn = digest_of([settings.seed, [list(r["input_ids"]) for r in rows]])
            collator.generator = torch.Generator().manual_seed(int(drawn[:15], 16))
            return collator(rows)

        return masked

    def perplexity(self, texts: list[str], settings: Adapt, batch_size: int = 32) -> float:
        """exp of the mean loss over the masked tokens of `texts`: the same masks at each call, every one a mask token.

        A pseudo-perplexity: all of a text's masks are guessed at once. Salazar et al. 2020 (arXiv:1910.14659) mask one
        token at a time.
        """
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model.to(device).eval()
        masker = self.masker(settings, mask_replace_prob=1.0, random_replace_prob=0.0)
        rows, loss, tokens = self.encoded(texts), 0.0, 0
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=self.bf16):
            for start in range(0, len(rows), batch_size):
                batch = masker(rows[start : start + batch_size])
                labels = batch.pop("labels").to(device)
                logits = self.model(**{k: v.to(device) for k, v in batch.items()}).logits.float()
                loss += float(
                    torch.nn.functional.cross_entropy(
                        logits.flatten(0, 1), labels.flatten(), reduction="sum"
                    )
                )
                tokens += int((labels != -100).sum())
        return math.exp(min(loss / max(tokens, 1), 50.0))

    def head(self) -> list[Any]:
        """The parameters that belong to the head alone; a decoder tied to the word embeddings does not."""
        own = {id(p) for p in self.model.base_model.parameters()}
        return [p for p in self.model.parameters() if id(p) not in own]


def load_masked(encoder: Path, project: Project) -> Masked:
    """The encoder with its head for masked words, or a new one. Raises UserError where it can't guess words."""
    import transformers
    from safetensors import SafetensorError
    from transformers import AutoModelForMaskedLM, AutoTokenizer, set_seed

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    local = {"local_files_only": True, "trust_remote_code": False}
    set_seed(project.adapt.seed)  # of a new head
    try:
        tokenizer = AutoTokenizer.from_pretrained(encoder, **local)
        options = {
            "use_safetensors": True,
            "ignore_mismatched_sizes": True,
            "output_loading_info": True,
        }
        model, info = AutoModelForMaskedLM.from_pretrained(encoder, **options, **local)
    except (OSError, ValueError, KeyError, SafetensorError) as e:
        raise UserError(
            f"train.model {encoder} can't be adapted: {' '.join(str(e).split())[:300]}; set adapt.epochs to 0, or use an "
            f"encoder that transformers knows as a masked language model"
        ) from None
    if tokenizer.mask_token is None:
        raise UserError(
            f"train.model {encoder} has no mask token, so it can't guess masked words: set adapt.epochs to 0"
        )
    check_weights(model, info, encoder=encoder)
    prefix = model.base_model_prefix + "."
    missing = [k for k in missing_weights(info) if not k.startswith(prefix)]
    if missing and model.get_output_embeddings() is not None:
        model.config.tie_word_embeddings = True
        model.tie_weights()
    bf16 = project.train.precision != "fp32" and has_bf16()
    return Masked(
        model,
        tokenizer,
        min(project.train.max_length, max_input_length(model, tokenizer)),
        bf16,
        bool(missing),
    )


def warm_head(
    masked: Masked, texts: list[str], settings: Adapt, *, progress: Progress = silent
) -> None:
    """Train the head alone, the encoder frozen, for `head_steps`: a new head knows nothing, and would spoil the encoder."""
    import torch
    from transformers import set_seed

    set_seed(settings.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    masked.model.to(device).train()
    rows, masker, own = masked.encoded(texts), masked.masker(settings), masked.head()
    frozen = [p for p in masked.model.base_model.parameters() if p.requires_grad]
    for p in frozen:
        p.requires_grad_(False)
    optimizer = torch.optim.AdamW(own, lr=1e-3, weight_decay=0.0)
    order: list[int] = []
    for step in range(settings.head_steps):
        if len(order) < settings.batch_size:
            order = [*order, *torch.randperm(len(rows)).tolist()]
        batch = masker([rows[i] for i in order[: settings.batch_size]])
        order = order[settings.batch_size :]
        with torch.autocast(device, torch.bfloat16, enabled=masked.bf16):
            loss = masked.model(**{k: v.to(device) for k, v in batch.items()}).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        progress(step + 1, settings.head_steps, "the head")
    for p in frozen:
        p.requires_grad_(True)


def train_masked(
    masked: Masked, texts: list[str], settings: Adapt, *, work: Path, progress: Progress = silent
) -> tuple[int, int, list[dict[str, Any]]]:
    """(steps, step resumed from, the Trainer's log) of training `masked.model` in place; checkpoints are sealed in `work`.

    At a SIGTERM the step in flight is finished and a checkpoint written. Raises UserError where the loss or a weight is no
    number, or memory runs out.
    """
    try:
        with sigterm_noted() as asked:
            return _train(masked, texts, settings, work=work, progress=progress, asked=asked)
    except NotFinite as e:
        other = ", or set train.precision to fp32" if masked.bf16 else ""
        raise UserError(
            f"the adaptation failed: {e}; lower adapt.learning_rate (it is {settings.learning_rate:g}){other}"
        ) from None
    except RuntimeError as e:
        if not out_of_memory(e):
            raise
        raise UserError(
            f"the adaptation ran out of memory with {settings.batch_size} texts a step: lower adapt.batch_size or "
            f"train.max_length"
        ) from None


def _train(
    masked: Masked,
    texts: list[str],
    settings: Adapt,
    *,
    work: Path,
    progress: Progress,
    asked: Asked,
) -> tuple[int, int, list[dict[str, Any]]]:
    import transformers
    from transformers import set_seed

    set_seed(settings.seed)
    trainer = _sealing_trainer()(
        model=masked.model,
        args=_arguments(masked, settings, work),
        train_dataset=masked.encoded(texts),
        data_collator=masked.masker(settings),
        processing_class=masked.tokenizer,
        callbacks=[reporting(progress), _stopping(asked)],
    )
    trainer.remove_callback(transformers.PrinterCallback)  # it prints to standard output
    checkpoint = latest_checkpoint(work)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if asked.to_stop:
        raise Terminated(f"stopped at step {trainer.state.global_step}")
    check_finite(trainer.model, step=trainer.state.global_step)
    resumed = step_of(checkpoint) if checkpoint else 0
    return trainer.state.global_step, resumed, trainer.state.log_history


def _arguments(masked: Masked, settings: Adapt, work: Path) -> Any:
    import torch
    from transformers import TrainingArguments

    made = TrainingArguments(
        output_dir=str(work),
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        learning_rate=settings.learning_rate,
        per_device_train_batch_size=settings.batch_size,
        weight_decay=0.01,
        warmup_steps=0.06,  # below 1 it is a share of all steps
        train_sampling_strategy="group_by_length",
        save_strategy="steps",
        save_steps=0.1,  # below 1 it is a share of all steps
        logging_steps=0.02,
        logging_nan_inf_filter=False,  # a loss that is no number ends the training
        remove_unused_columns=False,
        bf16=masked.bf16,
        use_cpu=not torch.cuda.is_available(),
        seed=settings.seed,
        data_seed=settings.seed,
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to="none",
    )
    return on_one_device(made)


def _sealing_trainer() -> Any:
    import torch
    from transformers import Trainer

    class SealingTrainer(Trainer):
        """Trainer whose checkpoint counts once its manifest is written; only then are older ones removed. A loss or a weight
        that is no number ends it before."""

        def training_step(self, *given: Any, **named: Any) -> Any:
            loss = super().training_step(*given, **named)
            if not torch.isfinite(loss):
                raise NotFinite(f"the loss was not a number at step {self.state.global_step + 1}")
            return loss

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            check_finite(self.model, step=self.state.global_step)
            super()._save_checkpoint(model, trial)
            seal_and_rotate(
                Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}",
                best=None,
                keep=1,
            )

    return SealingTrainer


def _stopping(asked: Asked) -> Any:
    """A callback that ends the training with a checkpoint where it is asked to stop."""
    from transformers import TrainerCallback

    class Stopping(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if asked.to_stop:
                control.should_save = control.should_training_stop = True

    return Stopping()


def history_of(log: list[dict[str, Any]]) -> list[tuple[int, str, float]]:
    """(step, name, value) of the Trainer's log."""
    names = {"loss": "adapt.loss", "learning_rate": "adapt.learning_rate"}
    return sorted(
        (int(h["step"]), names[k], float(v)) for h in log for k, v in h.items() if k in names
    )


def save_encoder(masked: Masked, encoder: Path, directory: Path) -> None:
    """Write the adapted checkpoint, tokenizer included, with what `encoder` holds beyond it (BERT's pooler, which a
    masked language model leaves out and a classifier reads)."""
    from transformers import AutoModel

    local = {"local_files_only": True, "trust_remote_code": False}
    model = masked.model.to("cpu")
    own, prefix = model.state_dict(), model.base_model_prefix + "."
    whole = AutoModel.from_pretrained(encoder, use_safetensors=True, **local).state_dict()
    rest = {prefix + k: v for k, v in whole.items() if prefix + k not in own}
    model.save_pretrained(directory, state_dict={**own, **rest}, safe_serialization=True)
    masked.tokenizer.save_pretrained(directory)
