import random
import re
import time

import pytest

from imprint.documents import sentences, split
from imprint.documents.chunking import estimated_tokens
from imprint.documents.headings import headings
from imprint.errors import BadSetting
from imprint.types import Document


def document(text, source="a.md", **fields):
    return Document(text, source, "A title", **fields)


def found(text):
    return [text[start:end] for start, end in sentences(text)]


# --- split ------------------------------------------------------------------------------------


def random_text(rng):
    pieces = [
        "# A heading", "## Deeper\n", "### Deepest", "Title\n=====\n", "#notaheading ", "```\n# no\n```\n",
        "\n", "\n\n", "   ", " \t\n", "\r", "- an item\n", "1. first\n", "a | b | c\n", "€ \u2028 🙂",
        "Plain words follow here. ", "Dr. Ada wrote no. 5. Then she left!\n", "你好。世界！",
        "x" * rng.randint(1, 300), "word " * rng.randint(1, 120),
    ]  # fmt: skip
    return "".join(rng.choice(pieces) for _ in range(rng.randint(1, 40)))


def letters(text):
    return "".join(re.findall(r"\w", text))


def heading_chars(text):
    return {at for heading in headings(text) for at in range(heading.start, heading.end)}


@pytest.mark.parametrize("seed", range(60))
def test_every_character_outside_headings_lies_in_exactly_one_passage(seed):
    text = random_text(random.Random(seed))
    passages = split(document(text), max_tokens=random.Random(seed).choice([1, 7, 40, 256]))
    covered = [at for p in passages for at in range(p.start, p.end) if not text[at].isspace()]
    assert covered == sorted(set(covered))
    missing = {at for at, char in enumerate(text) if not char.isspace()} - set(covered)
    assert missing <= heading_chars(text)


@pytest.mark.parametrize("seed", range(60))
def test_a_passage_is_its_stretch_of_the_document_and_within_the_limit(seed):
    text = random_text(random.Random(seed))
    for passage in split(document(text), max_tokens=20):
        assert text[passage.start : passage.end] == passage.text == passage.text.strip() != ""
        assert estimated_tokens(passage.text) <= 20


@pytest.mark.parametrize("seed", range(60))
def test_no_heading_is_lost(seed):
    text = random_text(random.Random(seed))
    passages = split(document(text))
    said = "".join(p.text + p.heading for p in passages)
    assert all(letters(heading.words) in letters(said) for heading in headings(text))


def test_a_passage_names_the_headings_above_it():
    passages = split(document("# A\none\n## B\ntwo\n### C {#c}\nthree\n# D\nfour\n"))
    assert [(p.heading, p.text) for p in passages] == [
        ("A", "one"), ("A > B", "two"), ("A > B > C", "three"), ("D", "four"),
    ]  # fmt: skip


def test_a_document_of_headings_alone_is_taught_as_text():
    passages = split(document("# A\n## B\n## C\n"))
    assert [(p.heading, p.text) for p in passages] == [("A", "## B\n## C")]


def test_a_comment_in_code_is_no_heading():
    assert [p.heading for p in split(document("x = 1\n\n# not a heading\ny = 2\n", "a.py"))] == [""]
    assert [p.heading for p in split(document("# Yes\n```\n# no\n```\nend"))] == ["Yes"]


def test_paragraphs_are_kept_whole_where_they_fit():
    first, second, third = "One two three four. " * 4, "Five six seven. " * 4, "Eight nine. " * 4
    passages = split(document(f"{first}\n\n{second}\n\n{third}"), max_tokens=38)
    assert [p.text for p in passages] == [f"{first}\n\n{second}".strip(), third.strip()]


def test_a_long_paragraph_is_cut_between_sentences():
    text = "The first sentence is here. The second one follows it. The third one ends it."
    assert [p.text for p in split(document(text), max_tokens=14)] == [
        "The first sentence is here. The second one follows it.", "The third one ends it.",
    ]  # fmt: skip


def test_a_long_sentence_is_cut_between_words():
    words = [f"word{n}" for n in range(50)]
    passages = split(document(" ".join(words)), max_tokens=10)
    assert [word for p in passages for word in p.text.split()] == words


def test_the_limit_is_counted_by_the_tokenizer_given():
    passages = split(document("a b c d e f g"), max_tokens=3, count_tokens=lambda text: len(text.split()))
    assert [p.text for p in passages] == ["a b c", "d e f", "g"]


def test_a_passage_knows_its_page():
    passages = split(document("First page.\n\nSecond page.", page_starts=(0, 13)), max_tokens=4)
    assert [p.page for p in passages] == [1, 2]


def test_a_limit_below_one_token_is_refused():
    with pytest.raises(BadSetting, match="max_tokens is 0"):
        split(document("text"), max_tokens=0)


# --- sentences --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "first, second",
    [
        ("Dr. Ada Lovelace met Mr. Babbage at 5 p.m. in St. James.", "They spoke of engines."),
        ("Sales rose 3.5 percent to $1.2 billion.", "Costs fell."),
        ("Acme Inc. bought Widgets Ltd. and Foo Corp. in May.", "It paid cash."),
        ("We use tools, e.g. hammers, i.e. heavy ones.", "You may too."),
        ("J. R. R. Tolkien wrote it.", "We read it."),
        ("He moved to the U.S. in 1990.", "She stayed."),
        ("They sell in the U.S.", "The rest is exported."),
        ("It was made by Acme Inc.", "The price is low."),
        ("See No. 5 and Fig. 3 on p. 12.", "It helps."),
        ("He said no.", "Nobody asked why."),
        ("“Is it true?” she asked.", "“It is.”"),
        ("It ended in 2018.", "Net sales rose."),
        ("That holds.[1]", "This does not."),
        ("**It is bold.**", "This is not."),
        ("Really?!", "Yes."),
        ("Wait... what did he say?", "Nothing."),
        ("Visit www.example.com/a.b today.", "It is free."),
        ("Wir treffen uns am 3. Oktober, z.B. in Berlin.", "Das ist gut."),
        ("Das kostet ca. 5 Euro bzw. 6 Franken.", "Er zahlt."),
        ("¿Qué hora es?", "¡Es tarde!"),
        ("यह एक वाक्य है।", "यह दूसरा है।"),
    ],
)
def test_two_sentences_are_two(first, second):
    assert found(f"{first} {second}") == [first, second]


def test_chinese_sentences_need_no_space():
    assert found("今天天气很好。我们去公园吧！好吗？") == ["今天天气很好。", "我们去公园吧！", "好吗？"]


def test_a_sentence_wrapped_over_lines_is_one():
    text = (
        "All employees of Contoso Electronics, whether full-time or part-time, are asked\n"
        "to read this handbook. Questions go to the Human Resources department in\n"
        "Building 7, which answers them within two days."
    )
    first, second = found(text)
    assert first.startswith("All employees") and first.endswith("read this handbook.")
    assert second.startswith("Questions go") and second.endswith("two days.")


def test_items_of_a_list_are_apart_and_may_wrap():
    wrapped = "- honesty in all that we say and in everything that\n  we do"
    lines = ["We value:", wrapped, "- speed", "1. Quality: first.", "2. Fun"]
    assert found("\n".join(lines)) == lines


def test_rows_of_a_table_and_fields_of_a_record_are_apart():
    assert found("Net sales | 2018 | 2017\nTotal | 5 | 6") == ["Net sales | 2018 | 2017", "Total | 5 | 6"]
    assert found("name: Ada\nborn: 1815") == ["name: Ada", "born: 1815"]


def test_headings_and_code_lines_are_apart():
    assert found("# A heading\nThe text.\n```\nx = 1\ny = 2\n```") == [
        "# A heading", "The text.", "```", "x = 1", "y = 2", "```",
    ]  # fmt: skip


def test_a_stack_of_short_lines_is_not_one_sentence():
    text = "Apple Inc.\nCalifornia\nOne Apple Park Way is the address of the company meant here.\nTel"
    assert len(found(text)) == 4


@pytest.mark.parametrize("seed", range(30))
def test_sentences_hold_every_character_once_and_in_order(seed):
    text = random_text(random.Random(seed))
    spans = sentences(text)
    assert [a for span in spans for a in span] == sorted(a for span in spans for a in span)
    assert re.sub(r"\s", "", "".join(text[a:b] for a, b in spans)) == re.sub(r"\s", "", text)


@pytest.mark.parametrize(
    "unit", [". ", "!", "e.g. ", " ", "\n", "- ", "a|", "1. ", "#", "```\n", '."', "(1) "]
)
def test_hostile_repetition_costs_no_more_than_its_length(unit):
    text = unit * (200_000 // len(unit))
    begun = time.perf_counter()
    sentences(text)
    split(document(text + "x"))
    assert time.perf_counter() - begun < 5
