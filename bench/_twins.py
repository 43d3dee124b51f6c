"""Twins: documents that are equal but for the one they are about, and questions worded otherwise than they are.

A subject has a text that names its owner in one sentence, and two questions. Each text is written once for every
owner of its trade (Visa and MasterCard, Lufthansa and Air France), so that nothing but the name tells two twins
apart."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from imprint.types import Passage, content_hash


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, the passage that answers it, and that passage's twin, which answers it for somebody else."""

    question: str
    right: str
    wrong: str


@dataclass(frozen=True, slots=True)
class Trade:
    """What companies of one kind write about."""

    known: tuple[tuple[str, str], ...]
    """Pairs of companies of the trade that everybody knows."""
    subjects: tuple[tuple[str, str, str], ...]
    """Text and two questions; {} is the owner."""
    small_print: str
    """What stands under every text of the trade, in the long form."""


CARDS = Trade(
    (
        ("Visa", "MasterCard"),
        ("American Express", "Discover"),
        ("Diners Club", "UnionPay"),
        ("Barclaycard", "Capital One"),
    ),
    (
        (
            "Purchases in a foreign currency are converted at the rate of the day on which they are booked. {} "
            "adds a charge of two per cent to each of them. Withdrawals from machines abroad are converted "
            "alike, and the owner of the machine may ask for a fee of its own.",
            "What does it cost me to pay with {} while I travel overseas?",
            "Is there a surcharge on my {} when a shop bills me in yen?",
        ),
        (
            "A card that was lost or stolen must be reported as soon as its absence is noticed. The hotline of "
            "{} answers day and night and blocks the number at once. After the call nothing more can be "
            "charged, and a new card arrives by post within five working days.",
            "My wallet is gone: how do I stop my {}?",
            "How soon is a missing {} replaced?",
        ),
        (
            "Whoever does not recognise an entry of the monthly statement can object within sixty days. {} then "
            "returns the amount for the time being and asks the merchant for proof. If none comes, the refund "
            "becomes final.",
            "I never bought this. How do I get the money back from {}?",
            "Until when can I dispute something on the {} bill?",
        ),
        (
            "Each euro that is spent earns one point, and petrol and groceries earn two. Points of {} lapse "
            "after three years. They can be turned into vouchers, into miles of partner airlines, or into a "
            "credit on the next statement.",
            "How long do the rewards that I collect with {} stay valid?",
            "What can I do with the bonus I get for shopping with {}?",
        ),
        (
            "The limit is set when the contract is signed and looked at again once a year. {} raises it on "
            "request if the last six statements were paid in full. An increase for a single journey takes "
            "effect within an hour.",
            "Can I spend more each month with my {}?",
            "What must I fulfil so that {} gives me a higher ceiling?",
        ),
        (
            "When a journey is paid for with the card, its holder and the family travelling along are insured. "
            "{} covers illness abroad, delays of more than four hours and luggage that does not arrive. Sports "
            "for which a licence is needed are left out.",
            "Am I protected by {} if my suitcase does not turn up?",
            "Does {} pay for a doctor on holiday?",
        ),
        (
            "Payments without contact work by holding the card to the reader. Up to fifty euros {} asks for no "
            "secret number. After five such payments in a row, or a total of one hundred and fifty euros, the "
            "number is needed once.",
            "When do I have to type my PIN while tapping my {}?",
            "How much can I pay with {} by just touching the terminal?",
        ),
        (
            "For children from the age of twelve a second card can be ordered on the parents' account. {} takes "
            "no yearly fee for it. Parents choose a weekly allowance and see every purchase at once on their "
            "telephone.",
            "Can my daughter have her own {}?",
            "What is the price of an additional {} for a teenager?",
        ),
    ),
    "These terms hold from the first of January and replace all earlier ones. Words in bold are explained in "
    "the glossary. Changes are announced by letter two months before they take effect, and whoever does not "
    "object accepts them. Disputes are settled by the court at the seat of the company. Complaints can also be "
    "sent to the ombudsman, whose address stands on the last page. Personal data are kept for ten years, as the "
    "law demands, and handed to nobody else. Should one clause be void, the others stay in force.",
)  # fmt: skip

AIRLINES = Trade(
    (("Lufthansa", "Air France"), ("Delta", "United"), ("Qantas", "Emirates"), ("Iberia", "Finnair")),
    (
        (
            "Each traveller may take one bag of eight kilograms into the cabin. {} weighs it at the gate. What "
            "is too heavy goes into the hold for a fee of forty euros, and small things such as a laptop or a "
            "handbag are not counted.",
            "How heavy may my hand luggage be with {}?",
            "What happens at {} if my carry-on is over the limit?",
        ),
        (
            "The counters open three hours before departure and close forty minutes before it. {} lets its "
            "customers check in by telephone a day earlier. The boarding pass is sent as a message and need not "
            "be printed.",
            "From when on can I get my {} boarding card online?",
            "How early must I be at the airport for a flight by {}?",
        ),
        (
            "A flight can be given back within a day of booking without any reason. After that {} keeps a third "
            "of the fare. Taxes are always returned, and in case of serious illness the whole amount is, if a "
            "doctor's letter is sent along.",
            "Do I get a refund from {} when I cancel my trip?",
            "I fell ill before leaving. What does {} pay back?",
        ),
        (
            "Cats and small dogs travel in the cabin in a soft cage under the seat. {} takes two animals on each "
            "flight and wants to know of them a week ahead. Larger ones ride in the hold, which is heated.",
            "Can I bring my puppy on board of {}?",
            "How long before departure must I tell {} about my cat?",
        ),
        (
            "Whoever arrives more than three hours late has a right to be compensated. {} pays two hundred and "
            "fifty euros on short routes and six hundred on long ones. Storms and strikes of others are "
            "excepted.",
            "How much do I get from {} because we landed so late?",
            "When does {} owe me nothing for a delay?",
        ),
        (
            "Children below two years sit on a parent's lap and pay a tenth of the fare. {} lends cradles on long "
            "flights, which must be ordered with the ticket. Prams are taken to the door of the plane.",
            "What is the price of a baby's ticket at {}?",
            "Is there a bed for an infant on {}?",
        ),
        (
            "Meals without meat, without gluten and by the rules of several religions can be had. {} needs the "
            "wish two days before the flight. On routes of less than two hours there is only a drink and a "
            "biscuit.",
            "How do I order vegetarian food with {}?",
            "Do I get anything to eat on a short {} flight?",
        ),
        (
            "Seats at the emergency exits have more room for the legs. {} sells them for thirty-five euros at any "
            "time after booking. They are given only to adults who can open the door and understand the crew.",
            "I am tall. How do I reserve a row with space at {}?",
            "Who may sit by the emergency door with {}?",
        ),
    ),
    "These conditions of carriage apply to all tickets sold after the first of March. Flights that partners "
    "operate follow the partner's own rules. Times in the timetable are no part of the contract. Claims must be "
    "sent in writing within two years. Liability for death and injury follows the Montreal Convention. "
    "Dangerous goods, which are listed in the annex, may not be carried. The crew's orders are to be obeyed at "
    "all times. A translation of this text is offered for convenience only, and the English wording decides.",
)  # fmt: skip

SOFTWARE = Trade(
    (("Slack", "Teams"), ("Dropbox", "OneDrive"), ("Postgres", "MySQL"), ("Firefox", "Chrome")),
    (
        (
            "Deleted files stay in the bin for thirty days. {} lets whoever owned them take them back with one "
            "click. After that only an administrator can restore them, for another sixty days, and then they "
            "are gone for good.",
            "I threw something away by mistake in {}. Can I undo it?",
            "How long does {} keep what was removed?",
        ),
        (
            "A second factor can be demanded of all members at their next login. {} accepts codes from a telephone "
            "and hardware keys. Ten emergency codes are shown once and should be printed and locked away.",
            "How do I make logging in to {} safer?",
            "I lost my phone: how do I still get into {}?",
        ),
        (
            "All data can be exported at any time by an administrator. {} packs them into one archive and sends a "
            "link by mail when it is ready. Large archives take up to two days, and the link works for a week.",
            "How do I get everything out of {} when we move elsewhere?",
            "How much time does {} need to prepare a copy of our information?",
        ),
        (
            "Updates are installed at night between two and four o'clock. {} keeps the former version for a "
            "week, so that a step back is possible. A message announces each update three days ahead.",
            "Can I return to the previous release of {}?",
            "At which hour does {} renew itself?",
        ),
        (
            "Students and teachers pay nothing as long as they study or teach. {} wants a proof of it every "
            "autumn. Charities get half off the usual price, and for them one proof is enough.",
            "Is {} free for schools?",
            "What discount does {} give to a non-profit?",
        ),
        (
            "If nothing loads, the cache should be emptied first, and then all extensions be turned off. {} writes "
            "what went wrong into a log file. Support asks for this file, so it should be at hand before calling.",
            "{} hangs. What do I try before ringing the help desk?",
            "Where do I find the error messages of {}?",
        ),
        (
            "Each workspace has an owner, who may name any number of administrators. {} logs what they do for a "
            "year. Guests see only what they were invited to and cannot invite others.",
            "What may an outsider look at in our {}?",
            "For how long can I check what admins did in {}?",
        ),
        (
            "Keyboard shortcuts can be changed under preferences. {} has one set for each system and one that "
            "users of other programs know. A sheet of all keys opens when the question mark is held down.",
            "How do I set my own hot keys in {}?",
            "How do I see a list of all key combinations of {}?",
        ),
    ),
    "This page was last reviewed in spring and is looked at twice a year. Screens may look a little different "
    "on your machine. Where a menu is missing, your administrator has hidden it. Ideas for better wording are "
    "welcome at the foot of the page. Code samples are given without warranty. Names of products belong to "
    "those who own them. Other languages can be chosen at the top right, and where no translation is there yet, "
    "English is shown. The forum knows answers to many questions that are not treated here.",
)  # fmt: skip

TRADES = (CARDS, AIRLINES, SOFTWARE)

ALIKE = {
    "invented": (("Velmora", "Velmira"), ("Tarquant", "Tarquint"), ("Brennick", "Brennock")),
    "numbered": (
        ("contract 48113", "contract 48131"),
        ("tariff K-7", "tariff K-9"),
        ("policy 7731", "policy 7737"),
    ),
    "dated": (
        ("the 2023 edition", "the 2024 edition"),
        ("the May contract", "the June contract"),
        ("the spring edition", "the autumn edition"),
    ),
}
"""Owners whose names say little to an embedder, for any trade."""
KINDS = (*ALIKE, "known")


def corpus(
    kind: str, pairs: slice, *, long: bool, trades: Sequence[Trade] = TRADES
) -> tuple[list[Passage], list[Asked]]:
    """The twins of these pairs of a kind in each trade, and the questions about them.

    `long` puts the trade's small print around each text, which makes all texts of the trade more alike."""
    passages: list[Passage] = []
    asked: list[Asked] = []
    for trade in trades:
        first, rest = _halves(trade.small_print) if long else ("", "")
        for text, *questions in trade.subjects:
            for pair in (trade.known if kind == "known" else ALIKE[kind])[pairs]:
                twins = [_passage(f"{first} {_told(text, owner)} {rest}".strip()) for owner in pair]
                passages += twins
                for owner, right, wrong in zip(pair, twins, reversed(twins), strict=True):
                    asked += [Asked(_told(question, owner), right.id, wrong.id) for question in questions]
    return passages, asked


def _told(text: str, owner: str) -> str:
    """The text about this owner, with a capital where a sentence begins with it."""
    return re.sub(r"(^|\. )([a-z])", lambda match: match[1] + match[2].upper(), text.format(owner))


def _passage(text: str) -> Passage:
    return Passage(content_hash(text), 0, len(text), text, "")


def _halves(text: str) -> tuple[str, str]:
    sentences = text.split(". ")
    middle = len(sentences) // 2
    return ". ".join(sentences[:middle]) + ".", ". ".join(sentences[middle:])
