"""Features from neighbours, and the allocation that they lead to."""

from __future__ import annotations

import collections
import itertools
import math

import numpy as np
import pytest
import scipy.sparse

from keras_lightrnn._internal.progress import Progress
from keras_lightrnn.clustering import cooccurrence
from keras_lightrnn.clustering.cooccurrence import cluster_words, compute_word_features
from keras_lightrnn.clustering.two_way import cluster_features
from keras_lightrnn.table.allocation import Allocation


def _generate_class_text(
    num_classes: int, words_a_class: int, size: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw words from a class bigram process; return them and the class of each word id."""
    generator = np.random.default_rng(seed)
    # Two classes may follow each one, and each word of a class is as likely.
    followers = np.stack([generator.permutation(num_classes) for _ in range(2)], axis=1)
    choices = generator.integers(2, size=size)
    classes = np.zeros(size, np.int64)
    for position in range(1, size):
        classes[position] = followers[classes[position - 1], choices[position]]
    class_of_word = generator.permutation(np.repeat(np.arange(num_classes), words_a_class))
    members = np.stack([np.flatnonzero(class_of_word == k) for k in range(num_classes)])
    return members[classes, generator.integers(words_a_class, size=size)], class_of_word


def _compute_purity(rows: np.ndarray, class_of_word: np.ndarray) -> float:
    """Share of words that are of the commonest class of their row."""
    by_row = collections.defaultdict(collections.Counter)
    for row, label in zip(rows.tolist(), class_of_word.tolist(), strict=True):
        by_row[row][label] += 1
    return sum(max(labels.values()) for labels in by_row.values()) / len(class_of_word)


def _count_pairs(
    words: np.ndarray, size: int, window: int, max_contexts: int, mask_zero: bool = False
):
    return cooccurrence._count_pairs(
        words, size, window, max_contexts, 1 << 20, mask_zero, Progress(0)
    )


class TestComputeWordFeatures:
    @pytest.mark.parametrize("window", [1, 3])
    def test_pairs_match_a_plain_count(self, window, monkeypatch):
        monkeypatch.setattr(cooccurrence, "_BLOCK_SIZE", 7)
        words = np.random.default_rng(0).integers(6, size=100)
        expected: collections.Counter = collections.Counter()
        for distance in range(1, window + 1):
            for t in range(words.size - distance):
                expected[int(words[t]), int(words[t + distance])] += window + 1 - distance
        counts, first, second, times = _count_pairs(words, 6, window, 6)
        assert counts.tolist() == np.bincount(words, minlength=6).tolist()
        received = dict(zip(zip(first.tolist(), second.tolist(), strict=True), times, strict=True))
        assert received == dict(expected)

    @pytest.mark.parametrize("window", [1, 3])
    def test_padding_parts_the_stream(self, window, monkeypatch):
        monkeypatch.setattr(cooccurrence, "_BLOCK_SIZE", 7)
        words = np.random.default_rng(0).integers(5, size=200)
        counts, *pairs = _count_pairs(words, 5, window, 5, mask_zero=True)
        expected = collections.Counter()
        for is_padding, part in itertools.groupby(words.tolist(), lambda word: word == 0):
            part = [] if is_padding else list(part)
            for distance in range(1, window + 1):
                for pair in zip(part, part[distance:], strict=False):
                    expected[pair] += window + 1 - distance
        first, second, times = (x.tolist() for x in pairs)
        assert dict(zip(zip(first, second, strict=True), times, strict=True)) == expected
        assert counts.tolist() == [0, *np.bincount(words)[1:]]
        features, _ = compute_word_features(words, 5, mask_zero=True)
        assert features.any(axis=1).tolist() == [False, True, True, True, True]

    def test_only_padding(self):
        with pytest.raises(ValueError, match="not padding"):
            cluster_words([0, 0], 5, mask_zero=True)

    def test_information_matches_the_formula(self):
        words = np.random.default_rng(1).integers(5, size=60)
        size, contexts = 5, [int(w) for w in np.argsort(-np.bincount(words), kind="stable")[:3]]
        pairs = _count_pairs(words, size, 1, 3)
        information = cooccurrence._compute_information(*pairs, 1, 3).toarray()
        powers = [np.count_nonzero(words == w) ** 0.75 for w in range(size)]
        expected = np.zeros((size, 6))
        for w in range(size):
            for k, c in enumerate(contexts):
                left = sum((a, b) == (c, w) for a, b in itertools.pairwise(words))
                right = sum((a, b) == (w, c) for a, b in itertools.pairwise(words))
                for column, together in ((k, left), (3 + k, right)):
                    if together:
                        conditional = together / np.count_nonzero(words == w)
                        ratio = conditional / (powers[c] / sum(powers))
                        discount = together / (together + 3)
                        expected[w, column] = discount * max(0.0, math.log(ratio))
        np.testing.assert_allclose(information, expected, rtol=1e-5)

    def test_decomposition_matches_the_dense_one(self):
        generator = np.random.default_rng(2)
        dense = generator.random((60, 5)) @ generator.random((5, 40))
        dense += 1e-3 * generator.random(dense.shape)
        left, values = cooccurrence._decompose(
            scipy.sparse.csr_matrix(dense.astype(np.float32)), 5, generator
        )
        expected_left, expected, _ = np.linalg.svd(dense)
        np.testing.assert_allclose(values, expected[:5], rtol=1e-2)
        np.testing.assert_allclose(
            np.abs(np.sum(left * expected_left[:, :5], axis=0)), 1, atol=1e-3
        )

    def test_a_stream_in_pieces_is_one_text(self, monkeypatch):
        monkeypatch.setattr(cooccurrence, "_BLOCK_SIZE", 64)
        words = np.random.default_rng(3).integers(30, size=1_000).astype(np.int32)
        whole, counts = compute_word_features(words, 30, num_features=8, window=2)
        for splits in ([1, 2, 3], [500], [63, 64, 65, 128], [0, 0, 999]):
            pieces = (piece for piece in np.split(words, splits))
            features, piece_counts = compute_word_features(pieces, 30, num_features=8, window=2)
            np.testing.assert_array_equal(features, whole)
            np.testing.assert_array_equal(piece_counts, counts)

    @pytest.mark.parametrize("kind", [list, tuple, np.int64, np.uint16])
    def test_kinds_of_input(self, kind):
        words = np.random.default_rng(4).integers(9, size=50)
        expected, _ = compute_word_features(words, 9)
        given = kind(words.tolist()) if kind in (list, tuple) else words.astype(kind)
        np.testing.assert_array_equal(compute_word_features(given, 9)[0], expected)

    def test_shapes_and_unseen_words(self):
        words = np.random.default_rng(5).integers(10, 40, size=2_000)
        features, counts = compute_word_features(words, 50, num_features=6)
        assert features.shape == (50, 6)
        assert features.dtype == np.float32
        assert counts.dtype == np.int64
        assert counts.sum() == 2_000
        assert not features[counts == 0].any()
        assert np.isfinite(features).all()
        assert (np.linalg.norm(features[counts > 0], axis=1) > 0).all()

    def test_few_contexts_and_few_pairs(self, monkeypatch):
        monkeypatch.setattr(cooccurrence, "_BLOCK_SIZE", 1_000)
        words, class_of_word = _generate_class_text(5, 8, 20_000, seed=6)
        kept = []
        prune = cooccurrence._prune_run
        monkeypatch.setattr(
            cooccurrence, "_prune_run", lambda *given: kept.append(prune(*given)) or kept[-1]
        )
        features, counts = compute_word_features(
            words, 40, num_features=8, max_contexts=20, max_pairs=500
        )
        assert kept
        assert max(keys.size for keys, _ in kept) <= 500
        assert counts.sum() == words.size
        assert _compute_purity(cluster_features(features, 5, 8).rows, class_of_word) > 0.9

    def test_pruning_keeps_contexts_then_the_frequent(self):
        counts = np.array([9, 8, 2, 1])
        keys = np.array([0 * 4 + 1, 1 * 4 + 2, 2 * 4 + 3, 3 * 4 + 0])
        run = keys, np.array([1, 5, 7, 2])
        kept, times = cooccurrence._prune_run(run, counts, 2, 3)
        assert kept.tolist() == [1, 6, 12]  # (2, 3) has no context
        assert times.tolist() == [1, 5, 2]
        kept, times = cooccurrence._prune_run(run, counts, 2, 2)
        assert (kept.tolist(), times.tolist()) == ([6], [5])

    @pytest.mark.parametrize("words", [[], np.empty(0, np.int32), iter(()), [[], []]])
    def test_empty_stream(self, words):
        with pytest.raises(ValueError, match=r"at least one word\. Received: an empty stream"):
            compute_word_features(words, 5)

    @pytest.mark.parametrize("wrong", [-1, 5, 2**40])
    def test_id_out_of_range(self, wrong):
        pieces = [np.array([0, 1, 2]), np.array([3, wrong, 1])]
        with pytest.raises(ValueError, match=rf"\[0, 5\).*id {wrong} at position 4 of the stream"):
            compute_word_features(pieces, 5)

    @pytest.mark.parametrize(
        ("words", "error"),
        [
            (np.array([0.0, 1.0]), TypeError),
            (np.array([True, False]), TypeError),
            (["a", "b"], TypeError),
            ("text", ValueError),
            (3, ValueError),
            (np.zeros((2, 3), np.int32), ValueError),
            ([np.zeros((2, 3), np.int32)], ValueError),
        ],
    )
    def test_not_a_vector_of_integers(self, words, error):
        with pytest.raises(error, match=r"`words` must .* Received: a piece of"):
            compute_word_features(words, 5)

    @pytest.mark.parametrize(
        "name", ["vocabulary_size", "num_features", "window", "max_contexts", "max_pairs"]
    )
    @pytest.mark.parametrize("value", [0, -1, 1.5, True])
    def test_sizes(self, name, value):
        arguments = {"vocabulary_size": 5, name: value}
        with pytest.raises(ValueError, match=f"`{name}` must be .* Received: {name}={value}"):
            compute_word_features([0, 1], **arguments)

    def test_sizes_may_be_small_integers_of_numpy(self):
        words, _ = _generate_class_text(8, 8, 5_000, seed=16)
        sizes = {"num_features": 5, "window": 20, "max_contexts": 100}  # 20 * 21 is above 127
        expected, _ = compute_word_features(words, 70, **sizes)
        sizes = {name: np.int8(size) for name, size in sizes.items()}
        features, _ = compute_word_features(words, np.int8(70), **sizes)
        np.testing.assert_array_equal(features, expected)


class TestClusterWords:
    # Where a local search ends depends on how a processor rounds.
    @pytest.mark.parametrize(("solver", "purity"), [("alternating", 0.8), (None, 0.95)])
    def test_planted_classes_become_rows(self, solver, purity):
        words, class_of_word = _generate_class_text(10, 10, 40_000, seed=14)
        allocation = cluster_words(words, 100, num_features=16, solver=solver)
        assert _compute_purity(allocation.rows, class_of_word) > purity
        random = Allocation.random(100, seed=0)
        assert _compute_purity(random.rows, class_of_word) < 0.5

    def test_classes_of_another_size_than_rows(self):
        words, class_of_word = _generate_class_text(6, 20, 40_000, seed=15)
        allocation = cluster_words(words, 120, num_rows=12, num_features=16)
        assert allocation.shape == (12, 10)
        assert _compute_purity(allocation.rows, class_of_word) > 0.9

    def test_the_same_seed_gives_the_same_allocation(self):
        words, _ = _generate_class_text(8, 8, 5_000, seed=16)
        first = cluster_words(words, 70, seed=3)
        assert first == cluster_words(words, 70, seed=3)
        assert first == cluster_words(iter(np.array_split(words, 17)), 70, seed=3)
        assert first == Allocation.from_cooccurrence(words, 70, seed=3)

    def test_several_tables(self):
        words, _ = _generate_class_text(8, 8, 5_000, seed=16)
        tables = Allocation.from_cooccurrence(words, 70, seed=3, num_tables=2)
        assert tables[0] == cluster_words(words, 70, seed=3)
        features, _ = compute_word_features(words, 70, seed=3)
        assert tables == Allocation.from_features(features, seed=3, num_tables=2)
        with pytest.raises(ValueError, match=r"`num_tables` must be .* Received: num_tables=0"):
            cluster_words(iter(()), 70, num_tables=0)  # before the words are read

    @pytest.mark.parametrize(
        ("size", "num_rows", "num_columns", "shape"),
        [
            (1, None, None, (1, 1)),
            (1, 2, 3, (2, 3)),
            (2, None, None, (1, 2)),
            (2, 2, 1, (2, 1)),
            (2, 5, 5, (5, 5)),
            (50, None, None, (7, 8)),
            (50, 5, None, (5, 10)),
            (50, None, 20, (3, 20)),
            (50, 9, 9, (9, 9)),
            (50, 1, None, (1, 50)),
            (50, None, 1, (50, 1)),
        ],
    )
    def test_table_shapes(self, size, num_rows, num_columns, shape):
        words = np.random.default_rng(17).integers(size, size=500)
        allocation = cluster_words(words, size, num_rows, num_columns)
        assert allocation.shape == shape
        assert allocation.vocabulary_size == size

    @pytest.mark.parametrize("words", [[3], [3, 3, 3], [0, 1]])
    def test_almost_no_text(self, words):
        assert cluster_words(words, 10).vocabulary_size == 10

    def test_table_too_small(self):
        with pytest.raises(ValueError, match="at least as many cells"):
            cluster_words([0, 1], 10, 3, 3)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("solver", "acution"),
            ("num_rounds", 0),
            ("num_tables", 0),
            ("num_features", 0),
            ("window", 0),
            ("max_contexts", 0),
            ("seed", -1),
            ("num_rows", 2),
            ("num_columns", 0),
        ],
    )
    @pytest.mark.parametrize("cluster", [cluster_words, Allocation.from_cooccurrence])
    def test_arguments_are_checked_before_words_are_read(self, cluster, name, value):
        words = iter([[0, 1]])
        arguments = {"num_rows": 7, "num_columns": 8, name: value}
        with pytest.raises(ValueError, match=f"={value!r}"):
            cluster(words, 50, **arguments)
        assert list(words) == [[0, 1]]

    def test_verbose(self, capsys):
        cluster_words([0, 1, 2, 1], 3)
        assert capsys.readouterr() == ("", "")
        cluster_words([0, 1, 2, 1], 4, num_tables=2, verbose=1)
        output = capsys.readouterr()
        assert output.out == ""
        assert "features: 4 words read, 3 of 4 occur" in output.err
        assert "table 2 of 2: 0.0 % of the features unexplained" in output.err
