import errno
import os
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath

from keras_lightrnn.data import (
    Vocabulary,
    from_tfds,
    read_lines,
    tfds_lines,
    tfds_text,
    token_windows,
)

TEXTS = ["The cat sat", "the dog sat\n\nthe end\n", "a bird"]
LINES = ["The cat sat", "the dog sat", "the end", "a bird"]


@pytest.fixture
def mock_text(request):
    """Let every data set consist of some texts; the list returned grows with every reading."""
    readings = []
    texts = getattr(request, "param", TEXTS)

    def as_dataset(self, *args, **kwargs):
        readings.append(self.name)
        features = {
            key: tf.constant(texts) if key == "text" else tf.zeros(len(texts), tf.int64)
            for key in self.info.features
        }
        return tf.data.Dataset.from_tensor_slices(features)

    with tfds.testing.mock_data(as_dataset_fn=as_dataset):
        yield readings


@pytest.mark.parametrize("name", ["lm1b", "imdb_reviews", "wiki40b/en", "tiny_shakespeare"])
def test_any_text_dataset(tmp_path, mock_text, name):
    assert list(tfds_lines(name, data_dir=tmp_path)) == LINES
    ids, vocabulary = from_tfds(name, data_dir=tmp_path, cache_dir=tmp_path / "cache")
    assert isinstance(ids, np.memmap)
    assert ids.dtype == np.int32
    assert np.array_equal(ids, vocabulary.encode_lines(LINES))
    assert vocabulary.words == Vocabulary.from_lines(LINES).words
    assert vocabulary.counts.tolist() == Vocabulary.from_lines(LINES).counts.tolist()
    assert len(token_windows(ids, 2, 3, vocabulary_size=len(vocabulary))) == 3


def test_random_text_of_tfds_itself(tmp_path):
    with tfds.testing.mock_data(num_examples=7):
        ids, vocabulary = from_tfds("lm1b", data_dir=tmp_path, cache_dir=tmp_path)
        lines = list(tfds_lines("lm1b", data_dir=tmp_path))
    assert np.array_equal(ids, vocabulary.encode_lines(lines))
    assert vocabulary.counts.sum() == ids.size


def test_second_call_reads_the_cache(tmp_path, mock_text):
    first, vocabulary = from_tfds("lm1b", data_dir=tmp_path, cache_dir=tmp_path)
    num_readings = len(mock_text)
    again, same = from_tfds("lm1b", data_dir=tmp_path, cache_dir=tmp_path)
    given, _ = from_tfds("lm1b", vocabulary=vocabulary, data_dir=tmp_path, cache_dir=tmp_path)
    assert len(mock_text) == num_readings
    assert same == vocabulary
    assert same.counts.tolist() == vocabulary.counts.tolist()
    assert np.array_equal(first, again)
    assert np.array_equal(first, given)
    names = sorted("".join(path.suffixes) for path in tmp_path.rglob("train-*"))
    assert names == [".npy", ".npy.crc32", ".vocabulary.txt", ".vocabulary.txt.crc32"]


@pytest.mark.parametrize(
    "change",
    [
        {"split": "test"},
        {"lower": True},
        {"vocabulary": Vocabulary(["<eos>", "<unk>", "the"])},
        {"min_count": 2},
        {"max_size": 4},
    ],
)
def test_cache_tells_what_differs(tmp_path, mock_text, change):
    from_tfds("lm1b", data_dir=tmp_path, cache_dir=tmp_path)
    num_readings = len(mock_text)
    ids, vocabulary = from_tfds("lm1b", **change, data_dir=tmp_path, cache_dir=tmp_path)
    assert len(mock_text) > num_readings
    lines = [line.lower() for line in LINES] if "lower" in change else LINES
    assert np.array_equal(ids, vocabulary.encode_lines(lines))
    if "vocabulary" in change:
        assert vocabulary is change["vocabulary"]
        assert ids.tolist() == [1, 1, 1, 0, 2, 1, 1, 0, 2, 1, 0, 1, 1, 0]


def test_interrupted_run_leaves_no_stream(tmp_path, mock_text, monkeypatch):
    vocabulary = Vocabulary.from_lines(LINES)
    options = {"vocabulary": vocabulary, "data_dir": tmp_path, "cache_dir": tmp_path / "cache"}
    with monkeypatch.context() as patch:
        patch.setattr(Vocabulary, "encode_lines", lambda self, lines: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            from_tfds("lm1b", **options)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    ids, _ = from_tfds("lm1b", **options)
    assert np.array_equal(ids, vocabulary.encode_lines(LINES))


def test_dataset_that_is_not_prepared(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"name='lm1b'.*download=True"):
        from_tfds("lm1b", data_dir=tmp_path, download=False)


@pytest.mark.parametrize(
    ("failure", "kind", "message"),
    [
        (OSError("no network"), ConnectionError, "name='lm1b'.*no network"),
        (OSError(errno.ENOSPC, "No space left"), OSError, r"^\[Errno 28\] No space left$"),
        (
            ModuleNotFoundError("No module", name="importlib_resources"),
            ModuleNotFoundError,
            "pip install importlib_resources",
        ),
    ],
)
def test_failed_download(tmp_path, monkeypatch, failure, kind, message):
    def download_and_prepare(self, **kwargs):
        raise failure

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", download_and_prepare)
    with pytest.raises(kind, match=message):
        from_tfds("lm1b", data_dir=tmp_path)


@pytest.mark.parametrize("split", ["validation", "validation[:3]", "train[:x"])
def test_a_split_that_is_not_there_is_noticed_by_the_call(tmp_path, mock_text, split, monkeypatch):
    template = tfds.core.ShardedFileTemplate(tmp_path, "lm1b", filetype_suffix="tfrecord")
    splits = [
        tfds.core.SplitInfo(
            name=name,
            shard_lengths=[4],
            num_bytes=9,
            filename_template=template.replace(split=name),
        )
        for name in ("train", "test")
    ]
    splits = tfds.core.SplitDict(splits)
    monkeypatch.setattr(tfds.core.DatasetInfo, "splits", property(lambda self: splits))
    for read in (tfds_lines, from_tfds):
        with pytest.raises(ValueError, match=r"\['train', 'test'\].*split='.*'.*train\[2%:\]"):
            read("lm1b", split, data_dir=tmp_path)
    assert mock_text == []
    assert list(tfds_lines("lm1b", "train[:50%]", data_dir=tmp_path)) == LINES


def test_text_feature(tmp_path, mock_text):
    assert list(tfds_lines("imdb_reviews", text_feature="text", data_dir=tmp_path)) == LINES
    with pytest.raises(ValueError, match=r"\['text'\].*text_feature='label'"):
        tfds_lines("imdb_reviews", text_feature="label", data_dir=tmp_path)
    with pytest.raises(ValueError, match=r"\[\].*text_feature=None"):
        tfds_lines("mnist", data_dir=tmp_path)


def test_options_of_counting_with_a_vocabulary(tmp_path):
    with pytest.raises(ValueError, match="min_count=3"):
        from_tfds("lm1b", vocabulary=Vocabulary(["<eos>", "<unk>"]), min_count=3)


@pytest.mark.parametrize("mock_text", [["\ufeffthe the the", "\ufeffcat \ufeffcat"]], indirect=True)
def test_a_byte_order_mark_begins_no_text(tmp_path, mock_text):
    lines = ["the the the", "cat \ufeffcat"]
    assert list(tfds_lines("lm1b", data_dir=tmp_path)) == lines
    for _ in range(2):  # the second time from files
        ids, vocabulary = from_tfds("lm1b", data_dir=tmp_path, cache_dir=tmp_path)
        assert vocabulary == Vocabulary.from_lines(lines)
        assert np.array_equal(ids, vocabulary.encode_lines(lines))


@pytest.mark.parametrize("mock_text", [["", " \n\t\n"]], indirect=True)
@pytest.mark.parametrize("vocabulary", [None, Vocabulary(["<eos>", "<unk>"])])
def test_a_split_without_text(tmp_path, mock_text, vocabulary):
    cache_dir = tmp_path / "cache"
    with pytest.raises(ValueError, match=r"'lm1b/.*split='train\[:2\]'.* 2 examples.*blank"):
        from_tfds(
            "lm1b", "train[:2]", vocabulary=vocabulary, data_dir=tmp_path, cache_dir=cache_dir
        )
    assert not [path for path in cache_dir.rglob("*") if path.is_file()]


def truncate(data):
    return data[:-4]


def put(word_id):
    return lambda data: data[:-4] + np.int32(word_id).tobytes()


@pytest.mark.parametrize(
    ("pattern", "damage"),
    [
        ("*.npy", truncate),
        ("*.npy", put(-1)),
        ("*.npy", put(10)),
        ("*.npy", put(3)),  # of another word
        ("*.txt", lambda data: b""),
        ("*.txt", lambda data: data.replace(b"cat", b"bat")),
    ],
)
def test_a_damaged_cache_is_named(tmp_path, mock_text, pattern, damage):
    options = {"data_dir": tmp_path, "cache_dir": tmp_path / "cache"}
    ids, vocabulary = from_tfds("lm1b", **options)
    assert len(vocabulary) == 10
    expected = ids.tolist()
    (path,) = (tmp_path / "cache").rglob(pattern)
    path.write_bytes(damage(path.read_bytes()))
    for given in (None, vocabulary) if pattern == "*.npy" else (None,):
        with pytest.raises(ValueError, match=rf"cache file.*{path.name}.*Remove the file"):
            from_tfds("lm1b", vocabulary=given, **options)
    path.unlink()
    assert from_tfds("lm1b", **options)[0].tolist() == expected


def test_a_cache_file_without_checksum_is_written_again(tmp_path, mock_text):
    options = {"data_dir": tmp_path, "cache_dir": tmp_path / "cache"}
    expected = from_tfds("lm1b", **options)[0].tolist()
    (path,) = (tmp_path / "cache").rglob("*.npy.crc32")
    path.unlink()
    assert from_tfds("lm1b", **options)[0].tolist() == expected
    assert path.exists()


class LocalLines(tfds.core.GeneratorBasedBuilder):
    """A data set of the user, which may change under the same version."""

    VERSION = tfds.core.Version("1.0.0")
    texts: tuple[str, ...] = ()

    def _info(self):
        features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield from enumerate({"text": text} for text in self.texts)


def prepare(data_dir, *texts, modified=None):
    """Prepare the data set from scratch; `modified` sets the times of its files."""
    shutil.rmtree(data_dir / "local_lines", ignore_errors=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalLines, "texts", texts)
        tfds.builder("local_lines", data_dir=data_dir).download_and_prepare()
    for path in (data_dir / "local_lines").rglob("*"):
        if modified is not None:
            os.utime(path, (modified, modified))


@pytest.mark.parametrize("modified", [None, 1])
def test_a_data_set_that_changed_is_encoded_again(tmp_path, modified):
    vocabulary = Vocabulary(["<eos>", "<unk>", "red", "green", "one", "three", "Red"])
    for data_dir, *texts in (
        ("same", "Red green"),
        ("same", "one three"),
        ("same", "red green"),
        ("same", "red", "one"),
        ("same", "one", "red"),
        ("other", "red", "one"),
    ):
        prepare(tmp_path / data_dir, *texts, modified=modified)
        options = {"data_dir": tmp_path / data_dir, "cache_dir": tmp_path / "cache"}
        ids, _ = from_tfds("local_lines", vocabulary=vocabulary, **options)
        assert ids.tolist() == vocabulary.encode_lines(texts).tolist()
        ids, counted = from_tfds("local_lines", **options)
        assert counted == Vocabulary.from_lines(texts)
        assert ids.tolist() == counted.encode_lines(texts).tolist()


def test_the_same_files_elsewhere_are_another_data_set(tmp_path, monkeypatch):
    prepare(tmp_path / "one", "red green", modified=1)
    prepare(tmp_path / "other", "red green", modified=1)
    cache_dir = tmp_path / "cache"
    one, other = (
        from_tfds("local_lines", data_dir=tmp_path / name, cache_dir=cache_dir)[0].filename
        for name in ("one", "other")
    )
    assert one != other
    monkeypatch.setattr(tfds_text, "_iter_lines", None)  # not read again
    again, _ = from_tfds("local_lines", data_dir=tmp_path / "one", cache_dir=cache_dir)
    assert again.filename == one


def test_any_change_of_a_file_changes_its_description(tmp_path):
    path = epath.Path(tmp_path / "data")

    def describe(data, modified):
        path.write_bytes(data)
        os.utime(path, ns=(modified, modified))
        return tfds_text._describe_file(path)

    large = bytes(5_000_000)
    for data in (b"", b"a", large):
        some = describe(data, 1)
        assert some == describe(data, 1)
        assert some != describe(data, 2)
        assert some != describe(data + b"a", 1)
    for position in (0, 50_000, 4_999_999):
        changed = bytearray(large)
        changed[position] = 1
        assert describe(bytes(changed), 1) != describe(large, 1)
    small = bytes(1 << 20)  # compared as a whole
    for position in range(0, len(small), 65_537):
        changed = bytearray(small)
        changed[position] = 1
        assert describe(bytes(changed), 1) != describe(small, 1)


@pytest.mark.parametrize("mock_text", [["a b\r\nc\rd\n\re \u2028f\r\n"]], indirect=True)
def test_lines_end_as_in_files(tmp_path, mock_text):
    lines = list(tfds_lines("lm1b", data_dir=tmp_path))
    assert lines == ["a b", "c", "d", "e \u2028f"]
    (tmp_path / "text.txt").write_bytes("a b\r\nc\rd\n\re \u2028f\r\n".encode())
    assert [line for line in read_lines(tmp_path / "text.txt") if line] == lines


@pytest.mark.parametrize("read", [tfds_lines, from_tfds])
def test_a_data_set_that_is_not_prepared_is_announced(tmp_path, monkeypatch, caplog, read):
    def download_and_prepare(self, **kwargs):
        assert "not in '" in caplog.text  # before minutes of attempts
        raise OSError("no network")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", download_and_prepare)
    with pytest.raises(ConnectionError):
        read("lm1b", data_dir=tmp_path)
    (record,) = [record for record in caplog.records if record.name.startswith("keras_lightrnn")]
    assert record.levelname == "WARNING"
    assert re.search(r"'lm1b' is not in '.*lm1b.*download=False", record.getMessage())
