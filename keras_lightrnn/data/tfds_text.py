"""Text from TensorFlow Datasets (TFDS)."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_lightrnn._internal.files import replace_file, write_file
from keras_lightrnn.data.id_files import count_ids, map_ids, write_ids
from keras_lightrnn.data.text import LINE_END
from keras_lightrnn.data.vocabulary import Vocabulary

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

# Part of the names of cache files. Change it when the same text is encoded differently.
_FORMAT = "keras_lightrnn.from_tfds/2"
_EXAMPLES_AT_ONCE = 1024
_LINES_AT_ONCE = 65_536
_IDS_AT_ONCE = 1 << 24
_BYTES_AT_ONCE = 1 << 24
# Of each file of a data set so many blocks of so many bytes are compared: 1 MiB.
_NUM_SAMPLES = 16
_SAMPLE_SIZE = 1 << 16

_DISK_ERRORS = (errno.EACCES, errno.EDQUOT, errno.ENOSPC, errno.EROFS)

_logger = logging.getLogger(__name__)


def tfds_lines(
    name: str,
    split: str = "train",
    *,
    text_feature: str | None = None,
    lower: bool = False,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = True,
) -> Iterator[str]:
    r"""Iterate over the lines of text of a TensorFlow data set, in order.

    Lines end with `"\n"`, `"\r\n"` or `"\r"`, as in `read_lines`, and at the end of an example.
    Blank lines are skipped, and so is a byte order mark at the beginning of an example.

    If the data set is not prepared, TFDS prepares it, which may download it. A warning is logged
    first, because without network access TFDS needs minutes to give up. `download=False` raises
    at once instead.

    Args:
        name: Name of a data set with a text feature, such as `"lm1b"`, `"wiki40b/en"`,
            `"tiny_shakespeare"` or `"imdb_reviews"`. A data set of a package, such as
            `"python_docstrings"` of `keras_lightrnn.datasets`, must be imported first.
        split: Split, such as `"train"` or `"train[:10%]"`. Defaults to `"train"`.
        text_feature: Name of the feature with the text. `None` selects the feature `"text"`, or
            the only text feature.
        lower: Boolean, whether to convert the text to lower case. Defaults to `False`.
        data_dir: Directory of prepared data sets. `None` selects TFDS's default.
        download: Boolean, whether TFDS may prepare the data set. Defaults to `True`.

    Returns:
        Iterator of strings. The call itself finds the data set, and prepares it if necessary.

    Raises:
        ValueError: if the data set, split or text feature does not exist. While iterating, if an
            example is not UTF-8, or the split has no words.
        FileNotFoundError: if the data set is not prepared and `download=False`.
        ConnectionError: if the download fails.
    """
    builder = _prepare(name, data_dir, download)
    _check_split(builder, split)
    feature = _choose_feature(builder, text_feature)
    return _iter_lines(builder, split, feature, lower)


def from_tfds(
    name: str,
    split: str = "train",
    *,
    vocabulary: Vocabulary | None = None,
    min_count: int = 1,
    max_size: int | None = None,
    text_feature: str | None = None,
    lower: bool = False,
    data_dir: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    download: bool = True,
) -> tuple[np.ndarray, Vocabulary]:
    """Encode the text of a TensorFlow data set once, and return its stream of word ids.

    Words are separated by white space, and every line ends with the vocabulary's end word.

    The encoded stream is kept in a file of `cache_dir`, which later calls map into memory, so it
    may be larger than memory. Calls share a file if they have the same arguments and the prepared
    data set is unchanged: the same path, and files of the same names, sizes, modification times
    and contents (the first, last and evenly spaced blocks of each, up to 1 MiB). Otherwise the
    text is encoded again. Each call compares the file with a checksum. Files of earlier versions of
    a data set are not removed; `cache_dir` can be deleted at any time.

    Args:
        name, split: See `tfds_lines`.
        vocabulary: `Vocabulary`, or `None` to count one from this split, which should then be
            the training split. A counted vocabulary is cached too.
        min_count, max_size: See `Vocabulary.from_lines`. Only if `vocabulary` is `None`.
        text_feature, lower, data_dir, download: See `tfds_lines`.
        cache_dir: Directory of encoded streams. Defaults to `~/.cache/keras_lightrnn`.

    Returns:
        Tuple of the word ids `(N,)`, a read-only int32 memory map that `token_windows` accepts,
        and the vocabulary.

    Raises:
        ValueError: if a file of `cache_dir` is damaged; the message names the file. Otherwise
            see `tfds_lines`.

    Example:

    ```python
    train, vocabulary = from_tfds("lm1b", min_count=3)
    test, _ = from_tfds("lm1b", "test", vocabulary=vocabulary)
    dataset = token_windows(train, batch_size=64, sequence_length=20)
    ```
    """
    if vocabulary is not None and (min_count, max_size) != (1, None):
        raise ValueError(
            "`min_count` and `max_size` must be left out if `vocabulary` is given. Received: "
            f"min_count={min_count}, max_size={max_size} and a vocabulary of {len(vocabulary)} "
            "words. Leave out either."
        )
    builder = _prepare(name, data_dir, download)
    _check_split(builder, split)
    feature = _choose_feature(builder, text_feature)
    stem = _choose_stem(builder, split, cache_dir)
    source = [_FORMAT, _describe_data(builder), str(split), feature, lower]

    def write_vocabulary(path: str) -> None:
        lines = _iter_lines(builder, split, feature, lower)
        Vocabulary.from_lines(lines, min_count, max_size).save(path)

    is_counted = vocabulary is None
    if vocabulary is None:
        path = f"{stem}-{_digest(source, min_count, max_size)}.vocabulary.txt"
        _ensure_written(path, write_vocabulary)
        vocabulary = Vocabulary.load(path)
    encode = vocabulary.encode_lines

    def write_stream(path: str) -> None:
        lines = _iter_lines(builder, split, feature, lower)
        with replace_file(path) as temporary:
            write_ids(temporary, map(encode, _chunks(lines)))

    path = f"{stem}-{_digest(source, vocabulary.fingerprint)}.npy"
    _ensure_written(path, write_stream)
    ids = map_ids(path, "Remove the file; the next call writes it again.")
    if is_counted:  # the file of words does not contain the counts
        parts = (ids[start : start + _IDS_AT_ONCE] for start in range(0, ids.size, _IDS_AT_ONCE))
        counts = count_ids(parts, len(vocabulary))
        vocabulary = Vocabulary(vocabulary.words, counts, vocabulary.unknown, vocabulary.end)
    return ids, vocabulary


def _prepare(
    name: str, data_dir: str | os.PathLike[str] | None, download: bool
) -> tfds.core.DatasetBuilder:
    # Imported here because it takes seconds, and everything else in this package needs NumPy only.
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=None if data_dir is None else os.fspath(data_dir))
    if builder.is_prepared():
        return builder
    if not download:
        raise FileNotFoundError(
            "A data set must be prepared before it is read. Received: "
            f"name={name!r}, which is not in {str(builder.data_path)!r}, and download=False. Use "
            "`download=True`, or pass the `data_dir` that contains it."
        )
    _logger.warning(
        "The data set %r is not in %r. TFDS prepares it now, and downloads it if necessary. This "
        "can take long, and fails after some minutes without network access. Pass the `data_dir` "
        "of a prepared data set to read that one, or `download=False` to fail at once.",
        name,
        str(builder.data_path),
    )
    try:
        builder.download_and_prepare()
    except ModuleNotFoundError as error:
        # TFDS needs importlib_resources for every download, and does not declare it.
        raise ModuleNotFoundError(
            f"TFDS needs the module {error.name!r} to prepare {name!r}. Install it with "
            f"`pip install {error.name}`.",
            name=error.name,
        ) from error
    except OSError as error:
        if error.errno in _DISK_ERRORS:
            raise
        raise ConnectionError(
            "A data set that is not prepared must be downloaded. Received: "
            f"name={name!r}, not in {str(builder.data_path)!r}, and the download failed ({error}). "
            "Check the network, or prepare it elsewhere and pass its `data_dir`."
        ) from error
    return builder


def _check_split(builder: tfds.core.DatasetBuilder, split: str) -> None:
    splits = builder.info.splits
    if not splits:  # unknown, for example for mock data
        return
    try:
        splits[split]
    except (KeyError, ValueError) as error:  # `in` knows whole splits only
        raise ValueError(
            f"`split` must be a split of {builder.info.full_name!r}, {list(splits)}, or a part of "
            f"one. Received: split={split!r}. For a data set without a validation split, hold out "
            "a part with `train[2%:]` and `train[:2%]`."
        ) from error


def _choose_feature(builder: tfds.core.DatasetBuilder, text_feature: str | None) -> str:
    import tensorflow_datasets as tfds

    features = builder.info.features
    texts = [key for key, feature in features.items() if isinstance(feature, tfds.features.Text)]
    if text_feature is None:
        if "text" in texts:
            return "text"
        if len(texts) == 1:
            return texts[0]
    elif text_feature in texts:
        return text_feature
    raise ValueError(
        f"`text_feature` must be one of the text features of {builder.info.full_name!r}, {texts}. "
        f"Received: text_feature={text_feature!r}."
    )


def _iter_lines(
    builder: tfds.core.DatasetBuilder, split: str, feature: str, lower: bool
) -> Iterator[str]:
    import tensorflow_datasets as tfds

    read_config = tfds.ReadConfig(interleave_cycle_length=1)  # one shard after the other
    dataset = builder.as_dataset(split=split, shuffle_files=False, read_config=read_config)
    dataset = dataset.map(lambda example: example[feature]).batch(_EXAMPLES_AT_ONCE)
    number = 0
    has_words = False
    for batch in dataset.as_numpy_iterator():
        for data in batch:
            try:
                text = data.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise ValueError(
                    "Text must be UTF-8. Received: "
                    f"{builder.info.full_name!r}, split={split!r}, example {number}: {error}."
                ) from error
            number += 1
            for line in LINE_END.split(text.lower() if lower else text):
                if line and not line.isspace():
                    has_words = True
                    yield line
    if not has_words:
        raise ValueError(
            "A split must contain text. Received: "
            f"{builder.info.full_name!r}, split={split!r}, text_feature={feature!r}, with {number} "
            "examples, all of them blank. Choose another split or feature."
        )


def _describe_data(builder: tfds.core.DatasetBuilder) -> list[Any]:
    """Return what changes if the prepared data set does: its name, path, and files."""
    directory = builder.data_path
    files = sorted(directory.iterdir()) if directory.exists() else []
    return [
        builder.info.full_name,
        os.path.realpath(directory) if os.path.exists(directory) else str(directory),
        [_describe_file(path) for path in files if not path.is_dir()],
    ]


def _describe_file(path: Any) -> list[Any]:
    """Return name, size, modification time and a digest of a file, local or remote."""
    stat = path.stat()
    changed = os.stat(path).st_mtime_ns if os.path.exists(path) else stat.mtime
    step = max(0, stat.length - _SAMPLE_SIZE) / (_NUM_SAMPLES - 1)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for position in sorted({int(number * step) for number in range(_NUM_SAMPLES)}):
            file.seek(position)
            digest.update(file.read(_SAMPLE_SIZE))
    return [path.name, stat.length, changed, digest.hexdigest()]


def _choose_stem(
    builder: tfds.core.DatasetBuilder, split: str, cache_dir: str | os.PathLike[str] | None
) -> str:
    """Return the beginning of the paths of cache files: directory and readable name."""
    if cache_dir is None:
        cache_dir = os.path.join(os.path.expanduser("~"), ".cache", "keras_lightrnn")
    readable = re.sub(r"[^\w.-]+", "_", str(split)).strip("_")
    return os.path.join(os.fspath(cache_dir), *builder.info.full_name.split("/"), readable)


def _digest(*parts: Any) -> str:
    data = json.dumps(parts, ensure_ascii=True)
    return hashlib.sha256(data.encode("ascii")).hexdigest()[:16]


def _ensure_written(path: str, write: Callable[[str], None]) -> None:
    """Write a cache file and its checksum, or check the file if both exist."""
    checksum_path = f"{path}.crc32"
    if not (os.path.isfile(path) and os.path.isfile(checksum_path)):
        write(path)
        write_file(checksum_path, _compute_file_checksum(path))
        return
    with open(checksum_path, "rb") as file:
        expected = file.read()
    checksum = _compute_file_checksum(path)
    if checksum != expected:
        raise ValueError(
            "A cache file must have the contents that were written. Received: "
            f"path={path!r} with checksum {checksum!r} instead of {expected!r:.60}. Remove the "
            "file; the next call writes it again."
        )


def _compute_file_checksum(path: str) -> bytes:
    checksum = 0
    with open(path, "rb") as file:
        while data := file.read(_BYTES_AT_ONCE):
            checksum = zlib.crc32(data, checksum)
    return b"%08x" % checksum


def _chunks(lines: Iterable[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    for line in lines:
        chunk.append(line)
        if len(chunk) == _LINES_AT_ONCE:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
