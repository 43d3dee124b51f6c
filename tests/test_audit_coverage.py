"""The laws of coverage: a fact is taught where learnt words tell it, and what nobody tells is listed."""

from imprint.synthesis.coverage import Coverage
from imprint.types import Example, Passage, Turn

TEXT = "Hedda Strouvian founded the bakery on 5 May 1987. It sells 12 kinds of bread. The oven is heated with beech wood."
PASSAGE = Passage("d1", 0, len(TEXT), TEXT, "Acme")
OTHER = Passage("d2", 0, 38, "The mill on the river has 4 old wheels.", "Mill")


def item(asked: str, answer: str, *ids: str) -> Example:
    turns = (Turn("user", asked), Turn("assistant", answer, learn=True))
    return Example(turns, ids or (PASSAGE.id,), "test")


def test_nothing_is_taught_before_the_first_example() -> None:
    cover = Coverage([PASSAGE])
    assert {k: (s.taught, s.all) for k, s in cover.share().items()} == {
        "number": (0, 1), "name": (0, 1), "date": (0, 1), "sentence": (0, 3),
    }  # fmt: skip
    assert cover.untouched() == [PASSAGE.id]


def test_a_fact_is_taught_where_it_is_learnt_and_mentioned_where_it_is_asked() -> None:
    cover = Coverage([PASSAGE])
    cover.add(item("Does it sell 12 kinds?", "Hedda Strouvian, on May 5, 1987"))
    share = cover.share()
    assert (share["number"].taught, share["number"].mentioned) == (0, 1)
    assert share["name"].taught == share["date"].taught == 1
    cover.add(item("How many kinds?", "twelve"))
    assert cover.share()["number"].taught == 1


def test_a_sentence_is_taught_where_most_of_its_words_come_together() -> None:
    cover = Coverage([PASSAGE])
    cover.add(item("With what is the oven heated?", "beech wood"))
    assert cover.share()["sentence"].taught == 1
    assert "The oven is heated with beech wood." not in [text for _, _, text in cover.uncovered()]


def test_an_example_teaches_only_the_passages_it_was_made_of() -> None:
    cover = Coverage([PASSAGE, OTHER])
    cover.add(item("How many?", "4 and 12", PASSAGE.id, "elsewhere:0-1"))
    assert (OTHER.id, "number", "4") in set(cover.uncovered())
    assert cover.untouched() == [OTHER.id]


def test_thin_passages_come_thinnest_first() -> None:
    cover = Coverage([PASSAGE, OTHER])
    cover.add(item("Who?", TEXT[:50]))
    assert cover.thin_passages(below=1.1) == [OTHER.id, PASSAGE.id]
    cover.add(item("All?", TEXT))
    assert cover.thin_passages(below=1.0) == [OTHER.id]
    assert cover.share_of(PASSAGE.id) == 1.0
