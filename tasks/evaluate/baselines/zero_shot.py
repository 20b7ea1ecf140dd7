"""An NLI checkpoint asked, as it is, which label's description a text entails: what fine-tuning has to beat."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.errors import UserError

if TYPE_CHECKING:
    import numpy as np

HYPOTHESIS = "This text is about {}."
BATCH = 32


def zero_shot(
    described: dict[str, str],
    texts: list[str],
    checkpoint: Path,
    *,
    max_length: int,
    multi_label: bool,
) -> np.ndarray:
    """Probabilities of the labels, shape (texts, labels): of one label a text a softmax over the labels' entailment, of several
    each label's entailment against its contradiction.

    A text is cut at `max_length` tokens beside the longest hypothesis, or at what the model can read. Yin et al. 2019
    (arXiv:1909.00161), as transformers' zero-shot pipeline does it. Raises UserError for a model without entailment.
    """
    import numpy as np
    import torch
    from scipy.special import expit, softmax
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from tasks.encoder.embed import has_bf16, max_input_length

    yes, no = sides(checkpoint)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(
        checkpoint, local_files_only=True, trust_remote_code=False
    )
    model: Any = AutoModelForSequenceClassification.from_pretrained(
        checkpoint, local_files_only=True, trust_remote_code=False, use_safetensors=True
    )
    model.to(device).eval()
    asked = [HYPOTHESIS.format(line.rstrip(" .")) for line in described.values()]
    longest = max(len(ids) for ids in tokenizer(asked)["input_ids"])
    length = min(max_input_length(model, tokenizer), max_length + longest)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # little of a batch is padding
    logits = np.zeros((len(texts), len(asked), 2))
    pairs = [(i, k) for i in order for k in range(len(asked))]
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=has_bf16()):
        for start in range(0, len(pairs), BATCH):
            rows, labels = zip(*pairs[start : start + BATCH], strict=True)
            batch = tokenizer(
                [texts[i] for i in rows],
                [asked[k] for k in labels],
                truncation="only_first" if longest < length else "longest_first",
                max_length=length,
                padding=True,
                return_tensors="pt",
            ).to(device)
            said = model(**batch).logits.float().cpu().numpy()
            logits[list(rows), list(labels)] = said[:, [yes, no]]
    return np.asarray(
        expit(logits[..., 0] - logits[..., 1]) if multi_label else softmax(logits[..., 0], axis=1)
    )


def sides(checkpoint: Path) -> tuple[int, int]:
    """The outputs for entailment and for its contrary, by the names in the checkpoint's config.json.

    Raises UserError for a checkpoint without an output for entailment, or without a config.
    """
    try:
        named = (
            json.loads((checkpoint / "config.json").read_text(encoding="utf-8")).get("id2label")
            or {}
        )
        names = {int(i): str(name).lower() for i, name in named.items()}
    except (OSError, ValueError, AttributeError):
        raise UserError(
            f"{str(checkpoint)!r} has no config.json with labels: give the folder of an NLI model"
        ) from None
    yes = next((i for i, name in names.items() if name.startswith("entail")), None)
    if yes is None or len(names) < 2:
        raise UserError(
            f"{str(checkpoint)!r} has no label of entailment ({', '.join(names.values()) or 'none'}): give an NLI model, "
            f"whose labels are such as entailment, neutral and contradiction"
        )
    contrary = [i for i, name in names.items() if name.startswith(("contra", "not"))]
    return yes, (contrary or [i for i in names if i != yes])[0]
