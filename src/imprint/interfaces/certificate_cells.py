"""Values of a certificate as the cells and lines of its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from imprint.interfaces.page import text


def listed(lines: Sequence[str]) -> str:
    """Sentences, one under another."""
    return f'<ul class="summary">{"".join(f"<li>{text(line)}</li>" for line in lines)}</ul>'


def share(told: Mapping[str, Any]) -> str:
    """A share with its interval below it."""
    if not told.get("n", 1) or told["value"] is None:
        return "-"
    return f"{told['value']:.1%}<small>{100 * told['low']:.1f} to {100 * told['high']:.1f}</small>"


def told_share(told: Mapping[str, Any]) -> str:
    """In a sentence."""
    if not told["n"]:
        return "none"
    return f"{told['value']:.0%} of {told['n']} ({told['low']:.0%} to {told['high']:.0%})"


def points(told: Mapping[str, Any]) -> str:
    """A difference of shares in hundredths."""
    return signed(told, "")


def signed(told: Mapping[str, Any], unit: str) -> str:
    """The same with a unit after it."""
    if told["value"] is None:
        return "-"
    value, low, high = (100 * told[key] for key in ("value", "low", "high"))
    return f"{value:+.1f}{unit}<small>{low:+.1f} to {high:+.1f}</small>"


def interval(told: Mapping[str, Any]) -> str:
    """A value that is no share, with its interval below it."""
    if told["value"] is None:
        return "-"
    return f"{told['value']:.3g} {text(told.get('unit', ''))}<small>{told['low']:.3g} to {told['high']:.3g}</small>"


def number(value: float | None, form: str) -> str:
    """A value by itself."""
    return "-" if value is None else format(value, form)


def p_value(value: float | None) -> str:
    """How likely something is by chance alone."""
    return "-" if value is None else "&lt; 0.001" if value < 0.001 else f"{value:.3f}"
