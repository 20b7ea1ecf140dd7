"""What is read from the machine and its environment."""

from __future__ import annotations

import getpass

import pytest

from flows.settings import user


@pytest.mark.parametrize("fault", [KeyError("getpwuid(): uid not found: 1001"), OSError("no user")])
def test_a_container_whose_user_has_no_name_is_no_fault(fault: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise fault

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert user() == "unknown"
