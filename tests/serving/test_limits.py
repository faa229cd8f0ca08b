"""Limits of requests, and batches that are computed in several blocks."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from exportable import V
from served import call, decode, needs_c_api, run_c_api

from keras_lightrnn.serving import ServingLimits, export_saved_model

LIMITS = ServingLimits(
    max_batch_size=3, max_words_per_text=4, max_bytes_per_text=16, max_k=2, max_length=5
)
SAMPLING = {"temperature": 1.0, "seed": 0}
WITHIN = [
    ("score", {"text": ["w1 w2 w3 w4", "", "w1"]}),
    ("score", {"text": ["\u3000" * 5 + "w"]}),
    ("next_words", {"text": ["w1 w2 w3 w4"] * 3, "k": 2}),
    ("generate", {"text": ["w1 w2 w3 w4"] * 3, "length": 5, **SAMPLING}),
    ("score_ids", {"words": np.ones((3, 6), int)}),
]
TEXT = [
    (["w1"] * 4, r"`text` must hold at most 3 texts.*\[4\].*max_batch_size=3"),
    (["w1", "a b c d e"], r"`text` must hold at most 4 words.*\[5\].*max_words_per_text=4"),
    (["\u3000" * 5 + "ww"], r"at most 16 bytes a text.*\[17\].*max_bytes_per_text=16"),
]
BEYOND = [
    *(("score", {"text": text}, message) for text, message in TEXT),
    *(("next_words", {"text": text, "k": 1}, message) for text, message in TEXT),
    *(("generate", {"text": text, "length": 1, **SAMPLING}, message) for text, message in TEXT),
    ("next_words", {"text": ["w1"], "k": 3}, r"`k` must lie in \[1, 2\].*\[3\].*43 words.*max_k=2"),
    (
        "generate",
        {"text": ["w1"], "length": 10**9, **SAMPLING},
        r"`length` must lie in \[1, 5\].*\[1000000000\].*max_length=5",
    ),
    ("score_ids", {"words": np.ones((4, 2), int)}, r"`words` must hold at most 3 texts.*\[4\]"),
    ("score_ids", {"words": np.ones((1, 7), int)}, r"`words` must hold at most 4 words.*\[5\]"),
    # This takes no memory to send.
    ("score_ids", {"words": np.ones((0, 10**9), int)}, "at least one text"),
]


@pytest.fixture(scope="module")
def directory(model, vocabulary, tmp_path_factory):
    path = tmp_path_factory.mktemp("limited")
    return export_saved_model(model, vocabulary, path, limits=LIMITS)


@pytest.fixture(scope="module")
def limited(directory):
    return tf.saved_model.load(directory)


def test_requests_at_the_limits_are_answered(limited):
    for signature, inputs in WITHIN:
        assert call(limited, signature, **inputs)


@pytest.mark.parametrize(("signature", "inputs", "message"), BEYOND)
def test_requests_beyond_the_limits_are_errors(limited, signature, inputs, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        call(limited, signature, **inputs)


@needs_c_api
def test_limits_hold_in_servers(directory, tmp_path):
    requests = [*WITHIN, *((signature, inputs) for signature, inputs, _ in BEYOND)]
    answers = run_c_api(directory, requests, tmp_path)
    assert not any("error" in answer for answer in answers[: len(WITHIN)])
    for (_, _, message), answer in zip(BEYOND, answers[len(WITHIN) :], strict=True):
        with pytest.raises(RuntimeError, match=message):
            raise RuntimeError(answer["error"])


def test_blocks_change_no_answer(by_id, rng):
    served = tf.saved_model.load(by_id)
    # More than two blocks, of texts whose lengths rise and fall.
    texts = [" ".join(f"w{i}" for i in rng.integers(V, size=i * 7 % 12)) for i in range(150)]
    asked = [0, 1, 63, 64, 77, 128, 149]
    greedy = {"length": 3, "temperature": 0, "seed": 0}
    for signature, options in ("score", {}), ("next_words", {"k": 7}), ("generate", greedy):
        together = call(served, signature, text=texts, **options)
        for i in asked:
            alone = call(served, signature, text=[texts[i]], **options)
            for name, values in alone.items():
                expected = together[name][i : i + 1]
                if signature == "score" and values.ndim == 2:  # padded to the longest text
                    expected = expected[:, : values.shape[1]]
                if values.dtype == object:
                    assert decode(expected.ravel()) == decode(values.ravel())
                else:
                    assert values == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_blocks_draw_different_numbers(by_id):
    served = tf.saved_model.load(by_id)
    inputs = {"text": ["w1"] * 192, "length": 12, "temperature": 1.5, "seed": 0}
    texts = call(served, "generate", **inputs)["text"]
    assert len({*texts[:64]} & {*texts[64:128]}) < 8
    assert len({*texts[64:128]} & {*texts[128:]}) < 8


@pytest.mark.parametrize("limit", [0, -1, 2**31, 1.5, True])
def test_limits_are_checked(limit):
    with pytest.raises(ValueError, match=r"`max_k` must .*max_k="):
        ServingLimits(max_k=limit)


def test_limits_must_be_limits(model, vocabulary, tmp_path):
    with pytest.raises(TypeError, match=r"`limits` must be `ServingLimits`.*\{'max_k': 3\}"):
        export_saved_model(model, vocabulary, tmp_path, limits={"max_k": 3})
