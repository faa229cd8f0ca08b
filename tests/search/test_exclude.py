"""Searches leave excluded words out, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from keras_lightrnn import Allocation
from keras_lightrnn.layers import TwoComponentSoftmax
from keras_lightrnn.search.layer_search import search_states

V, H = 23, 5
TABLES = [Allocation.random(V, 5, 6, seed=0), Allocation.random(V, 6, 4, seed=1)]


@pytest.mark.parametrize("num_tables", [1, 2])
def test_excluded_words_take_no_place(rng, num_tables):
    layer = TwoComponentSoftmax(TABLES[:num_tables], row_reader="gated", mask_zero=True)
    layer.build((None, H))
    for weight in layer.trainable_weights:
        weight.assign(rng.normal(size=weight.shape))
    states = rng.normal(size=(2, H)).astype("float32")
    all_words, all_log_probs = search_states(layer, states).best_words(V - 1)
    excluded = np.stack([all_words[0, [0, 2, 7]], [all_words[1, 0], -1, -1]])
    search = search_states(layer, states)
    search.exclude(excluded)
    words, log_probs = search.best_words(4)
    nuclei = search.nuclei(0.6)
    for text in range(2):
        is_kept = ~np.isin(all_words[text], excluded[text])
        assert words[text].tolist() == all_words[text][is_kept][:4].tolist()
        assert log_probs[text] == pytest.approx(all_log_probs[text][is_kept][:4], abs=1e-6)
        # The fewest words that reach that share of what is allowed.
        probs = np.exp(all_log_probs[text][is_kept])
        size = int(np.searchsorted(np.cumsum(probs), 0.6 * probs.sum())) + 1
        assert nuclei[text][0].tolist() == all_words[text][is_kept][:size].tolist()
    generator = np.random.default_rng(0)
    for _ in range(20):
        for text, (found, _) in enumerate(search.sample_rows(generator, 1.0)):
            assert not np.isin(found, [0, *excluded[text]]).any()


@pytest.mark.parametrize("num_tables", [1, 2])
def test_nuclei_without_the_words_that_have_nearly_all_probability(num_tables):
    layer = TwoComponentSoftmax(TABLES[:num_tables], word_bias="counts")
    layer.build((None, H))
    for weight in layer.trainable_weights:
        weight.assign(np.zeros(weight.shape))
    counts = np.where(np.arange(V) == 3, 1e12, np.arange(1.0, V + 1))
    layer.assign_word_counts(counts)
    search = search_states(layer, np.ones((1, H), "float32"))
    search.exclude(np.array([[3]]))
    probs = np.where(np.arange(V) == 3, 0, counts / np.sum(counts[counts < 1e12]))
    order = np.argsort(-probs, kind="stable")
    for top_p in (0.3, 0.9):
        size = int(np.searchsorted(np.cumsum(probs[order]), top_p)) + 1
        [(words, _)] = search.nuclei(top_p)
        assert words.tolist() == order[:size].tolist()
