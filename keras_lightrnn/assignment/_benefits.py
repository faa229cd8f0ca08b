"""Benefits of words in rows or columns, for the solvers that work with prices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

# Bytes of the work arrays of a pass over all words.
_BLOCK_BYTES = 8 * 2**20
# Features within `2**-32` and `2**32` need no scaling, which takes time in each scan.
_USUAL_EXPONENT = 32


class Benefits:
    """Benefits of words in each row (or column), in float32: mean cost of the word minus cost.

    Float32 halves memory and time. The mean cost of a word does not matter, so its digits are
    not wasted on it. Benefits are scaled to about 1, so they do not overflow. Features are scaled
    to about 1 too, and vectors by the rest, so that neither overflows nor vanishes.

    Args:
        features: `(V, K)` features, or the costs themselves.
        vectors: `(R, K)`, or `None` if `features` are the costs.
        exponent: Integer. Benefits are multiplied by `2**exponent`.
        keep: Boolean, whether `fill` computes all benefits in float64 and keeps them. Otherwise
            `get` computes them in the type of `features`.

    Attributes:
        kept: `(V, R)` float32 or `None`.
        mean_cost: Float, the sum of the mean costs of all words, not scaled.
        largest: `(V,)` float64, bounds on the absolute benefits of each word.
    """

    def __init__(
        self, features: np.ndarray, vectors: np.ndarray | None, exponent: int, keep: bool
    ) -> None:
        self._features = features
        self._exponent = exponent
        self._feature_exponent = 0
        self._dtype: Any = np.float64 if keep else features.dtype
        self._vectors = None
        self.largest = np.empty(len(features))
        self.mean_cost = 0.0
        if vectors is None:
            self.mean_cost = float(features.mean(axis=1, dtype=np.float64).sum())
            for words in self._iterate_blocks():
                self.largest[words] = np.abs(self._centre(words)).max(axis=1)
        else:
            self._feature_exponent = _compute_exponent(features)
            scaled = np.ldexp(vectors.astype(np.float64), exponent - self._feature_exponent)
            mean = scaled.mean(axis=0)
            centred = scaled - mean  # (R, K)
            self._vectors = centred.astype(self._dtype)
            longest = np.linalg.norm(centred, axis=1).max()
            scaled_cost = 0.0
            for words in self._iterate_blocks():
                block = self._get_features(words, np.float64)
                scaled_cost -= float((block @ mean).sum())
                self.largest[words] = longest * np.linalg.norm(block, axis=1)
            self.mean_cost = float(np.ldexp(scaled_cost, -exponent))
        size = features.shape[1] if vectors is None else len(vectors)
        self.kept = np.empty((len(features), size), np.float32) if keep else None

    def fill(self, words: slice) -> None:
        """Compute the benefits of some words, if they are kept."""
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
                features = self._get_features(words, self._dtype)
                benefits[words] = np.einsum("vk,vk->v", features, vectors)
        return benefits

    def compute_rounding(self) -> float:
        """Return a bound on the rounding error of the sum over words of one benefit each."""
        # Half a unit in the last place of the benefit, and the same for its sum with a benefit of
        # the other side. A product in float32 adds the same for each of its terms and for the
        # rounding of the vectors. Float64 counts as exact.
        units = 2.0
        if self._dtype == np.float32 and self._vectors is not None:
            units += self._vectors.shape[1] + 1
        return units * 2.0**-24 * float(self.largest.sum())

    def _compute(self, words: Any) -> np.ndarray:
        if self._vectors is None:
            return self._centre(words)
        return self._get_features(words, self._dtype) @ self._vectors.T

    def _get_features(self, words: Any, dtype: Any) -> np.ndarray:
        """Return the features of some words, scaled to about 1."""
        features = self._features[words].astype(dtype, copy=False)
        return np.ldexp(features, self._feature_exponent) if self._feature_exponent else features

    def _centre(self, words: Any) -> np.ndarray:
        # Kernels are compiled for each order of the axes that they meet.
        costs = self._features[words].astype(np.float64, order="C")
        costs -= costs.mean(axis=1, keepdims=True)
        return -np.ldexp(costs, self._exponent, out=costs)

    def _iterate_blocks(self) -> Iterator[slice]:
        size = max(1, _BLOCK_BYTES // (8 * self._features.shape[1]))
        for start in range(0, len(self._features), size):
            yield slice(start, min(start + size, len(self._features)))


def _compute_exponent(features: np.ndarray) -> int:
    """Return `e` such that `features * 2**e` have squares of a common size; 0 if they have now."""
    largest = max(float(features.max()), -float(features.min()))
    exponent = -int(np.frexp(largest)[1])
    return exponent if abs(exponent) > _USUAL_EXPONENT else 0
