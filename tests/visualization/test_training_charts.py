import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from keras_lightrnn import LightRNNModel
from keras_lightrnn.callbacks import ReallocationCallback
from keras_lightrnn.visualization.training_charts import make_training_charts

EPOCHS = {
    "loss": [6.0, 5.0, 4.5],
    "perplexity": [400.0, 150.5, 90.0],
    "val_perplexity": [300.0, 170.0, 120.0],
}
ROUNDS = [
    {"cost_before": -5.0, "cost": -6.0, "moved": 900.0, "gap": 1e-9},
    {"cost_before": -6.5, "cost": -7.0, "moved": 50.0, "gap": 1e-9},
]


def read_figures(html):
    """Return for each chart its title and the positions of its points, series by series."""
    figures = {}
    for figure in ElementTree.fromstring(f"<div>{html}</div>"):
        title = figure.find("figcaption").text.strip()
        figures[title] = [
            [(float(circle.get("cx")), float(circle.get("cy"))) for circle in group.iter("circle")]
            for group in figure.find("svg").iter("g")
        ]
    return figures


def read_table(html):
    return re.findall(r"<td>(.*?)</td>", html)


def test_points_lie_where_the_values_are():
    figures = read_figures(make_training_charts(EPOCHS))
    assert list(figures) == ["Perplexity"]
    for name, points in zip(("perplexity", "val_perplexity"), figures["Perplexity"], strict=True):
        x, y = np.transpose(points)
        assert np.diff(x) == pytest.approx(np.diff(x)[0], abs=0.2)
        # Height falls in proportion: one scale for both series.
        slope = np.diff(y) / np.diff(EPOCHS[name])
        assert slope == pytest.approx(slope[0], rel=0.02)
        assert slope[0] < 0
    (first, _, _), (other, _, _) = figures["Perplexity"]
    assert first[1] < other[1]  # 400 above 300
    assert first[0] == other[0]


def test_rounds_of_a_callback():
    html = make_training_charts(ROUNDS)
    assert list(read_figures(html)) == ["Cost of the table", "Words moved"]
    assert read_table(html) == ["−5", "−6", "−6.5", "−7", "900", "50"]
    in_logs = {f"reallocation_{name}": [record[name] for record in ROUNDS] for name in ROUNDS[0]}
    assert make_training_charts(in_logs) == html


def test_what_fit_returns_and_the_callback_itself():
    model = LightRNNModel(30, embedding_dim=4, units=4)
    model.compile("sgd")
    windows = np.random.default_rng(0).integers(30, size=(32, 6))
    callback = ReallocationCallback("likelihood", every="epoch", verbose=0)
    history = model.fit(windows, epochs=2, callbacks=[callback], verbose=0)
    html = make_training_charts(history)
    assert len(read_figures(html)) == 3
    assert html == make_training_charts(history.history)
    assert make_training_charts(callback) == make_training_charts(callback.history)
    assert make_training_charts(callback) in html


@pytest.mark.parametrize(
    "values",
    [
        [5.0],
        [5.0, 5.0],
        [5.0, 5.0 + 1e-15],
        [0.0, 0.0],
        [1e-320, 2e-320],
        [1e-7, 2e-7],
        [1e9, 3.0],
        [-6.5011, -6.5013],
    ],
)
def test_ticks_enclose_any_values(values):
    html = make_training_charts({"perplexity": values})
    ((points,),) = read_figures(html).values()
    assert len(points) == len(values)
    labels = re.findall(r'text-anchor="end">([^<]*)<', html)
    assert len(set(labels)) == len(labels)
    lines = [float(y) for y in re.findall(r'class="grid" d="M\d+ ([\d.]+)H', html)]
    assert len(lines) >= 2
    assert all(min(lines) <= y <= max(lines) for _, y in points)


def test_values_that_are_not_finite_leave_a_gap():
    html = make_training_charts({"perplexity": [9.0, math.nan, 7.0, math.inf, 5.0, 4.0]})
    ((points,),) = read_figures(html).values()
    assert len(points) == 4
    path = re.search(r'<g[^>]*><path d="([^"]*)"', html)[1]
    assert path.count("M") == 3
    assert path.count("L") == 1
    assert read_table(html) == ["9", "–", "7", "–", "5", "4"]
    assert "nan" not in html


def test_long_trainings_have_few_ticks():
    html = make_training_charts({"perplexity": list(range(500, 0, -1))})
    numbers = re.findall(r'text-anchor="middle">(\d+)<', html)
    assert len(numbers) <= 8
    assert numbers[0] == "1"


@pytest.mark.parametrize("history", [{}, {"loss": [1.0]}, {"perplexity": []}, []])
def test_nothing_to_show(history):
    with pytest.raises(ValueError, match=r"'perplexity'.*'reallocation_cost'.*Received: one with"):
        make_training_charts(history)


@pytest.mark.parametrize("history", [3, "perplexity", [1.0, 2.0]])
def test_no_history(history):
    with pytest.raises(TypeError, match="Received:"):
        make_training_charts(history)


def test_what_is_not_shown_need_not_be_numbers():
    history = {"perplexity": [90.0, 70.0], "sample": ["the cat", None], "rates": [[1], [2]]}
    assert make_training_charts(history).count("<svg") == 1
