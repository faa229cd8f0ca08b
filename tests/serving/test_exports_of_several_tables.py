"""Exports of models with several word tables equal the models."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from exportable import V, make_cells
from phone import Phone, TablesPhone
from served import Unsaved, call, decode, needs_c_api, run_c_api

from keras_lightrnn import Allocation, LightRNNModel, WordTable
from keras_lightrnn.layers import TwoComponentEmbedding, TwoComponentSoftmax
from keras_lightrnn.search import graph_tables
from keras_lightrnn.serving import ServingLimits, export_litert, export_saved_model
from keras_lightrnn.serving.network import make_network
from keras_lightrnn.serving.search import _find_best_in_block

LIMITS = ServingLimits(max_batch_size=20_000)
TEXTS = ["w3 w1 nobody", "", "東京", "naïve\u2003w2\x85w3\n\tw7 w7  ", "<eos> <unk> w38"]


def make_tables(num_tables=2):
    """Tables of unlike shapes, with empty cells, and an empty row in the first."""
    rng = np.random.default_rng(5)
    allocations = [Allocation(make_cells(), 20, 3), Allocation(rng.permutation(49)[:V], 7, 7)]
    return [*allocations, Allocation(rng.permutation(V), 43, 1)][:num_tables]


def make_model(num_tables=2, scale=1.0, **kwargs):
    keras.utils.set_random_seed(0)
    model = LightRNNModel(make_tables(num_tables), 5, 6, word_bias="counts", **kwargs)
    model.build((2, 5))
    for index, weight in enumerate(model.trainable_weights):
        weight.assign(scale * np.random.default_rng(index).normal(size=weight.shape))
    model.assign_word_counts(np.arange(V, 0, -1))
    return model


ARGUMENTS = [
    {"num_tables": 3, "num_components": 2, "word_dim": 3, "num_word_vectors": 30, "scale": 2.0},
    {"mask_zero": True, "num_layers": 2, "recurrence": "gru"},
]


@pytest.fixture(scope="module", params=ARGUMENTS, ids=["three", "padding"])
def model(request):
    return make_model(**request.param)


@pytest.fixture(scope="module")
def directory(model, vocabulary, tmp_path_factory):
    return export_saved_model(model, vocabulary, tmp_path_factory.mktemp("tables"), limits=LIMITS)


@pytest.fixture(scope="module")
def served(directory):
    return tf.saved_model.load(directory)


def read(vocabulary, text):
    return [vocabulary.end_id, *vocabulary.encode(text)[:-1]]


def test_scores_equal_the_models(served, model, vocabulary, rng):
    answer = call(served, "score", text=TEXTS)
    for text, log_probs in zip(TEXTS, answer["log_probs"], strict=True):
        expected = model.score([*read(vocabulary, text), vocabulary.end_id])
        assert log_probs[: len(expected)] == pytest.approx(expected, abs=1e-4)
    words = rng.integers(1, V, size=(3, 6)).astype("int32")
    log_probs = call(served, "score_ids", words=words)["log_probs"]
    assert log_probs == pytest.approx(model.score(words), abs=1e-4)


def assert_next_words(served, model, vocabulary):
    for k in (1, 5, V - model.mask_zero):
        answer = call(served, "next_words", text=TEXTS, k=k)
        for i, text in enumerate(TEXTS):
            words, log_probs = model.next_words(read(vocabulary, text), k)
            assert decode(answer["words"][i]) == [vocabulary.words[word] for word in words]
            assert answer["log_probs"][i] == pytest.approx(log_probs, abs=1e-4)


def test_next_words_equal_the_models(served, model, vocabulary):
    assert_next_words(served, model, vocabulary)


@pytest.fixture
def small_parts(monkeypatch):
    """Let searches expand some rows of small tables, of which they would expand all."""
    monkeypatch.setattr(graph_tables, "list_sizes", lambda numbers: [1, 3])
    monkeypatch.setattr(graph_tables, "_ROWS_OF_CANDIDATES", 2)
    monkeypatch.setattr(graph_tables, "_MORE_CANDIDATES", 2)


def test_rows_are_expanded_part_by_part(vocabulary, tmp_path, small_parts):
    model = make_model(scale=3.0)
    assert_next_words(Unsaved(model, vocabulary, tmp_path), model, vocabulary)


def test_weights_are_not_copied_where_they_are_read(model, small_parts):
    """After a gather of a variable itself, TensorFlow copies it whenever it is read."""
    network = make_network(model)
    words = tf.constant(model.word_table.allocation.words.ravel())

    @tf.function(input_signature=[tf.TensorSpec((None, 6))], autograph=False)
    def find_best(hidden):
        states = [hidden] * network.num_states
        return _find_best_in_block(network, states, 3, lambda cells: tf.gather(words, cells))

    graph = find_best.get_concrete_function().graph.as_graph_def()
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    names = {node.op for node in nodes}
    assert "ReadVariableOp" in names
    assert "ResourceGather" not in names


def test_few_rows_are_expanded(small_parts, monkeypatch):
    """Of sharp distributions; without it the search would be that of all words."""
    model = make_model(scale=3.0)
    network = make_network(model)
    cells = tf.constant(model.word_table.allocation.cells[[[3]]])
    states = network.read_texts(cells, tf.constant([1]), 0)
    expected, _ = model.next_words([3], 1)
    monkeypatch.setattr(graph_tables, "_compute_all_cells", None)  # calling it is an error
    words = model.word_table.allocation.words.ravel()
    found, _ = _find_best_in_block(network, states, 1, lambda cells: tf.gather(words, cells))
    assert words[found.numpy()[0]].tolist() == expected.tolist()


def test_greedy_texts_equal_the_models(served, model, vocabulary):
    answer = call(served, "generate", text=TEXTS, length=4, temperature=0, seed=0)
    for text, generated in zip(TEXTS, answer["text"], strict=True):
        expected = model.generate(read(vocabulary, text), length=4, temperature=0)
        assert generated.decode() == vocabulary.decode(expected)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_samples_follow_the_distribution(served, model, vocabulary, temperature):
    num_samples = 8_000
    answer = call(
        served, "generate",
        text=["w3 w1"] * num_samples, length=1, temperature=temperature, seed=7,
    )  # fmt: skip
    ids = [vocabulary.id_of(word.decode()) for word in answer["words"][:, 0]]
    weights = np.exp(model.word_log_probs(read(vocabulary, "w3 w1")) / temperature)
    weights[0] *= not model.mask_zero
    expected = weights / weights.sum()
    frequencies = np.bincount(ids, minlength=V) / num_samples
    deviation = np.sqrt(expected * (1 - expected) / num_samples)
    assert (np.abs(frequencies - expected) <= 5 * deviation + 4 / num_samples).all()


@pytest.mark.parametrize("temperature", [1e-30, 1.0, 1e30])
def test_any_temperature_gives_words_and_seeds_repeat(served, vocabulary, temperature):
    sampling = {"length": 3, "temperature": temperature, "seed": 3}
    first, again = (call(served, "generate", text=TEXTS, **sampling)["words"] for _ in range(2))
    assert np.array_equal(first, again)
    assert set(decode(first.ravel())) <= set(vocabulary.words)


def test_numbered_by_cells(vocabulary, tmp_path):
    model = make_model()
    served = Unsaved(model, vocabulary, tmp_path, reorder_vocabulary=True)
    answer = call(served, "next_words", text=TEXTS, k=5)
    for text, words in zip(TEXTS, answer["words"], strict=True):
        expected, _ = model.next_words(read(vocabulary, text), 5)
        assert decode(words) == [vocabulary.words[word] for word in expected]
    words = np.int32([[3, 1, 4, 1, 5]])
    cells = model.word_table.allocation.cells[words]
    log_probs = call(served, "score_ids", words=cells)["log_probs"]
    assert log_probs == pytest.approx(model.score(words), abs=1e-4)


def test_impossible_words_are_answers_once(vocabulary, tmp_path):
    model = make_model(mask_zero=True)
    bias = keras.ops.convert_to_numpy(model.softmax.word_bias_values)
    bias[5:9] = -np.inf
    model.softmax.word_bias_values.assign(bias)
    served = Unsaved(model, vocabulary, tmp_path)
    answer = call(served, "next_words", text=["w3"], k=V - 1)
    words = [vocabulary.id_of(word) for word in decode(answer["words"][0])]
    assert sorted(words) == list(range(1, V))
    assert sorted(words[-4:]) == [5, 6, 7, 8]
    assert np.isneginf(answer["log_probs"][0, -4:]).all()
    sampled = call(served, "generate", text=["w3"] * 100, length=2, temperature=1, seed=0)["words"]
    assert not set(decode(sampled.ravel())) & {vocabulary.words[i] for i in (0, 5, 6, 7, 8)}


@needs_c_api
def test_c_api(directory, served, tmp_path):
    calls = [
        ("next_words", {"text": TEXTS, "k": 3}),
        ("generate", {"text": TEXTS, "length": 2, "temperature": 1.0, "seed": 5}),
        ("generate", {"text": TEXTS, "length": 2, "temperature": 0.5, "seed": 5}),
    ]
    answers = run_c_api(directory, calls, tmp_path)
    for (signature, inputs), answer in zip(calls, answers, strict=True):
        expected = call(served, signature, **inputs)["words"]
        assert answer["words"]["values"] == decode(expected.ravel())


def test_a_functional_model(vocabulary, tmp_path):
    tables = [WordTable(allocation) for allocation in make_tables()]
    inputs = keras.Input((None,), dtype="int32")
    states = TwoComponentEmbedding(tables, 6, combine="gate")(inputs[:, :-1])
    states = keras.layers.GRU(6, return_sequences=True)(states)
    softmax = TwoComponentSoftmax(tables, row_reader="gated", num_components=2)
    model = keras.Model(inputs, softmax(states, inputs[:, 1:]))
    for index, weight in enumerate(model.trainable_weights):
        weight.assign(np.random.default_rng(index).normal(size=weight.shape))
    served = tf.saved_model.load(export_saved_model(model, vocabulary, tmp_path))
    words = np.int32([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
    log_probs = call(served, "score_ids", words=words)["log_probs"]
    assert log_probs == pytest.approx(np.asarray(model(words)), abs=1e-4)
    answer = call(served, "next_words", text=["w3 w1"], k=4)
    encoder = keras.Model(inputs, states)
    prefix = np.int32([[vocabulary.end_id, *vocabulary.encode("w3 w1")]])  # the last is not read
    expected, _ = softmax.next_words(encoder(prefix)[:, -1], k=4)
    assert decode(answer["words"][0]) == [vocabulary.words[word] for word in expected[0]]


# Phones.


def test_a_phone_scores_and_searches(model, vocabulary, tmp_path, rng):
    path = export_litert(model, tmp_path / "model.tflite", vocabulary=vocabulary)
    phone = TablesPhone(path)
    words = rng.integers(1, V, size=(2, 5))
    cells = model.word_table.allocation.cells[words]
    assert phone.score(cells) == pytest.approx(model.score(words), abs=1e-4)
    k = 6
    found, log_probs = phone.next_cells(cells[0], k)
    expected, expected_log_probs = model.next_words(words[0], k)
    if not model.mask_zero:  # phones know no padding
        assert model.word_table.allocation.words.ravel()[found].tolist() == expected.tolist()
        assert log_probs == pytest.approx(expected_log_probs, abs=1e-4)
    with zipfile.ZipFile(path) as archive:
        names = ["words.txt", *(f"words_{t}.txt" for t in range(1, len(model.word_tables)))]
        assert archive.namelist() == names
        for name, table in zip(names, model.word_tables, strict=True):
            by_cell = archive.read(name).decode().split("\n")
            assert by_cell[table.allocation.cells[3]] == vocabulary.words[3]


def test_a_phone_without_tensorflow(vocabulary, tmp_path):
    model = make_model()
    path = export_litert(model, tmp_path / "model.tflite", quantize="float16")
    words = [[3, 1, 4], [9, 2]]
    texts = [model.word_table.allocation.cells[text].tolist() for text in words]
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    script = Path(__file__).with_name("phone.py")
    command = [sys.executable, script, path, tmp_path / "texts.json"]
    answers = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    for text, (scores, cells, _) in zip(words, answers, strict=True):
        assert scores == pytest.approx(model.score(text), abs=0.05)
        best, _ = model.next_words(text, 10)
        found = model.word_table.allocation.words.ravel()[cells]
        assert len(set(found) & set(best)) >= 8


def test_the_file_of_one_table_is_unchanged(tmp_path):
    model = LightRNNModel(V, 5, 6)
    model.build((None, None))
    phone = Phone(export_litert(model, tmp_path / "model.tflite"))
    names = {"column_half_step", "row_half_step"}
    assert set(phone.interpreter.get_signature_list()) == names


def test_cells_out_of_range_are_an_error(tmp_path):
    path = export_litert(make_model(), tmp_path / "model.tflite")
    for cell in (-1, 60):
        with pytest.raises(RuntimeError):
            TablesPhone(path).score(np.int32([[cell, 3, 4]]))


@pytest.mark.parametrize(("size", "num_bytes"), [(200, 1), (300, 2), (70_000, 3)])
def test_cells_take_few_bytes(tmp_path, size, num_bytes):
    tables = [Allocation.by_frequency(size), Allocation.random(size, seed=0)]
    model = LightRNNModel(tables, 1, 1)
    model.build((None, None))
    for quantize in (None, "int8"):
        path = export_litert(model, tmp_path / "model.tflite", quantize)
        found = TablesPhone(path).find_cells(cells=tables[0].cells.astype("int32"))
        assert np.array_equal(found["cells_1"], tables[1].cells)
        stored = tables[1].cells.astype("<i4").view(np.uint8).reshape(size, 4)[:, :num_bytes]
        assert path.read_bytes().count(stored.tobytes()) == 1


def test_other_row_readers_are_refused(vocabulary, tmp_path):
    model = LightRNNModel(V, 5, 6, row_reading=keras.layers.Identity(name="own"))
    message = r"`GatedRowReader`.*row_reader='own' \(of type Identity"
    with pytest.raises(TypeError, match=message):
        export_litert(model, tmp_path / "model.tflite")
    with pytest.raises(TypeError, match=message):
        export_saved_model(model, vocabulary, tmp_path)
