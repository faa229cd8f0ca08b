import html.parser
import json
import shutil
import subprocess

import numpy as np
import pytest

from keras_lightrnn import Allocation, WordTable
from keras_lightrnn.data import Vocabulary
from keras_lightrnn.visualization import export_table_page

ALLOCATION = Allocation([4, 0, 3, 1, 5], num_rows=2, num_columns=3)
WORDS = ["<eos>", "<unk>", "a", "b", "c"]
ODD_WORDS = [
    "</script><script>alert(1)</script>",
    "<!--",
    '"\\\n\u2028',
    "{{title}}{{data}}",
    "שלום\udc80",
]


class Reader(html.parser.HTMLParser):
    """Collects what the tests ask of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.texts = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        if self.tags:
            tag, attributes = self.tags[-1]
            self.texts.setdefault(attributes.get("id", tag), data)


def export(tmp_path, *args, **kwargs):
    path = tmp_path / "table.html"
    export_table_page(*args[:1], path, *args[1:], **kwargs)
    return path.read_text("utf-8")


def read_contents(page):
    return json.loads(Reader(page).texts["data"])


@pytest.mark.parametrize("size", [5, 1_000])
def test_contents_are_the_allocation(tmp_path, size):
    allocation = Allocation.random(size, seed=0)
    words = [f"w{word}" for word in range(size)]
    counts = np.arange(size)[::-1]
    contents = read_contents(export(tmp_path, allocation, words, counts))
    [table] = contents["tables"]
    assert Allocation(table["cells"], table["rows"], table["columns"]) == allocation
    assert contents["words"] == words
    assert contents["counts"] == counts.tolist()


def test_counts_of_the_vocabulary(tmp_path):
    vocabulary = Vocabulary(WORDS, [5, 4, 3, 2, 1])
    assert read_contents(export(tmp_path, ALLOCATION, vocabulary))["counts"] == [5, 4, 3, 2, 1]
    given = export(tmp_path, ALLOCATION, vocabulary, [1, 1, 1, 1, 0.5])
    assert read_contents(given)["counts"] == [1, 1, 1, 1, 0.5]
    assert read_contents(export(tmp_path, ALLOCATION, Vocabulary(WORDS)))["counts"] is None


def test_words_cannot_leave_the_data(tmp_path):
    plain = export(tmp_path, ALLOCATION, WORDS)
    page = export(tmp_path, ALLOCATION, ODD_WORDS)
    assert Reader(page).tags == Reader(plain).tags
    assert "alert(1)</script>" not in page
    assert read_contents(page)["words"] == ODD_WORDS


def test_title_is_text(tmp_path):
    title = '<b>"R&D" {{data}} {{charts}}'
    page = export(tmp_path, ALLOCATION, WORDS, title=title)
    reader = Reader(page)
    assert "b" not in [tag for tag, _ in reader.tags]
    assert reader.texts["title"] == title
    assert reader.texts["h1"] == title
    assert page.count('"cells":') == 1


def test_one_file_that_asks_for_nothing(tmp_path):
    page = export(tmp_path, ALLOCATION, WORDS, history={"perplexity": [9.0, 8.0]})
    assert "://" not in page
    assert "@import" not in page
    assert "url(" not in page
    for tag, attributes in Reader(page).tags:
        assert tag not in ("link", "img", "iframe", "object", "base")
        assert not {"src", "href", "action"} & set(attributes)
    assert "default-src 'none'" in page
    assert [path.name for path in tmp_path.iterdir()] == ["table.html"]


def test_charts_only_with_a_history(tmp_path):
    assert "<svg" not in export(tmp_path, ALLOCATION, WORDS)
    page = export(tmp_path, ALLOCATION, WORDS, history={"perplexity": [9.0, 8.0]})
    assert page.count("<svg") == 1
    assert "{{" not in page


def test_word_table(tmp_path):
    assert export(tmp_path, WordTable(ALLOCATION), WORDS) == export(tmp_path, ALLOCATION, WORDS)


def test_several_tables(tmp_path):
    other = Allocation([0, 1, 2, 3, 4], num_rows=5, num_columns=1)
    contents = read_contents(export(tmp_path, [WordTable(ALLOCATION), other], WORDS))
    tables = [Allocation(x["cells"], x["rows"], x["columns"]) for x in contents["tables"]]
    assert tables == [ALLOCATION, other]
    assert contents["words"] == WORDS


def test_bytes_a_word(tmp_path):
    size = 250_000
    words = [f"word{word:06}" for word in range(size)]
    page = export(tmp_path, Allocation.by_frequency(size), words, np.arange(size)[::-1])
    assert len(page) < 30 * size
    assert len(read_contents(page)["words"]) == size


@pytest.mark.parametrize(
    ("args", "options", "kind", "message"),
    [
        ((np.arange(5), WORDS), {}, TypeError, "of type ndarray"),
        (([], WORDS), {}, ValueError, "0 tables"),
        (([ALLOCATION, Allocation([0])], WORDS), {}, ValueError, r"2 tables, of \[5, 1\] words"),
        (([ALLOCATION, 5], WORDS), {}, TypeError, "of type int"),
        ((ALLOCATION, WORDS[:4]), {}, ValueError, "4 words, for a table of 5 words"),
        ((ALLOCATION, "abcde"), {}, TypeError, "of type str"),
        ((ALLOCATION, 5), {}, TypeError, "of type int"),
        ((ALLOCATION, [*WORDS[:4], 7]), {}, TypeError, r"words\[4\]=7"),
        ((ALLOCATION, WORDS, [1, 2]), {}, ValueError, r"counts.shape=\(2,\)"),
        ((ALLOCATION, WORDS), {"history": {}}, ValueError, "'perplexity'"),
    ],
)
def test_bad_input(tmp_path, args, options, kind, message):
    with pytest.raises(kind, match=message):
        export(tmp_path, *args, **options)
    assert list(tmp_path.iterdir()) == []


def show(tmp_path):
    """Return the page in a browser, after its scripts."""
    process = subprocess.run(
        [
            *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1300,900"),
            *("--virtual-time-budget=3000", "--dump-dom", f"file://{tmp_path / 'table.html'}"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return process.stdout


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium")
def test_a_browser_shows_rows_of_words(tmp_path):
    counts = [1, 0, 3, 2, 5_000]
    words = [*ODD_WORDS[:4], "<b>bold</b>"]
    export(tmp_path, ALLOCATION, words, counts, history={"perplexity": [9.0, 8.0]})
    shown = show(tmp_path)
    assert "5 words in a table of 2 rows and 3 columns, 1 cell empty; 5,006 words of text" in shown
    for part in ("Row 0", "Row 1", "99.96 %", "5,000", 'href="#training"'):
        assert part in shown
    lists = shown.partition('<ol id="groups">')[2].partition("</ol>")[0]
    assert lists.count("data-word=") == 5
    # The words of row 1, the most frequent first.
    order = [lists.index(f'data-word="{word}"') for word in (4, 2, 0)]
    assert order == sorted(order)
    assert "&lt;b&gt;bold&lt;/b&gt;" in lists


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium")
def test_a_browser_shows_a_tab_for_each_table(tmp_path):
    other = Allocation([0, 1, 2, 3, 4], num_rows=5, num_columns=1)
    page = export(tmp_path, [ALLOCATION, other], WORDS, [5, 4, 3, 2, 1])
    assert "Row 4" not in show(tmp_path)
    # A word is selected in the first table, then the tab of the second.
    clicks = 'choose(cells[4]); document.querySelectorAll("[name=table]")[1].click();'
    page = page.replace("</script>\n</body>", f"{clicks}</script></body>")
    (tmp_path / "table.html").write_text(page, "utf-8")
    shown = show(tmp_path)
    assert "Table 0</label>" in shown
    assert "5 words in a table of 5 rows and 1 column; 15 words of text" in shown
    assert "row 4, column 0" in shown.partition('id="place"')[2].partition("</output>")[0]
