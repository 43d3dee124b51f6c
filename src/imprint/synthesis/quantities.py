"""Numbers with their units, and dates, each in one plain form, so that '1,000', '1000' and 'a thousand' are the
same."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

# --- numbers ----------------------------------------------------------------------------------

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
).split()
_ORDINALS = (
    "zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth "
    "fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_SCALES = {"hundred": 100, "thousand": 1_000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_VALUES = {
    **{w: i for i, w in enumerate(_ONES)},
    **{
        w: i for i, w in enumerate(_ORDINALS) if i > 2
    },  # 'first' and 'second' order a text more often than they count
    **{w: 10 * i for i, w in enumerate(_TENS, start=2)},
    **{f"{w[:-1]}ieth": 10 * i for i, w in enumerate(_TENS, start=2)},
    "dozen": 12,
}
_SPELT = re.compile(
    rf"\b(?:(?:{'|'.join([*_VALUES, *_SCALES, 'first', 'second'])})s?(?:-|\s(?:and\s)?)?)+(?<![\s-])\b",
    re.IGNORECASE,
)
_DIGITS = re.compile(
    r"(?P<money>US\$|[$€£¥]|\b(?:USD|EUR|GBP))?\s?(?<![\d.,:])(?P<digits>\d[\d.,:]*\d|\d)"
    r"(?:\s?(?P<scale>hundred|thousand|million|billion|trillion|bn|k|m)s?\b)?",
    re.IGNORECASE,
)
_AFTER = re.compile(r"\+?(?:[ -]|\s)?(?:(%|°C|°F|[$€£¥])|((?:square |cubic |per )?[a-zA-Z]+)\b)")
_LIST_MARK = re.compile(r"(?m)^[ \t>]*(?:[-*•][ \t]+)?(?:[*_]{0,2})\(?\d{1,2}(?:\.\d{1,2})*[.)](?=[\s*_])")
_SHORT = {"m": 10**6, "bn": 10**9, "k": 1_000, **_SCALES}


def _unit_table() -> dict[str, str]:
    rows = """
        percent: % percent per|cent percentage
        dollar: $ us$ usd dollar dollars
        euro: € eur euro euros
        pound: £ gbp pound pounds lb lbs
        yen: ¥ yen
        cent: cent cents
        second: second seconds sec secs
        minute: minute minutes min mins
        hour: hour hours hr hrs
        day: day days
        week: week weeks
        month: month months
        year: year years yr yrs
        decade: decade decades
        century: century centuries
        millimetre: mm millimetre millimetres millimeter millimeters
        centimetre: cm centimetre centimetres centimeter centimeters
        metre: metre metres meter meters
        kilometre: km kilometre kilometres kilometer kilometers
        mile: mile miles mi
        foot: foot feet ft
        inch: inch inches
        yard: yard yards
        gram: gram grams gramme grammes
        kilogram: kg kilogram kilograms kilo kilos
        tonne: tonne tonnes ton tons
        ounce: ounce ounces oz
        litre: litre litres liter liters
        gallon: gallon gallons
        celsius: °c celsius
        fahrenheit: °f fahrenheit
        watt: watt watts
        kilowatt: kw kilowatt kilowatts
        megawatt: mw megawatt megawatts
        volt: volt volts
        kilobyte: kb kilobyte kilobytes
        megabyte: mb megabyte megabytes
        gigabyte: gb gigabyte gigabytes
        terabyte: tb terabyte terabytes
        mph: mph
        acre: acre acres
        hectare: hectare hectares
    """
    pairs = (row.strip().split(": ") for row in rows.strip().splitlines())
    return {word.replace("|", " "): unit for unit, words in pairs for word in words.split()}


_UNITS = _unit_table()


@dataclass(frozen=True, slots=True)
class Number:
    """A number as it stands in a text."""

    start: int
    end: int
    text: str
    value: str
    """Digits in plain form: '1000', '2.5', '10:00'; scaled where a scale follows ('5 million')."""
    bare: str
    """The value before its scale: '5' of '5 million'."""
    unit: str = ""
    """'percent', 'kilometre'; empty where no unit that is known stands with it."""
    spelt: bool = False
    """Written in words."""


def numbers(text: str) -> list[Number]:
    """The numbers of a text in order, without those that only count the items of a list."""
    marks = {m.end() for m in _LIST_MARK.finditer(text)} if any(c in text for c in ".)") else set()
    found = [_of_digits(text, m) for m in _DIGITS.finditer(text) if not _is_mark(m, marks)]
    found += [n for m in _SPELT.finditer(text) if (n := _of_words(text, m)) is not None]
    return sorted(found, key=lambda n: n.start)


def _is_mark(match: re.Match[str], marks: set[int]) -> bool:
    return any(0 < end - match.end("digits") <= 1 for end in marks)


def _of_digits(text: str, match: re.Match[str]) -> Number:
    bare = plain(match["digits"])
    scale = (match["scale"] or "").lower()
    if scale == "m" and not match["money"]:
        scale = ""  # metres
    value = bare
    if scale and re.fullmatch(r"\d+(?:\.\d+)?", bare):
        value = _decimal(Decimal(bare) * _SHORT[scale])
    unit = _UNITS.get((match["money"] or "").lower(), "") or _unit_after(text, match.end())
    start = match.start("digits")
    return Number(start, match.end(), text[start : match.end()], value, bare, unit)


def _of_words(text: str, match: re.Match[str]) -> Number | None:
    """The value of '(one) hundred and twenty-five', 'two million'; None where nothing is counted: 'hundreds',
    'first'."""
    words = [w for w in re.split(r"[\s-]+", match.group().lower()) if w != "and"]
    total = part = 0
    counted = False
    for word in words:
        if word in _VALUES and word != "dozen":
            if part % 10 or (part and _VALUES[word] >= 10 and part % 100):
                return None  # 'two three': no single number
            part += _VALUES[word]
            counted = True
        elif word == "dozen" or word in _SCALES:
            part = max(part, 1) * (12 if word == "dozen" else _SCALES[word])
            if part >= 1_000:
                total, part = total + part, 0
        elif word in ("first", "second") and part >= 20:
            part += 1 if word == "first" else 2
        else:
            return None
    if not counted and len(words) == 1 and text[: match.start()].split()[-1:] not in (["a"], ["one"], ["A"]):
        return None
    value = str(total + part)
    return Number(match.start(), match.end(), match.group(), value, value, _unit_after(text, match.end()), True)


def _unit_after(text: str, end: int) -> str:
    match = _AFTER.match(text, end)
    if match is None:
        return ""
    word = (match.group(1) or match.group(2)).lower()
    return _UNITS.get(word, "")


def plain(digits: str) -> str:
    """Digits without thousands separators and without zeros that say nothing."""
    if re.fullmatch(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", digits):
        digits = digits.replace(",", "")
    elif digits.count(",") == 1 and "." not in digits:
        digits = digits.replace(",", ".")
    if digits.count(".") == 1 and ":" not in digits:
        digits = digits.rstrip("0").rstrip(".")
    if len(digits) == 2 and digits[0] == "0" and digits.isdigit():
        return digits[1]
    return digits


def _decimal(value: Decimal) -> str:
    return plain(f"{value:f}")


def times_of_day(value: str) -> tuple[str, ...]:
    """Other ways to write a time: '16:30' is '4:30', and '10:00' is '10'."""
    match = re.fullmatch(r"(\d{1,2}):(\d\d)", value)
    if match is None:
        return ()
    hours = {int(match[1]), int(match[1]) % 12 or 12, (int(match[1]) + 12) % 24}
    forms = [f"{h:{pad}}:{match[2]}" for h in hours for pad in ("d", "02d")]
    return tuple([*forms, *(str(h) for h in hours)] if match[2] == "00" else forms)


# --- dates ------------------------------------------------------------------------------------

MONTHS = ("January February March April May June July August September October November December").split()
_MONTH_NUMBERS = {m: i for i, m in enumerate(MONTHS, start=1)} | {m[:3]: i for i, m in enumerate(MONTHS, start=1)}
_MONTH_NUMBERS["Sept"] = 9
_MONTH = rf"(?P<m>(?:{'|'.join(MONTHS)}|Sept|{'|'.join(m[:3] for m in MONTHS)})\b)\.?"
_DAY = r"(?P<d>\d{1,2})(?:st|nd|rd|th)?(?:\s?(?:[-–]|to|and)\s?(?P<d2>\d{1,2})(?:st|nd|rd|th)?)?(?![\d:%.,]*\d)"
_YEAR = r"(?:,?\s+(?P<y>\d{4})\b)?"
_PATTERNS = (
    re.compile(rf"(?<![\d.:]){_DAY}\s+(?:of\s+)?{_MONTH}{_YEAR}"),
    re.compile(rf"\b{_MONTH}\s+{_DAY}{_YEAR}"),
    re.compile(rf"\b{_MONTH},?\s+(?:of\s+)?(?P<y>\d{{4}})\b"),
    re.compile(r"\b(?P<y>\d{4})-(?P<m>\d{2})-(?P<d>\d{2})\b"),
    re.compile(r"(?<![\d/.])(?P<d>\d{1,2})(?P<mark>[/.])(?P<m>\d{1,2})(?P=mark)(?P<y>\d{4})\b"),
    re.compile(rf"\b{_MONTH}(?<!\bMay)(?<!\bMarch)(?<!\bMar)(?<!\bJun)(?<!\bJan)"),
    re.compile(r"(?:\b(?:[Ii]n|of|by|since|until|from|to|last|next|every|early|late|mid|during|through|and)[\s-])"
               r"(?P<m>May|March|Mar|Jun|Jan)\b"),
)  # fmt: skip
_HAS_DATE = re.compile(rf"\d-\d|[/.]\d{{1,2}}[/.]|\b(?:{'|'.join(m[:3] for m in MONTHS)})")


@dataclass(frozen=True, slots=True)
class Date:
    """A date as it stands in a text, as far as it tells: year, month and day."""

    start: int
    end: int
    text: str
    year: int | None
    month: int
    day: int | None
    swapped: tuple[int, int] | None = None
    """Month and day read the other way round, where digits alone leave both open."""

    @property
    def key(self) -> str:
        """'2020-05-05'; what is not told is '*'."""
        return f"{self.year or '*'}-{self.month:02d}-{f'{self.day:02d}' if self.day else '*'}"

    def is_told_by(self, other: Date, years: frozenset[str] | set[str] = frozenset()) -> bool:
        """Whether another date says all that this one says, its year perhaps elsewhere (`years`)."""
        if self.year and self.year != other.year and (other.year or str(self.year) not in years):
            return False
        mine = {(self.month, self.day), self.swapped or (self.month, self.day)}
        theirs = {(other.month, other.day), other.swapped or (other.month, other.day)}
        return bool(mine & theirs) if self.day else any(m == n for m, _ in mine for n, _ in theirs)


def dates(text: str) -> list[Date]:
    """The dates of a text: days of a month, months, and ranges of days as both their ends."""
    if not _HAS_DATE.search(text):
        return []
    found: list[Date] = []
    taken: list[tuple[int, int]] = []
    for pattern in _PATTERNS:
        for match in pattern.finditer(text):
            made = list(_of_match(match))
            if made and not any(match.start() < e and s < match.end() for s, e in taken):
                taken.append(match.span())
                found += made
    return sorted(found, key=lambda d: d.start)


def _of_match(match: re.Match[str]) -> Iterator[Date]:
    parts = match.groupdict()
    month = _MONTH_NUMBERS.get(parts["m"]) or int(parts["m"] if parts["m"].isdigit() else 0)
    year = int(parts["y"]) if parts.get("y") else None
    days: list[int | None] = [int(d) for d in (parts.get("d"), parts.get("d2")) if d] or [None]
    for day in days:
        swapped = (day, month) if parts.get("mark") and day and day <= 12 else None
        first, last = (month, day) if month <= 12 else (day or 0, month)
        if 1 <= first <= 12 and (last is None or 1 <= last <= 31):
            yield Date(match.start(), match.end(), match.group(), year, first, last, swapped)
