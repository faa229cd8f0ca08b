"""Continuations of texts: sampling, the best word at each step, and beam search."""

from __future__ import annotations

import abc
import dataclasses
import itertools
from collections.abc import Iterable
from numbers import Real
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_lightrnn._internal.checks import check_k, check_not_negative, check_size
from keras_lightrnn._internal.inference import run_without_gradients
from keras_lightrnn._internal.typing import Cache, Tensor, WordIds
from keras_lightrnn.search.excluded import check_excluded, count_allowed
from keras_lightrnn.search.layer_search import check_built
from keras_lightrnn.search.predictor import (
    AnySearch,
    Predictor,
    follow_words,
    make_predictor,
    read_prefixes,
    take_texts,
)
from keras_lightrnn.search.prefixes import Prefixes, prepare_prefixes
from keras_lightrnn.search.row_search import sample

# Texts that are read and searched together; with beam search, beams of all texts.
_TEXTS_AT_ONCE = 64
# Lower temperatures would overflow, and only the best word has any weight there.
_LEAST_TEMPERATURE = 1e-6


def generate(
    network: Any,
    softmax: Any,
    prefix: WordIds,
    length: int = 20,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    *,
    end_word: int | None = None,
    num_beams: int | None = None,
    length_penalty: float = 1.0,
    num_return: int | None = None,
    repetition_penalty: float = 1.0,
    excluded: WordIds | None = None,
    mask: Tensor = None,
    source: Cache = None,
    return_log_probs: bool = False,
) -> Any:
    """Continue prefixes with any network: by sampling, or by beam search with `num_beams`.

    Beam search keeps the `num_beams` likeliest continuations of each prefix after each word, chosen
    exactly among all words of the vocabulary. A continuation is finished when it ends with
    `end_word` or has `length` words. Finished continuations are returned by descending score:

        score = log-probability / number of words ** length_penalty

    where `end_word` counts as a word.

    Args:
        network: `StepNetwork`, or an object with its methods.
        softmax: `TwoComponentSoftmax`, built, that predicts from the network's states.
        prefix: Word ids `(N,)` or `(B, N)`, or a list of `B` texts of unequal lengths. If the
            softmax has `mask_zero`, word 0 is padding and is ignored at every position.
        length: Integer, the maximum number of words to add. Defaults to 20.
        temperature: Float, by which log-probabilities are divided. 0 takes the best word. Defaults
            to 1, or to 0 with `num_beams`.
        top_k: Integer; sample only among the `top_k` likeliest words. Defaults to `None`.
        top_p: Float; sample only among the fewest words that together reach this probability,
            after temperature and `top_k`. Defaults to `None`.
        seed: Integer. Equal seeds give equal samples. Defaults to `None`.
        end_word: Integer, the word that ends a text. Padding follows it: word 0 with `mask_zero`,
            otherwise `end_word` again. With `None`, `length` words are always added.
        num_beams: Integer, the width of the beam search; 1 takes the best word at each step.
            `None` (default) samples.
        length_penalty: Float, the power in the score of beam search. Positive values favour longer
            texts; with 0 the score is the log-probability. Defaults to 1.
        num_return: Integer, the number of continuations to return for each prefix: the best ones
            of beam search (at most `num_beams`), or samples. `None` (default) returns one, without
            an axis for it.
        repetition_penalty: Float of at least 1. The log-probability of a word that already occurs
            in the text or its prefix is multiplied by it. Defaults to 1.
        excluded: Word ids that are never added: `(E,)`, or `(B, E)` for each prefix, where -1
            stands for no word. Defaults to `None`.
        mask: Boolean, of the shape of `prefix`, false for padding, which may be at any position.
            Defaults to `None`.
        source: Tensor, or nested structure of tensors, with the first axis `B`: further inputs of
            `network.start`, such as the sentences to translate. For one prefix `(N,)` the first
            axis is 1. Defaults to `None`.
        return_log_probs: Boolean, whether to return the log-probabilities of the continuations
            too. Requires `num_beams`. Defaults to `False`.

    Returns:
        Word ids without the prefix, int32, `(length,)` or `(B, length)`; with `num_return` `n`,
        `(n, length)` or `(B, n, length)`. With `return_log_probs` also the log-probability of each
        continuation in nats, float64, with `end_word` and without penalties.

    Raises:
        TypeError: if the network lacks a method.
        ValueError: if an argument is out of range, or two arguments are incompatible.

    Example:

    >>> from keras_lightrnn import LightRNNModel
    >>> model = LightRNNModel(50, embedding_dim=8, units=8)
    >>> words = model.generate([[3, 1, 4], [1, 5]], length=6, num_beams=3, end_word=0)
    >>> words.shape
    (2, 6)

    For a custom network see `StepNetwork`.
    """
    _check_network(network, softmax)
    predictor = make_predictor(network, softmax, run_without_gradients)
    return decode(
        predictor,
        prefix,
        Options(
            length=length,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            end_word=end_word,
            num_beams=num_beams,
            length_penalty=length_penalty,
            num_return=num_return,
            repetition_penalty=repetition_penalty,
            return_log_probs=return_log_probs,
        ),
        excluded=excluded,
        mask=mask,
        source=source,
    )


def _check_network(network: Any, softmax: Any) -> None:
    if not hasattr(softmax, "list_tables"):
        raise TypeError(
            f"`softmax` must be a `TwoComponentSoftmax`. Received: softmax={softmax!r}."
        )
    check_built(softmax)
    methods = ["start", "step"] + ([] if softmax.row_reader is not None else ["read_rows"])
    missing = [name for name in methods if not callable(getattr(network, name, None))]
    if missing:
        raise TypeError(
            f"`network` must have the methods {methods} of `keras_lightrnn.search.StepNetwork`. "
            f"Received: network={network!r} without {missing}. A model that returns the states of "
            "all words of a text is not enough: wrap it in a `StepNetwork`."
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The arguments of `generate` that are the same for all prefixes."""

    length: int
    temperature: float | None
    top_k: int | None
    top_p: float | None
    seed: int | None
    end_word: int | None
    num_beams: int | None
    length_penalty: float
    num_return: int | None
    repetition_penalty: float
    return_log_probs: bool

    def check(self, vocabulary_size: int, num_allowed: int) -> None:
        """Raise `ValueError` unless the options are valid for these numbers of words."""
        check_size("length", self.length)
        if self.temperature is not None and not (
            isinstance(self.temperature, Real) and 0 <= self.temperature < np.inf
        ):
            raise ValueError(
                "`temperature` must be a finite number of at least 0. Received: "
                f"temperature={self.temperature!r}."
            )
        if self.top_k is not None:
            check_k("top_k", self.top_k, num_allowed)
        if self.top_p is not None and not (isinstance(self.top_p, Real) and 0 < self.top_p <= 1):
            raise ValueError(f"`top_p` must be a number in (0, 1]. Received: top_p={self.top_p!r}.")
        if self.seed is not None:
            check_not_negative("seed", self.seed)
        if self.end_word is not None:
            check_not_negative("end_word", self.end_word)
            if self.end_word >= vocabulary_size:
                raise ValueError(
                    f"`end_word` must be a word id in [0, {vocabulary_size}). Received: end_word="
                    f"{self.end_word}."
                )
        if not (isinstance(self.length_penalty, Real) and np.isfinite(self.length_penalty)):
            raise ValueError(
                "`length_penalty` must be a finite number. Received: length_penalty="
                f"{self.length_penalty!r}."
            )
        penalty = self.repetition_penalty
        if not (isinstance(penalty, Real) and 1 <= penalty < np.inf):
            raise ValueError(
                "`repetition_penalty` must be a finite number of at least 1. Received: "
                f"repetition_penalty={penalty!r}."
            )
        if self.num_return is not None:
            check_size("num_return", self.num_return)
        if self.num_beams is not None:
            self._check_beams(check_size("num_beams", self.num_beams))
        else:
            self._check_sampling()

    def _check_beams(self, num_beams: int) -> None:
        sampling = {"temperature": self.temperature or None, "top_k": self.top_k}
        sampling["top_p"] = self.top_p
        given = ", ".join(f"{name}={x!r}" for name, x in sampling.items() if x is not None)
        if given:
            raise ValueError(
                "Beam search does not sample. Received: num_beams="
                f"{num_beams}, {given}. Leave out either `num_beams` or the options of sampling."
            )
        if self.num_return is not None and self.num_return > num_beams:
            raise ValueError(
                "Beam search returns at most one text for each beam. Received: num_return="
                f"{self.num_return}, num_beams={num_beams}. Increase `num_beams`."
            )

    def _check_sampling(self) -> None:
        if self.length_penalty != 1 or self.return_log_probs:
            name = "return_log_probs" if self.return_log_probs else "length_penalty"
            raise ValueError(
                f"`{name}` is an option of beam search. Received: {name}={getattr(self, name)}, "
                "num_beams=None. Give `num_beams`."
            )
        if self.temperature == 0 and (self.num_return or 1) > 1:
            raise ValueError(
                "With temperature=0 there is one continuation of each prefix. Received: "
                f"num_return={self.num_return}, temperature={self.temperature}, num_beams=None. "
                "Give `num_beams`, or a temperature above 0."
            )


class Hypotheses(NamedTuple):
    """Continuations of `n` texts, of `t` words each.

    Attributes:
        texts: `(n,)`, the index of the prefix that each continues.
        words: `(n, t)` int32.
        log_probs: `(n,)`, their log-probabilities; 0 for samples.
        scores: `(n,)`, the log-probabilities with the repetition penalty.
    """

    texts: np.ndarray
    words: np.ndarray
    log_probs: np.ndarray
    scores: np.ndarray

    def take(self, places: np.ndarray) -> Hypotheses:
        """Return some of them, given indices or a boolean mask."""
        return Hypotheses(*(x[places] for x in self))


class Finished(NamedTuple):
    """A finished continuation."""

    score: float
    words: np.ndarray
    log_prob: float


def decode(
    predictor: Predictor,
    prefix: WordIds,
    options: Options,
    excluded: WordIds | None = None,
    mask: Tensor = None,
    source: Cache = None,
) -> Any:
    """Continue prefixes; see `generate`."""
    softmax = predictor.softmax
    prefixes = prepare_prefixes(softmax, prefix, mask)
    excluded, num_allowed = _check_excluded(softmax, excluded, prefixes, options.end_word)
    options.check(softmax.word_table.vocabulary_size, num_allowed)
    num_texts, num_return = len(prefixes.words), options.num_return or 1
    if source is not None:
        _check_source(source, num_texts)
    chooser = _make_chooser(predictor, options)
    # Each sample continues a copy of its prefix; beam search finds several for one prefix.
    num_copies = 1 if isinstance(chooser, _Beams) else num_return
    copies = np.repeat(np.arange(num_texts), num_copies)
    found: list[list[Finished]] = []
    for start in range(0, len(copies), chooser.texts_at_once):
        here = copies[start : start + chooser.texts_at_once]
        some = prefixes.take(here)
        of_texts = None if source is None else take_texts(source, here)
        max_length = int(some.lengths.max()) + options.length
        search = read_prefixes(predictor, some, of_texts, max_length)
        found += _continue(
            search, some, chooser, options, None if excluded is None else excluded[here]
        )
    padding = 0 if softmax.mask_zero or options.end_word is None else options.end_word
    words = np.full((num_texts * num_return, options.length), padding, np.int32)
    flat = [finished for of_text in found for finished in of_text]
    for row, finished in zip(words, flat, strict=True):
        row[: len(finished.words)] = finished.words
    shape = (num_texts, num_return) if options.num_return is not None else (num_texts,)
    results = [words.reshape(*shape, options.length)]
    if options.return_log_probs:
        results.append(np.array([finished.log_prob for finished in flat]).reshape(shape))
    if not prefixes.is_batch:
        results = [x[0] for x in results]
    return tuple(results) if options.return_log_probs else results[0]


def _continue(
    search: AnySearch,
    prefixes: Prefixes,
    chooser: _Chooser,
    options: Options,
    excluded: np.ndarray | None,
) -> list[list[Finished]]:
    """Return the continuations of each text of a search, best first."""
    num_texts = len(prefixes.words)
    zeros = np.zeros(num_texts)
    live = Hypotheses(np.arange(num_texts), np.zeros((num_texts, 0), np.int32), zeros, zeros)
    finished: list[list[Finished]] = [[] for _ in range(num_texts)]
    while True:
        if excluded is not None:
            search.exclude(excluded[_pad(live.texts, search.num_texts)])
        parents, live = chooser.choose(search, live, prefixes)
        size = live.words.shape[1]
        has_ended = np.full(len(live.words), size == options.length)
        if options.end_word is not None:
            has_ended |= live.words[:, -1] == options.end_word
        for text, words, log_prob, score in zip(*live.take(has_ended), strict=True):
            score /= size**options.length_penalty
            finished[text].append(Finished(score, words, log_prob))
        is_live = ~has_ended & chooser.may_win(live, finished)
        if not is_live.any():
            break
        parents, live = parents[is_live], live.take(is_live)
        words, parents = (
            _pad(x, chooser.choose_num_hypotheses(num_texts)) for x in (live.words[:, -1], parents)
        )
        search = follow_words(search, words, parents)
    return [chooser.pick(of_text) for of_text in finished]


def _pad(x: np.ndarray, size: int | None) -> np.ndarray:
    """Return an array of `size` by repeating its last entry."""
    return x if size is None else np.pad(x, (0, max(size - len(x), 0)), mode="edge")


class _Chooser(abc.ABC):
    """Chooses the next words of texts.

    Args:
        predictor: `Predictor`.
        options: `Options`.
    """

    def __init__(self, predictor: Predictor, options: Options) -> None:
        softmax = predictor.softmax
        self.vocabulary_size = softmax.word_table.vocabulary_size
        self.num_words = self.vocabulary_size - softmax.mask_zero
        self.options = options

    @property
    def num_hypotheses_per_text(self) -> int:
        """The maximum number of hypotheses of a text."""
        return 1

    @property
    def texts_at_once(self) -> int:
        """The number of texts that are continued together."""
        return max(_TEXTS_AT_ONCE // self.num_hypotheses_per_text, 1)

    def choose_num_hypotheses(self, num_texts: int) -> int | None:
        """Return the number of hypotheses of a search, or `None` for the number of live ones.

        JAX compiles a function for each number, so it is constant there.
        """
        is_jax = keras.backend.backend() == "jax"
        return num_texts * self.num_hypotheses_per_text if is_jax else None

    @abc.abstractmethod
    def choose(
        self, search: AnySearch, live: Hypotheses, prefixes: Prefixes
    ) -> tuple[np.ndarray, Hypotheses]:
        """Return hypotheses with one more word, and the indices of those that they continue.

        A search may have more texts than `live`; these are ignored.
        """

    def may_win(self, live: Hypotheses, finished: list[list[Finished]]) -> np.ndarray:
        """Return which hypotheses can still be among the results, `(n,)` boolean."""
        return np.full(len(live.words), True)

    def pick(self, finished: list[Finished]) -> list[Finished]:
        """Return the continuations of a text to return, best first."""
        return finished

    def best_words(
        self, search: AnySearch, k: int, live: Hypotheses, prefixes: Prefixes
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the `k` words with the highest scores, their log-probabilities and scores.

        All are `(n, k)`. The score is the log-probability with the repetition penalty. If a text
        has fewer words, the rest are -1 with the score minus infinity.
        """
        if self.options.repetition_penalty == 1:
            words, log_probs = (x[: len(live.words)] for x in search.best_words(k))
            return words, log_probs, log_probs
        seen = _list_seen(live, prefixes)
        # The penalty can move only words that were seen out of the best `k`.
        most = min(k + max(len(of_text) for of_text in seen), self.num_words)
        words, log_probs = (x[: len(live.words)] for x in search.best_words(most))
        scores = np.stack(
            [self.penalize(*parts) for parts in zip(words, log_probs, seen, strict=True)]
        )
        order = np.stack([np.lexsort((w, -s)) for w, s in zip(words, scores, strict=True)])
        words, log_probs, scores = (
            np.take_along_axis(x, order[:, :k], axis=1) for x in (words, log_probs, scores)
        )
        return words, log_probs, scores

    def penalize(self, words: np.ndarray, log_probs: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Return the scores of words after a text with the words `seen`."""
        penalty = self.options.repetition_penalty
        return np.where(np.isin(words, seen), penalty * log_probs, log_probs)


def _list_seen(live: Hypotheses, prefixes: Prefixes) -> list[np.ndarray]:
    """Return the distinct words of each text, including its prefix."""
    return [
        np.unique(np.concatenate([prefixes.words[text, : prefixes.lengths[text]], words]))
        for text, words in zip(live.texts, live.words, strict=True)
    ]


class _Beams(_Chooser):
    """Beam search: takes the continuations with the highest scores of each text."""

    @property
    def num_hypotheses_per_text(self) -> int:
        return self.options.num_beams or 1

    @property
    def num_return(self) -> int:
        return self.options.num_return or 1

    def choose(
        self, search: AnySearch, live: Hypotheses, prefixes: Prefixes
    ) -> tuple[np.ndarray, Hypotheses]:
        k = min(self.num_hypotheses_per_text, self.num_words)
        words, log_probs, scores = self.best_words(search, k, live, prefixes)
        parents, ranks = np.nonzero(scores > -np.inf)
        words, log_probs, scores = (x[parents, ranks] for x in (words, log_probs, scores))
        log_probs, scores = live.log_probs[parents] + log_probs, live.scores[parents] + scores
        texts = live.texts[parents]
        order = np.lexsort((words, parents, -scores, texts))
        first = np.searchsorted(texts[order], texts[order])  # where each text begins
        order = order[np.arange(len(order)) - first < self.num_hypotheses_per_text]
        parents = parents[order]
        longer = np.concatenate([live.words[parents], words[order, None]], axis=1)
        return parents, Hypotheses(texts[order], longer, log_probs[order], scores[order])

    def may_win(self, live: Hypotheses, finished: list[list[Finished]]) -> np.ndarray:
        penalty, length = self.options.length_penalty, self.options.length
        size = live.words.shape[1] + 1
        # Further words add at most 0 to the score; of the possible lengths the best one counts.
        bounds = live.scores / (length if penalty > 0 else size) ** penalty
        least = np.full(len(finished), -np.inf)
        for text, of_text in enumerate(finished):
            if len(of_text) >= self.num_return:
                least[text] = self.pick(of_text)[-1].score
        return bounds > least[live.texts]

    def pick(self, finished: list[Finished]) -> list[Finished]:
        if len(finished) < self.num_return:
            raise ValueError(
                "Each prefix must have at least `num_return` continuations. Received: "
                f"num_return={self.num_return}, and a prefix with {len(finished)}. Lower "
                "`num_return`, or exclude fewer words."
            )
        return sorted(finished, key=lambda x: -x.score)[: self.num_return]


class _Sampler(_Chooser):
    """Samples one word after each text."""

    def __init__(self, predictor: Predictor, options: Options) -> None:
        super().__init__(predictor, options)
        self.generator = np.random.default_rng(options.seed)
        temperature = 1.0 if options.temperature is None else options.temperature
        self.temperature = max(temperature, _LEAST_TEMPERATURE)

    def choose(
        self, search: AnySearch, live: Hypotheses, prefixes: Prefixes
    ) -> tuple[np.ndarray, Hypotheses]:
        size = len(live.words)
        choices, top_p = self._list_choices(search, live, prefixes)
        drawn = [self._draw(*of_text, top_p) for of_text in itertools.islice(choices, size)]
        longer = np.concatenate([live.words, np.array(drawn, np.int32)[:, None]], axis=1)
        return np.arange(size), live._replace(words=longer)

    def _list_choices(
        self, search: AnySearch, live: Hypotheses, prefixes: Prefixes
    ) -> tuple[Iterable[tuple[np.ndarray, np.ndarray]], float | None]:
        """Return the words to draw from and their scores, for each text, and the nucleus to keep.

        The scores are log-probabilities with the repetition penalty.
        """
        top_k, top_p = self.options.top_k, self.options.top_p
        if top_k is not None:
            words, _, scores = self.best_words(search, top_k, live, prefixes)
            return zip(words, scores, strict=True), top_p
        has_penalty = self.options.repetition_penalty != 1
        if top_p is None and not has_penalty:
            return search.sample_rows(self.generator, self.temperature), None
        if top_p is not None and self.temperature == 1 and not has_penalty:
            return search.nuclei(top_p), None  # already the nuclei of all words
        every = np.arange(self.vocabulary_size)
        seen = _list_seen(live, prefixes)
        return (
            (every, self.penalize(every, *of_text))
            for of_text in zip(search.all_words(), seen, strict=False)
        ), top_p

    def _draw(self, words: np.ndarray, scores: np.ndarray, top_p: float | None) -> int:
        weights = np.exp((scores - scores.max()) / self.temperature)
        if top_p is not None:
            words, weights = _keep_nucleus(words, weights, top_p)
        return int(words[sample(self.generator, weights)])


def _keep_nucleus(
    words: np.ndarray, weights: np.ndarray, top_p: float
) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(-weights, kind="stable")
    reached = np.cumsum(weights[order]) / weights.sum()
    kept = order[: int(np.searchsorted(reached, top_p)) + 1]
    return words[kept], weights[kept]


def _make_chooser(predictor: Predictor, options: Options) -> _Chooser:
    is_sampler = options.num_beams is None and options.temperature != 0
    return _Sampler(predictor, options) if is_sampler else _Beams(predictor, options)


def _check_excluded(
    softmax: Any, excluded: Any, prefixes: Prefixes, end_word: int | None
) -> tuple[np.ndarray | None, int]:
    """Check excluded words.

    Returns:
        The words as `(B, E)`, -1 for none, or `None`; and the least number of words that are
        allowed after a text.
    """
    vocabulary_size, has_padding = softmax.word_table.vocabulary_size, softmax.mask_zero
    num_words = vocabulary_size - has_padding
    if excluded is not None:
        excluded = check_excluded(excluded, len(prefixes.words), vocabulary_size, 0, has_padding)
    if excluded is None or excluded.size == 0:
        return None, num_words
    if end_word is not None and (excluded == end_word).any():
        raise ValueError(
            "`end_word` must not be excluded. Received: end_word="
            f"{end_word}, which is in `excluded`. Remove it from one of the two."
        )
    num_allowed = count_allowed(excluded, vocabulary_size, has_padding)
    if not num_allowed.all():
        raise ValueError(
            f"`excluded` must leave at least one of the {num_words} words. Received: all of them "
            f"for the prefix at index {int(num_allowed.argmin())}. Exclude fewer words."
        )
    return excluded, int(num_allowed.min())


def _check_source(source: Any, num_texts: int) -> None:
    shapes = [tuple(np.shape(x)) for x in keras.tree.flatten(source)]
    if any(not shape or shape[0] != num_texts for shape in shapes):
        raise ValueError(
            f"Every tensor of `source` must have {num_texts} as its first axis, one entry for each "
            f"prefix. Received: the shapes {shapes}."
        )
