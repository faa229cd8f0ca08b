"""Train and serve a model that recommends the next item of a session.

Without arguments it generates a catalogue of 1,920 items and sessions over it, and needs no
download. Pass `--train FILE --test FILE` to read files of sessions, plain or gzip: one session a
line, item ids from 1 separated by spaces. A line of the test file is the start of a session and,
last, the item to predict.

The model reads a session with a GRU and attention, and predicts with a `TwoComponentSoftmax` over
tables of items. Visitors return to items that they have seen, and a second attention predicts to
which, as in RepeatNet (Ren et al., AAAI 2019, arXiv:1812.02646). The model mixes both
distributions, and its search is still exact. It is evaluated on all test lines by P@20, the share
of targets among the 20 best items, and MRR@20, the mean of their reciprocal ranks (0 below rank
20).

`--features FILE.npy` puts items with similar features into shared rows and columns. An item that
is in no training session, but has features, can then be recommended from its first day on.
Without files, `--features` uses the features of the generated catalogue.

For the public sessions of Diginetica (43,097 items) and Nowplaying (60,416 items) use
`--batch-size 2048 --learning-rate 0.006 --epochs 8`: a quarter of the numbers that one vector of
100 an item needs.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import quiet_start  # noqa: F401 (first, because it imports TensorFlow)

# isort: split
import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_lightrnn import Allocation
from keras_lightrnn.clustering import compute_word_features
from keras_lightrnn.layers import (
    TopWords,
    TwoComponentEmbedding,
    TwoComponentSoftmax,
    WordVectors,
)
from keras_lightrnn.losses import NegativeLogLikelihood

BEST = 20
# Size of the vectors that predict to which item of a session a visitor returns.
RETURN_DIM = 32
# Neighbours, by features, whose weights a new item takes over.
NUM_NEIGHBOURS = 10
# Requests that are timed.
NUM_REQUESTS = 50
# Places of the batches, so that few shapes are compiled. Sessions are padded to the next of them.
LENGTHS = (1, 2, 3, 4, 6, 9, 14, 20)


class Sessions(NamedTuple):
    """Sessions of item ids; 0 is padding.

    Attributes:
        train: Vectors of at least two items.
        test: Vectors of at least one item and, last, the target.
        num_ids: Integer `V`, one above the greatest id.
        features: `(V, F)`, or `None`.
        test_new: As `test`, with targets that are in no training session.
    """

    train: list[np.ndarray]
    test: list[np.ndarray]
    num_ids: int
    features: np.ndarray | None = None
    test_new: Sequence[np.ndarray] = ()


def parse_size(text: str) -> int:
    size = int(text)
    if size < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, and is {size}")
    return size


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_argument_group("sessions")
    source.add_argument("--train", type=Path, help="file of training sessions")
    source.add_argument("--test", type=Path, help="file of test sessions, the target last")
    source.add_argument(
        "--features",
        nargs="?",
        const=True,
        metavar="FILE",
        help="first tables from item features, an array (V, F) whose row 0 is that of padding "
        "(default: from neighbours in the sessions)",
    )
    source.add_argument(
        "--num-sessions",
        type=parse_size,
        default=8_000,
        help="training sessions of the made catalogue (default: %(default)s)",
    )
    model = parser.add_argument_group("model")
    model.add_argument("--units", type=parse_size, default=100, help="default: %(default)s")
    model.add_argument(
        "--tables", type=parse_size, default=1, help="tables of items (default: %(default)s)"
    )
    model.add_argument(
        "--components",
        type=parse_size,
        default=1,
        help="components of the mixture that each table has (default: %(default)s)",
    )
    model.add_argument(
        "--item-dim",
        type=parse_size,
        default=18,
        help="size of the small vector that each item has (default: %(default)s)",
    )
    model.add_argument("--dropout", type=float, default=0.25, help="default: %(default)s")
    training = parser.add_argument_group("training")
    training.add_argument("--epochs", type=parse_size, default=5, help="default: %(default)s")
    training.add_argument(
        "--batch-size",
        type=parse_size,
        default=512,
        help="items to predict in a batch (default: %(default)s)",
    )
    training.add_argument("--learning-rate", type=float, default=0.004, help="default: %(default)s")
    training.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("recommender"),
        help="directory for model.keras and a SavedModel (default: %(default)s)",
    )
    return parser


# Sessions.


def read_sessions(path: Path) -> list[np.ndarray]:
    """Read the sessions of a file that have at least two items."""
    sessions = []
    opened = gzip.open(path, "rt") if path.suffix == ".gz" else open(path)  # noqa: SIM115
    with opened as file:
        for number, line in enumerate(file, 1):
            try:
                session = np.array(line.split(), np.int32)
            except (ValueError, OverflowError) as error:
                raise SystemExit(
                    f"{path}, line {number}: items must be integers. {error}"
                ) from None
            if len(session) and session.min() < 1:
                raise SystemExit(
                    f"{path}, line {number}: item ids start from 1, and one is {session.min()}."
                )
            if len(session) >= 2:
                sessions.append(session)
    if not sessions:
        raise SystemExit(f"{path} has no session of at least two items.")
    return sessions


def read_files(args: argparse.Namespace) -> Sessions:
    train, test = read_sessions(args.train), read_sessions(args.test)
    num_ids = 1 + int(max(session.max() for session in (*train, *test)))
    features = None
    if args.features:
        features = np.load(args.features)
        if features.ndim != 2 or len(features) < num_ids:
            raise SystemExit(
                f"{args.features} must have one row of features for each of the ids 0 to "
                f"{num_ids - 1}, and has shape {features.shape}."
            )
        num_ids = len(features)
    is_known = np.zeros(num_ids, bool)
    is_known[np.concatenate(train)] = True
    test_new = [session for session in test if not is_known[session[-1]]]
    return Sessions(train, test, num_ids, features, test_new)


def make_sessions(num_sessions: int, seed: int) -> Sessions:
    """Make sessions over a catalogue of 60 categories with 8 styles of 4 items each.

    A visitor mostly stays with a style: goes through the items of a category, or changes to the
    category that complements it. Some items are new: they occur in test sessions only.
    """
    num_categories, num_styles, num_alike = 60, 8, 4
    generator = np.random.default_rng(seed)
    complements = generator.permutation(num_categories)
    ids = 1 + generator.permutation(num_categories * num_styles * num_alike)
    ids = ids.reshape(num_categories, num_styles, num_alike)
    popularity = 1 / np.arange(1, num_categories + 1)
    popularity /= popularity.sum()
    is_new = np.zeros(ids.size + 1, bool)
    is_new[generator.choice(ids.size, 100, replace=False) + 1] = True

    def walk() -> Iterator[int]:
        category = generator.choice(num_categories, p=popularity)
        style, place = generator.integers(num_styles), generator.integers(num_alike)
        while True:
            yield int(ids[category, style, place])
            step = generator.random()
            if step < 0.7:
                place = (place + 1) % num_alike
            elif step < 0.9:
                category = complements[category]
            else:
                category = generator.choice(num_categories, p=popularity)
                style, place = generator.integers(num_styles), generator.integers(num_alike)

    def draw(num_sessions: int) -> list[np.ndarray]:
        lengths = 2 + generator.poisson(3, num_sessions)
        return [np.fromiter(itertools.islice(walk(), n), np.int32) for n in lengths]

    drawn = (session[~is_new[session]] for session in draw(num_sessions))
    train = [session for session in drawn if len(session) >= 2]
    test = [session for session in draw(num_sessions // 8) if not is_new[session[:-1]].any()]
    categories, styles = np.divmod(np.argsort(ids, axis=None) // num_alike, num_styles)
    features = np.hstack(
        [
            generator.standard_normal((num_categories, 16))[categories],
            generator.standard_normal((num_styles, 8))[styles],
        ]
    )
    features += 0.1 * generator.standard_normal(features.shape)
    features = np.vstack([np.zeros(features.shape[1]), features])
    test_new = [session for session in test if is_new[session[-1]]]
    return Sessions(train, test, ids.size + 1, features, test_new)


class SessionBatches(keras.utils.PyDataset):
    """Batches of sessions of similar length, padded with zeros on the right.

    Every place of a session predicts the next item, so each session trains all its prefixes.
    A longer session is divided into parts that overlap by one item.

    Args:
        sessions: Vectors of at least two items.
        num_targets: Integer, places of a batch.
        seed: Integer, for the order.
    """

    def __init__(self, sessions: Sequence[np.ndarray], num_targets: int, seed: int) -> None:
        super().__init__()
        most = LENGTHS[-1]
        parts = [
            session[start : start + most + 1]
            for session in sessions
            for start in range(0, len(session) - 1, most)
        ]
        groups = np.searchsorted(LENGTHS, [len(part) - 1 for part in parts])
        self._groups = [
            keras.utils.pad_sequences(
                [parts[i] for i in np.flatnonzero(groups == group)], length + 1, padding="post"
            )
            for group, length in enumerate(LENGTHS)
            if (groups == group).any()
        ]
        self._num_targets = num_targets
        self._generator = np.random.default_rng(seed)
        self.on_epoch_end()

    def on_epoch_end(self) -> None:
        """Shuffle the sessions within the groups, and the batches."""
        self._batches = []
        for sessions in self._groups:
            size = max(1, self._num_targets // (sessions.shape[1] - 1))
            order = self._generator.permutation(len(sessions))
            # The last batch is filled with padding: a batch of another size would be compiled.
            order = np.pad(order, (0, -len(order) % size), constant_values=-1)
            self._batches += [(sessions, places) for places in order.reshape(-1, size)]
        self._generator.shuffle(self._batches)
        # Keras takes an axis that is the same in the first two batches for one of fixed size.
        lengths = [sessions.shape[1] for sessions, _ in self._batches]
        other = next((i for i, length in enumerate(lengths) if length != lengths[0]), None)
        if other is not None:
            self._batches[1], self._batches[other] = self._batches[other], self._batches[1]

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return windows, their targets, and weights of the targets: 0 for padding."""
        sessions, places = self._batches[index]
        windows = np.where(places[:, None] < 0, 0, sessions[places])
        targets = windows[:, 1:]
        return windows, targets, (targets > 0).astype("float32")


# Model.


def compute_neighbour_features(sessions: Sessions, num_features: int) -> np.ndarray:
    """Return features of items from their neighbours in sessions, `(V, num_features)`."""
    # A word 0 ends each session: items of different sessions are not neighbours.
    stream = np.concatenate([np.append(session, 0) for session in sessions.train])
    features, _ = compute_word_features(
        stream,
        sessions.num_ids,
        num_features=num_features,
        window=3,
        max_contexts=sessions.num_ids,
        mask_zero=True,
    )
    return np.pad(features, ((0, 0), (0, num_features - features.shape[1])))


class Recommender(NamedTuple):
    """A model and its parts.

    Attributes:
        model: From windows `(B, T + 1)` to the log-probabilities of their items from the second
            on, `(B, T)`.
        encoder: From sessions `(B, T)` to states `(B, T, H)`, the logits of a return to an item of
            the session, `(B, T, 1)`, and the shares of its places in a return, `(B, T, T)`.
        embedding: The first layer.
        softmax: The last layer.
    """

    model: keras.Model
    encoder: keras.Model
    embedding: TwoComponentEmbedding
    softmax: TwoComponentSoftmax


def make_recommender(args: argparse.Namespace, allocations: list[Allocation]) -> Recommender:
    layers = keras.layers
    # The same vectors of items where these are read and where they are predicted.
    vectors = WordVectors(allocations[0].vocabulary_size, args.item_dim)
    embedding = TwoComponentEmbedding(allocations, args.units, mask_zero=True, word_vectors=vectors)
    softmax = TwoComponentSoftmax(
        embedding.word_tables,
        num_components=args.components,
        word_vectors=vectors,
        word_bias="counts",
        mask_zero=True,
    )
    items = keras.Input((None,), dtype="int32")
    x = layers.LayerNormalization()(embedding(items))
    x = layers.Dropout(args.dropout)(x)
    states = layers.GRU(args.units, return_sequences=True)(x)
    query = layers.Dense(args.units, use_bias=False)(states)
    context = layers.Attention()([query, x], use_causal_mask=True)
    states = layers.Dense(args.units)(layers.Concatenate()([states, context, x]))
    states = layers.Dropout(args.dropout)(states)
    returns = layers.Dense(1)(states)
    query, key = layers.Dense(RETURN_DIM)(states), layers.Dense(RETURN_DIM)(states)
    _, shares = layers.Attention()(
        [query / RETURN_DIM**0.5, key], return_attention_scores=True, use_causal_mask=True
    )
    encoder = keras.Model(items, [states, returns, shares], name="encoder")

    windows = keras.Input((None,), dtype="int32")
    sessions, targets = windows[:, :-1], windows[:, 1:]
    states, *of_returns = encoder(sessions)
    log_probs = mix_returns(softmax(states, targets), *of_returns, sessions, targets)
    return Recommender(keras.Model(windows, log_probs), encoder, embedding, softmax)


def mix_returns(log_probs: Any, returns: Any, shares: Any, sessions: Any, items: Any) -> Any:
    """Mix the distribution of all items with that of a return to an item of the session.

    Args:
        log_probs: `(B, N)`, the log-probabilities of items by the softmax.
        returns: `(B, N, 1)` or `(B, 1, 1)`, the logits of a return.
        shares: `(B, N, T)` or `(B, 1, T)`, the shares of the places of the session in a return.
        sessions: `(B, T)`.
        items: `(B, N)`.

    Returns:
        The log-probabilities of the items, `(B, N)`.
    """
    is_here = ops.equal(ops.expand_dims(items, 2), ops.expand_dims(sessions, 1))  # (B, N, T)
    share = ops.sum(ops.where(is_here, shares, 0.0), axis=2)
    returns = ops.squeeze(returns, 2)
    return ops.logaddexp(
        ops.log_sigmoid(-returns) + log_probs, ops.log_sigmoid(returns) + ops.log(share + 1e-30)
    )


def start_new_items(recommender: Recommender, features: np.ndarray, counts: np.ndarray) -> None:
    """Give items without a training session the mean weights of those with similar features.

    Their rows and columns are trained with the items that share them. What single items have
    besides, a vector and a count, was trained as that of items nobody takes.
    """
    is_known = counts > 0
    known = np.flatnonzero(is_known)
    new = np.flatnonzero(~is_known & features.any(axis=1))
    directions = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    similarity = directions[new] @ directions[known].T
    neighbours = known[np.argsort(-similarity, axis=1)[:, :NUM_NEIGHBOURS]]  # (n, 10)
    vectors = ops.convert_to_numpy(recommender.embedding.word_embeddings).copy()
    vectors[new] = vectors[neighbours].mean(axis=1)
    recommender.embedding.word_embeddings.assign(vectors)
    counts = counts.astype(float)
    counts[new] = counts[neighbours].mean(axis=1)
    recommender.softmax.assign_word_counts(counts)


# Recommendations.


def make_search(recommender: Recommender, leave_out_seen: bool) -> keras.Model:
    """Return a model from sessions `(B, T)` to their best items and log-probabilities.

    Both are `(B, BEST)`. If items of the session are left out, the log-probabilities are those of
    the softmax alone. Sessions are padded on the left, so that the last step is their last item.
    """
    sessions = keras.Input((None,), dtype="int32")
    states, returns, shares = recommender.encoder(sessions)
    num_best = min(BEST, recommender.softmax.word_table.vocabulary_size - 1)
    # 0, the padding, is never among the answers.
    best, log_probs = TopWords(recommender.softmax, num_best)(states, excluded=sessions)
    if leave_out_seen:
        return keras.Model(sessions, [best, log_probs])
    # The best of the other items compete with those of the session, each in its last place.
    last_states = ops.zeros_like(states) + states[:, -1:]
    seen_log_probs = mix_returns(
        recommender.softmax(last_states, sessions),
        *(returns[:, -1:], shares[:, -1:], sessions, sessions),
    )
    is_same = ops.equal(ops.expand_dims(sessions, 2), ops.expand_dims(sessions, 1))
    num_later = ops.sum(ops.triu(ops.cast(is_same, "int32"), 1), axis=2)
    is_last = ops.logical_and(ops.equal(num_later, 0), ops.greater(sessions, 0))
    seen_log_probs = ops.where(is_last, seen_log_probs, -np.inf)
    log_probs += ops.log_sigmoid(-returns[:, -1])
    log_probs, places = ops.top_k(ops.concatenate([log_probs, seen_log_probs], axis=1), num_best)
    items = ops.concatenate([best, sessions], axis=1)
    return keras.Model(sessions, [ops.take_along_axis(items, places, axis=1), log_probs])


def export(search: keras.Model, path: Path) -> None:
    """Write a SavedModel with the endpoints `serve` and `serve_compiled`, of equal answers.

    XLA compiles the second for each shape of its requests, which takes seconds at the first
    request of a shape: pad sessions to few lengths. Most of the time of a single request is spent
    between small operations, which compiled code avoids.
    """
    spec = tf.TensorSpec((None, None), tf.int32)

    @tf.function(input_signature=[spec], autograph=False, jit_compile=True)
    def serve_compiled(sessions: tf.Tensor) -> list[tf.Tensor]:
        return search(sessions, training=False)

    serve_compiled.get_concrete_function()  # an endpoint must be traced
    archive = keras.export.ExportArchive()
    archive.track(search)
    archive.add_endpoint("serve", lambda x: search(x, training=False), input_signature=[spec])
    archive.add_endpoint("serve_compiled", serve_compiled)
    archive.write_out(path, verbose=False)


def time_requests(serve: Callable[[tf.Tensor], Any], request: tf.Tensor) -> float:
    """Return the median milliseconds of a request, after a first one."""
    milliseconds = []
    for _ in range(NUM_REQUESTS + 1):
        start = time.perf_counter()
        serve(request)
        milliseconds.append(1_000 * (time.perf_counter() - start))
    return float(np.median(milliseconds[1:]))


def pad_left(sessions: Sequence[np.ndarray]) -> np.ndarray:
    """Return the last items of sessions, padded on the left, `(B, 20)`."""
    return keras.utils.pad_sequences(sessions, LENGTHS[-1])


def compute_ranks(search: keras.Model, test: Sequence[np.ndarray]) -> np.ndarray:
    """Return the rank of each target from 1, infinite if it is not among the best."""
    prefixes = pad_left([session[:-1] for session in test])
    best, _ = search.predict(prefixes, batch_size=64, verbose=0)
    return find_ranks(best, np.array([session[-1] for session in test]))


def find_ranks(best: np.ndarray, targets: np.ndarray) -> np.ndarray:
    is_target = best == targets[:, None]
    return np.where(is_target.any(axis=1), is_target.argmax(axis=1) + 1.0, np.inf)


def describe_ranks(ranks: np.ndarray) -> str:
    precision, reciprocal_rank = (ranks <= BEST).mean(), (1 / ranks).mean()
    return f"P@{BEST} {100 * precision:.1f} %, MRR@{BEST} {100 * reciprocal_rank:.1f} %"


def print_stage(text: str, start: float) -> None:
    print(f"{text} ({time.perf_counter() - start:.1f} s)", flush=True)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = make_parser()
    args = parser.parse_args(argv)
    if (args.train is None) != (args.test is None):
        parser.error("--train and --test go together")
    if args.train is not None and args.features is True:
        parser.error("--features needs a file if the sessions are read from files")
    if args.train is None and isinstance(args.features, str):
        parser.error("--features takes a file together with --train and --test only")
    keras.utils.set_random_seed(args.seed)

    start = time.perf_counter()
    if args.train is None:
        sessions = make_sessions(args.num_sessions, args.seed)
    else:
        sessions = read_files(args)
    counts = np.bincount(np.concatenate(sessions.train), minlength=sessions.num_ids)
    print_stage(
        f"sessions: {len(sessions.train):,} training, {len(sessions.test):,} test, "
        f"{np.count_nonzero(counts):,} items",
        start,
    )
    start = time.perf_counter()
    neighbours = compute_neighbour_features(sessions, args.units)
    allocations = Allocation.from_features(
        sessions.features if args.features else neighbours,
        num_tables=args.tables,
        seed=args.seed,
    )
    print_stage(f"first tables: {args.tables} of {allocations[0].shape}", start)

    recommender = make_recommender(args, allocations)
    # An embedding that starts from what items are next to is trained in fewer epochs.
    neighbours /= np.sqrt(np.square(neighbours).sum(axis=1).mean())
    recommender.embedding.assign_vectors(neighbours)
    recommender.softmax.assign_word_counts(counts)
    batches = SessionBatches(sessions.train, args.batch_size, args.seed)
    num_steps = len(batches) * args.epochs
    recommender.model.compile(
        keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(args.learning_rate, num_steps, alpha=0.02),
            global_clipnorm=1.0,
        ),
        loss=NegativeLogLikelihood(),
    )
    num_params = sum(math.prod(x.shape) for x in recommender.model.trainable_weights)
    print(
        f"parameters {num_params:,} (one vector of {args.units} an item alone: "
        f"{sessions.num_ids * args.units:,})"
    )
    recommender.model.fit(batches, epochs=args.epochs, verbose="auto" if sys.stdout.isatty() else 2)
    if args.features:
        start_new_items(recommender, sessions.features, counts)

    search = make_search(recommender, leave_out_seen=False)
    start = time.perf_counter()
    ranks = compute_ranks(search, sessions.test)
    print_stage(f"test {describe_ranks(ranks)}", start)
    popular = np.argsort(-counts, kind="stable")[None, :BEST]
    of_popular = find_ranks(popular, np.array([session[-1] for session in sessions.test]))
    print(f"the {BEST} most frequent items: {describe_ranks(of_popular)}")
    result = {"ranks": ranks, "ranks_of_popular": of_popular, "num_params": num_params}
    if args.features and sessions.test_new:
        result["ranks_of_new"] = compute_ranks(search, sessions.test_new)
        print(
            f"{len(sessions.test_new)} of the targets are new items: "
            f"{describe_ranks(result['ranks_of_new'])}"
        )

    print("\nThree sessions, and the best items that are not in them:")
    shown = [session[:-1] for session in sessions.test[:: max(1, len(sessions.test) // 3)][:3]]
    served = make_search(recommender, leave_out_seen=True)
    requests = keras.utils.pad_sequences(shown)  # whole sessions: all their items are left out
    best, _ = served.predict(requests, verbose=0)
    for session, items in zip(shown, best, strict=True):
        print(f"  {' '.join(map(str, session))} | {' '.join(map(str, items[:10]))}")

    args.output.mkdir(parents=True, exist_ok=True)
    recommender.model.save(args.output / "model.keras")
    # TensorFlow loads what this writes without Keras and without this package.
    export(served, args.output / "saved_model")
    exported = tf.saved_model.load(args.output / "saved_model")
    best_of_exported, _ = exported.serve(tf.constant(requests))
    if not np.array_equal(best_of_exported, best):
        raise RuntimeError("The exported model recommends other items.")
    print("The exported model recommends the same.")
    request = tf.constant(pad_left(shown[:1]))
    if not np.array_equal(exported.serve_compiled(request)[0], exported.serve(request)[0]):
        raise RuntimeError("The compiled model recommends other items.")
    result["best"] = best
    result["milliseconds"] = time_requests(exported.serve, request)
    result["milliseconds_compiled"] = time_requests(exported.serve_compiled, request)
    print(
        f"One request takes {result['milliseconds']:.1f} ms, and "
        f"{result['milliseconds_compiled']:.1f} ms where XLA has compiled its shape."
    )
    print(f"\nSaved to {args.output}/")
    return result


if __name__ == "__main__":
    main()
