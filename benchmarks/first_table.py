"""Time and quality of the first table of a large vocabulary.

    python benchmarks/first_table.py --text train.txt
    python benchmarks/first_table.py --text train.txt --vocabulary-size 10240000

Clusters the words of a text by their neighbours, and prints the seconds, the CPU seconds of all
threads (set `NUMBA_NUM_THREADS` and `OPENBLAS_NUM_THREADS`), the peak memory of the process, and
the share of the features that the tables leave unexplained. Loops are compiled before. With
`--vocabulary-size`, so many words are made of those of the text: each has the features of a random
word of the text and noise with 0.3 of the features' mean magnitude as its standard deviation.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from peak_memory import get_peak_gigabytes

from keras_lightrnn import Allocation
from keras_lightrnn.clustering import (
    compute_unexplained_share,
    compute_word_features,
    two_way,
)
from keras_lightrnn.data import Vocabulary, read_lines

_NOISE = 0.3
_BLOCK_SIZE = 1 << 19  # words made at a time


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", required=True, help="text to read the features of words from")
    parser.add_argument("--vocabulary-size", type=int, help="make so many words of those")
    parser.add_argument("--num-features", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--num-tables", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    return parser


class Stopwatch:
    """Prints the seconds since it was made."""

    def __init__(self) -> None:
        self.start = time.perf_counter(), time.process_time()

    def stop(self, name: str) -> None:
        seconds = time.perf_counter() - self.start[0]
        cpu_seconds = time.process_time() - self.start[1]
        print(f"{name}: {seconds:.1f} s, {cpu_seconds:.1f} CPU s", flush=True)


def make_words(features: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Return the features of `size` words, each that of a random word and noise."""
    features = features[features.any(axis=1)]
    generator = np.random.default_rng(seed)
    made = np.empty((size, features.shape[1]), np.float32)
    deviation = np.float32(_NOISE * np.abs(features).mean())
    for begin in range(0, size, _BLOCK_SIZE):
        block = made[begin : begin + _BLOCK_SIZE]
        block[:] = features[generator.integers(len(features), size=len(block))]
        block += deviation * generator.standard_normal(block.shape, np.float32)
    return made


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    vocabulary = Vocabulary.from_lines(read_lines(args.text))
    words = vocabulary.encode_lines(read_lines(args.text))
    print(f"{len(words):,} words, {len(vocabulary):,} different ones")
    watch = Stopwatch()
    features, _ = compute_word_features(
        words, len(vocabulary), num_features=args.num_features, seed=args.seed
    )
    watch.stop("features")
    if args.vocabulary_size is not None:
        features = make_words(features, args.vocabulary_size, args.seed)
    some = np.random.default_rng(0).standard_normal((two_way.AUCTION_SIZE + 1, 2))
    Allocation.from_features(some, num_rounds=1)  # compiles
    watch = Stopwatch()
    tables = Allocation.from_features(
        features, num_tables=args.num_tables, seed=args.seed, verbose=1
    )
    watch.stop(f"{args.num_tables} table(s) of {len(features):,} words")
    print(f"peak memory: {get_peak_gigabytes():.2f} GB")
    print(f"unexplained: {100 * compute_unexplained_share(features, tables):.1f} %")


if __name__ == "__main__":
    main()
