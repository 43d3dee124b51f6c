"""The laws of the strategies that a writer carries out: entities, study, self-study, summaries, implications, focus."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Sequence

import pytest

from imprint.errors import BadSetting
from imprint.synthesis import skills
from imprint.synthesis.active_reading import ActiveReading, strategies
from imprint.synthesis.entigraph import EntiGraph, entities, is_named
from imprint.synthesis.facts import dealt
from imprint.synthesis.focal import Focal, on_its_own
from imprint.synthesis.forms import TOGETHER
from imprint.synthesis.prompt_files import prompt_lines
from imprint.synthesis.prose import prose
from imprint.synthesis.self_edit import SelfEdit
from imprint.synthesis.self_study import FAMILIES, SelfStudy, as_request
from imprint.synthesis.summaries import Summaries
from imprint.types import Example, Generator, Passage, Prompt, Text, Turn
from scholar import PASSAGES, SHORT, TEXTS, TITLE, Scholar, about, passage, scholar

KINDS: list[Callable[[], Generator]] = [EntiGraph, ActiveReading, SelfStudy, Summaries, SelfEdit, Focal]
NAMES = ["entigraph", "active_reading", "self_study", "summaries", "self_edit", "focal"]


@pytest.fixture(params=KINDS, ids=NAMES)
def kind(request: pytest.FixtureRequest) -> Generator:
    made: Generator = request.param()
    return made


def made(
    kind: Generator, passages: Sequence[Passage] = PASSAGES, *, writer: Scholar | None = None, seed: int = 0
) -> list[Example]:
    return list(kind.examples(passages, writer or Scholar(), seed=seed))


def variants(examples: Sequence[Example]) -> set[str]:
    return {e.generator.partition("/")[2] for e in examples}


# --- of all -----------------------------------------------------------------------------------


def test_the_kinds_bear_the_names_that_recipes_use() -> None:
    assert [k().name for k in KINDS] == NAMES
    assert all(isinstance(k(), Generator) for k in KINDS)


def test_a_faithful_writer_teaches_every_passage_what_it_says(kind: Generator) -> None:
    by_id = {p.id: p for p in PASSAGES}
    examples = made(kind)
    assert {i for e in examples for i in e.passages} == set(by_id)
    for example in examples:
        assert example.generator.startswith(f"{kind.name}/")
        assert example.writer == "scholar"
        source = " ".join(f"{by_id[i].title} {by_id[i].text}" for i in example.passages)
        said = " ".join(t.text for t in example.turns if t.learn)
        assert all(word in source for word in re.findall(r"\d+|(?<=[a-z] )[A-Z]\w+", said)), example


def test_no_example_shows_its_passage(kind: Generator) -> None:
    for example in made(kind):
        assert not any(p.text in turn.text for turn in example.turns for p in PASSAGES)
        assert [t.role for t in example.turns if t.learn] in (["text"], ["assistant"])


def test_texts_name_their_document(kind: Generator) -> None:
    for example in made(kind):
        if example.turns[0].role == "text":
            assert example.turns[0].text.startswith(f"{TITLE}.")


def test_the_same_seed_tells_the_same_and_another_seed_asks_otherwise(kind: Generator) -> None:
    first, again, other = Scholar(), Scholar(), Scholar()
    assert made(kind, writer=first, seed=3) == made(kind, writer=again, seed=3)
    made(kind, writer=other, seed=4)
    assert {p for p, _ in first.asked} != {p for p, _ in other.asked}


def test_the_passage_stands_before_what_is_asked(kind: Generator) -> None:
    writer = Scholar()
    made(kind, writer=writer)
    for prompt, _ in writer.asked:
        assert prompt.skill or re.fullmatch(r"<text>\n.*\n</text>\n\n.+", prompt.turns[-1].text, re.DOTALL)
        assert "{" not in prompt.turns[-1].text


def test_a_round_streams(kind: Generator) -> None:
    writer = Scholar()
    many = [passage(TEXTS[i % 3], i) for i in range(4 * TOGETHER)]
    stream = kind.examples(many, writer, seed=0)
    assert next(iter(stream)).passages[0] in {p.id for p in many[:TOGETHER]}
    assert len(writer.asked) <= 5 * TOGETHER


def test_braces_and_tags_of_a_document_break_no_prompt(kind: Generator) -> None:
    odd = passage("Set {title} and {passage} to 5 in </text> before you call Ana Petrov. It works on {question} too.")
    writer = Scholar()
    made(kind, [odd], writer=writer)
    assert all("{title} and {passage}" in p.turns[-1].text for p, _ in writer.asked)


@pytest.mark.parametrize("reply", ["", " ", "No", "\n\n", "<text>", "1.", "a a a a a a a a a a a a a a.", "{", "| a |", "- x"])
def test_a_writer_that_writes_nothing_of_worth_breaks_nothing(kind: Generator, reply: str) -> None:
    for example in made(kind, writer=Scholar(lambda _: reply)):
        assert all(t.text.strip() for t in example.turns)


@pytest.mark.parametrize("text", ["", " \n", "Oh.", "...", "公司成立于1987年。总部在上海。", "1\n2\n3", "word " * 600])
def test_no_text_breaks_a_kind(kind: Generator, text: str) -> None:
    for i in range(3):
        made(kind, [passage(text, title=""), passage(text, 1)], seed=i)
    assert kind.effort(passage(text)).prompts >= 1


def test_nothing_to_read_asks_nothing_of_the_writer(kind: Generator) -> None:
    writer = Scholar()
    assert made(kind, [], writer=writer) == []
    assert writer.asked == []


def test_a_copy_of_the_passage_is_no_text_of_ours(kind: Generator) -> None:
    copied = made(kind, writer=Scholar(lambda p: "" if p.begun else about(p)[0]))
    assert [e for e in copied if e.turns[0].role == "text"] == []


def test_the_effort_is_what_a_round_takes_and_gives(kind: Generator) -> None:
    writer = Scholar()
    taught = sum(len(t.text) for seed in range(10) for e in made(kind, writer=writer, seed=seed) for t in e.turns)
    efforts = [kind.effort(p) for p in PASSAGES]
    prompts = 10 * sum(e.prompts for e in efforts)
    read = sum(len(t.text) for p, _ in writer.asked for t in p.turns)
    assert len(writer.asked) <= prompts <= 2 * len(writer.asked)
    assert read / 2 < 10 * sum(e.read_characters for e in efforts) < 2 * read
    assert taught / 4 < 10 * sum(e.taught_characters for e in efforts) < 4 * taught


@pytest.mark.parametrize(
    ("kind", "setting"),
    [
        (EntiGraph, {"pairs": 0}),
        (ActiveReading, {"proposals": 1}),
        (SelfStudy, {"mannered": 1.5}),
        (Summaries, {"lines_at_once": 1}),
        (SelfEdit, {"implications": 0}),
        (Focal, {"questions": 0}),
    ],
)
def test_a_setting_out_of_range_is_refused(kind: Callable[..., Generator], setting: dict[str, float]) -> None:
    with pytest.raises(BadSetting, match=next(iter(setting))):
        kind(**setting)


# --- what was written -------------------------------------------------------------------------

ASKED = Prompt.ask("<text>\nThe Kestrel weighs 3.5 kilograms.\n</text>\n\nSum up the text above in a sentence.", begun="In short,")


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("the Kestrel weighs 3.5 kilograms. It is al", "In short, the Kestrel weighs 3.5 kilograms."),
        ("the Kestrel weighs 3.5 kilo", ""),
        ("it was drawn by Dr. Ana Petrov. She met Dr. Stro", "In short, it was drawn by Dr. Ana Petrov."),
        ("In short, the Kestrel is a light tent.", "In short, the Kestrel is a light tent."),
        ("the tent is light. It is good. It is good.", "In short, the tent is light. It is good."),
        ("Sum up the text above in a sentence.", ""),
        ("as an AI I have no opinion of any tent.", ""),
    ],
)
def test_prose_is_whole_goes_nowhere_twice_and_is_no_copy(written: str, kept: str) -> None:
    assert prose(ASKED, written) == kept


def test_prose_keeps_no_polite_opening() -> None:
    prompt = Prompt(ASKED.turns)
    assert prose(prompt, "Sure! Here is a summary:\nThe tent called Kestrel is light.") == "The tent called Kestrel is light."


# --- entigraph --------------------------------------------------------------------------------


def test_only_what_stands_in_the_passage_is_an_entity_of_it() -> None:
    written = "1. kestrel: a tent\n2. **Ana Petrov** (designer)\n3. Petrov\n4. Paris\n5. it\n6. 85 euros"
    assert entities(PASSAGES[0], written) == ["Kestrel", "Ana Petrov", "85 euros"]
    assert entities(PASSAGES[0], "Kestrel, Ana Petrov, Rome") == ["Kestrel", "Ana Petrov"]


def test_a_name_may_go_on_in_the_next_line() -> None:
    assert entities(passage("It was drawn by Ana\nPetrov in Rome."), "Ana Petrov\nRome") == ["Ana Petrov", "Rome"]


@pytest.mark.parametrize("written", ["", "Paris", "I do not know any."])
def test_where_the_writer_finds_none_a_rule_finds_names_and_numbers(written: str) -> None:
    found = entities(PASSAGES[0], written)
    assert {"Ana Petrov", "85 euros", "3 kilograms", "1987"} <= set(found)
    assert all(e in TEXTS[0] for e in found)


def test_pairs_and_a_triple_are_told_of() -> None:
    assert variants(made(EntiGraph(), writer=Scholar(tell_all))) == {"pair", "triple"}


def tell_all(prompt: Prompt) -> str:
    names = re.findall(r'"([^"]+)"', about(prompt)[1])
    return f"it is told of {' and '.join(names)} that they belong together." if names else scholar(prompt)


def test_one_entity_is_told_of_alone() -> None:
    writer = Scholar(lambda p: "Rome" if "List" in about(p)[1] else "of Rome nothing else is known here.")
    examples = made(EntiGraph(), [passage("Oh, Rome!")], writer=writer)
    assert variants(examples) == {"entity"}


def test_a_text_that_leaves_an_entity_out_is_dropped() -> None:
    writer = Scholar(lambda p: scholar(p) if "List" in about(p)[1] else "it is told of Acme that all is well there.")
    assert made(EntiGraph(), PASSAGES[:1], writer=writer) == []


def test_no_pair_comes_again_before_all_were_told_of() -> None:
    pairs = list(itertools.combinations("abcde", 2))
    rounds = [dealt(pairs, 2, key="k", seed=s) for s in range(7, 12)]
    assert sorted(itertools.chain(*rounds)) == pairs


def test_entities_are_asked_for_alike_in_every_round() -> None:
    writer = Scholar()
    for seed in range(3):
        made(EntiGraph(), writer=writer, seed=seed)
    lists = [(p, seed) for p, seed in writer.asked if "List the people" in about(p)[1]]
    assert len(lists) == 3 * len(PASSAGES)
    assert len(set(lists)) == len(PASSAGES)


@pytest.mark.parametrize(("text", "said"), [("It costs 85 euros.", True), ("It costs 58 euros.", False), ("It is 85.", False)])
def test_a_number_is_named_with_its_digits(text: str, said: bool) -> None:
    assert is_named("85 euros", text) is said


# --- active reading ---------------------------------------------------------------------------


def test_strategies_are_proposed_once_for_a_document_from_its_beginning() -> None:
    writer = Scholar()
    other = [passage(TEXTS[0], 0, "d2")]
    for seed in range(2):
        made(ActiveReading(), [*PASSAGES, *other], writer=writer, seed=seed)
    proposals = [(about(p)[0], seed) for p, seed in writer.asked if "Suggest" in about(p)[1]]
    assert proposals == [(TEXTS[0], 0)] * 4


def test_each_round_applies_other_strategies_of_those_proposed() -> None:
    def way(prompt: Prompt) -> str:
        return about(prompt)[1].partition("in this way: ")[2].splitlines()[0]

    met = set()
    for seed in range(3):
        writer = Scholar()
        made(ActiveReading(applied=1), PASSAGES[:1], writer=writer, seed=seed)
        met |= {way(p) for p, _ in writer.asked if "in this way" in about(p)[1]}
    assert met == {"Explain to a friend what it says.", "Retell every sentence backwards.", "Compare all of its parts."}


@pytest.mark.parametrize("written", ["", "1. Read the text again slowly.\n2. Explain it to a young child.", "The shop is open.\nWhy is it?"])
def test_our_own_strategies_stand_in_where_fewer_than_two_can_be_used(written: str) -> None:
    assert strategies(PASSAGES[0], written) == list(prompt_lines("active_reading.strategies.txt"))


# --- self-study -------------------------------------------------------------------------------


def test_over_the_rounds_a_passage_meets_every_family() -> None:
    examples = [e for seed in range(5) for e in made(SelfStudy(mannered=0), PASSAGES[:1], seed=seed)]
    told = [e.generator.partition("/")[2] for e in examples]
    assert {f: told.count(f) for f in told} == dict.fromkeys(FAMILIES, 2)


def test_no_seed_prompt_comes_again_before_all_were_met() -> None:
    writer = Scholar()
    wishes = [line.partition(" | ")[0] for f in FAMILIES for line in prompt_lines(f"self_study.{f}.txt")]
    for seed in range(len(wishes) // 2):
        made(SelfStudy(), PASSAGES[:1], writer=writer, seed=seed)
    assert [sum(wish in p.turns[-1].text for p, _ in writer.asked) for wish in wishes] == [1] * len(wishes)


def test_a_fifth_of_the_requests_ask_for_a_format_or_reasoning() -> None:
    manners = {line.partition(" |")[0] for kind in ("formats", "reasoning") for line in prompt_lines(f"self_study.{kind}.txt")}
    many = [passage(TEXTS[i % 3], i) for i in range(500)]
    writer = Scholar()
    made(SelfStudy(), many, writer=writer)
    answers = [p for p, _ in writer.asked if "Write that one request" not in p.turns[-1].text]
    mannered = [p for p in answers if about(p)[1].endswith(tuple(manners))]
    assert len(answers) == 1000
    assert 0.15 < len(mannered) / len(answers) < 0.25


def test_short_questions_are_answered_by_the_reader() -> None:
    writer = Scholar()
    examples = [e for seed in range(5) for e in made(SelfStudy(mannered=0), writer=writer, seed=seed)]
    reads = [p for p, _ in writer.asked if p.skill == "read"]
    questions = [e for e in examples if e.generator == "self_study/question"]
    assert len(reads) == len(questions) == 2 * len(PASSAGES)
    assert {e.turns[1].text for e in questions} == set(SHORT.values())


@pytest.mark.parametrize("answer", [skills.ABSTENTION, "The text does not mention it at all.", "That is not stated in the passage.", "There is no information on it."])
def test_abstentions_are_dropped(answer: str) -> None:
    def reply(prompt: Prompt) -> str:
        return scholar(prompt) if "Write that one request" in prompt.turns[-1].text else answer

    assert made(SelfStudy(mannered=0), writer=Scholar(reply)) == []


SHAPES = {
    "Answer with a bullet list.": ("one thing.\n- another thing.\n- a thi", "- one thing.\n- another thing."),
    "Answer with a numbered list.": ("one thing.\n2. another thing.", "1. one thing.\n2. another thing."),
    "Answer with a table of two columns.": ("a | b |\n| c | d |\n| e", "| a | b |\n| c | d |"),
    "Answer in JSON.": ('"Kestrel": 85}\nThat is all.', '{ "Kestrel": 85}'),
    "Answer in one sentence.": ("The Kestrel is green. It is light.", "The Kestrel is green."),
}


def test_a_format_asked_for_is_kept_or_the_exchange_dropped() -> None:
    def reply(prompt: Prompt) -> str:
        return next((w for manner, (w, _) in SHAPES.items() if prompt.turns[-1].text.endswith(manner)), scholar(prompt))

    examples = [e for seed in range(40) for e in made(SelfStudy(mannered=1), writer=Scholar(reply), seed=seed)]
    for manner, (_, kept) in SHAPES.items():
        answers = {e.turns[1].text for e in examples if e.turns[0].text.endswith(manner)}
        assert answers == {kept}, manner
    assert json.loads(SHAPES["Answer in JSON."][1])
    broken = Scholar(lambda p: "{ oh" if p.turns[-1].text.endswith("JSON.") else scholar(p))
    examples = [e for seed in range(40) for e in made(SelfStudy(mannered=1), writer=broken, seed=seed)]
    assert not [e for e in examples if e.turns[0].text.endswith("JSON.")]


@pytest.mark.parametrize(
    ("written", "request_"),
    [
        ('"What does the Kestrel cost? I ask for a friend."', "What does the Kestrel cost?"),
        ("Request: List what Acme sells\nand more", "List what Acme sells."),
        ("Why?", ""),
        ("List " + "every thing " * 15, ""),
    ],
)
def test_a_request_is_one_whole_sentence(written: str, request_: str) -> None:
    assert as_request(written) == request_


@pytest.mark.parametrize(
    ("words", "alone"),
    [
        ("What does the text say about Ana Petrov?", f"What does {TITLE} say about Ana Petrov?"),
        ("According to the passage above, what is green?", f"According to {TITLE}, what is green?"),
        ("Which of the facts above is about Ana?", ""),
        ("When did he leave?", ""),
        ("When did Ana say he left?", "When did Ana say he left?"),
        ("Does the tent work above 3000 metres?", "Does the tent work above 3000 metres?"),
        ("Which things are listed above?", ""),
    ],
)
def test_a_question_can_be_understood_without_the_text(words: str, alone: str) -> None:
    assert on_its_own(words, PASSAGES[0]) == alone


def test_a_document_may_speak_of_documents_and_be_called_the_passage() -> None:
    own = passage("Hedda signs the document in May.", title="The Passage to Acme")
    assert on_its_own("Who signs the document?", own) == "Who signs the document?"
    assert on_its_own("Who signs in The Passage to Acme?", own) == "Who signs in The Passage to Acme?"


# --- summaries --------------------------------------------------------------------------------


def test_a_document_is_summed_up_at_three_grains_from_its_own_sentences() -> None:
    writer = Scholar()
    examples = made(Summaries(), writer=writer)
    assert variants(examples) == {"sentence", "paragraph", "document"}
    (whole,) = [e for e in examples if e.generator == "summaries/document"]
    assert whole.passages == tuple(p.id for p in PASSAGES)
    assert whole.turns[0].text.startswith(f"{TITLE}. ")
    assert "What we make" not in whole.turns[0].text
    lines = [e.turns[0].text.partition("What we make. ")[2] for e in examples if e.generator == "summaries/sentence"]
    assert writer.asked[-1][0].turns[-1].text.startswith("<text>\n" + "\n".join(lines) + "\n</text>")


def test_a_document_of_one_passage_has_no_summary_of_its_own() -> None:
    two = [passage(TEXTS[0], 0, "a"), passage(TEXTS[1], 0, "b")]
    assert variants(made(Summaries(), two)) == {"sentence", "paragraph"}


def test_a_long_document_is_summed_up_in_stretches() -> None:
    def reply(prompt: Prompt) -> str:
        halls = re.findall(r"\d+", about(prompt)[0])
        return f"the halls from {halls[0]} on are told of in {len(halls)} lines here."

    writer = Scholar(reply)
    many = [passage(f"Hall {i} is near the gate.", i) for i in range(40)]
    examples = made(Summaries(lines_at_once=4), many, writer=writer)
    parts = [p for p, _ in writer.asked if "parts of" in about(p)[1]]
    assert len(parts) == 10 + 3 + 1
    assert all(len(p.turns[-1].text.partition("</text>")[0].splitlines()) <= 1 + 4 for p in parts)
    assert sum(e.generator == "summaries/document" for e in examples) == 1


def test_documents_are_summed_up_together() -> None:
    class Counting(Scholar):
        calls = 0

        def write(self, prompts: Sequence[Prompt], *, seed: int) -> list[Text]:
            self.calls += 1
            return super().write(prompts, seed=seed)

    writer = Counting(lambda p: f"the halls from {re.findall(r'[0-9]+', about(p)[0])[0]} on are told of here.")
    many = [passage(f"Hall {i} is near the gate.", i, f"d{i // 6}") for i in range(48)]
    examples = made(Summaries(lines_at_once=4), many, writer=writer)
    assert sum(e.generator == "summaries/document" for e in examples) > 4
    assert writer.calls == 1 + 1 + 1  # the passages, stretches of their sentences, the documents


def test_documents_may_be_mixed() -> None:
    mixed = [passage(TEXTS[i % 3], i, f"d{i % 2}") for i in range(6)]
    wholes = [e for e in made(Summaries(), mixed) if e.generator == "summaries/document"]
    assert [{i.split(":")[0] for i in e.passages} for e in wholes] == [{"d0"}, {"d1"}]


# --- self-edit --------------------------------------------------------------------------------


def test_implications_are_taught_as_a_list_and_short_ones_alone() -> None:
    long = "Whoever buys the Kestrel pays 85 euros for it and carries 3 kilograms home, which Ana Petrov thought of in 1987 already"
    reply = f" A green thing can be the Kestrel.\n2. {long}\n3. {TEXTS[0].split('. ')[0]}.\n4. Ana Petrov drew it in the ye"
    texts = [e.turns[0].text.partition("What we make. ")[2] for e in made(SelfEdit(), PASSAGES[:1], writer=Scholar(lambda _: reply))]
    assert texts == [f"A green thing can be the Kestrel.\n{long}.", "A green thing can be the Kestrel."]


def test_rounds_look_from_all_sides() -> None:
    writer = Scholar()
    angles = prompt_lines("self_edit.angles.txt")
    for seed in range(len(angles)):
        made(SelfEdit(), PASSAGES[:1], writer=writer, seed=seed)
    assert [sum(a in p.turns[-1].text for p, _ in writer.asked) for a in angles] == [1] * len(angles)


# --- focal ------------------------------------------------------------------------------------


def test_a_passage_is_rewritten_for_a_question_that_it_answers() -> None:
    writer = Scholar()
    examples = made(Focal(), PASSAGES[:1], writer=writer)
    assert variants(examples) == {"rewrite", "question"}
    asked = about(writer.asked[-1][0])[1].splitlines()[0].removeprefix("A reader wonders: ")
    assert asked in "".join(e.turns[0].text for e in examples if e.generator == "focal/question")
    assert [p.skill for p, _ in writer.asked] == ["ask", ""]


def test_a_rewrite_that_leaves_the_answer_out_is_dropped() -> None:
    writer = Scholar(lambda p: scholar(p) if p.skill else "it is told of the Kestrel that it is a green thing.")
    assert variants(made(Focal(), PASSAGES[:1], writer=writer)) == {"question"}


def test_rounds_ask_for_different_numbers_of_questions() -> None:
    counts = set()
    for seed in range(3):
        writer = Scholar()
        made(Focal(), PASSAGES[:1], writer=writer, seed=seed)
        counts.add(about(writer.asked[0][0])[1])
    assert counts == {skills.ask_several_words(n) for n in (2, 3, 4)}


@pytest.mark.parametrize("pair", ["What costs 85 euros? | 85 euros", f"What is blue at Acme? | {skills.ABSTENTION}", "What is given above? | 85 euros"])
def test_a_question_that_gives_its_answer_away_or_has_none_is_dropped(pair: str) -> None:
    assert made(Focal(), PASSAGES[:1], writer=Scholar(lambda _: pair)) == []


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("The text is about a tent that weighs 3 kilograms.", False),
        ("Both texts say that the tent weighs 3 kilograms.", False),
        ("I'm sorry, but I cannot help with that request at all.", False),
        ("The judge passed the sentence in 1931 and went home.", True),
    ],
)
def test_prose_speaks_of_the_matter_and_not_of_the_text(written: str, kept: bool) -> None:
    shown = "<text>\nThe tent weighs 3 kilograms. The sentence was passed in 1931 by a judge.\n</text>\n\nTell it."
    prompt = Prompt((Turn("user", shown),), begun="In short,")
    assert bool(prose(prompt, written)) == kept


def test_a_document_is_summed_up_only_where_most_of_it_is_at_hand() -> None:
    text = "The Kestrel weighs 3 kilograms and is sewn in Pellivost. " * 4
    parts = [Passage("d", i, i + len(text), f"{text}Part {i}.", "Tents", whole=text * 3) for i in range(3)]

    def documents(passages: Sequence[Passage]) -> int:
        made = Summaries().examples(passages, Scholar(), seed=0)
        return sum(e.generator.endswith("/document") for e in made)

    assert documents(parts) == 1
    assert documents(parts[:2]) == 0
