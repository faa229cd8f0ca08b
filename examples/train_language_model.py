"""Train, evaluate and sample a LightRNN language model.

Without arguments it reads the prose of the docstrings of the installed scientific Python
packages, which needs no download. Pass `--text TRAIN VALID TEST` to read text files or pipes
(plain or gzip, one sentence per line, words separated by spaces), or `--dataset NAME` to read a
text dataset of TensorFlow Datasets.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import quiet_start  # noqa: F401 (first, because it imports TensorFlow)

# isort: split
import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging

import keras_lightrnn.datasets  # noqa: F401 (registers python_docstrings)
from keras_lightrnn import Allocation, LightRNNModel
from keras_lightrnn.callbacks import ReallocationCallback
from keras_lightrnn.clustering import compute_word_features
from keras_lightrnn.data import Vocabulary, from_tfds, read_lines, tfds_lines, token_windows
from keras_lightrnn.reallocation import SimilarityObjective
from keras_lightrnn.visualization import export_table_page


def parse_size(text: str) -> int:
    size = int(text)
    if size < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, and is {size}")
    return size


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_argument_group("text")
    source.add_argument(
        "--dataset", default="python_docstrings", help="TFDS text dataset (default: %(default)s)"
    )
    source.add_argument(
        "--splits",
        nargs=3,
        metavar=("TRAIN", "VALID", "TEST"),
        default=["train", "validation", "test"],
        help="of the dataset (default: train validation test); of one without validation "
        "'train[2%%:]' 'train[:2%%]' test",
    )
    source.add_argument(
        "--text",
        nargs=3,
        metavar=("TRAIN", "VALID", "TEST"),
        help="files of text instead, gz too; or pipes",
    )
    source.add_argument(
        "--max-words",
        type=parse_size,
        help="train on at most this many words (default: all; 500,000 of "
        "the default dataset, to finish in minutes)",
    )
    source.add_argument(
        "--vocabulary-size",
        type=parse_size,
        default=10_000,
        help="most words (default: %(default)s)",
    )
    model = parser.add_argument_group("model")
    model.add_argument(
        "--units", type=parse_size, default=200, help="a layer (default: %(default)s)"
    )
    model.add_argument("--layers", type=parse_size, default=1, help="default: %(default)s")
    model.add_argument("--recurrence", choices=("lstm", "gru", "rnn"), default="lstm")
    model.add_argument("--dropout", type=float, default=0.1, help="default: %(default)s")
    model.add_argument(
        "--row-reading",
        choices=("reader", "recurrence"),
        default="reader",
        help="one step a word, or two half-steps as published (default: %(default)s)",
    )
    model.add_argument(
        "--components",
        type=parse_size,
        default=1,
        help="components of the mixture that each table has (default: %(default)s)",
    )
    model.add_argument(
        "--tables",
        type=parse_size,
        default=1,
        help="tables of words; several need --allocation cooccurrence (default: %(default)s)",
    )
    model.add_argument(
        "--allocation",
        choices=("cooccurrence", "frequency", "random"),
        default="cooccurrence",
        help="first allocation of words to cells (default: %(default)s)",
    )
    model.add_argument(
        "--reallocate",
        choices=("similarity", "likelihood"),
        help="reallocate words by this objective after the first epoch (default: never)",
    )
    model.add_argument(
        "--word-bias",
        choices=("none", "counts", "trainable"),
        default="counts",
        help="default: %(default)s",
    )
    model.add_argument(
        "--word-dim",
        type=int,
        default=0,
        help="size of an additional small vector per word, at the input and at the output "
        "(default: none, as published)",
    )
    model.add_argument(
        "--tie-embeddings",
        action="store_true",
        help="the same vectors of rows and columns at the input and at the output",
    )
    training = parser.add_argument_group("training")
    training.add_argument("--epochs", type=parse_size, default=5, help="default: %(default)s")
    training.add_argument("--batch-size", type=parse_size, default=20, help="default: %(default)s")
    training.add_argument(
        "--sequence-length", type=parse_size, default=35, help="default: %(default)s"
    )
    training.add_argument("--learning-rate", type=float, default=0.004, help="default: %(default)s")
    training.add_argument(
        "--devices",
        nargs="+",
        metavar="DEVICE",
        help="train on several with tf.distribute.MirroredStrategy, such as GPU:0 GPU:1; the batch "
        "is divided among them (default: one)",
    )
    training.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("lightrnn-model"),
        help="directory for model.keras, vocabulary.txt, allocation.npz and table.html, a page "
        "that shows the table (default: %(default)s)",
    )
    return parser


def read_text(args: argparse.Namespace) -> tuple[list[np.ndarray], Vocabulary]:
    """Return the word ids of the three splits, and the vocabulary of the first."""
    size = args.vocabulary_size
    if args.text:
        for path in args.text:
            os.stat(path)  # fails now if a file is missing
        lines = list(read_lines(args.text[0]))  # kept because a pipe can be read only once
        vocabulary = Vocabulary.from_lines(lines, max_size=size)
        others = [vocabulary.encode_lines(read_lines(path)) for path in args.text[1:]]
        return [vocabulary.encode_lines(lines), *others], vocabulary
    # TFDS logs a warning for every data set that it has not prepared yet.
    logging.set_verbosity(logging.ERROR)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    for split in args.splits:
        tfds_lines(args.dataset, split)  # fails now if the split does not exist
    train, vocabulary = from_tfds(args.dataset, args.splits[0], max_size=size)
    others = [from_tfds(args.dataset, split, vocabulary=vocabulary)[0] for split in args.splits[1:]]
    return [train, *others], vocabulary


def make_strategy(devices: Sequence[str]) -> tf.distribute.Strategy:
    """Return a strategy that mirrors the model on devices. Several CPUs are parts of one."""
    num_cpus = sum("CPU" in device.upper() for device in devices)
    if num_cpus > 1:
        (cpu,) = tf.config.list_physical_devices("CPU")
        part = tf.config.LogicalDeviceConfiguration()
        tf.config.set_logical_device_configuration(cpu, [part] * num_cpus)
    return tf.distribute.MirroredStrategy(devices)


def make_allocations(args: argparse.Namespace, train: np.ndarray, size: int) -> list[Allocation]:
    """Return the first allocation of each table."""
    if args.allocation == "cooccurrence":
        return Allocation.from_cooccurrence(train, size, seed=args.seed, num_tables=args.tables)
    if args.allocation == "random":
        return [Allocation.random(size, seed=args.seed + index) for index in range(args.tables)]
    return [Allocation.by_frequency(size)]


def make_objective(args: argparse.Namespace, train: np.ndarray, size: int) -> Any:
    if args.reallocate == "similarity" and args.allocation == "cooccurrence":
        # The same features as for the first allocation.
        return SimilarityObjective(compute_word_features(train, size)[0])
    return args.reallocate


def compute_unigram_perplexity(counts: np.ndarray, words: np.ndarray) -> float:
    smoothed = counts + 0.5
    return float(np.exp(-np.log(smoothed / smoothed.sum())[words].mean()))


def count_full_softmax_params(size: int, units: int, layers: int) -> int:
    """Count the parameters of an LSTM of the same width with full embeddings and softmax."""
    return 2 * size * units + size + layers * 4 * units * (2 * units + 1)


def print_stage(text: str, start: float) -> None:
    print(f"{text} ({time.perf_counter() - start:.1f} s)", flush=True)


def decode_row(vocabulary: Vocabulary, words: Iterable[int], most: int = 14) -> str:
    return " ".join(vocabulary.words[word] for word in list(words)[:most])


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.tables > 1 and args.allocation == "frequency":
        parser.error(
            "--tables: several tables by frequency are equal, choose --allocation cooccurrence"
        )
    keras.utils.set_random_seed(args.seed)
    # Before anything else, because TensorFlow cannot divide a device that it has used.
    strategy = make_strategy(args.devices) if args.devices else tf.distribute.get_strategy()

    start = time.perf_counter()
    (train, valid, test), vocabulary = read_text(args)
    size = len(vocabulary)
    limit = args.max_words
    if limit is None and not args.text and args.dataset == "python_docstrings":
        limit = 500_000
    train = train[:limit]
    counts = np.bincount(train, minlength=size)
    print_stage(
        f"text: {len(train):,} training, {len(valid):,} validation, {len(test):,} test words, "
        f"vocabulary of {size:,}",
        start,
    )

    start = time.perf_counter()
    allocations = make_allocations(args, train, size)
    print_stage(f"{args.allocation} allocation: {allocations[0]}", start)

    windows = [
        token_windows(words, args.batch_size, args.sequence_length, vocabulary_size=size)
        for words in (train, valid, test)
    ]
    with strategy.scope():
        model = LightRNNModel(
            allocations,
            embedding_dim=args.units,
            units=args.units,
            num_layers=args.layers,
            recurrence=args.recurrence,
            dropout=args.dropout,
            stateful=True,
            word_bias=None if args.word_bias == "none" else args.word_bias,
            word_dim=args.word_dim,
            tie_embeddings=args.tie_embeddings,
            row_reading=args.row_reading,
            num_components=args.components,
        )
        model.compile(
            keras.optimizers.Adam(
                keras.optimizers.schedules.CosineDecay(
                    args.learning_rate, len(windows[0]) * args.epochs, alpha=0.02
                ),
                global_clipnorm=1.0,
            )
        )
    if args.word_bias != "none":
        model.assign_word_counts(counts)
    args.output.mkdir(parents=True, exist_ok=True)
    vocabulary.save(args.output / "vocabulary.txt")
    callbacks: list[Any] = [keras.callbacks.ModelCheckpoint(str(args.output / "model.keras"))]
    if args.reallocate:
        callbacks.insert(0, ReallocationCallback(make_objective(args, train, size)))
    history = model.fit(
        windows[0],
        validation_data=windows[1],
        epochs=args.epochs,
        callbacks=callbacks,
        verbose="auto" if sys.stdout.isatty() else 2,
    )

    result = model.evaluate(windows[2], return_dict=True, verbose=0)
    unigram = compute_unigram_perplexity(counts, test)
    full = count_full_softmax_params(size, args.units, args.layers)
    params = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    print(f"test perplexity {result['perplexity']:.1f} (unigram {unigram:.1f})")
    print(
        f"parameters {params:,}"
        + (f" and {size:,} fixed word biases" if args.word_bias == "counts" else "")
        + f" (full-softmax LSTM of the same width: {full:,})"
    )
    print("\nThree continuations:")
    for seed in range(3):
        prefix = test[: 6 + 4 * seed]
        words = model.generate(
            prefix, 20, temperature=0.8, top_k=min(50, size), seed=args.seed + seed
        )
        print(f"  {vocabulary.decode(prefix)} | {vocabulary.decode(words)}")
    print("\nThree rows of the table:")
    table = model.word_table.allocation
    for row in np.linspace(0, table.num_rows - 1, 5).astype(int)[1:4]:
        in_row = table.words_in_row(row)
        print(f"  {decode_row(vocabulary, in_row[np.argsort(-counts[in_row])])}")
    model.save(args.output / "model.keras")
    table.save(args.output / "allocation.npz")
    export_table_page(model.word_tables, args.output / "table.html", vocabulary, counts, history)
    print(f"\nSaved to {args.output}/")
    return {"test_perplexity": result["perplexity"], "unigram_perplexity": unigram}


if __name__ == "__main__":
    main()
