"""Translate with an encoder-decoder of Keras layers over a large target vocabulary.

Without arguments it generates a parallel text from a small grammar. The source marks number and
tense by separate words, the target by endings, and the word order differs. Pass `--source FILE
--target FILE` to read a parallel text: one sentence per line, words separated by spaces, line `n`
of one file the translation of line `n` of the other.

sacrebleu scores translations by chrF and BLEU: `pip install "keras-lightrnn[translation]"`. Without
it, the script reports only the shares of correct translations and of correct words.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import quiet_start  # noqa: F401 (first, because it imports TensorFlow)

# isort: split
import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from keras_lightrnn import Allocation, WordTable
from keras_lightrnn.data import Vocabulary, read_lines
from keras_lightrnn.layers import TwoComponentEmbedding, TwoComponentSoftmax
from keras_lightrnn.losses import NegativeLogLikelihood
from keras_lightrnn.metrics import Perplexity
from keras_lightrnn.search import StepNetwork, generate

try:
    import sacrebleu
except ImportError:
    sacrebleu = None

Pairs = list[tuple[str, str]]


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", metavar="FILE", help="sentences to translate")
    parser.add_argument("--target", metavar="FILE", help="their translations")
    parser.add_argument(
        "--pairs", type=int, default=16_000, help="sentences to make (default: %(default)s)"
    )
    parser.add_argument(
        "--stems", type=int, default=200, help="nouns of the grammar (default: %(default)s)"
    )
    parser.add_argument(
        "--max-length",
        type=int,
        default=40,
        help="leave out pairs with a sentence of more words (default: %(default)s)",
    )
    parser.add_argument(
        "--vocabulary-size",
        type=int,
        default=50_000,
        help="most words of each language (default: %(default)s)",
    )
    parser.add_argument("--dim", type=int, default=96, help="default: %(default)s")
    parser.add_argument("--units", type=int, default=192, help="default: %(default)s")
    parser.add_argument("--epochs", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--learning-rate", type=float, default=0.004, help="default: %(default)s")
    parser.add_argument("--beams", type=int, default=4, help="default: %(default)s")
    parser.add_argument(
        "--test-size",
        type=int,
        default=200,
        help="pairs that are translated (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("translation-model"),
        help="directory for model.keras and the vocabularies (default: %(default)s)",
    )
    return parser


# The parallel text.


def make_stems(number: int, rng: np.random.Generator) -> list[str]:
    """Return different words of two or three syllables."""
    syllables = ["".join(pair) for pair in itertools.product("bdfgklmnprstvz", "aeiou")]
    stems: dict[str, None] = {}  # which keeps the order
    while len(stems) < number:
        stems["".join(rng.choice(syllables, size=rng.integers(2, 4)))] = None
    return list(stems)


def make_pairs(number: int, num_nouns: int, seed: int) -> Pairs:
    """Return sentences of a small grammar with their translations."""
    rng = np.random.default_rng(seed)
    sizes = (num_nouns, num_nouns // 2 + 1, num_nouns // 2 + 1)
    lexicon = [
        list(zip(make_stems(size, rng), make_stems(size, rng), strict=True)) for size in sizes
    ]
    nouns, adjectives, verbs = lexicon
    genders = rng.integers(2, size=len(nouns))

    def make_noun_phrase(case: str) -> tuple[list[str], list[str], int]:
        index, number, definite = rng.integers(len(nouns)), rng.integers(2), rng.integers(2)
        noun, translation = nouns[index]
        source = [("a", "the")[definite]] if definite or not number else []
        target = [translation + case + ("", "ri")[number] + ("", "ta")[definite]]
        if rng.random() < 0.5:
            adjective, translation = adjectives[rng.integers(len(adjectives))]
            source.append(adjective)
            target.append(translation + ("o", "e")[genders[index]] + case + ("", "ri")[number])
        return [*source, noun + ("", "s")[number]], target, number

    def make_pair() -> tuple[str, str]:
        subject, its_translation, number = make_noun_phrase("n")
        object_, other_translation, _ = make_noun_phrase("k")
        verb, translation = verbs[rng.integers(len(verbs))]
        tense = rng.integers(3)
        auxiliary = ([], ["did"], ["will"])[tense]
        ending = ("a", "iva", "ura")[tense] + ("", "m")[number]
        source = [*subject, *auxiliary, verb, *object_]
        return " ".join(source), " ".join(
            [*its_translation, *other_translation, translation + ending]
        )

    return [make_pair() for _ in range(number)]


def read_pairs(source: str, target: str) -> Pairs:
    """Return the pairs of lines of two files, without those that lack a sentence."""
    sources, targets = list(read_lines(source)), list(read_lines(target))
    if len(sources) != len(targets):
        raise ValueError(
            "Two files of a parallel text must have as many lines. Received: "
            f"{len(sources):,} lines of {source}, {len(targets):,} of {target}."
        )
    pairs = [(a.strip(), b.strip()) for a, b in zip(sources, targets, strict=True)]
    return [pair for pair in pairs if all(pair)]


def make_vocabulary(lines: Sequence[str], size: int) -> Vocabulary:
    """Return the words of a text after its padding, which is word 0."""
    return Vocabulary(["<pad>", *Vocabulary.from_lines(lines, max_size=size - 1).words])


def encode(vocabulary: Vocabulary, lines: Sequence[str], is_target: bool = False) -> np.ndarray:
    """Return sentences as `(N, L)`, padded; each with its end word, and targets behind another."""
    first = [vocabulary.end_id] if is_target else []
    rows = [[*first, *vocabulary.encode(line)] for line in lines]
    return np.array(list(itertools.zip_longest(*rows, fillvalue=0)), np.int32).T.copy()


# The model.


def make_model(source_size: int, table: WordTable, dim: int, units: int) -> keras.Model:
    """Return a model from sentences and windows of translations to log-probabilities.

    `(B, S)` and `(B, T + 1)` become `(B, T)`: words 1..T of the windows are predicted. The decoder
    starts from the last states of the encoder, reads each word of the translation so far, and
    attends to what the encoder says of each word of the source.
    """
    source = keras.Input((None,), dtype="int32", name="source")
    windows = keras.Input((None,), dtype="int32", name="target")
    x = layers.Embedding(source_size, dim, mask_zero=True, name="source_embedding")(source)
    gru = layers.GRU(units // 2, return_sequences=True, return_state=True)
    memory, forward, backward = layers.Bidirectional(gru, name="encoder")(x)
    state = layers.Concatenate(name="state")([forward, backward])
    y = TwoComponentEmbedding(table, dim, mask_zero=True, name="embedding")(windows[:, :-1])
    decoder = layers.GRU(units, return_sequences=True, return_state=True, name="decoder")
    hidden, _ = decoder(y, initial_state=state)
    attention = layers.MultiHeadAttention(2, units // 2, name="attention")
    read = attention(hidden, memory, attention_mask=ops.not_equal(source, 0)[:, None])
    joined = layers.Concatenate(name="joined")([hidden, read])
    states = layers.Dense(units, "tanh", name="states")(joined)
    softmax = TwoComponentSoftmax(table, word_bias="counts", mask_zero=True, name="softmax")
    return keras.Model([source, windows], softmax(states, windows[:, 1:]))


class TranslatorSteps(StepNetwork):
    """Reads translations word by word with the layers of a model of `make_model`.

    The cache holds the state of the decoder and what it attends to.
    """

    def __init__(self, model: keras.Model) -> None:
        self.get = model.get_layer
        self.compiled_step = tf.function(self.run_step, reduce_retracing=True)

    def start(self, words: Any, lengths: Any, max_length: int, source: Any = None) -> Any:
        memory, *states = self.get("encoder")(self.get("source_embedding")(source))
        state = self.get("state")(states)
        # Word 0 is padding, which the decoder passes over.
        _, state = self.get("decoder")(self.get("embedding")(words), initial_state=state)
        cache = {"state": state, "memory": memory, "is_word": ops.not_equal(source, 0)}
        return self.predict(cache), cache

    def step(self, words: Any, cache: Any) -> Any:
        return self.compiled_step(words, cache)

    def run_step(self, words: Any, cache: Any) -> Any:
        vectors = self.get("embedding")(words[:, None])
        _, state = self.get("decoder")(vectors, initial_state=cache["state"])
        cache = {**cache, "state": state}
        return self.predict(cache), cache

    def predict(self, cache: Any) -> Any:
        """Return the input of the softmax, `(B, H)`."""
        hidden = cache["state"][:, None]  # (B, 1, H)
        mask = cache["is_word"][:, None]
        read = self.get("attention")(hidden, cache["memory"], attention_mask=mask)
        return self.get("states")(self.get("joined")([hidden, read]))[:, 0]


# Its use.


def translate(
    model: keras.Model, sources: np.ndarray, vocabulary: Vocabulary, length: int, num_beams: int
) -> list[str]:
    """Return the translations of sentences `(N, S)`."""
    words = generate(
        TranslatorSteps(model),
        model.get_layer("softmax"),
        np.full((len(sources), 1), vocabulary.end_id),
        length,
        end_word=vocabulary.end_id,
        num_beams=num_beams,
        excluded=[vocabulary.unknown_id],
        source=sources,
    )
    ends = (0, vocabulary.end_id)
    return [
        " ".join(vocabulary.words[word] for word in of_text if word not in ends)
        for of_text in words
    ]


def score(translations: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return the percentages of right translations and words, and chrF and BLEU if installed."""
    is_right = [a == b for a, b in zip(translations, references, strict=True)]
    texts = [(a.split(), b.split()) for a, b in zip(translations, references, strict=True)]
    num_right = sum(x == y for a, b in texts for x, y in zip(a, b, strict=False))
    scores = {
        "right translations": 100 * float(np.mean(is_right)),
        "right words": 100 * num_right / sum(max(len(a), len(b)) for a, b in texts),
    }
    if sacrebleu is not None:
        for name, corpus_score in (
            ("chrF", sacrebleu.corpus_chrf(translations, [references])),
            ("BLEU", sacrebleu.corpus_bleu(translations, [references], tokenize="none")),
        ):
            scores[name] = corpus_score.score
    return scores


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = make_parser()
    args = parser.parse_args(argv)
    if (args.source is None) != (args.target is None):
        parser.error("--source and --target belong together, give both or none")
    keras.utils.set_random_seed(args.seed)
    if args.source:
        pairs = read_pairs(args.source, args.target)
    else:
        pairs = make_pairs(args.pairs, args.stems, args.seed)
    kept = [pair for pair in pairs if max(len(x.split()) for x in pair) <= args.max_length]
    test_size = min(args.test_size, len(kept) // 5)
    if test_size == 0:
        parser.error(f"a parallel text needs at least 5 pairs, and this one has {len(kept)}")
    train, test = kept[:-test_size], kept[-test_size:]
    sources, targets = (list(lines) for lines in zip(*train, strict=True))
    words = [make_vocabulary(lines, args.vocabulary_size) for lines in (sources, targets)]
    print(
        f"{len(train):,} pairs to train on and {len(test):,} to test ({len(pairs) - len(kept):,} "
        f"longer than {args.max_length} words left out); {len(words[0]):,} words of the source, "
        f"{len(words[1]):,} of the target"
    )

    stream = words[1].encode_lines(targets)
    table = WordTable(Allocation.from_cooccurrence(stream, len(words[1]), seed=args.seed))
    model = make_model(len(words[0]), table, args.dim, args.units)
    model.get_layer("softmax").assign_word_counts(np.bincount(stream, minlength=len(words[1])))
    windows = encode(words[1], targets, is_target=True)
    num_steps = args.epochs * -(-len(train) // args.batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(args.learning_rate, num_steps, alpha=0.02)
    model.compile(
        keras.optimizers.Adam(schedule, global_clipnorm=1.0),
        loss=NegativeLogLikelihood(),
        weighted_metrics=[Perplexity()],
    )
    model.fit(
        [encode(words[0], sources), windows],
        windows[:, 1:],
        batch_size=args.batch_size,
        epochs=args.epochs,
        verbose="auto" if sys.stdout.isatty() else 2,
    )
    args.output.mkdir(parents=True, exist_ok=True)
    model.save(args.output / "model.keras")
    for vocabulary, name in zip(words, ("source.txt", "target.txt"), strict=True):
        vocabulary.save(args.output / name)

    test_sources, references = (list(lines) for lines in zip(*test, strict=True))
    encoded, length = encode(words[0], test_sources), windows.shape[1]
    scores: dict[str, Any] = {}
    for num_beams in dict.fromkeys((1, args.beams)):
        start = time.perf_counter()
        translations = translate(model, encoded, words[1], length, num_beams)
        seconds = time.perf_counter() - start
        scores[f"{num_beams} beams"] = found = score(translations, references)
        figures = ", ".join(f"{name} {x:.1f}" for name, x in found.items())
        print(f"{num_beams} beam(s): {figures} ({1000 * seconds / len(test):.0f} ms a sentence)")
    if sacrebleu is None:
        print('chrF and BLEU need sacrebleu: pip install "keras-lightrnn[translation]"')
    for source, translation, reference in list(
        zip(test_sources, translations, references, strict=True)
    )[:3]:
        print(f"\n  source      {source}\n  translation {translation}\n  reference   {reference}")
    print(f"\nSaved to {args.output}/")
    return scores


if __name__ == "__main__":
    main()
