from __future__ import annotations

import numpy as np
import pytest

from keras_lightrnn import Allocation
from keras_lightrnn.reallocation import OutputWeights, SimilarityObjective, similarity
from keras_lightrnn.reallocation.similarity import _number_alike

NO_WEIGHTS = OutputWeights(np.zeros((1, 1)), None, np.zeros((1, 1)), None)


def make_sums(rng, num_rows, num_columns, count=50):
    """Return sums in which words of a row follow like states, and words of a column lead to."""
    rows, columns = np.divmod(np.arange(num_rows * num_columns), num_columns)
    before, after = rng.normal(size=(num_rows, 12)), rng.normal(size=(num_columns, 12))
    counts = rng.integers(count, 2 * count, size=rows.size).astype(np.float32)
    return {
        "column_sums": counts[:, None] * before[rows],
        "following_sums": counts[:, None] * after[columns],
        "counts": counts,
        "following_counts": counts,
    }


def test_brings_words_back_that_left_the_rows_and_columns_that_there_are():
    sums = make_sums(np.random.default_rng(0), 5, 6)
    truth = Allocation(np.arange(30), 5, 6)
    cells = truth.cells.copy()
    cells[[3, 17, 26]] = cells[[17, 26, 3]]
    objective = SimilarityObjective(solver="exact")
    proposal = objective.propose(sums, NO_WEIGHTS, Allocation(cells, 5, 6))
    assert proposal.allocation == truth
    assert proposal.cost < 0.5 * proposal.cost_before


def test_finds_a_better_allocation_than_a_random_one():
    sums = make_sums(np.random.default_rng(0), 5, 6)
    old = Allocation.random(30, 5, 6, seed=1)
    proposal = SimilarityObjective().propose(sums, NO_WEIGHTS, old)
    assert proposal.cost < 0.6 * proposal.cost_before
    assert proposal.allocation.count_moved(old) > 0


def test_never_proposes_a_worse_allocation_and_keeps_a_perfect_one():
    sums = make_sums(np.random.default_rng(1), 4, 4)
    objective = SimilarityObjective(solver="exact")
    first = objective.propose(sums, NO_WEIGHTS, Allocation.random(16, seed=0))
    second = objective.propose(sums, NO_WEIGHTS, first.allocation)
    assert second.cost_before == pytest.approx(first.cost)
    assert second.cost <= second.cost_before
    if second.cost == second.cost_before:
        assert second.allocation == first.allocation


def test_in_a_large_vocabulary_words_stay_of_which_little_is_known(monkeypatch):
    monkeypatch.setattr(similarity, "_LARGE", 20)
    sums = make_sums(np.random.default_rng(0), 5, 6, count=20)
    cells = np.arange(30)
    cells[[3, 17, 26, 8]] = cells[[9, 15, 8, 26]]
    cells[[9, 15]] = [3, 17]
    for word, count in (3, 1), (17, 51):
        factor = count / sums["counts"][word]
        for values in sums.values():
            values[word] *= factor
    proposal = SimilarityObjective().propose(sums, NO_WEIGHTS, Allocation(cells, 5, 6))
    moved = np.flatnonzero(proposal.allocation.cells != cells)
    assert moved.size > 0
    assert 3 not in moved
    assert 17 in moved
    assert proposal.cost < proposal.cost_before


def test_in_a_large_vocabulary_a_poor_table_is_left(monkeypatch):
    monkeypatch.setattr(similarity, "_LARGE", 20)
    sums = make_sums(np.random.default_rng(0), 5, 6)
    old = Allocation.random(30, 5, 6, seed=1)
    proposal = SimilarityObjective().propose(sums, NO_WEIGHTS, old)
    assert proposal.cost < 0.6 * proposal.cost_before


def test_a_fresh_allocation_is_numbered_like_the_old_one():
    old = Allocation.random(12, 3, 4, seed=0)
    rows, columns = np.array([2, 0, 1]), np.array([3, 1, 0, 2])
    renumbered = Allocation(rows[old.rows] * 4 + columns[old.columns], 3, 4)
    counts = np.random.default_rng(0).integers(0, 9, size=12)
    assert _number_alike(renumbered, old, counts) == old


def test_words_that_never_occurred_have_no_features():
    sums = make_sums(np.random.default_rng(2), 3, 3)
    for values in sums.values():
        values[4] = 0
    features = SimilarityObjective().compute_features(sums)
    assert not features[4].any()
    assert features[3].any()


def test_given_features_stand_beside_the_learnt_ones():
    sums = make_sums(np.random.default_rng(3), 3, 3)
    known = np.arange(18.0).reshape(9, 2)
    features = SimilarityObjective(known, num_features=5).compute_features(sums)
    assert features.shape == (9, 7)
    np.testing.assert_array_equal(features[:, 5:], known)
    lengths = np.linalg.norm(features[:, :5], axis=1)
    np.testing.assert_allclose(lengths, np.log1p(sums["counts"]), rtol=1e-4)


def test_features_do_not_depend_on_the_scale_of_either_side():
    sums = make_sums(np.random.default_rng(4), 3, 3)
    scaled = {**sums, "following_sums": 100 * sums["following_sums"]}
    one, other = (SimilarityObjective().compute_features(s) for s in (sums, scaled))
    np.testing.assert_allclose(one @ one.T, other @ other.T, atol=1e-3)


@pytest.mark.parametrize("known", [np.zeros(9), np.full((9, 2), np.nan)])
def test_bad_features(known):
    with pytest.raises(ValueError, match="`features` must be a matrix of finite numbers"):
        SimilarityObjective(known)


def test_features_of_other_words():
    sums = make_sums(np.random.default_rng(3), 3, 3)
    with pytest.raises(ValueError, match=r"each of the 9 words.*\(8, 2\)"):
        SimilarityObjective(np.zeros((8, 2))).propose(sums, NO_WEIGHTS, Allocation.random(9))


@pytest.mark.parametrize("name", ["column_sums", "following_sums"])
def test_nan_is_refused(name):
    sums = make_sums(np.random.default_rng(5), 3, 3)
    sums[name][2] = np.nan
    with pytest.raises(ValueError, match=r"finite sums.*12 values that are NaN or infinite"):
        SimilarityObjective().propose(sums, NO_WEIGHTS, Allocation.random(9))
