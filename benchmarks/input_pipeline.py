"""Words per second that the input pipeline delivers, and that training reads.

The first table measures the input alone: windows of a stream in memory and of the same stream in
`TokenShards`, in order, shuffled, and by sentence, as NumPy batches and as the `tf.data.Dataset` of
`token_windows`. The second table measures training steps of a `LightRNNModel` with each kind of
windows and with one batch that stays in memory. Their ratio is near 1 if training does not wait for
its input. (If training runs on the CPU, the input uses part of the CPU time.)

Modes alternate; the figures are medians over `--repeats` turns. The stream has `--num-words` words
from a Zipf distribution, or is read from `--text FILE` (plain or .gz). The shards are in a new
directory under `--directory`; files just written are in the page cache.

    python benchmarks/input_pipeline.py --num-words 100000000 --batch-size 20 --units 200
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

from keras_lightrnn import LightRNNModel
from keras_lightrnn.data import (
    TokenShards,
    Vocabulary,
    contiguous_windows,
    read_lines,
    shuffled_windows,
    token_windows,
)

END_ID = 0
# The options of `token_windows` for each kind of windows.
KINDS: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "shuffled": {"contiguous": False, "shuffle": True, "seed": 0},
    "sentences": {"contiguous": False, "end_id": END_ID, "shuffle": True, "seed": 0},
}


def make_stream(num_words: int, vocabulary_size: int) -> np.ndarray:
    """Draw a stream in which about every 20th word ends a sentence."""
    generator = np.random.default_rng(0)
    shares = 1 / np.arange(1, vocabulary_size + 1)
    cumulative = np.cumsum(shares / shares.sum())
    words = np.empty(num_words, np.int32)
    for start in range(0, num_words, 1 << 20):
        part = words[start : start + (1 << 20)]
        part[:] = np.searchsorted(cumulative, generator.random(part.size) * cumulative[-1])
        part[generator.random(part.size) < 0.05] = END_ID
    words[-1] = END_ID
    return words


def read_stream(path: str, vocabulary_size: int) -> np.ndarray:
    vocabulary = Vocabulary.from_lines(read_lines(path), max_size=vocabulary_size)
    words = vocabulary.encode_lines(read_lines(path))
    # The benchmark's end word is 0, whatever its rank.
    return np.where(
        words == vocabulary.end_id, 0, np.where(words == 0, vocabulary.end_id, words)
    ).astype(np.int32)


def measure_words_per_second(batches: Iterable[Any], seconds: float) -> float:
    """Read batches for some time and return their targets per second."""
    num_words = 0
    start = time.perf_counter()
    while True:
        for _, _, weight in batches:
            num_words += int(np.prod(weight.shape))
            elapsed = time.perf_counter() - start
            if elapsed > seconds:
                return num_words / elapsed


def measure_in_turns(modes: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Return the results of each mode, one for each turn."""
    results: dict[str, list[float]] = {name: [] for name in modes}
    for _ in range(repeats):
        for name, run in modes.items():
            results[name].append(run())
    return results


def summarise(results: list[float]) -> str:
    """Return median, least and greatest as cells of a table."""
    values = statistics.median(results), min(results), max(results)
    return " | ".join(f"{value:,.0f}" for value in values)


def measure_input(streams: dict[str, Any], arguments: argparse.Namespace) -> dict[str, list[float]]:
    sizes = arguments.batch_size, arguments.sequence_length
    modes: dict[str, Iterable[Any]] = {}
    for source, words in streams.items():
        modes[f"{source} | contiguous | plain"] = contiguous_windows(words, *sizes)
        modes[f"{source} | shuffled | plain"] = shuffled_windows(words, *sizes, seed=0)
        for kind, options in KINDS.items():
            dataset = token_windows(words, *sizes, **options)
            modes[f"{source} | {kind} | tf.data"] = dataset
    return measure_in_turns(
        {
            name: lambda batches=batches: measure_words_per_second(batches, arguments.seconds)
            for name, batches in modes.items()
        },
        arguments.repeats,
    )


def measure_training(shards: TokenShards, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Return words per second of training, from memory and from each kind of windows."""
    sizes = arguments.batch_size, arguments.sequence_length
    steps = arguments.steps
    model = LightRNNModel(
        shards.vocabulary_size,
        arguments.units,
        arguments.units,
        word_bias="counts",
        row_reading="recurrence",
    )
    model.assign_word_counts(shards.count_words())
    model.compile("adam")

    def train(dataset: tf.data.Dataset) -> float:
        start = time.perf_counter()
        model.fit(dataset, epochs=1, steps_per_epoch=steps, verbose=0)
        return steps * sizes[0] * sizes[1] / (time.perf_counter() - start)

    # Batches of sentences have several lengths, so words per second are not comparable.
    kinds = ("contiguous", "shuffled")
    datasets = {kind: token_windows(shards, *sizes, **KINDS[kind]).repeat() for kind in kinds}
    batch = next(iter(datasets["contiguous"]))
    datasets = {
        "one batch, there already": tf.data.Dataset.from_tensors(batch).repeat(),
        **datasets,
    }
    for dataset in datasets.values():
        train(dataset)  # compile
    return measure_in_turns(
        {name: lambda dataset=dataset: train(dataset) for name, dataset in datasets.items()},
        arguments.repeats,
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", metavar="FILE", help="text to read instead of a drawn stream")
    parser.add_argument("--num-words", type=int, default=20_000_000)
    parser.add_argument("--vocabulary-size", type=int, default=10_000)
    parser.add_argument("--shard-size", type=int, default=1 << 22)
    parser.add_argument("--directory", help="parent of the shards (default: temporary)")
    parser.add_argument("--batch-size", type=int, default=20)
    parser.add_argument("--sequence-length", type=int, default=35)
    parser.add_argument("--units", type=int, default=200, help="0 measures the input alone")
    parser.add_argument("--steps", type=int, default=40, help="of training, a turn")
    parser.add_argument("--seconds", type=float, default=0.2, help="of input, a turn")
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args(argv)

    if arguments.text:
        words = read_stream(arguments.text, arguments.vocabulary_size)
    else:
        words = make_stream(arguments.num_words, arguments.vocabulary_size)
    if arguments.directory:
        os.makedirs(arguments.directory, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.directory) as parent:
        start = time.perf_counter()
        shards = TokenShards.write(
            os.path.join(parent, "shards"),
            np.array_split(words, max(1, words.size >> 20)),
            arguments.vocabulary_size,
            arguments.shard_size,
        )
        seconds = time.perf_counter() - start
        print(f"{shards!r}, written at {words.size / seconds / 1e6:.0f} million words/s")
        print(f"batches of {arguments.batch_size} x {arguments.sequence_length} words\n")
        print("| stream | windows | read by | words/s, median | least | greatest |")
        print("|---|---|---|---|---|---|")
        delivered = measure_input({"array": words, "shards": shards}, arguments)
        for name, results in delivered.items():
            print(f"| {name} | {summarise(results)} |")
        if not arguments.units:
            return
        trained = measure_training(shards, arguments)
        first = next(iter(trained.values()))
        print(f"\n{arguments.units} units\n")
        print("| training fed by | words/s, median | least | greatest | to the first, median |")
        print("|---|---|---|---|---|")
        for name, results in trained.items():
            ratio = statistics.median(x / y for x, y in zip(results, first, strict=True))
            print(f"| {name} | {summarise(results)} | {ratio:.3f} |")
        slowest = min(statistics.median(results) for results in delivered.values())
        ratio = slowest / statistics.median(first)
        print(f"\nThe slowest input delivers {ratio:.0f} times what training takes.")


if __name__ == "__main__":
    main()
