"""Words and their ids inside the graph."""

from __future__ import annotations

import os
from collections.abc import Iterator

import tensorflow as tf

from keras_lightrnn._internal.files import replace_file
from keras_lightrnn.data import Vocabulary
from keras_lightrnn.table.allocation import Allocation


class ServedVocabulary(tf.Module):
    """Lookup tables over a file with one word a line, which becomes an asset of the SavedModel.

    Text is split like in `Vocabulary.encode`, at every run of Unicode white space.

    Args:
        path: File with one word a line; the id of a word is the number of its line, from 0.
        unknown_id: Integer, the id of every word that is not in the file.
        end_id: Integer, the id of the word that ends a line of text.
    """

    def __init__(self, path: str | os.PathLike[str], unknown_id: int, end_id: int) -> None:
        super().__init__()
        self.unknown_id = unknown_id
        self.end_id = end_id
        blanks = "".join(rf"\x{{{code:x}}}" for code in range(1 << 16) if chr(code).isspace())
        self._blanks = f"[{blanks}]+"
        self._asset = tf.saved_model.Asset(os.fspath(path))
        whole, number = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
        self._ids = tf.lookup.StaticHashTable(
            tf.lookup.TextFileInitializer(
                self._asset.asset_path, tf.string, whole, tf.int64, number
            ),
            default_value=unknown_id,
        )
        self._words = tf.lookup.StaticHashTable(
            tf.lookup.TextFileInitializer(
                self._asset.asset_path, tf.int64, number, tf.string, whole
            ),
            default_value="",
        )

    def encode(self, text: tf.Tensor) -> tf.RaggedTensor:
        """Return the ids of the words of texts `(B,)`, a ragged `(B, None)` int32."""
        # `tf.strings.split` splits at ASCII white space only.
        words = tf.strings.split(tf.strings.regex_replace(text, self._blanks, " "))
        return tf.cast(self._ids[words], tf.int32)

    def get_words(self, ids: tf.Tensor) -> tf.Tensor:
        """Return the words of ids, strings of the same shape."""
        return self._words[tf.cast(ids, tf.int64)]


def check_vocabulary(vocabulary: Vocabulary, allocation: Allocation) -> None:
    """Raise unless `vocabulary` is a `Vocabulary` of as many words as the table holds."""
    if not isinstance(vocabulary, Vocabulary):
        raise TypeError(
            f"`vocabulary` must be a `Vocabulary`. Received: {type(vocabulary).__name__}. Make one "
            "with `Vocabulary(words)`."
        )
    if len(vocabulary) != allocation.vocabulary_size:
        raise ValueError(
            "`vocabulary` must hold the words of the model, one for each id. Received: "
            f"{len(vocabulary)} words, and a model of {allocation.vocabulary_size}. Pass the "
            "vocabulary that the model was trained with."
        )


def write_words_by_cell(
    vocabulary: Vocabulary, allocation: Allocation, path: str | os.PathLike[str]
) -> None:
    """Write a file of the lines that `iter_words_by_cell` yields."""
    with (
        replace_file(path) as temporary,
        open(temporary, "w", encoding="utf-8", newline="\n") as file,
    ):
        file.writelines(iter_words_by_cell(vocabulary, allocation))


def iter_words_by_cell(vocabulary: Vocabulary, allocation: Allocation) -> Iterator[str]:
    """Yield one line for each cell, with the word in it.

    The line of an empty cell is a space and the number of the cell. No word equals it, because
    words contain no white space.

    Args:
        vocabulary: `Vocabulary`.
        allocation: `Allocation` of its words.
    """
    names = vocabulary.words
    for cell, word in enumerate(allocation.words.ravel().tolist()):
        yield f"{names[word]}\n" if word >= 0 else f" {cell}\n"
