import gc
import json
import os
import pickle
import tempfile
import weakref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_lightrnn import Allocation
from keras_lightrnn.data import (
    TokenShards,
    Vocabulary,
    shuffled_windows,
    token_shards,
    token_windows,
)

VOCABULARY = Vocabulary(["<eos>", "<unk>", *"abcdefgh"])


@pytest.fixture
def words(rng):
    return rng.integers(10, size=997).astype(np.int32)


@pytest.fixture
def shards(tmp_path, words):
    return TokenShards.write(tmp_path / "train", np.array_split(words, 7), VOCABULARY, 100)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_reads_like_the_array_that_was_written(data):
    size = data.draw(st.integers(1, 90))
    words = np.random.default_rng(size).integers(70_000, size=size)
    cuts = sorted(data.draw(st.lists(st.integers(0, size), max_size=6)))
    vocabulary_size = data.draw(st.sampled_from([70_000, 70_001]))
    with tempfile.TemporaryDirectory() as parent:
        shards = TokenShards.write(
            Path(parent) / "shards",
            np.split(words, cuts),
            vocabulary_size,
            shard_size=data.draw(st.integers(1, 100)),
        )
        assert (len(shards), shards.size, shards.shape) == (size, size, (size,))
        some = st.none() | st.integers(-2 * size, 2 * size)
        step = data.draw(st.sampled_from([None, 1, 2, -1, -3]))
        part = slice(data.draw(some), data.draw(some), step)
        assert shards[part].tolist() == words[part].tolist()
        places = data.draw(st.lists(st.integers(-size, size - 1), max_size=8))
        places = np.array(places, int).reshape(-1, *data.draw(st.sampled_from([(), (1,)])))
        assert np.array_equal(shards[places], words[places])
        assert shards[-1] == words[-1]
        block_size = data.draw(st.integers(1, 100))
        blocks = list(shards.blocks(block_size))
        assert np.concatenate(blocks).tolist() == words.tolist()
        assert {block.size for block in blocks[:-1]} <= {block_size}
        assert np.array_equal(shards.count_words(), np.bincount(words, minlength=vocabulary_size))


@pytest.mark.parametrize(
    ("vocabulary_size", "dtype"), [(10, "uint16"), (65_536, "uint16"), (65_537, "int32")]
)
def test_files_are_as_small_as_the_vocabulary_lets_them(tmp_path, vocabulary_size, dtype):
    words = np.array([0, vocabulary_size - 1])
    shards = TokenShards.write(tmp_path / "s", words, vocabulary_size)
    assert shards.dtype == dtype
    assert shards[:].tolist() == words.tolist()
    assert np.load(tmp_path / "s" / "shard-00000.npy").tolist() == words.tolist()


def test_directory(shards, tmp_path):
    names = sorted(path.name for path in Path(shards.directory).iterdir())
    assert names == ["index.json", *(f"shard-{number:05}.npy" for number in range(10))]
    assert [path.name for path in tmp_path.iterdir()] == ["train"]
    again = TokenShards(tmp_path / "train", VOCABULARY)
    assert again[:].tolist() == shards[:].tolist()
    assert (again.vocabulary_size, again.shard_size) == (10, 100)
    assert again.vocabulary_fingerprint == VOCABULARY.fingerprint
    assert "size=997, shards=10" in repr(again)


def test_nothing_is_copied_that_one_file_holds(shards):
    part = shards[110:190]
    assert not part.flags.owndata
    assert not part.flags.writeable


def test_another_process_maps_the_files(shards):
    data = pickle.dumps(shards)
    assert len(data) < 500
    assert pickle.loads(data)[:].tolist() == shards[:].tolist()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_processes": 3, "process_id": 1},
        {"contiguous": False, "shuffle": True, "seed": 4},
        {"contiguous": False, "end_id": 0},
        {"contiguous": False, "end_id": 0, "shuffle": True, "seed": 4},
    ],
)
def test_windows_are_those_of_the_array(shards, tmp_path, words, options):
    words[-1] = 0
    shards = TokenShards.write(tmp_path / "ended", words, VOCABULARY, 64)
    of_shards = token_windows(shards, 4, 9, vocabulary_size=10, **options)
    of_array = token_windows(words, 4, 9, vocabulary_size=10, **options)
    for got, want in zip(of_shards, of_array, strict=True):
        for one, other in zip(got, want, strict=True):
            assert np.array_equal(one, other)


def test_cooccurrence_takes_them_or_their_blocks(shards, words):
    expected = Allocation.from_cooccurrence(words, 10)
    assert Allocation.from_cooccurrence(shards, 10) == expected
    assert Allocation.from_cooccurrence(shards.blocks(90), 10) == expected


def test_shuffled_windows_read_no_file_before_they_are_asked_for(shards, monkeypatch):
    reads = []
    gather = TokenShards._gather

    def count(self, positions):
        reads.append(positions.size)
        return gather(self, positions)

    monkeypatch.setattr(TokenShards, "_gather", count)
    windows = shuffled_windows(shards, 4, 9, seed=0)
    assert reads == []
    assert windows[5][0].shape == (4, 10)
    assert reads == [40]


def test_interrupted_run_leaves_nothing_and_can_be_started_again(tmp_path, words):
    def parts():
        yield words[:500]
        raise RuntimeError("out of text")

    with pytest.raises(RuntimeError, match="out of text"):
        TokenShards.write(tmp_path / "train", parts(), VOCABULARY, 100)
    assert list(tmp_path.iterdir()) == []
    shards = TokenShards.write(tmp_path / "train", iter([words]), VOCABULARY, 100)
    assert shards[:].tolist() == words.tolist()


def test_a_list_of_ids_is_a_stream(tmp_path):
    assert TokenShards.write(tmp_path / "train", [3, 1, 2], 9)[:].tolist() == [3, 1, 2]


def test_parts_are_not_kept(tmp_path):
    alive = []

    class Part:
        """An array that tells when it goes."""

        def __array__(self, dtype=None, copy=None):
            return np.zeros(1_000, np.int32)

        def __init__(self):
            alive.append(1)
            self.most = len(alive)

        def __del__(self):
            alive.pop()

    def parts(most):
        for _ in range(20):
            part = Part()
            most.append(part.most)
            yield part
            del part

    most = []
    shards = TokenShards.write(tmp_path / "train", parts(most), 1, 1_500)
    assert shards.size == 20_000
    assert max(most) <= 2


def test_existing_directory_is_not_overwritten(shards, words):
    with pytest.raises(FileExistsError, match=r"train.*which exists"):
        TokenShards.write(shards.directory, words, VOCABULARY)
    assert TokenShards(shards.directory).size == words.size


def test_directory_without_index(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"index\.json.*TokenShards\.write"):
        TokenShards(tmp_path)
    with pytest.raises(FileNotFoundError, match="nothing"):
        TokenShards(tmp_path / "nothing")


@pytest.mark.parametrize("content", ["", "[]", "{}", "\x80", '{"format": "another/1"}'])
def test_foreign_index(tmp_path, content):
    (tmp_path / "index.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=r"index of token shards.*index\.json.*again"):
        TokenShards(tmp_path)


def make_old(directory):
    """Give a directory the index of the version without checksums."""
    path = Path(directory) / "index.json"
    index = json.loads(path.read_text())
    index.pop("checksums", None)
    index.pop("index_checksum", None)
    path.write_text(json.dumps({**index, "format": "keras_lightrnn.TokenShards/1"}, indent=2))


@pytest.mark.parametrize("name", ["num_words", "shard_size", "vocabulary_size"])
@pytest.mark.parametrize("value", [None, 0, 1.5, "x", True])
def test_damaged_index(shards, name, value):
    path = Path(shards.directory) / "index.json"
    for message in (r"unchanged since.*index\.json", r"positive sizes.*index\.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
        with pytest.raises(ValueError, match=message):
            TokenShards(shards.directory)
        make_old(shards.directory)


def test_a_directory_without_checksums_is_read_but_not_verified(shards, words):
    make_old(shards.directory)
    old = TokenShards(shards.directory, VOCABULARY)
    assert old[:].tolist() == words.tolist()
    with pytest.raises(ValueError, match=r"with checksums.*train'.*TokenShards/1"):
        old.verify()


def change_an_id(directory):
    ids = np.load(directory / "shard-00002.npy")
    ids[50] = (ids[50] + 1) % 10
    np.save(directory / "shard-00002.npy", ids)


def exchange(directory):
    os.rename(directory / "shard-00002.npy", directory / "x")
    os.rename(directory / "shard-00003.npy", directory / "shard-00002.npy")
    os.rename(directory / "x", directory / "shard-00003.npy")


@pytest.mark.parametrize("change", [change_an_id, exchange])
def test_verify_finds_changed_and_exchanged_shards(shards, change):
    shards.verify()
    change(Path(shards.directory))
    for damaged in (shards, TokenShards(shards.directory)):  # opened before and after
        with pytest.raises(ValueError, match=r"contents that were written.*shard-00002\.npy"):
            damaged.verify()


@pytest.mark.parametrize("limit", [100, 1_000, 20_000])
def test_a_full_disk_is_named(tmp_path, words, limit):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OSError, match=r"File too large: '.*/train'"):
            TokenShards.write(tmp_path / "train", 40 * [words], VOCABULARY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def truncate(path):
    path.write_bytes(path.read_bytes()[:-10])


def shorten(path):
    np.save(path, np.load(path)[:-1])


def widen(path):
    np.save(path, np.load(path).astype(np.int64))


def lengthen(path):
    path.write_bytes(path.read_bytes() + b"more")


def open_bracket(path):
    path.write_bytes(path.read_bytes().replace(b"(100,)", b"((100)"))


def pack(path):
    with open(path, "wb") as file:
        np.savez(file, np.zeros(100, np.uint16))


@pytest.mark.parametrize(
    "damage", [truncate, shorten, widen, lengthen, open_bracket, pack, Path.unlink, Path.touch]
)
def test_damaged_shard(shards, damage):
    path = Path(shards.directory) / "shard-00003.npy"
    if damage is Path.touch:
        path.write_bytes(b"")
    else:
        damage(path)
    with pytest.raises(ValueError, match=r"100 ids of uint16.*shard-00003\.npy"):
        TokenShards(shards.directory)


def test_overwritten_ids_are_found_when_they_are_read(shards):
    path = Path(shards.directory) / "shard-00003.npy"
    np.save(path, np.full(100, 10, np.uint16))
    damaged = TokenShards(shards.directory)
    assert damaged[:300].size == 300
    for index in (slice(310, 320), np.array([5, 333]), 399):
        with pytest.raises(ValueError, match=r"be in \[0, 10\).*shard-00003\.npy.*damaged"):
            damaged[index]


@pytest.mark.parametrize(
    "vocabulary",
    [
        9,
        11,
        Vocabulary(["<eos>", "<unk>", *"abcdefg"]),
        Vocabulary(["<eos>", "<unk>", *"abcdefhg"]),
        Vocabulary(["<eos>", "<unk>", *"abcdefgh"], end="a"),
    ],
)
def test_another_vocabulary(shards, vocabulary):
    with pytest.raises(ValueError, match=r"must be read with the vocabulary.*10 words"):
        TokenShards(shards.directory, vocabulary)


def test_vocabulary_of_which_only_the_size_is_known(shards, tmp_path, words):
    assert TokenShards(shards.directory, 10).size == words.size
    of_size = TokenShards.write(tmp_path / "size", words, 10)
    assert of_size.vocabulary_fingerprint is None
    assert TokenShards(of_size.directory, VOCABULARY).size == words.size


def test_model_with_too_small_a_vocabulary(shards):
    with pytest.raises(ValueError, match=r"\[0, 9\).*TokenShards"):
        token_windows(shards, 2, 3, vocabulary_size=9)


@pytest.mark.parametrize(
    ("words", "options", "kind", "message"),
    [
        ([[0, 9], [], [3, 10]], {}, ValueError, r"\[0, 10\).*10 at position 3"),
        ([[0, -1]], {}, ValueError, "-1 at position 1"),
        ([[0], [[1, 2]]], {}, ValueError, r"shape \(1, 2\) at position 1"),
        ([[0], 2], {}, ValueError, r"shape \(\) at position 1"),
        ([[0], [0.5]], {}, TypeError, "float64 at position 1"),
        (iter([]), {}, ValueError, "already be exhausted"),
        ([[]], {}, ValueError, "at least one word"),
        ([[1]], {"shard_size": 0}, ValueError, "shard_size=0"),
        ([[1]], {"vocabulary": 0}, ValueError, "vocabulary=0"),
    ],
)
def test_bad_streams(tmp_path, words, options, kind, message):
    with pytest.raises(kind, match=message):
        TokenShards.write(tmp_path / "s", words, **{"vocabulary": VOCABULARY, **options})
    assert list(tmp_path.iterdir()) == []


def test_sizes_may_be_integers_of_numpy(tmp_path, words):
    directory = tmp_path / "numpy"
    shards = TokenShards.write(directory, words, np.int64(997), np.int64(100))
    TokenShards.write(tmp_path / "python", words, 997, 100)
    for path in sorted(directory.iterdir()):
        assert path.read_bytes() == (tmp_path / "python" / path.name).read_bytes()
    blocks = list(shards.blocks(np.int8(100)))
    assert [block.size for block in blocks[:-1]] == [100] * (len(words) // 100)
    np.testing.assert_array_equal(np.concatenate(blocks), words)


@pytest.mark.parametrize(
    ("index", "kind", "message"),
    [
        (997, IndexError, "997"),
        (np.array([3, -998]), IndexError, "-998"),
        (0.5, TypeError, "index=0.5"),
        (np.array([True]), TypeError, "a slice or"),
    ],
)
def test_bad_positions(shards, index, kind, message):
    with pytest.raises(kind, match=message):
        shards[index]


def test_more_shards_than_files_may_be_open(tmp_path, words, monkeypatch):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    monkeypatch.setattr(token_shards, "_MOST_MAPS", 8)
    words = words[:200]
    shards = TokenShards.write(tmp_path / "many", words, VOCABULARY, shard_size=1)
    try:
        num_open = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc") else 100
        resource.setrlimit(resource.RLIMIT_NOFILE, (num_open + 30, hard))
        many = TokenShards(tmp_path / "many", VOCABULARY)
        assert many[::-1].tolist() == words[::-1].tolist()
        assert many[3:-2].tolist() == words[3:-2].tolist()
        assert many.count_words().tolist() == np.bincount(words, minlength=10).tolist()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert shards[:].tolist() == words.tolist()


def test_what_keeps_a_shard_from_being_read_is_not_called_damage(shards, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(np.lib.format, "open_memmap", fail)
    with pytest.raises(OSError, match="Too many open files"):
        TokenShards(shards.directory)


def test_numpy_reads_them_at_once(shards, words, monkeypatch):
    calls = []
    original = TokenShards.__getitem__
    monkeypatch.setattr(
        TokenShards, "__getitem__", lambda self, index: calls.append(index) or original(self, index)
    )
    assert np.array_equal(np.bincount(shards, minlength=10), np.bincount(words, minlength=10))
    assert np.asarray(shards, np.int64).dtype == np.int64
    assert calls == [slice(None)] * 2


def test_no_positions_are_no_words(shards):
    assert shards[[]].tolist() == []


def test_another_directory_to_work_in(shards, tmp_path, words, monkeypatch):
    monkeypatch.chdir(tmp_path)
    relative = TokenShards("train")
    monkeypatch.chdir("/")
    relative._maps.clear()
    for some in (relative, pickle.loads(pickle.dumps(relative))):
        assert some[:].tolist() == words.tolist()
        assert repr(some).startswith("TokenShards(")


def test_a_copy_that_is_not_wanted_is_refused(shards, tmp_path, words):
    with pytest.raises(ValueError, match="copy=False"):
        shards.__array__(copy=False)
    one = TokenShards.write(tmp_path / "one", words, VOCABULARY)
    assert one.__array__(copy=False).tolist() == words.tolist()
    with pytest.raises(ValueError, match="copy=False"):
        one.__array__(np.int64, copy=False)


def test_maps_are_freed_with_the_shards(shards):
    gc.disable()
    try:
        alone = TokenShards(shards.directory)
        kept = weakref.ref(alone._get_shard(0))
        del alone
        assert kept() is None
    finally:
        gc.enable()
