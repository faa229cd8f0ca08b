"""Problems say what they cost and refuse what makes no sense; solvers are values."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from keras_lightrnn import assignment
from keras_lightrnn.assignment import AssignmentProblem
from keras_lightrnn.assignment.solver import SolverRun
from keras_lightrnn.table.allocation import Allocation

SOLVERS = [
    assignment.AuctionSolver(1e-3, max_block_bytes=7, max_rounds=3, time_limit_seconds=5),
    assignment.ExactSolver(max_matrix_bytes=1000),
    assignment.AlternatingSolver(max_sweeps=3, tolerance=0.5, time_limit_seconds=2),
    assignment.GreedySolver("matching", max_block_bytes=99, time_limit_seconds=2),
]


def make_factors(seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.standard_normal(shape) for shape in [(11, 4), (3, 4), (11, 5), (6, 5)]]


def test_factors_are_costs():
    factors = make_factors()
    problem = AssignmentProblem.from_factors(*factors)
    explicit = AssignmentProblem.from_costs(-factors[0] @ factors[1].T, -factors[2] @ factors[3].T)
    allocation = Allocation.random(11, 3, 6, seed=0)
    assert problem.shape == explicit.shape == (3, 6)
    np.testing.assert_allclose(problem.compute_row_costs(), explicit.compute_row_costs())
    np.testing.assert_allclose(
        problem.compute_column_costs([2, 5]), explicit.compute_column_costs([2, 5])
    )
    expected = sum(
        explicit.compute_row_costs()[word, row] + explicit.compute_column_costs()[word, column]
        for word, (row, column) in enumerate(zip(allocation.rows, allocation.columns, strict=True))
    )
    assert problem.compute_cost(allocation) == pytest.approx(expected)
    assert explicit.compute_cost(allocation) == pytest.approx(expected)
    assert np.abs(explicit.compute_row_costs()).max() <= problem.compute_magnitude()


def test_float32_factors_are_summed_in_float64():
    features = np.full((1000, 1), 0.1, np.float32)
    problem = AssignmentProblem.from_factors(features, [[1.0]] * 1000, features, [[1.0]])
    cost = problem.compute_cost(Allocation.by_frequency(1000, 1000, 1))
    assert cost == pytest.approx(-2000 * float(np.float32(0.1)), rel=1e-14)


def test_reference_costs_are_what_random_allocations_cost():
    problem = AssignmentProblem.from_factors(*make_factors())
    least, mean = problem.compute_reference_costs()
    costs = [problem.compute_cost(Allocation.random(11, 3, 6, seed=s)) for s in range(400)]
    assert mean == pytest.approx(np.mean(costs), abs=4 * np.std(costs) / 20)
    assert least < min(costs)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("position", range(4))
def test_numbers_that_are_not_finite(bad, position):
    factors = make_factors()
    factors[position][1, 2] = bad
    with pytest.raises(ValueError, match=r"must be finite. Received: \w+\[1, 2\]="):
        AssignmentProblem.from_factors(*factors)


@pytest.mark.parametrize(
    ("row_cost", "column_cost", "message"),
    [
        (np.zeros((3, 2)), np.zeros((4, 2)), "same words"),
        (np.zeros((5, 2)), np.zeros((5, 2)), "num_rows=2, num_columns=2"),
        (np.zeros(3), np.zeros((3, 2)), "row_cost.shape"),
        (np.zeros((0, 3)), np.zeros((0, 3)), "row_cost.shape"),
        (np.array([["a"]]), np.zeros((1, 1)), "row_cost.dtype"),
        (np.full((2, 2), 1.7e308), np.zeros((2, 2)), "Scale the costs"),
    ],
)
def test_costs_that_disagree(row_cost, column_cost, message):
    with pytest.raises(ValueError, match=message):
        AssignmentProblem.from_costs(row_cost, column_cost)


def test_factors_that_disagree():
    factors = make_factors()
    with pytest.raises(ValueError, match="same width"):
        AssignmentProblem.from_factors(factors[0], factors[3], factors[2], factors[3])


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
def test_initial_of_another_table(solver):
    problem = AssignmentProblem.from_costs(np.zeros((6, 2)), np.zeros((6, 3)))
    with pytest.raises(ValueError, match="Received: allocation="):
        solver.solve(problem, Allocation.by_frequency(6, 3, 2))


def test_memory_limits_name_the_way_out():
    problem = AssignmentProblem.from_costs(np.zeros((60, 20)), np.zeros((60, 3)))
    with pytest.raises(ValueError, match=r"28800 bytes\. Use `AuctionSolver`"):
        assignment.ExactSolver(max_matrix_bytes=28_799).solve(problem)
    with pytest.raises(ValueError, match="max_block_bytes=99"):
        assignment.GreedySolver("matching", max_block_bytes=99).solve(problem)


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
def test_config_round_trip(solver):
    config = json.loads(json.dumps(solver.get_config()))
    rebuilt = type(solver).from_config(config)
    assert rebuilt.get_config() == solver.get_config() != type(solver)().get_config()
    assert all(getattr(rebuilt, name) == value for name, value in config.items())
    assert repr(rebuilt) == repr(solver)


def test_get():
    for name in ("auction", "exact", "alternating", "greedy"):
        solver = assignment.get(name)
        assert type(solver).__name__.lower() == f"{name}solver"
        assert assignment.get(solver) is solver
    for identifier in ("simplex", 3, {"config": {}}):
        with pytest.raises(ValueError, match="Received: identifier="):
            assignment.get(identifier)


def test_alternating_stops_where_it_is_when_interrupted(monkeypatch):
    generator = np.random.default_rng(0)
    problem = AssignmentProblem.from_costs(
        generator.standard_normal((400, 20)), generator.standard_normal((400, 20))
    )
    checks = []

    def interrupt(run):
        checks.append(run)
        if len(checks) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(SolverRun, "check_time", interrupt)
    initial = Allocation.random(400, 20, 20, seed=0)
    solution = assignment.AlternatingSolver().solve(problem, initial)
    assert solution.status is assignment.AssignmentStatus.INTERRUPTED
    assert solution.status.is_early
    assert solution.primal_cost < problem.compute_cost(initial)


def test_needs_neither_tensorflow_nor_keras():
    # The package directory itself is bypassed: what its own `__init__` does is not asked here.
    code = (
        "import sys, types, importlib.util, pathlib\n"
        "path = pathlib.Path(importlib.util.find_spec('keras_lightrnn').origin).parent\n"
        "package = types.ModuleType('keras_lightrnn')\n"
        "package.__path__ = [str(path)]\n"
        "sys.modules['keras_lightrnn'] = package\n"
        "import keras_lightrnn.assignment\n"
        "print(sorted({'tensorflow', 'keras', 'torch', 'jax'} & set(sys.modules)))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
