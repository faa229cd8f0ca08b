import collections
import random
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_lightrnn.data import Vocabulary
from keras_lightrnn.data import vocabulary as vocabulary_module

SPECIAL = ["<eos>", "<unk>"]


def make_lines(seed=0, num_lines=200):
    rng = random.Random(seed)
    return [
        " ".join(f"w{int(rng.paretovariate(0.7)) % 97}" for _ in range(rng.randrange(12)))
        for _ in range(num_lines)
    ]


def test_from_lines_agrees_with_a_plain_count():
    lines = make_lines()
    vocabulary = Vocabulary.from_lines(lines)
    expected = collections.Counter(word for line in lines for word in line.split())
    expected["<eos>"] = len(lines)
    expected["<unk>"] = 0
    ranked = sorted(expected.items(), key=lambda item: (-item[1], item[0]))
    assert vocabulary.words == tuple(word for word, _ in ranked)
    assert vocabulary.counts.tolist() == [count for _, count in ranked]
    assert vocabulary.counts.dtype == np.int64


@pytest.mark.parametrize("options", [{}, {"min_count": 4}, {"max_size": 9}, {"max_entries": 20}])
def test_counts_add_up_to_the_encoded_text(options):
    lines = make_lines(1)
    vocabulary = Vocabulary.from_lines(lines, **options)
    ids = vocabulary.encode_lines(lines)
    assert vocabulary.counts.sum() == ids.size
    if "max_entries" not in options:  # there the counts of rare words are estimates
        assert np.array_equal(np.bincount(ids, minlength=len(vocabulary)), vocabulary.counts)
    assert (np.diff(vocabulary.counts) <= 0).all()


def test_order_of_lines_does_not_matter():
    lines = make_lines(2)
    assert Vocabulary.from_lines(lines).words == Vocabulary.from_lines(lines[::-1]).words


def test_min_count_and_max_size():
    lines = ["a a a b b c", "d"]
    assert Vocabulary.from_lines(lines, min_count=2).words == ("a", "<eos>", "<unk>", "b")
    small = Vocabulary.from_lines(lines, max_size=3)
    assert small.words == ("<unk>", "a", "<eos>")
    assert small.counts.tolist() == [4, 3, 2]


def test_text_that_has_unknown_words_already():
    vocabulary = Vocabulary.from_lines(["the <unk> sat", "<unk> <unk> lay"], min_count=2)
    assert vocabulary.counts[vocabulary.unknown_id] == 3 + 3
    assert vocabulary.encode("<unk>").tolist() == [vocabulary.unknown_id, vocabulary.end_id]


def test_bounded_memory_keeps_the_frequent_words():
    # Ten words in every line, among thousands that occur once.
    lines = [f"{' '.join('abcdefghij')} x{i} y{i}" for i in range(2_000)]
    exact = Vocabulary.from_lines(lines, max_size=12)
    bounded = Vocabulary.from_lines(iter(lines), max_size=12, max_entries=50)
    assert bounded.words == exact.words
    assert bounded.counts.tolist() == exact.counts.tolist()


def test_encode_and_decode():
    vocabulary = Vocabulary(["<eos>", "<unk>", "a", "b"])
    assert vocabulary.encode(" a  zebra\tb\n").tolist() == [2, 1, 3, 0]
    assert vocabulary.encode("").tolist() == [0]
    assert vocabulary.encode("a").dtype == np.int32
    assert vocabulary.encode_lines([]).dtype == np.int32
    assert vocabulary.decode(vocabulary.encode("a b")) == "a b <eos>"
    assert vocabulary.decode([]) == ""
    lines = make_lines(3)
    vocabulary = Vocabulary.from_lines(lines)
    stream = vocabulary.encode_lines(line for line in lines)
    assert np.array_equal(stream, np.concatenate([vocabulary.encode(line) for line in lines]))
    assert vocabulary.decode(stream) == " ".join(f"{line} <eos>".strip() for line in lines)


def test_look_up():
    vocabulary = Vocabulary([".", "?", "a"], [5, 0, 2], unknown="?", end=".")
    assert len(vocabulary) == 3
    assert "a" in vocabulary
    assert "z" not in vocabulary
    assert vocabulary.id_of("a") == 2
    assert vocabulary.id_of("z") == vocabulary.unknown_id == 1
    assert vocabulary.end_id == 0
    with pytest.raises(ValueError, match="read-only"):
        vocabulary.counts[0] = 1


def test_save_and_load(tmp_path):
    vocabulary = Vocabulary.from_lines(["la fête où ça", "日本 \u0301x"])
    path = tmp_path / "words.txt"
    path.write_text("an earlier file")
    vocabulary.save(path)
    assert path.read_bytes().decode("utf-8").split("\n") == [*vocabulary.words, ""]
    assert Vocabulary.load(path) == vocabulary
    assert Vocabulary.load(path).counts is None
    assert [entry.name for entry in tmp_path.iterdir()] == ["words.txt"]


def test_load_takes_windows_line_ends_and_a_last_line_without_end(tmp_path):
    path = tmp_path / "words.txt"
    path.write_bytes(b"<eos>\r\n<unk>\r\na")
    assert Vocabulary.load(path).words == ("<eos>", "<unk>", "a")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"<eos>\n<unk>\na\nb\na\n", "word 'a' on lines 3 and 5"),
        (b"<eos>\n<unk>\n\na\n", "line 3: ''"),
        (b"<eos>\n<unk>\na 12\n", "line 3: 'a 12'"),
        (b"<eos>\n<unk>\n\xff\n", "line 3 has byte 0xff at offset 12"),
        (b"<eos>\na\n", "unknown='<unk>'.*path="),
        (b"<unk>\na\n", "end='<eos>'.*path="),
    ],
)
def test_load_refuses_bad_files(tmp_path, content, message):
    path = tmp_path / "words.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Vocabulary.load(path)


def test_load_names_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.txt"):
        Vocabulary.load(tmp_path / "nothing.txt")


@pytest.mark.parametrize(
    ("words", "options", "message"),
    [
        ([*SPECIAL, "a", "a"], {}, r"words\[2\] and words\[3\] are both 'a'"),
        ([*SPECIAL, ""], {}, r"words\[2\]=''"),
        ([*SPECIAL, "a b"], {}, r"words\[2\]='a b'"),
        (["<eos>"], {}, "unknown='<unk>'"),
        (SPECIAL, {"unknown": "<eos>"}, "must differ"),
        ([*SPECIAL, "a", "\ud800"], {}, r"UTF-8.*words\[3\]='\\ud800'"),
        (["\ufeffthe", *SPECIAL], {}, r"byte order mark.*words\[0\]='\\ufeffthe'"),
        (["\ufeff", *SPECIAL], {}, r"byte order mark.*words\[0\]='\\ufeff'"),
        (SPECIAL, {"counts": [1]}, r"each of 2 words.*counts.shape=\(1,\)"),
        (SPECIAL, {"counts": [1, -3]}, r"counts\[1\]=-3"),
    ],
)
def test_constructor_refuses(words, options, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary(words, **options)


def test_wrong_types():
    with pytest.raises(TypeError, match=r"words\[2\]=7"):
        Vocabulary([*SPECIAL, 7])
    with pytest.raises(TypeError, match="not one string"):
        Vocabulary("a b c")
    with pytest.raises(TypeError, match="float"):
        Vocabulary(SPECIAL, [0.5, 1.0])
    with pytest.raises(TypeError, match=r"lines\.split\("):
        Vocabulary.from_lines("a b")
    with pytest.raises(TypeError, match="not one string"):
        Vocabulary(SPECIAL).encode_lines("a b")
    for line in (["a", "b"], b"a b", None):
        with pytest.raises(TypeError, match=r"Every line must be a string.*Join words with"):
            Vocabulary.from_lines(["a b", line])
        with pytest.raises(TypeError, match=r"Every line must be a string.*Join words with"):
            Vocabulary(SPECIAL).encode(line)
    with pytest.raises(TypeError, match="integers"):
        Vocabulary(SPECIAL).decode([0.5])


def test_wrong_values():
    with pytest.raises(ValueError, match="at least one line"):
        Vocabulary.from_lines(iter([]))
    for name, values in {
        "min_count": (0, float("nan"), 1.5, "5"),
        "max_size": (2, 3.5, "5"),
        "max_entries": (2, 3.5, None),
    }.items():
        for value in values:
            with pytest.raises(ValueError, match=f"{name}={value!r}"):
                Vocabulary.from_lines(["a"], **{name: value})
    with pytest.raises(ValueError, match=r"ids\[1\]=2"):
        Vocabulary(SPECIAL).decode([0, 2])
    with pytest.raises(ValueError, match=r"ids\[0\]=-1"):
        Vocabulary(SPECIAL).decode([-1])


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"unknown": "<eos>"}, ValueError, "must differ.*unknown='<eos>', end='<eos>'"),
        ({"end": "<unk>"}, ValueError, "must differ.*unknown='<unk>', end='<unk>'"),
        ({"unknown": "not known"}, ValueError, "without white space.*unknown='not known'"),
        ({"end": "the end"}, ValueError, "without white space.*end='the end'"),
        ({"end": ""}, ValueError, "nonempty.*end=''"),
        ({"unknown": "\ud800"}, ValueError, r"UTF-8.*unknown='\\ud800'"),
        ({"unknown": 7}, TypeError, r"a string.*unknown=7 \(of type int\)"),
        ({"end": ["a"]}, TypeError, r"a string.*end=\['a'\] \(of type list\)"),
        ({"min_count": 0}, ValueError, "min_count=0"),
        ({"max_size": 2}, ValueError, "max_size=2"),
        ({"max_entries": 2}, ValueError, "max_entries=2"),
    ],
)
def test_arguments_are_checked_before_lines_are_read(options, kind, message):
    lines = iter(["a b"])
    with pytest.raises(kind, match=message):
        Vocabulary.from_lines(lines, **options)
    assert list(lines) == ["a b"]


def test_fingerprint_is_of_what_encodes_text():
    vocabulary = Vocabulary([*SPECIAL, "a", "é"], [4, 3, 2, 1])
    assert vocabulary.fingerprint == Vocabulary([*SPECIAL, "a", "é"]).fingerprint
    others = [
        Vocabulary([*SPECIAL, "é", "a"]),
        Vocabulary([*SPECIAL, "a"]),
        Vocabulary([*SPECIAL, "a", "é"], end="a"),
        Vocabulary([*SPECIAL, "a", "é"], unknown="a"),
    ]
    assert len({vocabulary.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_load_takes_a_byte_order_mark(tmp_path):
    path = tmp_path / "words.txt"
    path.write_bytes("\ufeffthe\n<eos>\n<unk>\n".encode())
    assert Vocabulary.load(path).words == ("the", "<eos>", "<unk>")


def test_max_entries_does_not_count_the_special_words():
    lines = ["a b c <unk> <eos>", "a b <unk>"]
    assert Vocabulary.from_lines(lines, max_entries=3) == Vocabulary.from_lines(lines)


@settings(deadline=None)
@given(lines=st.lists(st.text(st.sampled_from("ab \t\n\x1c\x85\u2028\u3000é"))))
def test_long_lines_are_split_as_short_ones(lines):
    vocabulary = Vocabulary([*SPECIAL, "a", "b", "ab", "ba"])
    ids = vocabulary.encode_lines(lines)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary_module, "_LONG_LINE", 2)
        patch.setattr(vocabulary_module, "_WORDS_AT_ONCE", 2)
        assert vocabulary.encode_lines(lines).tolist() == ids.tolist()
        counted = Vocabulary.from_lines(["", *lines])
    assert counted == Vocabulary.from_lines(["", *lines])
    assert counted.counts.sum() == ids.size + 1


def test_a_long_line_takes_little_memory():
    line = " ".join(map(str, range(400_000)))
    tracemalloc.start()
    try:
        vocabulary = Vocabulary.from_lines([line], max_entries=1_000)
        vocabulary.encode_lines([line])
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_special_words_are_never_forgotten():
    lines = ["a b c d e f", "a <eos> g h <unk> i"]
    vocabulary = Vocabulary.from_lines(lines, max_entries=3)
    counted = np.bincount(vocabulary.encode_lines(lines), minlength=len(vocabulary))
    assert vocabulary.counts.tolist() == counted.tolist()


def test_a_byte_order_mark_that_is_no_first_one_is_kept(tmp_path):
    vocabulary = Vocabulary([*SPECIAL, "\ufeff", "\ufeffthe", "the"])
    vocabulary.save(tmp_path / "words.txt")
    assert Vocabulary.load(tmp_path / "words.txt") == vocabulary
    with pytest.raises(ValueError, match=r"byte order mark.*read_lines"):
        Vocabulary.from_lines(["\ufeffthe \ufeffthe \ufeffthe cat"])
