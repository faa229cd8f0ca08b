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
import time
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from language_model import (
    add_arguments,
    compile_model,
    describe,
    make_light_rnn,
    make_windows,
    read_splits,
)

from keras_lightrnn import Allocation
from keras_lightrnn.callbacks import ReallocationCallback
from keras_lightrnn.cooccurrence import compute_word_features
from keras_lightrnn.reallocation import SimilarityObjective

_OBJECTIVES = ("none", "likelihood", "similarity", "similarity+neighbours")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument(
        "--allocations", nargs="+", default=["random", "cooccurrence"], help="first allocations"
    )
    parser.add_argument("--objectives", nargs="+", default=list(_OBJECTIVES), choices=_OBJECTIVES)
    parser.add_argument("--every", default="600", help="steps, or epoch or plateau")
    parser.add_argument("--max-rounds", type=int, default=1)
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
    model = make_light_rnn(allocation, train, args.word_dim, args)
    windows = make_windows(splits, size, args)
    compile_model(model, len(windows[0]) * args.epochs, args)
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


def main(argv: Sequence[str] | None = None) -> dict[tuple[str, str], list[tuple[float, float]]]:
    args = make_parser().parse_args(argv)
    splits, size = read_splits(args)
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
