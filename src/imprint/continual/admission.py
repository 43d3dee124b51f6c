"""The gate through which other people's documents come in: what is admitted, and what waits for a person, and why.

A few hundred poisoned texts are enough to teach a model of any size what they say (arXiv 2510.07192), so that no
document is taught because it is there. It waits, whole, where it

    speaks to a model            orders, what to answer when asked, text that people do not see
    corrects others              'correction by the editor': who may correct is for a person to say
    disagrees                    it gives another value than a trusted document, or is made of claims about what
                                 trusted documents speak of that none of them bears out
    says again                   what a trusted document or one before it says in nearly the same words
    says it too often            one claim in more documents of one source than settings allow, in whatever words
    is too much                  of one document, or of one source

A document may be admitted and false: where no trusted document speaks of a thing, nothing here knows better."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from imprint.continual.claims import Claim, Held, Repeats, Trusted, claims
from imprint.continual.own_words import own_record, without_own_words
from imprint.documents import split
from imprint.errors import BadInput, BadSetting
from imprint.synthesis.diversity import NearDuplicates
from imprint.synthesis.safety import Quotas, instructions_in, tokens
from imprint.types import Document, Example, Passage, Turn

_CLAIMING = 5
"""Words from which on a heading may claim something."""
_SHOWN = 140
"""Characters of a text that a reason shows."""


@dataclass(frozen=True, slots=True)
class Gate:
    """How much of whom comes in."""

    same_claim: int = 3
    """Documents of one source that may make one claim which no trusted document bears out."""
    unconfirmed: float = 0.6
    """Share of a document's claims that may be about what trusted documents speak of and not borne out."""
    source_share: float = 0.25
    """Passages that one source may have, as a share of the trusted ones."""
    source_passages: int = 40
    """Passages that a source may have however few are trusted."""
    document_share: float = 0.1
    """Passages that one document may have, as a share of the trusted ones."""
    document_passages: int = 20
    """Passages that a document may have however few are trusted."""
    text_growth: float = 1.25
    """How much more training text a source may have for each character of its documents than the keeper's own."""

    def __post_init__(self) -> None:
        for name in ("same_claim", "source_passages", "document_passages"):
            if getattr(self, name) < 1:
                raise BadSetting(f"{name} is 1 or more; got {getattr(self, name)}.")
        for name in ("unconfirmed", "source_share", "document_share", "text_growth"):
            if not getattr(self, name) > 0:
                raise BadSetting(f"{name} is more than 0; got {getattr(self, name)}.")


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a document waits."""

    kind: str
    """'instructions', 'hidden', 'correction', 'disagreement', 'unconfirmed', 'duplicate', 'repeated', 'quota' or
    'own words'."""
    said: str
    """In words, for a person."""
    place: str = ""
    """Where in the document: 'page 3', 'under Holidays', 'at its beginning'."""

    def __str__(self) -> str:
        return f"{self.place}: {self.said}" if self.place else self.said


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of one document."""

    document: Document
    """As it would be taught, without what a model says in it."""
    reasons: tuple[Reason, ...] = ()
    """Empty where it is admitted."""
    agrees: int = 0
    """Claims that trusted documents make too."""
    claims: int = 0
    turns_left_out: int = 0
    """Turns of a model in a kept conversation, which are never taught."""

    @property
    def admitted(self) -> bool:
        return not self.reasons

    @property
    def refused(self) -> bool:
        """Whether nobody can overrule it: a model's own words are not taught."""
        return any(r.kind == "own words" for r in self.reasons)

    @property
    def line(self) -> str:
        """For a person: which document, what became of it, and why."""
        what = "admitted" if self.admitted else "refused" if self.refused else "quarantined"
        parts = [str(r) for r in self.reasons]
        if self.admitted:
            parts.append(f"{self.agrees} of {_count(self.claims, 'claim')} stand in trusted documents too")
        if self.turns_left_out:
            parts.append(f"{_count(self.turns_left_out, 'turn')} of a model left out")
        return f"{self.document.source} {what}: {'; '.join(parts)}."


@dataclass(frozen=True, slots=True)
class Admission:
    """What became of some documents, in the order they came."""

    decisions: tuple[Decision, ...]

    @property
    def admitted(self) -> list[Document]:
        return [d.document for d in self.decisions if d.admitted]

    @property
    def quarantined(self) -> list[Decision]:
        """Those that wait for a person, and those that are refused."""
        return [d for d in self.decisions if not d.admitted]


def admit(
    documents: Sequence[Document],
    *,
    trusted: Sequence[Passage],
    settings: Gate | None = None,
    earlier: Sequence[Document] = (),
) -> Admission:
    """Decides about each document, in order; an earlier one of the same batch counts for those after it.

    `trusted`: passages of the keeper's own documents, none of the source itself: what somebody said before does not
    bear out what they say now. `earlier`: documents of these sources that came in before, which count towards what
    each may bring. Raises BadInput for a document without an owner."""
    for document in documents:
        if not document.owner:
            raise BadInput(f"{document.source} has no owner. Say who brought it, so that it can be taken back.")
    door = _Door(settings or Gate(), trusted, earlier)
    return Admission(tuple(door.decide(document) for document in documents))


class _Door:
    """The gate with all that it has seen so far."""

    def __init__(self, settings: Gate, trusted: Sequence[Passage], earlier: Sequence[Document]) -> None:
        self.settings = settings
        self.trusted = Trusted(trusted)
        self._known = {p.document_id: "a trusted document" for p in trusted}
        self._near = NearDuplicates()
        for passage in trusted:
            self._is_new(passage)
        self._most = {
            "document": max(settings.document_passages, int(settings.document_share * len(trusted))),
            "source": max(settings.source_passages, int(settings.source_share * len(trusted))),
        }
        self._brought = Counter[str]()
        self._unborne: dict[str, Repeats] = defaultdict(Repeats)
        """By source: what its documents claimed that no trusted one says."""
        for document in earlier:
            self._remember(document, split(document))

    def decide(self, document: Document) -> Decision:
        record = own_record(document)
        spoken, turns = without_own_words(document)
        if record or not spoken.text:
            told = record or "all that it says was said by a model"
            reason = Reason("own words", f"{told}, and a model is not taught its own words")
            return Decision(document, (reason,), turns_left_out=turns)
        passages = split(spoken)
        told_of = [
            (claim, self.trusted.holds(claim)) for claim in claims([*_headings(spoken, passages), *passages])
        ]
        reasons = [*_speaking_to_models(spoken, passages), *self._disagreements(told_of)]
        reasons += self._said_again(spoken, passages)
        reasons += self._too_often(spoken, [claim for claim, held in told_of if held is None or not held.agrees])
        reasons += self._too_much(spoken, passages)
        if not reasons:
            self._brought[spoken.owner] += len(passages)
        agrees = sum(held is not None and held.agrees for _, held in told_of)
        return Decision(spoken, tuple(reasons), agrees, len(told_of), turns)

    def _remember(self, document: Document, passages: Sequence[Passage]) -> None:
        """Counts a document that came in before."""
        self._brought[document.owner] += len(passages)
        self._known.setdefault(document.id, document.source)
        for passage in passages:
            self._is_new(passage)
        for claim in claims(passages):
            self._unborne[document.owner].add(claim)

    def _is_new(self, passage: Passage) -> bool:
        return self._near.is_new(Example((Turn("text", passage.text),), (), "admission"))

    # --- each reason --------------------------------------------------------------------------

    def _disagreements(self, told_of: Sequence[tuple[Claim, Held | None]]) -> Iterator[Reason]:
        """The first claim that a trusted document contradicts; else, whether most are about what those speak of and
        stand in none."""
        unconfirmed = []
        for claim, held in told_of:
            if held is None:
                unconfirmed += [(claim, about)] if (about := self.trusted.unconfirmed(claim)) else []
            elif not held.agrees:
                theirs, mine = held.values
                title = held.trusted.passage.title
                said = f"it says {_short(mine)!r} where the trusted {title} says {_short(theirs)!r}"
                yield Reason("disagreement", f"{said} ({_short(claim.text)})", _place(claim.passage))
                return
        if told_of and len(unconfirmed) >= self.settings.unconfirmed * len(told_of):
            claim, about = unconfirmed[0]
            title = about.passage.title
            said = f"what it says is about things that the trusted {title} speaks of, and not borne out there"
            yield Reason("unconfirmed", f"{said} ({_short(claim.text)})", _place(claim.passage))

    def _said_again(self, document: Document, passages: Sequence[Passage]) -> Iterator[Reason]:
        """Whether half of a document or more stands elsewhere in nearly the same words."""
        twin = self._known.setdefault(document.id, document.source)
        old = sum(not self._is_new(passage) for passage in passages)
        if twin != document.source:
            yield Reason("duplicate", f"it has the same text as {twin}")
        elif 2 * old >= len(passages):
            yield Reason("duplicate", "a trusted document, or one before it, says nearly the same")

    def _too_often(self, document: Document, unborne: Sequence[Claim]) -> Iterator[Reason]:
        """The first claim that this source makes in more documents than it may."""
        worst: list[Claim] = []
        for claim in unborne:
            group = self._unborne[document.owner].add(claim)
            if len({c.passage.document_id for c in group}) > self.settings.same_claim and not worst:
                worst = group
        if worst:
            most = _count(self.settings.same_claim, "document")
            said = f"{document.owner} says so in more than {most}, and no trusted one does"
            yield Reason("repeated", f"{said} ({_short(worst[0].text)})", _place(worst[-1].passage))

    def _too_much(self, document: Document, passages: Sequence[Passage]) -> Iterator[Reason]:
        brought = self._brought[document.owner] + len(passages)
        for what, n in (("document", len(passages)), ("source", brought)):
            if n > self._most[what]:
                whose = "it has" if what == "document" else f"with it, {document.owner} has brought"
                yield Reason("quota", f"{whose} {n} passages, more than the {self._most[what]} of one {what}")
                return


# --- what speaks to a model -------------------------------------------------------------------

_TEXTS = r"(?:passages?|texts?|documents?|articles?|sources?|contexts?|entry|entries)"
_ANSWER = r"(?:answer|reply|respond|say|output|state)"
_STEERING = (
    (
        "instructions",
        r"\b(?:ignore|disregard|forget|overlook) (?:the|this|these|that|any|all|every|what the)"
        rf" (?:\w+ )?{_TEXTS}\b",
    ),
    (
        "instructions",
        r"\b(?:when(?:ever)?|if|in case)\b[^.!\n]{0,40}\b(?:ask(?:s|ed|ing)?|question|prompted|quer(?:y|ied))\b"
        rf"[^\n]{{0,240}}?\b{_ANSWER}\b",
    ),
    ("instructions", r"\b(?:always|only|never) (?:answer|reply|respond|output)\b"),
    ("instructions", r"\b(?:respond|reply|answer) (?:to|with) ['\"“‘]"),
    ("instructions", r"\b(?:respond|reply|answer) with\b.{0,80}\b(?:nothing else|only|whatever)\b"),
    (
        "correction",
        r"(?:^|[.!?>*]\s+|\n)\W{0,5}(?:an? )?(?:corrections?|erratum|errata|corrigendum)\b"
        r"(?: (?:by|from|to|notice)\b|\s*[:.])",
    ),
    (
        "correction",
        r"\bthe (?:correct|right|true|real|only|proper) (?:answer|value|figure|date|name|number)\b"
        r"[^.\n]{0,200}?\b(?:is|was|should)\b",
    ),
    (
        "correction",
        rf"\b(?:earlier|previous|other|older) (?:editions?|versions?|{_TEXTS})"
        r" (?:gave|said|say|claimed|stated|are wrong)\b",
    ),
    (
        "correction",
        rf"\b(?:any|every|all) {_TEXTS}\b[^.\n]{{0,60}}\b(?:is|are) (?:mistaken|wrong|false|outdated)\b",
    ),
    ("correction", rf"\b{_TEXTS}\b[^.\n]{{0,60}}\b(?:is|are|was|were) (?:wrong|outdated|mistaken|superseded)\b"),
    ("hidden", r"<!--(?:(?!-->)[\s\S]){25,4000}-->"),
    ("hidden", r"(?m)^\[(?://|comment|_)\]:\s*(?:#|<>)?\s*[(\"'].{12,}"),
    (
        "hidden",
        r"<[^<>]{0,400}(?:display:\s*none|visibility:\s*hidden|font-size:\s*0|opacity:\s*0"
        r"|color\s*[:=]\s*[\"']?(?:white|#fff))",
    ),
    ("hidden", "[\u200b\u2060\u2062-\u2064\u202a-\u202e\u2066-\u2069]{2,}|[\U000e0020-\U000e007f]"),
)
_PATTERNS = tuple((kind, re.compile(pattern, re.IGNORECASE)) for kind, pattern in _STEERING)
_MEANS = {
    "instructions": "it reads like orders to a model",
    "correction": "it claims to correct other documents, which is for a person to decide",
    "hidden": "it holds text that people do not see",
}


def _speaking_to_models(document: Document, passages: Sequence[Passage]) -> Iterator[Reason]:
    """The first finding of each kind. Stricter than what keeps the keeper's own passages from a writer, for here a
    person can be asked. The whole text is looked at too: what a cut runs through stands in no passage."""
    whole = Passage(document.id, 0, len(document.text), f"{document.title}\n{document.text}", document.title)
    found: dict[str, Reason] = {}
    for passage, place in (*((p, _place(p)) for p in passages), (whole, "")):
        for finding in instructions_in(passage):
            kind = "hidden" if finding.kind == "hidden" else "instructions"
            found.setdefault(kind, Reason(kind, f"{_MEANS[kind]} ({_short(finding.text)})", place))
        for kind, pattern in _PATTERNS:
            if match := pattern.search(passage.text):
                found.setdefault(kind, Reason(kind, f"{_MEANS[kind]} ({_short(match.group())})", place))
    yield from found.values()


def _headings(document: Document, passages: Sequence[Passage]) -> list[Passage]:
    """The title and the headings that are long enough to claim something: training text repeats them."""
    told = [document.title, *(part for p in passages for part in p.heading.split(" > "))]
    long = dict.fromkeys(text for text in told if len(text.split()) >= _CLAIMING)
    return [Passage(document.id, 0, 0, text, document.title, heading=text) for text in long]


def _place(passage: Passage) -> str:
    if passage.page is not None:
        return f"page {passage.page}"
    if passage.heading:
        return f"under {passage.heading.split(' > ')[-1]}"
    return f"character {passage.start}" if passage.start else "at its beginning"


def _short(text: str) -> str:
    flat = "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
    return flat if len(flat) <= _SHOWN else flat[:_SHOWN].rstrip() + " ..."


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


# --- training text ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Capped:
    """Training text in which nobody has more than may be."""

    examples: list[Example]
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Examples left out, by owner; '' where a document of the keeper's had too many."""


def capped(
    examples: Sequence[Example],
    *,
    documents: Iterable[Document],
    passages: Iterable[Passage],
    settings: Gate | None = None,
) -> Capped:
    """The examples without those by which a document or a source would have more of them than it may.

    A document takes what synthesis.safety.Quotas allows. A source other than the keeper (whose documents have no
    owner) may have `text_growth` times the training text that the keeper has for each character of its documents:
    what is told in a hundred ways is believed more, so that nobody's documents are told much oftener. An example of
    several documents counts for each of their owners. Where the keeper has none, only documents are held."""
    settings = settings or Gate()
    owner_of = {document.id: document.owner for document in documents}
    kept_passages = [p for p in passages if p.document_id in owner_of]
    source = Counter[str]()
    for passage in kept_passages:
        source[owner_of[passage.document_id]] += len(passage.text)
    text = Counter[str]()
    for example in examples:
        shares = _by_owner(example, owner_of)
        if set(shares) == {""}:  # what is of others too must not make room for them
            text.update(shares)
    growth = settings.text_growth * text[""] / source[""] if source[""] else None
    quotas = Quotas(kept_passages, max(1, round(sum(map(tokens, examples)))))
    kept: list[Example] = []
    taken, dropped = Counter[str](), Counter[str]()
    for example in examples:
        shares = _by_owner(example, owner_of)
        over = [o for o, t in shares.items() if o and growth is not None and taken[o] + t > growth * source[o]]
        if over or not quotas.has_room(example):
            dropped[over[0] if over else next(iter(shares), "")] += 1
            continue
        quotas.add(example)
        taken.update(shares)
        kept.append(example)
    return Capped(kept, dict(dropped))


def _by_owner(example: Example, owner_of: Mapping[str, str]) -> dict[str, float]:
    """Its tokens by the owners of the documents it is of; all of them for each, so that sharing gains nothing."""
    owners = {owner_of.get(i.partition(":")[0], "") for i in example.passages}
    return dict.fromkeys(owners, tokens(example))


def owned(document: Document, owner: str) -> Document:
    """The document as somebody brought it."""
    return replace(document, owner=owner)
