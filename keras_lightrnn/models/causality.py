"""A check that a model predicts every word from the words before it alone."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_lightrnn._internal.keras_internals import list_layers
from keras_lightrnn._internal.run_state import find_run_states
from keras_lightrnn.layers.two_component_softmax import TwoComponentSoftmax
from keras_lightrnn.models.light_rnn_model import LightRNNModel
from keras_lightrnn.ops.word_ids import check_word_ids
from keras_lightrnn.table.linked_variable import LinkedVariable
from keras_lightrnn.table.word_table import WordTable

# Words to change in turn, and words in a vocabulary whose probabilities are added up.
_MAX_PLACES = 8
_MAX_WORDS = 5_000
# Of a change, where nothing should change, and of a sum of probabilities.
_LEAST_CHANGE = 1e-6
_TOLERANCE = 1e-4


def check_causal(model: keras.Model, windows: Any, seed: int = 0) -> None:
    """Check that no log-probability depends on words that it must not depend on.

    A model that reads ahead (`keras.layers.Bidirectional`, attention without a causal mask, states
    that are shifted by one) trains without an error, reports a perplexity that is too low, and
    predicts badly. The check calls the model on windows in which all words from one place on are
    replaced at random: log-probabilities of earlier words must not change. For vocabularies of up
    to 5,000 words it also checks that the probabilities of all words sum to 1 in each of the last
    two places, which fails if the state that predicts a word has read that word.

    It takes about ten calls of the model on `windows`, and `2 V / B` more for the sums. Weights and
    states of the model stay as they are.

    Args:
        model: Model of windows of word ids, `(B, T + 1)`, whose output is the log-probabilities of
            the words `1..T`, `(B, T)`: of `TwoComponentSoftmax`, or a `LightRNNModel`. A functional
            model may have further outputs, such as those of `TargetRanks`, which are not checked.
        windows: Word ids `(B, T + 1)` in `[0, V)`, `T >= 2`, without padding. A few are enough.
        seed: Integer seed of the words that replace others.

    Raises:
        ValueError: if the model is not causal, with the place that leaks and, in a functional
            model, the layer; or if the windows do not fit the model.

    Example:

    >>> from keras_lightrnn.layers import TwoComponentEmbedding, TwoComponentSoftmax
    >>> words = keras.Input((None,), dtype="int32")
    >>> embedding = TwoComponentEmbedding(30, 8, combine="interleave")
    >>> network = keras.layers.Bidirectional(keras.layers.GRU(4, return_sequences=True))
    >>> softmax = TwoComponentSoftmax(embedding.word_table, row_reader=None)
    >>> model = keras.Model(words, softmax(network(embedding(words)), words[:, 1:]))
    >>> try:
    ...     check_causal(model, np.random.default_rng(0).integers(30, size=(4, 6)))
    ... except ValueError as error:
    ...     print("in layer 'bidirectional'" in str(error))
    True
    """
    tables = [layer for layer in list_layers(model) if isinstance(layer, WordTable)]
    if not tables:
        raise ValueError(
            "A check of causality needs a model with a layer of the package. Received: "
            f"{model.name!r}, which has no `WordTable`."
        )
    vocabulary_size = tables[0].vocabulary_size
    windows = np.asarray(windows)
    if windows.ndim != 2 or windows.shape[1] < 3:
        raise ValueError(
            "`windows` must have three words or more each, (B, T + 1). Received: windows of shape "
            f"{windows.shape}."
        )
    check_word_ids(windows, vocabulary_size)
    model = _leave_out_others(model)
    state = _State(model)
    try:
        _check_later_words(model, state, windows, np.random.default_rng(seed), vocabulary_size)
        if vocabulary_size <= _MAX_WORDS:
            # A model that cuts the last word off cannot read the target of the last place.
            for place in (windows.shape[1] - 2, windows.shape[1] - 1):
                _check_sum(model, state, windows, place, vocabulary_size)
    finally:
        state.restore()


def _leave_out_others(model: keras.Model) -> keras.Model:
    """Return a functional model with no other output than the only one of log-probabilities."""
    outputs = getattr(model, "outputs", None) or []
    if len(outputs) < 2:
        return model
    softmaxes = {
        x.name for x in model.layers if isinstance(x, (TwoComponentSoftmax, LightRNNModel))
    }
    named = zip(model.output_names, outputs, strict=True)
    log_probs = [output for name, output in named if name in softmaxes]
    return keras.Model(model.input, log_probs[0]) if len(log_probs) == 1 else model


class _State:
    """The variables that a call of a model may change: recurrent states, seeds, statistics."""

    def __init__(self, model: keras.Model) -> None:
        layers = list_layers(model)
        # The states of Keras's recurrent layers are not among the variables of a model.
        states = [getattr(x, "states", None) for x in layers if getattr(x, "stateful", False)]
        self._states: list[Any] = [
            x for x in keras.tree.flatten(states) if isinstance(x, keras.Variable)
        ]
        others = [x for x in model.non_trainable_variables if not isinstance(x, LinkedVariable)]
        self._values = [(x, keras.ops.convert_to_numpy(x)) for x in (*others, *self._states)]
        self._run_states = [(x, x.read_run_state()) for x in find_run_states(model)]

    def reset(self) -> None:
        """Set recurrent states to zero and everything else to what was found."""
        self.restore()
        for state in self._states:
            state.assign(keras.ops.zeros_like(state))
        for run_state, _ in self._run_states:
            run_state.reset()

    def restore(self) -> None:
        """Set everything to what was found."""
        for variable, value in self._values:
            variable.assign(value)
        for run_state, values in self._run_states:
            run_state.assign_run_state(values)


def _call(model: keras.Model, state: _State, windows: np.ndarray) -> list[np.ndarray]:
    """Return the outputs of a model that starts in the zero state."""
    state.reset()
    outputs = keras.tree.flatten(model(windows, training=False))
    return [keras.ops.convert_to_numpy(x).astype("float64") for x in outputs]


def _check_later_words(
    model: keras.Model,
    state: _State,
    windows: np.ndarray,
    rng: np.random.Generator,
    vocabulary_size: int,
) -> None:
    length = windows.shape[1]
    outputs = _call(model, state, windows)
    shapes = [x.shape for x in outputs]
    if shapes != [(len(windows), length - 1)]:
        raise ValueError(
            "A language model must output one log-probability for each word but the first. "
            f"Received: {len(shapes)} output{'s' * (len(shapes) != 1)} of shape "
            f"{', '.join(map(str, shapes))} for windows of shape {windows.shape}. Give a model "
            "whose only output is that of one `TwoComponentSoftmax`."
        )
    before = outputs[0]
    # Replaced by other words, and never by word 0, which may be padding.
    steps = rng.integers(1, max(2, vocabulary_size - 1), size=windows.shape)
    others = 1 + (np.maximum(windows, 1) - 1 + steps) % max(1, vocabulary_size - 1)
    others = np.minimum(others, vocabulary_size - 1)  # the only word is 0
    places = np.unique(np.linspace(2, length - 1, _MAX_PLACES).astype(int))
    for place in places[::-1]:
        changed = np.where(np.arange(length) < place, windows, others)
        (after,) = _call(model, state, changed)
        leaks = np.abs(after - before)[:, : place - 1] > _LEAST_CHANGE
        if leaks.any():
            word = 1 + int(np.flatnonzero(leaks.any(axis=0))[0])
            layer = _find_leak(model, state, windows, changed, place)
            raise ValueError(
                "A language model must predict each word from the words before it. Received: a "
                f"log-probability of word {word} that changes with word {place}"
                f"{'' if layer is None else f', in layer {layer!r}'}. Use layers that do not read "
                "ahead: recurrent layers in one direction, attention with `use_causal_mask=True`, "
                '`keras.layers.Conv1D(padding="causal")`.'
            )


def _find_leak(
    model: keras.Model, state: _State, windows: np.ndarray, changed: np.ndarray, place: int
) -> str | None:
    """Return the name of the first layer of a functional model that reads ahead."""
    if not getattr(model, "inputs", None):
        return None
    for layer in model.layers:
        output = keras.tree.flatten(layer.output)[0]
        if len(output.shape) < 3:  # (B, L, ...): word ids themselves are left out
            continue
        part = keras.Model(model.input, output)
        (before,), (after,) = (_call(part, state, x) for x in (windows, changed))
        # Steps up to the word before `place`: one a word, or half-steps c_0 r_1 c_1 r_2 ...
        is_interleaved = before.shape[1] == 2 * (windows.shape[1] - 1)
        steps = 2 * place - 1 if is_interleaved else place
        if (np.abs(after - before)[:, :steps] > _LEAST_CHANGE).any():
            return layer.name
    return None


def _check_sum(
    model: keras.Model, state: _State, windows: np.ndarray, place: int, vocabulary_size: int
) -> None:
    """Check that the probabilities of all words in one place of a window sum to 1."""
    batch_size = len(windows)
    log_probs = []
    for start in range(0, vocabulary_size, batch_size):
        words = np.arange(start, start + batch_size) % vocabulary_size
        window = np.repeat(windows[:1], batch_size, axis=0)
        window[:, place] = words
        log_probs.append(_call(model, state, window)[0][:, place - 1])
    probabilities = np.exp(np.concatenate(log_probs)[:vocabulary_size])
    total, words_only = probabilities.sum(), probabilities[1:].sum()
    # If word 0 is padding its log-probability means nothing, and the others sum to 1 or less.
    is_masked = any(getattr(layer, "mask_zero", False) for layer in list_layers(model))
    if words_only > 1 + _TOLERANCE or not (is_masked or abs(total - 1) <= _TOLERANCE):
        raise ValueError(
            "The probabilities of all words in one place must sum to 1. Received: a sum of "
            f"{total:.6g} over {vocabulary_size} words. The state that predicts a word depends on "
            "that word. Give `TwoComponentSoftmax` the states before the words of `targets`."
        )
