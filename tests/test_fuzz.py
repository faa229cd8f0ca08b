"""Whatever is thrown at the public surface, only documented exceptions come out.

Half of the calls make sense, so that what comes out of those is looked at.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from keras_lightrnn import Allocation, LightRNNModel, WordTable
from keras_lightrnn.callbacks import HalfStepStatistics, ReallocationCallback, TrainingBackup
from keras_lightrnn.data import contiguous_windows
from keras_lightrnn.layers import TwoComponentEmbedding, TwoComponentSoftmax

pytestmark = pytest.mark.usefixtures("no_xla")
SETTINGS = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
V = 11
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 40),
    st.floats(allow_nan=True, allow_infinity=True, width=32),
    st.sampled_from(["", "lstm", "interleave", "counts", "7", b"x"]),
    st.just([]),
    st.just({}),
)
ARRAYS = npst.arrays(
    dtype=st.sampled_from(["int8", "int32", "int64", "uint16", "float32", "bool", "<U2", "O"]),
    shape=npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6),
    elements=None,
    fill=st.nothing(),
)
SIZES = st.integers(1, 9)
WORDS = npst.arrays(
    dtype=st.sampled_from(["int32", "int64", "uint16"]),
    shape=npst.array_shapes(min_dims=1, max_dims=2, min_side=1, max_side=6),
    elements=st.integers(0, V - 1),
)
WINDOWS = npst.arrays(
    dtype="int32",
    shape=npst.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=6),
    elements=st.integers(0, V - 1),
)
DOCUMENTED = (ValueError, TypeError, IndexError)


called: set[str] = set()
accepted: set[str] = set()


def call(function, *args, **kwargs):
    """Return what a call returns; `None` for a documented exception."""
    called.add(function.__name__)
    try:
        value = function(*args, **kwargs)
    except DOCUMENTED:
        return None
    accepted.add(function.__name__)
    return value


@pytest.fixture(autouse=True)
def some_calls_are_accepted():
    called.clear()
    accepted.clear()
    yield
    assert accepted == called


def sensible_or_not(sensible, *wild):
    """Give a test one argument, a tuple, that makes sense in half of its calls."""
    return given(st.one_of(sensible, st.tuples(*wild)))


@SETTINGS
@sensible_or_not(
    st.tuples(st.permutations(range(9)), st.integers(3, 6), st.integers(3, 6)),
    st.one_of(ARRAYS, SCALARS),
    SCALARS,
    SCALARS,
)
def test_allocations(arguments):
    allocation = call(Allocation, *arguments)
    if allocation is not None:
        assert len(set(allocation.cells.tolist())) == allocation.vocabulary_size
        assert allocation.cells.max(initial=0) < allocation.num_cells


@SETTINGS
@sensible_or_not(st.tuples(SIZES, st.integers(3, 6), st.integers(3, 6)), SCALARS, SCALARS, SCALARS)
def test_tables(arguments):
    for make in (Allocation.random, Allocation.by_frequency):
        allocation = call(make, *arguments)
        assert allocation is None or allocation.vocabulary_size == arguments[0]
    call(WordTable, arguments[0])


@SETTINGS
@sensible_or_not(
    st.tuples(npst.arrays("int32", st.integers(20, 40)), st.integers(1, 4), st.integers(1, 4)),
    st.one_of(ARRAYS, SCALARS),
    SCALARS,
    SCALARS,
)
def test_streams(arguments):
    windows = call(contiguous_windows, *arguments)
    batch = None if windows is None else call(windows.__getitem__, -1)
    if batch is not None:
        window, targets, weight = batch
        assert window.shape[1] == targets.shape[1] + 1 == weight.shape[1] + 1


ARGUMENTS = ["units", "num_layers", "recurrence", "dropout", "word_bias", "embedding_dim"]


@SETTINGS
@given(
    st.one_of(
        st.fixed_dictionaries({"units": SIZES, "num_layers": st.integers(1, 3)}),
        st.dictionaries(st.sampled_from(ARGUMENTS), SCALARS, min_size=1, max_size=2),
    )
)
def test_arguments_of_a_model(arguments):
    model = call(LightRNNModel, V, **{"units": 3, "embedding_dim": 3, **arguments})
    if model is not None:
        model.build((None, None))
        assert np.isfinite(model.score([1, 2, 3])).all()


@SETTINGS
@sensible_or_not(st.sampled_from([(8, 3), ("counts", 3)]), SCALARS, SCALARS)
def test_arguments_of_layers_and_callbacks(arguments):
    first, second = arguments
    call(TwoComponentEmbedding, first, second)
    call(TwoComponentEmbedding, V, 3, combine=first)
    call(TwoComponentSoftmax, V, word_bias=first)
    call(HalfStepStatistics, first, second)
    for name in ("objective", "every", "max_rounds", "minimum_gain"):
        call(ReallocationCallback, **{name: first})
    call(TrainingBackup, "a.npz", every_steps=first)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    model = LightRNNModel(V, 3, 3)
    model.compile("sgd")
    model.build((None, None))
    return model


@SETTINGS
@sensible_or_not(
    st.tuples(WORDS, st.integers(1, V)), st.one_of(ARRAYS, SCALARS), st.integers(-2, 13)
)
def test_words_given_to_a_model(model, arguments):
    words, k = arguments
    for result in (call(model.score, words), call(model.word_log_probs, words)):
        assert result is None or np.isfinite(result).all()
    found = call(model.next_words, words, k)
    if found is not None:
        assert found[0].shape[-1] == k
    call(model.generate, words, length=k)


@settings(SETTINGS, max_examples=15)
@given(st.one_of(WINDOWS, ARRAYS))
def test_windows_given_to_fit(model, windows):
    history = call(model.fit, windows, verbose=0)
    if history is not None:
        assert np.isfinite(history.history["loss"]).all()
