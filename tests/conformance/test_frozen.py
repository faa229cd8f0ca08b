"""What is frozen stays frozen, whatever a layer is made of and however the model is copied."""

from __future__ import annotations

import copy

import keras
import numpy as np
import pytest
from cases import CASES, D, H, V, make_tables, make_windows

from keras_lightrnn import WordTable
from keras_lightrnn._internal.keras_internals import list_layers
from keras_lightrnn.layers import (
    GatedRowReader,
    TwoComponentEmbedding,
    TwoComponentSoftmax,
    WordVectors,
)
from keras_lightrnn.losses import NegativeLogLikelihood
from keras_lightrnn.recurrence import RecurrentStack, kinds

WITH_WEIGHTS = {
    name: case for name, case in CASES.items() if case.is_layer and not name.startswith("table")
}
every_case = pytest.mark.parametrize("case", WITH_WEIGHTS.values(), ids=list(WITH_WEIGHTS))


def wrap(case, layer):
    """Return a functional model of one layer."""
    inputs = [keras.Input(batch_shape=x.shape, dtype=str(x.dtype)) for x in case.make_inputs()]
    return keras.Model(inputs, case.compute(layer, *inputs))


def save_and_load(model, folder):
    model.save(folder / "model.keras")
    return keras.saving.load_model(folder / "model.keras")


def list_trainable(model):
    return [variable.path for variable in model.trainable_variables]


def list_given(layer):
    """Return the layers that somebody else made and gave to this one."""
    return [x for x in list_layers(layer) if isinstance(x, WordVectors) and x is not layer]


@every_case
@pytest.mark.parametrize("way", ["constructor", "setter", "setter before it is built"])
def test_a_frozen_layer_stays_frozen(case, way, tmp_path):
    layer = case.make(trainable=False) if way == "constructor" else case.make()
    if way == "setter before it is built":
        layer.trainable = False
    model = wrap(case, layer)
    if way == "setter":
        assert model.trainable_variables
        layer.trainable = False
    # A model makes its own word vectors, other layers of the cases are given theirs.
    given = [] if isinstance(layer, keras.Model) or way != "constructor" else list_given(layer)
    expected = [variable.path for x in given for variable in x.variables]
    copies = [keras.models.clone_model(model)]
    if way != "setter before it is built":
        copies.append(save_and_load(model, tmp_path))
    for each in (model, *copies):
        assert list_trainable(each) == expected
        # A model that is not trained as a whole has no layer that would be.
        held = [x for x in list_layers(each.layers[-1]) if x.trainable and x.trainable_variables]
        assert {x.path for x in held} == {x.path for x in given}


def find_parts(layer):
    """Return the places of what has weights in a layer, and is neither it nor Keras's own cell."""
    cells = [getattr(x, "cell", None) for x in list_layers(layer)]
    return [
        place
        for place, part in enumerate(list_layers(layer))
        if place and part.trainable_variables and not any(part is cell for cell in cells)
    ]


def list_flags(layer):
    """Return the flags of all layers that have weights to train."""
    layers = [x for x in list_layers(layer) if x.weights and not isinstance(x, WordTable)]
    return [(x.path, x.trainable) for x in layers]


@every_case
@pytest.mark.parametrize("is_frozen", [False, True], ids=["a part", "all but a part"])
def test_a_flag_of_a_part_is_kept(case, is_frozen):
    layer = case.make()
    model = wrap(case, layer)
    for place in find_parts(layer):
        layer.trainable = not is_frozen
        list_layers(layer)[place].trainable = is_frozen
        clone = keras.models.clone_model(model)
        assert list_trainable(clone) == list_trainable(model)
        flags = list_flags(layer)
        assert {flag for _, flag in flags} == {False, True}
        assert list_flags(clone.layers[-1]) == flags


def make_language_model(is_tied):
    """Return a model whose embedding and softmax share what they can."""
    words = keras.Input((None,), dtype="int32")
    vectors = WordVectors(V, 2, name="vectors")
    embedding = TwoComponentEmbedding(make_tables(), H, word_vectors=vectors, name="embedding")
    softmax = TwoComponentSoftmax(
        embedding.word_tables,
        word_vectors=vectors,
        tied_embedding=embedding if is_tied else None,
        name="softmax",
    )
    x = RecurrentStack(H, 2, "rnn", name="network")(embedding(words[:, :-1]))
    return keras.Model(words, softmax(x, words[:, 1:]))


FROZEN = {
    "network and softmax": lambda m: [m.get_layer("network"), m.get_layer("softmax")],
    "embedding": lambda m: [m.get_layer("embedding")],
    "word vectors": lambda m: [m.get_layer("softmax").word_vectors],
    "a layer of the network": lambda m: [m.get_layer("network").recurrent_layers[1]],
    "further tables": lambda m: [
        m.get_layer(name).further_tables[0] for name in ("softmax", "embedding")
    ],
}


@pytest.mark.parametrize("is_tied", [False, True], ids=["apart", "tied"])
@pytest.mark.parametrize("find", FROZEN.values(), ids=list(FROZEN))
def test_training_of_a_copy_leaves_what_is_frozen(find, is_tied, tmp_path):
    model, windows = make_language_model(is_tied), make_windows()
    for layer in find(model):
        layer.trainable = False
    if is_tied:  # of which a frozen softmax freezes the embedding
        model.get_layer("embedding").further_tables[0].trainable = True
    model.compile("adam", NegativeLogLikelihood(), run_eagerly=True)  # a step needs no trace
    model.fit(windows, windows[:, 1:], verbose=0)
    trainable = list_trainable(model)
    for each in (save_and_load(model, tmp_path), copy.deepcopy(model)):
        assert list_trainable(each) == trainable
        assert int(each.optimizer.iterations) == 1
        before = {v.path: np.array(v) for v in each.variables}
        each.fit(windows, windows[:, 1:], verbose=0)
        changed = [v.path for v in each.variables if not np.array_equal(before[v.path], v)]
        assert set(changed) <= set(trainable)
        assert changed


def test_a_row_reader_keeps_the_flag_that_it_was_given(tmp_path):
    tables = make_tables()
    for reader_flag in (False, True):
        reader = GatedRowReader(tables[0].num_rows, trainable=reader_flag, name="reader")
        softmax = TwoComponentSoftmax(tables, row_reader=reader, trainable=not reader_flag)
        states, targets = keras.Input((None, D)), keras.Input((None,), dtype="int32")
        model = keras.Model([states, targets], softmax(states, targets))
        for each in (model, save_and_load(model, tmp_path)):
            flags = [x.row_reader.trainable for x in each.layers[-1].list_tables()]
            assert flags == [reader_flag] * 2
            paths = list_trainable(each)
            assert sum("row_gate" in path for path in paths) == 2 * reader_flag
            assert sum("row_kernel" in path for path in paths) == 2 * (not reader_flag)


@keras.saving.register_keras_serializable("test_frozen")
class DenseReader(keras.layers.Layer):
    """A row reader of a user, with a layer inside it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(H)

    def build(self, queries_shape, rows_shape=None):
        self.dense.build(queries_shape)

    def call(self, queries, rows):
        return self.dense(queries)


@pytest.mark.parametrize("way", ["constructor", "setter"])
def test_what_is_inside_a_frozen_row_reader_is_frozen(way, tmp_path):
    reader = DenseReader(trainable=way != "constructor")
    tables = [WordTable(V), WordTable(V, name="second_table")]
    softmax = TwoComponentSoftmax(tables, row_reader=reader)
    states, targets = keras.Input((None, H)), keras.Input((None,), dtype="int32")
    model = keras.Model([states, targets], softmax(states, targets))
    if way == "setter":
        for table in softmax.list_tables():
            table.row_reader.trainable = False
    for each in (model, save_and_load(model, tmp_path), keras.models.clone_model(model)):
        paths = list_trainable(each)
        assert paths
        assert not [path for path in paths if "dense" in path]


@pytest.mark.parametrize("is_frozen", [False, True])
@pytest.mark.parametrize("is_cell_frozen", [False, True])
def test_the_cell_of_a_registered_recurrence_is_frozen(monkeypatch, is_frozen, is_cell_frozen):
    def make_layer(units, **kwargs):  # a cell that its layer does not tell of its flag
        cell = keras.layers.SimpleRNNCell(units, trainable=not is_cell_frozen)
        return keras.layers.RNN(cell, **kwargs)

    record = kinds.Recurrence("minimal", make_layer, 1, kinds.get_recurrence("rnn").step)
    monkeypatch.setitem(kinds._RECURRENCES, "minimal", record)
    stack = RecurrentStack(H, 2, "minimal", trainable=not is_frozen)
    stack.build((None, None, D))
    flags = [weight.trainable for weight in stack.weights]
    assert flags == [not (is_frozen or is_cell_frozen)] * 6
