"""An embedding that takes the vectors of one that was trained."""

from __future__ import annotations

import numpy as np
import pytest

from keras_lightrnn import Allocation
from keras_lightrnn.clustering import compute_unexplained_share
from keras_lightrnn.layers import TwoComponentEmbedding

V, R, C, D = 23, 4, 6, 5


@pytest.fixture
def vectors(rng):
    return rng.normal(size=(V, D)).astype("float32")


def make_tables(number):
    return [Allocation.random(V, R, C, seed=seed) for seed in range(number)]


def compute_lost_share(layer, vectors):
    error = np.asarray(layer(np.arange(V))) - vectors
    return np.square(error).sum() / np.square(vectors).sum()


@pytest.mark.parametrize("combine", ["sum", "gate"])
@pytest.mark.parametrize("number", [1, 2])
def test_rows_and_columns_are_the_best_ones(vectors, combine, number):
    tables = make_tables(number)
    layer = TwoComponentEmbedding(tables, D, combine)
    layer.build((None,))
    if combine == "gate":
        layer.input_gate.assign(np.ones(layer.input_gate.shape))
    lost = layer.assign_vectors(vectors)
    assert lost == pytest.approx(compute_lost_share(layer, vectors), rel=1e-4)
    # An independent solution by least squares.
    places = [np.eye(R)[x.rows] for x in tables] + [np.eye(C)[x.columns] for x in tables]
    design = np.concatenate(places, axis=1)
    rest = vectors - design @ np.linalg.lstsq(design, vectors, rcond=None)[0]
    assert lost == pytest.approx(np.square(rest).sum() / np.square(vectors).sum(), rel=2e-3)
    assert lost == pytest.approx(compute_unexplained_share(vectors, tables), rel=1e-6)


def test_word_vectors_take_the_largest_part_of_the_rest(vectors):
    [table] = make_tables(1)
    lost = [
        TwoComponentEmbedding(table, D, "sum", word_dim=dim).assign_vectors(vectors)
        for dim in (0, 2, 4, 5, 7)
    ]
    assert lost[0] > lost[1] > lost[2] > 0.01
    assert lost[3:] == pytest.approx([0, 0], abs=1e-6)
    layer = TwoComponentEmbedding(table, D, "sum", word_dim=2)
    plain = TwoComponentEmbedding(table, D, "sum")
    for each in (layer, plain):
        each.assign_vectors(vectors)
    rest = vectors - np.asarray(plain(np.arange(V)))
    singular = np.linalg.svd(rest, compute_uv=False)
    expected = np.square(singular[2:]).sum() / np.square(vectors).sum()
    assert compute_lost_share(layer, vectors) == pytest.approx(expected, rel=1e-4)


def test_some_words_have_vectors(vectors):
    [table] = make_tables(1)
    layer = TwoComponentEmbedding(table, D, "sum", word_dim=D, num_word_vectors=7)
    lost = layer.assign_vectors(vectors)
    embedded = np.asarray(layer(np.arange(V)))
    assert embedded[:7] == pytest.approx(vectors[:7], abs=1e-5)
    assert lost == pytest.approx(compute_lost_share(layer, vectors), rel=1e-4)
    assert lost > 0.1


def test_half_steps_get_them_too(vectors):
    [table] = make_tables(1)
    layer = TwoComponentEmbedding(table, D, combine="interleave")
    lost = layer.assign_vectors(vectors)
    rows, columns = layer.embed_components(np.arange(V))
    error = np.asarray(rows) + np.asarray(columns) - vectors
    assert lost == pytest.approx(np.square(error).sum() / np.square(vectors).sum(), rel=1e-4)


def test_zero_vectors_lose_nothing():
    layer = TwoComponentEmbedding(V, D, "sum")
    assert layer.assign_vectors(np.zeros((V, D))) == 0.0
    assert not np.asarray(layer(np.arange(V))).any()


def test_bad_vectors(vectors):
    layer = TwoComponentEmbedding(V, D, "gate")
    with pytest.raises(ValueError, match=r"one vector for each word, \(23, 5\)"):
        layer.assign_vectors(vectors[:, :4])
    with pytest.raises(ValueError, match="1 of them"):
        layer.assign_vectors(np.where(np.arange(D) + np.arange(V)[:, None] == 0, np.nan, vectors))
    with pytest.raises(ValueError, match='combine="concat"'):
        TwoComponentEmbedding(V, D, "concat").assign_vectors(vectors)
