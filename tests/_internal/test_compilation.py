"""Compiled code where there is no cache, in forked processes, and only when it is needed."""

from __future__ import annotations

import subprocess
import sys
import textwrap

from scripts import make_environment

SOLVE = """
import numpy as np
from keras_lightrnn import Allocation

words = np.random.default_rng(0).integers(40, size=2000)
"""


def run(*parts: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "".join(map(textwrap.dedent, parts))],
        env={**make_environment(), **variables},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_without_a_place_for_a_cache_functions_are_compiled_with_one_warning():
    process = run(
        """
        import sys, warnings

        sys.modules["keras"] = None
        from numba.core import caching

        # Numba asks each of these whether it can write.
        caching.CacheImpl._locator_classes = []
        """,
        SOLVE,
        """
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            print(Allocation.from_cooccurrence(words, 40).shape)
            Allocation.from_features(np.eye(9))
        told = [w for w in caught if issubclass(w.category, RuntimeWarning)]
        print(len(told), "NUMBA_CACHE_DIR" in str(told[0].message))
        """,
        NUMBA_OPT="0",  # compiles sooner
    )
    assert process.stdout.split("\n")[:2] == ["(6, 7)", "1 True"], process.stderr[-2000:]


def test_a_forked_process_may_cluster_and_solve_after_its_parent():
    process = run(
        """
        import sys

        sys.modules["keras"] = None
        """,
        SOLVE,
        """
        import multiprocessing

        from keras_lightrnn import assignment

        def work(seed):
            costs = np.random.default_rng(0).random((2, 2000, 45))
            problem = assignment.AssignmentProblem.from_costs(*costs)
            cost = assignment.AuctionSolver(1e-3).solve(problem).primal_cost
            return Allocation.from_cooccurrence(words, 40, seed=seed).cells.tolist(), cost

        expected = work(0)
        with multiprocessing.get_context("fork").Pool(2) as pool:
            print([found == expected for found in pool.map_async(work, [0, 0]).get(timeout=120)])
        """,
        NUMBA_NUM_THREADS="2",
    )
    assert process.stdout.strip() == "[True, True]", process.stderr[-2000:]


def test_importing_the_package_loads_neither_numba_nor_datasets():
    process = run(
        """
        import sys
        import keras_lightrnn

        print("keras" in sys.modules, sorted(set(sys.modules) & {"numba", "tensorflow_datasets"}))
        """
    )
    assert process.stdout.strip() == "True []", process.stderr[-2000:]
