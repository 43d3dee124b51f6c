"""The two plots of a map: learnt against forgotten and against parameters. Matplotlib has its one door here."""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from imprint.errors import MissingPackage
from imprint.evaluation.trade_off import LEAST_LEARNT, MOST_PERPLEXITY, MOST_POINTS, Placed, Reading

RIVALS = {"full_context": "full context", "rag": "RAG", "untouched": "untouched base"}
"""Horizontal lines, and what they are called."""
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#8C564B")
"""Told apart by those who confuse colours, too (Okabe and Ito 2008), in order of the kinds."""
_MARKS = "osD^vPX*"
_AREAS = {"small": 34.0, "middle": 80.0, "large": 160.0}
_INK = {False: ("#1c1c1c", "#d9d9d9", "#ffffff", "#2e9e5b"), True: ("#e8e8e8", "#3d3f45", "#17181c", "#4fd08a")}
"""Text, grid, ground and goal, in light and in dark."""
_TICKS = (0.0, 0.01, 0.02, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


def check() -> None:
    """Raises MissingPackage where nothing can be drawn: to be called before hours are spent."""
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingPackage("The plots of a map need matplotlib. Install it with: pip install 'imprint[plots]'")


def learnt_against_forgotten(reading: Reading, rows: Sequence[Mapping[str, Any]], *, dark: bool = False) -> bytes:
    """A PNG: how much of the documents each adapter learnt, against what it made of general text and of suites."""
    texts = list(dict.fromkeys(name for p in reading.placed for name in p.rises))
    suites = list(dict.fromkeys(name for p in reading.placed for name in p.lost))
    panels: list[tuple[str, str]] = [*(("rises", t) for t in texts[-1:]), *(("lost", s) for s in suites[:1])]
    with _figure(max(1, len(panels)), dark) as (figure, axes):
        for axis, (what, name) in zip(axes, panels, strict=False):
            points = [(p, getattr(p, what)[name]) for p in reading.placed if name in getattr(p, what)]
            _scatter(axis, [(p, s.value, s.low, s.high) for p, s in points], reading, dark)
            _goal(axis, reading, MOST_PERPLEXITY if what == "rises" else MOST_POINTS, dark)
            if what == "rises":
                _shares(axis, [s.value for _, s in points], [s.high for _, s in points], [s.low for _, s in points])
                axis.set_xlabel(f"forgotten: rise of perplexity on {name}  →")
            else:
                axis.set_xlabel(f"forgotten: points lost on {name}  →")
        axes[0].set_ylabel("learnt: questions right, closed book  →")
        for i, axis in enumerate(axes):
            _rivals(axis, rows, dark, named=i == len(axes) - 1)
        _legend(figure, reading, "upper left is better; the green field is the goal", dark)
        return _png(figure)


def learnt_against_parameters(reading: Reading, rows: Sequence[Mapping[str, Any]], *, dark: bool = False) -> bytes:
    """A PNG: the same score against how many numbers were trained."""
    with _figure(1, dark) as (figure, axes):
        axis = axes[0]
        points = [(p, float(p.row["parameters"])) for p in reading.placed]
        _scatter(axis, [(p, x, x, x) for p, x in points], reading, dark)
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(lambda value, _: _count(value))
        axis.minorticks_off()
        if points:
            axis.set_xlim(min(x for _, x in points) / 2, max(x for _, x in points) * 2.5)
        axis.set_xlabel("trainable parameters")
        axis.set_ylabel("learnt: questions right, closed book  →")
        _rivals(axis, rows, dark, named=True)
        _legend(figure, reading, "further up for the same parameters is better", dark)
        return _png(figure)


def _count(value: float) -> str:
    """1, 10, 1k, 1M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


# --- parts ------------------------------------------------------------------------------------


@contextmanager
def _figure(panels: int, dark: bool) -> Iterator[tuple[Any, list[Any]]]:
    check()
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    ink, grid, ground, _ = _INK[dark]
    style: dict[Any, Any] = {
        "text.color": ink, "axes.labelcolor": ink, "xtick.color": ink, "ytick.color": ink, "axes.edgecolor": grid,
        "figure.facecolor": ground, "axes.facecolor": ground, "savefig.facecolor": ground, "grid.color": grid,
        "font.size": 11, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    }  # fmt: skip
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplots(1, panels, sharey=True, squeeze=False, figsize=(2.9 + 4.6 * panels, 5.4))
        for axis in axes[0]:
            axis.grid(True, linewidth=0.6)
            axis.set_axisbelow(True)
        try:
            yield figure, list(axes[0])
        finally:
            pyplot.close(figure)


def _scatter(axis: Any, points: Sequence[tuple[Placed, float, float, float]], reading: Reading, dark: bool) -> None:
    """One mark for each adapter, its intervals as thin lines, the sizes of a kind joined."""
    looks = _looks(reading, dark)
    for kind, (colour, mark) in looks.items():
        mine = [p for p in points if p[0].kind == kind]
        axis.plot(
            [x for _, x, _, _ in mine], [p.learnt.value for p, *_ in mine], color=colour, linewidth=1, alpha=0.45
        )
        for placed, x, low, high in mine:
            y = placed.learnt
            axis.plot([x, x], [y.low, y.high], color=colour, linewidth=1, alpha=0.55)
            axis.plot([low, high], [y.value, y.value], color=colour, linewidth=1, alpha=0.55)
            area = _AREAS.get(placed.size, 80.0)
            axis.scatter(
                [x], [y.value], s=area, color=colour, marker=mark, edgecolors=axis.get_facecolor(), zorder=3
            )
    top = max((p.learnt.high for p in reading.placed), default=1.0)
    axis.set_ylim(0, min(1.02, max(0.1, 1.12 * top + 0.02)))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")


def _looks(reading: Reading, dark: bool) -> dict[str, tuple[Any, str]]:
    """Colour and mark of each kind; on a dark ground a little paler."""
    from matplotlib.colors import to_rgb

    kinds = dict.fromkeys(p.kind for p in reading.placed)
    white = 0.3 if dark else 0.0
    colours = [tuple(white + (1 - white) * part for part in to_rgb(colour)) for colour in _COLOURS]
    return {k: (colours[i % len(colours)], _MARKS[i % len(_MARKS)]) for i, k in enumerate(kinds)}


def _goal(axis: Any, reading: Reading, most: float, dark: bool) -> None:
    """The corner in which an adapter will do."""
    if reading.best is not None and reading.best.learnt.value > 0:
        from matplotlib.patches import Rectangle

        bottom, far = LEAST_LEARNT * reading.best.learnt.value, 1e6
        colour = _INK[dark][3]
        corner = Rectangle((-far, bottom), most + far, far, color=colour, alpha=0.13, linewidth=0, zorder=0)
        axis.add_patch(corner)


def _shares(axis: Any, values: Sequence[float], highs: Sequence[float], lows: Sequence[float]) -> None:
    """An axis of shares that is even up to the goal and shrinks beyond: some kinds forget a hundred times more."""
    most, least = max([*values, *highs, 0.03]), min([*lows, *values, 0.0])
    axis.set_xscale("symlog", linthresh=MOST_PERPLEXITY, linscale=1.0)
    axis.set_xlim(min(-0.004, 1.3 * least), 1.35 * most)
    ticks = [t for t in _TICKS if t <= 1.35 * most]
    ticks = [-t for t in (0.3, 0.1, 0.02, 0.01) if -t >= 1.3 * least] + ticks
    axis.set_xticks(ticks, [f"{t:+.0%}" if t else "0" for t in ticks])
    axis.minorticks_off()


def _rivals(axis: Any, rows: Sequence[Mapping[str, Any]], dark: bool, *, named: bool) -> None:
    ink = _INK[dark][0]
    top = axis.get_ylim()[1]
    lines = [(r["learnt"]["score"], RIVALS[r["row"]]) for r in rows if r["row"] in RIVALS and "learnt" in r]
    top = max(top, *(1.06 * y for y, _ in lines)) if lines else top
    axis.set_ylim(-0.02 * top, min(1.04, top))  # marks at 0 are seen whole
    for y, _ in lines:
        axis.axhline(y, color=ink, linewidth=1, linestyle=(0, (5, 4)), alpha=0.55, zorder=1)
    if named:
        for y, (_, name) in zip(_apart([y for y, _ in lines], 0.05 * axis.get_ylim()[1]), lines, strict=True):
            axis.annotate(
                name, (1.0, y), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
                va="center", fontsize=9.5, color=ink, annotation_clip=False,
            )  # fmt: skip


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """The same heights, moved up where names would lie on each other."""
    placed = dict.fromkeys(range(len(heights)), 0.0)
    last = -math.inf
    for i in sorted(range(len(heights)), key=lambda i: heights[i]):
        last = placed[i] = max(heights[i], last + gap)
    return list(placed.values())


def _legend(figure: Any, reading: Reading, advice: str, dark: bool) -> None:
    from matplotlib.lines import Line2D

    looks = _looks(reading, dark)
    kinds = [
        Line2D([], [], color=c, marker=m, linestyle="", markersize=8, label=kind.replace("_", "-"))
        for kind, (c, m) in looks.items()
    ]
    sizes = [
        Line2D([], [], color="grey", marker="o", linestyle="", markersize=math.sqrt(area), label=name)
        for name, area in _AREAS.items()
        if any(p.size == name for p in reading.placed)
    ]
    a_line = 10 if figure.get_figwidth() > 9 else 5
    lines = math.ceil((len(kinds) + len(sizes)) / a_line)
    figure.legend(
        handles=[*kinds, *sizes], loc="upper center", ncols=a_line, frameon=False, fontsize=10,
        columnspacing=1.2, handletextpad=0.3, bbox_to_anchor=(0.5, 1.0),
    )  # fmt: skip
    figure.text(0.5, 0.012, f"{advice}; thin lines: 95 % intervals", fontsize=9.5, alpha=0.75, ha="center")
    figure.tight_layout(rect=(0, 0.03, 0.97, 0.99 - 0.045 * lines))


def _png(figure: Any) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=130, bbox_inches="tight", metadata={"Software": None})
    return out.getvalue()
