"""Laws that every solver keeps, against an oracle that knows nothing of the package."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numba.core.dispatcher import Dispatcher
from scipy.optimize import linear_sum_assignment

from keras_lightrnn import assignment
from keras_lightrnn.assignment import AssignmentProblem, _kernels
from keras_lightrnn.assignment.solver import SolverRun
from keras_lightrnn.table.allocation import Allocation

SOLVERS = {
    "auction": assignment.AuctionSolver(gap_tolerance=1e-6),
    "auction, costs on the fly": assignment.AuctionSolver(gap_tolerance=1e-6, max_block_bytes=0),
    "exact": assignment.ExactSolver(),
    "alternating": assignment.AlternatingSolver(),
    "greedy by regret": assignment.GreedySolver("regret"),
    "greedy matching": assignment.GreedySolver("matching"),
}
OPTIMAL = ("auction", "auction, costs on the fly", "exact")

every_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
optimal_solver = pytest.mark.parametrize(
    "solver", [SOLVERS[name] for name in OPTIMAL], ids=list(OPTIMAL)
)
quick = functools.partial(
    settings,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)


def compute_optimum(row_cost: np.ndarray, column_cost: np.ndarray) -> float:
    """The oracle: every cell written out."""
    costs = np.array(
        [
            np.add.outer(rows, columns).ravel()
            for rows, columns in zip(row_cost, column_cost, strict=True)
        ]
    )
    return float(costs[linear_sum_assignment(costs)].sum())


def compute_cost(cells: np.ndarray, row_cost: np.ndarray, column_cost: np.ndarray) -> float:
    num_columns = column_cost.shape[1]
    return sum(
        float(row_cost[word, cell // num_columns]) + float(column_cost[word, cell % num_columns])
        for word, cell in enumerate(cells.tolist())
    )


@st.composite
def costs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Costs of all shapes and kinds, V < R * C and R != C among them."""
    num_rows = draw(st.integers(1, 6))
    num_columns = draw(st.integers(1, 6))
    num_words = draw(st.integers(1, num_rows * num_columns))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    row_cost = generator.standard_normal((num_words, num_rows))
    column_cost = generator.standard_normal((num_words, num_columns))
    kind = draw(st.sampled_from(["plain", "ties", "counts", "identical", "zero"]))
    if kind == "ties":
        row_cost, column_cost = row_cost.round(), column_cost.round()
    elif kind == "counts":
        counts = np.floor(10 ** generator.uniform(-1, 4, (num_words, 1)))  # zeros among them
        row_cost, column_cost = row_cost * counts, column_cost * counts
    elif kind == "identical":
        row_cost[:], column_cost[:] = row_cost[0], column_cost[0]
    elif kind == "zero":
        row_cost[:], column_cost[:] = 0, 0
    return row_cost, column_cost


def make_typical(num_words: int = 90, num_rows: int = 9, num_columns: int = 11, seed: int = 0):
    generator = np.random.default_rng(seed)
    counts = np.maximum(1, 500 // np.arange(1, num_words + 1))
    return tuple(
        generator.standard_normal((num_words, size)) * counts[:, None]
        for size in (num_rows, num_columns)
    )


@every_solver
@quick(max_examples=25)
@given(costs())
def test_feasible_bracketed_and_not_worse_than_initial(solver, costs):
    row_cost, column_cost = costs
    problem = AssignmentProblem.from_costs(row_cost, column_cost)
    initial = Allocation.random(problem.vocabulary_size, *problem.shape, seed=1)
    solution = solver.solve(problem, initial)

    cells = solution.allocation.cells
    assert np.unique(cells).size == problem.vocabulary_size
    assert solution.allocation.shape == problem.shape
    scale = max(1.0, np.abs(row_cost).max() + np.abs(column_cost).max()) * len(row_cost)
    assert solution.primal_cost == pytest.approx(
        compute_cost(cells, row_cost, column_cost), abs=1e-12 * scale
    )
    optimum = compute_optimum(row_cost, column_cost)
    assert solution.dual_bound <= optimum + 1e-12 * scale
    assert optimum - 1e-12 * scale <= solution.primal_cost
    assert solution.primal_cost <= (
        compute_cost(initial.cells, row_cost, column_cost) + 1e-12 * scale
    )
    gap = solution.primal_cost - solution.dual_bound
    assert solution.duality_gap == pytest.approx(max(gap, 0), abs=1e-12 * scale)


@optimal_solver
@quick(max_examples=40)
@given(costs())
def test_optimum(solver, costs):
    problem = AssignmentProblem.from_costs(*costs)
    solution = solver.solve(problem)
    gain = problem.compute_reference_costs()[1] - solution.dual_bound
    rounding = 1e-6 * problem.compute_magnitude() * problem.vocabulary_size
    assert solution.primal_cost <= compute_optimum(*costs) + 1e-6 * gain + rounding
    assert solution.duality_gap <= 1e-6 * gain + rounding


@every_solver
def test_relabelled_words_keep_the_cost(solver):
    row_cost, column_cost = make_typical()
    order = np.random.default_rng(5).permutation(len(row_cost))
    initial = Allocation.random(len(row_cost), 9, 11, seed=2)
    first = solver.solve(AssignmentProblem.from_costs(row_cost, column_cost), initial)
    second = solver.solve(
        AssignmentProblem.from_costs(row_cost[order], column_cost[order]),
        Allocation(initial.cells[order], 9, 11),
    )
    gain = abs(first.primal_cost)
    assert second.primal_cost == pytest.approx(first.primal_cost, abs=1e-5 * gain)


@every_solver
def test_constants_of_a_word_do_not_matter(solver):
    row_cost, column_cost = make_typical(seed=1)
    constants = np.random.default_rng(6).integers(-64, 64, (len(row_cost), 1))
    first = solver.solve(AssignmentProblem.from_costs(row_cost, column_cost))
    second = solver.solve(AssignmentProblem.from_costs(row_cost + constants, column_cost))
    assert second.primal_cost - constants.sum() == pytest.approx(first.primal_cost, rel=1e-5)


@pytest.mark.parametrize("solver", [SOLVERS["auction"], SOLVERS["exact"]], ids=["auction", "exact"])
def test_huge_and_tiny_counts_together(solver):
    row_cost, column_cost = make_typical()
    counts = np.where(np.arange(len(row_cost)) % 2, 1e9, 1e-3)[:, None]
    row_cost, column_cost = row_cost * counts, column_cost * counts
    solution = solver.solve(AssignmentProblem.from_costs(row_cost, column_cost))
    optimum = compute_optimum(row_cost, column_cost)
    assert solution.primal_cost == pytest.approx(optimum, rel=2e-6)
    assert solution.dual_bound <= optimum + 1e-12 * abs(optimum)


@pytest.mark.parametrize("exponent", [-200, 200])
def test_costs_beyond_float32(exponent):
    row_cost, column_cost = (cost * 10.0**exponent for cost in make_typical())
    solution = SOLVERS["auction"].solve(AssignmentProblem.from_costs(row_cost, column_cost))
    assert solution.primal_cost == pytest.approx(compute_optimum(row_cost, column_cost), rel=2e-6)


@every_solver
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (5, 8)])
def test_one_word(solver, shape):
    generator = np.random.default_rng(0)
    row_cost, column_cost = generator.random((1, shape[0])), generator.random((1, shape[1]))
    solution = solver.solve(AssignmentProblem.from_costs(row_cost, column_cost))
    assert solution.primal_cost == pytest.approx(row_cost.min() + column_cost.min())


@optimal_solver
@pytest.mark.parametrize("size", [(255, 16, 16), (200, 10, 40), (40, 12, 15)])
def test_factors_of_odd_sizes(solver, size):
    num_words, num_rows, num_columns = size
    generator = np.random.default_rng(3)
    row_features = generator.standard_normal((num_words, 5)).astype(np.float32)
    column_features = generator.standard_normal((num_words, 4)).astype(np.float32)
    row_vectors = generator.standard_normal((num_rows, 5)).astype(np.float32)
    column_vectors = generator.standard_normal((num_columns, 4)).astype(np.float32)
    problem = AssignmentProblem.from_factors(
        row_features, row_vectors, column_features, column_vectors
    )
    solution = solver.solve(problem)
    optimum = compute_optimum(
        -row_features.astype(np.float64) @ row_vectors.T,
        -column_features.astype(np.float64) @ column_vectors.T,
    )
    assert solution.primal_cost == pytest.approx(optimum, rel=1e-5)
    assert solution.dual_bound <= optimum + 1e-9 * abs(optimum)


@optimal_solver
def test_words_that_never_occurred(solver):
    row_cost, column_cost = make_typical()
    absent = np.random.default_rng(4).random(len(row_cost)) < 0.4
    row_cost[absent], column_cost[absent] = 0, 3
    solution = solver.solve(AssignmentProblem.from_costs(row_cost, column_cost))
    assert solution.primal_cost == pytest.approx(compute_optimum(row_cost, column_cost), rel=2e-6)


def test_matching_reaches_half_of_the_greatest_weight():
    row_cost, column_cost = make_typical()
    solution = SOLVERS["greedy matching"].solve(AssignmentProblem.from_costs(row_cost, column_cost))
    dearest = float((row_cost.max(axis=1) + column_cost.max(axis=1)).sum())
    optimum = compute_optimum(row_cost, column_cost)
    assert dearest - solution.primal_cost >= (dearest - optimum) / 2


def test_quality_comes_in_order():
    problem = AssignmentProblem.from_costs(*make_typical(400, 20, 20))
    cost = {name: solver.solve(problem).primal_cost for name, solver in SOLVERS.items()}
    assert cost["auction"] <= cost["alternating"] < cost["greedy by regret"]
    assert cost["greedy by regret"] < problem.compute_reference_costs()[1]


@pytest.mark.parametrize("method", ["regret", "matching"])
def test_greedy_stopped_early_says_what_it_returns(method):
    problem = AssignmentProblem.from_costs(*make_typical())
    initial = Allocation.random(90, 9, 11, seed=3)
    solution = assignment.GreedySolver(method, time_limit_seconds=1e-9).solve(problem, initial)
    assert solution.status == "time_limit"
    assert "the initial allocation" in solution.message
    assert solution.allocation == initial


@pytest.mark.parametrize("name", ["auction", "auction, costs on the fly"])
def test_same_arguments_same_allocation(name):
    problem = AssignmentProblem.from_costs(*make_typical())
    first, second = (SOLVERS[name].solve(problem) for _ in range(2))
    assert first.allocation == second.allocation
    np.testing.assert_array_equal(first.prices, second.prices)


@pytest.mark.parametrize("max_sweeps", [0, 2.5, True])
def test_sweeps_are_counted(max_sweeps):
    with pytest.raises(ValueError, match=f"`max_sweeps`.*Received: max_sweeps={max_sweeps}"):
        assignment.AlternatingSolver(max_sweeps)


def test_prices_are_those_of_a_solver_that_has_some(rng):
    problem = AssignmentProblem.from_costs(rng.normal(size=(4, 2)), rng.normal(size=(4, 2)))
    given = np.full((2, 2), 123.0)
    for name in ("exact", "alternating", "greedy by regret", "greedy matching"):
        assert SOLVERS[name].solve(problem, prices=given).prices is None
    solution = assignment.AuctionSolver().solve(problem, prices=given)
    assert not np.array_equal(solution.prices, given)
    assert solution == solution
    assert solution != assignment.AuctionSolver().solve(problem)
    assert len({solution}) == 1


def test_an_auction_that_is_stopped_at_once_keeps_the_prices_it_was_given(rng, monkeypatch):
    problem = AssignmentProblem.from_costs(rng.normal(size=(4, 2)), rng.normal(size=(4, 2)))
    given = rng.random((2, 2))

    def interrupt(run):
        raise KeyboardInterrupt

    monkeypatch.setattr(SolverRun, "check_time", interrupt)
    solution = assignment.AuctionSolver().solve(problem, prices=given)
    assert solution.status == "interrupted"
    assert np.array_equal(solution.prices, given)


@pytest.mark.filterwarnings("error")
@every_solver
@pytest.mark.parametrize("magnitude", [5e-324, 1e-320, 1e-317, 1e-315, 1e-310, 1e306])
def test_costs_at_the_ends_of_float64(rng, solver, magnitude):
    costs = [magnitude * rng.integers(-9, 9, size=(6, size)) for size in (2, 3)]
    problem = AssignmentProblem.from_costs(*costs)
    exact = assignment.ExactSolver().solve(problem).primal_cost
    solution = solver.solve(problem)
    rounding = 1e-9 * abs(exact)
    assert solution.dual_bound - rounding <= exact <= solution.primal_cost + rounding


def test_costs_whose_sums_are_beyond_float64():
    with pytest.raises(ValueError, match="representable in float64"):
        AssignmentProblem.from_costs([[1.7e308]], [[1.7e308]])


def test_greedy_choices_by_products_beyond_float32():
    features, vectors = np.float32([[1e25], [2e25]]), np.float32([[1e25], [3e25]])
    problem = AssignmentProblem.from_factors(features, vectors, features, vectors[:1])
    solution = assignment.GreedySolver().solve(problem)
    assert solution.primal_cost == assignment.ExactSolver().solve(problem).primal_cost


@pytest.mark.parametrize("kind", [assignment.AuctionSolver, assignment.GreedySolver])
@pytest.mark.parametrize("value", ["x", -1, 2.5])
def test_memory_is_a_number_of_bytes(kind, value):
    with pytest.raises(ValueError, match=f"max_block_bytes.*{value!r}"):
        kind(max_block_bytes=value)


@pytest.mark.parametrize("value", ["x", -1, 2.5])
def test_the_size_of_a_matrix_is_a_number_of_bytes(value):
    with pytest.raises(ValueError, match=f"max_matrix_bytes.*{value!r}"):
        assignment.ExactSolver(max_matrix_bytes=value)


@every_solver
def test_the_order_of_the_axes_compiles_nothing_anew(solver):
    kernels = [x for x in vars(_kernels).values() if isinstance(x, Dispatcher)]
    costs = make_typical()
    numbers, solutions = [], []
    for order in "CF":
        problem = AssignmentProblem.from_costs(*(np.array(x, order=order) for x in costs))
        solutions.append(solver.solve(problem))
        numbers.append([len(kernel.signatures) for kernel in kernels])
    assert numbers[0] == numbers[1]
    assert solutions[0].allocation == solutions[1].allocation
