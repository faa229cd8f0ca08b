"""One side of the costs, rows or columns, as the solvers see it that work with prices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

# Bytes of the arrays that a pass over all words works in.
_BLOCK_BYTES = 8 * 2**20


class Benefits:
    """What words gain in each row (or in each column), in float32: costs negated, less their mean.

    Float32 halves memory and time; without the mean of a word's costs it wastes no digits on a
    constant that does not matter, and scaled to 1 or so it does not overflow.

    Args:
        features: `(V, K)` features, or the costs themselves.
        vectors: `(R, K)`, or `None` if `features` are the costs.
        scale: Float, what benefits are multiplied by.
        keep: Boolean, whether to keep all benefits, worked out in float64 by `fill`. Otherwise
            they are formed when asked for, in the type of `features`.

    Attributes:
        kept: `(V, R)` float32 or `None`.
        mean_cost: Float, the sum over all words of their mean costs, not scaled.
        largest: `(V,)` float64, bounds on the absolute benefits of each word.
    """

    def __init__(
        self, features: np.ndarray, vectors: np.ndarray | None, scale: float, keep: bool
    ) -> None:
        self._features = features
        self._scale = scale
        self._dtype: Any = np.float64 if keep else features.dtype
        self._vectors = None
        self.largest = np.empty(len(features))
        self.mean_cost = 0.0
        if vectors is None:
            self.mean_cost = float(features.mean(axis=1, dtype=np.float64).sum())
            for words in self._iterate_blocks():
                self.largest[words] = np.abs(self._centre(words)).max(axis=1)
        else:
            mean = vectors.mean(axis=0, dtype=np.float64)
            centred = (vectors - mean) * scale  # (R, K)
            self._vectors = centred.astype(self._dtype)
            longest = np.linalg.norm(centred, axis=1).max()
            for words in self._iterate_blocks():
                block = features[words].astype(np.float64)
                self.mean_cost -= float((block @ mean).sum())
                self.largest[words] = longest * np.linalg.norm(block, axis=1)
        size = features.shape[1] if vectors is None else len(vectors)
        self.kept = np.empty((len(features), size), np.float32) if keep else None

    def fill(self, words: slice) -> None:
        """Work out the benefits of some words, if they are to be kept."""
        if self.kept is not None:
            self.kept[words] = self._compute(words)

    def get(self, words: Any) -> np.ndarray:
        """Return the benefits `(N, R)` float32 of some words (a slice or an index array)."""
        if self.kept is not None:
            return self.kept[words]
        return self._compute(words).astype(np.float32, copy=False)

    def compute_chosen(self, chosen: np.ndarray) -> np.ndarray:
        """Return the benefit `(V,)` float64 of every word in one row each."""
        benefits = np.empty(len(self._features))
        for words in self._iterate_blocks():
            if self._vectors is None:
                every = np.arange(words.stop - words.start)
                benefits[words] = self._centre(words)[every, chosen[words]]
            else:
                vectors = self._vectors[chosen[words]]
                benefits[words] = np.einsum("vk,vk->v", self._features[words], vectors)
        return benefits

    def compute_rounding(self) -> float:
        """Return a bound on what rounding does to the sum over words of one benefit each."""
        # Half a unit in the last place of the result, and as much for its sum with one of the other
        # side; if it is a product in float32, as much for each of its terms and for the rounding
        # of the vectors. Float64 is counted as exact.
        units = 2.0
        if self._dtype == np.float32 and self._vectors is not None:
            units += self._vectors.shape[1] + 1
        return units * 2.0**-24 * float(self.largest.sum())

    def _compute(self, words: Any) -> np.ndarray:
        if self._vectors is None:
            return self._centre(words)
        return self._features[words].astype(self._dtype, copy=False) @ self._vectors.T

    def _centre(self, words: Any) -> np.ndarray:
        # Kernels are compiled for each order of the axes that they meet.
        costs = self._features[words].astype(np.float64, order="C")
        costs -= costs.mean(axis=1, keepdims=True)
        costs *= -self._scale
        return costs

    def _iterate_blocks(self) -> Iterator[slice]:
        size = max(1, _BLOCK_BYTES // (8 * self._features.shape[1]))
        for start in range(0, len(self._features), size):
            yield slice(start, min(start + size, len(self._features)))
