"""JAX and PyTorch compute what TensorFlow computes."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import backend_run
import keras
import numpy as np
import pytest
from scripts import make_environment, make_environment_of_jax

SCRIPT = Path(__file__).parent / "backend_run.py"


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """The other backends' runs, at the same time as TensorFlow's own."""
    folder = tmp_path_factory.mktemp("backends")
    np.savez(folder / "weights.npz", **backend_run.make_weights())
    started = {
        backend: subprocess.Popen(
            [sys.executable, SCRIPT, folder / "weights.npz", folder / f"{backend}.npz"],
            env=make_environment(KERAS_BACKEND="torch")
            if backend == "torch"
            else make_environment_of_jax(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for backend in ("jax", "torch")
        if importlib.util.find_spec(backend) is not None
    }
    yield folder, started
    for process in started.values():
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="module")
def expected(processes):
    assert keras.backend.backend() == "tensorflow"
    import tensorflow as tf

    folder, _ = processes
    with np.load(folder / "weights.npz") as file:
        weights = dict(file)
    # Its functions run a few times, which takes less time than to trace them.
    tf.config.run_functions_eagerly(True)
    try:
        return backend_run.compute_results(weights)
    finally:
        tf.config.run_functions_eagerly(False)


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_equals_tensorflow(processes, expected, backend):
    folder, started = processes
    if backend not in started:
        pytest.skip(f"the package {backend!r} is not installed")
    output, _ = started[backend].communicate(timeout=300)
    assert started[backend].returncode == 0, output[-4000:]
    with np.load(folder / f"{backend}.npz") as file:
        received = dict(file)
    assert str(received.pop("backend")) == backend
    assert sorted(received) == sorted(expected)
    for name, values in expected.items():
        if np.issubdtype(values.dtype, np.integer):
            assert received[name].tolist() == values.tolist(), name
        else:
            assert received[name] == pytest.approx(values, rel=1e-5, abs=1e-5), name


def test_a_step_changes_the_loss(expected):
    for name in ("functional", "whole"):
        before, after = expected[f"{name}/loss"]
        assert before == pytest.approx(-expected[f"{name}/log_probs"].mean(), rel=1e-5)
        assert after < before
