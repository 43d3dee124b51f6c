"""Context, RAG or weights? What each would cost, how fast and how good it would be, and which to take.

    prices.py           a dated table, which a file of the user's may replace
    qualities.py        how often each way answers rightly: by the user's certificates, else by ours
    ways.py             the arithmetic: money, seconds, memory, break-even
    recommendation.py   the way to take, in plain words

All of it is pure: speeds, prices, measurements and the day come as arguments, and nothing here waits for torch."""

from imprint.advice.prices import Hosted, Hour, Prices
from imprint.advice.qualities import Measured, Quality
from imprint.advice.recommendation import Recommendation
from imprint.advice.ways import Pace, Size, Teaching, Use, Way
from imprint.advice.whole import Advice, advise

__all__ = [
    "Advice", "Hosted", "Hour", "Measured", "Pace", "Prices", "Quality", "Recommendation", "Size", "Teaching",
    "Use", "Way", "advise",
]  # fmt: skip
