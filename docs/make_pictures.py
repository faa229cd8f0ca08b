"""Draw the pictures of the documentation into `docs/pictures`: `python docs/make_pictures.py`.

Needs `pip install -e ".[plots]"` and two minutes: the tables are made from the built-in text. The
charts show tables of the pages in `docs/results`. Each chart names its rows in its description, so
that a test can tell whether it shows the present ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyArrowPatch, Rectangle

import keras_lightrnn.datasets  # noqa: F401 (registers python_docstrings)
from keras_lightrnn import Allocation
from keras_lightrnn.data import Vocabulary, from_tfds
from keras_lightrnn.visualization import export_table_page

DOCS = Path(__file__).parent
PICTURES = DOCS / "pictures"
BLUE, ORANGE, GRAY, DARK = "#3f51b5", "#f57c00", "#9e9e9e", "#263238"
PALE_BLUE, PALE_ORANGE = "#e8eaf6", "#fff3e0"
NAMES = (
    "words_in_table",
    "two_softmaxes",
    "results",
    "parameters",
    "equal_time",
    "reallocation",
    "table",
)

mpl.rcParams.update(
    {
        "axes.edgecolor": GRAY,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "figure.facecolor": "white",
        "font.size": 10,
        "svg.hashsalt": "keras_lightrnn",  # the same file for the same picture
        "text.color": DARK,
    }
)


def save(figure: Any, folder: Path, name: str, description: str | None = None) -> None:
    path = folder / f"{name}.svg"
    metadata = {"Date": None, "Creator": None, "Description": description}
    figure.savefig(path, bbox_inches="tight", metadata=metadata)
    plt.close(figure)
    # Matplotlib ends lines of paths with spaces.
    lines = [line.rstrip() for line in path.read_text("utf-8").splitlines()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


class ResultsPage:
    """The tables of a page in `docs/results`, and the rows that were taken from them.

    Args:
        name: String, the file name without its ending.
    """

    def __init__(self, name: str) -> None:
        self.path = DOCS / "results" / f"{name}.md"
        self.lines = self.path.read_text("utf-8").splitlines()
        self.taken: list[str] = []

    def take(self, *header: str, rows: Sequence[str] | None = None) -> list[dict[str, str]]:
        """Return rows of the table with this header, as cells by column.

        Args:
            header: Strings, the names of all columns.
            rows: Strings, the first cells of the rows to return. `None` for all rows.
        """
        start = self.lines.index(f"| {' | '.join(header)} |") + 2
        found = {}
        for line in self.lines[start:]:
            if not line.startswith("|"):
                break
            line = line.replace("**", "")
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if rows is None or cells[0] in rows:
                found[line] = dict(zip(header, cells, strict=True))
        if rows is not None and [row[header[0]] for row in found.values()] != list(rows):
            raise ValueError(f"{self.path} must have the rows {rows}, in this order.")
        self.taken += found
        return list(found.values())

    def describe(self) -> str:
        """Return the name of the page and the rows taken, one a line."""
        return "\n".join([self.path.name, *self.taken])


def to_float(cell: str) -> float:
    return float(cell.replace(",", ""))


def make_table(size: int) -> tuple[Allocation, Vocabulary, np.ndarray]:
    """Return a table of the words of the built-in text, its vocabulary, and their counts."""
    stream, vocabulary = from_tfds("python_docstrings", "train", max_size=size)
    stream = stream[:500_000]
    allocation = Allocation.from_cooccurrence(stream, len(vocabulary))
    return allocation, vocabulary, np.bincount(stream, minlength=len(vocabulary))


def choose_part(
    scores: np.ndarray, row: int, column: int, num_rows: int, num_columns: int
) -> tuple[np.ndarray, np.ndarray]:
    """Choose rows and columns with high scores where they cross, `row` and `column` included."""

    def choose(sums: np.ndarray, included: int, number: int) -> np.ndarray:
        sums = sums.copy()
        sums[included] = np.inf
        return np.sort(np.argsort(-sums)[:number])

    rows = np.arange(len(scores))
    for _ in range(10):
        columns = choose(scores[rows].sum(0), column, num_columns)
        rows = choose(scores[:, columns].sum(1), row, num_rows)
    return rows, columns


def draw_words_in_table(
    folder: Path, allocation: Allocation, vocabulary: Vocabulary, counts: np.ndarray, word: str
) -> None:
    """Draw a part of a table around a word, whose row and column are marked."""
    chosen = vocabulary.words.index(word)
    words = np.full(allocation.num_cells, -1)
    words[allocation.cells] = np.arange(allocation.vocabulary_size)
    words = words.reshape(allocation.shape)
    row, column = allocation.rows[chosen], allocation.columns[chosen]
    # Frequent words that fit into a cell of the picture.
    fits = np.array([word.isalpha() and len(word) <= 11 for word in vocabulary.words])
    scores = np.append(np.where(fits, np.log1p(counts), -10), -20)[words]
    rows, columns = choose_part(scores, row, column, 9, 8)
    figure, axes = plt.subplots(figsize=(9.5, 3.6))
    for y, i in enumerate(rows):
        for x, j in enumerate(columns):
            color = PALE_BLUE if i == row else PALE_ORANGE if j == column else "white"
            if words[i, j] == chosen:
                color = "#ffe082"
            axes.add_patch(Rectangle((x, y), 1, 1, facecolor=color, edgecolor="#cfd8dc"))
            text = vocabulary.words[words[i, j]] if words[i, j] >= 0 else ""
            weight = "bold" if words[i, j] == chosen else "normal"
            axes.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=8, weight=weight)
        axes.text(-0.1, y + 0.5, f"row {i}", ha="right", va="center", color=GRAY, fontsize=8)
    for x, j in enumerate(columns):
        axes.text(x + 0.5, -0.15, f"column {j}", ha="center", va="bottom", color=GRAY, fontsize=8)
    y, x = list(rows).index(row), list(columns).index(column)
    right, bottom = len(columns), len(rows)
    axes.text(right + 0.1, y + 0.5, "one vector for the row", va="center", color=BLUE)
    axes.text(x + 0.5, bottom + 0.4, "one vector for the column", ha="center", color=ORANGE)
    axes.set(xlim=(-0.6, right + 2), ylim=(bottom + 0.6, -0.5))
    axes.axis("off")
    save(figure, folder, "words_in_table")


def draw_two_softmaxes(folder: Path) -> None:
    figure, axes = plt.subplots(figsize=(9, 3.1))
    rng = np.random.default_rng(3)

    def box(x: float, y: float, width: float, text: str, color: str) -> None:
        axes.add_patch(Rectangle((x, y), width, 0.9, facecolor=color, edgecolor=GRAY))
        axes.text(x + width / 2, y + 0.45, text, ha="center", va="center")

    def arrow(start: tuple[float, float], end: tuple[float, float]) -> None:
        style = {"arrowstyle": "-|>", "mutation_scale": 12, "color": DARK, "linewidth": 1}
        axes.add_patch(FancyArrowPatch(start, end, **style))

    def bars(x: float, y: float, width: float, number: int, marked: int, color: str) -> None:
        heights = rng.dirichlet(np.full(number, 0.6))
        heights = 0.15 + 0.85 * heights / heights.max()
        for k in range(number):
            shade = color if k == marked else "#cfd8dc"
            step = width / number
            axes.add_patch(Rectangle((x + k * step, y), 0.8 * step, heights[k], facecolor=shade))

    axes.text(0, 5.2, "One softmax", weight="bold")
    box(0, 3.6, 1.3, "state", PALE_BLUE)
    arrow((1.3, 4.05), (2.2, 4.05))
    bars(2.3, 3.6, 9.2, 184, 67, ORANGE)
    axes.text(11.7, 4.0, "250,000 words", va="center")
    axes.text(0, 2.6, "Two softmaxes", weight="bold")
    box(0, 1.0, 1.3, "state", PALE_BLUE)
    arrow((1.3, 1.45), (2.2, 1.45))
    bars(2.3, 1.0, 2.6, 26, 9, BLUE)
    axes.text(3.6, 0.55, "500 rows", ha="center", va="center")
    arrow((5.0, 1.45), (5.7, 1.45))
    box(5.7, 1.0, 2.3, "read the row", PALE_ORANGE)
    arrow((8.0, 1.45), (8.7, 1.45))
    bars(8.8, 1.0, 2.6, 26, 17, ORANGE)
    axes.text(10.1, 0.55, "500 columns", ha="center", va="center")
    axes.text(11.7, 1.4, "P(row) · P(column | row)", va="center")
    axes.set(xlim=(0, 15), ylim=(0.2, 5.6))
    axes.axis("off")
    save(figure, folder, "two_softmaxes")


def draw_results(folder: Path) -> None:
    """Draw the models of one layer and 5 epochs on Penn Treebank."""
    names = {
        "two half-steps a word": "LightRNN, published half-steps",
        "row reader": "row reader",
        "two tables, one component each": "row reader, two tables",
        "row reader, word vectors of 16": "row reader, word vectors",
        "two tables, word vectors of 16": "row reader, two tables, word vectors",
    }
    page = ResultsPage("language_models")
    columns = "parameters", "ms a step", "validation", "test"
    rows = page.take(
        "20 x 35 words a step", *columns, rows=["one layer of 200, 5 epochs: full softmax"]
    ) + page.take("model", *columns, rows=list(names))
    figure, all_axes = plt.subplots(1, 3, figsize=(9.5, 2.4), sharey=True)
    for axes, (column, title, unit, digits) in zip(
        all_axes,
        (
            ("test", "test perplexity", 1, 1),
            ("parameters", "million parameters", 1e6, 2),
            ("ms a step", "ms a step", 1, 1),
        ),
        strict=True,
    ):
        values = [to_float(row[column]) / unit for row in rows]
        labels = ["full softmax", *names.values()]
        axes.barh(labels, values, color=[GRAY] + [BLUE] * len(names), height=0.7)
        for place, value in enumerate(values):
            axes.text(value, place, f" {value:.{digits}f}", va="center", fontsize=8)
        axes.set_title(title, fontsize=10)
        axes.set_xlim(0, 1.2 * max(values))
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(left=False)
    all_axes[0].invert_yaxis()
    save(figure, folder, "results", page.describe())


def draw_parameters(folder: Path) -> None:
    """Draw test perplexity over parameters, of the models on Penn Treebank."""
    page = ResultsPage("language_models")
    columns = "parameters", "ms a step", "validation", "test"

    def take(*rows: str) -> list[dict[str, str]]:
        return page.take("model", *columns, rows=rows)

    one_layer = "row reader", "two tables, one component each", "four tables, one component each"
    with_vectors = [
        f"{tables}, word vectors of 16" for tables in ("row reader", "two tables", "four tables")
    ]
    best = page.take("model", *columns, "with a cache")
    full = page.take(
        "20 x 35 words a step",
        *columns,
        rows=[
            "one layer of 200, 5 epochs: full softmax",
            "two layers of 200, 13 epochs, dropout 0.3: full softmax",
        ],
    )
    kinds = [
        ("one layer, 5 epochs", BLUE, "o", take(*one_layer), "test"),
        ("the same, word vectors of 16", BLUE, "s", take(*with_vectors), "test"),
        ("two layers, 13 to 24 epochs, and averages", BLUE, "D", best, "test"),
        ("the same with a neural cache", ORANGE, "D", best, "with a cache"),
        ("published half-steps, one layer", DARK, "o", take("two half-steps a word"), "test"),
        ("full softmax, one layer and two", GRAY, "o", full, "test"),
    ]
    figure, axes = plt.subplots(figsize=(7.5, 3.6))
    for label, color, marker, rows, column in kinds:
        points: dict[float, float] = {}  # the lowest of the models of one size
        for row in rows:
            if row[column]:
                size = to_float(row["parameters"]) / 1e6
                points[size] = min(to_float(row[column]), points.get(size, np.inf))
        sizes, perplexities = zip(*sorted(points.items()), strict=True)
        axes.plot(sizes, perplexities, color=color, marker=marker, label=label, lw=0.8)
    axes.set(xlabel="million parameters", ylabel="test perplexity", xlim=(0, 5), ylim=(70, 160))
    axes.legend(frameon=False, fontsize=8, loc="upper right")
    save(figure, folder, "parameters", page.describe())


def draw_equal_time(folder: Path) -> None:
    """Draw test perplexity over CPU time, of the models of large vocabularies."""
    page = ResultsPage("large_vocabularies")
    models = {"two tables": BLUE, "sampled softmax": GRAY, "adaptive softmax": ORANGE}
    rows = page.take("text", "CPU minutes", *models)
    texts = list(dict.fromkeys(row["text"] for row in rows))
    figure, all_axes = plt.subplots(1, len(texts), figsize=(8.5, 3))
    for axes, text in zip(all_axes, texts, strict=True):
        for model, color in models.items():
            points = [
                (to_float(row["CPU minutes"]), to_float(row[model]))
                for row in rows
                if row["text"] == text and row[model]
            ]
            if points:
                axes.plot(*zip(*points, strict=True), color=color, marker="o", label=model)
        minutes = [to_float(row["CPU minutes"]) for row in rows if row["text"] == text]
        axes.set_xscale("log")
        axes.set_xticks(minutes, [f"{minute:g}" for minute in minutes])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.set(title=text, xlabel="CPU minutes on one core")
    all_axes[0].set_ylabel("test perplexity")
    all_axes[0].legend(frameon=False, fontsize=8)
    save(figure, folder, "equal_time", page.describe())


def draw_reallocation(folder: Path) -> None:
    """Draw what a round brings from a random and from a good table of Penn Treebank."""
    page = ResultsPage("reallocation")
    rows = page.take("first allocation", "reallocation", "as long as", "validation", "test")
    figure, axes = plt.subplots(figsize=(6, 2.6))
    places = np.arange(2)
    for shift, some, label, color in (
        (-0.18, rows[::2], "no round, as much time", GRAY),
        (0.18, rows[1::2], 'one round by "similarity"', BLUE),
    ):
        means, deviations = np.transpose(
            [[to_float(x) for x in row["test"].split(" ± ")] for row in some]
        )
        axes.barh(places + shift, means, 0.34, xerr=deviations, label=label, color=color)
        for place, mean, row in zip(places + shift, means + deviations, some, strict=True):
            axes.text(mean, place, f"  {row['test']}", va="center", fontsize=9)
    axes.set_yticks(places, [row["first allocation"].strip("`") for row in rows[::2]])
    axes.set_xlim(0, 250)
    axes.invert_yaxis()
    axes.set_xlabel("test perplexity, Penn Treebank, three seeds")
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.25), ncols=2, fontsize=9)
    save(figure, folder, "reallocation", page.describe())


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", default=NAMES, help=f"of {', '.join(NAMES)}")
    parser.add_argument("--output", type=Path, default=PICTURES, help="folder of the pictures")
    parser.add_argument("--word", default="returns", help="marked in the table")
    args = parser.parse_args(argv)
    if not set(args.names) <= set(NAMES):
        parser.error(f"names must be among {NAMES}, and are {args.names}")
    args.output.mkdir(parents=True, exist_ok=True)
    for draw in (
        draw_two_softmaxes,
        draw_results,
        draw_parameters,
        draw_equal_time,
        draw_reallocation,
    ):
        if draw.__name__.removeprefix("draw_") in args.names:
            draw(args.output)
    if "words_in_table" in args.names:
        draw_words_in_table(args.output, *make_table(10_000), args.word)
    if "table" in args.names:
        allocation, vocabulary, counts = make_table(2_500)
        export_table_page(allocation, args.output / "table.html", vocabulary, counts)


if __name__ == "__main__":
    main()
