"""A new recurrence is one record: nothing else in the package knows its name."""

from __future__ import annotations

import dataclasses
import functools
import importlib

import keras
import numpy as np
import pytest
from keras import ops

from keras_lightrnn import LightRNNModel
from keras_lightrnn.recurrence import Recurrence, get_recurrence, kinds, register_recurrence

V = 23


class MinimalGatedCell(keras.layers.Layer):
    """`h' = (1 - f) h + f tanh(x_h + f r_h)` with `f = sigmoid(x_f + r_f)`."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = self.output_size = units

    def build(self, input_shape):
        size = 2 * self.units
        self.kernel = self.add_weight(name="kernel", shape=(input_shape[-1], size))
        self.recurrent_kernel = self.add_weight(name="recurrent_kernel", shape=(self.units, size))
        self.bias = self.add_weight(name="bias", shape=(size,), initializer="zeros")
        self.built = True

    def call(self, inputs, states, training=None):
        xf, xh = ops.split(ops.matmul(inputs, self.kernel) + self.bias, 2, axis=-1)
        rf, rh = ops.split(ops.matmul(states[0], self.recurrent_kernel), 2, axis=-1)
        forget = ops.sigmoid(xf + rf)
        hidden = (1 - forget) * states[0] + forget * ops.tanh(xh + forget * rh)
        return hidden, [hidden]


def make_layer(units, name=None, dtype=None, **kwargs):
    cell = MinimalGatedCell(units, dtype=dtype)
    return keras.layers.RNN(cell, name=name, dtype=dtype, **kwargs)


def step(ops, x, r, states):
    forget = ops.sigmoid(x[0] + r[0])
    candidate = ops.tanh(x[1] + forget * r[1])
    hidden = (1 - forget) * states[0] + forget * candidate
    return ops.stack([forget, candidate]), [hidden], []


def step_gradient(gates, states, residuals, gradients):
    forget, candidate = gates
    (hidden,), (r,), (d_hidden,) = states, residuals, gradients
    d_candidate = d_hidden * forget * (1 - candidate * candidate)
    d_forget = (d_hidden * (candidate - hidden) + d_candidate * r) * forget * (1 - forget)
    dx = ops.concatenate([d_forget, d_candidate], axis=1)
    dr = ops.concatenate([d_forget, d_candidate * forget], axis=1)
    return dx, dr, [d_hidden * (1 - forget)]


def step_with_residual(ops, x, r, states):
    gates, new_states, _ = step(ops, x, r, states)
    return gates, new_states, [r[1]]


RECORDS = [
    Recurrence("minimal", make_layer, num_states=1, step=step),
    Recurrence("minimal", make_layer, 1, step_with_residual, step_gradient, num_residuals=1),
]


@pytest.fixture
def record(request, monkeypatch):
    monkeypatch.setitem(kinds._RECURRENCES, "minimal", request.param)
    return request.param


# What reads rows does not see whether the recurrence has a gradient.
@pytest.mark.parametrize(
    ("record", "row_reading"),
    [(RECORDS[0], "reader"), (RECORDS[1], "recurrence")],
    ids=["keras-reader", "fused-recurrence"],
    indirect=["record"],
)
def test_trains_searches_and_generates(record, row_reading):
    keras.utils.set_random_seed(0)
    model = LightRNNModel(
        V, 5, 6, num_layers=2, recurrence="minimal", row_reading=row_reading, mask_zero=False
    )
    assert model.recurrent_stack.is_fused == (record.step_gradient is not None)
    model.compile(keras.optimizers.Adam(0.05), run_eagerly=True)  # a few steps need no trace
    windows = np.tile(np.arange(2, 8), (32, 1)) + np.arange(32)[:, None] % 10
    losses = model.fit(windows, epochs=6, verbose=0).history["loss"]
    assert losses[-1] < 0.9 * losses[0]

    prefix = windows[0, :4]
    log_probs = model.word_log_probs(prefix)
    words, found = model.next_words(prefix, k=3)
    assert words.tolist() == np.argsort(-log_probs, kind="stable")[:3].tolist()
    assert found == pytest.approx(log_probs[words], abs=1e-5)
    assert model.score(windows)[0, 3] == pytest.approx(log_probs[windows[0, 4]], abs=1e-5)
    assert model.generate(prefix, 3, temperature=0)[0] == words[0]


def test_both_records_train_alike(monkeypatch):
    windows = np.random.default_rng(0).integers(V, size=(16, 6))
    weights = []
    for record in RECORDS:
        monkeypatch.setitem(kinds._RECURRENCES, "minimal", record)
        keras.utils.set_random_seed(0)
        model = LightRNNModel(V, 5, 6, recurrence="minimal", row_reading="reader")
        run_eagerly = record.step_gradient is None  # one of the two is traced
        model.compile(keras.optimizers.SGD(1.0), run_eagerly=run_eagerly)
        model.fit(windows, epochs=2, shuffle=False, verbose=0)
        weights.append([np.asarray(w) for w in model.trainable_weights])
    for first, second in zip(*weights, strict=True):
        assert second == pytest.approx(first, rel=1e-4, abs=1e-6)


def test_the_name_must_be_new():
    with pytest.raises(ValueError, match=r"must be new. Received: name='lstm'"):
        register_recurrence(Recurrence("lstm", make_layer, num_states=1, step=step))
    register_recurrence(get_recurrence("lstm"))  # the same one is no error
    with pytest.raises(ValueError, match=r"one of \['gru', 'lstm', .*recurrence='elman'"):
        get_recurrence("elman")
    with pytest.raises(ValueError, match="recurrence='elman'"):
        LightRNNModel(V, 4, 4, recurrence="elman")


DEFINITION = """
from keras_lightrnn.recurrence import Recurrence, register_recurrence

def {name}(ops, x, r, states):
    return x, [{factor} * ops.tanh(x[0] + r[0])], []

def make_layer(units, **kwargs):
    raise NotImplementedError

register_recurrence(Recurrence("defined", make_layer, 1, {name}))
"""


def run_notebook_cell(name="step", factor=1, module="__main__"):
    exec(DEFINITION.format(name=name, factor=factor), {"__name__": module})


def test_a_cell_that_is_defined_again_takes_the_place_of_the_old_one(monkeypatch):
    monkeypatch.setattr(kinds, "_RECURRENCES", dict(kinds._RECURRENCES))
    for factor in (1, 1, 2):  # run twice, then changed
        run_notebook_cell(factor=factor)
        one = np.float32([[1]])
        [hidden] = get_recurrence("defined").run_step(ops, one, one, [one])
        assert float(hidden[0, 0]) == pytest.approx(factor * np.tanh(2))
    known = get_recurrence("defined")
    for other in ({"name": "other_step"}, {"module": "other"}):
        with pytest.raises(ValueError, match=r"must be new\. Received: name='defined'"):
            run_notebook_cell(**other)
    with pytest.raises(ValueError, match=r"must be new\. Received: name='defined'"):
        register_recurrence(dataclasses.replace(known, step=functools.partial(known.step)))
    assert get_recurrence("defined") is known


@pytest.mark.parametrize(
    "other",
    [
        {"make_layer": keras.layers.GRU},
        {"step": lambda ops, x, r, states: (x, [x], [])},
        {"step": lambda ops, x, r, states: (r, [r], [])},
    ],
    ids=["layer", "lambda", "other lambda"],
)
def test_another_cell_does_not_take_the_place_of_one(monkeypatch, other):
    monkeypatch.setattr(kinds, "_RECURRENCES", dict(kinds._RECURRENCES))
    step = {"step": lambda ops, x, r, states: (x, [x], [])} if "step" in other else {}
    known = dataclasses.replace(get_recurrence("rnn"), name="known", **step)
    register_recurrence(known)
    register_recurrence(known)
    with pytest.raises(ValueError, match=r"must be new\. Received: name='known'"):
        register_recurrence(dataclasses.replace(known, **other))
    assert get_recurrence("known") is known


def test_a_reloaded_module_registers_its_cell_again(monkeypatch, tmp_path):
    monkeypatch.setattr(kinds, "_RECURRENCES", dict(kinds._RECURRENCES))
    (tmp_path / "module_of_a_cell.py").write_text(DEFINITION.format(name="step", factor=1))
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("module_of_a_cell")
    old = module.step
    importlib.reload(module)
    assert get_recurrence("defined").step is module.step is not old


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn"])
def test_the_cells_of_the_package_cannot_be_replaced(name):
    known = get_recurrence(name)
    with pytest.raises(ValueError, match=f"must be new. Received: name='{name}'"):
        register_recurrence(dataclasses.replace(known, step_gradient=None))
    assert get_recurrence(name) is known


def test_fused_needs_a_gradient(monkeypatch):
    monkeypatch.setitem(kinds._RECURRENCES, "minimal", RECORDS[0])
    with pytest.raises(ValueError, match="has none"):
        LightRNNModel(V, 4, 4, recurrence="minimal", recurrence_path="fused")
