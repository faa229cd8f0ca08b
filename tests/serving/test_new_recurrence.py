"""A recurrence that is defined by one record is exported with nothing else changed."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from exportable import make_model
from keras import ops
from served import call, decode

from keras_lightrnn.recurrence import Recurrence, register_recurrence
from keras_lightrnn.serving import export_litert, export_saved_model


@keras.saving.register_keras_serializable("tests")
class MinimalGatedCell(keras.layers.Layer):
    """A forget gate and a candidate, see arXiv:1603.09420."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 2 * self.units), name="kernel")
        self.recurrent_kernel = self.add_weight(
            shape=(self.units, 2 * self.units), name="recurrent_kernel"
        )
        self.bias = self.add_weight(shape=(2 * self.units,), initializer="zeros", name="bias")
        self.built = True

    def call(self, inputs, states, training=False):
        x = ops.split(ops.matmul(inputs, self.kernel) + self.bias, 2, axis=-1)
        r = ops.split(ops.matmul(states[0], self.recurrent_kernel), 2, axis=-1)
        forget = ops.sigmoid(x[0] + r[0])
        hidden = (1 - forget) * states[0] + forget * ops.tanh(x[1] + forget * r[1])
        return hidden, [hidden]


def step(ops, x, r, states):
    forget = ops.sigmoid(x[0] + r[0])
    candidate = ops.tanh(x[1] + forget * r[1])
    hidden = (1 - forget) * states[0] + forget * candidate
    return ops.stack([forget, candidate]), [hidden], []


def make_layer(units, dtype=None, **kwargs):
    return keras.layers.RNN(MinimalGatedCell(units, dtype=dtype), dtype=dtype, **kwargs)


@pytest.fixture(scope="module", autouse=True)
def recurrence():
    register_recurrence(Recurrence("minimal_gated", make_layer, num_states=1, step=step))


@pytest.mark.parametrize("row_reading", ["recurrence", "reader"])
def test_a_new_recurrence_is_exported(vocabulary, tmp_path, row_reading):
    litert = pytest.importorskip("phone", reason="pip install ai-edge-litert")
    model = make_model("minimal_gated", row_reading=row_reading)
    served = tf.saved_model.load(export_saved_model(model, vocabulary, tmp_path))
    text = "w3 w1 w7"
    prefix = [vocabulary.end_id, *vocabulary.encode(text)[:-1]]
    words, log_probs = model.next_words(prefix, 10)
    answer = call(served, "next_words", text=[text], k=10)
    assert decode(answer["words"][0]) == [vocabulary.words[word] for word in words]
    assert answer["log_probs"][0] == pytest.approx(log_probs, abs=1e-4)
    scores = call(served, "score_ids", words=[prefix])["log_probs"]
    assert scores == pytest.approx(model.score([prefix]), abs=1e-4)
    phone = litert.Phone(export_litert(model, tmp_path / "model.tflite"))
    allocation = model.word_table.allocation
    cells, log_probs = phone.next_cells(allocation.cells[np.array(prefix)], 10)
    assert allocation.words.ravel()[cells].tolist() == words.tolist()
    assert log_probs == pytest.approx(answer["log_probs"][0], abs=1e-4)
