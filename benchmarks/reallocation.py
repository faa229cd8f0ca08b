"""What is reallocation worth in perplexity, at the same number of training steps?

    python benchmarks/reallocation.py --text train.txt valid.txt test.txt --seeds 0 1 2

Trains the model of `examples/train_language_model.py` from each first allocation, without and
with each objective, and prints validation and test perplexity of every run, then mean and sample
standard deviation over the seeds. Choose by validation; test is for the report. Takes about as
many minutes as runs times epochs on two cores with Penn Treebank.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

from keras_lightrnn import Allocation, LightRNNModel
from keras_lightrnn.callbacks import ReallocationCallback
from keras_lightrnn.cooccurrence import compute_word_features
from keras_lightrnn.data import Vocabulary, read_lines, token_windows
from keras_lightrnn.reallocation import SimilarityObjective

_OBJECTIVES = ("none", "likelihood", "similarity", "similarity+neighbours")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", nargs=3, required=True, metavar=("TRAIN", "VALID", "TEST"))
    parser.add_argument("--vocabulary-size", type=int, help="most words (default: all)")
    parser.add_argument("--max-words", type=int, help="train on so many words at most")
    parser.add_argument(
        "--allocations", nargs="+", default=["random", "cooccurrence"], help="first allocations"
    )
    parser.add_argument("--objectives", nargs="+", default=list(_OBJECTIVES), choices=_OBJECTIVES)
    parser.add_argument("--every", default="600", help="steps, or epoch or plateau")
    parser.add_argument("--max-rounds", type=int, default=1)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--units", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=20)
    parser.add_argument("--sequence-length", type=int, default=35)
    return parser


def make_callbacks(objective: str, args: argparse.Namespace, train: Any, size: int) -> list[Any]:
    if objective == "none":
        return []
    value: Any = objective
    if objective == "similarity+neighbours":
        value = SimilarityObjective(compute_word_features(train, size)[0])
    every = int(args.every) if args.every.isdigit() else args.every
    return [ReallocationCallback(value, every=every, max_rounds=args.max_rounds)]


def train_once(
    splits: list[np.ndarray], size: int, first: str, objective: str, seed: int, args: Any
) -> tuple[float, float]:
    """Return validation and test perplexity after the last epoch."""
    train = splits[0]
    keras.utils.set_random_seed(seed)
    if first == "cooccurrence":
        allocation = Allocation.from_cooccurrence(train, size, seed=seed)
    else:
        allocation = Allocation.random(size, seed=seed)
    model = LightRNNModel(allocation, args.units, args.units, stateful=True, word_bias="counts")
    model.assign_word_counts(np.bincount(train, minlength=size))
    windows = [
        token_windows(words, args.batch_size, args.sequence_length, vocabulary_size=size)
        for words in splits
    ]
    schedule = keras.optimizers.schedules.CosineDecay(
        0.004, len(windows[0]) * args.epochs, alpha=0.02
    )
    model.compile(keras.optimizers.Adam(schedule, global_clipnorm=1.0))
    start = time.perf_counter()
    history = model.fit(
        windows[0],
        validation_data=windows[1],
        epochs=args.epochs,
        callbacks=make_callbacks(objective, args, train, size),
        verbose=0,
    ).history
    seconds = time.perf_counter() - start
    valid = history["val_perplexity"]
    test = model.evaluate(windows[2], return_dict=True, verbose=0)["perplexity"]
    print(
        f"{first} / {objective} / seed {seed}: validation "
        f"{' '.join(f'{value:.1f}' for value in valid)}, test {test:.2f}, {seconds:.0f} s",
        flush=True,
    )
    return valid[-1], test


def describe(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def main(argv: Sequence[str] | None = None) -> dict[tuple[str, str], list[tuple[float, float]]]:
    args = make_parser().parse_args(argv)
    vocabulary = Vocabulary.from_lines(read_lines(args.text[0]), max_size=args.vocabulary_size)
    splits = [vocabulary.encode_lines(read_lines(path)) for path in args.text]
    splits[0] = splits[0][: args.max_words]
    size = len(vocabulary)
    print(f"{len(splits[0]):,} training words, vocabulary of {size:,}", flush=True)
    results = {
        (first, objective): [
            train_once(splits, size, first, objective, seed, args) for seed in args.seeds
        ]
        for first in args.allocations
        for objective in args.objectives
    }
    print("\n| first allocation | objective | validation | test |\n|---|---|---|---|")
    for (first, objective), runs in results.items():
        valid, test = (list(values) for values in zip(*runs, strict=True))
        print(f"| {first} | {objective} | {describe(valid)} | {describe(test)} |")
    return results


if __name__ == "__main__":
    main()
