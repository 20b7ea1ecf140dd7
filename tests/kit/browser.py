"""Headless Chromium for tests; where there is none they are skipped, or fail with RESEED_REQUIRE_BROWSER=1."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from docs.screenshots import chromium


@contextmanager
def headless() -> Iterator[Any]:
    """The browser, of one test module: playwright keeps a loop in this thread while it is open."""
    try:
        with chromium() as browser:
            yield browser
    except FileNotFoundError as e:
        (pytest.fail if os.environ.get("RESEED_REQUIRE_BROWSER") == "1" else pytest.skip)(str(e))
