from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_lightrnn import LightRNNModel, WordTable
from keras_lightrnn.layers import TargetRanks, TwoComponentEmbedding, TwoComponentSoftmax
from keras_lightrnn.models import check_causal

V = 23
WINDOWS = np.random.default_rng(0).integers(1, V, size=(4, 7)).astype("int32")


def make_model(network, shift=0, batch_size=None, **kwargs):
    table = WordTable(V)
    words = keras.Input((None,), batch_size, dtype="int32")
    half_steps = network(TwoComponentEmbedding(table, 6, "interleave", **kwargs)(words))
    if shift:  # the column half-step of a word predicts that word itself
        half_steps = keras.ops.roll(half_steps, -shift, axis=1)
    return keras.Model(
        words, TwoComponentSoftmax(table, name="softmax", row_reader=None)(half_steps, words[:, 1:])
    )


def make_rnn(**kwargs):
    return keras.layers.SimpleRNN(6, return_sequences=True, **kwargs)


class Attention(keras.layers.Layer):
    def __init__(self, is_causal, **kwargs):
        super().__init__(**kwargs)
        self.attention = keras.layers.MultiHeadAttention(2, 3)
        self.is_causal = is_causal

    def call(self, x):
        return x + self.attention(x, x, use_causal_mask=self.is_causal)


class Subclassed(keras.Model):
    def __init__(self, network):
        super().__init__()
        self.embedding = TwoComponentEmbedding(V, 6, combine="interleave")
        self.network = network
        self.softmax = TwoComponentSoftmax(self.embedding.word_table, row_reader=None)

    def call(self, words):
        return self.softmax(self.network(self.embedding(words)), words[:, 1:])


CAUSAL = {
    "rnn": lambda: make_model(make_rnn()),
    "masked": lambda: make_model(make_rnn(), mask_zero=True),
    "attention": lambda: make_model(Attention(True)),
    "convolution": lambda: make_model(keras.layers.Conv1D(6, 3, padding="causal")),
    "dropout": lambda: make_model(make_rnn(dropout=0.5)),
    "subclassed": lambda: Subclassed(make_rnn()),
    "whole": lambda: LightRNNModel(V, 6, 6, dropout=0.5),
    "whole, stateful": lambda: LightRNNModel(V, 6, 6, stateful=True),
}


@pytest.mark.parametrize("make", CAUSAL.values(), ids=list(CAUSAL))
def test_causal_models_pass(make):
    model = make()
    if isinstance(model, LightRNNModel):
        model.build(WINDOWS.shape)
    check_causal(model, WINDOWS)


def make_model_of_outputs(network, list_outputs):
    embedding = TwoComponentEmbedding(V, 6)
    softmax = TwoComponentSoftmax(embedding.word_table, name="softmax")
    words = keras.Input((None,), dtype="int32")
    states, targets = network(embedding(words[:, :-1])), words[:, 1:]
    return keras.Model(words, list_outputs(softmax, states, targets))


OUTPUTS = {
    "first": lambda softmax, *inputs: [softmax(*inputs), TargetRanks(softmax)(*inputs)],
    "last": lambda softmax, *inputs: [TargetRanks(softmax)(*inputs), softmax(*inputs)],
    "by name": lambda softmax, states, targets: {
        "states": states,
        "words": softmax(states, targets),
        "ranks": TargetRanks(softmax)(states, targets),
    },
}


@pytest.mark.parametrize("list_outputs", OUTPUTS.values(), ids=list(OUTPUTS))
def test_other_outputs_than_log_probabilities_are_left_out(list_outputs):
    check_causal(make_model_of_outputs(make_rnn(), list_outputs), WINDOWS)
    culprit = keras.layers.Conv1D(6, 5, padding="same", name="culprit")
    with pytest.raises(ValueError, match=r"word \d that changes with word \d, in layer 'culprit'"):
        check_causal(make_model_of_outputs(culprit, list_outputs), WINDOWS)


def test_other_outputs_than_those_of_a_light_rnn_model_are_left_out():
    words = keras.Input((None,), dtype="int32")
    log_probs = LightRNNModel(V, 6, 6)(words)
    check_causal(keras.Model(words, [log_probs, keras.ops.exp(log_probs)]), WINDOWS)


class TwoOutputs(Subclassed):
    def call(self, words):
        log_probs = super().call(words)
        return log_probs, -log_probs


def test_outputs_among_which_it_cannot_choose_are_refused():
    twice = make_model_of_outputs(make_rnn(), lambda softmax, *x: [softmax(*x), softmax(*x)])
    none = make_model_of_outputs(make_rnn(), lambda softmax, *x: [-softmax(*x), *x])
    for model, number in ((twice, 2), (none, 3), (TwoOutputs(make_rnn()), 2)):
        with pytest.raises(ValueError, match=f"must output one log-prob.*Received: {number} outp"):
            check_causal(model, WINDOWS)


def test_a_vocabulary_of_one_word():
    model = LightRNNModel(1, 2, 2)
    model.build((None, None))
    assert check_causal(model, np.zeros((2, 4), int)) is None


LOOKS_AHEAD = {
    "bidirectional": lambda **kw: keras.layers.Bidirectional(
        keras.layers.GRU(3, return_sequences=True), **kw
    ),
    "backwards": lambda **kw: make_rnn(go_backwards=True, **kw),
    "attention": lambda **kw: Attention(False, **kw),
    "convolution": lambda **kw: keras.layers.Conv1D(6, 7, padding="same", **kw),
}


@pytest.mark.parametrize("make", LOOKS_AHEAD.values(), ids=list(LOOKS_AHEAD))
def test_names_the_layer_that_looks_ahead(make):
    with pytest.raises(ValueError, match=r"word \d that changes with word \d, in layer 'culprit'"):
        check_causal(make_model(make(name="culprit")), WINDOWS)
    with pytest.raises(ValueError, match=r"word \d that changes with word \d\. Use layers"):
        check_causal(Subclassed(make()), WINDOWS)


def test_a_state_that_has_read_its_target_is_found():
    narrow = keras.layers.Conv1D(6, 3, padding="same")  # reads the next half-step
    for model in (make_model(make_rnn(), shift=1), make_model(narrow)):
        with pytest.raises(ValueError, match=r"sum to 1.*depends on that word"):
            check_causal(model, WINDOWS)


def test_a_state_that_has_read_its_target_is_found_where_the_last_word_is_cut_off():
    """In the last place such a state has nothing to read."""
    narrow = keras.layers.Conv1D(6, 3, padding="same")  # reads the next word
    model = make_model_of_outputs(narrow, lambda softmax, *inputs: softmax(*inputs))
    with pytest.raises(ValueError, match=r"sum to 1.*depends on that word"):
        check_causal(model, WINDOWS)


def test_leaves_the_model_as_it_was():
    model = make_model(make_rnn(stateful=True, dropout=0.1), batch_size=len(WINDOWS))
    model(WINDOWS)
    [state] = model.layers[2].states
    variables = [*model.variables, state]
    before = [keras.ops.convert_to_numpy(v) for v in variables]
    assert before[-1].any()
    check_causal(model, WINDOWS)
    for old, variable in zip(before, variables, strict=True):
        assert np.array_equal(old, variable)


def test_refuses_what_it_cannot_check():
    model = make_model(make_rnn())
    with pytest.raises(ValueError, match="three words or more"):
        check_causal(model, WINDOWS[:, :2])
    with pytest.raises(ValueError, match=r"must lie in \[0, 23\)"):
        check_causal(model, WINDOWS + V)
    with pytest.raises(ValueError, match="no `WordTable`"):
        check_causal(keras.Sequential([keras.layers.Dense(1)]), WINDOWS)
    embedding = TwoComponentEmbedding(V, 6, combine="interleave")
    with pytest.raises(ValueError, match=r"one log-probability.*1 output of shape \(4, 12, 6\)"):
        check_causal(keras.Sequential([embedding]), WINDOWS)
