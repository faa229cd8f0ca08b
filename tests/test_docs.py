"""The documentation: its code runs, its site builds with all links, its pictures are there."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest
from scripts import ROOT, make_environment, run_python

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
CODE_BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def read_code(page: Path) -> str:
    """Return the Python blocks of a page, each on the lines where it stands."""
    text = page.read_text(encoding="utf-8")
    lines = [""] * text.count("\n")
    for match in CODE_BLOCK.finditer(text):
        start = text.count("\n", 0, match.start(1))
        block = match[1].splitlines()
        lines[start : start + len(block)] = block
    return "\n".join(lines)


PAGES_WITH_CODE = [page for page in PAGES if read_code(page).strip()]


@pytest.mark.usefixtures("early_slots", "no_xla")
@pytest.mark.parametrize("page", PAGES_WITH_CODE, ids=lambda page: str(page.relative_to(DOCS)))
def test_code_of_a_page_runs(page, tmp_path, monkeypatch):
    # The blocks of a page are one script.
    code = read_code(page)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(page), "exec"), {"__name__": "document"})


def test_there_are_pages_with_code():
    names = {page.relative_to(DOCS).as_posix() for page in PAGES_WITH_CODE}
    assert {"getting_started.md", "guides/drop_in.md", "concepts/table.md"} <= names
    assert len(names) > 15


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:\n")[2]
    listed = re.findall(r": (\S+\.md)$", navigation, re.MULTILINE)
    assert sorted(listed) == sorted(page.relative_to(DOCS).as_posix() for page in PAGES)


def test_pictures_are_those_of_the_script():
    script = (DOCS / "make_pictures.py").read_text("utf-8")
    names = re.findall(r'"(\w+)"', script.partition("\nNAMES = (")[2].partition(")")[0])
    pictures = {path.stem: path.stat().st_size for path in (DOCS / "pictures").iterdir()}
    assert sorted(pictures) == sorted(names)
    assert all(2_000 < size < 400_000 for size in pictures.values())


@pytest.mark.parametrize("name", ["results", "parameters", "equal_time", "reallocation"])
def test_a_chart_shows_the_present_rows_of_its_page(name):
    picture = (DOCS / "pictures" / f"{name}.svg").read_text("utf-8")
    description = re.search(r"<dc:description>(.*?)</dc:description>", picture, re.DOTALL)[1]
    page, *rows = html.unescape(description).strip().splitlines()
    lines = (DOCS / "results" / page).read_text("utf-8").replace("**", "").splitlines()
    assert len(rows) >= 4
    assert set(rows) <= set(lines), f"run `docs/make_pictures.py {name}`"


@pytest.mark.slow
def test_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason='the site needs `pip install -e ".[docs]"`')
    # A proxy that does not exist: nothing may be read from the network.
    environment = make_environment(
        NO_MKDOCS_2_WARNING="1", http_proxy="", https_proxy="localhost:9"
    )
    command = ["-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path]
    run_python(*command, environment=environment, timeout=600, cwd=ROOT)
    layers = (tmp_path / "api" / "layers.html").read_text("utf-8")
    assert "keras_lightrnn.layers.TwoComponentSoftmax" in layers
    pages = "".join(path.read_text("utf-8") for path in tmp_path.rglob("*.html"))
    assert not re.findall(r'(?:src|rel="stylesheet" href)="https?://', pages)
