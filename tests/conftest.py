"""What every test of the package shares."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# XLA compiles some thousand small programs, most of which run once: a third of the time of a test
# that trains. It is told not to optimise the machine code and to leave out the kernel generator
# that sets up MLIR for each fused loop. Programs compute the same.
if os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow":
    options = ["--xla_backend_optimization_level=0"]
    if version("tensorflow") >= "2.21":  # XLA ends the process at an option that it does not know
        options.append("--xla_cpu_use_fusion_emitters=false")
    os.environ.setdefault("XLA_FLAGS", " ".join(options))

# The package under test is the one beside the tests, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import pytest

# TensorFlow makes many objects that live long, which each garbage collection looks through: rarer
# collections, and none of what is imported.
gc.set_threshold(50_000, 20, 20)


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()


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
