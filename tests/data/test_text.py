import gzip
import os
import tempfile
import threading
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_lightrnn.data import Vocabulary, read_lines, text

TEXT = "the cat\n\nsät on\r\nthe mat"
LINES = ["the cat", "", "sät on", "the mat"]


def test_plain_and_gzip(tmp_path):
    (tmp_path / "plain.txt").write_bytes(TEXT.encode())
    (tmp_path / "packed.txt.gz").write_bytes(gzip.compress(TEXT.encode()))
    (tmp_path / "misnamed.txt").write_bytes(gzip.compress(TEXT.encode()))
    for path in tmp_path.iterdir():
        assert list(read_lines(path)) == LINES
        assert list(read_lines(str(path))) == LINES


def test_missing_file_is_noticed_by_the_call(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.txt"):
        read_lines(tmp_path / "nothing.txt")


def test_empty_file_is_noticed_by_the_call(tmp_path):
    (tmp_path / "empty.txt").touch()
    with pytest.raises(ValueError, match=r"empty\.txt.*0 bytes"):
        read_lines(tmp_path / "empty.txt")


@pytest.mark.parametrize(
    "content", [b"\n \n\n", gzip.compress(b"", mtime=0), gzip.compress(b"\n \n\n", mtime=0)]
)
def test_blank_file(tmp_path, content):
    (tmp_path / "blank.txt").write_bytes(content)
    with pytest.raises(ValueError, match=r"blank\.txt.* lines, all of them blank"):
        list(read_lines(tmp_path / "blank.txt"))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_not_utf8_names_line_and_byte(tmp_path, pack):
    (tmp_path / "latin.txt").write_bytes(pack("a\nb\ncafé au lait\n".encode("latin-1")))
    lines = read_lines(tmp_path / "latin.txt")
    assert [next(lines), next(lines)] == ["a", "b"]
    with pytest.raises(ValueError, match=r"latin\.txt.*line 3 has byte 0xe9 at offset 7"):
        next(lines)


def test_damaged_gzip(tmp_path):
    (tmp_path / "half.gz").write_bytes(gzip.compress(TEXT.encode() * 100)[:-12])
    with pytest.raises(ValueError, match=r"gzip file must be complete.*half\.gz.*damaged"):
        list(read_lines(tmp_path / "half.gz"))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_byte_order_mark_is_no_part_of_a_word(tmp_path, pack):
    path = tmp_path / "text.txt"
    path.write_bytes(pack("\ufeffthe cat\n\ufeffsat\n".encode()))
    assert list(read_lines(path)) == ["the cat", "\ufeffsat"]


def test_the_offset_of_a_wrong_byte_counts_the_byte_order_mark(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(b"\xef\xbb\xbfab\xff\n")
    with pytest.raises(ValueError, match="line 1 has byte 0xff at offset 5"):
        list(read_lines(path))


@settings(deadline=None, max_examples=200)
@given(
    content=st.text(st.sampled_from("\r\n\t a\u2028é"), min_size=1).map("x".__add__),
    chunk_size=st.integers(1, 9),
    pack=st.sampled_from([bytes, gzip.compress]),
)
def test_lines_end_where_open_ends_them(content, chunk_size, pack):
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "_CHUNK_SIZE", chunk_size)
        path = os.path.join(directory, "text.txt")
        with open(path, "wb") as file:
            file.write(pack(content.encode()))
        lines = list(read_lines(path))
        assert text.LINE_END.split(content) == [*lines, *[""] * content.endswith(("\r", "\n"))]
        with open(path, "wb") as file:
            file.write(content.encode())
        with open(path, encoding="utf-8") as file:
            assert lines == [line.removesuffix("\n") for line in file]


def test_a_vocabulary_file_has_the_same_line_ends(tmp_path):
    path = tmp_path / "words.txt"
    for end in (b"\n", b"\r\n", b"\r"):
        path.write_bytes(end.join([b"<eos>", b"<unk>", b"a", b""]))
        assert Vocabulary.load(path).words == ("<eos>", "<unk>", "a")
        path.write_bytes(end.join([b"\xef\xbb\xbf<eos>", b"<unk>", b"\xff"]))
        with pytest.raises(ValueError, match="line 3 has byte 0xff at offset"):
            Vocabulary.load(path)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("num_lines", [1, 50_000])
@pytest.mark.parametrize("first", [1, 1 << 20])
def test_a_pipe_is_read_once(pack, num_lines, first):
    """Whatever the writer delivers first, no line is lost."""
    lines = [f"line {number}" for number in range(num_lines)]
    data = pack("\n".join(lines).encode())
    reader, writer = os.pipe()

    def write():
        with os.fdopen(writer, "wb", buffering=0) as file:
            file.write(data[:first])
            for start in range(first, len(data), 4_096):
                file.write(data[start : start + 4_096])

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert list(read_lines(f"/dev/fd/{reader}")) == lines
    finally:
        os.close(reader)
        thread.join()


def test_an_empty_pipe_is_noticed_by_the_call():
    reader, writer = os.pipe()
    os.close(writer)
    try:
        with pytest.raises(ValueError, match="of 0 bytes"):
            read_lines(f"/dev/fd/{reader}")
    finally:
        os.close(reader)


@pytest.mark.parametrize("end", [b"", b"\n"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_line_without_end_takes_bounded_memory(tmp_path, pack, end):
    path = tmp_path / "long.txt"
    path.write_bytes(pack(b"a b\n" + bytes(50_000_000) + end))
    lines = read_lines(path, max_line_bytes=1_000_000)
    tracemalloc.start()
    try:
        assert next(lines) == "a b"
        after = " after decompression" * (pack is not bytes)
        with pytest.raises(ValueError, match=f"at most 1000000 bytes.*line 2 is longer{after}"):
            next(lines)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_a_line_may_be_as_long_as_the_limit(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(b"abcd\nabc\r\nabcde")
    assert list(read_lines(path, max_line_bytes=5)) == ["abcd", "abc", "abcde"]
    with pytest.raises(ValueError, match="line 1 is longer"):
        list(read_lines(path, max_line_bytes=4))
    with pytest.raises(ValueError, match="max_line_bytes=0"):
        read_lines(path, max_line_bytes=0)
