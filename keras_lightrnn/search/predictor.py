"""A network and its softmax as the compiled functions that a search calls."""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lightrnn._internal.inference import view_values
from keras_lightrnn._internal.typing import Cache, Tensor, WordIds
from keras_lightrnn.ops.look_up import look_up
from keras_lightrnn.recurrence.networks import WordNetwork
from keras_lightrnn.search.layer_search import (
    check_states,
    list_row_offsets,
    predict_all_rows,
    predict_columns,
)
from keras_lightrnn.search.prefixes import Prefixes
from keras_lightrnn.search.row_search import ROWS_AT_ONCE, RowSearch
from keras_lightrnn.search.table_search import SearchedTable, TablesSearch

# JAX compiles a function for so many rows of all texts together.
_SIZES = (1, 4, 16, 64, ROWS_AT_ONCE)


class Predictor(abc.ABC):
    """A network and a softmax as functions of tensors, compiled on first use.

    The functions pass a context to each other: the cache of the network, and tensors that are
    computed from the hidden states once for all rows.

    Args:
        network: `WordNetwork` or `StepNetwork`.
        softmax: `TwoComponentSoftmax`.
        compile_function: `(function, any_size) -> compiled function`: see `compile_inference`.
    """

    def __init__(self, network: Any, softmax: Any, compile_function: Callable[..., Any]) -> None:
        self.network = network
        self.softmax = softmax
        self._compile_function = compile_function
        self._compiled: dict[tuple[Any, ...], Callable[..., Any]] = {}

    def run(self, name: str, *args: Any, any_size: bool = True, **options: Any) -> Any:
        """Run one of the methods below, which take tensors, compiled for its options."""
        key = (name, any_size, len(args), *options.items())
        if key not in self._compiled:
            method = getattr(self, name)

            # Not a partial, whose options TensorFlow counts as arguments.
            def function(*args: Any) -> Any:
                return method(*args, **options)

            self._compiled[key] = self._compile_function(function, any_size)
        return self._compiled[key](*args)

    # Functions of tensors.

    def score_windows(self, words: WordIds) -> Tensor:
        """Return the log-probabilities of the words 1..N-1 of sequences, from the zero state."""
        states, _ = self.network.run_windows(words, training=False)
        return self.softmax(states, words[:, 1:], training=False)

    def score_windows_fused(self, words: WordIds) -> Tensor:
        """Do what `score_windows` does; faster, but compiled for each shape of `words`."""
        states, _ = self.network.run_windows(words, training=False, fused=True)
        return self.softmax(states, words[:, 1:], training=False, fused=True)

    def score_states(self, words: WordIds, states: Cache) -> tuple[Tensor, Tensor, Cache]:
        """Return the states before the words 1..N-1 of sequences, the log-probabilities of these
        words, and the last states, from which the next windows start.
        """
        hidden, states = self.network.run_windows(words, states, training=False)
        log_probs = self.softmax(hidden, words[:, 1:], training=False)
        # Of one dtype, whatever the policy, for one compiled function.
        states = keras.tree.map_structure(lambda x: ops.cast(x, "float32"), states)
        return self.network.get_word_states(hidden), log_probs, states

    def read_prefixes_with_states(
        self, words: WordIds, lengths: Tensor = None
    ) -> tuple[Tensor, list[Tensor], Cache]:
        """Return the states after each word, `(B, N, H)`, and what `read_prefixes` returns."""
        states, *started = self.network.start_with_states(words, lengths)
        offsets = list_row_offsets(self.softmax)
        return states, *self._predict_rows("start", words, tuple(started), offsets)

    def read_prefixes(
        self,
        words: WordIds,
        lengths: Tensor = None,
        source: Cache = None,
        max_length: int | None = None,
    ) -> tuple[list[Tensor], Cache]:
        """Return the log-probabilities of rows after prefixes `(B, N)`, and a context.

        The log-probabilities are a list with one tensor `(B, R)` for each table. For the other
        arguments see `StepNetwork.start`.
        """
        offsets = list_row_offsets(self.softmax)
        started = self.network.start(words, lengths, max_length, source)
        return self._predict_rows("start", words, started, offsets)

    def read_words(
        self, words: WordIds, cache: Cache, row_offsets: list[Tensor]
    ) -> tuple[list[Tensor], Cache]:
        """Return what `read_prefixes` does, after one more word of each text, `(B,)`."""
        return self._predict_rows("step", words, self.network.step(words, cache), row_offsets)

    def _predict_rows(
        self, method: str, words: WordIds, read: tuple[Tensor, Cache], row_offsets: list[Tensor]
    ) -> tuple[list[Tensor], Cache]:
        """Return log-probabilities of rows, and the context: cache, tensors and row offsets."""
        hidden, cache = read
        name = f"the hidden states of {type(self.network).__name__}.{method}"
        hidden = check_states(self.softmax, name, hidden, words.shape[0])
        log_probs, others = self._predict_rows_of(hidden, row_offsets)
        return log_probs, (cache, others, row_offsets)

    @abc.abstractmethod
    def _predict_rows_of(
        self, hidden: Tensor, row_offsets: list[Tensor]
    ) -> tuple[list[Tensor], list[Cache]]:
        """Return log-probabilities of rows, and the tensors that `expand_rows` needs."""

    @abc.abstractmethod
    def get_expandable(self, context: Cache) -> Cache:
        """Return the part of a context that `expand_rows` needs. Each tensor costs time."""

    @abc.abstractmethod
    def expand_rows(
        self, places: Tensor, expandable: Cache, table: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Return the words in rows, `(n, C)`, and their log-probabilities given the row.

        Args:
            places: `(2, n)` int32, texts and rows.
            expandable: What `get_expandable` returned for the context of the texts.
            table: Integer, the table of the rows.
        """


class HalfStepPredictor(Predictor):
    """Reads a row by the second half-step of the network."""

    def _predict_rows_of(
        self, hidden: Tensor, row_offsets: list[Tensor]
    ) -> tuple[list[Tensor], list[Cache]]:
        logits = self.softmax.compute_row_logits(hidden, *row_offsets)
        return [ops.log_softmax(logits)], []

    def get_expandable(self, context: Cache) -> Cache:
        return context[0]  # the cache

    def expand_rows(
        self, places: Tensor, expandable: Cache, table: int = 0
    ) -> tuple[Tensor, Tensor]:
        texts, rows = places[0], places[1]  # (n,) each
        half_steps = self.network.read_rows(rows, take_texts(expandable, texts))
        logits = self.softmax.compute_column_logits(ops.expand_dims(half_steps, 1), rows)[:, 0]
        return look_up(self.softmax.word_table.words, rows), ops.log_softmax(logits)


class WordStepPredictor(Predictor):
    """Reads a row by the row reader of the softmax."""

    def _predict_rows_of(
        self, hidden: Tensor, row_offsets: list[Tensor]
    ) -> tuple[list[Tensor], list[Cache]]:
        predicted = predict_all_rows(self.softmax, hidden, row_offsets)
        log_probs, of_tables = (list(parts) for parts in zip(*predicted, strict=True))
        return log_probs, of_tables

    def get_expandable(self, context: Cache) -> Cache:
        return context[1]

    def expand_rows(
        self, places: Tensor, expandable: Cache, table: int = 0
    ) -> tuple[Tensor, Tensor]:
        softmax = self.softmax.list_tables()[table]
        return predict_columns(softmax, places[0], places[1], expandable[table])


def make_predictor(network: Any, softmax: Any, compile_function: Callable[..., Any]) -> Predictor:
    """Return the predictor for a network."""
    kind = HalfStepPredictor if softmax.row_reader is None else WordStepPredictor
    return kind(network, softmax, compile_function)


def take_texts(cache: Cache, texts: Tensor) -> Cache:
    """Return the cache of the texts at some indices, `(n,)` int32."""
    return keras.tree.map_structure(lambda x: look_up(x, texts), cache)


class NetworkSearch(RowSearch):
    """Search for the next word after some texts, with a `Predictor` of one table."""

    def __init__(self, predictor: Predictor, row_log_probs: Tensor, context: Cache) -> None:
        self.predictor, self.context = predictor, context
        softmax = predictor.softmax
        padding = 0 if softmax.mask_zero else None
        row_log_probs = ops.convert_to_numpy(row_log_probs[0])
        super().__init__(row_log_probs, softmax.word_table.num_columns, padding)

    def compute_columns(self, texts: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _expand_rows(self, texts, rows, 0)

    def find_rows(self, words: np.ndarray) -> np.ndarray:
        return self._cells[words] // self.num_columns

    def all_words(self) -> Iterator[np.ndarray]:
        """Yield the log-probabilities of all words, `(V,)`, for one text after the other.

        Excluded words have a log-probability of minus infinity.
        """
        num_texts, num_rows = self.row_log_probs.shape
        rows, cells = np.arange(num_rows), self._cells
        by_cell = np.empty((num_rows, self.num_columns))
        for text in range(num_texts):
            texts = np.full(num_rows, text)
            for here, _, column_log_probs in self.read_columns(texts, rows):
                by_row = self.row_log_probs[text, here, None]
                np.add(by_row, column_log_probs, out=by_cell[here])
            yield by_cell.ravel()[cells]

    @property
    def _cells(self) -> np.ndarray:
        return view_values(self.predictor.softmax.word_table.cells)


class NetworkTablesSearch(TablesSearch):
    """Search for the next word after some texts, with a `Predictor` of several tables."""

    def __init__(self, predictor: Predictor, row_log_probs: Tensor, context: Cache) -> None:
        self.predictor, self.context = predictor, context
        tables = [
            SearchedTable(
                ops.convert_to_numpy(log_probs),
                functools.partial(_expand_rows, self, table=index),
                view_values(softmax.word_table.cells),
                softmax.word_table.num_columns,
            )
            for index, (log_probs, softmax) in enumerate(
                zip(row_log_probs, predictor.softmax.list_tables(), strict=True)
            )
        ]
        super().__init__(tables, 0 if predictor.softmax.mask_zero else None)


AnySearch = NetworkSearch | NetworkTablesSearch


def read_prefixes(
    predictor: Predictor,
    prefixes: Prefixes,
    source: Cache = None,
    max_length: int | None = None,
) -> AnySearch:
    """Return the search after prefixes. For `source` and `max_length` see `StepNetwork.start`."""
    args = [prefixes.words, prefixes.lengths]
    if source is not None:
        args.append(source)
    options: dict[str, Any] = {"max_length": max_length}
    if isinstance(predictor.network, WordNetwork):
        args, options = _list_arguments(predictor, prefixes), {}
    elif not prefixes.lengths.all():
        raise ValueError(
            "Every prefix must hold at least one word. Received: only padding at index "
            f"{int(prefixes.lengths.argmin())}. Start every text with a start word."
        )
    return _make_search(predictor, predictor.run("read_prefixes", *args, **options))


def read_prefixes_with_states(
    predictor: Predictor, prefixes: Prefixes
) -> tuple[AnySearch, np.ndarray]:
    """Return the search after prefixes, and the states after each of their words, `(B, N, H)`."""
    args = _list_arguments(predictor, prefixes)
    states, *predicted = predictor.run("read_prefixes_with_states", *args)
    return _make_search(predictor, tuple(predicted)), ops.convert_to_numpy(states)


def _list_arguments(predictor: Predictor, prefixes: Prefixes) -> list[np.ndarray]:
    """Return the words of prefixes for a `WordNetwork`, and their lengths if it needs these."""
    # Recurrent layers run faster without a mask. With `mask_zero`, word 0 masks padding.
    if prefixes.have_one_length or predictor.softmax.mask_zero:
        return [prefixes.words]
    return [prefixes.words, prefixes.lengths]


def follow_words(
    search: AnySearch, words: np.ndarray, texts: np.ndarray | None = None
) -> AnySearch:
    """Return the search after one more word of some texts.

    Args:
        search: The search before these words.
        words: `(n,)` int32.
        texts: `(n,)`, the index in `search` of the text that each word follows; `None` for one
            word after each text.
    """
    predictor, (cache, _, row_offsets) = search.predictor, search.context
    if texts is not None:
        shapes = [x.shape for x in keras.tree.flatten(cache)]
        if any(len(shape) == 0 or shape[0] != search.num_texts for shape in shapes):
            raise ValueError(
                f"Every tensor of a cache must have its {search.num_texts} texts as its first "
                f"axis. Received: a cache of {type(predictor.network).__name__} with the shapes "
                f"{[tuple(shape) for shape in shapes]}."
            )
        if not np.array_equal(texts, np.arange(search.num_texts)):  # a copy would take time
            cache = take_texts(cache, ops.convert_to_tensor(texts.astype(np.int32)))
    predicted = predictor.run("read_words", words, cache, row_offsets)
    return _make_search(predictor, predicted)


def _make_search(predictor: Predictor, predicted: tuple[list[Tensor], Cache]) -> AnySearch:
    kind = NetworkSearch if len(predictor.softmax.list_tables()) == 1 else NetworkTablesSearch
    return kind(predictor, *predicted)


def _expand_rows(
    search: AnySearch, texts: np.ndarray, rows: np.ndarray, table: int
) -> tuple[np.ndarray, np.ndarray]:
    places = np.stack([texts, rows]).astype(np.int32)  # (2, n)
    predictor = search.predictor
    expandable = predictor.get_expandable(search.context)
    results = predictor.run("expand_rows", _pad(places), expandable, table=table)
    words, log_probs = (ops.convert_to_numpy(x)[: len(rows)] for x in results)
    return words, log_probs


def _pad(places: np.ndarray) -> np.ndarray:
    """Return places `(2, n)`; on JAX, padded to one of a few sizes, which are compiled."""
    if keras.backend.backend() != "jax":
        return places
    num_rows = places.shape[1]
    size = next(size for size in _SIZES if size >= num_rows)
    return np.pad(places, [(0, 0), (0, size - num_rows)])
