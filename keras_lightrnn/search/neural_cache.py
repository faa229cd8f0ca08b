"""A memory of the words of a text, which makes them likelier in similar states."""

from __future__ import annotations

import dataclasses
from numbers import Real
from typing import Any

import numpy as np
from keras import ops

from keras_lightrnn._internal.checks import check_size

# How the odds of the cache grow with its similarities. One weight then suits several models: the
# best in validation was 0.2 on Penn Treebank, 0.16 on scripture in 23 languages and 0.3 on Latin.
# With a fixed share it was 0.12, 0.2 and 0.3, for a perplexity that was 0.4 to 0.6 % higher.
_POWER = 0.25
# Words whose similarities to the memory are computed together.
_WORDS_AT_ONCE = 256


@dataclasses.dataclass(frozen=True)
class NeuralCache:
    """Raises the probability of words that a text has used before, without training.

    A text repeats its rare words, and a language model does not know which. The cache remembers
    the last words of the text, each with the state of the network before it. A word `w` that was
    remembered in states like the present state `s_t` becomes likelier:

        similarity_i = exp(sharpness · (cos(s_t, s_i) - 1) - (t - i) / horizon)        for i < t
        total        = sum of similarity_i
        P_cache(w)   = sum of similarity_i where w_i = w / total
        odds         = weight · total ** (1/4)
        P(w)         = (P_network(w) + odds · P_cache(w)) / (1 + odds)

    So the cache counts for little where it remembers nothing similar, as at the start of a text.

    The cache has no weights and works with any network. What it adds to the cost of a word does
    not depend on the size of the vocabulary. The defaults were chosen on Penn Treebank; `score` on
    a validation text tells whether others are better.

    Args:
        weight: Float, the weight of the cache relative to the network. 0 turns the cache off.
        sharpness: Float, how much more a similar state counts. With 0, all states count equally.
        horizon: Float, the number of words after which a remembered word counts `1 / e` as much.
        size: Integer, the largest number of words that are remembered.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> cache = NeuralCache(weight=1.0, horizon=2.0)
    >>> states = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])  # each before its word
    >>> words = np.array([7, 3, 7])
    >>> log_probs = np.log([0.1, 0.1, 0.1])
    >>> np.exp(cache.mix(states, words, log_probs)).round(2)  # 7 again, in the same state
    array([0.1 , 0.09, 0.49], dtype=float32)

    Reference:
        Grave, Joulin, Usunier, "Improving Neural Language Models with a Continuous Cache",
        ICLR 2017, [arXiv:1612.04426](https://arxiv.org/abs/1612.04426), which has the dot product
        and a fixed share. The cosine, the decay and the odds are this package's.
    """

    weight: float = 0.2
    sharpness: float = 9.0
    horizon: float = 300.0
    size: int = 2_000

    def __post_init__(self) -> None:
        for name in ("weight", "sharpness"):
            value = getattr(self, name)
            if not (_is_real(value) and 0 <= value < np.inf):
                raise ValueError(
                    f"`{name}` must be a finite number of at least 0. Received: {name}={value!r}."
                )
        if not (_is_real(self.horizon) and 0 < self.horizon < np.inf):
            raise ValueError(
                f"`horizon` must be a finite number above 0. Received: horizon={self.horizon!r}."
            )
        check_size("size", self.size)

    def mix(self, states: Any, words: Any, log_probs: Any, mask: Any = None) -> np.ndarray:
        """Return the log-probabilities of the words of texts, with the words before them cached.

        Args:
            states: Arrays or tensors, `(N, H)` or `(B, N, H)`, the state of the network before
                each word.
            words: Integers `(N,)` or `(B, N)`.
            log_probs: Of the same shape, the log-probabilities of the words by the network.
            mask: Booleans of the same shape, false for words that are not remembered, such as
                padding. Defaults to `None`, for none.

        Returns:
            Log-probabilities of the same shape, float32. Those of words that are masked are
            unchanged.

        Raises:
            ValueError: if the shapes disagree.
        """
        states, words, log_probs = (ops.convert_to_numpy(x) for x in (states, words, log_probs))
        is_word = np.ones(words.shape, bool)
        if mask is not None:
            is_word = ops.convert_to_numpy(mask).astype(bool)
        if not states.shape[:-1] == words.shape == log_probs.shape == is_word.shape or (
            words.ndim not in (1, 2)
        ):
            raise ValueError(
                "A cache needs one state, one log-probability and one mask for each word, (N, H) "
                f"and (N,), or (B, N, H) and (B, N). Received: states.shape={states.shape}, "
                f"words.shape={words.shape}, log_probs.shape={log_probs.shape}, mask.shape="
                f"{is_word.shape}."
            )
        if words.ndim == 1:
            return self.start().read(states, words, log_probs, is_word)
        texts = zip(states, words, log_probs, is_word, strict=True)
        return np.stack([self.start().read(*text) for text in texts])

    def start(self) -> CachedText:
        """Return the memory of a text that begins."""
        return CachedText(self)


class CachedText:
    """The last words of one text, with the directions of the states before them.

    Args:
        cache: `NeuralCache`.
    """

    def __init__(self, cache: NeuralCache) -> None:
        self.cache = cache
        self._directions: np.ndarray | None = None  # (m, H)
        self._words = np.empty(0, np.int64)

    def read(
        self, states: np.ndarray, words: np.ndarray, log_probs: np.ndarray, is_word: np.ndarray
    ) -> np.ndarray:
        """Remember the next words, and return their log-probabilities, `(n,)` float32.

        Args:
            states: `(n, H)`, before each word.
            words: `(n,)`.
            log_probs: `(n,)`, by the network.
            is_word: `(n,)`, false for words that are not remembered.
        """
        mixed = np.array(log_probs, np.float32)
        here = np.flatnonzero(is_word)
        for start in range(0, len(here), _WORDS_AT_ONCE):
            some = here[start : start + _WORDS_AT_ONCE]
            probs, odds = self._recall(states[some], words[some])
            mixed[some] = mix_log_probs(mixed[some], probs, odds)
        return mixed

    def _recall(self, states: np.ndarray, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Remember words, and return their probabilities before that and the odds of the cache."""
        num_before = len(self._words)
        known, all_words = self._append(states, words)
        ages = num_before + np.arange(len(words))[:, None] - np.arange(len(all_words))  # (n, m + n)
        is_known = (ages > 0) & (ages <= self.cache.size)
        queries = known[num_before:]
        probs, odds = self._weigh(queries @ known.T, np.where(is_known, ages, np.inf))
        self._keep(known, all_words)
        return (probs * (all_words == words[:, None])).sum(axis=1), odds

    def remember(self, states: np.ndarray, words: np.ndarray) -> None:
        """Remember the next words, `(n,)`, with the states before them, `(n, H)`."""
        self._keep(*self._append(states, words))

    def _append(self, states: np.ndarray, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the directions and the words remembered, followed by others."""
        directions = _normalize(states)
        if self._directions is not None:
            directions = np.concatenate([self._directions, directions])
        return directions, np.concatenate([self._words, words])

    def _keep(self, directions: np.ndarray, words: np.ndarray) -> None:
        """Remember the last of these."""
        self._directions, self._words = directions[-self.cache.size :], words[-self.cache.size :]

    def predict(self, state: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """Return the distinct words remembered, their probabilities, and the odds of the cache.

        Args:
            state: `(H,)`, before the word to predict.
        """
        if not len(self._words):
            return self._words, np.empty(0), 0.0
        ages = np.arange(len(self._words), 0, -1)
        probs, odds = self._weigh(self._directions @ _normalize(state), ages)
        words, places = np.unique(self._words, return_inverse=True)
        return words, np.bincount(places, probs), float(odds)

    def _weigh(self, cosines: np.ndarray, ages: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the probabilities of remembered words, and the odds of the cache.

        Words of infinite age do not count. Where none counts, probabilities and odds are 0.
        """
        similarities = np.exp(self.cache.sharpness * (cosines - 1.0) - ages / self.cache.horizon)
        totals = similarities.sum(axis=-1, keepdims=True)
        probs = similarities / np.where(totals > 0, totals, 1.0)
        return probs, self.cache.weight * totals[..., 0] ** _POWER


def mix_log_probs(log_probs: np.ndarray, probs: np.ndarray, odds: Any) -> np.ndarray:
    """Return the log-probabilities of words that the cache gives some probabilities.

    Args:
        log_probs: `(n,)`, by the network.
        probs: `(n,)`, by the cache.
        odds: Float or `(n,)`, of the cache.
    """
    with np.errstate(divide="ignore"):  # a word that is not remembered
        return np.logaddexp(log_probs, np.log(odds * probs)) - np.log1p(odds)


def check_cache(cache: Any) -> None:
    """Raise `TypeError` unless `cache` is a `NeuralCache` or `None`."""
    if not isinstance(cache, (NeuralCache, type(None))):
        raise TypeError(
            f"`cache` must be a `keras_lightrnn.search.NeuralCache` or None. Received: cache="
            f"{cache!r}. Give NeuralCache()."
        )


def _is_real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _normalize(states: np.ndarray) -> np.ndarray:
    states = np.asarray(states, np.float32)
    lengths = np.linalg.norm(states, axis=-1, keepdims=True)
    return states / np.maximum(lengths, np.finfo(np.float32).tiny)
