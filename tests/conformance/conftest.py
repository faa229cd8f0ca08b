"""What tests of conformance share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="module")
def slots(early_slots):
    """Optimizers make their slots before the first step, which is then traced once."""
