"""Every public class through every property."""

from __future__ import annotations

import functools
import inspect
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import CASES, B, D, H, T, V, make_table, make_windows
from filling import fill_sequentially
from weights_ways import WAYS, bring_weights

import keras_lightrnn
from keras_lightrnn import Allocation, LightRNNModel, WordTable
from keras_lightrnn.layers import TwoComponentEmbedding, TwoComponentSoftmax
from keras_lightrnn.losses import NegativeLogLikelihood
from keras_lightrnn.metrics import Perplexity

LAYERS = {name: case for name, case in CASES.items() if case.is_layer}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
every_layer = pytest.mark.parametrize("case", LAYERS.values(), ids=list(LAYERS))


def assert_same(received, expected, tolerance=1e-5):
    received, expected = (np.asarray(x, "float64") for x in (received, expected))
    assert received == pytest.approx(expected, abs=tolerance, rel=tolerance)


def test_every_public_class_has_a_case():
    described = {case.public_class for case in CASES.values()}
    modules = [
        keras_lightrnn,
        *(getattr(keras_lightrnn, name) for name in ("layers", "losses", "metrics", "recurrence")),
    ]
    kinds = keras.layers.Layer, keras.metrics.Metric, keras.losses.Loss
    public = {
        value
        for module in modules
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and issubclass(value, kinds)
        and value.__module__.startswith("keras_lightrnn")
        and not name.startswith("_")
    }
    assert public == described, "describe it in tests/conformance/cases.py"


@every_case
def test_every_argument_is_an_attribute_and_a_config_entry(case):
    instance = case.make()
    config = instance.get_config()
    for name in inspect.signature(case.public_class.__init__).parameters:
        if name not in ("self", "kwargs"):
            assert hasattr(instance, name), name
            assert name in config or name == "dtype", name


@every_case
def test_rebuilds_from_json(case):
    original = case.prepare(case.make())
    inputs = case.make_inputs()
    expected = np.asarray(case.compute(original, *inputs))
    config = json.loads(json.dumps(original.get_config()))
    copy = case.public_class.from_config(config)
    assert copy.get_config() == original.get_config()
    if case.is_layer:
        case.compute(copy, *inputs)
        copy.set_weights(original.get_weights())
    assert_same(case.compute(copy, *inputs), expected)


@every_case
def test_is_registered(case):
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(case.make())))
    copy = keras.saving.deserialize_keras_object(config)
    assert type(copy) is case.public_class
    assert config["registered_name"] == f"keras_lightrnn>{case.public_class.__name__}"


@every_layer
@pytest.mark.parametrize("jit_compile", [False, True], ids=["function", "xla"])
def test_compiled_equals_eager(case, jit_compile):
    if jit_compile and case.public_class is LightRNNModel and case is not CASES["model lstm"]:
        pytest.skip("one recurrence under XLA is enough: the layers are Keras's")
    layer = case.prepare(case.make())
    inputs = case.make_inputs()
    expected = np.asarray(case.compute(layer, *inputs))
    function = tf.function(case.compute, jit_compile=jit_compile, autograph=False)
    assert_same(function(layer, *inputs), expected, 1e-4)


@functools.cache
def compute_in_float32(case):
    return np.asarray(case.compute(case.prepare(case.make()), *case.make_inputs()))


@every_layer
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(case, policy):
    layer = case.prepare(case.make(dtype=policy))
    inputs = case.make_inputs()
    outputs = case.compute(layer, *inputs)
    assert all(
        str(v.dtype) in ("float32", "int32")
        for v in layer.weights
        if not v.name.startswith("state_")  # carried, not trained
    )
    if case.public_class in (TwoComponentSoftmax, LightRNNModel):
        assert outputs.dtype == tf.float32
    if case.public_class is TwoComponentEmbedding:
        assert outputs.dtype == keras.DTypePolicy(policy).compute_dtype
    outputs = np.asarray(tf.cast(outputs, "float32"))
    assert np.isfinite(outputs).all()
    assert outputs == pytest.approx(compute_in_float32(case), rel=0.05, abs=0.05)


@every_layer
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "float64"])
def test_symbolic_shape_and_dtype_are_the_real_ones(case, policy):
    layer = case.prepare(case.make(dtype=policy))
    inputs = case.make_inputs()
    if case is CASES["model stateful"]:
        symbols = [keras.KerasTensor(x.shape, str(x.dtype)) for x in inputs]
    else:
        symbols = [keras.KerasTensor((None, *x.shape[1:]), str(x.dtype)) for x in inputs]
    symbol = case.compute(layer, *symbols)
    output = case.compute(layer, *inputs)
    assert str(symbol.dtype) == output.dtype.name
    assert tuple(symbol.shape)[1:] == tuple(output.shape)[1:]


@every_layer
def test_float_ids_are_cast(case):
    layer = case.prepare(case.make())
    *others, words = case.make_inputs()
    expected = np.asarray(case.compute(layer, *others, words))
    assert_same(case.compute(layer, *others, words.astype("float32")), expected)


# Whole models: what composes, and how they are saved.


class CausalBlock(keras.layers.Layer):
    """A Transformer's attention: the layers take any causal network between them."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = keras.layers.MultiHeadAttention(2, 3)
        self.dense = keras.layers.Dense(H)

    def build(self, input_shape):
        self.attention.build(input_shape, input_shape)
        self.dense.build(input_shape)

    def call(self, x):
        return self.dense(x + self.attention(x, x, use_causal_mask=True))


def make_functional(table=None, network=None, **kwargs):
    table = make_table() if table is None else table
    network = keras.layers.LSTM(H, return_sequences=True) if network is None else network
    words = keras.Input((None,), dtype="int32")
    half_steps = network(TwoComponentEmbedding(table, D, "interleave", **kwargs)(words))
    log_probs = TwoComponentSoftmax(table, word_bias="trainable", row_reader=None)(
        half_steps, words[:, 1:]
    )
    return keras.Model(words, log_probs)


class SubclassedModel(keras.Model):
    def __init__(self):
        super().__init__()
        table = make_table()
        self.embedding = TwoComponentEmbedding(table, D, combine="interleave")
        self.network = keras.layers.GRU(H, return_sequences=True)
        self.softmax = TwoComponentSoftmax(table, row_reader=None)

    def call(self, words):
        return self.softmax(self.network(self.embedding(words)), words[:, 1:])


def get_tables(model):
    """Return the different tables of a model."""
    tables = [
        layer if isinstance(layer, WordTable) else layer.word_table
        for layer in model._flatten_layers()
        if isinstance(layer, (WordTable, TwoComponentEmbedding, TwoComponentSoftmax))
    ]
    return list({id(table): table for table in tables}.values())


COMPOSITIONS = {
    "lstm": make_functional,
    "gru": lambda: make_functional(network=keras.layers.GRU(H, return_sequences=True)),
    "rnn": lambda: make_functional(network=keras.layers.SimpleRNN(H, return_sequences=True)),
    "stacked": lambda: make_functional(
        network=keras.Sequential(
            [keras.layers.SimpleRNN(H, return_sequences=True, dropout=0.1) for _ in range(2)]
        )
    ),
    "attention": lambda: make_functional(network=CausalBlock()),
    "masked": lambda: make_functional(mask_zero=True),
    "subclassed": SubclassedModel,
}


@pytest.mark.parametrize("make", COMPOSITIONS.values(), ids=list(COMPOSITIONS))
def test_composes_with_causal_layers(make):
    model = make()
    prefix = make_windows()[0]
    windows = np.array([[*prefix, word] for word in range(V)], "int32")
    log_probs = np.asarray(model(windows), "float64")
    if make is COMPOSITIONS["masked"]:
        windows, log_probs = windows[1:], log_probs[1:]
    else:
        assert np.exp(log_probs[:, -1]).sum() == pytest.approx(1, abs=1e-5)
    # What is said of a word owes nothing to those after it.
    assert np.ptp(log_probs[:, :-1], axis=0) == pytest.approx(0, abs=1e-5)

    # A step takes less time than a trace, of which two are enough.
    run_eagerly = make not in (COMPOSITIONS["lstm"], COMPOSITIONS["subclassed"])
    model.compile(
        "sgd", NegativeLogLikelihood(), weighted_metrics=[Perplexity()], run_eagerly=run_eagerly
    )
    history = model.fit(windows, windows[:, 1:], verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert len(get_tables(model)) == 1
    if make not in (COMPOSITIONS["stacked"],):  # dropout
        assert history["perplexity"] == pytest.approx([np.exp(-log_probs.mean())], rel=1e-4)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_fits(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        network = keras.layers.SimpleRNN(H, return_sequences=True)
        functional = make_functional(network=network)
    finally:
        keras.config.set_dtype_policy(before)
    # A step takes less time than a trace, of which those of one policy are enough.
    run_eagerly = policy == "mixed_bfloat16"
    functional.compile(keras.optimizers.SGD(0.1), NegativeLogLikelihood(), run_eagerly=run_eagerly)
    whole = LightRNNModel(make_table(), D, H, recurrence="rnn", dtype=policy)
    whole.compile(keras.optimizers.SGD(0.1), run_eagerly=run_eagerly)
    windows = make_windows()
    for model in (functional, whole):
        model(windows)
        before = [np.array(v) for v in model.trainable_variables]
        loss = model.fit(windows, windows[:, 1:], verbose=0).history["loss"]
        assert np.isfinite(loss).all()
        after = [np.array(v) for v in model.trainable_variables]
        assert all(np.isfinite(value).all() for value in after)
        assert any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def make_light_rnn():
    model = LightRNNModel(make_table(), D, H, recurrence="gru", word_bias="counts")
    model.build((None, None))
    return model


WHOLE = {"functional": make_functional, "LightRNNModel": make_light_rnn}
every_model = pytest.mark.parametrize("make", WHOLE.values(), ids=list(WHOLE))


def check_one_table(model, windows):
    (table,) = get_tables(model)
    before = np.asarray(model(windows))
    softmax = next(x for x in model._flatten_layers() if isinstance(x, TwoComponentSoftmax))
    embedding = next(x for x in model._flatten_layers() if isinstance(x, TwoComponentEmbedding))
    assert softmax.word_table is embedding.word_table is table
    embedded = np.asarray(embedding(windows))
    table.assign(Allocation.random(V, *table.table_shape, seed=17))
    assert not np.array_equal(embedding(windows), embedded)
    assert not np.allclose(model(windows), before)
    assert sum(v.name == "cells" for v in model.variables) == 1


@every_model
def test_keras_file(make, tmp_path):
    model, windows = make(), make_windows()
    fill_sequentially(model, get_tables(model)[0])
    expected = np.asarray(model(windows))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert get_tables(loaded)[0].allocation == get_tables(model)[0].allocation
    assert_same(loaded(windows), expected)
    check_one_table(loaded, windows)


@every_model
def test_two_models_loaded_have_two_tables(make, tmp_path):
    model = make()
    model.save(tmp_path / "model.keras")
    first, second = (keras.models.load_model(tmp_path / "model.keras") for _ in range(2))
    assert get_tables(first)[0] is not get_tables(second)[0]


def test_keras_file_goes_on_training(tmp_path):
    model, windows = make_light_rnn(), make_windows()
    model.assign_word_counts(np.arange(1, V + 1))
    model.compile(keras.optimizers.Adam(0.01), run_eagerly=True)  # a step needs no trace
    model.fit(windows, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert int(loaded.optimizer.iterations) == 1
    both = [m.fit(windows, epochs=2, verbose=0).history for m in (model, loaded)]
    assert sorted(both[1]) == ["loss", "perplexity"]
    for name in both[0]:
        assert both[1][name] == pytest.approx(both[0][name], rel=1e-5)


@every_model
@pytest.mark.parametrize("way", ["callback", *WAYS])
def test_weights_files(make, way, tmp_path):
    model, other, windows = make(), make(), make_windows()
    fill_sequentially(model, get_tables(model)[0])
    if way == "callback":
        loss = {} if isinstance(model, LightRNNModel) else {"loss": NegativeLogLikelihood()}
        model.compile("sgd", run_eagerly=True, **loss)  # a step needs no trace
        path = tmp_path / "epoch-{epoch}.weights.h5"
        callback = keras.callbacks.ModelCheckpoint(path, save_weights_only=True)
        model.fit(windows, windows[:, 1:], epochs=1, verbose=0, callbacks=[callback])
        other.load_weights(tmp_path / "epoch-1.weights.h5")
    else:
        bring_weights(way, model, other, tmp_path)
    assert get_tables(other)[0].allocation == get_tables(model)[0].allocation
    assert_same(other(windows), np.asarray(model(windows)))
    check_one_table(other, windows)


def test_clone_model_keeps_one_table_inside_an_object_sharing_scope():
    from keras.src.saving.serialization_lib import ObjectSharingScope

    model, windows = make_functional(), make_windows()
    with ObjectSharingScope():
        clone = keras.models.clone_model(model)
    assert get_tables(clone)[0] is not get_tables(model)[0]
    check_one_table(clone, windows)
    # Outside of one every layer has its own, as Keras clones layer by layer.
    assert len(get_tables(keras.models.clone_model(model))) == 2


def test_any_batch_and_length(rng):
    model = make_functional()
    for batch_size, length in ((1, 2), (B, T + 1), (5, 3)):
        windows = rng.integers(V, size=(batch_size, length))
        assert model(windows).shape == (batch_size, length - 1)
