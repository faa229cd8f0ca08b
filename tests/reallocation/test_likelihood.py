from __future__ import annotations

import numpy as np
import pytest

from keras_lightrnn import Allocation, reallocation
from keras_lightrnn.reallocation import LikelihoodObjective, OutputWeights


def make_problem(rng):
    sums = {
        "column_sums": rng.normal(size=(6, 3)),
        "row_sums": rng.normal(size=(6, 3)),
        "counts": rng.integers(1, 9, size=6).astype(float),
    }
    weights = OutputWeights(
        rng.normal(size=(2, 3)), rng.normal(size=2), rng.normal(size=(3, 3)), rng.normal(size=3)
    )
    return sums, weights


def compute_cost(sums, weights, allocation):
    total = 0.0
    for word, cell in enumerate(allocation.cells):
        row, column = divmod(int(cell), 3)
        count = sums["counts"][word]
        total -= sums["column_sums"][word] @ weights.row_kernel[row]
        total -= sums["row_sums"][word] @ weights.column_kernel[column]
        total -= count * (weights.row_bias[row] + weights.column_bias[column])
    return total / sums["counts"].sum()


def test_costs_are_those_of_the_definition():
    sums, weights = make_problem(np.random.default_rng(0))
    old = Allocation.random(6, 2, 3, seed=0)
    proposal = LikelihoodObjective("exact").propose(sums, weights, old)
    assert proposal.cost_before == pytest.approx(compute_cost(sums, weights, old))
    assert proposal.cost == pytest.approx(compute_cost(sums, weights, proposal.allocation))
    assert proposal.cost < proposal.cost_before
    assert proposal.gap == pytest.approx(0, abs=1e-9)


def test_nothing_counted_is_refused():
    sums, weights = make_problem(np.random.default_rng(1))
    sums["counts"][:] = 0
    with pytest.raises(ValueError, match="0 words"):
        LikelihoodObjective().propose(sums, weights, Allocation.random(6, 2, 3))


def test_get():
    objective = LikelihoodObjective("exact")
    assert reallocation.get(objective) is objective
    assert reallocation.get("similarity").carries_output
    with pytest.raises(ValueError, match=r"\['likelihood', 'similarity'\].*'paper'"):
        reallocation.get("paper")
    with pytest.raises(TypeError, match="int"):
        reallocation.get(3)
