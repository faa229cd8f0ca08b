"""Measures the speed of the assignment solvers and their distance from the optimum.

Every solver gets the same problem and the same initial allocation in a separate process. Memory is
the peak above that of the imports: for the problem alone, then for problem and solver. The table
shows medians over `--repeats` solves (one for the exact solver), without compilation:

- CPU: user and system seconds of all threads, which depend little on other processes;
- gain: the share of the distance between the initial allocation and the best lower bound of all
  solvers, in percent;
- certified gap: the duality gap of the solver, in percent of its gain;
- to exact: the cost above the exact optimum, in percent of the gain, if it was computed.

Problems are synthetic (features of rank `--rank`, a decaying spectrum, Zipf counts), or read with
`--statistics FILE.npz` from a file with the arrays `row_features (V, K)`,
`row_vectors (R, K)`, `column_features (V, L)`, `column_vectors (C, L)`, `cells (V,)` (the
initial allocation), `num_rows` and `num_columns`.

    python benchmarks/assignment.py --sizes 10000 250000 --solvers greedy alternating auction
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from peak_memory import get_peak_gigabytes

from keras_lightrnn.assignment import (
    AlternatingSolver,
    AssignmentProblem,
    AssignmentSolver,
    AuctionSolver,
    ExactSolver,
    GreedySolver,
)
from keras_lightrnn.table.allocation import Allocation, compute_table_shape

SOLVERS = (
    "greedy",
    "matching",
    "alternating",
    "greedy+alternating",
    "auction",
    "auction-warm",
    "exact",
)


def make_synthetic(
    vocabulary_size: int, rank: int, seed: int = 0, change: float = 0.0
) -> tuple[AssignmentProblem, Allocation]:
    """Return a problem similar to that of a trained model: sums of states over Zipf counts.

    Args:
        vocabulary_size: Integer `V`.
        rank: Integer, width of the features.
        seed: Integer.
        change: Float, the standard deviation of a random factor near 1 on every feature, which
            imitates some further training.
    """
    num_rows, num_columns = compute_table_shape(vocabulary_size)
    generator = np.random.default_rng(seed)
    counts = 20 * vocabulary_size / np.log(vocabulary_size + 1) / np.arange(1, vocabulary_size + 1)
    counts = np.maximum(1, counts.round())
    spectrum = np.arange(1, rank + 1, dtype=np.float32) ** -0.5

    def make_side(size: int) -> tuple[np.ndarray, np.ndarray]:
        # In place: at ten million words each array takes gigabytes.
        features = generator.standard_normal((vocabulary_size, rank), np.float32)
        features *= (0.3 * counts).astype(np.float32)[:, None]
        block = 1_000_000
        for start in range(0, vocabulary_size, block):
            part = features[start : start + block]
            deviation = np.sqrt(counts[start : start + block]).astype(np.float32)[:, None]
            part += deviation * generator.standard_normal(part.shape, np.float32)
        features *= 1.2 * spectrum
        return features, 0.3 * generator.standard_normal((size, rank), np.float32)

    row_side, column_side = make_side(num_rows), make_side(num_columns)
    if change:
        for features, _ in (row_side, column_side):
            features *= 1 + change * generator.standard_normal(features.shape, np.float32)
    problem = AssignmentProblem.from_factors(*row_side, *column_side)
    return problem, Allocation.random(vocabulary_size, num_rows, num_columns, seed=seed)


def load_statistics(path: str, change: float = 0.0) -> tuple[AssignmentProblem, Allocation]:
    """Read a problem and its initial allocation from an `.npz` file."""
    with np.load(path) as file:
        names = ("row_features", "row_vectors", "column_features", "column_vectors")
        row_features, row_vectors, column_features, column_vectors = (file[name] for name in names)
        allocation = Allocation(file["cells"], int(file["num_rows"]), int(file["num_columns"]))
    if change:
        generator = np.random.default_rng(0)
        row_features, column_features = (
            features * (1 + change * generator.standard_normal(features.shape, np.float32))
            for features in (row_features, column_features)
        )
    problem = AssignmentProblem.from_factors(
        row_features, row_vectors, column_features, column_vectors
    )
    return problem, allocation


def make_solver(name: str, arguments: argparse.Namespace) -> AssignmentSolver:
    limit = arguments.time_limit_seconds
    if name == "exact":
        return ExactSolver()
    if name.endswith("alternating"):
        return AlternatingSolver(time_limit_seconds=limit)
    if name in ("greedy", "matching"):
        method = "regret" if name == "greedy" else "matching"
        return GreedySolver(method, time_limit_seconds=limit)
    return AuctionSolver(
        arguments.gap_tolerance,
        max_block_bytes=arguments.max_block_bytes,
        time_limit_seconds=limit,
    )


def measure(name: str, source: int | str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one solver on one problem, in a fresh process."""

    def make(change: float = 0.0) -> tuple[AssignmentProblem, Allocation]:
        if isinstance(source, str):
            return load_statistics(source, change)
        return make_synthetic(source, arguments.rank, arguments.seed, change)

    imports_gigabytes = get_peak_gigabytes()
    solver = make_solver(name, arguments)
    tiny, _ = make_synthetic(40, 3)
    start = time.perf_counter()
    solver.solve(tiny)
    compile_seconds = time.perf_counter() - start

    problem, initial = make()
    prices = None
    start_cost = problem.compute_cost(initial)
    if name == "auction-warm":
        # The solution of a problem that differs a little.
        earlier = solver.solve(make(arguments.change)[0], initial)
        initial, prices = earlier.allocation, earlier.prices
    before_gigabytes = get_peak_gigabytes() - imports_gigabytes
    solutions = []
    seconds, cpu_seconds = [], []
    for _ in range(1 if name == "exact" else arguments.repeats):  # a minute each
        begin, cpu_begin = time.perf_counter(), time.process_time()
        start_from = initial
        if name == "greedy+alternating":
            start_from = GreedySolver().solve(problem, initial).allocation
        solutions.append(solver.solve(problem, start_from, prices=prices))
        seconds.append(time.perf_counter() - begin)
        cpu_seconds.append(time.process_time() - cpu_begin)
    solution = solutions[0]
    return {
        "solver": name,
        "seconds": statistics.median(seconds),
        "cpu_seconds": statistics.median(cpu_seconds),
        "compile_seconds": compile_seconds,
        "start_cost": start_cost,
        "cost": solution.primal_cost,
        "bound": solution.dual_bound,
        "gap": solution.duality_gap,
        "status": solution.status,
        "rounds": solution.num_rounds,
        "before_gigabytes": before_gigabytes,
        "peak_gigabytes": get_peak_gigabytes() - imports_gigabytes,
    }


def print_table(title: str, results: Sequence[dict[str, Any]]) -> None:
    """Print one problem's results as a Markdown table."""
    bound = max(result["bound"] for result in results)
    exact = next((result["cost"] for result in results if result["solver"] == "exact"), None)
    print(f"\n### {title}; starting cost {results[0]['start_cost']:.6g} nats\n")
    print(
        "| solver | seconds | CPU | compile | cost, nats | gain % | certified gap % | to exact % "
        "| rounds | status | GB before | peak GB |"
    )
    print("|---" * 12 + "|")
    for result in results:
        gain = result["start_cost"] - result["cost"]
        share = 100 / gain if gain > 0 else float("nan")
        to_exact = "" if exact is None else f"{(result['cost'] - exact) * share:.5f}"
        print(
            f"| {result['solver']} | {result['seconds']:.2f} | {result['cpu_seconds']:.2f} "
            f"| {result['compile_seconds']:.1f} "
            f"| {result['cost']:.9g} | {100 * gain / (result['start_cost'] - bound):.3f} "
            f"| {result['gap'] * share:.5f} | {to_exact} | {result['rounds']} "
            f"| {result['status']} | {result['before_gigabytes']:.2f} "
            f"| {result['peak_gigabytes']:.2f} |",
            flush=True,
        )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="*", default=[], help="synthetic V; 10000")
    parser.add_argument("--statistics", nargs="*", default=[], metavar="FILE.npz")
    parser.add_argument("--solvers", nargs="+", choices=SOLVERS, default=list(SOLVERS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rank", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gap-tolerance", type=float, default=AuctionSolver().gap_tolerance)
    parser.add_argument("--max-block-bytes", type=int, default=AuctionSolver().max_block_bytes)
    parser.add_argument("--time-limit-seconds", type=float, default=None)
    parser.add_argument(
        "--change",
        type=float,
        default=0.01,
        help="relative change of the features since the earlier problem of auction-warm",
    )
    arguments = parser.parse_args(argv)

    sources = [*arguments.statistics, *arguments.sizes] or [10_000]
    for source in sources:
        results = []
        for name in arguments.solvers:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                results.append(pool.apply(measure, (name, source, arguments)))
        title = source if isinstance(source, str) else f"V = {source}, rank {arguments.rank}"
        print_table(title, results)


if __name__ == "__main__":
    main()
