"""The plots of a certificate as SVG, drawn by ourselves so that they take the page's colours in light and dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from imprint.interfaces.page import text as _text

Row = Mapping[str, Any]

_LABEL, _WIDTH, _LINE = 190, 560, 26
_PANEL_W, _PANEL_H = 420, 250
_LEFT, _TOP, _BOTTOM = 58, 20, 44


def shares(rows: Sequence[tuple[str, Row, bool]]) -> str:
    """Shares with their intervals, one line each; a marked one stands out."""
    rows = [row for row in rows if row[1]["n"]]
    height = _LINE * len(rows) + 30
    out = [_opened(_LABEL + _WIDTH + 60, height, "shares right, with 95 % intervals")]
    for tick in range(0, 101, 20):
        x = _LABEL + _WIDTH * tick / 100
        out.append(f'<line class="grid" x1="{x:.1f}" y1="4" x2="{x:.1f}" y2="{height - 22}"/>')
        out.append(f'<text class="soft" x="{x:.1f}" y="{height - 6}" text-anchor="middle">{tick} %</text>')
    for i, (name, told, marked) in enumerate(rows):
        y = 4 + _LINE * i + _LINE / 2
        look = "c0" if marked else "c4"
        value, low, high = (_LABEL + _WIDTH * told[key] for key in ("value", "low", "high"))
        out.append(f'<text x="{_LABEL - 8}" y="{y + 4:.1f}" text-anchor="end">{_text(name)}</text>')
        out.append(
            f'<line class="{look}" stroke-width="2" x1="{low:.1f}" y1="{y:.1f}" x2="{high:.1f}" y2="{y:.1f}"/>'
        )
        out.append(f'<circle class="{look}" cx="{value:.1f}" cy="{y:.1f}" r="5"/>')
    return "".join([*out, "</svg>"])


def calibration(bins: Sequence[Row]) -> str:
    """What was said of how likely answers are right, beside what came true; on the dashed line both are one."""
    left, right, bottom = _LEFT, _LEFT + _PANEL_W, _TOP + _PANEL_H
    out = [_opened(right + 30, bottom + _BOTTOM, "calibration: share right by the probability that was said")]
    out.append(f'<text x="{left}" y="13">share that is right</text>')
    for tick in range(0, 101, 20):
        x, y = left + _PANEL_W * tick / 100, _y(tick / 100, 1)
        out.append(f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        out.append(f'<text class="soft" x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{tick} %</text>')
        out.append(f'<text class="soft" x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{tick} %</text>')
    middle = left + _PANEL_W / 2
    out.append(f'<text class="soft" x="{middle}" y="{bottom + 35}" text-anchor="middle">said to be right</text>')
    ends = f'x1="{left}" y1="{bottom}" x2="{right}" y2="{_TOP}"'
    out.append(f'<line class="axis" stroke-dasharray="6 4" {ends}/>')
    for each in bins:
        x, told = left + _PANEL_W * each["said"], each["right"]
        value, low, high = (_y(told[key], 1) for key in ("value", "low", "high"))
        out.append(f'<line class="c0" stroke-width="2" x1="{x:.1f}" y1="{low:.1f}" x2="{x:.1f}" y2="{high:.1f}"/>')
        out.append(f'<circle class="c0" cx="{x:.1f}" cy="{value:.1f}" r="5"/>')
    return "".join([*out, "</svg>"])


def rot(rows: Sequence[Row], beside: Sequence[Row], says: Callable[[str], str]) -> str:
    """Share right, and seconds of one answer, by tokens of the text; beside them, dashed, who reads little."""
    lengths = sorted({r["length"] for r in rows if r["length"]})
    names = list(dict.fromkeys(r["system"] for r in [*rows, *beside]))
    looks = {name: f"c{i % 5}" for i, name in enumerate(names)}
    slow = max([r["seconds_alone"] for r in [*rows, *beside]] + [1e-3])
    width = 2 * (_PANEL_W + _LEFT) + 30
    height = _PANEL_H + _TOP + _BOTTOM + 22 * math.ceil(len(names) / 3)
    out = [_opened(width, height, "context rot: share right and seconds by tokens of text")]
    for panel, (heading, value, top, form) in enumerate(
        [
            ("right", lambda r: r["right"]["value"], 1.0, lambda v: f"{v:.0%}"),
            ("seconds of one answer", lambda r: r["seconds_alone"], 1.05 * slow, lambda v: f"{v:.3g}"),
        ]
    ):
        left = _LEFT + panel * (_PANEL_W + _LEFT)
        out += _panel(left, heading, lengths, top, form)
        for name in names:
            mine = sorted((r for r in rows if r["system"] == name), key=lambda r: r["length"])
            points = [(_x(left, r["length"], lengths), _y(value(r), top)) for r in mine if value(r) is not None]
            if points:
                path = " ".join(f"{'L' if i else 'M'}{x:.1f} {y:.1f}" for i, (x, y) in enumerate(points))
                out.append(f'<path class="{looks[name]}" stroke-width="2" d="{path}"/>')
                out += [f'<circle class="{looks[name]}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x, y in points]
        for r in (r for r in beside if value(r) is not None):
            y = _y(value(r), top)
            out.append(
                f'<line class="{looks[r["system"]]}" stroke-dasharray="6 4" stroke-width="2" '
                f'x1="{left}" y1="{y:.1f}" x2="{left + _PANEL_W}" y2="{y:.1f}"/>'
            )
    return "".join([*out, *_legend(names, looks, says), "</svg>"])


def _panel(
    left: float, heading: str, lengths: Sequence[int], top: float, form: Callable[[float], str]
) -> list[str]:
    """Grid, axes and their words."""
    bottom = _TOP + _PANEL_H
    out = [f'<text x="{left}" y="13">{_text(heading)}</text>']
    for part in (0, 0.25, 0.5, 0.75, 1):
        y = _y(part * top, top)
        out.append(f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{left + _PANEL_W}" y2="{y:.1f}"/>')
        out.append(f'<text class="soft" x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{form(part * top)}</text>')
    for length in (0, *lengths):
        x = _x(left, length, lengths)
        name = _tokens(length) if length else "focused"
        out.append(f'<text class="soft" x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{name}</text>')
    middle = left + _PANEL_W / 2
    return [*out, f'<text class="soft" x="{middle}" y="{bottom + 35}" text-anchor="middle">tokens of text</text>']


def _legend(names: Sequence[str], looks: Mapping[str, str], says: Callable[[str], str]) -> list[str]:
    out = []
    for i, name in enumerate(names):
        x, y = _LEFT + 300 * (i % 3), _TOP + _PANEL_H + _BOTTOM + 14 + 22 * (i // 3)
        out.append(f'<circle class="{looks[name]}" cx="{x}" cy="{y - 4}" r="5"/>')
        out.append(f'<text x="{x + 11}" y="{y}">{_text(says(name))}</text>')
    return out


def _x(left: float, length: int, lengths: Sequence[int]) -> float:
    """Focused stands at the left, then each length by its logarithm."""
    if not length:
        return left + 30
    if len(lengths) < 2:
        return left + _PANEL_W * 0.6
    part = math.log(length / lengths[0]) / math.log(lengths[-1] / lengths[0])
    return left + 110 + (_PANEL_W - 135) * part


def _y(value: float, top: float) -> float:
    return _TOP + _PANEL_H * (1 - value / top)


def _tokens(length: int) -> str:
    return f"{length / 1024:.3g}k" if length >= 1024 else str(length)


def _opened(width: float, height: float, told: str) -> str:
    return f'<svg viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" role="img" aria-label="{_text(told)}">'
