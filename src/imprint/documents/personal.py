"""Personal data in documents, told before anything is trained: what an adapter has learnt it may tell anybody.

Found by Presidio's rules and checksums alone (the optional package presidio-analyzer), without a language model, so
that nothing is downloaded: e-mail addresses, telephone numbers, cards and accounts, and the numbers that states and
insurers give to people. Names and postal addresses are NOT found: that takes a model. A number that could be
anything counts only with one of its kind's words nearby ('passport', 'SSN'), and what stands in no such form is
missed. The values themselves are shown and kept masked."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from imprint.errors import BadInput, BadSetting, MissingPackage
from imprint.types import Document

WISHES = ("report", "refuse", "ignore")
"""What teaching may do about personal data: tell of it, not go on where there is any, not look."""

KINDS = {
    "EMAIL_ADDRESS": "e-mail address",
    "PHONE_NUMBER": "telephone number",
    "CREDIT_CARD": "card number",
    "IBAN_CODE": "bank account (IBAN)",
    "US_BANK_NUMBER": "bank account (US)",
    "CRYPTO": "crypto wallet",
    "IP_ADDRESS": "IP address",
    "MAC_ADDRESS": "hardware address",
    "US_SSN": "social security number (US)",
    "US_ITIN": "taxpayer number (US)",
    "US_PASSPORT": "passport (US)",
    "US_DRIVER_LICENSE": "driving licence (US)",
    "US_MBI": "Medicare number (US)",
    "MEDICAL_LICENSE": "medical licence (US)",
    "UK_NHS": "NHS number (UK)",
    "UK_NINO": "national insurance number (UK)",
    "UK_PASSPORT": "passport (UK)",
    "UK_DRIVING_LICENCE": "driving licence (UK)",
    "CA_SIN": "social insurance number (Canada)",
    "AU_TFN": "tax file number (Australia)",
    "AU_MEDICARE": "Medicare number (Australia)",
    "IN_AADHAAR": "Aadhaar number (India)",
    "IN_PAN": "PAN (India)",
    "SG_NRIC_FIN": "identity number (Singapore)",
    "DE_TAX_ID": "tax number (Germany)",
    "DE_SOCIAL_SECURITY": "social security number (Germany)",
    "DE_HEALTH_INSURANCE": "health insurance number (Germany)",
    "DE_ID_CARD": "identity card (Germany)",
    "DE_PASSPORT": "passport (Germany)",
    "ES_NIF": "identity number (Spain)",
    "ES_NIE": "foreigner's number (Spain)",
    "IT_FISCAL_CODE": "fiscal code (Italy)",
    "PL_PESEL": "PESEL (Poland)",
    "SE_PERSONNUMMER": "identity number (Sweden)",
    "FI_PERSONAL_IDENTITY_CODE": "identity code (Finland)",
    "KR_RRN": "registration number (Korea)",
    "TH_TNIN": "identity number (Thailand)",
    "TR_NATIONAL_ID": "identity number (Turkey)",
    "ZA_ID_NUMBER": "identity number (South Africa)",
}
"""Presidio's names of what is looked for, in plain words."""
_CLEAR = frozenset(
    "EMAIL_ADDRESS CREDIT_CARD IBAN_CODE CRYPTO IP_ADDRESS MAC_ADDRESS US_SSN UK_NINO ES_NIF ES_NIE IT_FISCAL_CODE "
    "FI_PERSONAL_IDENTITY_CODE".split()
)
"""What is plain by its form or its checksum; all else counts with one of its words nearby."""
_CLEAR_SCORE = 0.5
_NEAR = 60
"""Characters before a value in which one of its kind's words must stand."""
_EMPTY_WORDS = frozenset(
    ("number", "us", "united", "states", "check", "individual", "medical", "fin", "pass", "id")
)
"""Words that Presidio goes by where it has a parser, and that stand in any text."""
_PHONE_LIKE = re.compile(r"\+?\(?\d[\d ()./–-]{5,40}\d")
_PLACES = 200
"""Places that a version keeps."""


@dataclass(frozen=True, slots=True)
class Found:
    """Something personal, and where it stands."""

    kind: str
    source: str
    """The document's path, as the user named it."""
    page: int | None
    offset: int
    """Characters before it in the document's text."""
    masked: str
    """The value with only its ends readable."""

    @property
    def place(self) -> str:
        where = f"page {self.page}" if self.page is not None else f"character {self.offset}"
        return f"{self.source}, {where}"


def look(documents: Sequence[Document]) -> list[Found]:
    """All that is found, document by document, in the order of their texts. Raises MissingPackage."""
    found = []
    for document in documents:
        for kind, start, end in _spans(document.text):
            value = document.text[start:end]
            found.append(Found(KINDS[kind], document.source, document.page_at(start), start, masked(value)))
    return found


def masked(value: str) -> str:
    """A value of which the first character and the last two can be read; of a short one none can."""
    keep = {0, len(value) - 2, len(value) - 1} if len(value) >= 8 else set()
    return "".join(c if i in keep or not c.isalnum() else "*" for i, c in enumerate(value))


def settle(documents: Sequence[Document], wish: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Looks for personal data as is wished (one of WISHES), tells of it, and returns what a version keeps, as JSON.

    Raises BadInput where it is to be refused and there is some, MissingPackage where it cannot be looked for then,
    and BadSetting for another wish."""
    if wish not in WISHES:
        raise BadSetting(f"Personal data can be met with {', '.join(WISHES)}; got '{wish}'.")
    if wish == "ignore":
        return {"looked": False}
    try:
        found = look(documents)
    except MissingPackage as missing:
        if wish == "refuse":
            raise
        say(f"NOTE: Personal data was not looked for. {missing}")
        return {"looked": False}
    told = lines(found)
    if found and wish == "refuse":
        raise BadInput(f"{' '.join(told)} Take it out of the documents, or teach with --personal report.")
    for line in told:
        say(line)
    counts = Counter(one.kind for one in found)
    return {
        "looked": True,
        "counts": dict(counts.most_common()),
        "places": [asdict(one) for one in found[:_PLACES]],
    }


def lines(found: Sequence[Found]) -> list[str]:
    """The same for a person: how many of what, then where the first few of each kind stand."""
    if not found:
        return []
    counts = Counter(one.kind for one in found).most_common()
    said = [f"NOTE: The documents hold personal data: {', '.join(f'{n} x {kind}' for kind, n in counts)}."]
    for kind, n in counts:
        first = [one for one in found if one.kind == kind][:3]
        more = f", and {n - len(first)} more" if n > len(first) else ""
        said.append(f"{kind}: {'; '.join(f'{one.masked} ({one.place})' for one in first)}{more}.")
    return said


# --- Presidio's door --------------------------------------------------------------------------


def _spans(text: str) -> list[tuple[str, int, int]]:
    """(kind, start, end) of everything personal, none inside another."""
    results = []
    for recogniser in _recognisers():
        kind = recogniser.supported_entities[0]
        for offset, part in _parts(text, kind):
            for one in recogniser.analyze(part, [kind]):
                start, end = offset + one.start, offset + one.end
                if _counts(text, kind, start, one.score, recogniser.context or ()):
                    results.append((kind, start, end, one.score))
    order = list(KINDS)
    results.sort(key=lambda r: (-r[3], order.index(r[0]), r[1] - r[2], r[1]))
    kept: list[tuple[str, int, int]] = []
    for kind, start, end, _ in results:
        if all(end <= s or e <= start for _, s, e in kept):
            kept.append((kind, start, end))
    return sorted(kept, key=lambda span: span[1])


def _parts(text: str, kind: str) -> list[tuple[int, str]]:
    """The parts of a text to look at, each with where it begins: all of it, but for telephone numbers, which are
    looked for country by country and slowly, only what has digits enough."""
    if kind != "PHONE_NUMBER":
        return [(0, text)]
    spans = [(max(0, m.start() - 2), m.end() + 2) for m in _PHONE_LIKE.finditer(text)]
    return [(start, text[start:end]) for start, end in spans]


def _counts(text: str, kind: str, start: int, score: float, words: Sequence[str]) -> bool:
    if kind in _CLEAR:
        return score >= _CLEAR_SCORE
    if kind == "PHONE_NUMBER" and text[start] == "+":
        return True
    before = text[max(0, start - _NEAR) : start]
    told = [word for word in words if word.lower() not in _EMPTY_WORDS]
    return any(re.search(rf"(?<!\w){re.escape(word)}s?(?!\w)", before, re.IGNORECASE) for word in told)


@functools.cache
def _recognisers() -> tuple[Any, ...]:
    """Presidio's recognisers of KINDS, those that go by rules."""
    try:
        import tldextract
        from presidio_analyzer import predefined_recognizers as known
    except ImportError:
        raise MissingPackage(
            "Looking for it needs presidio-analyzer. Install with: pip install 'imprint[privacy]'"
        ) from None
    made = []
    for name in known.__all__:
        kind = getattr(known, name)
        if _goes_by_rules(kind):
            recogniser = kind()
            if recogniser.supported_entities[0] in KINDS:
                made.append(recogniser)
    # Presidio would fetch the list of top-level domains from the web.
    domain = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)
    for recogniser in made:
        if recogniser.supported_entities == ["EMAIL_ADDRESS"]:
            recogniser.validate_result = lambda value: bool(domain(value).suffix)
    return tuple(made)


def _goes_by_rules(kind: Any) -> bool:
    from presidio_analyzer import PatternRecognizer
    from presidio_analyzer.predefined_recognizers import PhoneRecognizer

    return isinstance(kind, type) and issubclass(kind, PatternRecognizer | PhoneRecognizer)
