"""Fixtures of the tests of namespaces-init (`pytest_plugins = ["tests.fakes.survey_fixtures"]`)."""

from __future__ import annotations

import pytest

from tests.conftest import Logs
from tests.fakes.survey_files import EXPECTED


@pytest.fixture
def may_warn(logs: Logs) -> None:
    """What these tests are about is said loudly."""
    logs.allow(*EXPECTED)
