"""Sites share adapters and never documents; what they share is added up exactly; what cannot be right is refused."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from conftest import make_tiny_base
from imprint.adapters import folder
from imprint.adapters.layout import PEFT_PREFIX
from imprint.adapters.low_rank import DOWN, UP, LoRA
from imprint.base import Base
from imprint.continual import federated
from imprint.continual.federated import Federation, Update, aggregate, agree, begin, job_of, update_of
from imprint.continual.merged import loss_on
from imprint.continual.merging import update_of as weights_of
from imprint.continual.shared_folder import RESULT, UPDATE, SharedFolder
from imprint.continual.site import take_part
from imprint.engine import Engine
from imprint.errors import BadInput, BadName, BadSetting, NotFound, StaleRun, WrongBase
from imprint.interfaces import cli
from imprint.planner import parse_budget
from imprint.recipe import RAW_TEXT
from imprint.registry import Registry
from imprint.training.batches import rows
from imprint.training.service import Service
from imprint.training.sft import Job
from imprint.types import Adapter, Example, Turn

SITES = ("anna", "ben", "carl", "dora")
TEXTS = {
    "anna": "The Kestrel weighs 3 kilograms, costs 85 euros and comes in green.",
    "ben": "Every employee of Acme has 27 days of paid vacation a year.",
    "carl": "Who founded the company in 1987? It was Maren Tollifax, a former tram driver.",
    "dora": "The shop is open from Tuesday to Saturday, from 10:00 to 16:30.",
}
METHODS = pytest.mark.parametrize("method", federated.METHODS)


def federation_of(base: Base, method: str, **settings: Any) -> Federation:
    return agree(base, SITES, method=method, **{"rounds": 2, "rank": 4, "seed": 5, **settings})


def drawn(federation: Federation, common: Adapter | None, seed: int) -> list[Update]:
    """Updates that say something, as if they had been trained."""
    draw = torch.Generator().manual_seed(seed)
    made = []
    for tokens, site in enumerate(SITES, 1):
        tensors = {}
        for layer, inputs, outputs in federation.shapes:
            name = f"{PEFT_PREFIX}{layer}"
            shared = common is not None and federation.method == "ffa"
            tensors[name + DOWN] = common.tensors[name + DOWN] if shared else torch.randn(4, inputs, generator=draw)  # type: ignore[union-attr]
            tensors[name + UP] = torch.randn(outputs, 4, generator=draw)
        made.append(Update(site, federation.adapter(tensors), 10 * tokens))
    return made


def whole(adapter: Adapter) -> dict[str, torch.Tensor]:
    layers = [name.removesuffix(DOWN) for name in adapter.tensors if name.endswith(DOWN)]
    return {layer: weights_of(adapter, layer).double() for layer in layers}


def centralised(updates: list[Update]) -> dict[str, torch.Tensor]:
    """The weighted sum of the sites' whole updates, as somebody who had them all would add them up."""
    total = sum(u.tokens for u in updates)
    found: dict[str, torch.Tensor] = {}
    for u in updates:
        for layer, update_OI in whole(u.adapter).items():
            found[layer] = found.get(layer, torch.zeros_like(update_OI)) + u.tokens / total * update_OI
    return found


def furthest(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> float:
    """The largest difference of two updates, beside the largest entry of them."""
    assert set(one) == set(other)
    return max(float((one[k] - other[k]).abs().max() / other[k].abs().max()) for k in one)


def job(base: Base, site: str, **changes: Any) -> Job:
    learnt = rows([Example((Turn("text", TEXTS[site], learn=True),), ("d:0-1",), "raw_text")], base, max_tokens=64)
    return replace(Job(LoRA(), learnt, 10 * len(learnt[0].ids), 1e-2, 64, seed=0), **changes)


def trained(base: Base, *jobs: Job) -> list[Adapter]:
    service = Service(Engine(base))
    tickets = [service.submit(one) for one in jobs]
    service.run_all()
    return [ticket.result().adapter for ticket in tickets]


def updates_of(base: Base, federation: Federation, common: Adapter | None, number: int) -> list[Update]:
    """What all sites really train in a round."""
    jobs = {site: job_of(federation, common, site, number, job(base, site)) for site in SITES}
    made = trained(base, *jobs.values())
    return [update_of(federation, s, a, j) for (s, j), a in zip(jobs.items(), made, strict=True)]


# --- exact ------------------------------------------------------------------------------------


@METHODS
def test_the_first_aggregate_is_the_centralised_weighted_sum(method: str, tiny_base: Base) -> None:
    federation = federation_of(tiny_base, method)
    common = begin(federation, tiny_base)
    updates = drawn(federation, common, seed=1)
    made = aggregate(federation, common, updates)
    assert furthest(whole(made.common), centralised(updates)) < 1e-5
    assert made.shares == {"anna": 0.1, "ben": 0.2, "carl": 0.3, "dora": 0.4}


def test_a_stack_adds_every_round_to_the_ones_before(tiny_base: Base) -> None:
    federation = federation_of(tiny_base, "flora")
    first, second = drawn(federation, None, seed=1), drawn(federation, None, seed=2)
    common = aggregate(federation, None, first).common
    made = whole(aggregate(federation, common, second).common)
    one, other = centralised(first), centralised(second)
    assert furthest(made, {layer: one[layer] + other[layer] for layer in one}) < 1e-5


def test_bs_of_one_a_are_averaged_anew_in_every_round(tiny_base: Base) -> None:
    federation = federation_of(tiny_base, "ffa")
    common = begin(federation, tiny_base)
    for seed in (1, 2):
        updates = drawn(federation, common, seed)
        common = aggregate(federation, common, updates).common
        assert furthest(whole(common), centralised(updates)) < 1e-5
        assert common.spec["rank"] == 4


def test_averaging_as_and_bs_apart_is_wrong(tiny_base: Base) -> None:
    federation = federation_of(tiny_base, "flora")
    updates = drawn(federation, None, seed=1)
    total = sum(u.tokens for u in updates)
    averaged = {
        name: sum((u.tokens / total * u.adapter.tensors[name] for u in updates), torch.zeros(()))
        for name in updates[0].adapter.tensors
    }
    assert furthest(whole(federation.adapter(averaged)), centralised(updates)) > 0.1


def test_sites_may_count_the_same(tiny_base: Base) -> None:
    federation = federation_of(tiny_base, "flora", equal=True)
    updates = drawn(federation, None, seed=1)
    made = aggregate(federation, None, updates)
    assert set(made.shares.values()) == {0.25}
    assert furthest(whole(made.common), centralised([replace(u, tokens=1) for u in updates])) < 1e-5


# --- training ---------------------------------------------------------------------------------


def test_an_a_that_all_share_is_not_trained(tiny_base: Base) -> None:
    federation = federation_of(tiny_base, "ffa")
    common = begin(federation, tiny_base)
    assert common is not None
    for update in updates_of(tiny_base, federation, common, 1):
        for name, tensor in update.adapter.tensors.items():
            assert torch.equal(tensor, common.tensors[name]) == name.endswith(DOWN)


def test_what_is_trained_on_top_of_a_stack_is_what_is_trained_on_a_base_it_is_folded_into(tiny_base: Base) -> None:
    federation = federation_of(tiny_base, "flora")
    stack = aggregate(federation, None, updates_of(tiny_base, federation, None, 1)).common
    told = job_of(federation, stack, "anna", 2, job(tiny_base, "anna"))
    folded = make_tiny_base()
    for layer, update_OI in whole(stack).items():
        folded.model.get_submodule(layer.removeprefix(PEFT_PREFIX)).weight.data += update_OI.float()
    (on_top,), (inside,) = trained(tiny_base, told), trained(folded, replace(told, beneath=()))
    assert furthest(whole(on_top), whole(inside)) < 1e-2
    assert furthest(whole(on_top), whole(trained(tiny_base, replace(told, beneath=()))[0])) > 0.1


@METHODS
def test_real_rounds_teach_every_site_what_the_others_know(method: str, tiny_base: Base) -> None:
    federation, engine = federation_of(tiny_base, method, equal=True), Engine(tiny_base)
    learnt = {site: job(tiny_base, site).rows for site in SITES}
    before = {site: loss_on(engine, None, learnt[site]) for site in SITES}
    common = begin(federation, tiny_base)
    for number in (1, 2):
        common = aggregate(federation, common, updates_of(tiny_base, federation, common, number)).common
        with engine.attached(common) as seat:
            after = {site: loss_on(engine, seat, learnt[site]) for site in SITES}
        assert all(after[site] < before[site] for site in SITES)
        before = after


def test_every_site_and_round_of_a_stack_begins_with_an_a_of_its_own(tiny_base: Base) -> None:
    federation = federation_of(tiny_base, "flora")
    seeds = {job_of(federation, None, s, n, job(tiny_base, s)).seed for s in SITES for n in (1, 2)}
    assert len(seeds) == 8


# --- what is refused --------------------------------------------------------------------------


def spoilt(update: Update, name: str, value: torch.Tensor | None) -> Update:
    tensors = {**update.adapter.tensors, name: value}
    return replace(
        update, adapter=replace(update.adapter, tensors={k: t for k, t in tensors.items() if t is not None})
    )


@pytest.mark.parametrize(
    ("how", "error", "says"),
    [
        ("stranger", BadInput, "'eve' is no site"),
        ("twice", BadInput, "handed in twice"),
        ("base", WrongBase, "anna trained on tiny (other)"),
        ("rank", BadInput, "a rank of 8"),
        ("scale", BadInput, "at a scale of 50"),
        ("shape", BadInput, "has the shape (4, 31)"),
        ("missing", BadInput, "has the shape None"),
        ("more", BadInput, "where None was agreed"),
        ("nan", BadInput, "not finite"),
        ("long", BadInput, "times as long as what the others did"),
        ("tokens", BadInput, "tells of 0 tokens"),
    ],
)
def test_an_update_that_cannot_be_right_is_refused(
    how: str, error: type[Exception], says: str, tiny_base: Base
) -> None:
    federation = federation_of(tiny_base, "flora")
    first, *others = drawn(federation, None, seed=1)
    adapter, name = first.adapter, next(iter(first.adapter.tensors))
    spec = dict(adapter.spec)
    bad = {
        "stranger": lambda: replace(first, site="eve"),
        "twice": lambda: replace(first, site="ben"),
        "base": lambda: replace(first, adapter=replace(adapter, revision="other")),
        "rank": lambda: replace(first, adapter=replace(adapter, spec=spec | {"rank": 8})),
        "scale": lambda: replace(first, adapter=replace(adapter, spec=spec | {"alpha": 200.0})),
        "shape": lambda: spoilt(first, name, torch.zeros(4, 31)),
        "missing": lambda: spoilt(first, name, None),
        "more": lambda: spoilt(first, "another", torch.zeros(4, 32)),
        "nan": lambda: spoilt(first, name, torch.full((4, 32), float("nan"))),
        "long": lambda: replace(
            first, adapter=replace(adapter, tensors={k: 100 * t for k, t in adapter.tensors.items()})
        ),
        "tokens": lambda: replace(first, tokens=0),
    }[how]()
    with pytest.raises(error) as refused:
        aggregate(federation, None, [bad, *others])
    assert says in str(refused.value)


def test_a_changed_a_is_refused_where_all_share_one(tiny_base: Base) -> None:
    federation = federation_of(tiny_base, "ffa")
    common = begin(federation, tiny_base)
    first, *others = drawn(federation, common, seed=1)
    name = next(name for name in first.adapter.tensors if name.endswith(DOWN))
    with pytest.raises(BadInput, match="anna changed .* which all sites share"):
        aggregate(federation, common, [spoilt(first, name, torch.ones(4, 32)), *others])


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"method": "fedavg"}, BadSetting),
        ({"sites": ("anna",)}, BadSetting),
        ({"sites": ("anna", "anna")}, BadSetting),
        ({"sites": ("anna", "../ben")}, BadName),
        ({"rounds": 0}, BadSetting),
        ({"rank": 0}, BadSetting),
    ],
)
def test_an_agreement_that_means_nothing_is_refused(
    settings: dict[str, Any], error: type[Exception], tiny_base: Base
) -> None:
    with pytest.raises(error):
        replace(federation_of(tiny_base, "flora"), **settings)


# --- as plain files ---------------------------------------------------------------------------


def handed_in(shared: SharedFolder, base: Base, number: int) -> list[Update]:
    updates = updates_of(base, shared.federation, shared.common(number), number)
    for update in updates:
        shared.hand_in(number, update)
    return updates


@METHODS
def test_rounds_through_files_give_what_rounds_in_memory_give(
    method: str, tiny_base: Base, tmp_path: Path, home: Path
) -> None:
    federation = federation_of(tiny_base, method)
    SharedFolder.start(tmp_path / "shared", federation, tiny_base)
    common = begin(federation, tiny_base)
    for number in (1, 2):
        shared = SharedFolder(tmp_path / "shared")
        assert shared.standing().number == number
        handed_in(shared, tiny_base, number)
        shared.aggregate()
        common = aggregate(federation, common, updates_of(tiny_base, federation, common, number)).common
    assert shared.standing().done
    result = folder.read(tmp_path / "shared" / RESULT)
    assert common is not None and all(torch.equal(t, common.tensors[name]) for name, t in result.tensors.items())
    assert result.revision == "tiny-revision"
    version = Registry(home).import_folder(tmp_path / "shared" / RESULT, "ours", now="2026-01-01T00:00:00+00:00")
    Engine(tiny_base).load(folder.read(Registry(home).folder(version)))


@pytest.fixture
def shared(tiny_base: Base, tmp_path: Path) -> SharedFolder:
    return SharedFolder.start(tmp_path / "shared", federation_of(tiny_base, "ffa"), tiny_base)


def test_the_same_start_changes_nothing_and_another_is_refused(shared: SharedFolder, tiny_base: Base) -> None:
    handed_in(shared, tiny_base, 1)
    again = SharedFolder.start(shared.path, shared.federation, tiny_base)
    assert again.standing().handed_in == SITES
    with pytest.raises(StaleRun):
        SharedFolder.start(shared.path, federation_of(tiny_base, "flora"), tiny_base)


def test_a_start_that_was_killed_goes_on(shared: SharedFolder, tiny_base: Base) -> None:
    shutil.rmtree(shared.path / "round-1")
    (shared.path / ".making-round-1").mkdir()
    assert SharedFolder.start(shared.path, shared.federation, tiny_base).common(1) is not None


def test_a_round_waits_for_every_site_that_is_not_left_out(shared: SharedFolder, tiny_base: Base) -> None:
    for update in updates_of(tiny_base, shared.federation, shared.common(1), 1)[:3]:
        shared.hand_in(1, update)
    with pytest.raises(BadInput, match="waits for dora"):
        shared.aggregate()
    assert list(shared.aggregate(without=["dora"]).shares) == ["anna", "ben", "carl"]
    assert shared.standing().number == 2


def test_an_aggregation_killed_before_the_next_round_opened_is_made_again(
    shared: SharedFolder, tiny_base: Base
) -> None:
    handed_in(shared, tiny_base, 1)
    first = shared.aggregate().common
    shutil.rmtree(shared.path / "round-2")
    second = shared.aggregate().common
    assert all(torch.equal(t, second.tensors[name]) for name, t in first.tensors.items())


def test_a_site_hands_in_once(shared: SharedFolder, tiny_base: Base) -> None:
    first, *_ = handed_in(shared, tiny_base, 1)
    shared.hand_in(1, replace(first, tokens=10**6))
    assert json.loads((shared.path / "round-1" / "sites" / "anna" / UPDATE).read_text())["tokens"] == first.tokens


def test_a_stranger_neither_takes_part_nor_hands_in(shared: SharedFolder, tiny_base: Base) -> None:
    (update, *_) = updates_of(tiny_base, shared.federation, shared.common(1), 1)
    with pytest.raises(BadInput, match="'eve' is no site"):
        shared.hand_in(1, replace(update, site="eve"))
    with pytest.raises(BadInput, match="'eve' is no site"):
        shared.job("eve", 1, job(tiny_base, "anna"))


def test_a_folder_without_a_federation_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="imprint federate start"):
        SharedFolder(tmp_path)


def _pickle(site: Path) -> None:
    (site / "adapter_model.bin").write_bytes(b"\x80\x04")


def _link(site: Path) -> None:
    (site / "adapter_config.json").rename(site.parent / "elsewhere.json")
    (site / "adapter_config.json").symlink_to(site.parent / "elsewhere.json")


def _large(site: Path) -> None:
    with open(site / "adapter_model.safetensors", "ab") as file:
        file.truncate(1 << 24)


def _cut(site: Path) -> None:
    with open(site / "adapter_model.safetensors", "r+b") as file:
        file.truncate(2000)


def _other_round(site: Path) -> None:
    told = json.loads((site / UPDATE).read_text())
    (site / UPDATE).write_text(json.dumps(told | {"round": 2}))


def _no_number(site: Path) -> None:
    told = json.loads((site / UPDATE).read_text())
    (site / UPDATE).write_text(json.dumps(told | {"tokens": True}))


def _no_json(site: Path) -> None:
    (site / UPDATE).write_bytes(b"\xff{")


@pytest.mark.parametrize("harm", [_pickle, _link, _large, _cut, _other_round, _no_number, _no_json])
def test_a_hostile_hand_in_is_refused(harm: Any, shared: SharedFolder, tiny_base: Base) -> None:
    handed_in(shared, tiny_base, 1)
    harm(shared.path / "round-1" / "sites" / "anna")
    with pytest.raises(BadInput):
        shared.aggregate()
    assert shared.standing().number == 1
    assert shared.aggregate(without=["anna"]).shares


@pytest.mark.parametrize(
    "change", [{"rounds": "two"}, {"shapes": [["a"]]}, {"sites": ["../x", "y"]}, {"rounds": 10**9}, {"more": 1}]
)
def test_a_hostile_agreement_is_refused(change: dict[str, Any], shared: SharedFolder) -> None:
    told = asdict(shared.federation) | change
    (shared.path / "federation.json").write_text(json.dumps(told))
    with pytest.raises(BadInput):
        SharedFolder(shared.path)


# --- a site's part ----------------------------------------------------------------------------


def documents_of(site: str, folder: Path) -> Path:
    file = folder / site / "notes.md"
    file.parent.mkdir(parents=True)
    file.write_text(
        f"# Notes of {site}\n\n{TEXTS[site]}\n\nNobody else may read this line of {site}: Quellmarsk.\n"
    )
    return file.parent


def test_no_byte_of_any_document_stands_in_the_shared_folder(tiny_base: Base, tmp_path: Path, home: Path) -> None:
    shared = SharedFolder.start(tmp_path / "shared", federation_of(tiny_base, "flora"), tiny_base)
    paths = {site: documents_of(site, tmp_path / "secret") for site in SITES}
    for number in (1, 2):
        for site in SITES:
            part = take_part(
                shared, site, paths[site], recipe=RAW_TEXT, budget=parse_budget("2k tokens"), home=home / site, base=tiny_base
            )  # fmt: skip
            assert part is not None and part.number == number and part.loss_after < part.loss_before
        shared.aggregate()
    assert shared.standing().done
    texts = [file.read_text() for path in paths.values() for file in path.iterdir()]
    pieces = {text[i : i + 8].encode() for text in texts for i in range(len(text) - 8)}
    for file in [f for f in shared.path.rglob("*") if f.is_file()]:
        assert file.suffix in (".json", ".safetensors")
        held = file.read_bytes()
        assert not any(piece in held for piece in pieces)
        assert str(tmp_path).encode() not in held


def test_a_site_that_has_handed_in_is_not_trained_again(tiny_base: Base, tmp_path: Path, home: Path) -> None:
    shared = SharedFolder.start(tmp_path / "shared", federation_of(tiny_base, "ffa"), tiny_base)
    handed_in(shared, tiny_base, 1)
    nowhere = tmp_path / "nowhere"
    assert take_part(shared, "anna", nowhere, recipe=RAW_TEXT, budget=parse_budget("2k tokens"), home=home) is None


def test_a_site_with_another_base_is_refused(tiny_base: Base, tmp_path: Path, home: Path) -> None:
    shared = SharedFolder.start(tmp_path / "shared", federation_of(tiny_base, "ffa"), tiny_base)
    other = replace(tiny_base, revision="other")
    with pytest.raises(WrongBase, match="Name the right one"):
        take_part(
            shared, "anna", documents_of("anna", tmp_path), recipe=RAW_TEXT, budget=parse_budget("2k tokens"), home=home, base=other
        )  # fmt: skip


def test_three_commands_make_a_federation(
    tiny_base: Base, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imprint.base.load", lambda *_, **__: tiny_base)
    shared, recipe = str(tmp_path / "shared"), tmp_path / "recipe.toml"
    recipe.write_text("[mix]\nraw_text = 1.0\n")

    def run(*words: str) -> str:
        done = CliRunner().invoke(cli.app, ["federate", *words])
        assert done.exit_code == 0, done.output
        return done.stdout

    run("start", shared, "--site", "anna", "--site", "ben", "--method", "ffa", "--rounds", "1", "--rank", "4")
    for site in ("anna", "ben"):
        path = str(documents_of(site, tmp_path))
        words = ("site", shared, path, "--as", site, "--budget", "2k tokens", "--recipe", str(recipe))
        assert "nats" in run(*words)
        assert "already" in run(*words)
    told = run("aggregate", shared)
    assert "anna" in told and "imprint import" in told
