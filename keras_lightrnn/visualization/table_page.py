"""Word tables as an interactive HTML page."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from html import escape
from importlib import resources
from typing import Any

from keras_lightrnn._internal.checks import check_counts
from keras_lightrnn._internal.files import write_file
from keras_lightrnn.visualization.table_contents import COLOR_RAMP, get_allocations
from keras_lightrnn.visualization.training_charts import make_training_charts


def export_table_page(
    table: Any,
    path: str | os.PathLike[str],
    vocabulary: Any,
    counts: Any = None,
    history: Any = None,
    title: str = "Word table",
) -> None:
    """Write an HTML page that shows which words share rows and columns.

    The page has a map of the table, colored by frequency, lists of the words of each row and each
    column, and a search. The page shows word, count, row and column of the word under the pointer,
    or of the word that was reached on the map with the arrow keys. Several tables have a tab each;
    the word that is selected stays selected from tab to tab. With `history` the page has charts of
    the training.

    The page is one file that requests nothing from the network. It suits vocabularies of up to a
    few hundred thousand words; a word takes about twenty bytes, and eight more for each further
    table.

    Args:
        table: `Allocation` or `WordTable`, or a list of these for several tables, such as
            `model.word_tables`.
        path: Path of the file to write.
        vocabulary: `keras_lightrnn.data.Vocabulary`, or a sequence of `V` strings.
        counts: `(V,)` occurrences of each word. Defaults to `None`: the counts of the vocabulary
            or, if it has none, word ids in decreasing order of frequency.
        history: The `History` that `fit` returned, a `ReallocationCallback`, or the attribute
            `history` of one of them. The charts show perplexity by epoch and, if a
            `ReallocationCallback` took part, the cost of the table by round. Defaults to `None`.
        title: String, the heading. Defaults to `"Word table"`.

    Raises:
        TypeError: if `table`, the words or `history` have another type.
        ValueError: if the vocabulary or the counts do not fit the table, the tables hold different
            numbers of words, or `history` has nothing to show.

    Example:

    >>> import tempfile
    >>> from keras_lightrnn import Allocation
    >>> allocation = Allocation([0, 3, 1, 2])
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = os.path.join(directory, "table.html")
    ...     export_table_page(allocation, path, ["the", "a", "cat", "dog"], counts=[9, 7, 2, 1])
    ...     with open(path, encoding="utf-8") as file:
    ...         file.readline().strip()
    '<!doctype html>'
    """
    allocations = get_allocations(table)
    vocabulary_size = allocations[0].vocabulary_size
    words = _get_words(vocabulary, vocabulary_size)
    if counts is None:
        counts = getattr(vocabulary, "counts", None)
    if counts is not None:
        counts = check_counts(counts, vocabulary_size).tolist()
    contents = {
        "tables": [
            {"rows": x.num_rows, "columns": x.num_columns, "cells": x.cells.tolist()}
            for x in allocations
        ],
        "words": words,
        "counts": counts,
        "ramp": COLOR_RAMP,
    }
    # Inside a script element only "<" could end the data, as in "</script>".
    data = json.dumps(contents, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    charts = "" if history is None else make_training_charts(history)
    parts = {"title": escape(title), "charts": charts, "data": data}
    template = resources.files(__package__).joinpath("table_page.html").read_text("utf-8")
    page = re.sub(r"\{\{(title|charts|data)\}\}", lambda match: parts[match[1]], template)
    # A lone surrogate, which UTF-8 cannot encode, becomes a JSON escape.
    write_file(path, page.encode("utf-8", "backslashreplace"))


def _get_words(vocabulary: Any, vocabulary_size: int) -> list[str]:
    words = getattr(vocabulary, "words", vocabulary)
    if isinstance(words, str) or not isinstance(words, Sequence):
        raise TypeError(
            "`vocabulary` must be a `Vocabulary` or a sequence of words. Received: an object of "
            f"type {type(vocabulary).__name__}."
        )
    if len(words) != vocabulary_size:
        raise ValueError(
            "`vocabulary` must have a word for each word id of the table. Received: "
            f"{len(words)} words, for a table of {vocabulary_size} words."
        )
    for word, text in enumerate(words):
        if not isinstance(text, str):
            raise TypeError(
                f"Every word must be a string. Received: words[{word}]={text!r} (of type "
                f"{type(text).__name__})."
            )
    return list(words)
