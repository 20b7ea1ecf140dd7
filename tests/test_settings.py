"""What is read from the machine and its environment."""

from __future__ import annotations

import getpass
import importlib.metadata

import pytest
from click.testing import CliRunner

from flows.cli.main import commands
from flows.settings import Settings, current_user
from tasks.errors import UserError


def test_where_the_lock_is_is_said_without_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    for said in ("", "file", "postgresql://a:secret@b/c", "postgresql+psycopg://a:secret@b/c"):
        monkeypatch.setenv("RESEED_LOCK", said)
        assert Settings.from_environment().lock == said
    monkeypatch.setenv("RESEED_LOCK", "mysql://a:secret@b/c")
    with pytest.raises(UserError, match="RESEED_LOCK begins with 'mysql'") as e:
        Settings.from_environment()
    assert "secret" not in str(e.value)


@pytest.mark.parametrize("fault", [KeyError("getpwuid(): uid not found: 1001"), OSError("no user")])
def test_a_container_whose_user_has_no_name_is_no_fault(
    fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody() -> str:
        raise fault

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert current_user() == "unknown"


def test_the_command_says_its_version() -> None:
    said = CliRunner().invoke(commands, ["--version"])
    assert said.exit_code == 0 and said.output == f"reseed {importlib.metadata.version('reseed')}\n"
