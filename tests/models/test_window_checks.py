"""What `fit`, `evaluate` and `predict` refuse to read, before anything is made of it."""

from __future__ import annotations

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lightrnn import LightRNNModel
from keras_lightrnn.callbacks import ReallocationCallback, TrainingBackup

pytestmark = pytest.mark.usefixtures("no_xla")
WINDOWS = np.random.default_rng(0).integers(11, size=(4, 3))
RAGGED = tf.ragged.constant([[1, 2, 3], [1, 2]])


def make(run_eagerly=False, **kwargs):
    model = LightRNNModel(11, embedding_dim=3, units=3, recurrence="rnn", **kwargs)
    model.compile("sgd", run_eagerly=run_eagerly)
    return model


def make_dataset(tensors):
    return tf.data.Dataset.from_tensor_slices(tensors)


CASES = [
    (np.zeros((0, 4), int), ValueError, "`x` must hold at least one window"),
    (np.zeros((3, 1), int), ValueError, r"`x` must hold windows.*\(3, 1\)"),
    (np.zeros(5, int), ValueError, r"`x` must hold windows.*\(5,\)"),
    ((WINDOWS, WINDOWS), ValueError, r"`x` must hold windows.*\(2, 4, 3\)"),
    ([[1, 2, 3], [1, 2]], ValueError, "2 windows of unequal lengths.*sample weight 0"),
    ([[1, 2, 11]], ValueError, r"\[0, 11\).*id 11 at position \(0, 2\)"),
    ([[1, -1, 2]], ValueError, r"\[0, 11\).*id -1 at position \(0, 1\)"),
    ([[1.0, 2.5]], ValueError, "whole numbers.*float64"),
    ([[1.0, np.nan]], ValueError, "whole numbers.*float64"),
    (WINDOWS > 5, TypeError, "whole numbers.*dtype=bool.*Vocabulary.encode"),
    ([["the", "end"]], TypeError, "whole numbers.*dtype=<U3"),
    (tf.constant([["the", "end"]]), TypeError, "whole numbers.*dtype=object"),
    (None, TypeError, "array of windows.*of type NoneType"),
    ("the end", TypeError, "array of windows.*of type str"),
    ({"words": WINDOWS}, TypeError, "array of windows.*of type dict"),
    (RAGGED, TypeError, "array of windows.*of type RaggedTensor.*sample weight 0"),
    (tf.sparse.from_dense(WINDOWS), TypeError, "array of windows.*of type SparseTensor"),
    (make_dataset(WINDOWS), ValueError, r"batches of the dataset `x`.*\.batch\(batch_size\)"),
    (make_dataset(WINDOWS).batch(2).batch(2), ValueError, r"\(None, None, 3\)"),
    (make_dataset(WINDOWS[:, :1]).batch(2), ValueError, r"at least two words.*\(None, 1\)"),
    (make_dataset(RAGGED).batch(2), TypeError, "dense tensor.*RaggedTensorSpec"),
    (make_dataset({"words": WINDOWS}).batch(2), TypeError, r"elements of the dataset.*\{'words'"),
    (make_dataset([["the", "end"]]).batch(1), TypeError, "word ids.*tf.string.*Vocabulary.encode"),
    (
        tf.data.Dataset.from_generator(lambda: iter([WINDOWS]), tf.int32),
        ValueError,
        "<unknown>.*tf.ensure_shape",
    ),
]


@pytest.mark.parametrize(("windows", "kind", "message"), CASES)
def test_windows_are_checked_and_the_model_takes_no_harm(windows, kind, message):
    model = make(run_eagerly=True)  # a step takes less time than a trace
    for method in (model.fit, model.evaluate, model.predict):
        with pytest.raises(kind, match=message):
            method(windows, verbose=0)
    assert not model.built
    assert np.isfinite(model.fit(WINDOWS, verbose=0).history["loss"]).all()


@pytest.mark.parametrize(("windows", "kind", "message"), CASES)
def test_validation_windows_are_checked_before_training(windows, kind, message):
    if windows is None or isinstance(windows, (str, list, tuple)):
        windows = (windows,)  # alone it would be no data, or a tuple of data
    model = make()
    model.build((None, 3))
    before = model.get_weights()
    with pytest.raises(kind, match=message.replace("`x`", "`validation_data`")):
        model.fit(WINDOWS, validation_data=windows, verbose=0)
    for weight, old in zip(model.get_weights(), before, strict=True):
        assert np.array_equal(weight, old)


@pytest.mark.parametrize("make_targets", [np.ndarray.tolist, lambda y: tuple(map(tuple, y))])
def test_targets_may_be_lists(make_targets):
    """Keras would take a list for the targets of several outputs."""
    targets, weights = WINDOWS[:, 1:], np.array([[1, 1], [1, 0], [0, 1], [1, 1]], "float32")

    def train(y):
        keras.utils.set_random_seed(0)
        model = make()
        validation = (WINDOWS, y, weights)
        logs = model.fit(WINDOWS, y, validation_data=validation, verbose=0).history
        split = model.fit(WINDOWS, y, validation_split=0.5, sample_weight=weights, verbose=0)
        return [logs, split.history, model.evaluate(WINDOWS, y, verbose=0)]

    assert train(make_targets(targets)) == train(targets)
    wrong = make_targets(targets[:, ::-1])
    for arguments in ({"y": wrong}, {"validation_data": (WINDOWS, wrong)}):
        with pytest.raises(ValueError, match=r"the second on\. Received: other targets"):
            make().fit(WINDOWS, **arguments)


@pytest.mark.parametrize("data", [(), (WINDOWS, None, None, None)])
def test_validation_data_of_another_number_of_parts(data):
    with pytest.raises(ValueError, match=r"`\(x, y, sample_weight\)`"):
        make().fit(WINDOWS, validation_data=data, verbose=0)


@pytest.mark.parametrize(
    ("validation", "options", "message"),
    [
        (WINDOWS[:3], {"batch_size": 2}, "3 windows of validation, batch_size=2"),
        (WINDOWS, {"batch_size": 2, "validation_batch_size": 4}, "built for: 2.*batch_size=4"),
        (WINDOWS, {"batch_size": 4, "validation_batch_size": 3}, "4 windows of v.*batch_size=3"),
    ],
)
def test_validation_of_a_stateful_model_is_whole_batches(validation, options, message):
    model = make(stateful=True)
    for data in (validation, (validation,), (validation, None, np.ones((len(validation), 2)))):
        with pytest.raises(ValueError, match=message):
            model.fit(WINDOWS, validation_data=data, verbose=0, **options)
    assert int(model.optimizer.iterations) == 0


def test_batches_of_sources_that_say_nothing_are_checked_as_they_come():
    for windows, message in ((WINDOWS[:, :1], "at least two words"), (WINDOWS[0], "A batch must")):
        with pytest.raises(ValueError, match=message):
            make().fit(iter_batches(windows), steps_per_epoch=1, verbose=0)


def test_symbolic_windows_are_checked():
    for shape, message in (((), "Received: words.shape=.None,."), ((1,), "at least two words")):
        with pytest.raises(ValueError, match=message):
            make()(keras.Input(shape, dtype="int32"))


def iter_batches(windows):
    while True:
        yield (windows,)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return (WINDOWS[2 * index : 2 * index + 2],)


@pytest.mark.parametrize(
    "source",
    [
        lambda: Batches(),
        lambda: iter_batches(WINDOWS),
        lambda: make_dataset(WINDOWS).batch(3),
        lambda: make_dataset((WINDOWS,)).batch(3),
        lambda: make_dataset((WINDOWS.astype("float32"), WINDOWS[:, 1:])).batch(3),
    ],
)
def test_sources_of_batches(source):
    history = make().fit(source(), steps_per_epoch=2, validation_data=(WINDOWS,), verbose=0).history
    assert np.isfinite([history["loss"], history["val_loss"]]).all()


def make_generator():
    return (batch for batch in (Batches()[0], Batches()[1]))


def make_loader():
    torch = pytest.importorskip("torch")
    dataset = torch.utils.data.TensorDataset(torch.as_tensor(WINDOWS))
    return torch.utils.data.DataLoader(dataset, batch_size=2)


SOURCES = [make_generator, Batches, make_loader]


@pytest.mark.parametrize("make_source", SOURCES)
@pytest.mark.parametrize("stateful", [False, True])
def test_sources_that_declare_no_shape_build_the_model(tmp_path, make_source, stateful):
    """Before the callbacks, which need a built model, and without losing a batch."""
    # A trace takes longer than two steps, so that only that of a carried state is tried.
    model = make(stateful=stateful, run_eagerly=not stateful)
    callbacks = [ReallocationCallback(verbose=0), TrainingBackup(tmp_path / "a.npz")]
    model.fit(make_source(), callbacks=callbacks, verbose=0)
    assert callbacks[0].num_steps == 2
    if stateful:
        assert model.carried_state.batch_size == 2


def test_a_source_without_batches():
    model = make(stateful=True)
    with pytest.raises(ValueError, match=r"`x` must hold at least one batch.*type generator"):
        model.fit(batch for batch in [])
    assert not model.built


@pytest.mark.parametrize("method", ["fit", "evaluate", "predict"])
def test_arguments_are_those_of_keras(method):
    """In their order, so that code that passes them by position goes on working."""
    received = inspect.signature(getattr(LightRNNModel, method)).parameters
    expected = inspect.signature(getattr(keras.Model, method)).parameters
    assert list(received) == list(expected)
    differing = [name for name in expected if received[name].default != expected[name].default]
    assert differing == (["shuffle"] if method == "fit" else [])
