"""Perplexity and time of row readers, mixtures, several tables, and half-steps.

    python benchmarks/row_reading.py --text train.txt valid.txt test.txt --seeds 0 1 2
    python benchmarks/row_reading.py --text train.txt valid.txt test.txt --word-dim 16 \\
        --models half-steps reader reader-4
    python benchmarks/row_reading.py --text train.txt valid.txt test.txt --units 128 \\
        --batch-size 64 --epochs 1 --seconds 300

Trains one model after the other on the same text, windows, tables, optimizer and schedule. Prints
the number of parameters, the median time of a training step, words per second, and validation and
test perplexity after the last epoch. The name of a model is a way to read rows, then optionally `-`
and the number of components, and `x` and the number of tables: `reader-2x4` is a mixture over four
tables with two components each. With `--seconds`, each model trains for that time, and the schedule
has as many steps as fit. With `--cache`, each text is also read as one stream with a `NeuralCache`.
With `--log-probs`, the log-probabilities of these streams are written to files, which
`average_models.py` reads.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from average_models import compute_perplexity
from language_model import (
    StepTimer,
    add_arguments,
    compile_model,
    describe,
    make_light_rnn,
    make_windows,
    read_splits,
)

from keras_lightrnn import Allocation, LightRNNModel
from keras_lightrnn.search import NeuralCache

_KINDS = ("validation", "test")
_NAME = re.compile(r"(half-steps|reader)(?:-(\d+))?(?:x(\d+))?")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument(
        "--models", nargs="+", default=["half-steps", "reader", "reader-4", "readerx2"]
    )
    parser.add_argument("--seconds", type=float, help="train each model for so long")
    parser.add_argument("--cache", action="store_true", help="perplexity with a neural cache, too")
    parser.add_argument("--log-probs", type=Path, help="write a file for each model here")
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    return parser


def parse_name(name: str) -> tuple[str, int, int]:
    """Return the way to read rows, the components of each table, and the number of tables."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(
            "A model must be named `half-steps`, or `reader` with `-` and a number of components "
            f"and `x` and a number of tables. Received: {name!r}."
        )
    reading = "recurrence" if match[1] == "half-steps" else "reader"
    return reading, int(match[2] or 1), int(match[3] or 1)


def make_model(
    name: str, allocations: list[Allocation], train: np.ndarray, args: argparse.Namespace
) -> LightRNNModel:
    reading, num_components, num_tables = parse_name(name)
    tables = allocations[:num_tables]
    return make_light_rnn(tables, train, args.word_dim, args, reading, num_components)


def time_steps(model: LightRNNModel, windows: Any, args: argparse.Namespace) -> float:
    """Return the seconds of a step, measured with a model that is discarded."""
    compile_model(model, 100, args)
    timer = StepTimer()
    model.fit(windows.take(30), verbose=0, callbacks=[timer])
    return timer.median_milliseconds / 1e3


def score_streams(
    model: LightRNNModel, splits: list[np.ndarray], cache: NeuralCache | None
) -> dict[str, np.ndarray]:
    """Return the log-probabilities of the words of each text that the training text has."""
    train, *texts = splits
    return {
        kind: model.score(words, cache=cache)[np.isin(words[1:], train)]
        for kind, words in zip(_KINDS, texts, strict=True)
    }


def run(
    name: str,
    allocations: list[Allocation],
    splits: list[np.ndarray],
    seed: int,
    args: argparse.Namespace,
    with_cache: bool = False,
    log_probs_to: Path | None = None,
) -> dict[str, float]:
    size = allocations[0].vocabulary_size
    train, valid, test = make_windows(splits, size, args)
    steps_per_epoch = len(train)
    num_steps, epochs = args.epochs * steps_per_epoch, args.epochs
    keras.utils.set_random_seed(seed)
    if args.seconds:
        seconds = time_steps(make_model(name, allocations, splits[0], args), train, args)
        num_steps = int(args.seconds / seconds)
        epochs = math.ceil(num_steps / steps_per_epoch)
        keras.utils.set_random_seed(seed)
    model = make_model(name, allocations, splits[0], args)
    compile_model(model, num_steps, args)
    timer = StepTimer()
    start = time.perf_counter()
    for epoch in range(epochs):
        rest = num_steps - epoch * steps_per_epoch
        part = train if rest >= steps_per_epoch else train.take(rest)
        model.fit(part, verbose=0, callbacks=[timer])
    seconds = time.perf_counter() - start
    results = {
        kind: model.evaluate(windows, verbose=0, return_dict=True)["perplexity"]
        for kind, windows in zip(_KINDS, (valid, test), strict=True)
    }
    streams = score_streams(model, splits, None) if log_probs_to else {}
    if with_cache:
        cached = score_streams(model, splits, NeuralCache())
        cached = {f"{kind}_with_cache": log_probs for kind, log_probs in cached.items()}
        results |= {kind: compute_perplexity(log_probs) for kind, log_probs in cached.items()}
        streams |= cached
    if log_probs_to:
        log_probs_to.mkdir(parents=True, exist_ok=True)
        np.savez(log_probs_to / f"{name}-seed{seed}.npz", **streams)
    words = args.batch_size * args.sequence_length
    results |= {
        "parameters": sum(int(np.prod(w.shape)) for w in model.trainable_weights),
        "milliseconds": timer.median_milliseconds,
        "words_per_second": 1e3 * words / timer.median_milliseconds,
        "steps": num_steps,
        "seconds": seconds,
    }
    return results


def main(argv: Sequence[str] | None = None) -> dict[str, list[dict[str, float]]]:
    args = make_parser().parse_args(argv)
    num_tables = max(parse_name(name)[2] for name in args.models)
    splits, size = read_splits(args)
    results: dict[str, list[dict[str, float]]] = {name: [] for name in args.models}
    for seed in args.seeds:
        allocations = Allocation.from_cooccurrence(
            splits[0], size, seed=seed, num_tables=num_tables
        )
        for name in args.models:
            found = run(name, allocations, splits, seed, args, args.cache, args.log_probs)
            results[name].append(found)
            print(
                f"{name}, seed {seed}: {found['parameters']:,} parameters, "
                f"{found['milliseconds']:.1f} ms a step, {found['words_per_second']:,.0f} words/s, "
                f"{found['steps']} steps, validation {found['validation']:.1f}, "
                f"test {found['test']:.1f}"
                + (f", with a cache {found['test_with_cache']:.1f}" if args.cache else ""),
                flush=True,
            )
    kinds = [*_KINDS, *(f"{kind}_with_cache" for kind in _KINDS if args.cache)]
    print(f"\n{'model':<14}{'parameters':>12}{'ms':>8}" + "".join(f"{x:>24}" for x in kinds))
    for name, runs in results.items():
        milliseconds = float(np.median([run["milliseconds"] for run in runs]))
        columns = [describe([run[kind] for run in runs]) for kind in kinds]
        print(f"{name:<14}{runs[0]['parameters']:>12,}{milliseconds:>8.1f}", end="")
        print("".join(f"{column:>24}" for column in columns))
    if args.json:
        args.json.write_text(json.dumps(results, indent=1), "utf-8")
    return results


if __name__ == "__main__":
    main()
