"""Text from TensorFlow Datasets."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from keras_lightrnn._internal.files import replace_file
from keras_lightrnn.data.id_files import count_ids, map_ids, write_ids
from keras_lightrnn.data.text import LINE_END
from keras_lightrnn.data.vocabulary import Vocabulary

_EXAMPLES_AT_ONCE = 1024
_LINES_AT_ONCE = 65_536
_IDS_AT_ONCE = 1 << 24

_ERRORS_OF_DISKS = (errno.EACCES, errno.EDQUOT, errno.ENOSPC, errno.EROFS)

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
    """Iterate over the lines of text of a TensorFlow data set, in order.

    An example with several lines gives several lines; blank ones are left out, and so is a byte
    order mark at the beginning of an example.

    Args:
        name: Name of a data set with a text feature, such as `"lm1b"`, `"wiki40b/en"`,
            `"tiny_shakespeare"`, `"imdb_reviews"` or `"python_docstrings"`.
        split: Split, such as `"train"` or `"train[:10%]"`.
        text_feature: Name of the feature that holds the text. `None` takes the one named
            `"text"`, or the only text feature.
        lower: Boolean, whether to put the text into lower case.
        data_dir: Directory of prepared data sets, or `None` for TFDS's own default.
        download: Boolean, whether a data set that is not prepared may be downloaded.

    Returns:
        Iterator of strings. The data set is found, and prepared if need be, by the call.

    Raises:
        ValueError: if there is no such split or text feature; while iterating, if an example is
            not UTF-8, or the split has no word at all.
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

    Words are what white space separates, and every line ends with the vocabulary's end
    word. The encoded stream is kept in a file, from which later calls with the same data
    set, split, feature and vocabulary read it; it is mapped into memory rather than loaded,
    so that it may be larger than memory. A file is written under a temporary name and
    renamed, so that an interrupted run leaves no half of one.

    Args:
        name, split: See `tfds_lines`.
        vocabulary: `Vocabulary`, or `None` to count one from this split (the training split,
            that is), which is kept in a file too.
        min_count, max_size: See `Vocabulary.from_lines`. Only if `vocabulary` is `None`.
        text_feature, lower, data_dir, download: See `tfds_lines`.
        cache_dir: Directory of encoded streams, or `None` for `~/.cache/keras_lightrnn`.

    Returns:
        Tuple of the word ids `(N,)`, a read-only int32 memory map that `token_windows`
        takes, and the vocabulary.

    Raises:
        See `tfds_lines`; and ValueError if a file of `cache_dir` is damaged.

    Example:

    ```python
    train, vocabulary = from_tfds("lm1b", min_count=3)
    test, _ = from_tfds("lm1b", "test", vocabulary=vocabulary)
    dataset = token_windows(train, batch_size=64, sequence_length=20)
    ```
    """
    if vocabulary is not None and (min_count, max_size) != (1, None):
        raise ValueError(
            "`min_count` and `max_size` choose the words of a vocabulary that is counted here. "
            f"Received: min_count={min_count}, max_size={max_size} beside a vocabulary. Leave "
            "them out, or `vocabulary`."
        )
    builder = _prepare(name, data_dir, download)
    _check_split(builder, split)
    feature = _choose_feature(builder, text_feature)
    stem = _choose_stem(builder, split, cache_dir)
    source = [
        builder.info.full_name,
        str(split),
        feature,
        lower,
        # A data set prepared anew under the same version may differ, as local ones do.
        [(key, info.num_examples, info.num_bytes) for key, info in builder.info.splits.items()],
    ]

    is_counted_here = vocabulary is None
    if vocabulary is None:
        path = f"{stem}-{_digest(source, min_count, max_size)}.vocabulary.txt"
        if os.path.exists(path):
            vocabulary = Vocabulary.load(path)
        else:
            lines = _iter_lines(builder, split, feature, lower)
            vocabulary = Vocabulary.from_lines(lines, min_count, max_size)
            vocabulary.save(path)

    path = f"{stem}-{_digest(source, vocabulary.fingerprint)}.npy"
    if not os.path.exists(path):
        lines = _iter_lines(builder, split, feature, lower)
        with replace_file(path) as temporary:
            write_ids(temporary, map(vocabulary.encode_lines, _chunks(lines)))
    ids = map_ids(path, "Remove the file, which the next call writes again.")
    if is_counted_here:  # the file of words does not hold them
        parts = (ids[start : start + _IDS_AT_ONCE] for start in range(0, ids.size, _IDS_AT_ONCE))
        counted = count_ids(parts, len(vocabulary))
        vocabulary = Vocabulary(vocabulary.words, counted, vocabulary.unknown, vocabulary.end)
    return ids, vocabulary


def _prepare(
    name: str, data_dir: str | os.PathLike[str] | None, download: bool
) -> tfds.core.DatasetBuilder:
    builder = tfds.builder(name, data_dir=None if data_dir is None else os.fspath(data_dir))
    if builder.is_prepared():
        return builder
    if not download:
        raise FileNotFoundError(
            "A data set must be prepared before it is read. Received: "
            f"name={name!r}, which is not in {str(builder.data_path)!r}, and download=False. Use "
            "`download=True`, or give the `data_dir` that holds it."
        )
    _logger.info("Preparing %s in %s.", name, builder.data_path)
    try:
        builder.download_and_prepare()
    except ModuleNotFoundError as error:
        # TFDS needs importlib_resources to download anything, and does not declare it.
        raise ModuleNotFoundError(
            f"TFDS needs the module {error.name!r} to prepare {name!r}. Install it with "
            f"`pip install {error.name}`.",
            name=error.name,
        ) from error
    except OSError as error:
        if error.errno in _ERRORS_OF_DISKS:
            raise
        raise ConnectionError(
            "A data set that is not prepared yet must be downloaded. Received: "
            f"name={name!r}, not in {str(builder.data_path)!r}, and the download failed ({error}). "
            "Check the network, or prepare it elsewhere and give its `data_dir`."
        ) from error
    return builder


def _check_split(builder: tfds.core.DatasetBuilder, split: str) -> None:
    splits = builder.info.splits
    if not splits:  # not known, as of mock data
        return
    try:
        splits[split]
    except (KeyError, ValueError) as error:  # `in` knows whole splits only
        raise ValueError(
            f"`split` must name a split of {builder.info.full_name!r}, which are {list(splits)}, "
            f"or a part of one. Received: split={split!r}. Where there is none to validate on, "
            "hold a part out with `train[2%:]` and `train[:2%]`."
        ) from error


def _choose_feature(builder: tfds.core.DatasetBuilder, text_feature: str | None) -> str:
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
        f"`text_feature` must name one of the text features of {builder.info.full_name!r}, which "
        f"are {texts}. Received: text_feature={text_feature!r}."
    )


def _iter_lines(
    builder: tfds.core.DatasetBuilder, split: str, feature: str, lower: bool
) -> Iterator[str]:
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
            "A split must hold some text. Received: "
            f"{builder.info.full_name!r}, split={split!r}, text_feature={feature!r}, with {number} "
            "examples, all of them blank. Choose another split or feature."
        )


def _choose_stem(
    builder: tfds.core.DatasetBuilder, split: str, cache_dir: str | os.PathLike[str] | None
) -> str:
    """Return the start of the cache files' paths: directory and readable name."""
    if cache_dir is None:
        cache_dir = os.path.join(os.path.expanduser("~"), ".cache", "keras_lightrnn")
    readable = re.sub(r"[^\w.-]+", "_", str(split)).strip("_")
    return os.path.join(os.fspath(cache_dir), *builder.info.full_name.split("/"), readable)


def _digest(*parts: Any) -> str:
    data = json.dumps(parts, ensure_ascii=True)
    return hashlib.sha256(data.encode("ascii")).hexdigest()[:16]


def _chunks(lines: Iterable[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    for line in lines:
        chunk.append(line)
        if len(chunk) == _LINES_AT_ONCE:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
