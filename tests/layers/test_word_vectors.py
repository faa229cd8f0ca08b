"""What both layers do with `word_dim` and `num_word_vectors`."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from oracle import TwoStepSoftmax

from keras_lightrnn import Allocation, LightRNNModel, WordTable
from keras_lightrnn.layers import TwoComponentEmbedding, TwoComponentSoftmax, WordVectors
from keras_lightrnn.layers.word_vectors import count_word_vectors
from keras_lightrnn.losses import NegativeLogLikelihood

V, R, C, D, H, K, N = 11, 3, 4, 5, 6, 2, 7


def make_table():
    return WordTable(Allocation.random(V, R, C, seed=3))


def test_embedding_adds_the_word_to_its_column():
    table = make_table()
    layer = TwoComponentEmbedding(table, D, "concat", word_dim=K, num_word_vectors=N)
    shared = TwoComponentEmbedding(table, D, "concat")
    for each in (layer, shared):
        each.build((None,))
    shared.row_embeddings.assign(layer.row_embeddings)
    shared.column_embeddings.assign(layer.column_embeddings)
    own = np.asarray(layer(np.arange(V))) - np.asarray(shared(np.arange(V)))
    expected = np.asarray(layer.word_embeddings) @ np.asarray(layer.word_projection)
    assert (own[:, :D] == 0).all()
    assert own[:N, D:] == pytest.approx(expected, abs=1e-6)
    assert (own[N:] == 0).all()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("word_bias", [None, "counts"])
def test_softmax_equals_the_oracle(rng, training, word_bias):
    layer = TwoComponentSoftmax(
        make_table(), word_bias=word_bias, word_dim=K, num_word_vectors=N, row_reader=None
    )
    half_steps = rng.normal(size=(2, 8, H)).astype("float32")
    targets = rng.integers(V, size=(2, 4))
    without = np.asarray(layer(half_steps, targets))
    layer.word_kernel.assign(rng.normal(size=(N, K)))
    if word_bias is not None:
        layer.assign_word_counts(np.arange(1, V + 1))
    log_probs = np.asarray(layer(half_steps, targets, training=training))
    assert np.abs(log_probs - without).max() > 0.1
    oracle = TwoStepSoftmax.of(layer)
    for b, t in np.ndindex(2, 4):
        word = targets[b, t]
        expected = oracle.compute_row_log_prob(half_steps[b, 2 * t], oracle.place(word)[0])
        expected += oracle.compute_column_log_prob(half_steps[b, 2 * t + 1], word)
        assert log_probs[b, t] == pytest.approx(expected, abs=1e-5)


def test_all_words_have_probability_one_together(rng):
    layer = TwoComponentSoftmax(make_table(), word_dim=K, row_reader=None)
    layer.build((None, None, H))
    layer.word_kernel.assign(rng.normal(size=(V, K)))
    column_half_step, row_half_steps = rng.normal(size=H), rng.normal(size=(R, H))
    rows = layer.word_table.allocation.rows
    pairs = np.float32([np.stack([column_half_step, row_half_steps[row]]) for row in rows])
    log_probs = np.asarray(layer(pairs, np.arange(V)[:, None]), float)
    assert np.exp(log_probs).sum() == pytest.approx(1, abs=1e-5)


def test_a_word_that_moves_keeps_its_vectors():
    model = LightRNNModel(make_table(), D, H, word_dim=K)
    model.build((None, None))
    weights = [np.array(v) for v in model.trainable_variables]
    model.word_table.assign(Allocation.random(V, R, C, seed=4))
    own = (
        model.embedding.embed_components(np.arange(V))[1]
        - np.asarray(model.embedding.column_embeddings)[model.word_table.allocation.columns]
    )
    expected = np.asarray(model.embedding.word_embeddings) @ np.asarray(
        model.embedding.word_projection
    )
    assert np.asarray(own) == pytest.approx(expected, abs=1e-6)
    for before, after in zip(weights, model.trainable_variables, strict=True):
        assert (before == np.asarray(after)).all()


@pytest.mark.parametrize("is_tied", [False, True])
def test_word_vectors_of_zero_change_no_probability(rng, is_tied):
    words = rng.integers(V, size=(3, 5))
    with_vectors, without = (
        LightRNNModel(make_table(), D, H, word_dim=k, tie_word_vectors=is_tied) for k in (K, 0)
    )
    for model in (with_vectors, without):
        model.build((None, None))
    own = {"word_embeddings", "word_projection", "word_kernel", "vectors"}
    shared = [v for v in with_vectors.variables if v.name not in own]
    for variable, value in zip(without.variables, shared, strict=True):
        variable.assign(value)
    with_vectors.embedding.word_embeddings.assign(np.zeros((V, K)))
    assert with_vectors.score(words) == pytest.approx(without.score(words), abs=1e-6)


@pytest.mark.parametrize(
    ("word_dim", "num_word_vectors", "expected"), [(0, None, 0), (3, None, V), (3, 1, 1)]
)
def test_count(word_dim, num_word_vectors, expected):
    assert count_word_vectors(word_dim, num_word_vectors, V) == expected


@pytest.mark.parametrize(
    "make",
    [
        lambda **kw: TwoComponentEmbedding(V, D, **kw),
        lambda **kw: TwoComponentSoftmax(V, **kw),
        lambda **kw: LightRNNModel(V, D, H, **kw),
    ],
)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"word_dim": -1}, "`word_dim` must be an integer of at least 0.*word_dim=-1"),
        ({"word_dim": 1.5}, "word_dim=1.5"),
        ({"word_dim": True}, "word_dim=True"),
        ({"num_word_vectors": 3}, "`num_word_vectors`.*word_dim=0"),
        ({"word_dim": 2, "num_word_vectors": V + 1}, f"num_word_vectors={V + 1}.*None"),
        ({"word_dim": 2, "num_word_vectors": 0}, "num_word_vectors=0"),
    ],
)  # fmt: skip
def test_bad_arguments(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def make_tied_model():
    vectors = WordVectors(N, K, name="vectors")
    embedding = TwoComponentEmbedding(make_table(), D, combine="gate", word_vectors=vectors)
    softmax = TwoComponentSoftmax(
        embedding.word_table, row_reader="gated", word_vectors=vectors, name="softmax"
    )
    words = keras.Input((None,), dtype="int32")
    states = keras.layers.GRU(H, return_sequences=True, name="network")(embedding(words[:, :-1]))
    return keras.Model(words, softmax(states, words[:, 1:])), embedding, softmax


def test_shared_vectors_predict_as_equal_ones(rng):
    model, embedding, softmax = make_tied_model()
    windows = rng.integers(V, size=(3, 5))
    inputs = keras.Input((None,), dtype="int32")
    apart = TwoComponentEmbedding(
        embedding.word_table, D, combine="gate", word_dim=K, num_word_vectors=N
    )
    apart_softmax = TwoComponentSoftmax(
        embedding.word_table, row_reader="gated", word_dim=K, num_word_vectors=N
    )
    network = model.get_layer("network")
    states = network(apart(inputs[:, :-1]))
    untied = keras.Model(inputs, apart_softmax(states, inputs[:, 1:]))
    apart.word_embeddings.assign(embedding.word_embeddings)
    apart_softmax.word_kernel.assign(embedding.word_embeddings)
    names = ("row_embeddings", "column_embeddings", "word_projection")
    for name in names:
        getattr(apart, name).assign(getattr(embedding, name))
    names = ("row_kernel", "column_kernel", "word_projection", "query_kernel")
    for name in names:
        getattr(apart_softmax, name).assign(getattr(softmax, name))
    assert np.asarray(model(windows)) == pytest.approx(np.asarray(untied(windows)), abs=1e-6)


def test_shared_vectors_are_trained_and_saved_once(rng, tmp_path):
    model, embedding, _ = make_tied_model()
    assert sum(x is embedding.word_embeddings for x in model.trainable_weights) == 1
    windows = rng.integers(V, size=(8, 5))
    before = np.array(embedding.word_embeddings)
    model.compile("sgd", loss=NegativeLogLikelihood())
    model.fit(windows, verbose=0)
    assert not np.array_equal(before, embedding.word_embeddings)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    layers = [x for x in loaded.layers if hasattr(x, "word_vectors")]
    assert len(layers) == 2
    assert layers[0].word_vectors is layers[1].word_vectors
    assert len(loaded.trainable_weights) == len(model.trainable_weights)
    assert np.array_equal(loaded(windows), model(windows))


@pytest.mark.parametrize("layer", [TwoComponentEmbedding, TwoComponentSoftmax])
@pytest.mark.parametrize(
    ("vectors", "arguments", "error", "message"),
    [
        (WordVectors(V + 1, K), {}, ValueError, f"Received: {V + 1} word vectors"),
        (WordVectors(V, K), {"word_dim": 2}, ValueError, "word_dim=2"),
        (WordVectors(V, K), {"num_word_vectors": 2}, ValueError, "num_word_vectors=2"),
        (4, {}, TypeError, "word_vectors=4"),
    ],
)
def test_shared_vectors_that_do_not_fit(layer, vectors, arguments, error, message):
    sizes = (D,) if layer is TwoComponentEmbedding else ()
    with pytest.raises(error, match=message):
        layer(make_table(), *sizes, word_vectors=vectors, **arguments)
