"""Time of a training step of a causal Transformer, with one state a word and with half-steps.

    python benchmarks/transformer_step.py --batch-sizes 4 16

Both models have the same Keras layers between a `TwoComponentEmbedding` and a
`TwoComponentSoftmax`. With `combine="gate"` and a row reader they read each word once. On
half-steps they read twice as many positions. The steps of both alternate in one process. The
figures are CPU time, which depends less on other processes than wall time, and its ratio.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

from keras_lightrnn import WordTable
from keras_lightrnn.layers import TwoComponentEmbedding, TwoComponentSoftmax
from keras_lightrnn.losses import NegativeLogLikelihood


def make_transformer(x: Any, num_layers: int, dim: int) -> Any:
    for _ in range(num_layers):
        normed = keras.layers.LayerNormalization()(x)
        attention = keras.layers.MultiHeadAttention(num_heads=4, key_dim=dim // 4)
        x = x + attention(normed, normed, use_causal_mask=True)
        normed = keras.layers.LayerNormalization()(x)
        inner = keras.layers.Dense(4 * dim, activation="gelu")(normed)
        x = x + keras.layers.Dense(dim)(inner)
    return keras.layers.LayerNormalization()(x)


def make_model(is_half_steps: bool, batch_size: int, args: argparse.Namespace) -> keras.Model:
    table = WordTable(args.vocabulary_size)
    shape = (args.sequence_length + 1,)
    words = keras.Input(shape, dtype="int32", batch_size=batch_size)
    if is_half_steps:
        embedding = TwoComponentEmbedding(table, args.dim, combine="interleave")
        read, row_reader = words, None
    else:
        embedding = TwoComponentEmbedding(table, args.dim)
        read, row_reader = words[:, :-1], "gated"
    states = make_transformer(embedding(read), args.num_layers, args.dim)
    log_probs = TwoComponentSoftmax(table, row_reader=row_reader)(states, words[:, 1:])
    model = keras.Model(words, log_probs)
    model.compile("adam", loss=NegativeLogLikelihood())
    return model


def draw_words(batch_size: int, args: argparse.Namespace) -> np.ndarray:
    """Return windows of words with the frequencies of natural text."""
    chances = 1 / np.arange(1, args.vocabulary_size + 1)
    shape = (batch_size, args.sequence_length + 1)
    words = np.random.default_rng(0).choice(len(chances), shape, p=chances / chances.sum())
    return words.astype("int32")


def measure(batch_size: int, args: argparse.Namespace) -> dict[str, float]:
    """Return the median CPU milliseconds of a training step, for each form of the states."""
    import tensorflow as tf

    words = draw_words(batch_size, args)
    windows = tf.data.Dataset.from_tensors((words, words[:, 1:])).repeat()
    models = {
        name: make_model(name == "half-steps", batch_size, args)
        for name in ("half-steps", "states")
    }
    times: dict[str, list[float]] = {name: [] for name in models}
    for round_number in range(args.rounds + 1):
        for name, model in models.items():
            start = time.process_time()
            model.fit(windows, steps_per_epoch=args.steps, verbose=0)
            if round_number:  # the first one compiles
                times[name].append(1e3 * (time.process_time() - start) / args.steps)
    return {name: statistics.median(values) for name, values in times.items()}


def main(argv: list[str] | None = None) -> dict[int, dict[str, float]]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[4, 16])
    parser.add_argument("--vocabulary-size", type=int, default=65_025)
    parser.add_argument("--sequence-length", type=int, default=128)
    parser.add_argument("--num-layers", type=int, default=4)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--steps", type=int, default=3, help="steps of each round")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)
    results = {}
    for batch_size in args.batch_sizes:
        results[batch_size] = medians = measure(batch_size, args)
        ratio = medians["states"] / medians["half-steps"]
        print(
            f"batch of {batch_size}: half-steps {medians['half-steps']:.1f} ms, "
            f"states {medians['states']:.1f} ms, ratio {ratio:.3f}",
            flush=True,
        )
    return results


if __name__ == "__main__":
    main()
