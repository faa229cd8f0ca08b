"""`TwoComponentSoftmax.next_words` behind networks of many kinds."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops

from keras_lightrnn import Allocation, LightRNNModel, WordTable
from keras_lightrnn.layers import TwoComponentEmbedding, TwoComponentSoftmax

V = 43


def make_layers(**kwargs):
    table = WordTable(Allocation.random(V, 9, 6, seed=3))  # with empty cells
    embedding = TwoComponentEmbedding(table, 5, combine="interleave")
    softmax = TwoComponentSoftmax(table, row_reader=None, **kwargs)
    softmax.build((None, None, 6), (None, None))
    for weight in softmax.trainable_weights:
        weight.assign(2 * np.random.default_rng(1).normal(size=weight.shape))
    if softmax.word_bias is not None:
        softmax.assign_word_counts(np.arange(V, 0, -1))
    return embedding, softmax


def make_reader(embedding, network, prefixes):
    """Return what reads rows after prefixes by reading all of them once more."""

    def read_rows(texts, rows):
        vectors = ops.take(embedding.row_embeddings, rows, axis=0)
        longer = [ops.take(prefixes, texts, axis=0), vectors[:, None]]
        return network(ops.concatenate(longer, axis=1))[:, -1]

    return read_rows


def make_attention():
    x = keras.Input((None, 5))
    y = keras.layers.MultiHeadAttention(2, 4, output_shape=6)(x, x, use_causal_mask=True)
    return keras.Model(x, keras.layers.LayerNormalization()(y))


@pytest.mark.parametrize("k", [1, 5, V])
@pytest.mark.parametrize(
    ("make_network", "arguments"),
    [
        (lambda: keras.layers.GRU(6, return_sequences=True), {"word_bias": "counts"}),
        (lambda: keras.layers.Conv1D(6, 3, padding="causal"), {"use_bias": False}),
        (make_attention, {"word_dim": 3, "word_bias": "trainable"}),
    ],
    ids=["recurrent", "convolution", "attention"],
)
def test_the_best_of_all_words(make_network, arguments, k, rng):
    embedding, softmax = make_layers(**arguments)
    network = make_network()
    texts = rng.integers(V, size=(3, 4))
    # Every word after every text, by the call that a model is trained with.
    windows = np.concatenate(
        [np.repeat(texts, V, axis=0), np.tile(np.arange(V), 3)[:, None]], axis=1
    )
    expected = np.asarray(softmax(network(embedding(windows)), windows[:, 1:]))[:, -1]
    expected = expected.reshape(3, V)
    prefixes = embedding.embed_prefixes(texts)
    read_rows = make_reader(embedding, network, prefixes)
    words, log_probs = softmax.next_words(network(prefixes)[:, -1], k, read_rows)
    assert words.dtype == np.int32
    assert log_probs.dtype == np.float64
    for found, values, of_all in zip(words, log_probs, expected, strict=True):
        assert values == pytest.approx(np.sort(of_all)[::-1][:k], abs=1e-5)
        assert of_all[found] == pytest.approx(values, abs=1e-5)
        assert len(set(found)) == k


@pytest.mark.parametrize("mask_zero", [False, True])
def test_as_the_model_does(mask_zero):
    keras.utils.set_random_seed(0)
    model = LightRNNModel(V, 5, 6, mask_zero=mask_zero, row_reading="recurrence")
    model.build((None, None))
    texts = np.array([[3, 0, 4], [1, 5, 9]])
    prefixes = model.embedding.embed_prefixes(texts)
    _, [[hidden, memory]] = model.recurrent_stack(prefixes)

    def read_rows(texts, rows):
        vectors = ops.take(model.embedding.row_embeddings, rows, axis=0)
        before = [ops.take(state, texts, axis=0) for state in (hidden, memory)]
        return model.recurrent_layers[0].cell(vectors, before)[0]

    words, log_probs = model.softmax.next_words(hidden, 7, read_rows)
    expected_words, expected_log_probs = model.next_words(texts, k=7)
    assert np.array_equal(words, expected_words)
    assert log_probs == pytest.approx(expected_log_probs, abs=1e-5)


def test_few_rows_are_read(rng):
    _, softmax = make_layers()
    softmax.row_bias.assign(30 * np.eye(9)[4])
    softmax.row_kernel.assign(np.zeros((9, 6)))
    read = []

    def read_rows(texts, rows):
        read.append(list(zip(texts.tolist(), rows.tolist(), strict=True)))
        return rng.normal(size=(len(rows), 6))

    words, _ = softmax.next_words(np.zeros((2, 6)), 3, read_rows)
    assert (softmax.word_table.allocation.rows[words] == 4).all()
    assert read == [[(text, row) for text in (0, 1) for row in (4, 0, 1, 2)]]


def test_errors():
    _, softmax = make_layers()
    read_rows = make_reader(None, None, None)
    with pytest.raises(ValueError, match=r"`k` must be an integer in \[1, 43\].*k=44"):
        softmax.next_words(np.zeros((2, 6)), 44, read_rows)
    with pytest.raises(ValueError, match=r"`states`.*\(B, 6\).*\(2, 4, 6\).*states\[:, -1\]"):
        softmax.next_words(np.zeros((2, 4, 6)), 10, read_rows)
    with pytest.raises(ValueError, match=r"`read_rows\(texts, rows\)`.*\(8, 6\).*\(2, 6\)"):
        softmax.next_words(np.zeros((2, 6)), 10, lambda texts, rows: np.zeros((2, 6)))
    with pytest.raises(ValueError, match="computes NaN"):
        softmax.next_words(np.full((2, 6), np.nan), 10, read_rows)
    with pytest.raises(ValueError, match="must be built"):
        TwoComponentSoftmax(10, row_reader=None).next_words(np.zeros((2, 6)), 10, read_rows)
    with pytest.raises(ValueError, match="needs `read_rows`"):
        softmax.next_words(np.zeros((2, 6)))
    with pytest.raises(ValueError, match="takes no `read_rows`"):
        TwoComponentSoftmax(10, row_reader="gated").next_words(np.zeros((2, 6)), 10, read_rows)
