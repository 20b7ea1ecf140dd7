"""Fine-tune an encoder for classification with Hugging Face's Trainer; checkpoints are whole or they don't count."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks import files
from tasks.embed import has_bf16
from tasks.errors import UserError
from tasks.progress import Report, silent
from tasks.project import Train
from tasks.records import Record
from tasks.train.calibrate import fold, temperature


@dataclass(frozen=True)
class Trained:
    """A model in memory with what its training measured. `history` is (step, name, value) in order."""

    model: Any
    tokenizer: Any
    dev_f1_macro: float
    temperature: float
    steps: int
    resumed_from: int
    precision: str
    history: list[tuple[int, str, float]]


def latest_checkpoint(work: Path) -> Path | None:
    """The newest checkpoint whose files match their manifest, and those of the best one that it names; torn ones are
    removed."""
    found = sorted(work.glob("checkpoint-*"), key=lambda p: int(p.name.rsplit("-", 1)[1]), reverse=True)
    for path in found:
        try:
            files.verify(path)
            best = files.read_json(path / "trainer_state.json")["best_model_checkpoint"]
            files.verify(work / Path(best or path).name)  # training ends with its weights
            return path
        except files.CorruptDirectory:
            shutil.rmtree(path)
    return None


def _precision(settings: Train) -> str:
    if settings.precision == "bf16" and not has_bf16():
        raise UserError("train.precision is bf16, which this processor does not have: use auto or fp32")
    return "bf16" if settings.precision != "fp32" and has_bf16() else "fp32"


def fine_tune(
    train: list[Record],
    dev: list[Record],
    *,
    labels: list[str],
    settings: Train,
    encoder: Path,
    work: Path,
    report: Report = silent,
    on_epoch: Callable[[int, float], None] | None = None,
) -> Trained:
    """The encoder in `encoder` with a classification head over `labels`, best on dev by macro-F1, calibrated on dev.

    Resumes from the newest whole checkpoint in `work`. `on_epoch(epoch, dev F1)` may end it by raising. Raises UserError
    when the checkpoint can't classify or there are no rows to train on.
    """
    import transformers
    from transformers import DataCollatorWithPadding, EarlyStoppingCallback, set_seed

    if not train:
        raise UserError(
            "there is no row to train on: generate.per_label is 0 and there are no seed rows, or all were set aside"
        )
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    set_seed(settings.seeds[0])
    model, tokenizer = _load(encoder, labels, settings)
    precision = _precision(settings)
    trainer = _trainer_class()(
        model=model,
        args=_arguments(settings, work, precision),
        train_dataset=_dataset(train, labels, tokenizer, settings.max_length),
        eval_dataset=_dataset(dev, labels, tokenizer, settings.max_length),
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
        compute_metrics=_f1(len(labels)),
        callbacks=[EarlyStoppingCallback(settings.patience), _reporting(report, on_epoch)],
    )
    trainer.remove_callback(transformers.PrinterCallback)  # it prints to standard output
    checkpoint = latest_checkpoint(work)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    outcome = trainer.predict(trainer.eval_dataset)
    t = temperature(outcome.predictions.astype("float64"), outcome.label_ids)
    folded = fold(trainer.model, t)
    log = trainer.state.log_history
    past = sorted((int(h["step"]), k, float(v)) for h in log for k, v in h.items() if k in _METRICS)
    return Trained(
        model=trainer.model,
        tokenizer=tokenizer,
        dev_f1_macro=float(outcome.metrics["test_f1_macro"]),
        temperature=t if folded else 1.0,
        steps=trainer.state.global_step,
        resumed_from=int(checkpoint.name.rsplit("-", 1)[1]) if checkpoint else 0,
        precision=precision,
        history=[(step, _METRICS[k], v) for step, k, v in past],
    )


_METRICS = {
    "loss": "train.loss",
    "learning_rate": "train.learning_rate",
    "eval_loss": "dev.loss",
    "eval_f1_macro": "dev.f1_macro",
}


def _load(encoder: Path, labels: list[str], settings: Train) -> tuple[Any, Any]:
    from safetensors import SafetensorError
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(encoder, **local)
        model = AutoModelForSequenceClassification.from_pretrained(
            encoder,
            num_labels=len(labels),
            id2label=dict(enumerate(labels)),
            label2id={label: i for i, label in enumerate(labels)},
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            **local,
        )
        if tokenizer.vocab_size <= len(tokenizer.all_special_ids):  # what transformers makes up where there is none
            raise ValueError("its tokenizer knows no words")
    except (OSError, ValueError, KeyError, SafetensorError) as e:
        raise UserError(
            f"train.model {encoder} can't be loaded as a classifier: {' '.join(str(e).split())[:300]}; it must be a "
            f"Hugging Face directory with config.json, model.safetensors and a tokenizer, and no custom code"
        ) from None
    # the tokenizer's figure is the lower one where some positions are padding's (RoBERTa: 512 of 514)
    room = min(getattr(model.config, "max_position_embeddings", None) or 2**31, int(tokenizer.model_max_length))
    if settings.max_length > room:
        raise UserError(
            f"train.max_length is {settings.max_length}, but {encoder} reads at most {room} tokens: lower it"
        )
    tokenizer.model_max_length = settings.max_length
    return model, tokenizer


def _dataset(records: list[Record], labels: list[str], tokenizer: Any, max_length: int) -> Any:
    from datasets import Dataset

    encoded = tokenizer([r.text for r in records], truncation=True, max_length=max_length)
    rows = {name: encoded[name] for name in tokenizer.model_input_names if name in encoded}
    rows["labels"] = [labels.index(str(r.label)) for r in records]
    rows["length"] = [len(ids) for ids in encoded["input_ids"]]
    return Dataset.from_dict(rows)


def _arguments(settings: Train, work: Path, precision: str) -> Any:
    import torch
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=str(work),
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=2 * settings.batch_size,
        weight_decay=settings.weight_decay,
        warmup_steps=settings.warmup,  # below 1 it is a share of all steps
        label_smoothing_factor=settings.label_smoothing,
        train_sampling_strategy="group_by_length",
        length_column_name="length",
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_steps=5,
        load_best_model_at_end=True,
        metric_for_best_model="f1_macro",
        greater_is_better=True,
        restore_callback_states_from_checkpoint=True,  # or a resumed run has its whole patience again
        bf16=precision == "bf16",
        use_cpu=not torch.cuda.is_available(),
        seed=settings.seeds[0],
        data_seed=settings.seeds[0],
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to="none",
    )


def _f1(labels: int) -> Any:
    from sklearn.metrics import f1_score

    def compute(outcome: Any) -> dict[str, float]:
        predicted = outcome.predictions.argmax(axis=-1)
        names = list(range(labels))
        return {
            "f1_macro": float(f1_score(outcome.label_ids, predicted, labels=names, average="macro", zero_division=0))
        }

    return compute


def _trainer_class() -> Any:
    from transformers import Trainer
    from transformers.trainer_utils import sort_checkpoints

    class SealingTrainer(Trainer):
        """Trainer whose checkpoint counts once its manifest is written; only then are older ones removed.

        Trainer itself writes `checkpoint-N` in place, and a kill leaves a torn one that it would resume from.
        """

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            super()._save_checkpoint(model, trial)
            run = Path(self.args.output_dir)
            newest = run / f"checkpoint-{self.state.global_step}"
            files.seal(newest)
            best = Path(self.state.best_model_checkpoint or newest)
            for old in map(Path, sort_checkpoints(str(run))):
                if old.name not in {newest.name, best.name}:
                    shutil.rmtree(old)

    return SealingTrainer


def _reporting(report: Report, on_epoch: Callable[[int, float], None] | None = None) -> Any:
    from transformers import TrainerCallback

    class Reporting(TrainerCallback):
        note = ""

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            report(state.global_step, state.max_steps, self.note)

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
            for name in ("loss", "eval_f1_macro"):
                if logs and name in logs:
                    label = "dev F1" if name == "eval_f1_macro" else "loss"
                    self.note = f"{label} {logs[name]:.3f}"
            if on_epoch and logs and "eval_f1_macro" in logs:
                on_epoch(round(state.epoch), logs["eval_f1_macro"])

    return Reporting()
