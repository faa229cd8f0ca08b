"""LightRNN in plain NumPy, word by word and float64: slow, obvious, and nobody's relative.

Nothing here comes from the package: cells without a word are left out of the softmax, instead
of being given a small logit; recurrences are written from their equations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def step_lstm(weights: list[np.ndarray], x: np.ndarray, states: list[np.ndarray]) -> list:
    kernel, recurrent_kernel, bias = weights
    hidden, memory = states
    i, f, g, o = np.split(x @ kernel + hidden @ recurrent_kernel + bias, 4)
    memory = sigmoid(f) * memory + sigmoid(i) * np.tanh(g)
    return [sigmoid(o) * np.tanh(memory), memory]


def step_gru(weights: list[np.ndarray], x: np.ndarray, states: list[np.ndarray]) -> list:
    kernel, recurrent_kernel, (input_bias, recurrent_bias) = weights
    (hidden,) = states
    xz, xr, xg = np.split(x @ kernel + input_bias, 3)
    hz, hr, hg = np.split(hidden @ recurrent_kernel + recurrent_bias, 3)
    z, r = sigmoid(xz + hz), sigmoid(xr + hr)
    return [z * hidden + (1 - z) * np.tanh(xg + r * hg)]


def step_rnn(weights: list[np.ndarray], x: np.ndarray, states: list[np.ndarray]) -> list:
    kernel, recurrent_kernel, bias = weights
    return [np.tanh(x @ kernel + states[0] @ recurrent_kernel + bias)]


STEPS = {"lstm": (step_lstm, 2), "gru": (step_gru, 1), "rnn": (step_rnn, 1)}


@dataclass
class TwoStepSoftmax:
    """`P(row | h^c) P(column | row, h^r)` over the cells that hold a word."""

    cells: np.ndarray  # (V,)
    num_columns: int
    row_kernel: np.ndarray
    column_kernel: np.ndarray
    row_bias: np.ndarray | None = None
    column_bias: np.ndarray | None = None
    word_bias: np.ndarray | None = None
    word_kernel: np.ndarray | None = None
    word_projection: np.ndarray | None = None

    @classmethod
    def of(cls, layer: Any) -> TwoStepSoftmax:
        return cls(
            cells=to_numpy(layer.word_table.cells).astype(int),
            num_columns=layer.word_table.num_columns,
            row_kernel=to_numpy(layer.row_kernel),
            column_kernel=to_numpy(layer.column_kernel),
            row_bias=None if layer.row_bias is None else to_numpy(layer.row_bias),
            column_bias=None if layer.column_bias is None else to_numpy(layer.column_bias),
            word_bias=None if layer.word_bias_values is None else to_numpy(layer.word_bias_values),
            word_kernel=to_numpy(layer.word_kernel) if layer.word_dim else None,
            word_projection=to_numpy(layer.word_projection) if layer.word_dim else None,
        )

    def place(self, word: int) -> tuple[int, int]:
        return divmod(int(self.cells[word]), self.num_columns)

    def words_of_row(self, row: int) -> list[int]:
        return [word for word in range(len(self.cells)) if self.place(word)[0] == row]

    def compute_row_log_prob(self, h: np.ndarray, row: int) -> float:
        def logit(i: int) -> float:
            value = float(h @ self.row_kernel[i])
            if self.row_bias is not None:
                value += self.row_bias[i]
            if self.word_bias is not None:
                value += math.log(sum(math.exp(self.word_bias[w]) for w in self.words_of_row(i)))
            return value

        rows = [i for i in range(len(self.row_kernel)) if self.words_of_row(i)]
        return logit(row) - math.log(sum(math.exp(logit(i)) for i in rows))

    def compute_column_log_prob(self, h: np.ndarray, word: int) -> float:
        def logit(w: int) -> float:
            column = self.place(w)[1]
            value = float(h @ self.column_kernel[column])
            if self.column_bias is not None:
                value += self.column_bias[column]
            if self.word_kernel is not None and w < len(self.word_kernel):
                value += h @ self.word_projection @ self.word_kernel[w]
            return value if self.word_bias is None else value + self.word_bias[w]

        rivals = self.words_of_row(self.place(word)[0])
        return logit(word) - math.log(sum(math.exp(logit(w)) for w in rivals))


@dataclass
class MixtureSoftmax:
    """A softmax with a row reader, on the cells that hold a word."""

    parts: TwoStepSoftmax
    queries: list[tuple[np.ndarray, np.ndarray]]  # of each component, kernel and bias
    row_gate: np.ndarray
    row_shift: np.ndarray | None
    component_kernel: np.ndarray | None = None
    component_bias: np.ndarray | None = None

    @classmethod
    def of(cls, layer: Any) -> MixtureSoftmax:
        kernels = np.split(to_numpy(layer.query_kernel), layer.num_components, axis=1)
        biases = np.split(to_numpy(layer.query_bias), layer.num_components)
        reader, is_mixture = layer.row_reader, layer.num_components > 1
        return cls(
            parts=TwoStepSoftmax.of(layer),
            queries=list(zip(kernels, biases, strict=True)),
            row_gate=to_numpy(reader.row_gate),
            row_shift=None if reader.row_shift is None else to_numpy(reader.row_shift),
            component_kernel=to_numpy(layer.component_kernel) if is_mixture else None,
            component_bias=to_numpy(layer.component_bias) if is_mixture else None,
        )

    def compute_component_log_probs(self, state: np.ndarray, word: int) -> list[float]:
        """Log of the probability of each component and of the word in it."""
        row, _ = self.parts.place(word)
        weights = [0.0]
        if self.component_kernel is not None:
            weights = list(state @ self.component_kernel + self.component_bias)
        total = math.log(sum(math.exp(w) for w in weights))
        log_probs = []
        for weight, (kernel, bias) in zip(weights, self.queries, strict=True):
            query = np.tanh(state @ kernel + bias)
            read = query * (1 + self.row_gate[row])
            if self.row_shift is not None:
                read = read + self.row_shift[row]
            log_prob = self.parts.compute_row_log_prob(query, row)
            log_probs.append(
                weight - total + log_prob + self.parts.compute_column_log_prob(read, word)
            )
        return log_probs

    def compute_log_prob(self, state: np.ndarray, word: int) -> float:
        return math.log(sum(math.exp(x) for x in self.compute_component_log_probs(state, word)))


@dataclass
class LanguageModel:
    """A `LightRNNModel` read out into arrays."""

    softmax: TwoStepSoftmax
    row_embeddings: np.ndarray
    column_embeddings: np.ndarray
    recurrence: str
    word_embeddings: np.ndarray | None = None
    word_projection: np.ndarray | None = None
    layers: list[list[np.ndarray]] = field(default_factory=list)

    @classmethod
    def of(cls, model: Any) -> LanguageModel:
        return cls(
            softmax=TwoStepSoftmax.of(model.softmax),
            row_embeddings=to_numpy(model.embedding.row_embeddings),
            column_embeddings=to_numpy(model.embedding.column_embeddings),
            recurrence=model.recurrence,
            word_embeddings=to_numpy(model.embedding.word_embeddings) if model.word_dim else None,
            word_projection=to_numpy(model.embedding.word_projection) if model.word_dim else None,
            layers=[[to_numpy(w) for w in layer.weights] for layer in model.recurrent_layers],
        )

    def start(self) -> list[list[np.ndarray]]:
        _, num_states = STEPS[self.recurrence]
        return [[np.zeros(weights[1].shape[0])] * num_states for weights in self.layers]

    def read(self, x: np.ndarray, states: list) -> tuple[np.ndarray, list]:
        step, _ = STEPS[self.recurrence]
        new_states = []
        for weights, state in zip(self.layers, states, strict=True):
            state = step(weights, x, state)
            x = state[0]
            new_states.append(state)
        return x, new_states

    def embed_column(self, word: int) -> np.ndarray:
        vector = self.column_embeddings[self.softmax.place(word)[1]]
        if self.word_embeddings is not None and word < len(self.word_embeddings):
            vector = vector + self.word_embeddings[word] @ self.word_projection
        return vector

    def compute_log_probs(self, words: Any) -> np.ndarray:
        """Log-probability of each word of a sequence but the first, `(N,) -> (N - 1,)`."""
        states, log_probs = self.start(), []
        for previous, word in pairwise(words):
            row, _ = self.softmax.place(word)
            h, states = self.read(self.embed_column(previous), states)
            log_prob = self.softmax.compute_row_log_prob(h, row)
            h, states = self.read(self.row_embeddings[row], states)
            log_probs.append(log_prob + self.softmax.compute_column_log_prob(h, word))
        return np.array(log_probs)

    def compute_distribution(self, prefix: Any) -> np.ndarray:
        """Log-probability of every word to follow, one word at a time, `(V,)`."""
        words = range(len(self.softmax.cells))
        return np.array([self.compute_log_probs([*prefix, word])[-1] for word in words])


def to_numpy(tensor: Any) -> np.ndarray:
    import keras

    return np.asarray(keras.ops.convert_to_numpy(tensor), np.float64)
