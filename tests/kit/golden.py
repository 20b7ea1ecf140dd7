"""A small seeded training whose curves are committed: a change of the code that moves them is one that must be meant.

After a change that is meant, write them anew: python -m tests.kit.golden
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tasks import atomic
from tests.kit import toy
from tests.kit.training import tuner

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "training.json"


def curves(folder: Path, encoder: Path) -> dict[str, list[float]]:
    """Every curve of the training by name. Without dropout, whose random numbers differ between processors."""
    told = tuner(folder, encoder)(
        "golden",
        epochs=2,
        learning_rate=1e-3,
        lr_scheduler_type="cosine",
        layer_decay=0.9,
        class_weights={"metal": 2.0},
        dropout=0.0,
        attention_dropout=0.0,
        logging_steps=1,
    ).history
    names = sorted(
        {name for _, name, _ in told} - {"dev.f1_macro"}
    )  # it jumps when one row changes sides
    return {name: [round(v, 6) for _, n, v in told if n == name] for name in names}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        atomic.write_json(
            GOLDEN, curves(Path(folder), toy.tiny_encoder(Path(folder) / "tiny-bert"))
        )
