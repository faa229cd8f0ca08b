"""What every test of the package shares."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import random
import sys
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# XLA compiles some thousand small programs, most of which run once: a third of the time of a test
# that trains. It is told not to optimise the machine code and to leave out the kernel generator
# that sets up MLIR for each fused loop. Programs compute the same.
if os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow":
    options = ["--xla_backend_optimization_level=0"]
    if version("tensorflow") >= "2.21":  # XLA ends the process at an option that it does not know
        options += [
            "--xla_cpu_use_fusion_emitters=false",
            "--xla_cpu_parallel_codegen_split_count=1",
        ]
    os.environ.setdefault("XLA_FLAGS", " ".join(options))

# The package under test is the one beside the tests, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import pytest
from graphs import keep_no_stacks, trace_without_xla

# What the tests of a directory do not depend on.
QUICK_DIRECTORIES = {
    "benchmarks": ["early_slots", "no_xla"],
    "callbacks": ["no_xla"],
    "conformance": ["early_slots"],
    "distribution": ["early_slots", "no_xla"],
    "examples": ["early_slots", "no_xla"],
}

# TensorFlow makes many objects that live long, which each garbage collection looks through: rarer
# collections, and none of what is imported.
gc.set_threshold(50_000, 20, 20)


@pytest.hookimpl(trylast=True)  # without the tests that other options leave out
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let the files that take long come first, so that the processes that run them end together.

    Files that start processes take long for the tests they have; of the others, those of most tests
    come first.
    """
    if hasattr(config, "workerinput"):
        num_tests = Counter(item.path for item in items)
        items.sort(key=lambda item: (not hasattr(item.module, "subprocess"), -num_tests[item.path]))


def pytest_collection_finish() -> None:
    if "tensorflow" in sys.modules:
        keep_kernels()
        keep_no_stacks()
    gc.collect()
    gc.freeze()


def keep_kernels() -> None:
    """Let a seed be set without the loss of all kernels.

    `tf.random.set_seed`, which each test calls, drops the kernels of all operations and functions,
    so that random operations start again. A loaded or compiled function that many tests share then
    takes up to a second in each. The operations of Keras read their seeds as inputs.
    """
    from tensorflow.python.eager.context import Context

    def set_global_seed(context: Context, seed: int) -> None:
        context._seed, context._rng = seed, random.Random(seed)

    assert hasattr(Context, "_set_global_seed")
    Context._set_global_seed = set_global_seed


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
def graph_optimizer() -> None:
    """Run graphs as they are: the tests of a directory that needs them optimized say so.

    To optimize a graph that runs a few times takes a quarter of the time of a test that trains.
    """
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is not None:
        tensorflow.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


@pytest.fixture(scope="module")
def early_slots() -> Iterator[None]:
    """Let Keras models make the variables of their optimizer before their first step.

    TensorFlow traces a step that makes variables twice, which is half the time of a test that
    trains a model other than `LightRNNModel`. Keras makes them early under a strategy only.
    """
    import keras

    make_train_function = keras.Model.make_train_function

    def make_slots_first(model: Any, force: bool = False) -> Any:
        if model.built and not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        return make_train_function(model, force)

    with pytest.MonkeyPatch.context() as context:
        context.setattr(keras.Model, "make_train_function", make_slots_first)
        yield


@pytest.fixture(scope="module")
def no_xla() -> Iterator[None]:
    """Run the compiled operations of the package as parts of the graph around them.

    See `trace_without_xla`. Steps that XLA compiles are tested in the other directories.
    """
    with pytest.MonkeyPatch.context() as context:
        trace_without_xla(context.setattr)
        yield


@pytest.fixture(autouse=True, scope="module")
def quick_directory(request: pytest.FixtureRequest) -> None:
    """Use the fixtures that make the tests of a directory quicker."""
    for name in QUICK_DIRECTORIES.get(request.path.parent.name, ()):
        request.getfixturevalue(name)


@pytest.fixture(autouse=True, scope="module")
def forget_graphs() -> Iterator[None]:
    """Drop the graphs of a module's models, which hold memory and slow garbage collection."""
    yield
    keras = sys.modules.get("keras")
    if keras is not None:
        forget_custom_gradients()
        keras.backend.clear_session()  # collects garbage
    else:
        gc.collect()
    gc.freeze()  # what is left is there to stay: modules, mostly
    release_free_memory()


def forget_custom_gradients() -> None:
    """Let go of the graphs that hold a function with a hand-written gradient.

    TensorFlow registers each gradient under a new name and keeps it, and with it its graph: 12 MB
    for each model that is trained.
    """
    if "tensorflow" in sys.modules:
        from tensorflow.python.framework import ops

        registry = ops.gradient_registry._registry
        for name in [name for name in registry if name.startswith("CustomGradient-")]:
            del registry[name]


def release_free_memory() -> None:
    """Give the memory that is free inside the process back to the system, where glibc can."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
