"""A softmax whose kernels of rows and columns are the vectors of an embedding."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from weights_ways import WAYS, bring_weights

from keras_lightrnn import Allocation, LightRNNModel, WordTable
from keras_lightrnn.layers import TopWords, TwoComponentEmbedding, TwoComponentSoftmax
from keras_lightrnn.losses import NegativeLogLikelihood
from keras_lightrnn.recurrence import RecurrentStack

V, H = 11, 6
KERNELS = ("row_kernel", "column_kernel")


def make_tables():
    return [
        WordTable(Allocation.random(V, 3, 4, seed=3)),
        WordTable(Allocation.random(V, 4, 3, seed=4)),
    ]


def make_functional():
    embedding = TwoComponentEmbedding(make_tables(), H, word_dim=2)
    words = keras.Input((None,), dtype="int32")
    states = RecurrentStack(H, recurrence="gru", recurrence_path="keras")(embedding(words))
    softmax = TwoComponentSoftmax(embedding.word_tables, tied_embedding=embedding)
    model = keras.Model(words, softmax(states[:, :-1], words[:, 1:]))
    return model, embedding, softmax, keras.Model(words, TopWords(softmax, k=3)(states))


@pytest.mark.parametrize(("num_tables", "fused"), [(1, False), (2, True)])
def test_equals_a_softmax_with_these_kernels(rng, num_tables, fused):
    """In value, and in the gradient, which is the sum of those of input and output."""
    tables = make_tables()[:num_tables]
    embeddings = [TwoComponentEmbedding(tables, H, "sum") for _ in range(2)]
    tied = TwoComponentSoftmax(tables, tied_embedding=embeddings[0])
    untied = TwoComponentSoftmax(tables)
    words = rng.integers(V, size=(3, 5))
    gradients = []
    for embedding, softmax in zip(embeddings, (tied, untied), strict=True):
        embedding.build((None, None))
        softmax.build((None, None, H))
        for source, target in zip(
            embeddings[0].list_tables(), embedding.list_tables(), strict=True
        ):
            target.set_weights(source.get_weights())
        if softmax is untied:
            for table, source in zip(
                untied.list_tables(), embeddings[0].list_tables(), strict=True
            ):
                table.row_kernel.assign(source.row_embeddings)
                table.column_kernel.assign(source.column_embeddings)
            rest = [w for w in tied.weights if "embeddings" not in w.name and w.name != "cells"]
            own = [w for w in untied.weights if w.name not in (*KERNELS, "cells")]
            assert [w.name for w in rest] == [w.name for w in own]
            for weight, value in zip(own, rest, strict=True):
                weight.assign(value)
        layer = softmax.list_tables()[-1]
        kernels = [getattr(layer, name) for name in KERNELS]
        inputs = [
            embedding.list_tables()[-1].row_embeddings,
            embedding.list_tables()[-1].column_embeddings,
        ]
        with tf.GradientTape() as tape:
            log_probs = softmax(embedding(words[:, :-1]), words[:, 1:], fused=fused)
            loss = tf.reduce_sum(log_probs)
        found = tape.gradient(loss, [x.value for x in (*kernels, *inputs)])
        found = [tf.convert_to_tensor(x).numpy() for x in found]
        if softmax is untied:
            found[:2] = found[2:] = [a + b for a, b in zip(found[:2], found[2:], strict=True)]
        gradients.append([log_probs.numpy(), *found])
    for result, expected in zip(*gradients, strict=True):
        np.testing.assert_allclose(result, expected, atol=2e-5)


def test_the_vectors_are_weights_of_the_embedding():
    model, embedding, softmax, _ = make_functional()
    for table, source in zip(softmax.list_tables(), embedding.list_tables(), strict=True):
        assert table.row_kernel is source.row_embeddings
        assert table.column_kernel is source.column_embeddings
    paths = [weight.path for weight in model.trainable_weights]
    assert len(set(paths)) == len(paths)
    assert not [path for path in paths if path.endswith(KERNELS)]
    assert softmax.row_weights[0] is softmax.row_bias
    assert softmax.column_weights == [softmax.column_bias]


@pytest.mark.parametrize("way", ["keras", *WAYS])
def test_saved_and_loaded_as_one(way, tmp_path, rng):
    model, _, _, search = make_functional()
    words = rng.integers(V, size=(4, 5))
    if way == "keras":
        model.compile("adam", loss=NegativeLogLikelihood(), run_eagerly=True)
        model.train_on_batch(words, words[:, 1:])
        search.save(tmp_path / "search.keras")
        loaded_search = keras.saving.load_model(tmp_path / "search.keras")
        for result, expected in zip(loaded_search(words), search(words), strict=True):
            np.testing.assert_array_equal(result, expected)
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
    else:
        loaded = make_functional()[0]
        assert np.abs(loaded(words) - model(words)).max() > 0
        bring_weights(way, model, loaded, tmp_path)
    np.testing.assert_array_equal(loaded(words), model(words))
    [embedding] = [x for x in loaded.layers if isinstance(x, TwoComponentEmbedding)]
    [softmax] = [x for x in loaded.layers if isinstance(x, TwoComponentSoftmax)]
    assert softmax.tied_embedding is embedding
    assert softmax.row_kernel is embedding.row_embeddings
    assert len(loaded.weights) == len(model.weights)


def test_errors():
    tables = make_tables()
    embedding = TwoComponentEmbedding(tables, H)
    with pytest.raises(ValueError, match=r"Received: 1 word table\(s\) of the softmax and 2 of"):
        TwoComponentSoftmax(tables[:1], tied_embedding=embedding)
    with pytest.raises(ValueError, match=r"Give the softmax `embedding.word_tables`"):
        TwoComponentSoftmax(make_tables(), tied_embedding=embedding)
    with pytest.raises(TypeError, match=r"must be a `TwoComponentEmbedding` or None. Received: "):
        TwoComponentSoftmax(tables, tied_embedding=keras.layers.Embedding(V, H))
    softmax = TwoComponentSoftmax(tables, tied_embedding=embedding)
    with pytest.raises(ValueError, match="output_dim=6, states of size 5"):
        softmax.build((None, 5))
    with pytest.raises(ValueError, match="embedding_dim=5, units=6"):
        LightRNNModel(V, 5, 6, tie_embeddings=True)
