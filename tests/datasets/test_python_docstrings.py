import hashlib

import numpy as np
import pytest
import tensorflow_datasets as tfds

from keras_lightrnn.data import Vocabulary, from_tfds
from keras_lightrnn.datasets import PythonDocstrings
from keras_lightrnn.datasets.docstring_prose import iter_docstrings, iter_sentences
from keras_lightrnn.datasets.python_docstrings import choose_split

DOCSTRING = """Compute the "smoothed" mean of the values.

The mean is taken over ``axis``, i.e. over the 12 months (see `scipy.ndimage`); it isn't
weighted. Use :func:`numpy.average` for that, or ``average(x, w)`` of old.

Parameters
----------
x : array_like
    The values to be smoothed, in the
    order of time.
axis : int, optional
    Axis along which to compute.

Returns
-------
mean : ndarray
    The smoothed mean :math:`\\mu` of the values.

Notes
-----
The following sum is computed in place::

    for value in values_that_look_like_words and more words:
        total += value

.. math:: a = b + c

    and some other formula of many words

.. note:: Notes are ordinary text,
   which may go on.

.. versionadded:: 1.2
   The words that say so are left out.

=====  ======================
name   meaning of the name
=====  ======================
one    the first of all names
=====  ======================

>>> smooth(the_values_of_all_months)
array of many nice words here

Args:
  values: A list of floats, as
    many as you like.
  weights (Optional[list]): The weights of the values.

```python
some code that reads like a sentence would
```

- The first point of the list.
- The second point of the list.
"""

SENTENCES = [
    'compute the " smoothed " mean of the values .',
    "the mean is taken over axis , i.e. over the N months ( see scipy.ndimage ) ; "
    "it isn't weighted .",
    "use numpy.average for that , or <code> of old .",
    "the values to be smoothed , in the order of time .",
    "axis along which to compute .",
    "the smoothed mean <formula> of the values .",
    "the following sum is computed in place :",
    "notes are ordinary text , which may go on .",
    "a list of floats , as many as you like .",
    "the weights of the values .",
    "the first point of the list .",
    "the second point of the list .",
]


def test_prose_of_a_docstring():
    assert list(iter_sentences(DOCSTRING)) == SENTENCES


@pytest.mark.parametrize(
    "text", ["", "x = y + z * (a - b)", ">>> one two three four five", "a b", "f(x, y) -> z w v u"]
)
def test_what_is_not_prose(text):
    assert list(iter_sentences(text)) == []


def test_sentences_are_tokens_already():
    for sentence in iter_sentences(DOCSTRING):
        assert sentence == " ".join(sentence.split())
        assert sentence.isascii()
        assert not any(c.isupper() and c != "N" for c in sentence)


def test_docstrings_of_a_source():
    source = '''
"""Module."""
class A:
    """Class."""
    async def f(self):
        """Method."""
        def g():
            """Inner."""
if True:
    """Not a docstring."""
    def h():
        "One line."
x = """Not a docstring."""
add_newdoc("place", "name", """Attached to it.""")
add_newdoc("place", "name", ("method", """Attached to a method."""))
'''
    assert list(iter_docstrings(source)) == [
        "Module.",
        "Class.",
        "Method.",
        "Inner.",
        "One line.",
        "Attached to it.",
        "Attached to a method.",
    ]


def test_split_is_a_hash_of_the_module():
    names = [f"package.module_{i}" for i in range(4_000)]
    splits = [choose_split(name) for name in names]
    assert {s: round(splits.count(s) / 4_000, 1) for s in set(splits)}["train"] == 0.9
    assert 120 < splits.count("test") < 280
    assert 120 < splits.count("validation") < 280
    for name, split in zip(names[:200], splits, strict=False):
        part = int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) % 20
        assert split == ["test", "validation", *["train"] * 18][part]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """The data set of a few packages, prepared as users do."""
    directory = tmp_path_factory.mktemp("tfds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PythonDocstrings, "PACKAGES", ("absl", "optree", "no_such_package", "six"))
        tfds.load("python_docstrings", data_dir=directory)
    return directory


def load(data_dir, split):
    dataset = tfds.load("python_docstrings", split=split, data_dir=data_dir, download=False)
    return [text.decode() for text in dataset.map(lambda e: e["text"]).as_numpy_iterator()]


def test_load(data_dir):
    splits = {split: load(data_dir, split) for split in ("train", "validation", "test")}
    assert sum(map(len, splits.values())) > 1_000
    assert all(splits.values())
    everything = [sentence for sentences in splits.values() for sentence in sentences]
    assert len(set(everything)) == len(everything)  # none twice, so none in two splits
    info = tfds.builder("python_docstrings", data_dir=data_dir).info
    assert info.disable_shuffling
    assert info.metadata["versions"]["absl-py"]


def test_order_is_that_of_the_sources(data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(PythonDocstrings, "PACKAGES", ("absl", "optree", "six"))
    builder = PythonDocstrings(data_dir=tmp_path)
    generators = builder._split_generators(None)
    for split, examples in generators.items():
        assert [example["text"] for _, example in examples] == load(data_dir, split)


def test_from_tfds_reads_it(data_dir, tmp_path):
    options = {"data_dir": data_dir, "cache_dir": tmp_path, "download": False}
    ids, vocabulary = from_tfds("python_docstrings", min_count=2, **options)
    lines = load(data_dir, "train")
    assert vocabulary.words == Vocabulary.from_lines(lines, min_count=2).words
    assert np.array_equal(ids, vocabulary.encode_lines(lines))
    test, same = from_tfds("python_docstrings", "test", vocabulary=vocabulary, **options)
    assert same is vocabulary
    assert (test == vocabulary.unknown_id).mean() < 0.5
