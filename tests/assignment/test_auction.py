"""What the auction alone promises: warm starts, certificates, and stopping early."""

from __future__ import annotations

import numpy as np
import pytest

from keras_lightrnn.assignment import AssignmentProblem, AuctionSolver, ExactSolver, _kernels
from keras_lightrnn.assignment.solver import SolverRun
from keras_lightrnn.table.allocation import Allocation


def make_problem(num_words: int = 1000, noise: float = 0.0, table: tuple[int, int] = (32, 32)):
    generator = np.random.default_rng(0)
    counts = np.maximum(1, 2000 // np.arange(1, num_words + 1))[:, None]
    features = [generator.standard_normal((num_words, 8)) * counts for _ in table]
    vectors = [generator.standard_normal((size, 8)) for size in table]
    features = [f + noise * generator.standard_normal(f.shape) * np.sqrt(counts) for f in features]
    return AssignmentProblem.from_factors(features[0], vectors[0], features[1], vectors[1])


def test_prices_prove_the_bound():
    # The dual function, written out: no allocation costs less, whatever the prices.
    problem = make_problem(300, table=(15, 22))
    solution = AuctionSolver(gap_tolerance=1e-4).solve(problem)
    costs = problem.compute_row_costs()[:, :, None] + problem.compute_column_costs()[:, None, :]
    prices = solution.prices
    num_dummies = problem.num_cells - problem.vocabulary_size
    bound = (costs + prices).min(axis=(1, 2)).sum() + num_dummies * prices.min() - prices.sum()
    assert solution.status == "optimal"
    # Less what rounding may have lost, which the solver takes off.
    assert solution.dual_bound <= bound
    assert solution.dual_bound == pytest.approx(bound, rel=1e-6)


def test_warm_start_takes_fewer_rounds():
    solver = AuctionSolver(gap_tolerance=1e-4)
    cold = solver.solve(make_problem())
    changed = make_problem(noise=0.01)
    warm = solver.solve(changed, cold.allocation, prices=cold.prices)
    again = solver.solve(changed)
    assert warm.status == again.status == "optimal"
    assert warm.num_rounds < again.num_rounds
    assert warm.primal_cost == pytest.approx(again.primal_cost, rel=2e-4)


def count_bids(solution) -> int:
    return solution.statistics["num_bids"]


def test_warm_start_costs_a_fraction_of_the_bids():
    solver = AuctionSolver(gap_tolerance=1e-5)
    cold = solver.solve(make_problem())
    changed = make_problem(noise=0.001)
    warm = solver.solve(changed, cold.allocation, prices=cold.prices)
    assert warm.status == "optimal"
    assert count_bids(warm) < count_bids(solver.solve(changed)) / 2


def test_useless_prices_are_dropped():
    # Those of an unrelated problem: what they cost is a few scans, not a slower auction.
    problem = make_problem()
    order = np.random.default_rng(2).permutation(1024)
    solver = AuctionSolver(gap_tolerance=1e-4)
    cold = solver.solve(problem)
    prices = cold.prices.ravel()[order].reshape(32, 32)
    misled = solver.solve(problem, Allocation.random(1000, 32, 32, seed=0), prices=prices)
    assert misled.status == "optimal"
    assert count_bids(misled) < 1.5 * count_bids(cold)


def make_alike(num_alike: int, noise: float):
    """600 words, some of which want nearly the same cells."""
    generator = np.random.default_rng(0)
    row_cost, column_cost = generator.standard_normal((2, 600, 25))
    for costs in (row_cost, column_cost):
        costs[:num_alike] = costs[0] + noise * generator.standard_normal((num_alike, 25))
    return AssignmentProblem.from_costs(row_cost, column_cost)


@pytest.mark.parametrize("noise", [0, 1e-4])
def test_words_alike_do_not_bid_each_other_up(noise):
    solver = AuctionSolver(gap_tolerance=1e-4)
    bids = [count_bids(solver.solve(make_alike(size, noise))) for size in (1, 300)]
    # In steps of epsilon it is hundreds of times as many.
    assert bids[1] < (3 if noise == 0 else 40) * bids[0]


def test_words_alike_reach_the_optimum():
    problem = make_alike(300, 0)
    exact = ExactSolver().solve(problem)
    solution = AuctionSolver(gap_tolerance=1e-6).solve(problem)
    assert solution.status == "optimal"
    gain = problem.compute_reference_costs()[1] - exact.primal_cost
    assert solution.primal_cost - exact.primal_cost <= 1e-6 * gain
    assert solution.dual_bound <= exact.primal_cost


def test_prices_of_any_kind_do_no_harm():
    problem = make_problem(300, table=(18, 18))
    prices = np.random.default_rng(1).standard_normal((18, 18)) * 1e3
    solution = AuctionSolver(gap_tolerance=1e-4).solve(problem, prices=prices)
    assert solution.status == "optimal"


@pytest.mark.parametrize("max_block_bytes", [2**33, 0])
def test_number_of_threads_does_not_matter(max_block_bytes, monkeypatch):
    problem = make_problem(1500, table=(39, 39))
    solutions = []
    for num_threads in ("1", "3"):
        monkeypatch.setenv("NUMBA_NUM_THREADS", num_threads)
        solutions.append(AuctionSolver(max_block_bytes=max_block_bytes).solve(problem))
    assert solutions[0].allocation == solutions[1].allocation
    np.testing.assert_array_equal(solutions[0].prices, solutions[1].prices)


def interrupt_after(monkeypatch, num_checks: int) -> list[None]:
    """Interrupt solvers at a check of the time; return the list that counts the checks."""
    checks: list[None] = []

    def check_time(run: SolverRun) -> None:
        checks.append(None)
        if len(checks) == num_checks:
            raise KeyboardInterrupt

    monkeypatch.setattr(SolverRun, "check_time", check_time)
    return checks


def test_time_limit():
    problem = make_problem()
    initial = Allocation.random(1000, 32, 32, seed=0)
    solution = AuctionSolver(time_limit_seconds=1e-6).solve(problem, initial)
    assert solution.status == "time_limit"
    assert "time_limit_seconds" in solution.message
    assert solution.primal_cost <= problem.compute_cost(initial)
    assert solution.dual_bound <= solution.primal_cost


@pytest.mark.parametrize("max_block_bytes", [2**33, 0])
def test_interruption_in_every_place(max_block_bytes, monkeypatch):
    problem = make_problem(300, table=(18, 18))
    initial = Allocation.random(300, 18, 18, seed=0)
    solver = AuctionSolver(max_block_bytes=max_block_bytes)
    checks = interrupt_after(monkeypatch, 10**9)
    optimum = solver.solve(problem, initial).primal_cost
    assert len(checks) > 3

    for stop in np.unique(np.linspace(1, len(checks) - 1, 12, dtype=int)):
        interrupt_after(monkeypatch, stop)
        solution = solver.solve(problem, initial)
        assert solution.status == "interrupted"
        assert np.unique(solution.allocation.cells).size == 300
        assert optimum * (1 + 1e-4) <= solution.primal_cost <= problem.compute_cost(initial)
        assert solution.primal_cost == problem.compute_cost(solution.allocation)


def test_stopped_round_is_completed(monkeypatch):
    # The first round places almost all words. The solution keeps its work.
    problem = make_problem(300, table=(18, 18))
    interrupt_after(monkeypatch, 4)
    solution = AuctionSolver(max_block_bytes=0).solve(problem)
    assert solution.status == "interrupted"
    least, mean = problem.compute_reference_costs()
    assert solution.primal_cost < (least + mean) / 2


@pytest.mark.parametrize("max_block_bytes", [2**33, 0])
def test_words_scanned_on_several_threads_reach_the_optimum(max_block_bytes, monkeypatch):
    monkeypatch.setenv("NUMBA_NUM_THREADS", "2")
    monkeypatch.setattr(_kernels, "PARALLEL_BATCH", 4)
    problem = make_problem(600, table=(25, 25))
    exact = ExactSolver().solve(problem)
    solution = AuctionSolver(max_block_bytes=max_block_bytes).solve(problem)
    assert solution.status == "optimal"
    gain = problem.compute_reference_costs()[1] - exact.primal_cost
    assert solution.primal_cost - exact.primal_cost <= 1e-5 * gain
    assert solution.dual_bound <= exact.primal_cost


def test_benefits_formed_in_float32_still_bound():
    factors = [
        side.astype(np.float32) if side is not None else None for side in make_problem().factors
    ]
    problem = AssignmentProblem.from_factors(*factors)
    kept = AuctionSolver(1e-4).solve(problem)
    formed = AuctionSolver(1e-4, max_block_bytes=0).solve(problem)
    assert kept.status == formed.status == "optimal"
    assert max(kept.dual_bound, formed.dual_bound) <= min(kept.primal_cost, formed.primal_cost)


def test_round_limit():
    solution = AuctionSolver(gap_tolerance=1e-6, max_rounds=1).solve(make_problem())
    assert (solution.status, solution.num_rounds) == ("round_limit", 1)
    assert "max_rounds" in solution.message


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("max_block_bytes", [2**33, 0])
@pytest.mark.parametrize("exponents", [(600, 380), (-900, 900), (900, -900), (-330, -330), (0, 0)])
def test_factors_of_any_size(exponents, max_block_bytes, dtype):
    if dtype == np.float32:  # its range is smaller
        exponents = tuple(exponent // 9 for exponent in exponents)
    factors = [side.astype(dtype) for side in make_problem(100, table=(10, 10)).factors]
    solver = AuctionSolver(gap_tolerance=1e-4, max_block_bytes=max_block_bytes)
    expected = solver.solve(AssignmentProblem.from_factors(*factors))
    scaled = [np.ldexp(factor, exponents[n % 2]) for n, factor in enumerate(factors)]
    problem = AssignmentProblem.from_factors(*scaled)
    solution = solver.solve(problem)
    assert expected.status == solution.status == "optimal"
    assert solution.dual_bound <= solution.primal_cost
    cost = np.ldexp(expected.primal_cost, sum(exponents))
    assert solution.primal_cost == pytest.approx(cost, rel=1e-4)


def test_tolerance_of_zero_ends():
    # Whole numbers below 2**24 are exact in float32, but the allowance for rounding stays.
    generator = np.random.default_rng(0)
    problem = AssignmentProblem.from_costs(
        generator.integers(0, 50, (60, 8)), generator.integers(0, 50, (60, 8))
    )
    solution = AuctionSolver(gap_tolerance=0).solve(problem)
    assert solution.status in ("optimal", "converged")
    assert solution.duality_gap < 0.5


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"gap_tolerance": -1}, "gap_tolerance"),
        ({"gap_tolerance": float("nan")}, "gap_tolerance"),
        ({"max_rounds": 0}, "max_rounds"),
        ({"max_rounds": 2.5}, "max_rounds"),
        ({"time_limit_seconds": 0}, "time_limit_seconds"),
    ],
)
def test_arguments_out_of_range(arguments, name):
    with pytest.raises(ValueError, match=f"{name}.*Received: {name}="):
        AuctionSolver(**arguments)


def test_prices_that_do_not_fit():
    problem = make_problem(300, table=(18, 18))
    with pytest.raises(ValueError, match=r"prices.shape=\(3, 3\)"):
        AuctionSolver().solve(problem, prices=np.zeros((3, 3)))
    with pytest.raises(ValueError, match="finite"):
        AuctionSolver().solve(problem, prices=np.full((18, 18), np.nan))
