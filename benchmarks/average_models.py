"""Perplexity of the average of trained models.

    python benchmarks/row_reading.py --text train.txt valid.txt test.txt --models readerx2 \\
        --seeds 0 1 --cache --log-probs members
    python benchmarks/average_models.py members/readerx2-seed0.npz members/readerx2-seed1.npz

Reads the log-probabilities that `row_reading.py --log-probs` has written, for the same texts. The
probability of a word is the mean of those of the members, which are models of the same words with
tables of their own. The members may be trained by processes that run at the same time.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("members", nargs="+", type=Path, metavar="FILE")
    return parser


def average(log_probs: Sequence[np.ndarray]) -> np.ndarray:
    """Return the log of the mean probability of each word, `(N,)`.

    Args:
        log_probs: `(N,)` of each member.
    """
    return np.logaddexp.reduce(np.stack(log_probs), axis=0) - np.log(len(log_probs))


def compute_perplexity(log_probs: np.ndarray) -> float:
    return float(np.exp(-log_probs.mean(dtype="float64")))


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    args = make_parser().parse_args(argv)
    members = {str(path): dict(np.load(path)) for path in args.members}
    kinds = list(next(iter(members.values())))
    results = {
        path: {kind: compute_perplexity(of_texts[kind]) for kind in kinds}
        for path, of_texts in members.items()
    }
    results["average"] = {
        kind: compute_perplexity(average([of_texts[kind] for of_texts in members.values()]))
        for kind in kinds
    }
    width = max(map(len, results))
    print(f"{'':<{width}}" + "".join(f"{kind:>24}" for kind in kinds))
    for name, perplexities in results.items():
        print(f"{name:<{width}}" + "".join(f"{perplexities[kind]:>24.2f}" for kind in kinds))
    return results


if __name__ == "__main__":
    main()
