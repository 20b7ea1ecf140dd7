"""Zero-shot classification: an NLI checkpoint, as it is, says which label's description fits a text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.errors import UserError

if TYPE_CHECKING:
    import numpy as np

HYPOTHESIS = "This text is about {}."
BATCH = 32


def zero_shot_probabilities(
    descriptions: dict[str, str],
    texts: list[str],
    checkpoint: Path,
    *,
    max_length: int,
    multi_label: bool,
) -> np.ndarray:
    """Probabilities of the labels, shape (texts, labels).

    A softmax over the labels' entailment; of label sets each label's entailment against its
    contradiction. A text is cut at `max_length` tokens next to the longest hypothesis, or at what
    the model can read. Yin et al. 2019 (arXiv:1909.00161), as transformers' zero-shot pipeline does
    it. Raises UserError for a model without entailment.
    """
    import numpy as np
    import torch
    from scipy.special import expit, softmax
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from tasks.encoder.embed import has_bf16, max_input_length

    outputs = entailment_outputs(checkpoint)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    local: Any = {"local_files_only": True, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, **local)
    model: Any = AutoModelForSequenceClassification.from_pretrained(
        checkpoint, use_safetensors=True, **local
    )
    model.to(device).eval()
    hypotheses = [HYPOTHESIS.format(line.rstrip(" .")) for line in descriptions.values()]
    longest = max(len(ids) for ids in tokenizer(hypotheses)["input_ids"])
    length = min(max_input_length(model, tokenizer), max_length + longest)
    cut = {"truncation": "only_first" if longest < length else "longest_first"}
    by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # for little padding
    pairs = [(i, k) for i in by_length for k in range(len(hypotheses))]
    logits = np.zeros((len(texts), len(hypotheses), 2))
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=has_bf16()):
        for start in range(0, len(pairs), BATCH):
            rows, labels = zip(*pairs[start : start + BATCH], strict=True)
            premises, asked = [texts[i] for i in rows], [hypotheses[k] for k in labels]
            batch = tokenizer(
                premises, asked, max_length=length, padding=True, return_tensors="pt", **cut
            ).to(device)
            scores = model(**batch).logits.float().cpu().numpy()
            logits[list(rows), list(labels)] = scores[:, outputs]
    entailment, contradiction = logits[..., 0], logits[..., 1]
    return np.asarray(
        expit(entailment - contradiction) if multi_label else softmax(entailment, axis=1)
    )


def entailment_outputs(checkpoint: Path) -> tuple[int, int]:
    """The outputs for entailment and for its contrary, by the names in the checkpoint's config.json.

    Raises UserError for a checkpoint without an output for entailment, or without a config.
    """
    try:
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        names = {int(i): str(name).lower() for i, name in (config.get("id2label") or {}).items()}
    except (OSError, ValueError, AttributeError):
        raise UserError(
            f"{str(checkpoint)!r} has no config.json with labels: give the folder of an NLI model"
        ) from None
    yes = next((i for i, name in names.items() if name.startswith("entail")), None)
    if yes is None or len(names) < 2:
        raise UserError(
            f"{str(checkpoint)!r} has no label for entailment ({', '.join(names.values()) or 'none'}): "
            f"give an NLI model, with labels such as entailment, neutral and contradiction"
        )
    contrary = [i for i, name in names.items() if name.startswith(("contra", "not"))]
    return yes, (contrary or [i for i in names if i != yes])[0]
