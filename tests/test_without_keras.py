"""What needs no Keras works where there is none, and the rest says what is missing."""

from __future__ import annotations

import textwrap

from scripts import make_environment, run_python

BLOCK = """
import sys


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("keras", "tensorflow", "jax", "torch"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Blocker())
"""


def run(code: str, block: str = BLOCK) -> str:
    code = block + textwrap.dedent(code)
    return run_python("-c", code, environment=make_environment(), timeout=120).stdout


def test_allocation_and_assignment_need_no_keras():
    output = run(
        """
        import numpy as np
        import keras_lightrnn
        from keras_lightrnn import assignment

        rng = np.random.default_rng(0)
        problem = assignment.AssignmentProblem.from_costs(rng.random((6, 2)), rng.random((6, 3)))
        solution = keras_lightrnn.assignment.get("exact").solve(problem)
        allocation = keras_lightrnn.Allocation(solution.allocation.cells, 2, 3)
        print(sorted(allocation.cells.tolist()))
        print(keras_lightrnn.Allocation.random(10, seed=0).shape)
        print(sorted(set(sys.modules) & {"keras", "tensorflow", "jax", "torch"}))
        """
    )
    assert output.splitlines() == ["[0, 1, 2, 3, 4, 5]", "(3, 4)", "[]"]


def test_data_needs_no_keras_and_no_tensorflow_datasets():
    output = run(
        """
        from keras_lightrnn.data import TokenShards, Vocabulary, contiguous_windows, from_tfds

        vocabulary = Vocabulary.from_lines(["the cat", "the dog"])
        window, _, _ = contiguous_windows(vocabulary.encode("the dog the cat"), 1, 4)[0]
        print(vocabulary.decode(window[0]))
        print(sorted(set(sys.modules) & {"keras", "tensorflow", "tensorflow_datasets"}))
        """
    )
    assert output.splitlines() == ["the dog the cat <eos>", "[]"]


def test_names_that_need_keras_say_so_with_a_remedy():
    output = run(
        """
        import keras_lightrnn

        for name in ("LightRNNModel", "WordTable", "callbacks", "layers", "losses", "metrics"):
            try:
                getattr(keras_lightrnn, name)
            except ImportError as error:
                assert f"keras_lightrnn.{name}" in str(error), error
                assert "Keras 3" in str(error), error
                assert "pip install" in str(error), error
            else:
                raise SystemExit(f"{name} is there without Keras")
        try:
            from keras_lightrnn import LightRNNModel
        except ImportError:
            print("told")
        """
    )
    assert output.split() == ["told"]


def test_unknown_names_are_attribute_errors():
    output = run(
        """
        import keras_lightrnn

        try:
            keras_lightrnn.Grid
        except AttributeError as error:
            print("Grid" in str(error))
        """
    )
    assert output.split() == ["True"]


def test_allocation_alone_loads_neither_numba_nor_datasets():
    output = run(
        """
        import keras_lightrnn

        print(sorted(set(sys.modules) & {"numba", "tensorflow_datasets"}))
        """
    )
    assert output.split() == ["[]"]
