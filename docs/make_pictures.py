"""Draw the pictures of the documentation into `docs/pictures`: `python docs/make_pictures.py`.

Needs `pip install -e ".[plots]"` and two minutes: the tables are made from the built-in text. The
charts repeat figures of `docs/results.md`; when a table there changes, change the figures here.
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

PICTURES = Path(__file__).parent / "pictures"
BLUE, ORANGE, GRAY, DARK = "#3f51b5", "#f57c00", "#9e9e9e", "#263238"
PALE_BLUE, PALE_ORANGE = "#e8eaf6", "#fff3e0"
NAMES = ("words_in_table", "two_softmaxes", "results", "parameters", "reallocation", "table")

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


def save(figure: Any, folder: Path, name: str) -> None:
    path = folder / f"{name}.svg"
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    # Matplotlib ends lines of paths with spaces.
    lines = [line.rstrip() for line in path.read_text("utf-8").splitlines()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


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
    """Draw the models of one layer and 5 epochs of `docs/results.md`."""
    names = [
        "full softmax",
        "LightRNN, published half-steps",
        "row reader",
        "row reader, two tables",
        "row reader, word vectors",
        "row reader, two tables, word vectors",
    ]
    columns = {
        "test perplexity": [119.2, 152.0, 131.1, 119.9, 111.0, 108.8],
        "million parameters": [4.331, 0.401, 0.526, 0.732, 0.693, 0.902],
        "ms a step": [124.3, 15.4, 25.2, 33.8, 30.0, 38.8],
    }
    colors = [GRAY] + [BLUE] * 5
    figure, all_axes = plt.subplots(1, 3, figsize=(9.5, 2.4), sharey=True)
    for axes, (title, values) in zip(all_axes, columns.items(), strict=True):
        axes.barh(names, values, color=colors, height=0.7)
        for place, value in enumerate(values):
            text = f"{value:.2f}" if title.startswith("million") else f"{value:.1f}"
            axes.text(value, place, f" {text}", va="center", fontsize=8)
        axes.set_title(title, fontsize=10)
        axes.set_xlim(0, 1.2 * max(values))
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(left=False)
    all_axes[0].invert_yaxis()
    save(figure, folder, "results")


def draw_parameters(folder: Path) -> None:
    """Draw test perplexity over parameters, of the models on Penn Treebank in `docs/results.md`."""
    kinds = [  # million parameters and test perplexity of each model
        ("one layer, 5 epochs", BLUE, "o", [(0.526, 131.1), (0.732, 119.9), (1.143, 116.3)]),
        (
            "the same, word vectors of 16",
            BLUE,
            "s",
            [(0.693, 111.0), (0.902, 108.8), (1.319, 107.6)],
        ),
        (
            "two layers, 13 to 24 epochs, and averages",
            BLUE,
            "D",
            [(1.222, 97.5), (1.619, 94.3), (1.954, 95.0), (2.966, 88.3), (3.237, 87.4)],
        ),
        (
            "the same with a neural cache",
            ORANGE,
            "D",
            [(1.619, 81.7), (1.954, 82.5), (2.966, 77.7), (3.237, 76.8)],
        ),
        ("published half-steps, one layer", DARK, "o", [(0.401, 152.0)]),
        ("full softmax, one layer and two", GRAY, "o", [(4.331, 119.2), (4.652, 133.5)]),
    ]
    figure, axes = plt.subplots(figsize=(7.5, 3.6))
    for label, color, marker, points in kinds:
        axes.plot(*zip(*points, strict=True), color=color, marker=marker, label=label, lw=0.8)
    axes.set(xlabel="million parameters", ylabel="test perplexity", xlim=(0, 5), ylim=(70, 160))
    axes.legend(frameon=False, fontsize=8, loc="upper right")
    save(figure, folder, "parameters")


def draw_reallocation(folder: Path) -> None:
    """Draw the first table of "Reallocation" in `docs/results.md`."""
    first = ["random", "from_cooccurrence"]
    without, with_round = [(208.1, 1.8), (150.7, 0.8)], [(175.7, 0.5), (150.0, 0.4)]
    figure, axes = plt.subplots(figsize=(6, 2.6))
    places = np.arange(2)
    for shift, values, label, color in (
        (-0.18, without, "no round, as much time", GRAY),
        (0.18, with_round, 'one round by "similarity"', BLUE),
    ):
        means, deviations = zip(*values, strict=True)
        axes.barh(places + shift, means, 0.34, xerr=deviations, label=label, color=color)
        for place, mean, deviation in zip(places + shift, means, deviations, strict=True):
            text = f"  {mean:.1f} ± {deviation:.1f}"
            axes.text(mean + deviation, place, text, va="center", fontsize=9)
    axes.set_yticks(places, first)
    axes.set_xlim(0, 250)
    axes.invert_yaxis()
    axes.set_xlabel("test perplexity, Penn Treebank, three seeds")
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.25), ncols=2, fontsize=9)
    save(figure, folder, "reallocation")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", default=NAMES, help=f"of {', '.join(NAMES)}")
    parser.add_argument("--output", type=Path, default=PICTURES, help="folder of the pictures")
    parser.add_argument("--word", default="returns", help="marked in the table")
    args = parser.parse_args(argv)
    if not set(args.names) <= set(NAMES):
        parser.error(f"names must be among {NAMES}, and are {args.names}")
    args.output.mkdir(parents=True, exist_ok=True)
    if "two_softmaxes" in args.names:
        draw_two_softmaxes(args.output)
    if "results" in args.names:
        draw_results(args.output)
    if "parameters" in args.names:
        draw_parameters(args.output)
    if "reallocation" in args.names:
        draw_reallocation(args.output)
    if "words_in_table" in args.names:
        draw_words_in_table(args.output, *make_table(10_000), args.word)
    if "table" in args.names:
        allocation, vocabulary, counts = make_table(2_500)
        export_table_page(allocation, args.output / "table.html", vocabulary, counts)


if __name__ == "__main__":
    main()
