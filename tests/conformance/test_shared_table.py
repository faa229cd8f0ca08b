"""One table stays one, whatever holds it and however the model is copied."""

from __future__ import annotations

import copy
import json
import zipfile

import keras
import numpy as np
import pytest
from cases import V, make_table, make_windows

from keras_lightrnn import Allocation, LightRNNModel, WordTable
from keras_lightrnn._internal.shared_objects import serialize_shared
from keras_lightrnn.layers import TwoComponentEmbedding, TwoComponentSoftmax
from keras_lightrnn.losses import NegativeLogLikelihood
from keras_lightrnn.table.word_table import get_word_table


@keras.saving.register_keras_serializable("tests")
class RowBias(keras.layers.Layer):
    """A layer of a user that holds a table, serialised as Keras serialises any layer."""

    def __init__(self, word_table, **kwargs):
        super().__init__(**kwargs)
        self.word_table = word_table

    def build(self, input_shape):
        self.bias = self.add_weight(shape=(self.word_table.num_rows,), initializer="normal")

    def call(self, words):
        rows = self.word_table(words) // self.word_table.num_columns
        return keras.ops.take(self.bias, rows)

    def get_config(self):
        table = keras.saving.serialize_keras_object(self.word_table)
        return {**super().get_config(), "word_table": table}

    @classmethod
    def from_config(cls, config):
        table = keras.saving.deserialize_keras_object(config["word_table"])
        return cls(**{**config, "word_table": table})


def make_language_model(table, first):
    """Return a model of the layers and, before or after them, a layer of a user."""
    words = keras.Input((None,), dtype="int32", name="words")
    bias = RowBias(table, name="row_bias")
    if first:
        added = bias(words[:, :-1])
    x = TwoComponentEmbedding(table, 4, name="embedding", combine="interleave")(words)
    x = keras.layers.SimpleRNN(4, return_sequences=True, name="network")(x)
    x = TwoComponentSoftmax(table, name="softmax", row_reader=None)(x, words[:, 1:])
    if not first:
        added = bias(words[:, :-1])
    return keras.Model(words, keras.layers.Add(name="add")([x, added]), name="model")


def make_classifier(table):
    """Return a model in which the table is a layer of the graph."""
    words = keras.Input((None,), dtype="int32", name="words")
    rows = table(words) // table.num_columns
    x = keras.layers.Embedding(table.num_rows, 3, name="rows")(rows)
    y = TwoComponentEmbedding(table, 3, combine="sum", name="embedding")(words)
    return keras.Model(words, keras.layers.Add(name="add")([x, y]), name="model")


def make_whole(table):
    model = LightRNNModel(table, 4, 4, name="model")
    model.build((None, None))
    return model


MODELS = {
    "user layer first": lambda table: make_language_model(table, True),
    "user layer last": lambda table: make_language_model(table, False),
    "graph": make_classifier,
    "whole": make_whole,
}
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=list(MODELS))


def get_tables(model):
    held = (getattr(layer, "word_table", layer) for layer in model._flatten_layers())
    return list({id(x): x for x in held if isinstance(x, WordTable)}.values())


def save_and_load(model, folder):
    model.save(folder / "model.keras")
    return keras.saving.load_model(folder / "model.keras")


@every_model
@pytest.mark.parametrize("way", ["file", "deepcopy"])
def test_one_table_stays_one(make, way, tmp_path):
    model, windows = make(make_table()), make_windows()
    expected = np.asarray(model(windows))
    loaded = save_and_load(model, tmp_path) if way == "file" else copy.deepcopy(model)
    assert np.asarray(loaded(windows)) == pytest.approx(expected, abs=1e-6)
    [original], [table] = get_tables(model), get_tables(loaded)
    assert table is not original
    table.assign(Allocation.random(V, *table.table_shape, seed=17))
    assert not np.allclose(loaded(windows), expected)
    assert np.array_equal(model(windows), expected)


def test_two_tables_of_one_name_stay_two(tmp_path):
    tables = [make_table(), make_table()]
    tables[1].assign(Allocation.random(V, *tables[1].table_shape, seed=8))
    words = keras.Input((None,), dtype="int32")
    each = [RowBias(table)(words) for table in (*tables, *tables[::-1])]
    model = keras.Model(words, keras.layers.Concatenate()([x[..., None] for x in each]))
    windows = make_windows()
    loaded = save_and_load(model, tmp_path)
    assert len(get_tables(loaded)) == 2
    assert np.array_equal(loaded(windows), model(windows))


def read_json(path):
    with zipfile.ZipFile(path) as file:
        return file.read("config.json").decode()


@every_model
def test_equal_models_make_equal_files(make, tmp_path):
    for name in "ab":
        keras.utils.clear_session()  # Keras numbers operations without a name
        make(make_table()).save(tmp_path / f"{name}.keras")
    first, second = (read_config(tmp_path / f"{name}.keras") for name in "ab")
    assert first == second
    save_and_load(keras.saving.load_model(tmp_path / "a.keras"), tmp_path)
    assert read_config(tmp_path / "model.keras") == first


def read_config(path):
    """Return the config in a file, without the memory addresses that Keras itself writes.

    It adds one to every object that it serialises twice, dtype policies among them, but not to
    the tables of the package's layers.
    """

    def drop_addresses(pairs):
        config = dict(pairs)
        config.pop("shared_object_id", None)
        return config

    with zipfile.ZipFile(path) as file:
        return json.loads(file.read("config.json"), object_pairs_hook=drop_addresses)


def test_a_file_has_no_address_of_a_table(tmp_path):
    path = tmp_path / "model.keras"
    make_whole(make_table()).save(path)
    with zipfile.ZipFile(path) as file:
        text = file.read("config.json").decode()
    assert '"WordTable"' in text
    assert "shared_object_id" not in text


@every_model
def test_a_clone_has_the_allocation(make):
    model, windows = make(make_table()), make_windows()
    clone = keras.models.clone_model(model)
    clone(windows)
    [table] = get_tables(model)
    assert {t.allocation for t in get_tables(clone)} == {table.allocation}
    assert all(t is not table for t in get_tables(clone))
    revived = keras.models.model_from_json(model.to_json())
    assert {t.allocation for t in get_tables(revived)} == {table.allocation}


def test_a_clone_computes_the_same():
    model, windows = make_whole(make_table()), make_windows()
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    assert np.array_equal(clone(windows), model(windows))


@pytest.mark.parametrize("serialize", [serialize_shared, keras.saving.serialize_keras_object])
def test_config_round_trip(serialize):
    table = make_table()
    config = json.loads(json.dumps(serialize(table)))
    copy = get_word_table(config)
    assert copy.allocation == table.allocation
    assert serialize(copy) == serialize(table) == config


def test_a_damaged_config_is_refused():
    config = make_table().get_config()
    config["allocation"]["vocabulary_size"] += 1
    with pytest.raises(ValueError, match="one cell for each word"):
        WordTable.from_config(config)


def test_trained_models_of_user_layers_load(tmp_path):
    model, windows = make_language_model(make_table(), True), make_windows()
    model.compile("sgd", NegativeLogLikelihood())
    model.fit(windows, windows[:, 1:], verbose=0)
    loaded = save_and_load(model, tmp_path)
    losses = [m.evaluate(windows, windows[:, 1:], verbose=0) for m in (model, loaded)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
