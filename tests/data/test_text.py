import gzip

import pytest

from keras_lightrnn.data import read_lines

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
    with pytest.raises(ValueError, match=r"half\.gz.*damaged"):
        list(read_lines(tmp_path / "half.gz"))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_byte_order_mark_is_no_part_of_a_word(tmp_path, pack):
    path = tmp_path / "text.txt"
    path.write_bytes(pack("\ufeffthe cat\n\ufeffsat\n".encode()))
    assert list(read_lines(path)) == ["the cat", "\ufeffsat"]
