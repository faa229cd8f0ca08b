"""Perplexity of several tables, by the number of tables and of components.

    python benchmarks/several_tables.py --text train.txt valid.txt test.txt --tables 1 2 4 \\
        --components 1 2 --seeds 0 1 2
    python benchmarks/several_tables.py --text train.txt valid.txt test.txt --word-dim 16

Trains a model with a row reader for each number of tables and of components per table, on the same
text, windows, optimizer and schedule. Prints the share of the co-occurrence features that the
tables leave unexplained, the number of parameters, the median time of a training step, and
validation and test perplexity. `benchmarks/row_reading.py` has further options.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from language_model import add_arguments, describe, read_splits
from row_reading import run

from keras_lightrnn import Allocation
from keras_lightrnn.clustering import compute_unexplained_share, compute_word_features


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument("--tables", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--components", nargs="+", type=int, default=[1], help="of each table")
    parser.add_argument("--seconds", type=float, help="train each model for so long")
    return parser


def main(argv: Sequence[str] | None = None) -> dict[tuple[int, int], list[dict[str, Any]]]:
    args = make_parser().parse_args(argv)
    splits, size = read_splits(args)
    features, _ = compute_word_features(splits[0], size)
    kinds = [(tables, components) for tables in args.tables for components in args.components]
    results: dict[tuple[int, int], list[dict[str, Any]]] = {kind: [] for kind in kinds}
    for seed in args.seeds:
        allocations = Allocation.from_cooccurrence(
            splits[0], size, seed=seed, num_tables=max(args.tables)
        )
        for tables, components in kinds:
            found = run(f"reader-{components}x{tables}", allocations, splits, seed, args)
            found["unexplained"] = compute_unexplained_share(features, allocations[:tables])
            results[tables, components].append(found)
            print(
                f"{tables} table(s) of {components} component(s), seed {seed}: "
                f"{100 * found['unexplained']:.1f} % unexplained, {found['parameters']:,} "
                f"parameters, {found['milliseconds']:.1f} ms a step, validation "
                f"{found['validation']:.1f}, test {found['test']:.1f}",
                flush=True,
            )
    print(f"\n{'tables':>6}{'components':>12}{'parameters':>12}{'validation':>16}{'test':>16}")
    for (tables, components), runs in results.items():
        columns = [describe([run[kind] for run in runs]) for kind in ("validation", "test")]
        print(f"{tables:>6}{components:>12}{runs[0]['parameters']:>12,}", end="")
        print("".join(f"{column:>16}" for column in columns))
    return results


if __name__ == "__main__":
    main()
