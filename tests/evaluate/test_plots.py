"""Plots are drawn whatever the labels are."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from tasks.evaluate.plots import plot_confusion

HOSTILE = [
    "$x$",
    "<b>",
    "a_b^{c",
    r"\alpha$ $",
    r"\$",
    "$\\frac{$",
    "",
    "x" * 300,
    "two\nlines",
    "{}%s",
]


@pytest.mark.parametrize(
    "labels", [HOSTILE, [f"label {i}" for i in range(40)]], ids=["hostile", "many"]
)
def test_the_confusion_matrix_is_drawn_whatever_the_labels(
    tmp_path: Path, labels: list[str]
) -> None:
    matrix = np.diag(range(len(labels))).tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_confusion(matrix, labels, "toy: $bundle", tmp_path / "c.png")
    data = (tmp_path / "c.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and data[-8:-4] == b"IEND"
