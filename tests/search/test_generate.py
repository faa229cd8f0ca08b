"""Beam search and sampling with end words, penalties and excluded words, for many networks."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from step_networks import KINDS, Attention, Composed, HalfSteps, Recurrent

from keras_lightrnn.layers import TwoComponentSoftmax
from keras_lightrnn.search import StepNetwork, generate

V, END, LENGTH = 5, 4, 3
WIDE = V**LENGTH
PREFIXES = [[3, 1, 2], [1, 3], [2, 2, 3, 1, 1]]
SOURCE = np.random.default_rng(5).normal(size=(3, 4)).astype("float32")


@pytest.fixture(scope="module", params=list(KINDS))
def model(request):
    keras.utils.set_random_seed(0)
    return KINDS[request.param](V)


def list_continuations(
    model, prefix, source, end_word=None, penalty=1.0, excluded=(), length=LENGTH
):
    """Return all continuations of a prefix: tuples of words, log-probability and score."""
    live, finished = [((), 0.0, 0.0)], []
    for size in range(1, length + 1):
        texts = np.array([[*prefix, *words] for words, _, _ in live])
        sources = None if source is None else np.repeat(source[None], len(texts), axis=0)
        of_texts = model.compute_distributions(texts, sources)
        longer = []
        for (words, log_prob, score), text, log_probs in zip(live, texts, of_texts, strict=True):
            for word, x in enumerate(log_probs):
                if word not in excluded and x > -np.inf:
                    y = x * penalty if word in text else x
                    longer.append(((*words, word), log_prob + x, score + y))
        live = [x for x in longer if x[0][-1] != end_word and size < length]
        finished += [x for x in longer if x[0][-1] == end_word or size == length]
    return finished


def rank(continuations, length_penalty):
    return sorted(continuations, key=lambda x: -x[2] / len(x[0]) ** length_penalty)


def fill(words, padding, length=LENGTH):
    return [*words, *[padding] * (length - len(words))]


@pytest.mark.parametrize(
    "options",
    [
        {"end_word": END},
        {"end_word": END, "length_penalty": 2.0, "excluded": [1]},
        *(
            pytest.param(options, marks=pytest.mark.slow)
            for options in (
                {},
                {"end_word": END, "length_penalty": 0.0},
                {"end_word": END, "length_penalty": -0.5, "repetition_penalty": 1.5},
            )
        ),
    ],
    ids=str,
)
def test_wide_beams_find_the_best_of_all(model, options):
    padding = 0 if model.mask_zero else END
    words, log_probs = model.generate(
        PREFIXES,
        source=SOURCE,
        length=LENGTH,
        num_beams=WIDE,
        num_return=4,
        return_log_probs=True,
        **options,
    )
    assert words.shape == (3, 4, LENGTH)
    assert words.dtype == np.int32
    for i, prefix in enumerate(PREFIXES):
        expected = list_continuations(
            model,
            prefix,
            SOURCE[i],
            options.get("end_word"),
            options.get("repetition_penalty", 1.0),
            options.get("excluded", ()),
        )
        penalty = options.get("length_penalty", 1.0)
        # By scores, because two texts may have nearly the same one.
        known = {tuple(fill(x[0], padding)): x for x in expected}
        found = [known[tuple(of_text)] for of_text in words[i].tolist()]
        assert len({x[0] for x in found}) == 4
        assert log_probs[i] == pytest.approx([x[1] for x in found], abs=1e-4)
        scores, best = (
            [x[2] / len(x[0]) ** penalty for x in texts]
            for texts in (found, rank(expected, penalty)[:4])
        )
        assert scores == pytest.approx(best, abs=1e-4)


def test_narrow_beams_are_exact_at_each_step(model):
    words = model.generate(
        PREFIXES, source=SOURCE, length=LENGTH, num_beams=2, num_return=2, end_word=END
    )
    for i, prefix in enumerate(PREFIXES):
        live, finished = [((), 0.0, 0.0)], []
        for size in range(1, LENGTH + 1):
            longer = []
            for text, log_prob, _ in live:
                further = list_continuations(model, [*prefix, *text], SOURCE[i], length=1)
                longer += [((*text, *x[0]), log_prob + x[1], log_prob + x[1]) for x in further]
            best = rank(longer, 0)[:2]
            finished += [x for x in best if x[0][-1] == END or size == LENGTH]
            live = [x for x in best if x[0][-1] != END]
            if not live:
                break
        padding = 0 if model.mask_zero else END
        expected = [fill(x[0], padding) for x in rank(finished, 1)[:2]]
        assert words[i].tolist() == expected


def test_one_beam_takes_the_best_word_at_each_step(model):
    options = {"source": SOURCE, "length": 6, "end_word": END}
    words, log_probs = model.generate(PREFIXES, num_beams=1, return_log_probs=True, **options)
    assert words.tolist() == model.generate(PREFIXES, temperature=0, **options).tolist()
    for i, prefix in enumerate(PREFIXES):
        text, expected = list(prefix), 0.0
        for word in words[i]:
            [best] = model.compute_distributions(np.array([text]), SOURCE[i][None])
            assert word == best.argmax()
            expected += best[word]
            text.append(word)
            if word == END:
                break
        assert log_probs[i] == pytest.approx(expected, abs=1e-4)


@pytest.fixture(
    scope="module", params=[{"num_beams": 3, "num_return": 2}, {"temperature": 0}], ids=str
)
def alone(request, model):
    """Options, and how each prefix goes on by itself."""
    options = {"length": 5, **request.param}
    return options, [
        model.generate(prefix, source=SOURCE[i : i + 1], **options).tolist()
        for i, prefix in enumerate(PREFIXES)
    ]


@pytest.mark.parametrize("side", ["left", "right", "list"])
def test_prefixes_of_unequal_lengths_are_each_alone(model, alone, side):
    options, expected = alone
    if side == "list":
        together = model.generate(PREFIXES, source=SOURCE, **options)
    else:
        padded = np.zeros((3, 6), int)
        is_word = np.zeros((3, 6), bool)
        for i, prefix in enumerate(PREFIXES):
            here = slice(6 - len(prefix), None) if side == "left" else slice(len(prefix))
            padded[i, here], is_word[i, here] = prefix, True
        mask = None if model.mask_zero else is_word
        together = model.generate(padded, source=SOURCE, mask=mask, **options)
    assert together.tolist() == expected


def test_next_words_of_unequal_lengths(model):
    if not isinstance(model, Recurrent):
        pytest.skip("a network has the search in its softmax")
    words, log_probs = model.model.next_words(PREFIXES, k=V - 1)
    everything = model.model.word_log_probs(PREFIXES)
    for i, prefix in enumerate(PREFIXES):
        alone = model.model.next_words(prefix, k=V - 1)
        assert words[i].tolist() == alone[0].tolist()
        assert log_probs[i] == pytest.approx(alone[1], abs=1e-5)
        assert everything[i] == pytest.approx(model.model.word_log_probs(prefix), abs=1e-5)


def test_samples_end(model):
    options = {"source": SOURCE, "length": 8, "end_word": END, "seed": 0}
    words = model.generate(PREFIXES, num_return=40, **options)
    assert words.shape == (3, 40, 8)
    padding = 0 if model.mask_zero else END
    lengths = set()
    for of_text in words.reshape(-1, 8):
        size = [*of_text, END].index(END) + 1
        lengths.add(size)
        assert (of_text[size:] == padding).all()
    assert len(lengths) >= 3
    assert words.tolist() == model.generate(PREFIXES, num_return=40, **options).tolist()


@pytest.mark.parametrize("kind", ["two tables", "composed with mask_zero"])
@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"temperature": 1.5, "top_p": 0.7}], ids=str)
def test_samples_follow_the_distribution_with_penalty_and_excluded_words(kind, options):
    model = KINDS[kind](V)
    excluded = np.array([[1, -1], [2, 3], [-1, -1]])
    samples = model.generate(
        PREFIXES,
        source=SOURCE,
        length=1,
        num_return=150,
        repetition_penalty=1.7,
        excluded=excluded,
        seed=0,
        **options,
    )
    distributions = [
        model.compute_distributions(np.array([prefix]), SOURCE[i][None])[0]
        for i, prefix in enumerate(PREFIXES)
    ]
    for i, log_probs in enumerate(distributions):
        scores = np.where(np.isin(np.arange(V), PREFIXES[i]), 1.7 * log_probs, log_probs)
        scores[excluded[i][excluded[i] >= 0]] = -np.inf
        weights = np.exp(scores / options.get("temperature", 1.0))
        order = np.argsort(-weights)
        weights[order[options.get("top_k", V) :]] = 0
        weights /= weights.sum()
        if "top_p" in options:
            size = int(np.searchsorted(np.cumsum(weights[order]), options["top_p"])) + 1
            weights[order[size:]] = 0
            weights /= weights.sum()
        counts = np.bincount(samples[i, :, 0], minlength=V)
        assert (counts[weights == 0] == 0).all()
        deviation = np.sqrt(150 * weights * (1 - weights))
        assert (np.abs(counts - 150 * weights) <= 5 * deviation + 1).all()


# Shapes and errors.


@pytest.fixture(scope="module")
def composed():
    return Composed(V)


def test_shapes(composed):
    for options in ({"num_beams": 3}, {"seed": 0}):
        options = {"length": 4, **options}
        assert composed.generate([3, 1], **options).shape == (4,)
        assert composed.generate([3, 1], num_return=1, **options).shape == (1, 4)
        assert composed.generate([[3, 1]], num_return=2, **options).shape == (1, 2, 4)
    words, log_probs = composed.generate(
        [3, 1], length=4, num_beams=3, num_return=2, return_log_probs=True
    )
    assert words.shape == (2, 4)
    assert log_probs.shape == (2,)
    assert composed.generate([3, 1], length=4, num_beams=2, return_log_probs=True)[1].shape == ()


def test_many_prefixes_are_each_alone(composed, rng):
    prefixes = rng.integers(V, size=(70, 3))
    options = {"length": 4, "num_beams": 3, "end_word": END}
    words = composed.generate(prefixes, **options)
    for i in (0, 20, 21, 69):
        assert words[i].tolist() == composed.generate(prefixes[i], **options).tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 0}, "num_beams.*0"),
        ({"num_beams": 2, "temperature": 0.5}, "num_beams=2, temperature=0.5.*Leave out"),
        ({"num_beams": 2, "top_k": 3, "top_p": 0.5}, "num_beams=2, top_k=3, top_p=0.5"),
        ({"num_beams": 2, "num_return": 3}, "num_return=3, num_beams=2"),
        ({"num_return": 0}, "num_return.*0"),
        ({"num_return": 2, "temperature": 0}, "num_return=2.*Give `num_beams`"),
        ({"end_word": V}, rf"`end_word`.*\[0, {V}\).*end_word={V}"),
        ({"end_word": -1}, "`end_word`.*-1"),
        ({"length_penalty": 2.0}, "length_penalty=2.0.*Give `num_beams`"),
        ({"num_beams": 2, "length_penalty": np.nan}, "`length_penalty`.*nan"),
        ({"return_log_probs": True}, "return_log_probs=True.*Give `num_beams`"),
        ({"repetition_penalty": 0.5}, "at least 1.*0.5"),
        ({"repetition_penalty": np.inf}, "at least 1.*inf"),
        ({"excluded": [V]}, rf"\[0, {V}\).*id {V}"),
        ({"excluded": [-2]}, "id -2"),
        ({"excluded": [[1], [2]]}, r"\(1, E\).*\(2, 1\)"),
        ({"excluded": range(V)}, f"one of the {V} words.*index 0"),
        ({"excluded": [1, 2], "top_k": V - 1}, rf"`top_k`.*\[1, {V - 2}\]"),
        ({"excluded": [END], "end_word": END}, "end_word=4, which is in `excluded`"),
        ({"excluded": [0, 1, 2], "num_beams": 3, "num_return": 3, "length": 1}, "num_return=3.*2"),
        ({"mask": [True]}, r"mask.shape=\(1,\), prefix.shape=\(2,\)"),
        ({"mask": [False, False]}, "a word that `mask` keeps.*index 0"),
        ({"mask": [2, 1]}, "booleans.*int64"),
        ({"source": np.zeros((2, 3))}, r"1 as its first axis.*\(2, 3\)"),
    ],
    ids=str,
)
def test_errors(composed, options, message):
    with pytest.raises(ValueError, match=message):
        composed.generate([3, 1], **options)


def test_excluded_words_that_are_no_ids(composed):
    with pytest.raises(TypeError, match=r"excluded.dtype=float64"):
        composed.generate([3, 1], excluded=[1.5])


def test_bad_prefixes(composed):
    with pytest.raises(ValueError, match=r"empty text at index 1"):
        composed.generate([[1, 2], []])
    with pytest.raises(ValueError, match=r"that is an array.*a list of unequal lengths"):
        composed.generate([[1, 2], [1]], mask=[[1, 1], [1, 0]])
    with pytest.raises(ValueError, match=rf"\[0, {V}\).*id 9"):
        composed.generate([[1, 2], [9]])
    with pytest.raises(ValueError, match=r"at least one word.*index 1"):
        Composed(V, mask_zero=True).generate([[1, 0], [0, 0]])


def test_texts_that_are_not_encoded(composed):
    for text in ("the cat", ["the", "cat"]):
        with pytest.raises(TypeError, match=r"dtype=<U.*Encode text with `Vocabulary.encode`"):
            composed.generate(text, length=2)


def test_bad_networks(composed):
    with pytest.raises(
        TypeError, match=r"methods \['start', 'step'\].*without \['start', 'step'\]"
    ):
        generate(composed.gru, composed.softmax, [1])
    with pytest.raises(TypeError, match=r"without \['read_rows'\]"):
        generate(KerasLike(), HalfSteps(V).softmax, [1])
    with pytest.raises(TypeError, match="must be a `TwoComponentSoftmax`"):
        generate(composed.network, keras.layers.Dense(V), [1])
    with pytest.raises(ValueError, match="must be built"):
        generate(composed.network, TwoComponentSoftmax(V, row_reader="gated"), [1])
    with pytest.raises(NotImplementedError, match="`ComposedSteps` must define `read_rows"):
        generate(composed.network, HalfSteps(V).softmax, [1])


class KerasLike:
    def start(self, words, lengths, max_length, source=None): ...

    def step(self, words, cache): ...


class Broken(StepNetwork):
    def __init__(self, hidden, cache):
        self.read = hidden, cache

    def start(self, words, lengths, max_length, source=None):
        return self.read

    def step(self, words, cache):
        return self.read


def test_networks_that_return_other_shapes(composed):
    hidden = np.zeros((2, 6), "float32")
    with pytest.raises(ValueError, match=r"hidden states of Broken.start.*\(2, 6\).*\(2, 3, 6\)"):
        generate(Broken(np.zeros((2, 3, 6), "float32"), []), composed.softmax, [[1], [2]])
    with pytest.raises(ValueError, match=r"its 2 texts as its first axis.*Broken.*\(1, 2, 6\)"):
        generate(Broken(hidden, [hidden[None]]), composed.softmax, [[1], [2]], num_beams=2)


def test_the_cache_of_attention_is_never_longer_than_the_text():
    attention = Attention(V)
    words = attention.generate(PREFIXES, length=15, num_beams=2)  # its positions end at 20
    assert words.shape == (3, 15)
