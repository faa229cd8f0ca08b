from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_lightrnn import Allocation
from keras_lightrnn.data import Vocabulary
from keras_lightrnn.serving.served_vocabulary import ServedVocabulary, write_words_by_cell

VOCABULARY = Vocabulary(["a", "<unk>", "bé", "<eos>", "東", "."])


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "words.txt"
    VOCABULARY.save(path)
    return ServedVocabulary(path, VOCABULARY.unknown_id, VOCABULARY.end_id)


def encode(served, texts):
    return served.encode(texts).to_list()


# `str.split` is what `Vocabulary.encode` does; surrogates are no text that a request could hold.
PIECES = st.sampled_from([*VOCABULARY.words, " ", "\t", "\r\n", "\x1c", "\x85", "\xa0", "\u3000"])
TEXT = st.lists(PIECES | st.text(st.characters(exclude_categories=["Cs"])), max_size=8)


@given(st.lists(TEXT.map("".join), min_size=1, max_size=3))
def test_text_is_split_as_the_vocabulary_splits_it(served, texts):
    assert encode(served, texts) == [VOCABULARY.encode(text)[:-1].tolist() for text in texts]


def test_every_blank_of_unicode_separates_words(served):
    blanks = [chr(code) for code in range(sys.maxunicode + 1) if chr(code).isspace()]
    assert len(blanks) > 20
    assert encode(served, [f"a{blank}a" for blank in blanks]) == [[0, 0]] * len(blanks)


def test_what_is_not_utf_8_is_unknown(served):
    assert encode(served, [b"a \xff\xfe a", b"\xc3"]) == [[0, 1, 0], [1]]


def test_words_by_cell(tmp_path):
    path = tmp_path / "words.txt"
    allocation = Allocation([7, 0, 2, 4, 5, 1], num_rows=2, num_columns=4)
    write_words_by_cell(VOCABULARY, allocation, path)
    lines = path.read_text("utf-8").split("\n")
    assert lines == ["<unk>", ".", "bé", " 3", "<eos>", "東", " 6", "a", ""]
    served = ServedVocabulary(path, unknown_id=0, end_id=4)
    # The number of an empty cell is no word, however it is written.
    assert encode(served, ["a . 3", " 3", " 6 6"]) == [[7, 1, 0], [0], [0, 0]]
    assert [word.decode() for word in served.get_words([7, 4]).numpy()] == ["a", "<eos>"]
