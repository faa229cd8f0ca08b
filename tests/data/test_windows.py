import contextlib
import itertools
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_lightrnn.data import (
    Vocabulary,
    contiguous_windows,
    shuffled_windows,
    token_windows,
)

SIZES = [(2, 1, 1), (8, 2, 2), (9, 2, 2), (100, 4, 5), (101, 4, 5), (102, 4, 5), (7, 3, 50)]


@pytest.mark.parametrize(("num_words", "batch_size", "sequence_length"), SIZES)
def test_every_word_but_the_first_is_a_target_once(num_words, batch_size, sequence_length):
    words = np.arange(num_words, dtype=np.int32) + 5
    windows = list(contiguous_windows(words, batch_size, sequence_length))
    targets = np.concatenate([t[w > 0] for _, t, w in windows])
    assert sorted(targets.tolist()) == words[1:].tolist()
    for window, target, weight in windows:
        assert window.shape == (batch_size, sequence_length + 1)
        assert window.dtype == target.dtype == np.int32
        assert weight.dtype == np.float32
        assert np.array_equal(window[:, 1:], target)
        # Each target follows its context in the stream.
        assert (window[:, 1:] - window[:, :-1])[weight > 0].tolist() == [1] * int(weight.sum())


@pytest.mark.parametrize(("num_words", "batch_size", "sequence_length"), SIZES)
def test_windows_continue_one_another(num_words, batch_size, sequence_length):
    windows = contiguous_windows(np.arange(num_words), batch_size, sequence_length)
    assert len(windows) == -(-(num_words - 1) // (batch_size * sequence_length))
    for (before, _, _), (after, _, _) in itertools.pairwise(windows):
        assert np.array_equal(before[:, -1], after[:, 0])


@pytest.mark.parametrize(("num_words", "batch_size", "sequence_length"), SIZES)
def test_dataset_is_the_arithmetic(num_words, batch_size, sequence_length):
    words = np.random.default_rng(0).integers(50, size=num_words)
    dataset = token_windows(words, batch_size, sequence_length, vocabulary_size=50)
    expected = list(contiguous_windows(words, batch_size, sequence_length))
    assert int(dataset.cardinality()) == len(expected)
    assert [tuple(spec.shape) for spec in dataset.element_spec] == [
        (batch_size, sequence_length + 1),
        (batch_size, sequence_length),
        (batch_size, sequence_length),
    ]
    for _ in range(2):  # it can be iterated again
        for element, batch in zip(dataset.as_numpy_iterator(), expected, strict=True):
            for got, want in zip(element, batch, strict=True):
                assert got.dtype == want.dtype
                assert np.array_equal(got, want)


def test_streams_in_parts_and_memory_maps(tmp_path):
    words = np.random.default_rng(1).integers(50, size=777).astype(np.int32)
    np.save(tmp_path / "ids.npy", words)
    mapped = np.load(tmp_path / "ids.npy", mmap_mode="r")
    reference = list(token_windows(words, 3, 4).as_numpy_iterator())
    parts = np.array_split(words, 5)
    for same in (mapped, parts, iter(parts), words.tolist(), tf.constant(words)):
        dataset = token_windows(same, 3, 4)
        for got, want in zip(dataset.as_numpy_iterator(), reference, strict=True):
            assert np.array_equal(got[0], want[0])


def cut_in_order(words, batch_size, sequence_length):
    """Cut windows one by one, in the order of the stream."""
    rows = []
    for start in range(0, len(words) - 1, sequence_length):
        row = list(words[start : start + sequence_length + 1])
        missing = sequence_length + 1 - len(row)
        weight = [1.0] * (len(row) - 1) + [0.0] * missing
        rows.append((tuple(row + [words[-1]] * missing), tuple(weight)))
    rows += [((words[-1],) * (sequence_length + 1), (0.0,) * sequence_length)] * (
        -len(rows) % batch_size
    )
    return rows


@settings(deadline=None)
@given(
    num_words=st.integers(2, 150),
    batch_size=st.integers(1, 5),
    sequence_length=st.integers(1, 9),
    seed=st.integers(0, 100),
    epoch=st.integers(0, 100),
)
def test_shuffled_windows_are_those_of_the_stream(
    num_words, batch_size, sequence_length, seed, epoch
):
    words = [7 * word % 1009 for word in range(num_words)]
    windows = shuffled_windows(words, batch_size, sequence_length, seed=seed, epoch=epoch)
    rows = []
    for window, targets, weight in windows:
        assert window.dtype == targets.dtype == np.int32
        assert weight.dtype == np.float32
        assert np.array_equal(window[:, 1:], targets)
        rows += zip(map(tuple, window.tolist()), map(tuple, weight.tolist()), strict=True)
    assert sorted(rows) == sorted(cut_in_order(words, batch_size, sequence_length))
    assert len(windows) * batch_size == len(rows)


@settings(deadline=None)
@given(
    num_words=st.integers(2, 200),
    batch_size=st.integers(1, 4),
    sequence_length=st.integers(1, 9),
    num_processes=st.integers(1, 4),
    shuffle=st.booleans(),
)
def test_processes_share_the_rows_of_larger_batches(
    num_words, batch_size, sequence_length, num_processes, shuffle
):
    words = np.arange(num_words)
    cut = (lambda *a, **kw: shuffled_windows(*a, seed=5, **kw)) if shuffle else contiguous_windows
    parts = [
        cut(words, batch_size, sequence_length, num_processes=num_processes, process_id=process)
        for process in range(num_processes)
    ]
    whole = cut(words, batch_size * num_processes, sequence_length)
    assert {len(part) for part in parts} == {len(whole)}
    for index, batch in enumerate(whole):
        for place, array in enumerate(batch):
            rows = np.concatenate([part[index][place] for part in parts])
            assert np.array_equal(rows, array)


def test_epochs_and_seeds_determine_the_order():
    def order(**key):
        return [w.tobytes() for w, _, _ in shuffled_windows(np.arange(300), 2, 5, **key)]

    orders = [order(seed=seed, epoch=epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert len(set(map(tuple, orders))) == len(orders)
    assert order(seed=1, epoch=2) == orders[-1]


@pytest.mark.parametrize("options", [{}, {"end_id": 0}])
def test_dataset_of_a_later_epoch(options):
    words = np.concatenate(make_sentences())

    def read(num_epochs, **more):
        dataset = token_windows(words, 4, 9, False, shuffle=True, seed=3, **options, **more)
        return [[w.tobytes() for w, _, _ in dataset.as_numpy_iterator()] for _ in range(num_epochs)]

    epochs = read(4)
    assert len(set(map(tuple, epochs))) == 4
    assert read(2, initial_epoch=2) == epochs[2:]
    repeated = token_windows(words, 4, 9, False, shuffle=True, seed=3, **options).repeat(4)
    assert [w.tobytes() for w, _, _ in repeated.as_numpy_iterator()] == [*itertools.chain(*epochs)]
    if not options:
        batches = shuffled_windows(words, 4, 9, seed=3, epoch=3)
        assert epochs[3] == [w.tobytes() for w, _, _ in batches]


def test_a_peek_is_no_epoch():
    dataset = token_windows(np.arange(100), 2, 5, False, shuffle=True, seed=3)
    peek = iter(dataset)
    first = next(peek)[0].numpy()
    time.sleep(0.1)  # for all batches to be made in advance
    assert np.array_equal(next(iter(dataset))[0], first)
    num_words = sum(float(tf.reduce_sum(weight)) for _, _, weight in dataset)
    assert num_words == 99  # that was the whole epoch
    assert not np.array_equal(next(iter(dataset))[0], first)


@pytest.mark.parametrize("has_strategy", [False, True])
def test_fit_reads_epoch_after_epoch(has_strategy):
    seen = []

    class Recorder(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def call(self, window):
            return self.dense(tf.cast(window, "float32"))

        def train_step(self, data):
            seen.append(data[0].numpy())
            return {"loss": 0.0}

    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    with strategy.scope() if has_strategy else contextlib.nullcontext():
        model = Recorder()
        model.compile(run_eagerly=True)
    words = np.arange(2 * 5 * 6 + 1)  # of six batches, one more than a strategy reads ahead
    for resumed in (0, 2):
        del seen[:]
        dataset = token_windows(words, 2, 5, False, shuffle=True, seed=3, initial_epoch=resumed)
        for epoch in (resumed, resumed + 1):
            model.fit(dataset, initial_epoch=epoch, epochs=epoch + 1, shuffle=False, verbose=0)
        expected = [
            window
            for epoch in (resumed, resumed + 1)
            for window, _, _ in shuffled_windows(words, 2, 5, seed=3, epoch=epoch)
        ]
        assert np.array_equal(seen, expected)


def test_set_random_seed_determines_a_seed_that_is_drawn():
    def read():
        dataset = token_windows(np.arange(100), 2, 5, False, shuffle=True)
        return [w.tobytes() for w, _, _ in dataset.as_numpy_iterator()]

    keras.utils.set_random_seed(1)
    first, second = read(), read()
    keras.utils.set_random_seed(1)
    assert [read(), read()] == [first, second]
    assert first != second


@pytest.mark.parametrize("num_processes", [2, 3])
@pytest.mark.parametrize("shuffle", [False, True])
def test_processes_share_sentences_in_batches_of_one_shape(num_processes, shuffle):
    options = {"contiguous": False, "end_id": 0, "shuffle": shuffle, "seed": 6}
    sentences = make_sentences()
    whole = token_windows(sentences, 4 * num_processes, 16, **options)
    parts = [
        token_windows(sentences, 4, 16, num_processes=num_processes, process_id=process, **options)
        for process in range(num_processes)
    ]
    for batch, *shares in zip(whole, *parts, strict=True):
        for place, array in enumerate(batch):
            assert np.array_equal(np.concatenate([share[place] for share in shares]), array)


def make_sentences(seed=0, num_sentences=53):
    rng = np.random.default_rng(seed)
    return [
        np.append(rng.integers(1, 40, size=rng.integers(0, 30)), 0).astype(np.int32)
        for _ in range(num_sentences)
    ]


@pytest.mark.parametrize("sequence_length", [5, 16, 64])
@pytest.mark.parametrize("shuffle", [False, True])
def test_sentences_lose_no_word(sequence_length, shuffle):
    sentences = make_sentences()
    dataset = token_windows(
        sentences, 4, sequence_length, contiguous=False, end_id=0, shuffle=shuffle, seed=0
    )
    rows = []
    for window, targets, weight in dataset.as_numpy_iterator():
        assert np.array_equal(window[:, 1:], targets)
        assert window.shape[0] == 4
        assert window.shape[1] <= sequence_length + 1
        assert (targets[weight == 0] == 0).all()  # padded with the end word
        assert (np.diff(weight, axis=1) <= 0).all()  # padding comes last
        rows += [
            tuple(row[: int(w.sum()) + 1]) for row, w in zip(window, weight, strict=True) if w.any()
        ]
    expected = []
    for sentence in sentences:
        text = [0, *sentence.tolist()]  # a sentence follows the end of another
        for start in range(0, len(text) - 1, sequence_length):
            expected.append(tuple(text[start : start + sequence_length + 1]))
    assert sorted(rows) == sorted(expected)
    assert int(dataset.cardinality()) == -(-len(expected) // 4)


def test_sentences_of_like_length_are_batched():
    dataset = token_windows(make_sentences(1, 400), 8, 30, contiguous=False, end_id=0)
    for window, _, weight in list(dataset.as_numpy_iterator())[:-1]:
        lengths = weight.sum(axis=1)
        assert lengths.max() - lengths.min() <= 1
        assert window.shape[1] - 1 < lengths.max() + 8
        assert (window.shape[1] - 1) % 8 == 0 or window.shape[1] - 1 == 30


def test_sentences_as_a_stream():
    sentences = make_sentences(2)
    of_list = token_windows(sentences, 4, 16, contiguous=False, end_id=0)
    of_stream = token_windows(np.concatenate(sentences), 4, 16, contiguous=False, end_id=0)
    for got, want in zip(of_stream, of_list, strict=True):
        assert np.array_equal(got[0], want[0])


def test_shuffle_is_new_in_every_epoch_and_the_seed_repeats_it():
    def epochs(seed):
        dataset = token_windows(
            make_sentences(), 4, 16, contiguous=False, end_id=0, shuffle=True, seed=seed
        )
        return [[w.tobytes() for w, _, _ in dataset.as_numpy_iterator()] for _ in range(2)]

    first, second = epochs(seed=3)
    assert first != second
    assert sorted(first) == sorted(second)
    assert epochs(seed=3) == [first, second]


@pytest.mark.parametrize("contiguous", [True, False])
def test_plain_keras_fit(contiguous):
    words = Vocabulary(["<eos>", "<unk>", *"abcdef"]).encode_lines(["a b c d e f", "b c"] * 40)
    end_id = None if contiguous else 0
    dataset = token_windows(words, 4, 10, contiguous, end_id=end_id, vocabulary_size=8)
    window = keras.Input((None,), dtype="int32")
    hidden = keras.layers.Embedding(8, 4)(window[:, :-1])
    model = keras.Model(window, keras.layers.Dense(8)(hidden))
    model.compile(
        optimizer="sgd",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=["accuracy"],
    )
    history = model.fit(dataset, epochs=3, shuffle=False, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]


def test_nothing_needs_tensorflow_but_the_dataset():
    assert isinstance(token_windows(np.arange(9), 1, 2), tf.data.Dataset)
    assert isinstance(contiguous_windows(np.arange(9), 1, 2)[0][0], np.ndarray)
    assert np.array_equal(contiguous_windows(np.arange(9), 1, 2)[-1][0], [[6, 7, 8]])
    with pytest.raises(IndexError):
        contiguous_windows(np.arange(9), 1, 2)[4]


@pytest.mark.parametrize(
    ("words", "options", "message"),
    [
        ([], {}, "at least 2 words.*Received: 0 words"),
        ([3], {}, "Received: 1 words"),
        ([3, 4], {"batch_size": 0}, "batch_size=0"),
        ([3, 4], {"sequence_length": 0}, "sequence_length=0"),
        ([3, 4], {"sequence_length": 2.0}, "sequence_length=2.0"),
        ([3, 4, 5], {"vocabulary_size": 5}, r"\[0, 5\).*id 5 at position 2"),
        ([3, -4, 5], {}, "id -4 at position 1"),
        ([[3, 4], [5, 6]], {"vocabulary_size": 0}, "vocabulary_size=0"),
        (np.ones((2, 3), np.int32), {}, r"words.shape=\(2, 3\)"),
        ([3, 4], {"shuffle": True}, "shuffle=True"),
        ([3, 4], {"contiguous": False}, "end_id=None"),
        ([3, 4], {"end_id": 4}, "contiguous=True, end_id=4"),
        ([3, 4], {"contiguous": False, "end_id": 0}, "the last of which is 4, and end_id=0"),
        ([3, 4], {"num_processes": 0}, "num_processes=0"),
        ([3, 4], {"process_id": -1}, "process_id=-1"),
        ([3, 4], {"num_processes": 2, "process_id": 2}, "process_id=2, num_processes=2"),
        ([3, 4], {"seed": -1}, "seed=-1"),
        ([3, 4], {"initial_epoch": -1}, "initial_epoch=-1"),
        (
            [3, 4],
            {"contiguous": False, "shuffle": True, "num_processes": 2},
            "same way.*seed=None, num_processes=2",
        ),
        ([], {"contiguous": False, "end_id": 0}, r"at least 1 word\. Received: 0 words"),
    ],
)
def test_bad_input(words, options, message):
    options = {"batch_size": 1, "sequence_length": 1, **options}
    with pytest.raises(ValueError, match=message):
        token_windows(words, **options)


def test_words_that_are_not_ids():
    with pytest.raises(TypeError, match="float64"):
        token_windows(np.ones(5), 1, 1)
    with pytest.raises(TypeError, match="<U"):
        token_windows(["a", "b"], 1, 1)


def test_a_slice_of_batches_is_batches(rng):
    batches = contiguous_windows(rng.integers(10, size=100), 2, 5)
    some = batches[2:8:3]
    assert len(some) == 2
    for batch, place in zip(some, (2, 5), strict=True):
        for part, expected in zip(batch, batches[place], strict=True):
            assert np.array_equal(part, expected)


@pytest.mark.parametrize("wrong", [-3, 2**40])
def test_ids_that_int32_does_not_hold(wrong):
    words = np.array([1, 2, wrong, 3])
    for batches in (contiguous_windows(words, 1, 3), shuffled_windows(words, 1, 3, seed=0)):
        with pytest.raises(ValueError, match=f"be in.*{wrong}"):
            batches[0]
