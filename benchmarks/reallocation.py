"""Perplexity with and without reallocation, at the same cost of training.

    python benchmarks/reallocation.py --text train.txt valid.txt test.txt --seeds 0 1 2

Trains the model of `examples/train_language_model.py` from each first allocation, with each
objective and without reallocation. Rounds of reallocation take time, so the runs without them train
for extra steps: as many as fit into the longest time of the rounds and their recompilation, for the
same seed, at the median time of a step (`--equal-steps` turns this off). Prints validation and test
perplexity of every run, then mean and sample standard deviation over the seeds. Choose by
validation; test is for the report. With Penn Treebank on two cores, one epoch of one run takes
about a minute.

With `--row-reading reader` the model takes one step a word, with `--num-tables 2` it has two
tables, each of which takes part in one round of `--max-rounds 2`.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from language_model import (
    StepTimer,
    add_arguments,
    compile_model,
    describe,
    make_allocations,
    make_light_rnn,
    make_windows,
    read_splits,
)

from keras_lightrnn import Allocation
from keras_lightrnn.callbacks import ReallocationCallback
from keras_lightrnn.clustering import compute_word_features
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
    parser.add_argument("--row-reading", choices=("recurrence", "reader"), default="recurrence")
    parser.add_argument("--num-tables", type=int, default=1)
    parser.add_argument(
        "--equal-steps", action="store_true", help="no extra steps for the time of rounds"
    )
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
    splits: list[np.ndarray],
    allocations: list[Allocation],
    objective: str,
    seed: int,
    num_more_steps: float,
    args: argparse.Namespace,
) -> tuple[float, float, float]:
    """Return validation and test perplexity after the last epoch, and the rounds' cost in steps."""
    train, size = splits[0], allocations[0].vocabulary_size
    keras.utils.set_random_seed(seed)
    model = make_light_rnn(allocations, train, args.word_dim, args, args.row_reading)
    windows = make_windows(splits, size, args)
    steps_per_epoch = len(windows[0]) + math.ceil(num_more_steps / args.epochs)
    compile_model(model, steps_per_epoch * args.epochs, args)
    callbacks = make_callbacks(objective, args, train, size)
    timer = StepTimer()
    start = time.perf_counter()
    history = model.fit(
        windows[0].repeat(),
        steps_per_epoch=steps_per_epoch,
        validation_data=windows[1],
        epochs=args.epochs,
        callbacks=[timer, *callbacks],
        verbose=0,
    ).history
    seconds = time.perf_counter() - start
    valid = history["val_perplexity"]
    test = model.evaluate(windows[2], return_dict=True, verbose=0)["perplexity"]
    rounds = [record for callback in callbacks for record in callback.history]
    # After the last round the step is recompiled, without the sums.
    round_seconds = sum(r["seconds"] for r in rounds) + timer.compile_seconds
    round_steps = 1e3 * round_seconds / timer.median_milliseconds
    print(
        f"{objective}: validation "
        f"{' '.join(f'{value:.1f}' for value in valid)}, test {test:.2f}, {seconds:.0f} s, "
        f"{steps_per_epoch * args.epochs:,} steps of {timer.median_milliseconds:.1f} ms, "
        f"rounds as long as {round_steps:.0f}",
        flush=True,
    )
    return valid[-1], test, round_steps


def main(argv: Sequence[str] | None = None) -> dict[tuple[str, str], list[tuple[float, float]]]:
    args = make_parser().parse_args(argv)
    splits, size = read_splits(args)
    results: dict[tuple[str, str], list[tuple[float, float]]] = {
        (first, objective): [] for first in args.allocations for objective in args.objectives
    }
    # The run without an objective is last, because the others determine its extra steps.
    objectives = sorted(args.objectives, key=lambda objective: objective == "none")
    for first in args.allocations:
        for seed in args.seeds:
            start = time.perf_counter()
            allocations = make_allocations(first, splits[0], size, seed, args.num_tables)
            print(f"{first}, seed {seed}: made in {time.perf_counter() - start:.1f} s", flush=True)
            num_more_steps = 0.0
            for objective in objectives:
                is_longer = objective == "none" and not args.equal_steps
                valid, test, round_steps = train_once(
                    splits, allocations, objective, seed, num_more_steps if is_longer else 0, args
                )
                num_more_steps = max(num_more_steps, round_steps)
                results[first, objective].append((valid, test))
    print("\n| first allocation | objective | validation | test |\n|---|---|---|---|")
    for (first, objective), runs in results.items():
        valid, test = (list(values) for values in zip(*runs, strict=True))
        print(f"| {first} | {objective} | {describe(valid)} | {describe(test)} |")
    return results


if __name__ == "__main__":
    main()
