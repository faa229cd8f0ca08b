"""`TwoComponentSoftmax` on states: one step a word, by a row reader."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from filling import fill_sequentially
from keras import ops
from oracle import MixtureSoftmax

from keras_lightrnn import Allocation, WordTable
from keras_lightrnn.layers import (
    GatedRowReader,
    TargetRanks,
    TwoComponentEmbedding,
    TwoComponentSoftmax,
)

H = 6
TABLES = {
    "full": Allocation.random(12, 3, 4, seed=0),
    "empty cells": Allocation.random(11, 4, 3, seed=1),
    "one row": Allocation.random(5, 1, 7, seed=2),
    "an empty row": Allocation([8, 9, 0, 2, 11], 4, 3),
}
tables = pytest.mark.parametrize("allocation", TABLES.values(), ids=list(TABLES))
components = pytest.mark.parametrize("num_components", [1, 3])
OPTIONS = [
    {},
    {"word_bias": "counts", "word_dim": 2, "num_word_vectors": 4},
    {"word_bias": "trainable", "use_bias": False, "word_dim": 2},
]
options = pytest.mark.parametrize("arguments", OPTIONS, ids=["plain", "counts", "trainable"])


def make(allocation, arguments=None, **kwargs):
    kwargs = {"row_reader": "gated", **(arguments or {}), **kwargs}
    layer = TwoComponentSoftmax(WordTable(allocation), **kwargs)
    layer.build((None, None, H), (None, None))
    rng = np.random.default_rng(3)
    for weight in layer.trainable_weights:
        weight.assign(rng.normal(size=weight.shape))
    if layer.word_bias is not None:
        layer.assign_word_counts(np.arange(allocation.vocabulary_size) ** 2)
    return layer


def make_inputs(rng, vocabulary_size, shape=(2, 4)):
    states = rng.normal(size=(*shape, H)).astype("float32")
    return states, rng.integers(vocabulary_size, size=shape).astype("int32")


@tables
@components
@options
@pytest.mark.parametrize("fused", [False, True])
def test_equals_the_oracle_word_by_word(rng, allocation, num_components, arguments, fused):
    layer = make(allocation, arguments, num_components=num_components)
    states, targets = make_inputs(rng, allocation.vocabulary_size)
    log_probs = np.asarray(layer(states, targets, fused=fused))
    oracle = MixtureSoftmax.of(layer)
    for b, t in np.ndindex(targets.shape):
        expected = oracle.compute_log_prob(states[b, t].astype(float), targets[b, t])
        assert log_probs[b, t] == pytest.approx(expected, abs=5e-5)


@tables
@components
def test_probabilities_of_all_words_sum_to_one(rng, allocation, num_components):
    layer = make(allocation, OPTIONS[1], num_components=num_components)
    size = allocation.vocabulary_size
    states = np.repeat(rng.normal(size=(3, 1, H)), size, axis=1).astype("float32")
    targets = np.tile(np.arange(size), (3, 1))
    total = np.exp(np.asarray(layer(states, targets), float)).sum(axis=1)
    assert total == pytest.approx(np.ones(3), abs=1e-5)


def test_single_states_equal_those_of_a_window(rng):
    layer = make(TABLES["empty cells"], num_components=2)
    states, targets = make_inputs(rng, 11)
    expected = np.asarray(layer(states, targets))
    for t in range(targets.shape[1]):
        log_probs = layer(states[:, t], targets[:, t])
        assert tuple(log_probs.shape) == (2,)
        assert np.asarray(log_probs) == pytest.approx(expected[:, t], abs=1e-5)


@components
def test_fused_and_plain_gradients_agree(rng, num_components):
    import tensorflow as tf

    layer = make(TABLES["empty cells"], OPTIONS[2], num_components=num_components)
    states, targets = make_inputs(rng, 11)
    weights = layer.trainable_weights
    gradients = []
    for fused in (False, True):
        inputs = tf.constant(states)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            loss = tf.reduce_sum(layer(inputs, targets, fused=fused))
        found = tape.gradient(loss, [inputs, *(w.value for w in weights)])
        gradients.append([np.asarray(tf.convert_to_tensor(g)) for g in found])
    for plain, fused in zip(*gradients, strict=True):
        assert fused == pytest.approx(plain, rel=1e-4, abs=1e-5)
        assert np.abs(plain).max() > 0


@components
@pytest.mark.parametrize("k", [1, 4, 11])
def test_next_words_are_the_best_of_all(rng, num_components, k):
    layer = make(TABLES["empty cells"], OPTIONS[1], num_components=num_components)
    states = rng.normal(size=(3, H)).astype("float32")
    targets = np.tile(np.arange(11), (3, 1))
    of_all = np.asarray(layer(np.repeat(states[:, None], 11, axis=1), targets), float)
    words, log_probs = layer.next_words(states, k=k)
    for found, values, expected in zip(words, log_probs, of_all, strict=True):
        assert found.tolist() == np.argsort(-expected, kind="stable")[:k].tolist()
        assert values == pytest.approx(expected[found], abs=1e-5)


def test_padding_is_masked_and_never_answered(rng):
    layer = make(TABLES["full"], mask_zero=True, num_components=2)
    states, targets = make_inputs(rng, 12)
    targets[0] = [0, 3, 0, 5]
    log_probs = layer(states, targets)
    mask = np.asarray(log_probs._keras_mask)
    assert mask.tolist() == (targets != 0).tolist()
    words, _ = layer.next_words(states[:, 0], k=11)
    assert sorted(words[0]) == list(range(1, 12))
    with pytest.raises(ValueError, match=r"`k` .*11"):
        layer.next_words(states[:, 0], k=12)


def test_extreme_weights_leave_empty_cells_impossible(rng):
    layer = make(TABLES["empty cells"])
    for weight in layer.trainable_weights:
        weight.assign(1e10 * rng.normal(size=weight.shape))
    words, log_probs = layer.next_words(rng.normal(size=(4, H)).astype("float32"), k=11)
    assert np.sort(words, axis=1).tolist() == [list(range(11))] * 4
    assert not np.isnan(log_probs).any()


def test_a_config_round_trip_gives_the_same_predictions(rng):
    layer = make(TABLES["full"], OPTIONS[1], num_components=2)
    copy = TwoComponentSoftmax.from_config(layer.get_config())
    copy.build((None, None, H), (None, None))
    for each in (layer, copy):
        fill_sequentially(each, each.word_table)
    states, targets = make_inputs(rng, 12)
    assert np.array_equal(np.asarray(copy(states, targets)), np.asarray(layer(states, targets)))


@keras.saving.register_keras_serializable("test_row_reader")
class TanhReader(keras.layers.Layer):
    """A row reader of a user: the row's vector in a small network."""

    def __init__(self, num_rows, **kwargs):
        super().__init__(**kwargs)
        self.num_rows = num_rows

    def build(self, queries_shape, rows_shape=None):
        self.vectors = self.add_weight(shape=(self.num_rows, queries_shape[-1]))
        self.row_weights = [self.vectors]
        self.built = True

    def call(self, queries, rows):
        return ops.tanh(queries + ops.take(self.vectors, rows, axis=0)[..., None, :])

    def get_config(self):
        return {**super().get_config(), "num_rows": self.num_rows}


def test_a_row_reader_of_the_user_takes_its_place(rng, tmp_path):
    table = WordTable(TABLES["full"])
    words = keras.Input((None,), dtype="int32")
    x = TwoComponentEmbedding(table, 5, combine="gate")(words[:, :-1])
    x = keras.layers.GRU(H, return_sequences=True)(x)
    softmax = TwoComponentSoftmax(table, row_reader=TanhReader(3), num_components=2)
    model = keras.Model(words, softmax(x, words[:, 1:]))
    windows = rng.integers(12, size=(4, 6))
    expected = model.predict(windows, verbose=0)
    assert np.exp(expected).max() < 1
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert np.array_equal(loaded.predict(windows, verbose=0), expected)
    assert softmax.row_weights[-1] is softmax.row_reader.vectors


class SumReader(keras.layers.Layer):
    """A row reader of a user, without weights and without `build`."""

    def call(self, queries, rows):
        return queries + ops.cast(rows, queries.dtype)[..., None, None]


def test_a_row_reader_needs_no_build(rng):
    layer = make(TABLES["full"], row_reader=SumReader())
    states, targets = make_inputs(rng, 12)
    assert np.isfinite(np.asarray(layer(states, targets))).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"row_reader": GatedRowReader(4)}, r"GatedRowReader\(4\), a table of 3 rows.*Reader\(3\)"),
        ({"row_reader": "gate"}, "\"gated\", None or a Keras layer. Received: row_reader='gate'"),
        ({"row_reader": None, "num_components": 2}, "A mixture needs a row reader"),
        ({"num_components": 0}, "num_components=0"),
    ],
    ids=str,
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(TABLES["full"], arguments)


def test_states_and_targets_that_disagree(rng):
    layer = make(TABLES["full"])
    states, targets = make_inputs(rng, 12)
    for states_shape in ((2, 4, H), (2, 5, H)):
        with pytest.raises(ValueError, match=r"row_reader=GatedRowReader. .*`states\[:, -1\]`"):
            layer(np.zeros(states_shape), np.array([3, 7]))
    for shape in ((2, H), (H,)):
        with pytest.raises(ValueError, match=r"targets.shape=\(\), row_reader"):
            layer(np.zeros(shape), np.array(3))
    with pytest.raises(ValueError, match=r'row_reader=None. Embed windows with combine="inter'):
        TwoComponentSoftmax(12, row_reader=None)(states, targets)
    as_half_steps = np.concatenate([states, states], axis=1)
    for half_steps in (as_half_steps, as_half_steps[:, :-2]):  # of T + 1 words, or of T
        with pytest.raises(ValueError, match=r'long as half-steps.*combine="gate"'):
            layer(half_steps, targets)
    with pytest.raises(ValueError, match=r"need states \(B, H\).*`return_sequences=True`"):
        layer(states[:, 0], targets)
    for unlike in (states, states[:, 0]):  # as `keras.Input((1,))` gives them
        with pytest.raises(ValueError, match=r"need states \(B, H\).*`targets\[..., 0\]`"):
            layer(unlike, np.zeros((*unlike.shape[:-1], 1), int))
    half_steps = make(TABLES["full"], row_reader=None)
    with pytest.raises(ValueError, match=r'give row_reader="gated"'):
        half_steps(states, targets)
    with pytest.raises(ValueError, match=r'give row_reader="gated"'):
        half_steps(states[:, 0], targets[:, 0])


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 2)])
def test_states_of_more_axes_are_refused(rng, shape):
    """Reallocation and searches take the second axis for words, and the first for texts."""
    states, targets = make_inputs(rng, 12, shape)
    layer, built = TwoComponentSoftmax(12), make(TABLES["full"])
    inputs = keras.Input(batch_shape=states.shape), keras.Input(batch_shape=shape, dtype="int32")
    for call in (
        lambda: layer(states, targets),
        lambda: layer(*inputs),
        lambda: layer.compute_output_shape(states.shape, shape),
        lambda: built.compute_ranks(states, targets),
        lambda: TargetRanks(built)(states, targets),
    ):
        with pytest.raises(ValueError, match=r"need states \(B, H\).*Merge the first axes"):
            call()


def test_merged_axes_predict_what_more_axes_hold(rng):
    """What the error message says to do."""
    layer = make(TABLES["full"])
    states, targets = make_inputs(rng, 12, (2, 3, 4))
    merged = ops.reshape(states, (-1, *states.shape[-2:]))
    log_probs = layer(merged, ops.reshape(targets, (-1, targets.shape[-1])))
    expected = [np.asarray(layer(*pair)) for pair in zip(states, targets, strict=True)]
    assert np.asarray(log_probs) == pytest.approx(np.concatenate(expected), abs=1e-5)


def test_the_shift_is_optional(rng):
    reader = GatedRowReader(3, use_shift=False)
    queries = rng.normal(size=(2, 1, H)).astype("float32")
    assert np.array_equal(np.asarray(reader(queries, np.array([0, 2]))), queries)
    assert len(reader.weights) == 1


def test_gated_embedding(rng):
    layer = TwoComponentEmbedding(
        TABLES["empty cells"], 3, combine="gate", word_dim=2, gate_dim=10, gate_pool=5
    )
    words = rng.integers(11, size=(2, 4))
    assert tuple(layer(words).shape) == (2, 4, 3)
    for weight in layer.trainable_weights:
        weight.assign(rng.normal(size=weight.shape))
    rows, columns = TABLES["empty cells"].rows[words], TABLES["empty cells"].columns[words]
    row, column, gate, gated, gate_projection, own, projection = (
        np.asarray(ops.convert_to_numpy(w))
        for w in (
            layer.row_embeddings,
            layer.column_embeddings,
            layer.input_gate,
            layer.gated_embeddings,
            layer.gate_projection,
            layer.word_embeddings,
            layer.word_projection,
        )
    )
    expected = row[rows] + column[columns] + own[words] @ projection
    pooled = (gated[columns] * gate[rows]).reshape(2, 4, 5, 2).sum(axis=2)
    expected += pooled @ gate_projection
    assert np.asarray(layer(words)) == pytest.approx(expected, abs=1e-5)
