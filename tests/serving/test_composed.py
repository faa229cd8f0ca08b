"""Functional models of the layers, exported with text in and words out."""

from __future__ import annotations

import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from exportable import C, R, V, make_cells
from served import call, decode, needs_c_api, run_c_api

from keras_lightrnn import Allocation, LightRNNModel, WordTable
from keras_lightrnn.data import Vocabulary
from keras_lightrnn.layers import TwoComponentEmbedding, TwoComponentSoftmax
from keras_lightrnn.recurrence import RecurrentStack
from keras_lightrnn.serving import ServingLimits, export_litert, export_saved_model
from keras_lightrnn.serving.composed import _make_sample

TEXTS = ["w3 w1 nobody", "", "w2 w7 w7 w3 w4 w9", "<pad> w5"]
DIM = 6


@keras.saving.register_keras_serializable("tests")
class CausalAttention(keras.layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = keras.layers.MultiHeadAttention(2, 3)

    def build(self, shape):
        self.attention.build(shape, shape)
        self.built = True

    def call(self, x):
        return x + self.attention(x, x, use_causal_mask=True)


def make_composed(kind, mask_zero=False, is_shifted=True, num_tables=1):
    keras.utils.set_random_seed(0)
    table = WordTable(Allocation(make_cells(), R, C))
    if num_tables > 1:
        table = [table, *(WordTable(Allocation.random(V, seed=i)) for i in range(1, num_tables))]
    words = keras.Input((None,), dtype="int32", name="words")
    read = words[:, :-1] if is_shifted else words
    x = TwoComponentEmbedding(table, DIM, combine="gate", mask_zero=mask_zero)(read)
    if kind == "gru":
        x = keras.layers.GRU(DIM, return_sequences=True)(x)
        x = keras.layers.Dense(DIM, "tanh")(x)
    elif kind == "stack":
        x = RecurrentStack(DIM, num_layers=2)(x)
    elif kind == "convolution":
        x = keras.layers.Conv1D(DIM, 3, padding="causal", activation="tanh")(x)
    elif kind == "bidirectional":
        x = keras.layers.Bidirectional(keras.layers.GRU(DIM // 2, return_sequences=True))(x)
    else:
        x = CausalAttention()(x)
        x = keras.layers.LayerNormalization()(x)
    softmax = TwoComponentSoftmax(
        table,
        word_bias="trainable",
        row_reader="gated",
        num_components=2,
        word_dim=2,
        mask_zero=mask_zero,
    )
    if is_shifted:
        model = keras.Model(words, softmax(x, words[:, 1:]))
    else:
        targets = keras.Input((None,), dtype="int32", name="targets")
        model = keras.Model([targets, words], softmax(x, targets))
    for index, weight in enumerate(model.trainable_weights):
        weight.assign(np.random.default_rng(index).normal(size=weight.shape))
    return model


@pytest.fixture(scope="module")
def words():
    return Vocabulary(["<pad>", *(f"w{i}" for i in range(V - 3)), "<unk>", "<eos>"])


def score(model, texts):
    """Return the log-probabilities of the words of texts `(B, N)` after their first."""
    texts = np.atleast_2d(texts)
    inputs = texts if len(model.inputs) == 1 else [texts[:, 1:], texts[:, :-1]]
    return np.asarray(model(inputs))


def predict(model, prefix):
    """Return the log-probabilities of all words after a prefix, each scored by itself."""
    return score(model, [[*prefix, word] for word in range(V)])[:, -1].copy()


@pytest.fixture(scope="module")
def gru(words, tmp_path_factory):
    """A recurrent model that masks padding, its export, and the export in this process.

    The model is exported after it has been saved and loaded.
    """
    model, directory = make_composed("gru", mask_zero=True), tmp_path_factory.mktemp("gru")
    model.save(directory / "model.keras")
    loaded = keras.saving.load_model(directory / "model.keras")
    limits = ServingLimits(max_length=4)
    path = export_saved_model(loaded, words, directory / "served", limits=limits)
    return model, path, tf.saved_model.load(path)


@pytest.fixture(scope="module")
def attention(words, tmp_path_factory):
    model = make_composed("attention", is_shifted=False)
    path = export_saved_model(model, words, tmp_path_factory.mktemp("attention"))
    return model, path, tf.saved_model.load(path)


@pytest.mark.parametrize(("kind", "mask_zero"), [("gru", True), ("attention", False)])
def test_composed_models(request, words, kind, mask_zero):
    model, _, served = request.getfixturevalue(kind)
    # Attention reads padding, which its network does not mask.
    texts = TEXTS if mask_zero else TEXTS[:3]
    scores = call(served, "score", text=texts)
    best = call(served, "next_words", text=texts, k=V - mask_zero)
    chosen = call(served, "generate", text=texts, length=3, temperature=0, seed=0)["words"]
    for i, text in enumerate(texts):
        prefix = [words.end_id, *words.encode(text)[:-1]]
        size = len(prefix)
        counts = np.array([*prefix[1:], words.end_id]) != 0 if mask_zero else np.full(size, True)
        [expected] = score(model, [*prefix, words.end_id])
        assert scores["log_probs"][i, :size][counts] == pytest.approx(expected[counts], abs=1e-4)
        log_probs = predict(model, prefix)
        log_probs[: int(mask_zero)] = -np.inf
        order = np.argsort(-log_probs)[: V - mask_zero]
        assert decode(best["words"][i]) == [words.words[word] for word in order]
        assert best["log_probs"][i] == pytest.approx(log_probs[order], abs=1e-4)
        for word in chosen[i]:
            log_probs = predict(model, prefix)
            log_probs[: int(mask_zero)] = -np.inf
            assert words.words[np.argmax(log_probs)] == word.decode()
            prefix.append(words.id_of(word.decode()))


def test_many_texts_in_blocks(gru, rng):
    _, _, served = gru
    texts = [" ".join(f"w{i}" for i in rng.integers(40, size=i * 7 % 11)) for i in range(100)]
    for signature, options in ("score", {}), ("next_words", {"k": 5}):
        together = call(served, signature, text=texts, **options)["log_probs"]
        for i in (0, 50, 99):
            [alone] = call(served, signature, text=[texts[i]], **options)["log_probs"]
            assert alone == pytest.approx(together[i][: len(alone)], abs=1e-4)
    sampling = {"length": 3, "temperature": 1.0, "seed": 0}
    assert call(served, "generate", text=texts, **sampling)["words"].shape == (100, 3)


@needs_c_api
def test_servers_run_composed_models(gru, tmp_path):
    _, path, served = gru
    requests = [
        ("score", {"text": TEXTS}),
        ("next_words", {"text": TEXTS, "k": 4}),
        ("generate", {"text": TEXTS, "length": 4, "temperature": 0.7, "seed": 3}),
        ("score_ids", {"words": [[1, 2, 3]]}),
        ("generate", {"text": TEXTS, "length": 5, "temperature": 0.7, "seed": 3}),
    ]
    *answers, refused = run_c_api(path, requests, tmp_path)
    for (name, inputs), answer in zip(requests, answers, strict=False):
        for key, expected in call(served, name, **inputs).items():
            if expected.dtype == object:
                assert answer[key]["values"] == decode(expected.ravel())
            else:
                values = np.reshape(answer[key]["values"], expected.shape)
                assert values == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert "`length` must lie in [1, 4]" in refused["error"]


def test_a_loaded_model_is_exported(gru):
    model, _, served = gru
    ids = np.array([[3, 1, 4, 1, 5]])
    answer = call(served, "score_ids", words=ids)["log_probs"][0]
    assert answer == pytest.approx(score(model, ids)[0], abs=1e-4)


@pytest.mark.parametrize("vocabulary_size", [1, 2, 3, 100])
def test_a_sample_has_words_of_the_vocabulary(vocabulary_size):
    first, second = _make_sample(vocabulary_size)
    assert set(first) | set(second) <= set(range(vocabulary_size))
    assert (first != second).any() == (vocabulary_size > 2)


def test_models_that_read_ahead_are_refused(words, tmp_path):
    model = make_composed("bidirectional")
    message = r"before it.*change with later words.*check_causal"
    with pytest.raises(ValueError, match=message):
        export_saved_model(model, words, tmp_path / "served")
    with pytest.raises(ValueError, match=message):
        export_litert(model, tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())


def test_other_models_are_refused(tmp_path, words):
    ids = keras.Input((None,), dtype="int32")
    table = WordTable(V)
    half_steps = keras.layers.GRU(4, return_sequences=True)(
        TwoComponentEmbedding(table, 4, combine="interleave")(ids)
    )
    model = keras.Model(ids, TwoComponentSoftmax(table, row_reader=None)(half_steps, ids[:, 1:]))
    with pytest.raises(TypeError, match=r'gated row reader.*row_reader=None.*row_reader="gated"'):
        export_saved_model(model, words, tmp_path)
    vectors = TwoComponentEmbedding(table, 4, combine="gate")(ids)
    softmax = TwoComponentSoftmax(table, row_reader="gated")
    target = keras.Input((), dtype="int32")
    model = keras.Model([ids, target], softmax(keras.layers.GRU(4)(vectors), target))
    with pytest.raises(TypeError, match=r"states \(B, T, H\).*shape \(None, 4\)"):
        export_saved_model(model, words, tmp_path)
    fixed = keras.Input((5,), dtype="int32")
    states = TwoComponentEmbedding(table, 4, combine="gate")(fixed[:, :-1])
    softmax = TwoComponentSoftmax(table, row_reader="gated")
    with pytest.raises(TypeError, match=r"one input of word ids.*\(None, 5\)"):
        export_saved_model(keras.Model(fixed, softmax(states, fixed[:, 1:])), words, tmp_path)
    with pytest.raises(TypeError, match=r"`LightRNNModel`, or a functional .* 0 such layers"):
        export_saved_model(keras.Model(ids, vectors), words, tmp_path)
    with pytest.raises(TypeError, match=r"states \(B, T, H\).*shape \(None, 4\)"):
        export_litert(model, tmp_path / "model.tflite")
    assert list(tmp_path.iterdir()) == []


# Phones.


def make_phone(path):
    return pytest.importorskip("phone", reason="pip install ai-edge-litert").make_phone(path)


def check_phone(model, path, tolerance=1e-4, text_length=None):
    """Check the likeliest next words after some texts against the model."""
    phone = make_phone(path)
    [softmax] = (x for x in model.layers if isinstance(x, TwoComponentSoftmax))
    by_cell = softmax.word_table.allocation.words.ravel()
    for text in ([3], [1, 5, 9, 2], [7, 7, 30]):
        cells, log_probs = phone.next_cells(
            softmax.word_table.allocation.cells[text], 5, text_length
        )
        expected = predict(model, text)
        assert log_probs == pytest.approx(np.sort(expected)[: -len(cells) - 1 : -1], abs=tolerance)
        assert log_probs == pytest.approx(expected[by_cell[cells]], abs=tolerance)
    return phone


@pytest.mark.parametrize("kind", ["stack", "convolution"])
def test_phones_read_texts_of_any_length(kind, words, tmp_path):
    model = make_composed(kind, is_shifted=kind != "stack")
    path = export_litert(model, tmp_path / "model.tflite", vocabulary=words)
    phone = check_phone(model, path)
    assert set(phone.interpreter.get_signature_list()) == {"read_text", "row_half_step"}
    with zipfile.ZipFile(path) as archive:
        lines = archive.read("words.txt").decode().split("\n")
    assert lines[make_cells()[3]] == words.words[3]


@pytest.mark.parametrize("kind", ["attention", "gru"])
def test_phones_read_texts_of_a_fixed_length(kind, tmp_path):
    model = make_composed(kind, mask_zero=kind == "gru")
    path = export_litert(model, tmp_path / "model.tflite", text_length=6)
    check_phone(model, path, text_length=6)
    for num_cells, length in (6, 0), (6, 7), (5, 5):
        phone = make_phone(path)  # an error leaves an interpreter in an unknown state
        with pytest.raises(RuntimeError, match=r"index out of bounds|failed to"):
            phone.read_text(cells=np.full((1, num_cells), 5, np.int32), length=np.int32([length]))


def test_phones_read_texts_by_several_tables(tmp_path):
    model = make_composed("gru", num_tables=2)
    phone = check_phone(model, export_litert(model, tmp_path / "model.tflite"))
    names = {"read_text", "row_half_step", "row_half_step_1", "further_cells"}
    assert set(phone.interpreter.get_signature_list()) == names


def test_a_quantized_functional_model(tmp_path):
    model = make_composed("gru")
    for weight in model.trainable_weights:  # as large as trained ones
        weight.assign(0.3 * np.array(weight))
    path = export_litert(model, tmp_path / "model.tflite", quantize="int8")
    check_phone(model, path, tolerance=0.1)


def test_attention_needs_a_fixed_length(tmp_path):
    with pytest.raises(RuntimeError, match=r"text_length=None.*Give `text_length`"):
        export_litert(make_composed("attention"), tmp_path / "model.tflite")
    model = LightRNNModel(V, 4, 4)
    model.build((None, None))
    with pytest.raises(ValueError, match=r"any length.*text_length=3"):
        export_litert(model, tmp_path / "model.tflite", text_length=3)
    with pytest.raises(ValueError, match="`text_length`"):
        export_litert(make_composed("gru"), tmp_path / "model.tflite", text_length=0)
    assert list(tmp_path.iterdir()) == []
