from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracle import STEPS

from keras_lightrnn.recurrence.fused import ProductSums, multiply_table, run_recurrence
from keras_lightrnn.recurrence.kinds import get_recurrence

FUNCTIONS = {
    name: functools.partial(run_recurrence, get_recurrence(name)) for name in ("lstm", "gru", "rnn")
}
LAYERS = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU, "rnn": keras.layers.SimpleRNN}
# L, B, D, H: odd ones, and the least.
SHAPES = [(7, 3, 5, 6), (1, 1, 2, 3), (4, 5, 1, 1)]
every_cell = pytest.mark.parametrize("name", list(FUNCTIONS))
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


class Problem:
    """Weights, inputs and states of a recurrence, and a loss that every output enters."""

    def __init__(self, rng, name, shape, masked=False):
        length, batch_size, size, units = shape
        self.name, self.shape, self.num_states = name, shape, STEPS[name][1]

        def draw(*shape):
            return rng.normal(size=shape).astype("float32")

        num_gates = {"lstm": 4, "gru": 3, "rnn": 1}[name]
        biases = (2, num_gates * units) if name == "gru" else (num_gates * units,)
        self.weights = [
            0.5 * draw(size, num_gates * units),
            0.5 * draw(units, num_gates * units),
            draw(*biases),
        ]
        self.x = draw(batch_size, length, size)
        self.states = [draw(batch_size, units) for _ in range(self.num_states)]
        self.mask = None
        if masked:
            self.mask = rng.random((batch_size, length)) < 0.6
            self.mask[:, 0] = True  # Keras has an output of its own before the first word
        self.upstream = [draw(batch_size, length, units)]
        self.upstream += [draw(batch_size, units) for _ in range(self.num_states)]

    def arguments(self):
        return [self.x, *self.weights, *self.states]

    def run(self, x, kernel, recurrent_kernel, bias, *states):
        """Return outputs `(B, L, H)` and last states of the package's recurrence."""
        weights = [kernel, recurrent_kernel, bias]
        hidden, last = FUNCTIONS[self.name](x, weights, states, self.mask)
        return [hidden, *last]

    def run_keras(self, x, kernel, recurrent_kernel, bias, *states):
        layer = LAYERS[self.name](self.shape[-1], return_sequences=True, return_state=True)
        layer.build(x.shape)
        mask = None if self.mask is None else tf.constant(self.mask)
        with keras.StatelessScope(
            list(zip(layer.weights, (kernel, recurrent_kernel, bias), strict=True))
        ):
            return layer(x, initial_state=list(states), mask=mask)

    def run_oracle(self, x, kernel, recurrent_kernel, bias, *states):
        step, _ = STEPS[self.name]
        outputs, last = [], []
        for b in range(len(x)):
            state = [s[b] for s in states]
            outputs.append([])
            for t in range(x.shape[1]):
                if self.mask is None or self.mask[b, t]:
                    state = step([kernel, recurrent_kernel, bias], x[b, t], state)
                outputs[-1].append(state[0])
            last.append(state)
        return [np.array(outputs), *(np.array(s) for s in zip(*last, strict=True))]

    def differentiate(self, run):
        """Return the outputs and all gradients of the loss."""
        arguments = [tf.constant(a) for a in self.arguments()]
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            outputs = run(*arguments)
            loss = tf.add_n(
                [tf.reduce_sum(o * u) for o, u in zip(outputs, self.upstream, strict=True)]
            )
        return [*outputs, *tape.gradient(loss, arguments)]


@every_cell
@every_shape
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("jit_compile", [False, True], ids=["function", "xla"])
def test_equals_keras_in_values_and_all_gradients(rng, name, shape, masked, jit_compile):
    problem = Problem(rng, name, shape, masked)
    expected = problem.differentiate(problem.run_keras)

    @tf.function(jit_compile=jit_compile, autograph=False)
    def received():
        return problem.differentiate(problem.run)

    for value, exact in zip(received(), expected, strict=True):
        assert np.asarray(value) == pytest.approx(np.asarray(exact), rel=1e-5, abs=1e-5)


@every_cell
@pytest.mark.parametrize("masked", [False, True])
def test_equals_the_oracle_and_its_differences(rng, name, masked):
    problem = Problem(rng, name, (5, 2, 3, 4), masked)
    num_outputs = 1 + problem.num_states
    received = [np.asarray(value) for value in problem.differentiate(problem.run)]
    arguments = [a.astype("float64") for a in problem.arguments()]
    for value, exact in zip(received, problem.run_oracle(*arguments), strict=False):
        assert value == pytest.approx(exact, abs=1e-5)

    def compute_loss(moved):
        outputs = problem.run_oracle(*moved)
        return sum((o * u).sum() for o, u in zip(outputs, problem.upstream, strict=True))

    for place, gradient in enumerate(received[num_outputs:]):
        for _ in range(4):  # along random directions, by central differences in float64
            direction = rng.normal(size=gradient.shape)
            losses = []
            for sign in (1, -1):
                moved = list(arguments)
                moved[place] = moved[place] + sign * 1e-5 * direction
                losses.append(compute_loss(moved))
            difference = (losses[0] - losses[1]) / 2e-5
            assert (gradient * direction).sum() == pytest.approx(difference, rel=1e-4, abs=1e-4)


@every_cell
def test_a_step_of_known_products_is_a_step(rng, name):
    problem = Problem(rng, name, (1, 3, 4, 5))
    kernel, recurrent_kernel, bias = problem.weights
    bias, recurrent_bias = bias if name == "gru" else (bias, 0)
    x = problem.x[:, 0] @ kernel + bias
    r = problem.states[0] @ recurrent_kernel + recurrent_bias
    _, *expected = problem.run(*problem.arguments())
    for received, state in zip(
        get_recurrence(name).run_step(keras.ops, x, r, problem.states), expected, strict=True
    ):
        assert np.asarray(received) == pytest.approx(np.asarray(state), rel=1e-5, abs=1e-6)


@every_cell
@pytest.mark.parametrize(("num_vectors", "num_added"), [(1, 1), (3, 2), (40, 1), (40, 3)])
def test_vectors_of_a_table_are_the_sequence_that_indices_make_of_them(
    rng, name, num_vectors, num_added
):
    problem = Problem(rng, name, (6, 3, 4, 5))
    function = FUNCTIONS[name]
    table = tf.constant(rng.normal(size=(num_vectors, 4)).astype("float32"))
    indices = rng.integers(num_vectors, size=(3, 6, num_added)).astype("int32")
    results = []
    for is_table in (False, True):
        with tf.GradientTape() as tape:
            watched = [table, *(tf.constant(w) for w in problem.weights)]
            tape.watch(watched)
            if is_table:
                x = ProductSums(multiply_table(table, watched[1:], num_added), indices)
            else:
                x = tf.reduce_sum(tf.gather(table, indices), axis=2)
            hidden, _ = function(x, watched[1:], problem.states)
            loss = tf.reduce_sum(hidden * problem.upstream[0])
        gradients = tape.gradient(loss, watched)
        results.append([np.asarray(v) for v in (hidden, *map(tf.convert_to_tensor, gradients))])
    for received, expected in zip(*results, strict=True):
        assert received == pytest.approx(expected, rel=1e-5, abs=1e-5)


@every_cell
def test_what_is_added_is_a_part_of_the_inputs(rng, name):
    """With the added vectors beside the inputs and one kernel above the other it is the same."""
    problem = Problem(rng, name, (6, 3, 4, 5))
    function = FUNCTIONS[name]
    table, vectors, kernel = (
        tf.constant(rng.normal(size=shape).astype("float32"))
        for shape in ((7, 4), (3, 6, 2), (2, problem.weights[0].shape[1]))
    )
    indices = rng.integers(7, size=(3, 6, 1)).astype("int32")
    results = []
    for is_added in (False, True):
        with tf.GradientTape() as tape:
            watched = [table, vectors, kernel, *(tf.constant(w) for w in problem.weights)]
            tape.watch(watched)
            weights = watched[3:]
            if is_added:
                x = ProductSums(multiply_table(table, weights, 1), indices, vectors, kernel)
            else:
                x = tf.concat([tf.gather(table, indices[..., 0]), vectors], axis=2)
                weights[0] = tf.concat([weights[0], kernel], axis=0)
            hidden, _ = function(x, weights, problem.states)
            loss = tf.reduce_sum(hidden * problem.upstream[0])
        gradients = tape.gradient(loss, watched)
        results.append([np.asarray(v) for v in (hidden, *map(tf.convert_to_tensor, gradients))])
    for received, expected in zip(*results, strict=True):
        assert received == pytest.approx(expected, rel=1e-5, abs=1e-5)


@every_cell
def test_masked_steps_carry_the_state_and_need_no_input(rng, name):
    problem = Problem(rng, name, (6, 2, 3, 4))
    problem.mask = np.ones((2, 6), bool)
    problem.mask[:, 2:4] = False
    expected = problem.differentiate(problem.run)
    hidden = np.asarray(expected[0])
    assert np.array_equal(hidden[:, 3], hidden[:, 1])
    problem.x[:, 2:4] = 99.0
    gradient = np.asarray(problem.differentiate(problem.run)[1 + problem.num_states])
    assert (gradient[:, 2:4] == 0).all()
    assert np.asarray(problem.differentiate(problem.run)[0]) == pytest.approx(hidden)


@every_cell
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision_products_have_float32_sums(rng, name, dtype):
    problem = Problem(rng, name, (9, 2, 8, 64))
    # Exact in the low type, so that only states and sums could lose anything.
    for values in (problem.x, *problem.weights):
        values[...] = np.round(values * 8) / 64
    exact = problem.differentiate(problem.run)

    def run(x, kernel, recurrent_kernel, *others):
        kernel, recurrent_kernel = tf.cast(kernel, dtype), tf.cast(recurrent_kernel, dtype)
        return problem.run(x, kernel, recurrent_kernel, *others)

    received = problem.differentiate(run)
    assert all(value.dtype == tf.float32 for value in received)
    # The hidden state is rounded before each product, nothing after it.
    rounding = {"bfloat16": 2**-8, "float16": 2**-11}[dtype]
    for value, other in zip(received, exact, strict=True):
        value, other = np.asarray(value), np.asarray(other)
        assert np.abs(value - other).max() <= 8 * rounding * np.abs(other).max()
