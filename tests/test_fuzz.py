"""Whatever is thrown at the public surface, only documented exceptions come out."""

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
DOCUMENTED = (ValueError, TypeError, IndexError)


def call(function, *args, **kwargs):
    """Return what a call returns; `None` for a documented exception."""
    try:
        return function(*args, **kwargs)
    except DOCUMENTED:
        return None


@SETTINGS
@given(st.one_of(ARRAYS, SCALARS), SCALARS, SCALARS)
def test_allocations(cells, num_rows, num_columns):
    allocation = call(Allocation, cells, num_rows, num_columns)
    if allocation is not None:
        assert len(set(allocation.cells.tolist())) == allocation.vocabulary_size
        assert allocation.cells.max(initial=0) < allocation.num_cells


@SETTINGS
@given(SCALARS, SCALARS, SCALARS)
def test_tables(size, num_rows, num_columns):
    for make in (Allocation.random, Allocation.by_frequency):
        call(make, size, num_rows, num_columns)
    call(WordTable, size)


@SETTINGS
@given(st.one_of(ARRAYS, SCALARS), SCALARS, SCALARS)
def test_streams(words, batch_size, sequence_length):
    windows = call(contiguous_windows, words, batch_size, sequence_length)
    if windows is not None:
        window, targets, weight = windows[-1]
        assert window.shape[1] == targets.shape[1] + 1 == weight.shape[1] + 1


ARGUMENTS = ["units", "num_layers", "recurrence", "dropout", "word_bias", "embedding_dim"]


@SETTINGS
@given(st.dictionaries(st.sampled_from(ARGUMENTS), SCALARS, min_size=1, max_size=2))
def test_arguments_of_a_model(arguments):
    model = call(LightRNNModel, V, **{"units": 3, "embedding_dim": 3, **arguments})
    if model is not None:
        model.build((None, None))
        assert np.isfinite(model.score([1, 2, 3])).all()


@SETTINGS
@given(SCALARS, SCALARS)
def test_arguments_of_layers_and_callbacks(first, second):
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
    model.compile("adam")
    model.build((None, None))
    return model


@SETTINGS
@given(st.one_of(ARRAYS, SCALARS), st.integers(-2, 13))
def test_words_given_to_a_model(model, words, k):
    for result in (call(model.score, words), call(model.word_log_probs, words)):
        assert result is None or np.isfinite(result).all()
    found = call(model.next_words, words, k)
    if found is not None:
        assert found[0].shape[-1] == k
    call(model.generate, words, length=k)


@settings(SETTINGS, max_examples=15)
@given(ARRAYS)
def test_windows_given_to_fit(model, windows):
    history = call(model.fit, windows, verbose=0)
    if history is not None:
        assert np.isfinite(history.history["loss"]).all()
