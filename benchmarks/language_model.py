"""Text, windows and training for the benchmarks of perplexity."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_lightrnn import Allocation, LightRNNModel
from keras_lightrnn.data import Vocabulary, read_lines, token_windows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--text", nargs=3, required=True, metavar=("TRAIN", "VALID", "TEST"))
    add_training_arguments(parser)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--num-layers", type=int, default=1)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--word-dim", type=int, default=0)
    parser.add_argument("--num-word-vectors", type=int)
    add_tie_arguments(parser)
    parser.add_argument("--jit-compile", action="store_true", help="compile whole steps by XLA")


def add_tie_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tie-word-vectors", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--tie-embeddings", action="store_true")


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--vocabulary-size", type=int, help="most words (default: all)")
    parser.add_argument("--max-words", type=int, help="train on so many words at most")
    parser.add_argument("--epochs", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--units", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--sequence-length", type=int, default=35, help="default: %(default)s")
    parser.add_argument("--learning-rate", type=float, default=0.004, help="default: %(default)s")


def read_splits(args: argparse.Namespace) -> tuple[list[np.ndarray], int]:
    """Return the word ids of the texts, training text first, and the vocabulary size."""
    vocabulary = Vocabulary.from_lines(read_lines(args.text[0]), max_size=args.vocabulary_size)
    splits = [vocabulary.encode_lines(read_lines(path)) for path in args.text]
    splits[0] = splits[0][: args.max_words]
    print(f"{len(splits[0]):,} training words, vocabulary of {len(vocabulary):,}", flush=True)
    return splits, len(vocabulary)


def make_windows(splits: list[np.ndarray], size: int, args: argparse.Namespace) -> list[Any]:
    """Make windows of each split. Words that do not occur in the first split have weight 0.

    A model cannot learn them, so they would only add noise to perplexity.
    """
    import tensorflow as tf

    is_known = tf.constant(np.bincount(splits[0], minlength=size) > 0)

    def weigh(window: Any, targets: Any, weights: Any) -> tuple[Any, ...]:
        return window, targets, weights * tf.cast(tf.gather(is_known, targets), weights.dtype)

    return [
        token_windows(words, args.batch_size, args.sequence_length, vocabulary_size=size).map(weigh)
        for words in splits
    ]


def make_allocations(
    first: str, train: np.ndarray, size: int, seed: int, num_tables: int = 1
) -> list[Allocation]:
    """Return the first allocation of each table: from co-occurrences, or random."""
    if first == "cooccurrence":
        return Allocation.from_cooccurrence(train, size, seed=seed, num_tables=num_tables)
    return [Allocation.random(size, seed=seed + 1_000 * table) for table in range(num_tables)]


def make_light_rnn(
    allocations: Allocation | list[Allocation],
    train: np.ndarray,
    word_dim: int,
    args: argparse.Namespace,
    row_reading: str = "recurrence",
    num_components: int = 1,
) -> LightRNNModel:
    """Make the model that the arguments describe; `word_dim=0` makes it without word vectors."""
    model = LightRNNModel(
        allocations,
        args.units,
        args.units,
        num_layers=args.num_layers,
        dropout=args.dropout,
        stateful=True,
        word_bias="counts",
        word_dim=word_dim,
        num_word_vectors=args.num_word_vectors if word_dim == args.word_dim else None,
        tie_word_vectors=args.tie_word_vectors,
        tie_embeddings=args.tie_embeddings,
        row_reading=row_reading,
        num_components=num_components,
    )
    model.assign_word_counts(np.bincount(train, minlength=model.word_table.vocabulary_size))
    return model


def compile_model(model: keras.Model, num_steps: int, args: argparse.Namespace, **kw: Any) -> None:
    """Compile with Adam and a cosine decay of the learning rate over `num_steps`."""
    schedule = keras.optimizers.schedules.CosineDecay(args.learning_rate, num_steps, alpha=0.02)
    optimizer = keras.optimizers.Adam(schedule, global_clipnorm=1.0)
    model.compile(optimizer, jit_compile=args.jit_compile or "auto", **kw)


class StepTimer(keras.callbacks.Callback):
    """Measures training steps; the median is robust to pauses of the machine."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        super().__init__()
        self.clock = clock

    def on_train_begin(self, logs: Any = None) -> None:
        self.seconds: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.start = self.clock()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seconds.append(self.clock() - self.start)

    @property
    def median_milliseconds(self) -> float:
        return 1e3 * statistics.median(self.seconds)

    @property
    def compile_seconds(self) -> float:
        """The seconds of steps that include a compilation, without the first step."""
        least = 20 * statistics.median(self.seconds)
        return sum(seconds for seconds in self.seconds[1:] if seconds > least)


def describe(values: list[float]) -> str:
    """Return the mean, and the sample standard deviation if there are several values."""
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"
