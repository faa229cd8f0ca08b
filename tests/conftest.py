"""What every test of the package shares."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# The package under test is the one beside the tests, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def seed() -> int:
    """Seed every generator that a test may draw from."""
    keras = sys.modules.get("keras")
    if keras is None:  # tests of what needs no Keras do not wait for it
        np.random.seed(0)  # noqa: NPY002
    else:
        keras.utils.set_random_seed(0)
    return 0


@pytest.fixture(autouse=True, scope="module")
def forget_graphs() -> Iterator[None]:
    """Drop the graphs of a module's models, which garbage collection would look through again."""
    yield
    keras = sys.modules.get("keras")
    if keras is not None:
        keras.backend.clear_session()
    gc.collect()
    gc.freeze()  # what is left is there to stay: modules, mostly


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
