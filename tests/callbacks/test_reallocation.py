from __future__ import annotations

import math
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lightrnn import Allocation, LightRNNModel, WordTable
from keras_lightrnn.assignment import GreedySolver
from keras_lightrnn.callbacks import ReallocationCallback
from keras_lightrnn.callbacks.carried_vectors import carry_vectors
from keras_lightrnn.layers import TwoComponentEmbedding, TwoComponentSoftmax
from keras_lightrnn.losses import NegativeLogLikelihood
from keras_lightrnn.models import ObservedTraining
from keras_lightrnn.reallocation import LikelihoodObjective, SimilarityObjective

VOCABULARY_SIZE = 20


def make_windows(num_windows=64):
    rng = np.random.default_rng(0)
    windows = rng.integers(VOCABULARY_SIZE, size=(num_windows, 7))
    windows[:, 1::2] = (windows[:, 0:-1:2] * 3 + 1) % VOCABULARY_SIZE
    return windows


def make_model(optimizer=None, run_eagerly=False, **kwargs):
    keras.utils.set_random_seed(1)
    allocation = Allocation.random(VOCABULARY_SIZE, 5, 4, seed=3)
    model = LightRNNModel(allocation, embedding_dim=6, units=6, **kwargs)
    # A step with Adam takes twice as long to trace. A few steps take less time than one trace.
    optimizer = keras.optimizers.SGD(0.1) if optimizer is None else optimizer
    model.compile(optimizer, run_eagerly=run_eagerly)
    return model


def test_a_round_lowers_the_cost_and_moves_words_in_the_table():
    model = make_model()
    before = model.word_table.allocation
    callback = ReallocationCallback(LikelihoodObjective("exact"), max_rounds=1, verbose=0)
    history = model.fit(make_windows(), epochs=3, callbacks=[callback], verbose=0).history
    (record,) = callback.history
    assert record["cost"] < record["cost_before"]
    assert record["gap"] < 1e-6
    assert record["moved"] == before.count_moved(model.word_table.allocation) > 0
    assert history["reallocation_moved"] == [record["moved"]]
    assert np.isfinite(history["loss"]).all()


def test_cost_is_the_loss_up_to_a_constant_of_each_word():
    """Swapping two words changes the cost as it changes the loss with fixed states."""
    model = make_model(row_reading="recurrence", run_eagerly=True)
    windows = make_windows(32)
    softmax, table = model.softmax, model.word_table
    callback = ReallocationCallback(LikelihoodObjective("exact"), verbose=0, at_end=True)
    # A learning rate of zero: the states summed over the epoch are those of one network.
    model.optimizer.learning_rate = 0.0
    seen = {}

    callback.objective.solver.solve = lambda problem, **kwargs: (
        seen.update(problem=problem) or type(callback.objective.solver)().solve(problem, **kwargs)
    )
    old = table.allocation
    half_steps, _ = model.recurrent_stack(model.embedding(windows))
    model.fit(windows, batch_size=8, callbacks=[callback], verbose=0)

    swapped = old.cells.copy()
    swapped[[2, 11]] = swapped[[11, 2]]
    swapped = Allocation(swapped, *old.shape)
    losses = {}
    for name, allocation in (("old", old), ("swapped", swapped)):
        table.assign(allocation)
        log_probs = keras.ops.convert_to_numpy(softmax(half_steps, windows[:, 1:]))
        losses[name] = -log_probs.sum(dtype=np.float64)
    problem = seen["problem"]
    np.testing.assert_allclose(
        problem.compute_cost(swapped) - problem.compute_cost(old),
        losses["swapped"] - losses["old"],
        rtol=1e-4,
    )


def test_optimizer_slots_are_carried_like_their_vectors():
    model = make_model(keras.optimizers.Adam(0.02), run_eagerly=True)
    callback = ReallocationCallback(LikelihoodObjective("exact"), verbose=0, at_end=True)
    state = {}

    class Before(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            embedding = model.embedding
            state["old"] = model.word_table.allocation
            state["vectors"] = keras.ops.convert_to_numpy(embedding.row_embeddings)
            state["slots"] = [
                (slot, keras.ops.convert_to_numpy(slot))
                for slot in model.optimizer.variables
                if "row_embeddings" in slot.name
            ]

    model.fit(make_windows(), callbacks=[Before(), callback], verbose=0)
    new = model.word_table.allocation
    counts = np.bincount(make_windows()[:, 1:].ravel(), minlength=VOCABULARY_SIZE)
    assert len(state["slots"]) == 2
    for weight, before in [(model.embedding.row_embeddings, state["vectors"]), *state["slots"]]:
        expected = carry_vectors(before, state["old"].rows, new.rows, counts)
        np.testing.assert_allclose(keras.ops.convert_to_numpy(weight), expected, atol=1e-6)
        assert np.abs(expected - before).max() > 0


def test_carried_vectors_keep_what_did_not_move():
    vectors = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    groups = np.array([0, 1, 1, 2])
    carried = carry_vectors(vectors, groups, groups, np.array([1.0, 2.0, 3.0, 0.0]))
    np.testing.assert_allclose(carried, vectors, atol=1e-6)
    assert carried.dtype == vectors.dtype


def test_a_failing_round_leaves_everything_as_training_left_it():
    model = make_model(keras.optimizers.Adam(0.02), run_eagerly=True)
    callback = ReallocationCallback(LikelihoodObjective("exact"), verbose=0, at_end=True)
    state = {}

    def fail(problem, **kwargs):
        state["weights"] = [keras.ops.convert_to_numpy(w) for w in model.weights]
        state["slots"] = [keras.ops.convert_to_numpy(w) for w in model.optimizer.variables]
        raise RuntimeError("no solution today")

    callback.objective.solver.solve = fail
    with pytest.raises(RuntimeError, match="no solution today"):
        model.fit(make_windows(), callbacks=[callback], verbose=0)
    for weights, saved in (
        (model.weights, state["weights"]),
        (model.optimizer.variables, state["slots"]),
    ):
        for weight, value in zip(weights, saved, strict=True):
            np.testing.assert_array_equal(keras.ops.convert_to_numpy(weight), value)
    # And training can go on.
    fresh = ReallocationCallback(
        LikelihoodObjective("exact"), every="epoch", verbose=0, at_end=True
    )
    model.fit(make_windows(), epochs=2, initial_epoch=1, callbacks=[fresh], verbose=0)
    assert len(fresh.history) == 1


def test_nan_statistics_are_refused():
    model = make_model(run_eagerly=True)
    model.build((None, None))
    model.embedding.row_embeddings.assign(np.full((5, 6), np.nan))
    with pytest.raises(ValueError, match=r"finite sums.*unchanged"):
        model.fit(
            make_windows(), callbacks=[ReallocationCallback(verbose=0, at_end=True)], verbose=0
        )


def test_minimum_gain_keeps_the_table():
    model = make_model(run_eagerly=True)
    before = model.word_table.allocation
    callback = ReallocationCallback(
        LikelihoodObjective("exact"), minimum_gain=100.0, verbose=0, at_end=True
    )
    model.fit(make_windows(), callbacks=[callback], verbose=0)
    assert model.word_table.allocation == before
    assert callback.history[0]["moved"] == 0
    assert callback.history[0]["cost"] == callback.history[0]["cost_before"]


@pytest.mark.parametrize(
    ("arguments", "epochs", "expected"),
    [
        ({}, range(4), 1),
        ({}, range(1), 0),  # no training would follow
        ({"at_end": True}, range(1), 1),
        ({"every": "epoch"}, range(4), 3),
        ({"every": "epoch", "at_end": True}, range(4), 4),
        ({"every": [1, 3, 9]}, range(4), 2),
        ({"every": 2}, range(4), 3),  # steps, of which an epoch has two
        ({"every": 2, "at_end": True}, range(4), 4),
        ({"every": 3}, range(4), 2),
        ({"every": "epoch", "max_rounds": 1}, range(4), 1),
        ({"every": [2, 4]}, range(2, 5), 1),  # resumed
    ],
)
def test_schedule(arguments, epochs, expected):
    model = make_model(run_eagerly=True)
    callback = ReallocationCallback("likelihood", verbose=0, **arguments)
    model.fit(
        make_windows(),
        initial_epoch=epochs[0],
        epochs=epochs[-1] + 1,
        callbacks=[callback],
        verbose=0,
    )
    assert len(callback.history) == expected


@pytest.mark.parametrize(
    ("arguments", "summed"),
    [
        ({}, [True, False, False]),
        ({"every": [1, 2]}, [True, True, False]),
        ({"every": "epoch"}, [True, True, False]),
        ({"every": "epoch", "at_end": True}, [True, True, True]),
        ({"every": 3, "max_rounds": 1}, [True, True, False]),  # in the second epoch of two steps
        ({"data": make_windows(8)}, [False, False, False]),  # but in the pass
    ],
)
def test_steps_sum_as_long_as_a_round_may_come(arguments, summed):
    model = make_model()
    callback = ReallocationCallback(verbose=0, **arguments)
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 0:
                seen.append(bool(callback._state.statistics.read()["counts"].any()))

    model.fit(make_windows(), epochs=3, callbacks=[Watch(), callback], verbose=0)
    assert seen == summed
    assert callback.history


def test_steps_after_the_last_round_of_an_epoch_sum_no_more():
    model = make_model()
    callback = ReallocationCallback(every=3, max_rounds=1, verbose=0)
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(bool(callback._state.statistics.read()["counts"].any()))

    windows = make_windows()
    model.fit(windows, batch_size=len(windows) // 8, callbacks=[Watch(), callback], verbose=0)
    assert len(callback.history) == 1
    assert seen[:3] == [True] * 3
    assert len(seen) >= 8
    assert not any(seen[3:])


def test_another_model_starts_afresh():
    callback = ReallocationCallback(LikelihoodObjective(solver="auction"), verbose=0, at_end=True)
    make_model(run_eagerly=True).fit(make_windows(), callbacks=[callback], verbose=0)
    assert callback.prices is not None
    first = callback.history
    callback._rounds.best = 0.0
    larger = LightRNNModel(VOCABULARY_SIZE + 40, embedding_dim=4, units=4)
    larger.compile("sgd", run_eagerly=True)
    larger.fit(make_windows(), callbacks=[callback], verbose=0)
    assert len(callback.history) == len(first) == 1
    assert callback.history is not first
    assert callback.prices.shape == larger.word_table.allocation.shape
    assert callback._rounds.best == math.inf


def test_a_round_where_one_word_occurs_changes_nothing():
    model = LightRNNModel(1, embedding_dim=4, units=4)
    model.compile("sgd", run_eagerly=True)
    callback = ReallocationCallback(verbose=0, at_end=True)
    model.fit(np.zeros((8, 4), "int32"), callbacks=[callback], verbose=0)
    assert [record["moved"] for record in callback.history] == [0.0]


def test_a_round_by_hand_needs_sums_too():
    model = make_model(run_eagerly=True)
    callback = ReallocationCallback(verbose=0)

    class Ask(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                callback.reallocation_round()

    with pytest.raises(ValueError, match=r"no further scheduled round in this `fit`: every=\[1\]"):
        model.fit(make_windows(), epochs=2, callbacks=[Ask(), callback], verbose=0)


def test_a_broken_fit_leaves_no_observer_to_the_next():
    model = make_model(run_eagerly=True)

    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            model.fit(
                make_windows(),
                callbacks=[ReallocationCallback(verbose=0, at_end=True), Interrupt()],
                verbose=0,
            )
        assert len(model.softmax.observers) == 1
    callback = ReallocationCallback(verbose=0, at_end=True)
    model.fit(make_windows(), callbacks=[callback], verbose=0)
    assert callback.history
    assert model.softmax.observers == []


def test_a_plain_fit_after_a_broken_one_sums_no_more():
    model = make_model()
    callback = ReallocationCallback(verbose=0, at_end=True)

    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.fit(make_windows(), callbacks=[callback, Interrupt()], verbose=0)
    [state] = model.softmax.observers
    counts = state.statistics.read()["counts"]
    assert counts.any()
    model.fit(make_windows(), epochs=1, verbose=0)
    assert model.softmax.observers == []
    assert np.array_equal(state.statistics.read()["counts"], counts)


def test_early_stopping_restores_weights_and_table():
    model = make_model(run_eagerly=True)
    stopping = keras.callbacks.EarlyStopping("loss", restore_best_weights=True, patience=5)
    callback = ReallocationCallback(LikelihoodObjective("exact"), every=[2], verbose=0)
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["loss"] = float(epoch > 0)  # the first is the best
            seen.append((model.get_weights(), model.word_table.allocation))

    model.fit(make_windows(), epochs=3, callbacks=[Watch(), stopping, callback], verbose=0)
    assert callback.history[0]["moved"] > 0
    weights, allocation = seen[0]
    assert model.word_table.allocation == allocation != seen[2][1]
    for received, expected in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(received, expected)


def make_early_stopping(**kwargs):
    return keras.callbacks.EarlyStopping("loss", **kwargs)


def make_checkpoint(**kwargs):
    return keras.callbacks.ModelCheckpoint("a.keras", monitor="loss", **kwargs)


@pytest.mark.parametrize(
    ("make_other", "option"),
    [(make_early_stopping, "restore_best_weights"), (make_checkpoint, "save_best_only")],
)
def test_callbacks_that_would_take_the_weights_after_a_round(make_other, option):
    """They would pair the metric of an epoch with weights that a round has changed."""
    model = make_built()
    callback, other = ReallocationCallback(verbose=0), make_other(**{option: True})
    with pytest.raises(ValueError, match=rf"`\w+\({option}=True\)` after it. Give it after that"):
        keras.callbacks.CallbackList([callback, other], model=model)
    assert model.softmax.observers == []
    # The other way round, without the option, and with rounds before validation, all is well.
    by_steps = ReallocationCallback(every=5, verbose=0)
    for callbacks in ([other, callback], [callback, make_other()], [by_steps, other]):
        keras.callbacks.CallbackList(callbacks, model=model)


def test_weights_loaded_in_the_course_of_a_run_leave_its_rounds_alone(tmp_path):
    model = make_model(run_eagerly=True)
    callback = ReallocationCallback(
        LikelihoodObjective("exact"), every="epoch", verbose=0, at_end=True
    )

    class GoBack(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                model.save_weights(tmp_path / "a.weights.h5")
            else:
                model.load_weights(tmp_path / "a.weights.h5")

    model.fit(make_windows(), epochs=3, callbacks=[callback, GoBack()], verbose=0)
    assert len(callback.history) == 3


def test_steps_are_counted_and_not_updates():
    model = make_model()
    model.compile(keras.optimizers.SGD(gradient_accumulation_steps=2))
    callback = ReallocationCallback(every=4, verbose=0, at_end=True)
    model.fit(make_windows(), batch_size=8, epochs=2, callbacks=[callback], verbose=0)
    assert len(callback.history) == 4  # in 16 steps


def test_rounds_are_at_their_step_whenever_weights_are_updated():
    model = make_model()
    model.compile(keras.optimizers.SGD(gradient_accumulation_steps=3))
    callback = ReallocationCallback(every=4, verbose=0)
    num_rounds = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            num_rounds.append(len(callback.history))

    windows = make_windows(40)
    model.fit(windows, batch_size=8, epochs=2, callbacks=[callback, Watch()], verbose=0)
    assert num_rounds == [step // 4 for step in range(1, 11)]


def test_steps_and_rounds_are_counted_for_each_model():
    callback = ReallocationCallback(every=3, max_rounds=1, verbose=0)
    for _ in range(2):
        model = make_model(run_eagerly=True)
        for num_steps in (2, 4, 6):  # in the second `fit` there is a round, in the third none
            model.fit(make_windows(16), batch_size=8, callbacks=[callback], verbose=0)
            assert callback.num_steps == num_steps
            assert len(callback.history) == (num_steps > 2)


@pytest.mark.parametrize("steps_per_execution", [1, 3, 4, 5])
def test_steps_of_an_epoch_that_executions_do_not_divide(steps_per_execution):
    model = make_model()
    model.compile("sgd", steps_per_execution=steps_per_execution)
    callback = ReallocationCallback(every=5, verbose=0, at_end=True)
    model.fit(make_windows(32), batch_size=8, epochs=5, callbacks=[callback], verbose=0)
    assert callback.num_steps == 20
    assert len(callback.history) == 4


class Spy(LikelihoodObjective):
    """Keeps the counts of the words that each round has got."""

    def __init__(self):
        super().__init__("exact")
        self.counts = []

    def propose(self, sums, *args):
        self.counts.append(sums["counts"].tolist())
        return super().propose(sums, *args)


class ObservedModel(ObservedTraining, keras.Model):
    """A functional model that publishes its steps."""


def make_composed(model_class=keras.Model, loss=None, run_eagerly=False):
    table = WordTable(Allocation.random(VOCABULARY_SIZE, seed=0))
    words = keras.Input((None,), dtype="int32")
    x = TwoComponentEmbedding(table, 4, combine="interleave")(words)
    x = keras.layers.GRU(4, return_sequences=True)(x)
    model = model_class(words, TwoComponentSoftmax(table, row_reader=None)(x, words[:, 1:]))
    loss = NegativeLogLikelihood() if loss is None else loss
    model.compile("sgd", loss=loss, run_eagerly=run_eagerly)
    return model


WEIGHTS = np.arange(8 * 6).reshape(8, 6).astype("float32") % 3


def count_weighted(windows, weights):
    return np.bincount(windows[:, 1:].ravel(), weights.ravel(), VOCABULARY_SIZE).tolist()


@pytest.mark.parametrize("has_data", [False, True])
def test_words_count_by_their_sample_weights(has_data):
    windows, spy = make_windows(8), Spy()
    weighted = (windows, windows[:, 1:], WEIGHTS)
    callback = ReallocationCallback(
        spy, data=weighted if has_data else None, verbose=0, at_end=True
    )
    plain = (windows, windows[:, 1:], np.ones_like(WEIGHTS))
    x, y, sample_weight = plain if has_data else weighted
    model = make_composed(ObservedModel)
    model.fit(x, y, sample_weight=sample_weight, callbacks=[callback], verbose=0)
    assert spy.counts == [count_weighted(windows, WEIGHTS)]


def test_a_train_step_that_does_not_call_that_of_its_base_class():
    calls = []

    class OwnStep(ObservedTraining, keras.Model):
        def train_step(self, data):
            calls.append(1)
            return keras.Model.train_step(self, data)

    windows, spy = make_windows(8), Spy()
    callback = ReallocationCallback(spy, verbose=0, at_end=True)
    model = make_composed(OwnStep)
    model.fit(windows, windows[:, 1:], sample_weight=WEIGHTS, callbacks=[callback], verbose=0)
    assert calls
    assert spy.counts == [count_weighted(windows, WEIGHTS)]


def test_sample_weights_that_a_model_does_not_publish():
    windows, model = make_windows(8), make_composed(run_eagerly=True)
    weighted = (windows, windows[:, 1:], WEIGHTS)
    match = r"sample weights.*a model without `keras_lightrnn.models.ObservedTraining`"
    with pytest.raises(ValueError, match=match):
        model.fit(
            *weighted[:2], sample_weight=WEIGHTS, callbacks=[ReallocationCallback()], verbose=0
        )
    callback = ReallocationCallback(data=weighted, verbose=0, at_end=True)
    with pytest.raises(ValueError, match=match):
        model.fit(*weighted[:2], callbacks=[callback], verbose=0)
    # Weights that the sums do not need are none of their business.
    callback = ReallocationCallback(data=weighted[:2], verbose=0, at_end=True)
    model.fit(*weighted[:2], sample_weight=WEIGHTS, callbacks=[callback], verbose=0)
    assert len(callback.history) == 1
    callback = ReallocationCallback(verbose=0, at_end=True)
    model.fit(*weighted[:2], validation_data=weighted, callbacks=[callback], verbose=0)
    assert len(callback.history) == 1


def test_a_training_loop_of_the_user_evaluates_with_weights():
    windows, model = make_windows(8), make_composed(run_eagerly=True)
    callback = ReallocationCallback(verbose=0)
    callbacks = keras.callbacks.CallbackList([callback], model=model, epochs=2, steps=1)
    loss = NegativeLogLikelihood()  # not that of the model
    variables = model.trainable_variables

    def evaluate():
        return model.evaluate(windows, windows[:, 1:], sample_weight=WEIGHTS, verbose=0)

    expected = evaluate()
    callbacks.on_train_begin()
    for epoch in range(2):
        callbacks.on_epoch_begin(epoch)
        callbacks.on_train_batch_begin(0)
        with tf.GradientTape() as tape:
            value = loss(None, model(windows, training=True))
        gradients = tape.gradient(value, [variable.value for variable in variables])
        model.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        callbacks.on_train_batch_end(0)
        assert evaluate() < expected
        model(windows, training=True)  # the last forward pass may be one without a loss
        callbacks.on_epoch_end(epoch, {})
    callbacks.on_train_end()
    assert len(callback.history) == 1
    assert math.isfinite(evaluate())


class OwnStepModel(keras.Model):
    def train_step(self, data):
        return super().train_step(data)


@pytest.mark.parametrize(
    ("model_class", "loss", "received"),
    [
        (keras.Model, lambda y, log_probs: -log_probs, "loss=<function"),
        (OwnStepModel, None, "of class OwnStepModel.*, and its own `train_step`"),
    ],
)
def test_sample_weights_that_nothing_would_notice(model_class, loss, received):
    windows = make_windows(8)
    callback = ReallocationCallback(verbose=0, at_end=True)
    model = make_composed(model_class, loss)
    with pytest.warns(UserWarning, match=rf"counts every word.*{received}.*ObservedTraining"):
        model.fit(windows, windows[:, 1:], callbacks=[callback], verbose=0)
    assert len(callback.history) == 1


def test_prints_one_line_a_round(capsys):
    model = make_model(run_eagerly=True)
    callback = ReallocationCallback("likelihood", every="epoch", at_end=True)
    model.fit(make_windows(16), epochs=2, callbacks=[callback], verbose=0)
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert len(lines) == 2
    assert all("nats/word" in line and "words moved" in line for line in lines)


def test_statistics_are_gone_after_training(tmp_path):
    model = make_model()
    model.fit(make_windows(16), callbacks=[ReallocationCallback(verbose=0)], verbose=0)
    assert not [w for w in model.weights if "sums" in w.path]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.word_table.allocation == model.word_table.allocation


def test_works_on_a_functional_model():
    keras.utils.set_random_seed(0)
    table = WordTable(Allocation.random(VOCABULARY_SIZE, seed=0))
    words = keras.Input((None,), dtype="int32")
    x = TwoComponentEmbedding(table, 6, combine="interleave")(words)
    x = keras.layers.GRU(6, return_sequences=True)(x)
    model = keras.Model(words, TwoComponentSoftmax(table, row_reader=None)(x, words[:, 1:]))
    model.compile("adam", loss=NegativeLogLikelihood())
    windows = make_windows()
    callback = ReallocationCallback(LikelihoodObjective("exact"), verbose=0, at_end=True)
    model.fit(windows, windows[:, 1:], callbacks=[callback], verbose=0)
    assert callback.history[0]["moved"] > 0
    assert table.allocation != Allocation.random(VOCABULARY_SIZE, seed=0)


class RowEmbedding(keras.layers.Embedding):
    """A layer of the user's, indexed by rows."""

    @property
    def row_weights(self):
        return [self.embeddings]


def make_functional(layer, table):
    words = keras.Input((None,), dtype="int32")
    states = layer(table(words) // table.num_columns)[:, :-1]
    states = keras.layers.GRU(6, return_sequences=True)(states)
    states = keras.ops.repeat(states, 2, axis=1)
    model = keras.Model(words, TwoComponentSoftmax(table, row_reader=None)(states, words[:, 1:]))
    model.compile("sgd", loss=NegativeLogLikelihood(), run_eagerly=True)
    return model


def test_a_layer_of_the_user_is_carried():
    table = WordTable(Allocation.random(VOCABULARY_SIZE, 5, 4, seed=0))
    layer = RowEmbedding(5, 6)
    model = make_functional(layer, table)
    windows = make_windows(32)
    callback = ReallocationCallback(LikelihoodObjective("exact"), verbose=0, at_end=True)
    seen = []

    class Before(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(keras.ops.convert_to_numpy(layer.embeddings))

    old = table.allocation
    callbacks = [Before(), callback]
    model.fit(windows, windows[:, 1:], callbacks=callbacks, verbose=0)
    counts = np.bincount(windows[:, 1:].ravel(), minlength=VOCABULARY_SIZE)
    expected = carry_vectors(seen[0], old.rows, table.allocation.rows, counts)
    assert np.abs(expected - seen[0]).max() > 0
    np.testing.assert_allclose(keras.ops.convert_to_numpy(layer.embeddings), expected, atol=1e-6)


def test_a_model_whose_input_vectors_nothing_declares():
    table = WordTable(Allocation.random(VOCABULARY_SIZE, 5, 4, seed=0))
    model = make_functional(keras.layers.Embedding(5, 6), table)
    with pytest.raises(ValueError, match=r"`row_weights` and `column_weights`.*without one"):
        ReallocationCallback().set_model(model)


def test_declared_weights_of_another_size():
    table = WordTable(Allocation.random(VOCABULARY_SIZE, 5, 4, seed=0))
    model = make_functional(RowEmbedding(7, 6), table)
    windows = make_windows(8)
    callback = ReallocationCallback(LikelihoodObjective("exact"), verbose=0, at_end=True)
    before = table.allocation
    with pytest.raises(ValueError, match=r"`row_weights`.*first axis has the size 5.*\(7, 6\)"):
        model.fit(windows, windows[:, 1:], callbacks=[callback], verbose=0)
    assert table.allocation == before


def test_refuses_layers_with_tables_of_their_own():
    words = keras.Input((None,), dtype="int32")
    x = TwoComponentEmbedding(VOCABULARY_SIZE, 6, combine="interleave")(words)
    x = keras.layers.GRU(6, return_sequences=True)(x)
    model = keras.Model(
        words, TwoComponentSoftmax(VOCABULARY_SIZE, row_reader=None)(x, words[:, 1:])
    )
    model.compile("sgd", loss=NegativeLogLikelihood())
    windows = make_windows(16)
    with pytest.raises(ValueError, match=r"share.*2 of the second"):
        model.fit(windows, windows[:, 1:], callbacks=[ReallocationCallback()], verbose=0)


def make_encoder_decoder(source_embedding):
    source, words = (keras.Input((None,), dtype="int32") for _ in range(2))
    embedding = TwoComponentEmbedding(Allocation.random(VOCABULARY_SIZE, seed=0), 6)
    context = keras.layers.GRU(6)(source_embedding(source))
    states = keras.layers.GRU(6, return_sequences=True)(
        embedding(words[:, :-1]), initial_state=context
    )
    log_probs = TwoComponentSoftmax(embedding.word_table)(states, words[:, 1:])
    model = keras.Model([source, words], log_probs)
    model.compile("sgd", loss=NegativeLogLikelihood(), run_eagerly=True)
    return model


def test_an_encoder_of_another_vocabulary():
    inputs = [make_windows(16) % 7, make_windows(16)]
    callback = ReallocationCallback(LikelihoodObjective("exact"), verbose=0)
    with pytest.raises(ValueError, match=r"2 of the second.*with `keras.layers.Embedding`"):
        make_encoder_decoder(TwoComponentEmbedding(7, 6)).fit(
            inputs, callbacks=[callback], verbose=0
        )
    make_encoder_decoder(keras.layers.Embedding(7, 6)).fit(
        inputs, epochs=2, callbacks=[callback], verbose=0
    )
    assert callback.history[0]["moved"] > 0


@pytest.mark.parametrize(
    "arguments",
    [
        {"every": 0},
        {"every": "week"},
        {"every": []},
        {"max_rounds": 0},
        *({"minimum_gain": value} for value in (np.nan, np.inf, -1, None, "0.1", [0.1])),
    ],
)
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match=f"`{next(iter(arguments))}` must be"):
        ReallocationCallback(**arguments)


def test_a_round_needs_statistics():
    with pytest.raises(ValueError, match="during `fit`"):
        ReallocationCallback().reallocation_round()


def test_similarity_carries_output_vectors_too():
    model = make_model(run_eagerly=True)
    callback = ReallocationCallback("similarity", max_rounds=1, verbose=0, at_end=True)
    before = {}

    class Before(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            before["allocation"] = model.word_table.allocation
            before["kernel"] = keras.ops.convert_to_numpy(model.softmax.row_kernel)
            before["bias"] = keras.ops.convert_to_numpy(model.softmax.column_bias)

    model.fit(make_windows(), callbacks=[Before(), callback], verbose=0)
    old, new = before["allocation"], model.word_table.allocation
    counts = np.bincount(make_windows()[:, 1:].ravel(), minlength=VOCABULARY_SIZE)
    assert callback.history[0]["moved"] == old.count_moved(new) > 0
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(model.softmax.row_kernel),
        carry_vectors(before["kernel"], old.rows, new.rows, counts),
        atol=1e-6,
    )
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(model.softmax.column_bias),
        carry_vectors(before["bias"], old.columns, new.columns, counts),
        atol=1e-6,
    )


def test_a_pass_over_data_sums_what_the_network_does_after_the_epoch():
    model = make_model(row_reading="recurrence", run_eagerly=True)
    windows = make_windows()
    seen = {}

    class Objective(LikelihoodObjective):
        def propose(self, sums, weights, allocation, prices=None):
            seen.update(sums)
            half_steps = model.recurrent_stack(model.embedding(windows))[0]
            seen["half_steps"] = keras.ops.convert_to_numpy(half_steps)
            return super().propose(sums, weights, allocation, prices)

    callback = ReallocationCallback(Objective("exact"), data=windows, verbose=0, at_end=True)
    model.fit(windows, validation_data=(windows[:8],), callbacks=[callback], verbose=0)
    targets = windows[:, 1:]
    np.testing.assert_array_equal(
        seen["counts"], np.bincount(targets.ravel(), minlength=VOCABULARY_SIZE)
    )
    expected = np.zeros((VOCABULARY_SIZE, 6))
    np.add.at(expected, targets, seen["half_steps"][:, 0::2])
    np.testing.assert_allclose(seen["column_sums"], expected, atol=1e-4)


def test_a_pass_over_data_needs_rounds_after_epochs():
    with pytest.raises(ValueError, match=r"must follow epochs.*every=5"):
        ReallocationCallback(every=5, data=make_windows())


def test_rounds_by_steps_are_in_the_logs_of_their_epoch():
    model = make_model(run_eagerly=True)
    callback = ReallocationCallback(every=3, max_rounds=1, verbose=0)
    history = model.fit(make_windows(), epochs=3, callbacks=[callback], verbose=0).history
    assert len(callback.history) == 1  # after step 3 of 6, in the second epoch
    assert history["reallocation_cost"] == [callback.history[0]["cost"]]


@pytest.mark.parametrize("at_end", [False, True])
def test_no_round_where_training_is_being_stopped(at_end, capsys):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    callback = ReallocationCallback(at_end=at_end)
    make_model(run_eagerly=True).fit(
        make_windows(), epochs=3, callbacks=[Stop(), callback], verbose=0
    )
    assert len(callback.history) == at_end
    assert ("no training follows" in capsys.readouterr().out) != at_end


def test_carried_vectors_obey_their_constraint():
    table = WordTable(Allocation.random(VOCABULARY_SIZE, 5, 5, seed=0))
    constraint = keras.constraints.UnitNorm(axis=1)
    words = keras.Input((None,), dtype="int32")
    embedding = TwoComponentEmbedding(
        table, 4, embeddings_constraint=constraint, combine="interleave"
    )
    x = keras.layers.GRU(4, return_sequences=True)(embedding(words))
    model = keras.Model(words, TwoComponentSoftmax(table, row_reader=None)(x, words[:, 1:]))
    model.compile("sgd", loss=NegativeLogLikelihood(), run_eagerly=True)
    windows = make_windows()
    callback = ReallocationCallback(verbose=0, at_end=True)
    model.fit(windows, windows[:, 1:], callbacks=[callback], verbose=0)
    assert callback.history[0]["moved"] > 0
    lengths = np.linalg.norm(keras.ops.convert_to_numpy(embedding.row_embeddings), axis=1)
    assert lengths == pytest.approx(1, abs=1e-5)


def test_several_callbacks_in_one_fit():
    model = make_model(run_eagerly=True)
    for _ in range(2):
        callbacks = [
            ReallocationCallback(objective, every=[1, 2], verbose=0)
            for objective in ("similarity", "likelihood")
        ]
        model.fit(make_windows(), epochs=3, callbacks=callbacks, verbose=0)
        assert [len(callback.history) for callback in callbacks] == [2, 2]
        assert model.softmax.observers == []


def test_a_pass_over_arrays_of_a_stateful_model():
    model = LightRNNModel(VOCABULARY_SIZE, 4, 4, stateful=True)
    model.compile("sgd", run_eagerly=True)
    windows = make_windows(8)
    callback = ReallocationCallback("likelihood", data=windows, verbose=0)
    model.fit(windows, batch_size=4, epochs=2, callbacks=[callback], verbose=0)
    assert len(callback.history) == 1


def test_a_pass_over_a_list_of_windows():
    windows = make_windows(8)
    callback = ReallocationCallback("likelihood", data=windows.tolist(), verbose=0)
    make_model(run_eagerly=True).fit(windows, epochs=2, callbacks=[callback], verbose=0)
    assert len(callback.history) == 1


@pytest.mark.parametrize("steps_per_execution", [1, 3])
def test_no_round_after_the_last_step_of_data_of_unknown_length(steps_per_execution):
    windows = make_windows(16).reshape(4, 4, 7)
    data = tf.data.Dataset.from_generator(
        lambda: ((window,) for window in windows),
        output_signature=(tf.TensorSpec((4, 7), tf.int32),),
    )
    model = make_model()
    model.compile("sgd", steps_per_execution=steps_per_execution)
    callback = ReallocationCallback("likelihood", every=2, verbose=0)
    rounds = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            rounds.append(len(callback.history))

    model.fit(data, epochs=3, callbacks=[callback, Watch()], verbose=0)
    assert rounds == [2, 4, 5]


def test_a_round_by_hand_in_the_last_epoch_says_what_is_missing():
    callback = ReallocationCallback("likelihood", every=[9], verbose=0)

    class ByHand(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                callback.reallocation_round()

    with pytest.raises(ValueError, match=r"in this `fit`.*at_end=False.*`at_end=True` sums"):
        make_model(run_eagerly=True).fit(
            make_windows(), epochs=2, callbacks=[ByHand(), callback], verbose=0
        )
    callback.at_end = True
    make_model(run_eagerly=True).fit(
        make_windows(), epochs=2, callbacks=[ByHand(), callback], verbose=0
    )
    assert len(callback.history) == 1


class WithoutTraining(keras.Model):
    """A model as many write it, to which Keras says nothing of training."""

    def __init__(self):
        super().__init__()
        self.table = WordTable(VOCABULARY_SIZE)
        self.embedding = TwoComponentEmbedding(self.table, 6, combine="interleave")
        self.recurrent = keras.layers.GRU(6, return_sequences=True)
        self.softmax = TwoComponentSoftmax(self.table, row_reader=None)

    def call(self, words):
        return self.softmax(self.recurrent(self.embedding(words)), words[:, 1:])


def test_a_model_that_is_told_nothing_of_training():
    windows = make_windows()
    model = WithoutTraining()
    model(windows)
    model.compile("sgd", NegativeLogLikelihood())
    with pytest.raises(ValueError, match=r"`training`.*no such argument.*training=None.*`data`"):
        model.fit(windows, windows[:, 1:], callbacks=[ReallocationCallback()], verbose=0)
    callback = ReallocationCallback(data=(windows, windows[:, 1:]), verbose=0)
    model.fit(windows, windows[:, 1:], epochs=2, callbacks=[callback], verbose=0)
    assert len(callback.history) == 1


def test_a_model_that_is_not_compiled():
    model = LightRNNModel(VOCABULARY_SIZE, 6, 6)
    model.build((None, None))
    with pytest.raises(ValueError, match=r"needs a compiled model.*custom training loop"):
        ReallocationCallback().set_model(model)


class FunctionWatch(keras.callbacks.Callback):
    """Keeps the compiled functions of a `fit`."""

    def __init__(self):
        super().__init__()
        self.train_functions, self.test_functions = set(), set()

    def on_train_batch_end(self, batch, logs=None):
        self.train_functions.add(self.model.train_function)

    def on_epoch_end(self, epoch, logs=None):
        self.test_functions.add(self.model.test_function)


def test_a_fit_compiles_one_function():
    """TensorFlow does not release compiled programs: turning sums on and off needs no other."""
    model, windows, watch = make_model(), make_windows(8), FunctionWatch()
    callback = ReallocationCallback(every=[1, 3], verbose=0)
    model.fit(windows, epochs=4, callbacks=[callback, watch], verbose=0)
    assert len(callback.history) == 2
    assert len(watch.train_functions) == 1
    # Those that hold the sums are dropped.
    assert model.train_function not in watch.train_functions


def test_rounds_over_data_leave_the_train_function_alone():
    model, windows, watch = make_model(), make_windows(8), FunctionWatch()
    model.fit(windows, verbose=0)
    train_function = model.train_function
    callback = ReallocationCallback(data=windows, every="epoch", verbose=0)
    model.fit(
        windows,
        epochs=3,
        validation_data=(windows,),
        callbacks=[callback, watch],
        verbose=0,
    )
    assert len(callback.history) == 2
    assert watch.train_functions == {train_function} == {model.train_function}
    assert len(watch.test_functions) == 1
    assert model.test_function not in watch.test_functions


def test_data_that_can_be_read_once():
    with pytest.raises(ValueError, match=r"`data`.*every round.*type generator.*read only once"):
        ReallocationCallback(data=(windows for windows in [make_windows()]))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.arange(7), r"type ndarray.*must hold windows"),
        (make_windows(8) + VOCABULARY_SIZE, r"type ndarray.*must lie in \[0, 20\)"),
        ("corpus.txt", r"type str.*type str"),
        ((make_windows(8), None, np.ones(3)), r"type tuple.*sample weights of shape \(3,\)"),
    ],
)
def test_data_are_tried_before_training(data, message):
    model = make_model(run_eagerly=True)
    model.build((None, 7))
    callback = ReallocationCallback(data=data, every="plateau", verbose=0)
    with pytest.raises(ValueError, match=rf"(?s)`data` must be what.*{message}"):
        model.fit(make_windows(8), epochs=2, callbacks=[callback], verbose=0)
    assert int(model.optimizer.iterations) == 0


def test_objectives_are_checked_before_training():
    with pytest.raises(ValueError, match="auctoin"):
        SimilarityObjective(solver="auctoin")
    objective = SimilarityObjective(np.zeros((VOCABULARY_SIZE + 1, 2)))
    with pytest.raises(ValueError, match=rf"a row for each of the {VOCABULARY_SIZE} words"):
        ReallocationCallback(objective).set_model(make_built())


def make_built():
    model = make_model()
    model.build((None, None))
    return model


@pytest.mark.parametrize("objective", [LikelihoodObjective, SimilarityObjective])
def test_an_interrupted_round_ends_training(objective):
    class Interrupted(GreedySolver):
        def improve(self, run):
            signal.raise_signal(signal.SIGINT)
            return super().improve(run)

    model = make_built()
    before = model.word_table.allocation
    callback = ReallocationCallback(objective(solver=Interrupted()), verbose=0)
    with pytest.raises(KeyboardInterrupt):
        model.fit(make_windows(), epochs=3, callbacks=[callback], verbose=0)
    assert model.word_table.allocation == before
    assert not callback.history
