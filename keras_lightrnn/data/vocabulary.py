"""Vocabularies: words and their ids."""

from __future__ import annotations

import array
import collections
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from keras_lightrnn._internal.checks import check_counts, check_size
from keras_lightrnn._internal.files import write_file
from keras_lightrnn.data.text import BYTE_ORDER_MARK, LINE_END

_WORD = re.compile(r"\S+")  # the words of `str.split`
_LONG_LINE = 1 << 20  # characters
_WORDS_AT_ONCE = 1 << 16


class Vocabulary:
    """An immutable list of words. The id of a word is its position in the list.

    `from_lines` sorts words by descending frequency. The list always contains the unknown word
    and the end word, so every text can be encoded. They are ordinary words otherwise: an `<unk>`
    in the text, as in the Penn Treebank, is the unknown word.

    Args:
        words: Iterable of distinct strings without white space, one for each id.
        counts: `(V,)` occurrences of each word, or `None` if they are unknown.
        unknown: String, the word that replaces words outside the vocabulary. Defaults to
            `"<unk>"`.
        end: String, the word that ends every line. Defaults to `"<eos>"`.

    Attributes:
        words: Tuple of `V` strings.
        counts: `(V,)` int64, read-only, or `None`.
        unknown, end: The two special words.
        unknown_id, end_id: Their ids.
        fingerprint: String, equal for vocabularies that encode every text equally, and different
            otherwise (SHA-256 of the words, in order, and the special words).

    Raises:
        TypeError: if a word is not a string or the counts are not integers.
        ValueError: if a word is empty, contains white space, is repeated or cannot be encoded as
            UTF-8; if the first word begins with a byte order mark, which `load` would skip; if the
            unknown or the end word is missing; or if the counts do not match the words.

    Example:

    >>> vocabulary = Vocabulary.from_lines(["the cat sat", "the dog sat", "the end"])
    >>> vocabulary.words
    ('<eos>', 'the', 'sat', 'cat', 'dog', 'end', '<unk>')
    >>> vocabulary.counts.tolist()
    [3, 3, 2, 1, 1, 1, 0]
    >>> vocabulary.encode("the bird sat")
    array([1, 6, 2, 0], dtype=int32)
    >>> vocabulary.decode([1, 6, 2, 0])
    'the <unk> sat <eos>'
    """

    __slots__ = ("_counts", "_end", "_ids", "_unknown", "_words")

    def __init__(
        self,
        words: Iterable[str],
        counts: Any = None,
        unknown: str = "<unk>",
        end: str = "<eos>",
    ) -> None:
        if isinstance(words, str):
            raise TypeError(
                "`words` must be an iterable of strings, not one string. Received: "
                f"words={words[:40]!r}. Split it first."
            )
        _check_special_words(unknown, end)
        self._words = tuple(words)
        self._ids: dict[str, int] = {}
        for position, word in enumerate(self._words):
            _check_word(word, "words", position)
            first = self._ids.setdefault(word, position)
            if first != position:
                raise ValueError(
                    f"Words must be distinct. Received: words[{first}] and words[{position}] are "
                    f"both {word!r}. Remove one of them."
                )
        if self._words and self._words[0].startswith(BYTE_ORDER_MARK):
            raise ValueError(
                "The first word must not begin with a byte order mark, which `load` would skip. "
                f"Received: words[0]={self._words[0]!r}. Remove the mark from the text, as "
                "`read_lines` and the encoding 'utf-8-sig' do."
            )
        for name, special in (("unknown", unknown), ("end", end)):
            if special not in self._ids:
                raise ValueError(
                    f"The `{name}` word must be one of the words. Received: {name}={special!r}, "
                    f"which is not one of the {len(self._words)} words. Add it, or pass the word "
                    f"with this meaning as `{name}`."
                )
        self._unknown = unknown
        self._end = end
        self._counts = None if counts is None else _check_whole_counts(counts, len(self._words))

    @classmethod
    def from_lines(
        cls,
        lines: Iterable[str],
        min_count: int = 1,
        max_size: int | None = None,
        unknown: str = "<unk>",
        end: str = "<eos>",
        max_entries: int = 4_000_000,
    ) -> Vocabulary:
        """Count the words of a text, and keep the frequent ones.

        Words are separated by white space, and each line ends with one `end`. Occurrences of
        words that are not kept count as `unknown`, so the counts add up to the length of the
        encoded text. Words are sorted by descending frequency, equally frequent ones
        alphabetically.

        At most `max_entries` distinct words are held while counting. Beyond that, the rarer half
        is dropped, with all words as rare as the most frequent of them, and their occurrences
        count as `unknown`. So counts are exact for up to `max_entries` distinct words; with more,
        the counts of rare words are too low.

        Args:
            lines: Iterable of strings, read once.
            min_count: Integer, the smallest number of occurrences to keep a word. Defaults to 1.
            max_size: Integer, the largest size of the vocabulary, including the two special
                words, or `None` for no limit.
            unknown: String, see the class.
            end: String, see the class.
            max_entries: Integer, the number of distinct words to hold while counting. Defaults to
                4,000,000.

        Returns:
            A `Vocabulary` with counts.

        Raises:
            TypeError: if a line, `unknown` or `end` is not a string.
            ValueError: if there are no lines, a limit is not an integer or is too small, or
                `unknown` and `end` are not two words. Arguments are checked before lines are read.

        Example:

        >>> Vocabulary.from_lines(["a b a c", "a b"], min_count=2).words
        ('a', '<eos>', 'b', '<unk>')
        """
        check_size("min_count", min_count)
        for name, value in (
            ("max_size", 3 if max_size is None else max_size),
            ("max_entries", max_entries),
        ):
            if check_size(name, value) < 3:
                raise ValueError(f"`{name}` must be at least 3. Received: {name}={value}.")
        _check_special_words(unknown, end)  # before the lines are read, which may take hours

        counter: collections.Counter[str] = collections.Counter()
        special = {unknown: 0, end: 0}
        num_lines = 0
        for words, is_end in _split_lines(lines, "Use `lines.split('\\n')`."):
            counter.update(words)
            num_lines += is_end
            if len(counter) > max_entries:
                for word in special:
                    special[word] += counter.pop(word, 0)
                if len(counter) > max_entries:
                    special[unknown] += _forget_rare(counter, max_entries // 2)
        if num_lines == 0:
            raise ValueError(
                "A vocabulary needs at least one line of text. Received: `lines` without any. If "
                "it is a generator, it may already be exhausted."
            )

        for word in special:
            special[word] += counter.pop(word, 0)
        special[end] += num_lines
        kept = sorted(
            ((word, count) for word, count in counter.items() if count >= min_count),
            key=lambda item: (-item[1], item[0]),
        )
        if max_size is not None:
            kept = kept[: max_size - len(special)]
        dropped = counter.total() - sum(count for _, count in kept)
        special[unknown] += dropped
        ranked = sorted([*kept, *special.items()], key=lambda item: (-item[1], item[0]))
        return cls(
            (word for word, _ in ranked),
            np.fromiter((count for _, count in ranked), np.int64, len(ranked)),
            unknown,
            end,
        )

    @property
    def words(self) -> tuple[str, ...]:
        return self._words

    @property
    def counts(self) -> np.ndarray | None:
        return self._counts

    @property
    def unknown(self) -> str:
        return self._unknown

    @property
    def end(self) -> str:
        return self._end

    @property
    def unknown_id(self) -> int:
        return self._ids[self._unknown]

    @property
    def end_id(self) -> int:
        return self._ids[self._end]

    @property
    def fingerprint(self) -> str:
        data = json.dumps([self._words, self._unknown, self._end])
        return hashlib.sha256(data.encode("ascii")).hexdigest()

    def id_of(self, word: str) -> int:
        """Return the id of a word, or `unknown_id` if it is not in the vocabulary."""
        return self._ids.get(word, self.unknown_id)

    def encode(self, line: str) -> np.ndarray:
        """Return the ids of the `N` words of one line and `end_id`, `(N + 1,)` int32."""
        return self.encode_lines([line])

    def encode_lines(self, lines: Iterable[str]) -> np.ndarray:
        """Return the ids of many lines as one stream, `(N,)` int32.

        Every line ends with `end_id`. The lines are read once.

        Example:

        >>> vocabulary = Vocabulary(["<eos>", "<unk>", "a", "b"])
        >>> vocabulary.encode_lines(["a b", "b"])
        array([2, 3, 0, 3, 0], dtype=int32)
        """
        get, unknown_id, end_id = self._ids.get, self.unknown_id, self.end_id
        ids = array.array("i")  # four bytes an id, where a list would take forty
        for words, is_end in _split_lines(lines, "Use `encode` for a single line."):
            ids.extend([get(word, unknown_id) for word in words])
            if is_end:
                ids.append(end_id)
        return np.array(ids, np.int32)

    def decode(self, ids: Any) -> str:
        """Return the words of a vector of ids, separated by spaces.

        Raises:
            TypeError: if the ids are not a vector of integers.
            ValueError: if an id is not in the vocabulary.
        """
        ids = np.asarray(ids)
        if ids.size == 0:
            return ""
        if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
            raise TypeError(
                "`ids` must be a vector of integers. Received: "
                f"ids.shape={ids.shape}, ids.dtype={ids.dtype}. Decode a matrix row by row."
            )
        outside = np.flatnonzero((ids < 0) | (ids >= len(self)))
        if outside.size:
            raise ValueError(
                f"Every id must be in [0, {len(self)}). Received: "
                f"ids[{outside[0]}]={ids[outside[0]]}. Use the vocabulary of the encoded text."
            )
        return " ".join([self._words[i] for i in ids])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the words to a UTF-8 text file, one word per line, in the order of ids.

        Counts are not saved. The file is written under a temporary name and renamed, so an
        earlier file survives a failure.

        Raises:
            OSError: if the file cannot be written. On a full disk the error names `path`.
        """
        write_file(path, "".join(f"{word}\n" for word in self._words).encode("utf-8"))

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], unknown: str = "<unk>", end: str = "<eos>"
    ) -> Vocabulary:
        """Read a text file with one word per line, as `save` writes it.

        Lines end as in `read_lines`. A byte order mark at the beginning is skipped.

        Args:
            path: Path of the file.
            unknown: String, see the class.
            end: String, see the class.

        Returns:
            A `Vocabulary` without counts.

        Raises:
            FileNotFoundError: if the file does not exist.
            ValueError: if the file is empty or not UTF-8; if a line is empty, has several words or
                repeats a word (the message names the word and the lines); or if the unknown or the
                end word is missing.
        """
        path = os.fspath(path)
        with open(path, "rb") as file:
            data = file.read()
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            number = len(LINE_END.split(data[: error.start].decode("utf-8")))
            raise ValueError(
                "A vocabulary file must be UTF-8 text. Received: "
                f"path={path!r}, whose line {number} has byte 0x{data[error.start]:02x} at offset "
                f"{error.start}. Convert the file to UTF-8."
            ) from error
        lines = LINE_END.split(text.removeprefix(BYTE_ORDER_MARK))
        if lines[-1] == "":
            lines.pop()  # after the last line end
        if not lines:
            raise ValueError(
                f"A vocabulary file must have one word per line. Received: path={path!r}, which "
                "is empty. Write it with `Vocabulary.save`."
            )
        first_lines: dict[str, int] = {}
        for number, word in enumerate(lines, 1):
            if word.split() != [word]:
                raise ValueError(
                    "Every line of a vocabulary file must be one word without spaces. Received: "
                    f"path={path!r}, line {number}: {word!r:.60}. Remove or correct the line."
                )
            first = first_lines.setdefault(word, number)
            if first != number:
                raise ValueError(
                    "The words of a vocabulary file must be distinct. Received: "
                    f"path={path!r}, word {word!r} on lines {first} and {number}. Remove one."
                )
        try:
            return cls(first_lines, unknown=unknown, end=end)
        except ValueError as error:
            raise ValueError(f"{error} The words were read from path={path!r}.") from error

    def __len__(self) -> int:
        return len(self._words)

    def __contains__(self, word: object) -> bool:
        return word in self._ids

    def __eq__(self, other: object) -> bool:
        """Compare the words and the special words, not the counts."""
        if not isinstance(other, Vocabulary):
            return NotImplemented
        return (self._words, self._unknown, self._end) == (
            other._words,
            other._unknown,
            other._end,
        )

    def __hash__(self) -> int:
        return hash((self._words, self._unknown, self._end))

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} words, unknown={self._unknown!r}, end={self._end!r})"


def _split_lines(lines: Iterable[str], remedy: str) -> Iterator[tuple[list[str], bool]]:
    """Yield the words of each line, and whether the line ends after them.

    The words of a long line come in several lists, because a list takes ten times the memory of
    the line. `remedy` ends the error message for a single string.
    """
    if isinstance(lines, str):
        raise TypeError(
            "`lines` must be an iterable of lines, not one string. Received: "
            f"lines={lines[:40]!r}. {remedy}"
        )
    for line in lines:
        if not isinstance(line, str):
            raise TypeError(
                f"Every line must be a string. Received: {line!r:.60} (of type "
                f"{type(line).__name__}). Join words with `' '.join(words)`; decode bytes."
            )
        if len(line) <= _LONG_LINE:
            yield line.split(), True
        else:
            words = (match[0] for match in _WORD.finditer(line))
            while block := list(itertools.islice(words, _WORDS_AT_ONCE)):
                yield block, False
            yield [], True


def _forget_rare(counter: collections.Counter[str], size: int) -> int:
    """Remove the rarest words until at most `size` remain, and return their occurrences."""
    counts = np.fromiter(counter.values(), np.int64, len(counter))
    # Equally rare words are removed together, so the order of the text does not matter.
    threshold = np.partition(counts, counts.size - size - 1)[counts.size - size - 1]
    rare = [word for word, count in counter.items() if count <= threshold]
    return sum(counter.pop(word) for word in rare)


def _check_special_words(unknown: Any, end: Any) -> None:
    _check_word(unknown, "unknown")
    _check_word(end, "end")
    if unknown == end:
        raise ValueError(
            "The `unknown` and the `end` word must differ. Received: "
            f"unknown={unknown!r}, end={end!r}. Pass two words."
        )


def _check_word(word: Any, name: str, position: int | None = None) -> None:
    """Raise unless `word`, an argument or an element of one, can be a word."""
    if isinstance(word, str) and word.isascii() and word.split() == [word]:
        return  # nearly all words, for which no message is made
    received = f"{name}={word!r}" if position is None else f"{name}[{position}]={word!r}"
    if not isinstance(word, str):
        raise TypeError(
            "Every word must be a string. Received: "
            f"{received} (of type {type(word).__name__}). Decode bytes, and convert other values "
            "with `str`."
        )
    if word.split() != [word]:
        raise ValueError(
            "A word must be a nonempty string without white space. Received: "
            f"{received}. Split the text at white space."
        )
    try:
        word.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            "A word must be encodable as UTF-8. Received: "
            f"{received}, with half of a surrogate pair. Decode text with `errors='replace'`."
        ) from error


def _check_whole_counts(counts: Any, size: int) -> np.ndarray:
    counts = check_counts(counts, size)
    if counts.dtype.kind == "f":
        raise TypeError(f"`counts` must hold integers. Received: counts.dtype={counts.dtype}.")
    counts = counts.astype(np.int64)  # a copy: the caller's array may change
    counts.flags.writeable = False
    return counts
