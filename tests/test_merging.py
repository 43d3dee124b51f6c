"""Several adapters as one: exact where it says so, PEFT's where PEFT has it, refused where it cannot be right."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from typer.testing import CliRunner

from conftest import make_tiny_base
from imprint.adapters import folder
from imprint.adapters.layout import PEFT_PREFIX
from imprint.adapters.low_rank import LoRA
from imprint.base import Base
from imprint.continual import merged, merging
from imprint.continual.merged import losses_on, merge_versions, texts_of
from imprint.continual.merging import Merging, check, layers_of, merge, norm, update_of
from imprint.corpus import Corpus
from imprint.engine import Engine
from imprint.engine.passes import PassRow, forward_backward, logprobs
from imprint.errors import BadInput, BadSetting, WrongBase
from imprint.interfaces import cli
from imprint.registry import Registry
from imprint.run_folder import RunFolder
from imprint.training.batches import Row, rows
from imprint.training.loop import learnt_tokens
from imprint.training.row_file import RowFile
from imprint.training.sft import Job, train
from imprint.types import Adapter, Document, Example, Turn, Version
from test_kinds import made
from test_kinds import rows as pass_rows

NOW = "2026-01-01T00:00:00+00:00"


def pair(base: Base) -> dict[str, Adapter]:
    """Two LoRAs of different ranks and scales that both say something."""
    return {
        "anna": single(made("lora", base, seed=1, rank=4, alpha=8.0)),
        "ben": single(made("lora", base, seed=2, rank=6, alpha=6.0, rslora=True)),
    }


def single(adapter: Adapter) -> Adapter:
    return replace(adapter, tensors={name: t.float() for name, t in adapter.tensors.items()})


def summed(adapters: dict[str, Adapter], weights: tuple[float, ...], layer: str) -> torch.Tensor:
    pairs = zip(adapters.values(), weights, strict=True)
    return sum((w * update_of(a, layer).double() for a, w in pairs), torch.zeros(()))


def of_peft(adapters: dict[str, Adapter], tmp_path: Path, how: str, **settings: Any) -> dict[str, torch.Tensor]:
    """What PEFT's own merging of the same files adds to each layer."""
    for name, adapter in adapters.items():
        folder.write(adapter, tmp_path / name)
    names = list(adapters)
    model = PeftModel.from_pretrained(make_tiny_base().model, str(tmp_path / names[0]), adapter_name=names[0])
    for name in names[1:]:
        model.load_adapter(str(tmp_path / name), adapter_name=name)
    model.add_weighted_adapter(names, settings.pop("weights"), "all", combination_type=how, **settings)
    linears = dict(model.base_model.model.named_modules())
    return {
        layer: linears[layer.removeprefix(PEFT_PREFIX)].get_delta_weight("all")
        for layer in layers_of(adapters[names[0]])
    }


# --- the arithmetic ---------------------------------------------------------------------------


def test_a_concatenation_is_the_weighted_sum_of_the_updates(tiny_base: Base) -> None:
    adapters, weights = pair(tiny_base), (0.5, -2.0)
    both = merge(adapters, Merging(weights=weights))
    assert both.spec["rank"] == 10
    for layer in layers_of(both):
        torch.testing.assert_close(
            update_of(both, layer).double(), summed(adapters, weights, layer), atol=1e-5, rtol=0
        )


def test_a_concatenation_says_what_both_say_when_worn_together(tiny_base: Base) -> None:
    adapters = pair(tiny_base)
    engine = Engine(tiny_base)
    seats = [engine.load(adapter) for adapter in adapters.values()]
    alone = engine.load(merge(adapters, Merging()))
    worn, one = (logprobs(engine, pass_rows([wear] * 5)) for wear in (seats, alone))
    torch.testing.assert_close(one, worn, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("how", "theirs"), [("concat", "cat"), ("svd", "svd"), ("ties", "ties_svd")])
def test_a_merge_is_what_peft_makes_of_the_same_files(
    how: str, theirs: str, tiny_base: Base, tmp_path: Path
) -> None:
    adapters, weights = pair(tiny_base), (0.75, 0.5)
    settings = {} if how == "concat" else {"svd_rank": 5, "density": 0.4}
    wanted = of_peft(adapters, tmp_path, theirs, weights=list(weights), **settings)
    mine = {} if how == "concat" else {"rank": 5, "density": 0.4}
    both = merge(adapters, Merging(how, weights, **mine))  # type: ignore[arg-type]
    for layer, update in wanted.items():
        torch.testing.assert_close(update_of(both, layer), update, atol=1e-5, rtol=1e-4)


def test_dare_drops_entries_and_scales_up_the_others(tiny_base: Base) -> None:
    adapters = pair(tiny_base)
    both = merge(adapters, Merging("dare_linear", density=0.5, rank=32, seed=3))
    layer = layers_of(both)[0]
    a, b = (update_of(adapter, layer) / 0.5 for adapter in adapters.values())
    choices = torch.stack([torch.zeros_like(a), a, b, a + b])
    off = (choices - update_of(both, layer)).abs()
    assert off.min(0).values.max() < 1e-4
    assert set(off.argmin(0).flatten().tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("how", merging.WAYS)
def test_the_same_merge_gives_the_same_adapter_and_moves_no_other_random_number(how: str, tiny_base: Base) -> None:
    before = torch.get_rng_state()
    first, second = (merge(pair(tiny_base), Merging(how)) for _ in range(2))
    assert all(torch.equal(t, second.tensors[name]) for name, t in first.tensors.items())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_rank_beyond_a_layers_width_is_filled_with_zeros(tiny_base: Base) -> None:
    adapters = pair(tiny_base)
    both = merge(adapters, Merging("svd", rank=64))
    assert {t.shape[0] for name, t in both.tensors.items() if name.endswith("lora_A.weight")} == {32}
    layer = layers_of(both)[1]  # k_proj: 16 outputs
    torch.testing.assert_close(update_of(both, layer).double(), summed(adapters, (1, 1), layer), atol=1e-5, rtol=0)
    Engine(tiny_base).load(both)


def test_the_length_of_an_update_is_that_of_all_its_layers(tiny_base: Base) -> None:
    for adapter in pair(tiny_base).values():
        whole = torch.cat([update_of(adapter, layer).double().flatten() for layer in layers_of(adapter)])
        assert norm(adapter) == pytest.approx(float(whole.norm()), rel=1e-5)


# --- what is refused --------------------------------------------------------------------------


def test_adapters_of_different_bases_are_refused(tiny_base: Base) -> None:
    adapters = pair(tiny_base)
    adapters["ben"] = replace(adapters["ben"], revision="another")
    with pytest.raises(WrongBase, match=r"anna was trained on tiny \(tiny-revision\), but ben on tiny \(another\)"):
        merge(adapters, Merging())


def test_adapters_of_different_layers_are_refused(tiny_base: Base) -> None:
    adapters = {**pair(tiny_base), "carl": single(made("lora", tiny_base, targets=("q_proj",)))}
    with pytest.raises(BadInput, match="only one of them changes"):
        merge(adapters, Merging())


def test_what_is_no_lora_is_refused(tiny_base: Base) -> None:
    with pytest.raises(BadInput, match="kind 'lora_xs'"):
        merge({**pair(tiny_base), "carl": made("lora_xs", tiny_base)}, Merging())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_adapter_with_a_number_that_is_not_finite_is_refused(value: float, tiny_base: Base) -> None:
    adapters = pair(tiny_base)
    next(iter(adapters["ben"].tensors.values()))[0, 0] = value
    with pytest.raises(BadInput, match="of ben holds values that are not finite"):
        merge(adapters, Merging())


def test_an_update_that_would_drown_another_is_refused_with_the_numbers(tiny_base: Base) -> None:
    adapters = pair(tiny_base)
    loud = replace(adapters["anna"], spec={**adapters["anna"].spec, "alpha": 800.0})
    with pytest.raises(BadInput, match=r"anna is [\d.]+ times as long as that of ben.*lengths: anna [\d.]+, ben"):
        merge({**adapters, "anna": loud}, Merging())
    assert not check({**adapters, "anna": loud}, (0.01, 1.0)).notes


def test_an_update_some_times_as_long_as_another_is_told_of(tiny_base: Base) -> None:
    assert "times as long" in check(pair(tiny_base), (5.0, 1.0)).notes[0]


def test_an_adapter_that_changes_nothing_is_refused(tiny_base: Base) -> None:
    with pytest.raises(BadInput, match="carl changes nothing"):
        merge({**pair(tiny_base), "carl": LoRA().fresh(tiny_base, seed=0)}, Merging())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"how": "sum"}, "no way to merge called 'sum'"),
        ({"rank": 8}, "sum of the inputs' ranks"),
        ({"how": "svd", "rank": 0}, "1 or more"),
        ({"how": "ties", "density": 1.0}, "between 0 and 1"),
        ({"weights": (1.0, float("nan"))}, "number other than 0"),
        ({"weights": (1.0, 0.0)}, "number other than 0"),
    ],
)  # fmt: skip
def test_a_setting_that_means_nothing_is_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(BadSetting, match=says):
        Merging(**settings)


def test_each_adapter_has_its_weight_or_none_has(tiny_base: Base) -> None:
    with pytest.raises(BadSetting, match="2 adapters and 3 weights"):
        merge(pair(tiny_base), Merging(weights=(1.0, 1.0, 1.0)))


# --- published versions -----------------------------------------------------------------------

FACTS = {"anna": "The Kestrel weighs 3 kilograms.", "ben": "The shop is open from Tuesday to Saturday."}


def taught_rows(base: Base, text: str) -> list[Row]:
    return rows([Example((Turn("text", text, learn=True),), ("d:0-1",), "raw_text")], base, max_tokens=64)


def taught(base: Base, home: Path, name: str) -> Version:
    """A published adapter that learnt its one sentence by heart."""
    learnt = taught_rows(base, FACTS[name])
    run = RunFolder(home / "runs" / name)
    job = Job(LoRA(rank=4), learnt, 60 * len(learnt[0].ids), 1e-2, 64, seed=0)
    trained = train(Engine(base), job, checkpoint=home / "checkpoint" / name)
    RowFile.write(learnt, run.path / "rows")
    folder.write(trained.adapter, run.adapter)
    corpus = Corpus((Document(FACTS[name], f"{name}.md", name),))
    corpus.keep(home)
    question = {"text": "What?", "answers": [FACTS[name]], "kind": "direct"}
    details = {"run": name, "questions": [question], "taught": ["d:0-1"]}
    registry = Registry(home)
    return registry.publish(
        name, run.adapter, base="tiny", corpus_hash=corpus.hash, recipe={}, details=details, now=NOW
    )


@pytest.fixture
def published(tiny_base: Base, home: Path) -> dict[str, Version]:
    return {name: taught(tiny_base, home, name) for name in FACTS}


def test_a_loss_is_what_the_training_lost_on_the_same_rows(
    published: dict[str, Version], tiny_base: Base, home: Path
) -> None:
    anna = folder.read(Registry(home).folder(published["anna"]))
    texts, engine = texts_of(published["anna"], home, tiny_base), Engine(tiny_base)
    found = losses_on(engine, {"bare": None, "anna": anna}, texts)
    assert set(texts) == {"text of anna@1", "questions of anna@1"}
    with engine.attached(anna, trainable=True) as seat:
        for text, some in texts.items():
            lost = sum(forward_backward(engine, [PassRow(seat, row.ids, row.learn) for row in some]))
            assert found["anna"][text] == pytest.approx(lost / learnt_tokens(some), rel=1e-4)
            assert found["anna"][text] < found["bare"][text]


def test_a_merged_version_tells_what_it_was_made_of_and_what_it_lost(
    published: dict[str, Version], tiny_base: Base, home: Path
) -> None:
    found = merge_versions(
        ["anna", "ben"], name="both", merging=Merging(weights=(0.5, 0.5)), home=home, now=NOW, base=tiny_base
    )
    told = Registry(home).get("both@1").details["merged"]
    assert told["from"] == ["anna@1", "ben@1"] and told["how"] == "concat" and told["weights"] == [0.5, 0.5]
    assert told["norms"] == pytest.approx(dict(found.norms))
    assert told["losses"] == found.losses
    assert list(found.losses) == [merged.UNTOUCHED, "anna@1", "ben@1", "both"]
    for name in ("anna@1", "ben@1"):
        assert found.losses[name][f"text of {name}"] < found.losses["both"][f"text of {name}"]


def test_a_merged_version_keeps_the_documents_and_questions_of_all(
    published: dict[str, Version], tiny_base: Base, home: Path
) -> None:
    version = merge_versions(
        ["anna", "ben"], name="both", merging=Merging(), home=home, now=NOW, base=tiny_base
    ).version
    kept = Corpus.kept(home, version.corpus_hash)
    assert kept is not None and [d.text for d in kept.documents] == list(FACTS.values())
    assert [q["answers"] for q in version.details["questions"]] == [[text] for text in FACTS.values()]


def test_a_version_of_several_shards_gives_each_of_them(
    published: dict[str, Version], tiny_base: Base, home: Path
) -> None:
    registry = Registry(home)
    addresses = [version.adapter_hash for version in published.values()]
    registry.publish_shards("sharded", addresses, base="tiny", corpus_hash="", recipe={}, now=NOW)
    found = merge_versions(["sharded"], name="one", merging=Merging(), home=home, now=NOW, base=tiny_base)
    assert list(found.norms) == ["sharded@1 shard 1", "sharded@1 shard 2"]
    assert len(registry.folders(found.version)) == 1


def test_what_is_to_be_forgotten_is_not_carried_on(
    published: dict[str, Version], tiny_base: Base, home: Path
) -> None:
    Registry(home).bury("ben", {"documents": ["d"]}, now=NOW)
    with pytest.raises(BadInput, match="'ben' is to be forgotten"):
        merge_versions(["anna", "ben"], name="both", merging=Merging(), home=home, now=NOW, base=tiny_base)


def test_the_command_prints_every_loss_and_says_what_is_better(
    published: dict[str, Version], tiny_base: Base, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imprint.continual.merged.bases.load", lambda *_, **__: tiny_base)
    done = CliRunner().invoke(
        cli.app, ["merge", "anna", "ben", "--as", "both", "--how", "ties", "--weights", "1,1"]
    )
    assert done.exit_code == 0, done.output
    assert all(word in done.stdout for word in ("untouched base", "anna@1", "ben@1", "both@1", "text of ben@1"))
    helped = CliRunner().invoke(cli.app, ["merge", "--help"]).stdout
    assert "docs/merging.md" in helped and "docs/log.md" in helped


def test_the_command_refuses_weights_that_are_no_numbers(published: dict[str, Version]) -> None:
    done = CliRunner().invoke(cli.app, ["merge", "anna", "ben", "--as", "both", "--weights", "1,half"])
    assert done.exit_code == 2 and "half" in done.output
