"""A word table as a page to look around in."""

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
from keras_lightrnn.visualization.table_contents import (
    COLOR_RAMP,
    get_allocation,
)
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

    The page has a map of the table, coloured by frequency, the rows and the columns as lists of
    words, and a search. Hovering over a word, or moving over the map with the arrow keys, tells
    word, count, row and column. With `history` there are charts of the training. The page is
    one file, which asks for nothing from the network, and suits vocabularies up to some
    hundred thousand words, at about twenty bytes a word.

    Args:
        table: `Allocation` or `WordTable`.
        path: Path of the file to write.
        vocabulary: `keras_lightrnn.data.Vocabulary`, or a sequence of `V` strings.
        counts: `(V,)` occurrences of each word. `None` takes those of the vocabulary; where it
            has none, word ids are taken to be in falling order of frequency.
        history: What `fit` returned, for perplexity by epoch and, if a `ReallocationCallback`
            took part, cost of the table by round; or such a callback; or the `history` of one
            of them.
        title: String, the heading.

    Raises:
        TypeError: if `table`, the words or `history` are of another type.
        ValueError: if vocabulary or counts do not fit the table, or `history` has nothing to
            show.

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
    allocation = get_allocation(table)
    words = _get_words(vocabulary, allocation.vocabulary_size)
    if counts is None:
        counts = getattr(vocabulary, "counts", None)
    if counts is not None:
        counts = check_counts(counts, allocation.vocabulary_size).tolist()
    contents = {
        "rows": allocation.num_rows,
        "columns": allocation.num_columns,
        "cells": allocation.cells.tolist(),
        "words": words,
        "counts": counts,
        "ramp": COLOR_RAMP,
    }
    # Inside of a script element only "<" could end the data, as in "</script>".
    data = json.dumps(contents, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    charts = "" if history is None else make_training_charts(history)
    parts = {"title": escape(title), "charts": charts, "data": data}
    template = resources.files(__package__).joinpath("table_page.html").read_text("utf-8")
    page = re.sub(r"\{\{(title|charts|data)\}\}", lambda match: parts[match[1]], template)
    # What UTF-8 has no code for, a lone half of a pair, becomes a JSON escape.
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
            "The vocabulary must be that of the table. Received: "
            f"{len(words)} words, for a table of {vocabulary_size} words."
        )
    for word, text in enumerate(words):
        if not isinstance(text, str):
            raise TypeError(
                f"Every word must be a string. Received: words[{word}]={text!r} (of type "
                f"{type(text).__name__})."
            )
    return list(words)
