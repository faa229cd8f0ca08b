from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lightrnn import Allocation, WordTable
from keras_lightrnn.layers import TwoComponentEmbedding, TwoComponentSoftmax

V, R, C, D = 11, 3, 4, 5


def make(combine="interleave", **kwargs):
    table = WordTable(Allocation.random(V, R, C, seed=3))
    layer = TwoComponentEmbedding(table, D, combine, **kwargs)
    layer.build((None, None))
    return layer


def look_up(layer, word):
    row, column = divmod(int(layer.word_table.cells[word]), C)
    return np.asarray(layer.row_embeddings)[row], np.asarray(layer.column_embeddings)[column]


@pytest.mark.parametrize("shape", [(6,), (2, 6), (2, 3, 4)])
@pytest.mark.parametrize("combine", ["sum", "concat"])
def test_each_word_on_its_own(rng, combine, shape):
    layer = make(combine)
    words = rng.integers(V, size=shape)
    vectors = np.asarray(layer(words))
    assert vectors.shape == tuple(layer.compute_output_shape(shape))
    for i in np.ndindex(shape):
        row, column = look_up(layer, words[i])
        expected = row + column if combine == "sum" else np.concatenate([row, column])
        assert np.array_equal(vectors[i], expected)


def test_half_steps_of_a_window(rng):
    layer = make()
    words = rng.integers(V, size=(3, 6))
    half_steps = np.asarray(layer(words))
    assert half_steps.shape == (3, 10, D) == tuple(layer.compute_output_shape((3, 6)))
    for b in range(3):
        for t in range(5):
            assert np.array_equal(half_steps[b, 2 * t], look_up(layer, words[b, t])[1])
            assert np.array_equal(half_steps[b, 2 * t + 1], look_up(layer, words[b, t + 1])[0])


def test_every_pair_of_words_is_told_apart():
    vectors = np.asarray(make("concat")(np.arange(V)))
    assert len(np.unique(vectors, axis=0)) == V


@pytest.mark.parametrize("combine", ["interleave", "sum", "concat"])
def test_float_ids_are_cast(rng, combine):
    layer = make(combine)
    words = rng.integers(V, size=(2, 4))
    assert np.array_equal(layer(words.astype("float32")), layer(words))


def test_ids_beyond_what_a_half_float_holds():
    layer = TwoComponentEmbedding(5000, 2, combine="sum", dtype="mixed_float16")
    vectors = layer(np.int32([[4998, 4999]]))
    assert vectors.dtype == tf.float16
    assert not np.array_equal(vectors[0, 0], vectors[0, 1])


@pytest.mark.parametrize("combine", ["interleave", "sum", "concat"])
@pytest.mark.parametrize("wrong", [-1, V, 10 * V])
def test_ids_outside_the_vocabulary(combine, wrong):
    layer = make(combine)
    words = tf.constant([[1, 2, 3], [1, wrong, 3]])
    compiled = tf.function(layer, jit_compile=True, autograph=False)
    vectors = np.asarray(compiled(words))
    assert np.isfinite(vectors[0]).all()
    assert np.isnan(vectors[1]).any(axis=-1).sum() == (2 if combine == "interleave" else 1)
    with pytest.raises(tf.errors.InvalidArgumentError):
        layer(words)


def test_assign_takes_effect_in_compiled_code():
    layer = make("concat")
    compiled = tf.function(layer, jit_compile=True, autograph=False)
    words = tf.range(V)
    before = np.asarray(compiled(words))
    layer.word_table.assign(Allocation.random(V, R, C, seed=4))
    after = np.asarray(compiled(words))
    assert np.array_equal(after, layer(words))
    assert not np.array_equal(after, before)


def test_both_tables_start_different_and_take_the_initializer():
    square = TwoComponentEmbedding(16, 3, combine="interleave")
    square.build()
    assert not np.array_equal(square.row_embeddings, square.column_embeddings)
    ones = make("sum", embeddings_initializer="ones")
    assert (np.asarray(ones(np.arange(V))) == 2).all()


def test_regularizer_and_constraint_reach_both():
    layer = make("sum", embeddings_regularizer="l2", embeddings_constraint="non_neg")
    weights = [np.asarray(w, "float64") for w in (layer.row_embeddings, layer.column_embeddings)]
    expected = 0.01 * sum((w**2).sum() for w in weights)
    assert float(sum(layer.losses)) == pytest.approx(expected, rel=1e-5)
    constraints = [w.constraint for w in (layer.row_embeddings, layer.column_embeddings)]
    assert all(constraint is layer.embeddings_constraint for constraint in constraints)


def test_mask_of_half_steps_is_that_of_their_own_words():
    words = np.array([[3, 1, 0, 0], [5, 0, 2, 7]])
    layer = make(mask_zero=True)
    mask = np.asarray(layer.compute_mask(words))
    assert mask.astype(int).tolist() == [[1, 1, 1, 0, 0, 0], [1, 0, 0, 1, 1, 1]]
    assert np.array_equal(layer(words)._keras_mask, mask)
    assert np.array_equal(make("sum", mask_zero=True).compute_mask(words), words != 0)
    assert make().compute_mask(words) is None


@pytest.mark.parametrize(
    ("arguments", "gate_dim", "pooled_dim"),
    [
        ({}, 16, 2),
        ({"gate_pool": 3}, 18, 6),
        ({"gate_pool": 30}, 30, 1),
        ({"gate_dim": 8}, 8, 1),
        ({"gate_dim": 9, "gate_pool": 1}, 9, 9),
    ],
)
def test_numbers_that_are_gated(rng, arguments, gate_dim, pooled_dim):
    layer = TwoComponentEmbedding(V, 19, "gate", **arguments)
    words = rng.integers(V, size=(2, 3))
    plain = np.asarray(layer(words))
    assert layer.input_gate.shape == (layer.word_table.num_rows, gate_dim)
    assert layer.gated_embeddings.shape == (layer.word_table.num_columns, gate_dim)
    assert layer.gate_projection.shape == (pooled_dim, 19)
    rows, columns = layer.embed_components(words)
    assert np.array_equal(plain, np.asarray(rows) + np.asarray(columns))  # gates start at zero
    layer.input_gate.assign(np.ones(layer.input_gate.shape))
    assert not np.allclose(plain, layer(words))
    copy = TwoComponentEmbedding.from_config(layer.get_config())
    assert (copy.gate_dim, copy.gate_pool) == (layer.gate_dim, layer.gate_pool)
    assert layer.gate_pool == arguments.get("gate_pool", 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"output_dim": 0}, "output_dim.*positive integer.*output_dim=0"),
        ({"output_dim": 2.5}, "output_dim.*positive integer.*2.5"),
        ({"output_dim": True}, "output_dim.*positive integer.*True"),
        ({"output_dim": 2, "combine": "add"}, "combine.*'gate', 'sum', 'concat'.*'add'"),
        ({"output_dim": 2, "combine": "gate", "gate_dim": 0}, "gate_dim.*positive integer"),
        ({"output_dim": 2, "combine": "gate", "gate_pool": 0}, "gate_pool.*positive integer"),
        ({"output_dim": 2, "combine": "gate", "gate_dim": 9}, "multiple of `gate_pool`.*9.*8"),
        ({"output_dim": 2, "combine": "sum", "gate_dim": 1}, "gate_dim.*combine=.gate.*'sum'"),
        ({"output_dim": 2, "combine": "sum", "gate_pool": 8}, "gate_pool.*combine=.gate.*'sum'"),
        ({"word_table": 0, "output_dim": 2}, "vocabulary_size.*positive integer"),
    ],
)
def test_constructor_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        TwoComponentEmbedding(**{"word_table": V, **arguments})


@pytest.mark.parametrize("combine", ["sum", "interleave"])
def test_without_a_gate_it_has_no_sizes(combine):
    config = make(combine).get_config()
    assert config["gate_dim"] is None
    assert config["gate_pool"] is None
    assert TwoComponentEmbedding.from_config(config).gate_pool is None


@pytest.mark.parametrize("shape", [(2, 1), (3,), (2, 3, 4)])
def test_interleave_needs_windows(shape):
    with pytest.raises(ValueError, match=r"windows.*at least two words"):
        make()(keras.KerasTensor(shape, "int32"))
    with pytest.raises(ValueError, match=r"windows.*at least two words"):
        make()(np.zeros(shape, "int32"))


@pytest.mark.parametrize("seed", [3, None, "generator"])
def test_weights_of_a_seeded_initializer_differ_and_repeat(seed):
    def make():
        keras.utils.set_random_seed(0)
        value = keras.random.SeedGenerator(3) if seed == "generator" else seed
        initializer = keras.initializers.RandomUniform(seed=value)
        embedding = TwoComponentEmbedding(
            49, 7, word_dim=7, embeddings_initializer=initializer, combine="interleave"
        )
        softmax = TwoComponentSoftmax(49, kernel_initializer=initializer, row_reader=None)
        embedding.build((None, None))
        softmax.build((None, None, 7))
        return [
            keras.ops.convert_to_numpy(weight)
            for weight in (
                embedding.row_embeddings,
                embedding.column_embeddings,
                embedding.word_embeddings[:7],
                softmax.row_kernel,
                softmax.column_kernel,
            )
        ]

    weights = make()
    for one, two in ((0, 1), (0, 2), (1, 2), (3, 4)):
        assert not np.array_equal(weights[one], weights[two])
    assert all(map(np.array_equal, weights, make()))


def test_an_initializer_of_the_users_own_is_taken_as_it_is():
    class Fill(keras.initializers.Initializer):  # it has no `get_config`
        def __init__(self, value):
            self.value = value

        def __call__(self, shape, dtype=None):
            return keras.ops.full(shape, self.value, dtype)

    layer = TwoComponentEmbedding(12, 4, embeddings_initializer=Fill(5.0), combine="interleave")
    layer.build((None, None))
    assert (np.asarray(layer.row_embeddings) == 5).all()
    assert (np.asarray(layer.column_embeddings) == 5).all()


@pytest.mark.parametrize("combine", ["sum", "concat", "gate"])
def test_ragged_words_have_one_vector_each(combine):
    layer = TwoComponentEmbedding(V, 4, combine, word_dim=2)
    words = tf.ragged.constant([[1, 2, 3], [4]])
    vectors = layer(words)
    for row, expected in zip(vectors, words, strict=True):
        assert np.array_equal(row, layer(expected))


def test_ragged_words():
    words = tf.ragged.constant([[1, 2, 3], [4, 5]])
    with pytest.raises(TypeError, match=r"of one length. Received: a RaggedTensor.*token_windows"):
        TwoComponentEmbedding(10, 3, combine="interleave")(words)
    layer = TwoComponentEmbedding(10, 3, combine="sum")
    assert np.array_equal(layer(words)[1], layer(np.array([4, 5])))


def test_only_half_steps_have_prefixes():
    with pytest.raises(ValueError, match=r"need combine=\"interleave\". Received: combine='gate'"):
        TwoComponentEmbedding(10, 3).embed_prefixes(np.array([[1, 2]]))
    layer = TwoComponentEmbedding(10, 3, combine="interleave")  # not built
    assert tuple(layer.embed_prefixes(np.array([[1, 2]])).shape) == (1, 3, 3)
    with pytest.raises(ValueError, match=r"must be \(B, N\)\. Received: words.shape=\(2,\)"):
        layer.embed_prefixes(np.array([1, 2]))


@pytest.mark.parametrize("dtype", ["uint32", "uint64"])
def test_large_unsigned_ids_become_no_other_word(dtype):
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        TwoComponentEmbedding(10, 3, combine="sum")(np.array([2**32 - 9], dtype))
