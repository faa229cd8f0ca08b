from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracle import LanguageModel

from keras_lightrnn import Allocation, LightRNNModel, WordTable
from keras_lightrnn.models import light_rnn_model

ALLOCATION = Allocation.random(11, 4, 3, seed=1)


def make(allocation=ALLOCATION, build=(None, None), **kwargs):
    model = LightRNNModel(
        WordTable(allocation),
        **{
            "embedding_dim": 5,
            "units": 6,
            "recurrence": "rnn",
            "row_reading": "recurrence",
            **kwargs,
        },
    )
    model.build(build)
    if model.word_bias is not None:
        model.assign_word_counts(1 + np.arange(allocation.vocabulary_size))
    return model


def sharpen(model, factor=4.0):
    """Move the weights away from their start, where every word is about as likely."""
    for weight in model.trainable_weights:
        weight.assign(weight * factor)
    return model


def read_log_probs(model, windows):
    oracle = LanguageModel.of(model)
    return np.array([oracle.compute_log_probs(window) for window in windows])


@pytest.mark.parametrize("word_bias", [None, "trainable"])
@pytest.mark.parametrize(("recurrence", "num_layers"), [("lstm", 1), ("gru", 1), ("rnn", 2)])
def test_equals_the_oracle_word_by_word(rng, recurrence, num_layers, word_bias):
    arguments = {"recurrence": recurrence, "num_layers": num_layers, "word_bias": word_bias}
    model = make(row_reading="recurrence", **arguments)
    sharpen(model, 2.0)
    windows = rng.integers(11, size=(3, 5))
    log_probs = np.asarray(model(windows))
    assert log_probs.dtype == np.float32
    assert log_probs == pytest.approx(read_log_probs(model, windows), abs=2e-5)


@pytest.mark.parametrize(
    "allocation",
    [Allocation.random(12, 3, 4, seed=0), ALLOCATION, Allocation([8, 9, 0, 2, 11], 4, 3)],
    ids=["full", "V < R * C", "an empty row"],
)
def test_probabilities_of_all_words_sum_to_one(allocation):
    model = sharpen(make(allocation))
    size = allocation.vocabulary_size
    windows = np.array([[1, 4, 2, word] for word in range(size)])
    log_probs = np.asarray(model(windows), "float64")
    assert np.exp(log_probs[:, -1]).sum() == pytest.approx(1, abs=1e-5)


def test_relabelling_words_leaves_the_loss_unchanged(rng):
    counts, new_ids = rng.integers(1, 99, 11), rng.permutation(11)
    model = sharpen(make(word_bias="counts"))
    model.assign_word_counts(counts)
    windows = rng.integers(11, size=(4, 6))
    before = np.asarray(model(windows))
    new_cells, new_counts = np.empty(11, int), np.empty(11)
    new_cells[new_ids], new_counts[new_ids] = ALLOCATION.cells, counts
    model.word_table.assign(Allocation(new_cells, *ALLOCATION.shape))
    model.assign_word_counts(new_counts)
    assert np.asarray(model(new_ids[windows])) == pytest.approx(before, abs=1e-5)


def test_zero_kernels_give_perplexity_of_the_table(rng):
    model = make(Allocation.random(12, 3, 4, seed=0))
    for weight in model.softmax.trainable_weights:
        weight.assign(keras.ops.zeros_like(weight))
    model.compile()
    loss, perplexity = model.evaluate(rng.integers(12, size=(8, 6)), verbose=0)
    assert perplexity == pytest.approx(12, rel=1e-5)
    assert loss == pytest.approx(np.log(12), rel=1e-5)


def test_zero_kernels_with_word_bias_give_the_unigrams():
    model = make(word_bias="counts")
    for weight in model.softmax.trainable_weights:
        weight.assign(keras.ops.zeros_like(weight))
    counts = np.arange(3, 14)
    model.assign_word_counts(counts)
    windows = np.array([[5, word] for word in range(11)])
    probabilities = np.exp(np.asarray(model(windows))[:, 0])
    assert probabilities == pytest.approx(counts / counts.sum(), rel=1e-5)


def test_compiled_functions_see_an_assigned_table(rng):
    model = sharpen(make())
    model.compile(keras.optimizers.SGD(0.0))
    windows = rng.integers(11, size=(4, 5))
    seen = []
    for seed in (1, 2, 3):
        model.word_table.assign(Allocation.random(11, 4, 3, seed=seed))
        expected = read_log_probs(model, windows)
        assert model.predict(windows, verbose=0) == pytest.approx(expected, rel=1e-5, abs=5e-5)
        history = model.fit(windows, verbose=0).history
        assert history["loss"] == pytest.approx([-expected.mean()], abs=2e-5)
        result = model.evaluate(windows, verbose=0, return_dict=True)
        assert result["perplexity"] == pytest.approx(np.exp(-expected.mean()), rel=2e-5)
        assert model.score(windows) == pytest.approx(expected, rel=1e-5, abs=5e-5)
        seen.append(result["loss"])
    assert len(set(seen)) == 3, "the allocations must differ in loss, or the test asks nothing"


def test_targets_in_the_dataset_or_in_the_windows(rng):
    model = sharpen(make())
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    windows = rng.integers(11, size=(4, 5)).astype("int32")
    weights = rng.integers(3, size=(4, 4)).astype("float32")
    log_probs = np.asarray(model(windows))
    plain = -log_probs.mean()
    weighted = -(log_probs * weights).sum() / weights.sum()
    for arguments, expected in (
        ((windows,), plain),
        ((windows, windows[:, 1:]), plain),
        ((tf.data.Dataset.from_tensors((windows,)),), plain),
        ((tf.data.Dataset.from_tensors((windows, windows[:, 1:])),), plain),
        ((tf.data.Dataset.from_tensors((windows, windows[:, 1:], weights)),), weighted),
        ((windows, windows[:, 1:], None, 0, weights), weighted),
    ):
        if len(arguments) == 5:
            result = model.evaluate(
                *arguments[:2], sample_weight=weights, verbose=0, return_dict=True
            )
        else:
            result = model.evaluate(*arguments, verbose=0, return_dict=True)
        assert result["loss"] == pytest.approx(expected, rel=1e-5)
        assert result["perplexity"] == pytest.approx(np.exp(expected), rel=1e-5)


@pytest.mark.parametrize("targets", [True, False])
@pytest.mark.parametrize("batch_size", [4, 3])
def test_one_weight_for_each_window(rng, targets, batch_size):
    """Windows of four targets, in batches of as many and of fewer."""
    model = sharpen(make())
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    windows = rng.integers(11, size=(12, 5)).astype("int32")
    weights = rng.random(12).astype("float32")
    log_probs = np.asarray(model(windows))
    expected = np.exp(-(log_probs * weights[:, None]).sum() / (4 * weights.sum()))
    result = model.evaluate(
        windows,
        windows[:, 1:] if targets else None,
        sample_weight=weights,
        batch_size=batch_size,
        verbose=0,
        return_dict=True,
    )
    assert result["perplexity"] == pytest.approx(expected, rel=1e-5)
    data = tf.data.Dataset.from_tensor_slices((windows, windows[:, 1:], weights)).batch(batch_size)
    history = model.fit(data, verbose=0).history
    assert history["perplexity"] == pytest.approx([expected], rel=1e-5)


def test_fit_learns_a_cycle():
    keras.utils.set_random_seed(3)
    model = make(recurrence="gru", units=16)
    model.compile(keras.optimizers.Adam(0.05))
    windows = (np.arange(66)[:, None] + np.arange(6)) % 11
    history = model.fit(windows, epochs=25, verbose=0, validation_data=windows).history
    assert history["perplexity"][0] > 5
    assert history["val_perplexity"][-1] < 1.5
    assert model.next_words([3, 4, 5], k=1)[0].tolist() == [6]
    assert model.generate([0, 1], length=5, temperature=0).tolist() == [2, 3, 4, 5, 6]


def test_the_step_is_traced_once(rng, monkeypatch):
    train_step, traces = LightRNNModel.train_step, []
    monkeypatch.setattr(
        LightRNNModel, "train_step", lambda *args: traces.append(1) or train_step(*args)
    )
    model = LightRNNModel(11, 4, 4)
    model.compile("adam")
    model.fit(rng.integers(11, size=(8, 5)), batch_size=4, epochs=2, verbose=0)
    assert len(traces) == 1


@pytest.mark.parametrize("recurrence", ["lstm", "gru"])
def test_padding_at_the_start_changes_nothing(recurrence):
    """The row of a text's first word is never read: there is no column before it."""
    model = sharpen(make(recurrence=recurrence, mask_zero=True, num_layers=2))
    text = np.array([[7, 5, 9, 2]])
    expected = model.score(text)
    for size in (1, 3):
        padded = np.pad(text, [(0, 0), (size, 0)])
        assert model.score(padded)[:, size:] == pytest.approx(expected, abs=1e-6)
        assert model.predict(padded, verbose=0)[:, size:] == pytest.approx(expected, abs=1e-6)
        mask = np.asarray(model(padded)._keras_mask)
        assert mask.tolist() == [[False] * size + [True] * 3]
        assert model.word_log_probs(padded) == pytest.approx(model.word_log_probs(text), abs=1e-6)


def test_padding_at_the_end_changes_nothing(rng):
    model = sharpen(make(recurrence="gru", mask_zero=True))
    words = rng.integers(1, 11, size=(3, 5))
    padded = np.concatenate([words, np.zeros((3, 4), int)], axis=1)
    padded[1, 3:] = 0  # a shorter one
    log_probs, expected = np.asarray(model(padded)), read_log_probs(model, words)
    is_word = padded[:, 1:] != 0
    assert log_probs[:, :4][is_word[:, :4]] == pytest.approx(expected[is_word[:, :4]], abs=2e-5)
    assert np.array_equal(model(padded)._keras_mask, is_word & (padded[:, :-1] != 0))
    model.compile()
    loss, perplexity = model.evaluate(padded, verbose=0)
    assert loss == pytest.approx(-expected[is_word[:, :4]].mean(), rel=1e-5)
    assert perplexity == pytest.approx(np.exp(loss), rel=1e-5)


def test_stateful_windows_equal_one_long_window(rng):
    length, num_windows = 3, 4
    model = sharpen(make(recurrence="lstm", stateful=True, build=(2, length + 1)), 2.0)
    streams = rng.integers(11, size=(2, num_windows * length + 1))
    expected = read_log_probs(model, streams)
    windows = np.concatenate(
        [streams[:, i * length : (i + 1) * length + 1] for i in range(num_windows)]
    )
    for _ in range(2):  # every pass starts from the zero state
        log_probs = model.predict(windows, batch_size=2, verbose=0)
        joined = np.concatenate(np.split(log_probs, num_windows), axis=1)
        assert joined == pytest.approx(expected, rel=1e-5, abs=5e-5)
    assert model.score(streams) == pytest.approx(expected, rel=1e-5, abs=5e-5)

    model.compile(keras.optimizers.SGD(0.0))
    arguments = {"batch_size": 2, "verbose": 0}
    history = model.fit(windows, epochs=2, shuffle=False, **arguments).history
    assert history["loss"] == pytest.approx([-expected.mean()] * 2, abs=2e-5)
    assert model.evaluate(windows, **arguments)[0] == pytest.approx(-expected.mean(), abs=2e-5)
    # Without the carried state it is another number.
    fresh = np.concatenate(np.split(read_log_probs(model, windows), num_windows), axis=1)
    assert np.abs(fresh - expected).max() > 1e-3

    model.reset_states()
    first = np.asarray(model(windows[:2]))
    second = np.asarray(model(windows[:2]))
    assert np.abs(first - second).max() > 1e-3, "the state was not carried"
    model.reset_states()
    assert np.array_equal(model(windows[:2]), first)


def test_a_stateful_model_reads_arrays_in_their_order(rng):
    model = make(stateful=True, build=(2, 4))
    model.compile(keras.optimizers.SGD(0.0))
    windows = rng.integers(11, size=(40, 4))
    (loss,) = model.fit(windows, batch_size=2, verbose=0).history["loss"]
    assert loss == pytest.approx(model.evaluate(windows, batch_size=2, verbose=0)[0], abs=1e-5)
    with pytest.raises(ValueError, match=r"in the order.*shuffle=True"):
        model.fit(windows, batch_size=2, shuffle=True, verbose=0)


def test_a_callback_list_resets_the_state_too(rng):
    model = sharpen(make(recurrence="lstm", stateful=True, build=(2, 4)))
    model.compile(keras.optimizers.SGD(0.0))
    windows = rng.integers(11, size=(2, 4))
    expected = model.evaluate(windows, batch_size=2, verbose=0)[0]
    for _ in range(2):
        callbacks = keras.callbacks.CallbackList([], add_history=True, model=model)
        history = model.fit(windows, batch_size=2, callbacks=callbacks, verbose=0).history
        assert history["loss"] == pytest.approx([expected], abs=1e-5)


def test_the_carried_state_is_no_part_of_the_saved_weights(tmp_path, rng):
    windows = rng.integers(11, size=(2, 4))
    model = sharpen(make(stateful=True, build=(2, 4)))
    first = np.asarray(model(windows))
    model.save_weights(tmp_path / "a.weights.h5")
    other = make(stateful=True, build=(2, 4))
    other.load_weights(tmp_path / "a.weights.h5")
    assert np.asarray(other(windows)) == pytest.approx(first, abs=1e-6)


def test_weights_of_a_stateful_model_fit_another_batch_size():
    weights = sharpen(make(stateful=True, build=(2, 4))).get_weights()
    for arguments in ({}, {"stateful": True, "build": (3, 4)}):
        other = make(**arguments)
        other.set_weights(weights)
        assert np.array_equal(other.get_weights()[1], weights[1])


def test_stateful_errors(rng):
    with pytest.raises(ValueError, match=r"fixed batch size.*None"):
        make(stateful=True)
    model = make(stateful=True, build=(2, 4))
    with pytest.raises(ValueError, match=r"batch size that it was built for: 2.*\(3, 4\)"):
        model(rng.integers(11, size=(3, 4)))
    unbuilt = LightRNNModel(11, embedding_dim=5, units=6, stateful=True)
    with pytest.raises(ValueError, match="must be built"):
        unbuilt.score([1, 2, 3])


def test_both_parts_of_a_validation_split_are_whole_batches(rng):
    model = make(stateful=True, build=(2, 4))
    model.compile("sgd")
    windows = rng.integers(11, size=(8, 4))
    with pytest.raises(ValueError, match=r"7 windows and 1 windows of validation, batch_size=2"):
        model.fit(windows, batch_size=2, validation_split=0.1, verbose=0)
    with pytest.raises(ValueError, match=r"7 windows, batch_size=2"):
        model.fit(windows[:7], batch_size=2, verbose=0)
    history = model.fit(windows, batch_size=2, validation_split=0.25, verbose=0).history
    assert np.isfinite(history["val_loss"]).all()


@pytest.mark.parametrize("recurrence", ["lstm", "gru"])
@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "float16", "float64"])
def test_stateful_models_train_in_any_precision(rng, recurrence, dtype):
    model = LightRNNModel(11, 5, 6, recurrence=recurrence, stateful=True, dtype=dtype)
    model.compile("sgd")
    windows = rng.integers(11, size=(6, 4))
    history = model.fit(windows, batch_size=2, validation_data=(windows,), verbose=0).history
    assert np.isfinite([history["loss"], history["val_loss"]]).all()
    assert any(np.asarray(state, "float32").any() for state in model.carried_state.states[0])


def test_a_stateful_model_broadcasts_no_window(rng):
    model = make(stateful=True, build=(4, 4))
    windows = rng.integers(11, size=(8, 4))
    assert model.predict(windows, batch_size=4, verbose=0).shape == (8, 3)
    with pytest.raises(ValueError, match=r"was built for: 4\. Received: batch_size=1"):
        model.predict(windows, batch_size=1, verbose=0)
    dataset = tf.data.Dataset.from_tensor_slices(windows[:5].astype("int32")).batch(4)
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=r"[Ss]hape|built for"):
        model.predict(dataset, verbose=0)


def test_targets_that_are_not_those_of_the_windows(rng):
    model = make(build=(2, 4))
    model.compile("sgd")
    windows = rng.integers(11, size=(4, 5))
    for method in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match=r"from the second on, \(4, 3\).*\(4, 4\)"):
            method(windows[:, :-1], windows[:, 1:], verbose=0)

    targets = windows[:, 1:].copy()
    targets[2, 3] += 1
    with pytest.raises(ValueError, match=r"from the second on. Received: other.* 1 of 16 places"):
        model.fit(windows, targets, verbose=0)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_ids_that_arrive_as_floats_are_not_rounded(policy):
    model = LightRNNModel(5000, embedding_dim=4, units=4, dtype=policy)
    windows = np.array([[257, 259, 4301, 4999]])
    for words in (windows, tf.constant(windows, tf.float32)):
        model(words)
    expected = model.predict(windows, verbose=0)
    assert np.array_equal(model.predict(windows.astype("float32"), verbose=0), expected)
    data = tf.data.Dataset.from_tensors((tf.constant(windows, tf.float32),))
    assert np.array_equal(model.predict(data, verbose=0), expected)


def test_sample_weights_of_all_shapes_take_turns(rng):
    model = make()
    model.compile("sgd")
    windows = rng.integers(11, size=(4, 5))
    losses = [
        model.evaluate(windows, sample_weight=weights, verbose=0)[0]
        for weights in (np.ones((4, 4)), np.ones(4), np.ones((4, 1)), np.ones((4, 4, 1)))
    ]
    assert losses == pytest.approx([losses[0]] * 4)
    with pytest.raises(ValueError, match=r"for each target, \(4, 4\).*\(4,\).*shape \(4, 5\)"):
        model.evaluate(windows, sample_weight=np.ones((4, 5)), verbose=0)


@pytest.mark.parametrize("method", ["evaluate", "predict"])
def test_an_evaluation_within_an_epoch_leaves_the_state_alone(rng, method):
    model = make(build=(2, 5), stateful=True)
    model.compile("sgd")
    windows, others = rng.integers(11, size=(2, 8, 5))
    states = []

    class Evaluation(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            states.append(model.carried_state.read_run_state())
            getattr(model, method)(others, verbose=0)
            states.append(model.carried_state.read_run_state())

    model.fit(windows, batch_size=2, callbacks=[Evaluation()], verbose=0)
    assert len(states) == 8
    for before, after in zip(states[::2], states[1::2], strict=True):
        for name, values in before.items():
            assert values.any()
            assert np.array_equal(values, after[name])


def test_weighted_metrics_are_a_list():
    model = make(build=(2, 4))
    for metrics in ("mse", {"perplexity": "mse"}):
        with pytest.raises(ValueError, match="must be a list, to which `perplexity` is added"):
            model.compile("sgd", weighted_metrics=metrics)
    with pytest.raises(TypeError):
        model.compile("sgd", None, None)  # where Keras has `loss_weights`


def test_a_path_that_a_backend_lacks_is_no_obstacle_to_loading(monkeypatch):
    config = make(recurrence="lstm", recurrence_path="fused").get_config()
    assert LightRNNModel.from_config(config).recurrence_path == "fused"
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(ValueError, match=r"fused.*TensorFlow or the JAX.*'torch'.*auto"):
        make(recurrence="lstm", recurrence_path="fused")
    assert LightRNNModel.from_config(config).recurrence_path == "auto"


def test_dropout_only_in_training(rng):
    model = sharpen(make(dropout=0.5))
    windows = rng.integers(11, size=(3, 5))
    assert np.array_equal(model(windows), model(windows))
    assert np.asarray(model(windows)) == pytest.approx(read_log_probs(model, windows), abs=2e-5)
    assert not np.array_equal(model(windows, training=True), model(windows, training=True))


def test_number_of_weights():
    lstm = 4 * 9 * (8 + 9 + 1)
    published = 2 * 100 * 8 + lstm + 2 * 100 * (9 + 1)
    # The input gate of 8 numbers for each row and column, and the projection of their sum; a gate
    # and a shift for each row, and the kernel and bias of the query.
    with_reader = published + 2 * 100 * 8 + 1 * 8 + 2 * 100 * 9 + 9 * (9 + 1)
    for row_reading, expected in (("recurrence", published), ("reader", with_reader)):
        model = LightRNNModel(10_000, embedding_dim=8, units=9, row_reading=row_reading)
        model.build((None, None))
        assert sum(int(np.prod(w.shape)) for w in model.trainable_weights) == expected
        assert [w.name for w in model.non_trainable_weights] == ["cells"]


def test_tied_word_vectors_are_one_weight_wherever_the_model_goes(tmp_path, rng):
    options = {"word_dim": 3, "num_word_vectors": 9}
    apart = LightRNNModel(20, 4, 4, **options, tie_word_vectors=False)
    model = LightRNNModel(20, 4, 4, **options)
    windows = rng.integers(20, size=(8, 6)).astype("int32")
    for each in (apart, model):
        each.compile("sgd", run_eagerly=True)
        each.fit(windows, verbose=0)
    assert model.embedding.word_embeddings is model.softmax.word_kernel
    assert apart.count_params() - model.count_params() == 9 * 3
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.embedding.word_embeddings is loaded.softmax.word_kernel
    assert loaded.score(windows) == pytest.approx(model.score(windows), abs=1e-6)
    again = LightRNNModel.from_config(model.get_config())
    again.build((8, 6))
    model.save_weights(tmp_path / "model.weights.h5")
    again.load_weights(tmp_path / "model.weights.h5")
    assert again.score(windows) == pytest.approx(model.score(windows), abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"units": 0}, "units.*positive integer.*units=0"),
        ({"num_layers": 1.5}, "num_layers.*positive integer.*1.5"),
        ({"embedding_dim": -2}, "positive integer.*-2"),
        ({"recurrence": "transformer"}, "recurrence.*gru.*lstm.*transformer"),
        ({"dropout": 1.0}, r"dropout.*\[0, 1\).*1.0"),
        ({"word_bias": "unigram"}, "word_bias.*unigram"),
    ],
)
def test_constructor_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


@pytest.mark.parametrize(
    "convert", [np.asarray, tf.constant, np.ndarray.tolist, lambda x: tuple(map(tuple, x))]
)
def test_arrays_of_every_kind_are_checked_and_weighed(rng, convert):
    model = make()
    model.compile(run_eagerly=True)
    windows, weights = rng.integers(11, size=(4, 3)), np.zeros((4, 2))
    with pytest.raises(ValueError, match=r"the id \d+ at position \(0, 0\)"):
        model.fit(convert(windows + 11), verbose=0)
    history = model.fit(
        convert(windows),
        sample_weight=weights,
        validation_data=(convert(windows), None, weights),
        verbose=0,
    ).history
    assert history["loss"] == history["val_loss"] == [0.0]


def test_words_are_not_weighed_by_class(rng):
    model = make()
    model.compile()
    windows = rng.integers(11, size=(2, 3))
    with pytest.raises(ValueError, match="Give `sample_weight`"):
        model.fit(windows, class_weight={0: 1.0}, verbose=0)
    with pytest.raises(ValueError, match="Give `sample_weight`"):
        model.train_on_batch(windows, windows[:, 1:], class_weight={0: 1.0})


def test_float64(rng):
    model = LightRNNModel(ALLOCATION, 4, 4, word_bias="counts", dtype="float64")
    model.assign_word_counts(np.ones(11))
    model.compile(run_eagerly=True)
    windows = rng.integers(11, size=(2, 3))
    model.fit(windows, verbose=0)
    assert model.predict(windows, verbose=0) == pytest.approx(model.score(windows), abs=1e-5)
    assert model.next_words([1, 2], k=11)[0].shape == (11,)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "float64"])
def test_a_functional_model_knows_its_dtype(rng, policy):
    words = keras.Input((4,), dtype="int32")
    log_probs = LightRNNModel(ALLOCATION, 4, 4, dtype=policy)(words)
    assert (log_probs.shape, log_probs.dtype) == ((None, 3), "float32")
    model = keras.Model(words, keras.layers.Activation("linear", dtype="float32")(log_probs))
    assert model.predict(rng.integers(11, size=(2, 4)), verbose=0).dtype == np.float32


def freeze_embedding(model):
    model.embedding.trainable = False


def freeze_a_recurrent_layer(model):
    model.recurrent_stack.recurrent_layers[0].trainable = False


def freeze_all_but_the_reader(model):
    for part in (model.embedding, model.recurrent_stack, model.softmax):
        part.trainable = False
    model.softmax.row_reader.trainable = True


@pytest.mark.parametrize(
    "freeze", [freeze_embedding, freeze_a_recurrent_layer, freeze_all_but_the_reader]
)
def test_training_goes_on_with_what_is_frozen(freeze, rng, tmp_path):
    model = LightRNNModel(ALLOCATION, 4, 5, num_layers=2, recurrence="rnn", word_dim=2)
    model.build((None, None))
    number = len(model.trainable_variables)
    freeze(model)
    trainable = [variable.path for variable in model.trainable_variables]
    assert 0 < len(trainable) < number
    model.compile("adam", run_eagerly=True)  # a step needs no trace
    windows = rng.integers(11, size=(4, 6))
    model.fit(windows, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert [variable.path for variable in loaded.trainable_variables] == trainable
    for received, expected in zip(
        loaded.optimizer.variables, model.optimizer.variables, strict=True
    ):
        assert np.array_equal(received, expected), expected.path
    assert int(loaded.optimizer.iterations) == 1
    history = [each.fit(windows, epochs=2, verbose=0).history for each in (model, loaded)]
    assert history[1]["loss"] == pytest.approx(history[0]["loss"], rel=1e-5)


def test_a_file_leaves_compilation_to_the_machine_that_loads_it(monkeypatch, tmp_path):
    model = LightRNNModel(ALLOCATION, 4, 5)
    model.build((None, None))
    with monkeypatch.context() as another_machine:  # where "auto" is XLA, as on JAX
        another_machine.setattr(LightRNNModel, "_resolve_auto_jit_compile", lambda model: True)
        model.compile("sgd")
        assert model.jit_compile is True
        model.save(tmp_path / "model.keras")
    for _ in range(2):  # and so does the file of a loaded model
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert loaded.jit_compile is False
        loaded.save(tmp_path / "model.keras")
    with monkeypatch.context() as another_machine:
        another_machine.setattr(LightRNNModel, "_resolve_auto_jit_compile", lambda model: True)
        assert keras.models.load_model(tmp_path / "model.keras").jit_compile is True


@pytest.mark.parametrize("jit_compile", [True, False])
def test_a_file_keeps_the_compilation_that_was_asked_for(monkeypatch, tmp_path, jit_compile):
    model = LightRNNModel(ALLOCATION, 4, 5)
    model.build((None, None))
    model.compile("sgd", jit_compile=jit_compile)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.jit_compile is jit_compile
    assert keras.models.clone_model(loaded).jit_compile is jit_compile
    # What several replicas cannot do is refused in `compile`, and left out of a file.
    monkeypatch.setattr(light_rnn_model, "count_replicas", lambda model: 2)
    assert keras.models.load_model(tmp_path / "model.keras").jit_compile is False


def test_a_config_without_flags_is_that_of_a_model_which_is_trained():
    config = LightRNNModel(ALLOCATION, 4, 5).get_config()
    assert "frozen_parts" not in config  # as in earlier versions, but for `trainable`
    assert config.pop("trainable") is True
    model = LightRNNModel.from_config(config)
    model.build((None, None))
    assert [weight.name for weight in model.non_trainable_weights] == ["cells"]


def test_a_frozen_model_trains_after_it_is_thawed():
    model = LightRNNModel.from_config(LightRNNModel(ALLOCATION, 4, 5, trainable=False).get_config())
    model.build((None, None))
    assert not model.trainable
    assert not any(weight.trainable for weight in model.weights)
    model.trainable = True
    fresh = LightRNNModel(ALLOCATION, 4, 5)
    fresh.build((None, None))
    assert len(model.trainable_variables) == len(fresh.trainable_variables)


def test_a_vocabulary_of_one_word():
    model = LightRNNModel(1, 2, 2, word_bias="counts")
    model.assign_word_counts([3])
    model.compile("sgd")
    assert model.fit(np.zeros((2, 3), int), verbose=0).history["loss"] == [0.0]


def test_fit_asks_for_the_counts_of_a_word_bias(rng):
    model = LightRNNModel(11, embedding_dim=5, units=6, word_bias="counts")
    model.compile()
    with pytest.raises(ValueError, match="assign_word_counts"):
        model.fit(rng.integers(11, size=(2, 3)), verbose=0)


def test_wrong_ids_in_a_compiled_step_are_loud():
    model = make()
    compiled = tf.function(model, jit_compile=True, autograph=False)
    log_probs = np.asarray(compiled(tf.constant([[1, 2, 3, 4], [1, 2, 11, 4]])))
    assert np.isfinite(log_probs[0]).all()
    # The word itself, and what is predicted from it.
    assert np.isfinite(log_probs[1]).tolist() == [True, False, False]


def test_a_stateful_model_reads_arrays_in_batches_of_its_own_size(rng):
    model = LightRNNModel(11, 4, 4, stateful=True)
    model.compile("sgd")
    windows = rng.integers(11, size=(8, 5))
    dataset = tf.data.Dataset.from_tensor_slices((windows,)).batch(4, drop_remainder=True)
    history = model.fit(dataset, validation_data=(windows,), verbose=0).history
    evaluated = model.evaluate(windows, verbose=0)
    assert evaluated[0] == pytest.approx(history["val_loss"][0], rel=1e-6)
    assert model.predict(windows, verbose=0).shape == (8, 4)
    with pytest.raises(ValueError, match=r"batch_size.*0"):
        model.evaluate(windows, batch_size=0, verbose=0)
