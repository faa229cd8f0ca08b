"""Train a causal Transformer of Keras layers over a large vocabulary, and generate with a cache.

Without arguments it reads the prose of the docstrings of the installed scientific Python
packages, which needs no download. Pass `--text TRAIN VALID` to read text files (plain or gzip,
one sentence per line, words separated by spaces).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import quiet_start  # noqa: F401 (first, because it imports TensorFlow)

# isort: split
import keras
import numpy as np
import tensorflow as tf
from absl import logging
from keras import layers, ops

import keras_lightrnn.datasets  # noqa: F401 (registers python_docstrings)
from keras_lightrnn import Allocation, WordTable
from keras_lightrnn.data import Vocabulary, from_tfds, read_lines, token_windows
from keras_lightrnn.layers import TwoComponentEmbedding, TwoComponentSoftmax
from keras_lightrnn.losses import NegativeLogLikelihood
from keras_lightrnn.metrics import Perplexity
from keras_lightrnn.search import StepNetwork, generate
from keras_lightrnn.serving import export_saved_model


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", nargs=2, metavar=("TRAIN", "VALID"), help="files of text")
    parser.add_argument(
        "--max-words", type=int, default=400_000, help="train on at most this many words"
    )
    parser.add_argument("--vocabulary-size", type=int, default=10_000, help="most words")
    parser.add_argument("--dim", type=int, default=128, help="size of the vectors")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--sequence-length", type=int, default=64, help="words of a window")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=0.002)
    parser.add_argument("--length", type=int, default=20, help="words to generate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("transformer-model"),
        help="directory for model.keras, vocabulary.txt and the SavedModel",
    )
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    return parser


def read_text(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, Vocabulary]:
    """Return the word ids for training and for validation, and the vocabulary."""
    size = args.vocabulary_size
    if args.text:
        lines = list(read_lines(args.text[0]))
        vocabulary = Vocabulary.from_lines(lines, max_size=size)
        train = vocabulary.encode_lines(lines)
        valid = vocabulary.encode_lines(read_lines(args.text[1]))
    else:
        logging.set_verbosity(logging.ERROR)  # TFDS warns of data sets that it has to prepare
        train, vocabulary = from_tfds("python_docstrings", "train", max_size=size)
        valid, _ = from_tfds("python_docstrings", "validation", vocabulary=vocabulary)
    return train[: args.max_words], valid[: args.max_words // 10], vocabulary


# The model.


def make_model(
    table: WordTable,
    dim: int,
    num_layers: int,
    num_heads: int,
    max_length: int,
    dropout: float = 0.0,
) -> keras.Model:
    """Return a model from windows `(B, T + 1)` to the log-probabilities of their words 1..T.

    Args:
        table: The table that the first and the last layer share.
        dim: Integer, the size of the vectors of words and states.
        num_layers: Integer, how many blocks.
        num_heads: Integer, the heads of each attention.
        max_length: Integer, the most words of a text.
        dropout: Float, the rate of dropout behind each part of a block.
    """
    windows = keras.Input((None,), dtype="int32", name="words")
    words = windows[:, :-1]
    places = ops.cumsum(ops.ones_like(words), axis=1) - 1
    x = TwoComponentEmbedding(table, dim, name="embedding")(words)
    x = layers.Add()([x, layers.Embedding(max_length, dim, name="positions")(places)])
    for i in range(num_layers):
        y = layers.LayerNormalization(name=f"attention_norm_{i}")(x)
        attention = layers.MultiHeadAttention(num_heads, dim // num_heads, name=f"attention_{i}")
        y = attention(y, y, use_causal_mask=True)
        x = layers.Add()([x, layers.Dropout(dropout)(y)])
        y = layers.LayerNormalization(name=f"dense_norm_{i}")(x)
        y = layers.Dense(4 * dim, "gelu", name=f"wide_{i}")(y)
        y = layers.Dense(dim, name=f"narrow_{i}")(y)
        x = layers.Add()([x, layers.Dropout(dropout)(y)])
    states = layers.LayerNormalization(name="norm")(x)
    softmax = TwoComponentSoftmax(table, word_bias="counts", name="softmax")
    return keras.Model(windows, softmax(states, windows[:, 1:]))


# The same layers word by word, with a cache.


class TransformerSteps(StepNetwork):
    """Reads texts with the layers of a model of `make_model`.

    The cache holds the keys and values of each attention, `(B, L, heads, size)` for texts of at
    most `L` words, and the number of words that each text has.
    """

    def __init__(self, model: keras.Model) -> None:
        self.get = model.get_layer
        self.num_layers = sum(isinstance(x, layers.MultiHeadAttention) for x in model.layers)
        self.max_length = self.get("positions").input_dim
        self.compiled_step = tf.function(self.run_step, reduce_retracing=True)

    def start(self, words: Any, lengths: Any, max_length: int, source: Any = None) -> Any:
        if max_length > self.max_length:
            raise ValueError(
                f"A text may have at most {self.max_length} words, for which the model has "
                f"positions. Received: prefixes and continuations of {max_length} words."
            )
        size = words.shape[1]
        room = [[0, 0], [0, max_length - size], [0, 0], [0, 0]]
        places = ops.broadcast_to(ops.arange(size, dtype="int32"), words.shape)
        states, new = self.read(words, places, lambda i, new: ops.pad(new, room), max_length)
        last = ops.take_along_axis(states, lengths[:, None, None] - 1, axis=1)[:, 0]
        return last, {"keys and values": new, "lengths": lengths}

    def step(self, words: Any, cache: Any) -> Any:
        return self.compiled_step(words, cache)

    def run_step(self, words: Any, cache: Any) -> Any:
        lengths, old = cache["lengths"], cache["keys and values"]
        size = ops.shape(old[0])[1]
        is_here = ops.arange(size) == lengths[:, None]

        def write(index: int, new: Any) -> Any:
            return ops.where(is_here[:, :, None, None], new, old[index])

        states, new = self.read(words[:, None], lengths[:, None], write, size)
        return states[:, 0], {"keys and values": new, "lengths": lengths + 1}

    def read(self, words: Any, places: Any, write: Any, size: Any) -> tuple[Any, list[Any]]:
        """Return the states of words at their places, `(B, n)`, and all keys and values.

        `write(index, new)` returns the keys or values of all `size` places from new ones.
        """
        # A word attends to the places up to its own.
        mask = ops.arange(size) <= places[:, :, None]  # (B, n, size)
        written: list[Any] = []
        x = self.get("embedding")(words) + self.get("positions")(places)
        for i in range(self.num_layers):
            attention = self.get(f"attention_{i}")
            y = self.get(f"attention_norm_{i}")(x)
            written.append(write(2 * i, attention.key_dense(y)))
            written.append(write(2 * i + 1, attention.value_dense(y)))
            query, (keys, values) = attention.query_dense(y), written[-2:]
            y = ops.dot_product_attention(query, keys, values, mask=mask[:, None])
            x = x + attention.output_dense(y)
            y = self.get(f"dense_norm_{i}")(x)
            x = x + self.get(f"narrow_{i}")(self.get(f"wide_{i}")(y))
        return self.get("norm")(x), written


def make_encoder(model: keras.Model) -> keras.Model:
    """Return the model from windows `(B, T + 1)` to the states of their words 0..T-1."""
    return keras.Model(model.input, model.get_layer("norm").output)


def show(vocabulary: Vocabulary, prefix: Any, words: Any) -> str:
    """Return a prefix and its continuation, up to the end word."""
    size = list(words == vocabulary.end_id).index(True) if vocabulary.end_id in words else None
    return f"  {vocabulary.decode(prefix)} | {vocabulary.decode(words[:size])}"


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = make_parser().parse_args(argv)
    keras.utils.set_random_seed(args.seed)
    train, valid, vocabulary = read_text(args)
    size = len(vocabulary)
    counts = np.bincount(train, minlength=size)
    print(f"{len(train):,} training and {len(valid):,} validation words, {size:,} different ones")

    max_length = args.sequence_length  # behind it no position is trained
    table = WordTable(Allocation.from_cooccurrence(train, size, seed=args.seed))
    model = make_model(table, args.dim, args.layers, args.heads, max_length, args.dropout)
    softmax = model.get_layer("softmax")
    softmax.assign_word_counts(counts)
    windows = [
        token_windows(words, args.batch_size, args.sequence_length, **options)
        for words, options in (
            (train, {"contiguous": False, "shuffle": True, "seed": args.seed}),
            (valid, {}),
        )
    ]
    num_steps = args.epochs * len(windows[0])
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, num_steps, warmup_target=args.learning_rate, warmup_steps=max(num_steps // 10, 1)
    )
    model.compile(
        keras.optimizers.Adam(schedule, global_clipnorm=1.0),
        loss=NegativeLogLikelihood(),
        weighted_metrics=[Perplexity()],
    )
    model.fit(
        windows[0],
        validation_data=windows[1],
        epochs=args.epochs,
        shuffle=False,  # the data set is shuffled
        verbose="auto" if sys.stdout.isatty() else 2,
    )
    perplexity = model.evaluate(windows[1], return_dict=True, verbose=0)["perplexity"]
    shares = (counts + 0.5) / (counts + 0.5).sum()
    unigram = float(np.exp(-np.log(shares[valid]).mean()))
    full = 2 * size * args.dim + size
    print(f"validation perplexity {perplexity:.1f} (unigram {unigram:.1f})")
    print(
        f"{model.count_params():,} parameters; Embedding and Dense of the whole vocabulary alone "
        f"would have {full:,}"
    )

    args.output.mkdir(parents=True, exist_ok=True)
    model.save(args.output / "model.keras")
    vocabulary.save(args.output / "vocabulary.txt")
    model = keras.saving.load_model(args.output / "model.keras")
    softmax = model.get_layer("softmax")

    prefixes = [valid[start : start + 4 + 2 * index] for index, start in enumerate((0, 40, 80))]
    print("\nThe likeliest next words:")
    encoder = make_encoder(model)
    for prefix in prefixes:
        states = encoder(np.append(prefix, 0)[None])
        words, log_probs = softmax.next_words(states[:, -1], k=min(5, size))
        found = (
            f"{vocabulary.words[word]} {np.exp(x):.2f}"
            for word, x in zip(words[0], log_probs[0], strict=True)
        )
        print(f"  {vocabulary.decode(prefix)} | {', '.join(found)}")

    steps = TransformerSteps(model)
    length = min(args.length, max_length - max(len(prefix) for prefix in prefixes))
    end = {"end_word": vocabulary.end_id, "excluded": [vocabulary.unknown_id]}
    start = time.perf_counter()
    best = generate(steps, softmax, prefixes, length, num_beams=4, **end)
    sampled = generate(
        steps, softmax, prefixes, length, 0.8, top_k=min(50, size - 1), seed=args.seed, **end
    )
    seconds = time.perf_counter() - start
    for title, continuations in (("Beam search", best), ("Samples", sampled)):
        print(f"\n{title}:")
        for prefix, words in zip(prefixes, continuations, strict=True):
            print(show(vocabulary, prefix, words))
    print(f"({seconds:.1f} s)")

    path = export_saved_model(model, vocabulary, args.output / "served")
    text = vocabulary.decode(valid[:3])
    answer = tf.saved_model.load(path).signatures["next_words"](
        text=tf.constant([text]), k=tf.constant(3)
    )
    words = [word.decode() for word in answer["words"].numpy()[0]]
    print(f"\nThe exported model after {text!r}: {', '.join(words)}\nSaved to {args.output}/")
    return {"perplexity": perplexity, "unigram_perplexity": unigram}


if __name__ == "__main__":
    main()
