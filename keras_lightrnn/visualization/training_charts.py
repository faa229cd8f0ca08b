"""Charts of a training run as HTML with inline SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

# Title, unit of the horizontal axis, and the series: key and label.
_CHARTS = (
    (
        "Perplexity",
        "epoch",
        {"perplexity": "training", "val_perplexity": "validation"},
    ),
    (
        "Cost of the table",
        "round",
        {"reallocation_cost_before": "before", "reallocation_cost": "after"},
    ),
    (
        "Words moved",
        "round",
        {"reallocation_moved": "words"},
    ),
)
_WIDTH, _HEIGHT = 340, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 34
_NUM_TICKS = 4


def make_training_charts(history: Any) -> str:
    """Return HTML with charts of perplexity by epoch and of the cost of the table by round.

    Args:
        history: The `History` that `fit` returned, a `ReallocationCallback`, or the attribute
            `history` of one of them.

    Raises:
        TypeError: if `history` has another type.
        ValueError: if it has none of the values that the charts show.

    Example:

    >>> make_training_charts({"perplexity": [90.0, 70.0]}).count("<svg")
    1
    """
    records = _read_history(history)
    shown = {key for _, _, labels in _CHARTS for key in labels}  # other values need not be numbers
    values = {name: list(map(float, records[name])) for name in shown & records.keys()}
    charts = []
    for title, unit, labels in _CHARTS:
        series = {label: values[key] for key, label in labels.items() if values.get(key)}
        if series:
            charts.append(_make_figure(title, unit, series))
    if not charts:
        raise ValueError(
            f"`history` must have some of {sorted(shown)}. Received: one with {sorted(records)}. "
            "Give the history that `fit` returned, or a `ReallocationCallback` after a round."
        )
    return "\n".join(charts)


def _read_history(history: Any) -> dict[str, Sequence[Any]]:
    records = getattr(history, "history", history)
    if isinstance(records, Mapping):
        return dict(records)
    if isinstance(records, Sequence) and all(isinstance(record, Mapping) for record in records):
        names = dict.fromkeys(name for record in records for name in record)
        return {
            f"reallocation_{name}": [record.get(name, math.nan) for record in records]
            for name in names
        }
    raise TypeError(
        "`history` must be the `History` that `fit` returned, a `ReallocationCallback`, or the "
        f"`history` of one of them. Received: {history!r} (of type {type(history).__name__})."
    )


def _make_figure(title: str, unit: str, series: Mapping[str, Sequence[float]]) -> str:
    keys = "".join(
        f'<span class="key series{place}">{escape(label)}</span>'
        for place, label in enumerate(series)
        if len(series) > 1
    )
    head = "".join(f"<th scope='col'>{escape(label)}</th>" for label in series)
    rows = "".join(
        f"<tr><th scope='row'>{number}</th>"
        + "".join(
            f"<td>{_format(values[number - 1]) if number <= len(values) else ''}</td>"
            for values in series.values()
        )
        + "</tr>"
        for number in range(1, max(map(len, series.values())) + 1)
    )
    return (
        f'<figure class="chart"><figcaption>{escape(title)} <span class="keys">{keys}</span>'
        f"</figcaption>{_draw(title, unit, series)}"
        f"<details><summary>Figures</summary><table><thead><tr><th scope='col'>{unit}</th>{head}"
        f"</tr></thead><tbody>{rows}</tbody></table></details></figure>"
    )


def _draw(title: str, unit: str, series: Mapping[str, Sequence[float]]) -> str:
    """Return the SVG of the lines, with axes. Values that are not finite leave a gap."""
    finite = [value for values in series.values() for value in values if math.isfinite(value)]
    ticks, decimals = _choose_ticks(min(finite, default=0.0), max(finite, default=1.0))
    last = max(map(len, series.values()))

    def x(number: float) -> float:
        share = (number - 1) / (last - 1) if last > 1 else 0.5
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(value: float) -> float:
        share = (value - ticks[0]) / (ticks[-1] - ticks[0])
        return round(_HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM), 1)

    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)} by {unit}">'
    ]
    for tick in ticks:
        parts.append(
            f'<path class="grid" d="M{_LEFT} {y(tick)}H{_WIDTH - _RIGHT}"/>'
            f'<text x="{_LEFT - 6}" y="{y(tick) + 4}" text-anchor="end">'
            f"{_format(tick, decimals)}</text>"
        )
    step = -(-last // 8)
    for number in range(1, last + 1, step):
        parts.append(
            f'<text x="{x(number)}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{number}'
            "</text>"
        )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 2}" text-anchor="middle">{unit}</text>')
    for place, (label, values) in enumerate(series.items()):
        points = [(number, value) for number, value in enumerate(values, 1) if math.isfinite(value)]
        path = ""
        before = -1
        for number, value in points:
            path += f"{'L' if number == before + 1 else 'M'}{x(number)} {y(value)}"
            before = number
        parts.append(f'<g class="series{place}"><path d="{path}"/>')
        parts += [
            f'<circle cx="{x(number)}" cy="{y(value)}" r="3"><title>{unit} {number}, '
            f"{escape(label)}: {_format(value)}</title></circle>"
            for number, value in points
        ]
        parts.append("</g>")
    return "".join([*parts, "</svg>"])


def _choose_ticks(least: float, greatest: float) -> tuple[list[float], int]:
    """Return equidistant round numbers that enclose both values, and the decimals they need."""
    size = max(abs(least), abs(greatest))
    spread = greatest - least
    if spread <= 1e-9 * size or size < 1e-300:  # only rounding
        spread = size if size >= 1e-300 else 1.0
    power = 10.0 ** math.floor(math.log10(spread / _NUM_TICKS))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m * _NUM_TICKS >= spread)
    first = math.floor(least / step)
    past = max(math.ceil(greatest / step), first + 1)
    # Steps of 0.25 need one more than steps of 0.2.
    decimals = next(n for n in range(400) if math.isclose(step * 10**n, round(step * 10**n)))
    return [tick * step for tick in range(first, past + 1)], decimals


def _format(value: float, decimals: int | None = None) -> str:
    if not math.isfinite(value):
        return "–"
    if decimals is not None:
        text = f"{value:,.{decimals}f}"
    elif value == round(value):
        text = f"{value:,.0f}"
    else:
        text = f"{value:,.1f}" if abs(value) >= 100 else f"{value:.5g}"
    return text.replace("-", "−")
