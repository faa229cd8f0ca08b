from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lightrnn import Allocation, LightRNNModel, WordTable
from keras_lightrnn.layers import TwoComponentEmbedding, TwoComponentSoftmax
from keras_lightrnn.losses import NegativeLogLikelihood
from keras_lightrnn.recurrence import stack as fused_recurrence

V, B, T = 11, 3, 5


def make_pair(recurrence="lstm", **kwargs):
    """Two models of equal weights, on the two paths."""
    models = []
    for path in ("keras", "fused"):
        table = WordTable(Allocation.random(V, 4, 3, seed=1))
        model = LightRNNModel(
            table,
            4,
            6,
            recurrence=recurrence,
            recurrence_path=path,
            **{"row_reading": "recurrence", **kwargs},
        )
        model.build((B, T + 1))
        models.append(model)
    if models[0].word_dim:  # they start at zero
        kernel = models[0].softmax.word_kernel
        kernel.assign(np.random.default_rng(2).normal(size=kernel.shape))
    models[1].set_weights(models[0].get_weights())
    return models


def make_windows(rng, num=B):
    return rng.integers(V, size=(num, T + 1)).astype("int32")


def fit(model, windows, batch_size=B, jit_compile=False):
    is_oracle = model.recurrence_path == "keras"
    jit_compile &= not is_oracle
    model.compile(keras.optimizers.SGD(1.0), run_eagerly=is_oracle, jit_compile=jit_compile)
    model.loss_seen = model.fit(windows, batch_size=batch_size, verbose=0).history["loss"]


def assert_same_step(models):
    assert models[0].loss_seen == pytest.approx(models[1].loss_seen, rel=1e-5)
    # With a rate of 1 the weights have moved by their gradients.
    for first, second in zip(*(m.trainable_variables for m in models), strict=True):
        assert np.asarray(second) == pytest.approx(np.asarray(first), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "jit_compile"),
    [
        ({"num_layers": 2, "word_bias": "trainable"}, False),
        ({"recurrence": "gru", "mask_zero": True}, False),
        ({"mask_zero": True}, True),
        ({"recurrence": "rnn", "mask_zero": True}, False),
        ({"recurrence": "gru", "word_bias": "counts"}, True),
        ({"word_dim": 2, "num_word_vectors": 7}, False),
        ({"word_dim": 2, "word_bias": "trainable"}, True),
    ],
    ids=str,
)
def test_a_step_equals_that_of_the_keras_layers(rng, arguments, jit_compile):
    models = make_pair(**arguments)
    windows = make_windows(rng)
    if "mask_zero" in arguments:
        windows[:, 0] = 1
        windows[0, 3:] = 0
    for model in models:
        if model.word_bias is not None:
            model.assign_word_counts(np.arange(1, V + 1))
        fit(model, windows, jit_compile=jit_compile)
    assert_same_step(models)


@pytest.mark.parametrize(
    ("num_cores", "batch_size", "jit_compile", "num_parts"),
    [
        *[(2, 17, False, 2), (8, 17, False, 2), (1, 17, False, 1)],
        *[(2, 15, False, 1), (2, 17, True, 1), (2, None, False, 2)],
    ],
)
def test_a_batch_is_run_in_parts_where_cores_would_be_idle(
    monkeypatch, num_cores, batch_size, jit_compile, num_parts
):
    monkeypatch.setattr(fused_recurrence, "count_cores", lambda: num_cores)
    assert fused_recurrence.choose_num_parts(batch_size, jit_compile) == num_parts


def test_a_step_in_parts_equals_that_of_the_keras_layers(rng, monkeypatch):
    monkeypatch.setattr(fused_recurrence, "count_cores", lambda: 2)
    run, chosen = fused_recurrence.RecurrentStack.run_fused, []
    monkeypatch.setattr(
        fused_recurrence.RecurrentStack,
        "run_fused",
        lambda *args, **given: chosen.append(given["num_parts"]) or run(*args, **given),
    )
    models = make_pair(num_layers=2)
    windows = make_windows(rng, 2 * 17)
    start = models[1].get_weights()
    fit(models[0], windows, batch_size=17)
    for jit_compile, num_parts in ((False, 2), (True, 1)):
        models[1].set_weights(start)
        chosen.clear()
        fit(models[1], windows, batch_size=17, jit_compile=jit_compile)
        assert set(chosen) == {num_parts}
        assert_same_step(models)


@pytest.mark.parametrize("recurrence", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("is_table", [False, True], ids=["sequence", "table"])
def test_parts_of_a_batch_are_together_the_whole(rng, recurrence, is_table):
    stack = fused_recurrence.RecurrentStack(5, num_layers=2, recurrence=recurrence)
    stack.build((None, None, 4))
    num_states = stack.kind.num_states

    def draw(*shape):
        return rng.normal(size=shape).astype("float32")

    def draw_inputs(batch_size):
        """States, what is read, mask, indices into a table, and gradients of the outputs."""
        states = [draw(batch_size, 5) for _ in range(2 * num_states)]
        read = [draw(batch_size, 6, 4)]
        if is_table:
            read = [draw(7, 4), draw(batch_size, 6, 2), draw(2, 4)]
        mask = rng.random((batch_size, 6)) < 0.6
        indices = rng.integers(7, size=(batch_size, 6, 2)).astype("int32")
        upstream = [draw(batch_size, 6, 5), *(draw(batch_size, 5) for _ in states)]
        return [states, read, mask, indices, upstream]

    def get_spec(x):  # the batch size is not known in a trace
        return tf.TensorSpec([None if x.shape[0] == 3 else x.shape[0], *x.shape[1:]], x.dtype)

    def make_function(num_parts):
        specs = tf.nest.map_structure(get_spec, draw_inputs(3))

        @tf.function(input_signature=specs, autograph=False)
        def differentiate(flat_states, read, mask, indices, upstream):
            states = [list(flat_states[:num_states]), list(flat_states[num_states:])]
            x, *added = read
            options = {"indices": indices, "added": added} if is_table else {}
            sources = [*flat_states, *read]
            with tf.GradientTape() as tape:
                tape.watch(sources)
                hidden, last = stack.run_fused(x, states, mask=mask, num_parts=num_parts, **options)
                outputs = [hidden, *last[0], *last[1]]
                loss = sum(tf.reduce_sum(x * y) for x, y in zip(outputs, upstream, strict=True))
            gradients = tape.gradient(loss, [*sources, *stack.trainable_variables])
            return [*outputs, *map(tf.convert_to_tensor, gradients)]

        return differentiate

    whole, parts = make_function(1), make_function(2)
    for batch_size in (5, 1):
        inputs = draw_inputs(batch_size)
        for received, expected in zip(parts(*inputs), whole(*inputs), strict=True):
            assert np.asarray(received) == pytest.approx(np.asarray(expected), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(
    "arguments",
    [
        {"mask_zero": True, "dropout": 0.5, "word_bias": "counts", "num_layers": 2},
        {"recurrence": "gru", "stateful": True},
    ],
    ids=str,
)
def test_an_evaluation_equals_that_of_the_keras_layers(rng, arguments):
    models = make_pair(**arguments)
    windows = make_windows(rng, num=3 * B)
    windows[0, 3:] = 0
    results = []
    for model in models:
        if model.word_bias is not None:
            model.assign_word_counts(np.arange(1, V + 1))
        model.compile()
        results.append(model.evaluate(windows, batch_size=B, verbose=0, return_dict=True))
    for name, value in results[0].items():
        assert results[1][name] == pytest.approx(value, rel=1e-5)


def test_only_fit_and_evaluate_take_this_path(rng):
    _, model = make_pair()
    windows = make_windows(rng)
    model.compile()

    def refuse(*args, **kwargs):
        raise AssertionError("a Keras layer ran")

    model.recurrent_layers[0].call = refuse
    model.fit(windows, verbose=0)
    model.evaluate(windows, verbose=0)
    for run in (model, model.score, lambda words: model.predict(words, verbose=0)):
        with pytest.raises(AssertionError, match="a Keras layer ran"):
            run(windows)


def test_stateful_training_carries_the_same_state(rng):
    models = make_pair(stateful=True)
    windows = make_windows(rng, num=3 * B)
    losses = []
    for model in models:
        model.compile(keras.optimizers.SGD(1.0))
        history = model.fit(windows, batch_size=B, epochs=2, shuffle=False, verbose=0)
        losses.append(history.history["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    states = [np.array(model.carried_state.states) for model in models]
    assert states[1] == pytest.approx(states[0], abs=1e-4)
    assert np.abs(states[0]).max() > 1e-3


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(rng, policy):
    models = make_pair(dtype=policy, num_layers=2, word_bias="trainable", word_dim=2)
    windows = make_windows(rng)
    for model in models:
        model.assign_word_counts(np.arange(1, V + 1))
        log_probs = model(windows, training=True)
        assert log_probs.dtype == tf.float32
    exact = models[1](windows)
    assert np.asarray(log_probs) == pytest.approx(np.asarray(exact), abs=0.05)
    models[1].compile(keras.optimizers.SGD(0.1), run_eagerly=True)  # a step needs no trace
    assert np.isfinite(models[1].fit(windows, verbose=0).history["loss"]).all()


def test_dropout_reaches_every_input_and_the_output(rng):
    _, model = make_pair(dropout=0.5, num_layers=2)
    windows = make_windows(rng)
    seen = {}
    for index, layer in enumerate(model.dropout_layers):
        call = layer.call

        def spy(x, training=False, call=call, index=index):
            seen[index] = np.asarray(call(x, training=training))
            return tf.constant(seen[index])

        layer.call = spy
    model(windows, training=True)
    assert [seen[i].shape[-1] for i in range(3)] == [4, 6, 6]
    for values in seen.values():
        assert 0.3 < (values == 0).mean() < 0.7


def test_wrong_ids_are_loud_in_a_compiled_step(rng):
    _, model = make_pair()
    windows = make_windows(rng)
    windows[1, 2] = V
    compiled = tf.function(lambda x: model(x, training=True), jit_compile=True, autograph=False)
    log_probs = np.asarray(compiled(windows))
    assert np.isnan(log_probs[1]).all()
    assert np.isfinite(log_probs[[0, 2]]).all()
    with pytest.raises(tf.errors.InvalidArgumentError):
        model(windows, training=True)


def test_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match=r"`recurrence_path`.*'auto', 'fused', 'keras'.*'cudnn'"):
        LightRNNModel(V, recurrence_path="cudnn")


def test_the_path_is_part_of_the_config():
    model = LightRNNModel(V, recurrence_path="keras")
    assert LightRNNModel.from_config(model.get_config()).recurrence_path == "keras"


def test_a_stack_loads_where_its_path_is_missing(monkeypatch, tmp_path):
    words = keras.Input((None, 4))
    stack = fused_recurrence.RecurrentStack(6, recurrence_path="fused")
    model = keras.Model(words, stack(words))
    model.save(tmp_path / "model.keras")

    def load():
        return keras.saving.load_model(tmp_path / "model.keras").layers[-1]

    assert load().recurrence_path == "fused"
    monkeypatch.setattr(fused_recurrence.keras.backend, "backend", lambda: "torch")
    loaded = load()
    assert loaded.recurrence_path == "auto"
    assert not loaded.is_fused
    for kind in (fused_recurrence.RecurrentStack, LightRNNModel):
        with pytest.raises(ValueError, match=r"`recurrence_path` must be.*'cudnn'"):
            kind.from_config({**kind(6).get_config(), "recurrence_path": "cudnn"})


@pytest.mark.parametrize("has_padding", [False, True])
def test_a_composed_model_trains_on_the_same_path(rng, monkeypatch, has_padding):
    fused_paths = []
    run_fused = fused_recurrence.RecurrentStack.run_fused

    def run(stack, *args, **kwargs):
        fused_paths.append(stack.recurrence_path)
        return run_fused(stack, *args, **kwargs)

    monkeypatch.setattr(fused_recurrence.RecurrentStack, "run_fused", run)
    windows = np.minimum(make_windows(rng) + 1, V - 1)
    if has_padding:
        windows[1, 3:] = 0
    models = []
    for path in ("keras", "auto"):
        words = keras.Input((None,), dtype="int32")
        x = TwoComponentEmbedding(V, 4, mask_zero=has_padding)(words[:, :-1])
        x = fused_recurrence.RecurrentStack(6, 2, "gru", recurrence_path=path)(x)
        softmax = TwoComponentSoftmax(V, mask_zero=has_padding)
        model = keras.Model(words, softmax(x, words[:, 1:]))
        # The steps of one of the two are traced.
        run_eagerly = path == "keras"
        model.compile(keras.optimizers.SGD(1.0), NegativeLogLikelihood(), run_eagerly=run_eagerly)
        if models:
            model.set_weights(models[0].get_weights())
        models.append(model)
    expected = models[0].predict(windows, verbose=0)
    assert models[1].predict(windows, verbose=0) == pytest.approx(expected, abs=1e-6)
    for model in models:
        model.loss_seen = model.fit(windows, windows[:, 1:], verbose=0).history["loss"]
    assert set(fused_paths) == {"auto"}
    assert_same_step(models)


def test_states_have_the_compute_dtype_on_both_paths():
    stack = fused_recurrence.RecurrentStack(6, return_state=True, dtype="mixed_float16")
    for training in (False, True):
        hidden, [states] = stack(np.ones((2, 3, 4)), training=training)
        assert [x.dtype for x in (hidden, *states)] == [tf.float16] * 3
    again, _ = stack(np.ones((2, 3, 4)), [states])
    assert np.abs(np.asarray(again) - np.asarray(hidden)).max() > 1e-3


@pytest.mark.parametrize("shape", [(2, 5), (2, 3, 6, 5), (2, 3, None)])
def test_a_stack_needs_sequences_of_vectors(shape):
    with pytest.raises(ValueError, match=r"must be \(B, L, D\), with a known D. Received"):
        fused_recurrence.RecurrentStack(4)(keras.KerasTensor(shape))


@pytest.mark.parametrize("num_states", [[2], [2, 1], [], None])
def test_a_stack_refuses_states_of_other_layers(num_states):
    stack = fused_recurrence.RecurrentStack(4, num_layers=2)
    states = [[np.zeros((2, 4))] * count for count in num_states or []]
    if num_states is None:
        states = [np.zeros((2, 4))] * 2  # those of one LSTM
    with pytest.raises(ValueError, match=r"2 list\(s\), one for each layer, of 2 state\(s\)"):
        stack(np.zeros((2, 3, 5)), states)


def test_a_stack_without_a_gradient_by_hand_stays_on_its_layers():
    stack = fused_recurrence.RecurrentStack(4, recurrence_path="keras")
    x = np.ones((2, 3, 5), "float32")
    expected = np.asarray(stack(x))
    assert np.array_equal(np.asarray(stack(x, training=True, fused=True)), expected)


def test_states_of_one_layer_may_be_given_alone(rng):
    """As `keras.layers.LSTM` takes and returns them."""
    x = rng.normal(size=(2, 3, 4)).astype("float32")
    states = [rng.normal(size=(2, 5)).astype("float32") for _ in range(2)]
    stack = fused_recurrence.RecurrentStack(5)
    np.testing.assert_array_equal(stack(x, initial_state=states), stack(x, initial_state=[states]))
    gru = fused_recurrence.RecurrentStack(5, recurrence="gru")
    np.testing.assert_array_equal(
        gru(x, initial_state=states[0]), gru(x, initial_state=[[states[0]]])
    )
