from __future__ import annotations

import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lightrnn import Allocation, LightRNNModel, WordTable
from keras_lightrnn.layers import TwoComponentSoftmax
from keras_lightrnn.ops import EMPTY_CELL_LOGIT
from keras_lightrnn.table.linked_variable import DerivedVariable, LinkedVariable

V, R, C = 11, 4, 4  # an empty row
FIRST, SECOND = (Allocation(np.random.default_rng(s).permutation(12)[:V], R, C) for s in (0, 1))


def make(allocation=FIRST, word_bias="counts", **kwargs):
    model = LightRNNModel(WordTable(allocation), 5, 6, word_bias=word_bias, **kwargs)
    model.build((None, None))
    if word_bias is not None:
        model.assign_word_counts(np.arange(1, V + 1))
    return model


def check(model, allocation, counts=None):
    """Check what follows from the table and the counts against them."""
    counts = np.arange(1, V + 1) if counts is None else counts
    assert model.word_table.allocation == allocation
    assert np.array_equal(model.word_table.words, allocation.words)
    shares = np.bincount(allocation.rows, weights=counts, minlength=R) / np.sum(counts)
    offsets = np.asarray(model.softmax.compute_row_offsets())
    assert np.exp(offsets) == pytest.approx(shares, rel=1e-5)


def assign(model, other, path):
    model.word_table.assign(other.word_table.allocation)


def assign_cells(model, other, path):
    model.word_table.cells.assign(other.word_table.allocation.cells)


def set_weights(model, other, path):
    model.set_weights(other.get_weights())


def load_weights(model, other, path):
    other.save_weights(path / "a.weights.h5")
    model.load_weights(path / "a.weights.h5")


def restore_checkpoint(model, other, path):
    written = tf.train.Checkpoint(model=other).write(str(path / "checkpoint"))
    tf.train.Checkpoint(model=model).read(written).assert_existing_objects_matched()


def restore_checkpoint_of_cells(model, other, path):
    """A checkpoint without what is derived."""
    written = tf.train.Checkpoint(cells=other.word_table.cells).write(str(path / "checkpoint"))
    tf.train.Checkpoint(cells=model.word_table.cells).read(written).assert_consumed()


WAYS = [
    assign,
    assign_cells,
    set_weights,
    load_weights,
    restore_checkpoint,
    restore_checkpoint_of_cells,
]


@pytest.mark.parametrize("way", WAYS)
def test_what_is_derived_follows_however_a_table_is_assigned(tmp_path, rng, way):
    model, other = make(), make(SECOND)
    check(model, FIRST)
    compiled = tf.function(lambda words: model(words, training=True), autograph=False)
    windows = rng.integers(V, size=(2, 5)).astype("int32")
    before = np.asarray(compiled(windows))
    way(model, other, tmp_path)
    check(model, SECOND)
    assert np.asarray(compiled(windows)) == pytest.approx(np.asarray(model(windows)), abs=1e-5)
    assert np.abs(np.asarray(compiled(windows)) - before).max() > 1e-3


def test_row_offsets_follow_assigned_counts():
    model, counts = make(), np.arange(V, 0, -1)
    model.assign_word_counts(counts)
    check(model, FIRST, counts)
    weights = model.get_weights()
    model.assign_word_counts(np.ones(V))
    model.set_weights(weights)
    check(model, FIRST, counts)


def test_without_a_bias_only_empty_rows_have_an_offset():
    offsets = np.asarray(make(word_bias=None).softmax.compute_row_offsets())
    assert offsets.tolist() == [0, 0, 0, np.float32(EMPTY_CELL_LOGIT)]


def test_what_is_derived_is_no_weight():
    model = make(row_reading="recurrence")
    derived = [v.name for v in model.variables if isinstance(v, DerivedVariable)]
    assert sorted(derived) == ["row_offsets", "words"]
    assert not set(derived) & {v.name for v in model.weights}
    assert len(model.get_weights()) == len(model.weights) == 2 + 3 + 4 + 2
    saved = {}
    model.word_table.save_own_variables(saved)
    assert [value.name for value in saved.values()] == ["cells"]
    model.softmax.save_own_variables(saved)
    names = ["column_bias", "column_kernel", "row_bias", "row_kernel", "word_bias"]
    assert sorted(value.name for value in saved.values()) == names


def test_a_full_table_without_bias_derives_no_offsets():
    layer = TwoComponentSoftmax(12, row_reader=None)
    layer.build((None, None, 5))
    assert layer.compute_row_offsets() is None
    assert {v.name for v in layer.variables} - {v.name for v in layer.weights} == {"words"}


def test_a_table_outlives_layers_made_on_it():
    table = WordTable(FIRST)
    layer = weakref.ref(TwoComponentSoftmax(table, word_bias="counts", row_reader=None))
    gc.collect()
    assert layer() is None
    table.assign(SECOND)
    assert np.array_equal(table.words, SECOND.words)


def test_a_source_forgets_what_is_gone():
    source = LinkedVariable(keras.initializers.Ones(), (2,), "float32", "source")
    double = DerivedVariable(lambda: 2 * source, [source], (2,), "float32", "double")
    assert [reference() for reference in source._derived] == [double]
    del double
    gc.collect()
    assert source._derived == []


def test_derived_of_derived():
    source = LinkedVariable(keras.initializers.Ones(), (2,), "float32", "source")
    double = DerivedVariable(lambda: 2 * source, [source], (2,), "float32", "double")
    total = DerivedVariable(lambda: tf.reduce_sum(double), [double], (), "float32", "total")
    assert float(total) == 4
    source.assign([3.0, 5.0])
    assert double.numpy().tolist() == [6, 10]
    assert float(total) == 16
