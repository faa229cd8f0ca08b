"""Training on two devices, and in two processes, is training on one."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from scripts import make_environment

from keras_lightrnn._internal import distribution

pytestmark = [
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="`tf.distribute` is TensorFlow's"
    ),
    pytest.mark.skipif(
        not distribution._HAS_SYNCHRONIZATION,
        reason=f"state of replicas is refused with Keras {keras.__version__}",
    ),
]
SCRIPT = Path(__file__).parent / "training_run.py"


@pytest.fixture(scope="module")
def expected():
    import training_run

    return training_run.compute_results()


@pytest.fixture(scope="module")
def expected_others():
    """What comes of low precision and of uneven batches on one device."""
    import training_run

    return training_run.train_in_low_precision(None), training_run.train_unevenly(None)


@pytest.fixture
def start(tmp_path):
    """Starts runs of the script, all at once; ends those that a test leaves behind."""
    processes = []

    def start_processes(kind, cases, configurations):
        paths = [tmp_path / f"{kind}-{index}.npz" for index in range(len(configurations))]
        for path, configuration in zip(paths, configurations, strict=True):
            environment = make_environment(CUDA_VISIBLE_DEVICES="-1", **configuration)
            processes.append(
                subprocess.Popen(
                    [sys.executable, SCRIPT, kind, path, *cases],
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        results = []
        for path, process in zip(paths, processes, strict=True):
            output, _ = process.communicate(timeout=300)
            assert process.returncode == 0, output[-4000:]
            with np.load(path) as file:
                results.append(dict(file))
        return results

    yield start_processes
    for process in processes:
        process.kill()
        process.wait()


def choose_ports(number):
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def check_refusals(messages):
    jit_compile, optimizer, batch_size = messages
    assert "jit_compile=True on 2 replicas" in jit_compile
    assert "made outside of it, and 2 replicas" in optimizer
    assert "batch_size=3 for 2 replicas" in batch_size


def check_others(results, expected_others):
    low_precision, uneven = expected_others
    assert results.pop("low_precision") == pytest.approx(low_precision, rel=0.02)
    assert results.pop("uneven") == pytest.approx(uneven, rel=1e-5)


def check_equal(received, expected, cases):
    expected = {name: x for name, x in expected.items() if name.split("/")[0] in cases}
    assert received.keys() == expected.keys()
    for name, values in expected.items():
        if np.issubdtype(values.dtype, np.integer):
            assert received[name].tolist() == values.tolist(), name
        else:
            assert received[name] == pytest.approx(values, rel=1e-5, abs=1e-5), name
    for case in cases:
        assert (expected[f"{case}/reallocation_moved"] > 0).all(), "or the test asks little"


def test_mirrored_replicas_equal_one_device(start, expected, expected_others):
    cases = ["model", "layers"]
    (results,) = start("mirrored", cases, [{}])
    check_refusals(results.pop("refusals"))
    assert not results.pop("jit_compile")
    assert results.pop("failure") == "ValueError('no solution today')"
    check_others(results, expected_others)
    check_equal(results, expected, cases)


@pytest.mark.parametrize("case", ["model", pytest.param("layers", marks=pytest.mark.slow)])
def test_two_workers_equal_one_process(start, expected, expected_others, case):
    cluster = {"worker": [f"127.0.0.1:{port}" for port in choose_ports(2)]}
    configurations = [
        {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})}
        for index in range(2)
    ]
    chief, other = start("workers", [case], configurations)
    for results in (chief, other):
        check_refusals(results.pop("refusals"))
        assert not results.pop("jit_compile")
        check_others(results, expected_others)
    assert chief.pop("failure") == "ValueError('no solution today')"
    assert "The chief of the workers has failed: ValueError(" in str(other.pop("failure"))
    # The chief alone has solved.
    solved = f"{case}/num_solved"
    assert (chief[solved], other[solved]) == (2, 0)
    other[solved] = chief[solved]
    check_equal(chief, expected, [case])
    check_equal(other, expected, [case])
