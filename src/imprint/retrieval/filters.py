"""Which passages may be found, by what is known of their documents."""

from __future__ import annotations

import datetime
import difflib
import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from imprint.errors import BadSetting
from imprint.types import Document, Passage


@dataclass(frozen=True, slots=True)
class Filter:
    """What a passage must be to be found: every field that is set must fit.

    In patterns * is anything and ? one letter; they fit the whole and do not mind capitals, and of several in one
    field one must fit."""

    source: tuple[str, ...] = ()
    """Where its document came from: 'policies/*.pdf'."""
    title: tuple[str, ...] = ()
    document: tuple[str, ...] = ()
    """Ids of documents."""
    heading: tuple[str, ...] = ()
    """Any one of the headings above it."""
    since: str | None = None
    until: str | None = None
    """First and last ISO date at which its document may have come into force. One without a date does not fit."""

    def __post_init__(self) -> None:
        for name in ("source", "title", "document", "heading"):
            value = getattr(self, name)
            if not isinstance(value, tuple) or not all(isinstance(pattern, str) for pattern in value):
                raise BadSetting(f"{name} of a filter is a tuple of patterns, such as ('{name}*',); got {value!r}.")
        for name in ("since", "until"):
            _check_date(name, getattr(self, name))

    @property
    def asks_documents(self) -> bool:
        """Whether passages alone cannot tell."""
        return bool(self.source or self.since or self.until)

    def lets_through(self, passage: Passage, document: Document | None = None) -> bool:
        """Whether the passage may be found. Without its document no source and no date fits."""
        source = document.source if document else ""
        valid_from = document.valid_from if document else None
        return (
            (not self.document or passage.document_id in self.document)
            and _fits(self.title, [passage.title])
            and _fits(self.heading, passage.heading.split(" > "))
            and _fits(self.source, [source])
            and _within(self.since, valid_from, self.until)
        )


def filter_from(settings: Mapping[str, str | Sequence[str]]) -> Filter:
    """A filter from words, as JSON or a command line has them. Raises BadSetting for a field it does not know."""
    known = [field.name for field in fields(Filter)]
    for name in settings:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean '{close[0]}'?" if close else f"It knows {', '.join(known)}."
            raise BadSetting(f"Unknown field '{name}' in a filter. {hint}")
    dates = {name: value for name, value in settings.items() if name in ("since", "until")}
    patterns = {
        name: (value,) if isinstance(value, str) else tuple(value)
        for name, value in settings.items()
        if name not in dates
    }
    return Filter(**patterns, **dates)  # type: ignore[arg-type]


def _fits(patterns: Sequence[str], names: Sequence[str]) -> bool:
    if not patterns:
        return True
    return any(_pattern(pattern).fullmatch(name.casefold()) for pattern in patterns for name in names)


@functools.lru_cache(256)
def _pattern(pattern: str) -> re.Pattern[str]:
    """fnmatch would take the brackets of '[Draft] Travel' for a set of letters."""
    parts = {"*": ".*", "?": "."}
    return re.compile("".join(parts.get(c) or re.escape(c) for c in pattern.casefold()), re.DOTALL)


def _within(since: str | None, date: str | None, until: str | None) -> bool:
    if since is None and until is None:
        return True
    # ISO dates are in the order of their letters; of a time of day only the date counts.
    return date is not None and (since or "") <= date[:10] and (until is None or date[:10] <= until)


def _check_date(name: str, value: object) -> None:
    if value is None:
        return
    try:
        if not isinstance(value, str) or datetime.date.fromisoformat(value).isoformat() != value:
            raise ValueError
    except ValueError:
        raise BadSetting(f"{name} of a filter is a date such as 2026-01-31; got {value!r}.") from None
