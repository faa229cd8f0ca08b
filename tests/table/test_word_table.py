from __future__ import annotations

import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lightrnn import Allocation, LightRNNModel, WordTable
from keras_lightrnn.layers import TwoComponentEmbedding, TwoComponentSoftmax, WordVectors
from keras_lightrnn.table.word_table import get_word_table


def test_looks_words_up_in_the_allocation(rng):
    allocation = Allocation.random(11, 3, 4, seed=0)
    table = WordTable(allocation)
    words = rng.integers(11, size=(2, 5))
    cells = table(words)
    assert cells.dtype == tf.int32
    assert np.array_equal(cells, allocation.cells[words])
    assert np.array_equal(table(words.astype("float32")), cells)
    assert table.allocation == allocation
    assert table.table_shape == (3, 4)


def test_tables_of_one_name_stay_two_when_saved(tmp_path, rng):
    """As those of an ensemble are."""
    words = keras.Input((None,), dtype="int32")
    tables = [WordTable(Allocation.random(11, 3, 4, seed=s), name="words") for s in (0, 1)]
    vectors = [TwoComponentEmbedding(table, 4, combine="sum")(words) for table in tables]
    model = keras.Model(words, keras.layers.Add()(vectors))
    ids = rng.integers(11, size=(2, 5))
    before = model.predict(ids, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert np.array_equal(loaded.predict(ids, verbose=0), before)


def test_a_model_that_has_two_tables_for_one_says_so(tmp_path):
    words = keras.Input((None,), dtype="int32")
    table = WordTable(11)
    vectors = [TwoComponentEmbedding(table, 4, combine="sum")(words) for _ in range(2)]
    model = keras.Model(words, keras.layers.Add()(vectors))
    model.save_weights(tmp_path / "a.weights.h5")
    other = keras.models.model_from_json(model.to_json())
    with pytest.raises(ValueError, match="`WordTable` between layers"):
        other.load_weights(tmp_path / "a.weights.h5")


@pytest.mark.parametrize("shared", ["embedding", "vectors"])
def test_a_model_that_has_two_layers_for_one_says_so(tmp_path, shared):
    words, targets = (keras.Input((None,), dtype="int32") for _ in range(2))
    vectors = WordVectors(11, 2) if shared == "vectors" else None
    embedding = TwoComponentEmbedding(11, 4, word_vectors=vectors)
    softmax = TwoComponentSoftmax(
        embedding.word_table,
        word_vectors=vectors,
        tied_embedding=embedding if shared == "embedding" else None,
    )
    states = keras.layers.LSTM(4, return_sequences=True)(embedding(words))
    model = keras.Model([words, targets], softmax(states, targets))
    model.save_weights(tmp_path / "a.weights.h5")
    other = keras.models.model_from_json(model.to_json())
    with pytest.raises(ValueError, match=r"shared layers.*for each layer.*\.keras"):
        other.load_weights(tmp_path / "a.weights.h5")


def test_weights_of_another_vocabulary_say_so(tmp_path):
    models = [LightRNNModel(size, 4, 4) for size in (40, 41)]  # tables of one shape
    for model in models:
        model.build((None, None))
    models[0].save_weights(tmp_path / "a.weights.h5")
    with pytest.raises(ValueError, match=r"vocabulary_size=41.*Received.*vocabulary_size=40"):
        models[1].load_weights(tmp_path / "a.weights.h5")


def test_what_makes_a_table():
    for source in (11, Allocation.by_frequency(11), get_word_table(11)):
        table = get_word_table(source)
        assert table.allocation == Allocation.by_frequency(11)
    assert get_word_table(table) is table
    sizes = {"vocabulary_size": 11, "num_rows": 6, "num_columns": 2}
    assert WordTable(sizes).table_shape == (6, 2)
    with pytest.raises(ValueError, match="vocabulary_size"):
        WordTable(0)
    for source in (np.arange(11), [11, 11], 11.0, "11"):
        with pytest.raises(TypeError, match=r"`Allocation` or an integer .* Wrap cells as"):
            WordTable(source)


@pytest.mark.parametrize("word", [-1, 11])
def test_the_error_of_a_wrong_id_names_the_id(word):
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"= {word} is not in \[0, 11\)"):
        WordTable(11)(np.array([3, word]))


def test_a_layer_has_a_table():
    with pytest.raises(ValueError, match="at least one word table"):
        TwoComponentEmbedding([], 4)


def test_is_int32_and_never_trained_under_any_policy():
    table = WordTable(11, dtype="mixed_bfloat16", trainable=True)
    assert table.trainable_variables == []
    assert [(v.name, str(v.dtype)) for v in table.weights] == [("cells", "int32")]
    assert {str(v.dtype) for v in table.variables} == {"int32"}
    # Larger than a bfloat16 holds exactly.
    assert int(WordTable(1000)(np.int32([999]))[0]) == 999


def test_assign_takes_effect_in_a_compiled_function():
    first, second = (Allocation.random(11, 3, 4, seed=seed) for seed in (0, 1))
    table = WordTable(first)
    words = tf.range(11)
    for jit_compile in (False, True):
        table.assign(first)
        function = tf.function(table, jit_compile=jit_compile)
        assert np.array_equal(function(words), first.cells)
        table.assign(second)
        assert np.array_equal(function(words), second.cells)
        assert function.experimental_get_tracing_count() == 1


@pytest.mark.parametrize(
    "other", [Allocation.random(11, 4, 3), Allocation.random(12, 3, 4), Allocation.random(5, 3, 4)]
)
def test_assign_refuses_another_vocabulary_or_shape(other):
    table = WordTable(Allocation.random(11, 3, 4, seed=0))
    before = table.allocation
    with pytest.raises(ValueError, match=r"fit the table.*Received: Allocation\("):
        table.assign(other)
    with pytest.raises(TypeError, match="must be an `Allocation`"):
        table.assign(other.cells)
    assert table.allocation == before


def test_cells_that_are_set_as_weights_are_checked():
    allocation = Allocation.random(11, 3, 4, seed=0)
    table = WordTable(allocation)
    for cells, match in [
        (np.full(11, 3), "share a cell"),
        (allocation.cells + 2, "Received"),
        (allocation.cells + 0.5, "must hold integers"),
    ]:
        with pytest.raises((TypeError, ValueError), match=match):
            table.set_weights([cells])
        assert table.allocation == allocation
    other = Allocation.random(11, 3, 4, seed=1)
    mean = np.mean([other.cells, other.cells], axis=0)  # of two models with one allocation
    table.set_weights([mean])
    assert table.allocation == other


def test_the_config_in_a_file_holds_no_cells(tmp_path):
    table = WordTable(Allocation.random(10_000, seed=0), name="words")
    words = keras.Input((None,), dtype="int32")
    keras.Model(words, table(words)).save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as file:
        assert len(file.read("config.json")) < 5_000
    assert len(str(WordTable(10_000).get_config())) < 200


def test_damaged_weights_leave_the_table_as_it_was():
    table = WordTable(Allocation([2, 0, 1]))
    with pytest.raises(ValueError, match="share a cell"):
        table.load_own_variables({"0": np.int32([1, 1, 0])})
    with pytest.raises(ValueError, match="fit the table"):
        table.load_own_variables({"0": np.int32([1, 0])})
    assert table.allocation == Allocation([2, 0, 1])


def test_eager_lookup_outside_the_vocabulary_raises():
    table = WordTable(11)
    with pytest.raises(tf.errors.InvalidArgumentError):
        table(np.int32([11]))


def test_quantization_in_place_is_refused():
    """Keras would skip the layers that hold a table, and tell nobody."""
    whole = LightRNNModel(12, 4, 4)
    whole.build((None, None))
    words = keras.Input((None,), dtype="int32")
    x = TwoComponentEmbedding(12, 4, combine="sum")(words)
    functional = keras.Model(words, keras.layers.Dense(3)(x))
    for model in whole, functional:
        before = model.get_weights()
        with pytest.raises(ValueError, match=r"cannot be quantized.*export_litert"):
            model.quantize("int8")
        after = model.get_weights()
        assert all(np.array_equal(x, y) for x, y in zip(before, after, strict=True))
