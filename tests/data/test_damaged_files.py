"""A damaged file is a `ValueError` that names it, or reads as before. Nothing else comes out."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_lightrnn.data import TokenShards, Vocabulary, from_tfds, read_lines

LINES = ["the cat sat", "the dog sat", "the end of the cat", "où ça"]
SHARDS_WITHOUT_CHECKSUMS = Path(__file__).parent.parent / "golden" / "files" / "shards"
VOCABULARY = Vocabulary.from_lines(LINES)

few_or_many = pytest.mark.parametrize(
    "num_damages", [60, pytest.param(5_000, marks=pytest.mark.slow)]
)


def flip_bit(data, rng):
    position = rng.integers(len(data))
    data[position] ^= 1 << rng.integers(8)
    return data


def truncate(data, rng):
    return data[: rng.integers(len(data))]


def append(data, rng):
    return data + rng.bytes(rng.integers(1, 20))


def clear_block(data, rng):
    start = rng.integers(len(data))
    data[start : start + 16] = bytes(len(data[start : start + 16]))
    return data


def repeat_block(data, rng):
    start = rng.integers(len(data))
    return data[:start] + data[start // 2 : start] + data[start:]


DAMAGES = [flip_bit, flip_bit, truncate, append, clear_block, repeat_block]


def damage_in_turn(directory, num_damages, rng):
    """Yield the path of a file after each damage, and repair it."""
    paths = sorted(path for path in Path(directory).rglob("*") if path.is_file())
    for number in range(num_damages):
        path = paths[number % len(paths)]
        before = path.read_bytes()
        after = before
        while after == before:  # such as a cleared block of zeros
            after = DAMAGES[rng.integers(len(DAMAGES))](bytearray(before), rng)
        path.write_bytes(after)
        yield path
        path.write_bytes(before)


def read_or_name(path, read):
    """Return what `read` returns, or `None` if it raises a `ValueError` that names the file."""
    try:
        return read()
    except ValueError as error:
        message = str(error)
    assert path.name in message
    return None


@few_or_many
def test_token_shards(tmp_path, rng, num_damages):
    words = rng.integers(len(VOCABULARY), size=50).astype(np.int32)
    whole = TokenShards.write(tmp_path / "train", words, VOCABULARY, shard_size=20)

    def read():
        shards = TokenShards(whole.directory)
        shards.verify()
        return shards

    num_found = 0
    for path in damage_in_turn(whole.directory, num_damages, rng):
        shards = read_or_name(path, read)
        if shards is None:
            num_found += 1
        else:
            assert shards[:].tolist() == words.tolist()
            assert shards.vocabulary_size == len(VOCABULARY)
            assert shards.vocabulary_fingerprint == VOCABULARY.fingerprint
    assert num_found > 0.8 * num_damages


@few_or_many
def test_token_shards_without_checksums(tmp_path, rng, num_damages):
    """The earlier format: other ids may come out, but they are ids."""
    directory = tmp_path / "shards"
    shutil.copytree(SHARDS_WITHOUT_CHECKSUMS, directory)

    def read():
        shards = TokenShards(directory)
        return shards, shards[:]

    assert read()[1].size
    for path in damage_in_turn(directory, num_damages, rng):
        found = read_or_name(path, read)
        if found is not None:
            shards, words = found
            assert words.size == shards.size
            assert words.max() < shards.vocabulary_size


@few_or_many
def test_vocabulary(tmp_path, rng, num_damages):
    VOCABULARY.save(tmp_path / "words.txt")
    for path in damage_in_turn(tmp_path, num_damages, rng):
        vocabulary = read_or_name(path, lambda path=path: Vocabulary.load(path))
        if vocabulary is not None:  # plain text: other words are a vocabulary too
            vocabulary.save(tmp_path / "again")
            assert Vocabulary.load(tmp_path / "again") == vocabulary
            (tmp_path / "again").unlink()


@few_or_many
@pytest.mark.parametrize("is_compressed", [False, True])
def test_text(tmp_path, rng, num_damages, is_compressed):
    lines = LINES * 10
    data = "\n".join(lines).encode()
    (tmp_path / "text.txt").write_bytes(gzip.compress(data) if is_compressed else data)
    for path in damage_in_turn(tmp_path, num_damages, rng):
        found = read_or_name(path, lambda path=path: list(read_lines(path)))
        if is_compressed and found is not None:
            assert found == lines


@pytest.mark.parametrize("num_damages", [24, pytest.param(500, marks=pytest.mark.slow)])
def test_cache_of_from_tfds(tmp_path, rng, num_damages):
    def as_dataset(self, *args, **kwargs):
        return tf.data.Dataset.from_tensor_slices({"text": LINES})

    with tfds.testing.mock_data(as_dataset_fn=as_dataset):
        options = {"data_dir": tmp_path, "cache_dir": tmp_path / "cache"}
        words, vocabulary = from_tfds("lm1b", **options)
        expected = words.tolist()
        for path in damage_in_turn(tmp_path / "cache", num_damages, rng):
            with pytest.raises(ValueError, match=path.name.removesuffix(".crc32")):
                from_tfds("lm1b", **options)
        words, same = from_tfds("lm1b", **options)
    assert words.tolist() == expected
    assert same == vocabulary
