"""Adapter folders made to do harm: each is refused in words of ours, quickly, and nothing is written but in the home.

What settings and tensors of each kind may say is attacked in test_broken_adapters.py; here are the files themselves."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from imprint.adapters import folder
from imprint.base import Base
from imprint.engine import Engine
from imprint.errors import ImprintError
from imprint.registry import Registry, files
from test_broken_adapters import written
from test_registry import NOW, adapter_folder

WEIGHTS, CONFIG = folder.WEIGHTS, folder.CONFIG


@pytest.fixture
def adapter(tiny_base: Base, tmp_path: Path) -> Path:
    return written("lora", tiny_base, tmp_path / "adapter")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "home")


def refused(base: Base, registry: Registry, where: Path) -> str:
    """Why the registry did not take the folder, or the engine did not load what it took."""
    began, outside = time.monotonic(), _outside(registry)
    with pytest.raises(ImprintError) as caught:
        version = registry.import_folder(where, "strange", now=NOW)
        Engine(base, slots=1).load(folder.read(registry.folder(version)))
    with pytest.raises(ImprintError):
        Engine(base, slots=1).load(folder.read(where))
    assert time.monotonic() - began < 20
    assert _outside(registry) == outside
    assert not list((registry.home / "adapters").glob(".*"))
    return str(caught.value)


def _outside(registry: Registry) -> set[Path]:
    return {path for path in registry.home.parent.rglob("*") if not path.is_relative_to(registry.home)}


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


# --- cut and flipped --------------------------------------------------------------------------


def test_cut_anywhere_it_is_refused(tiny_base: Base, registry: Registry, adapter: Path) -> None:
    draw, whole = random.Random(5), {name: (adapter / name).read_bytes() for name in (WEIGHTS, CONFIG)}
    for name, data in whole.items():
        # A config without its last line's end says as much as before.
        for end in sorted({0, 1, 7, 8, 9, *(draw.randrange(len(data) - 2) for _ in range(30))}):
            (adapter / name).write_bytes(data[:end])
            refused(tiny_base, registry, adapter)
        (adapter / name).write_bytes(data)


def test_a_flipped_header_is_refused_or_says_the_same(tiny_base: Base, registry: Registry, adapter: Path) -> None:
    draw, data = random.Random(6), (adapter / WEIGHTS).read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    for _ in range(150):
        changed = bytearray(data)
        changed[draw.randrange(8 + size)] ^= 1 << draw.randrange(8)
        (adapter / WEIGHTS).write_bytes(changed)
        try:
            Engine(tiny_base, slots=1).load(folder.read(adapter))
        except ImprintError:
            continue


# --- headers ----------------------------------------------------------------------------------

ONE = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
HEADERS: dict[str, bytes] = {
    "longer than the file": safetensors({"w": ONE}, bytes(16), length=10**6),
    "of 2^63 bytes": safetensors({"w": ONE}, bytes(16), length=2**63),
    "of 2^64 - 1 bytes": safetensors({"w": ONE}, bytes(16), length=2**64 - 1),
    "of 99 MB that are not there": safetensors({"w": ONE}, bytes(16), length=99_000_000),
    "of 20 MB of tensors": safetensors(b'{"w":' + json.dumps(ONE).encode() + b',"x":' * 4_000_000),
    "of 20 MB of blanks": safetensors(b" " * 20_000_000),
    "nested deeply": safetensors(b"[" * 1_000_000),
    "of two tensors in one place": safetensors({"v": ONE, "w": ONE}, bytes(16)),
    "of one name twice": safetensors(b'{"w":%s,"w":%s}' % ((json.dumps(ONE).encode(),) * 2), bytes(16)),
    "of tensors that overlap": safetensors({"v": ONE, "w": ONE | {"data_offsets": [8, 24]}}, bytes(24)),
    "of a tensor behind the end": safetensors({"w": ONE | {"data_offsets": [2**40, 2**40 + 16]}}, bytes(16)),
    "of a tensor before the beginning": safetensors({"w": ONE | {"data_offsets": [-16, 0]}}, bytes(16)),
    "of a tensor turned round": safetensors({"w": ONE | {"data_offsets": [16, 0]}}, bytes(16)),
    "of a shape beyond all numbers": safetensors({"w": ONE | {"shape": [2**40, 2**40]}}, bytes(16)),
    "of a shape below zero": safetensors({"w": ONE | {"shape": [-2, -2]}}, bytes(16)),
    "of another kind of number": safetensors({"w": ONE | {"dtype": "Q9"}}, bytes(16)),
    "of nothing": safetensors({}),
    "that is none": safetensors([1, 2]),
    "of metadata that is no text": safetensors({"__metadata__": {"imprint": {"a": 1}}, "w": ONE}, bytes(16)),
    "with a gap": safetensors({"w": ONE}, bytes(4096)),
}  # fmt: skip


@pytest.mark.parametrize("what", HEADERS)
def test_a_header_made_to_do_harm_is_refused(what: str, tiny_base: Base, registry: Registry, adapter: Path) -> None:
    (adapter / WEIGHTS).write_bytes(HEADERS[what])
    refused(tiny_base, registry, adapter)


class _Owned:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, ("owned",)


def _zip_of_torch(where: Path) -> None:
    torch.save({"w": torch.ones(2, 2)}, where / WEIGHTS)


def _pickle(where: Path) -> None:
    (where / WEIGHTS).write_bytes(pickle.dumps(_Owned()))


def _pickle_beside(where: Path) -> None:
    (where / "adapter_model.bin").write_bytes(pickle.dumps(_Owned()))


@pytest.mark.parametrize("put", [_zip_of_torch, _pickle])
def test_a_pickle_by_another_name_is_not_opened(
    put: Callable[[Path], None], tiny_base: Base, registry: Registry, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(adapter.parent)
    put(adapter)
    refused(tiny_base, registry, adapter)
    assert not Path("owned").exists()


def test_a_pickle_beside_the_tensors_is_not_opened(registry: Registry, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(adapter.parent)
    _pickle_beside(adapter)
    with pytest.raises(ImprintError, match="pickle"):
        registry.import_folder(adapter, "strange", now=NOW)
    assert not Path("owned").exists()


# --- what is no plain file --------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="POSIX has pipes")
@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, "more.safetensors", "imprint.json"])
@pytest.mark.parametrize("kind", ["a pipe", "a device", "a link out", "a link to a device", "a folder"])
def test_what_is_no_plain_file_is_refused_and_never_waited_for(
    name: str, kind: str, tiny_base: Base, registry: Registry, adapter: Path
) -> None:
    secret = adapter.parent / "secret"
    secret.write_bytes((adapter / WEIGHTS).read_bytes())
    (adapter / name).unlink(missing_ok=True)
    make: dict[str, Callable[[], Any]] = {
        "a pipe": lambda: os.mkfifo(adapter / name),
        "a device": lambda: (adapter / name).symlink_to("/dev/null"),
        "a link out": lambda: (adapter / name).symlink_to(secret),
        "a link to a device": lambda: (adapter / name).symlink_to("/dev/zero"),
        "a folder": lambda: (adapter / name).mkdir(),
    }
    make[kind]()
    with pytest.raises(ImprintError):
        registry.import_folder(adapter, "strange", now=NOW)
    if name in (WEIGHTS, CONFIG) and kind != "a link out":
        with pytest.raises(ImprintError):
            folder.read(adapter)
    assert registry.list() == []


def test_what_a_hard_link_names_elsewhere_is_copied_and_stays_apart(registry: Registry, adapter: Path) -> None:
    outside = adapter.parent / "outside.safetensors"
    outside.write_bytes((adapter / WEIGHTS).read_bytes())
    (adapter / WEIGHTS).unlink()
    os.link(outside, adapter / WEIGHTS)
    version = registry.import_folder(adapter, "linked", now=NOW)
    outside.write_bytes(b"changed by whoever holds the other name")
    registry.verify(version)
    assert (registry.folder(version) / WEIGHTS).stat().st_nlink == 1


def test_a_record_too_large_to_be_one_is_not_read(registry: Registry, adapter: Path) -> None:
    for name in (CONFIG, "imprint.json"):
        before = (adapter / name).read_bytes() if (adapter / name).exists() else None
        with open(adapter / name, "wb") as out:
            out.truncate(files.MAX_RECORD_BYTES + 1)  # a file with a hole: it takes no room here
        with pytest.raises(ImprintError, match="more than"):
            registry.import_folder(adapter, "strange", now=NOW)
        (adapter / name).unlink()
        if before:
            (adapter / name).write_bytes(before)


# --- configs, bases, numbers ------------------------------------------------------------------

CONFIGS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "an absurd rank": lambda c: c | {"r": 10**9},
    "a rank of nothing": lambda c: c | {"r": 0},
    "a rank below zero": lambda c: c | {"r": -4},
    "a rank of 5,000 digits": lambda c: json.dumps(c).replace(f'"r": {c["r"]}', '"r": ' + "9" * 5000),
    "a rank beyond all numbers": lambda c: json.dumps(c).replace(f'"r": {c["r"]}', '"r": 1e999'),
    "nested deeply": lambda c: '{"r":' * 100_000,
    "of a million keys and no kind": lambda c: {str(i): i for i in range(200_000)},
    "of bytes that are no text": lambda c: b"\xff\xfe\x00{" * 100,
    "of nulls": lambda c: dict.fromkeys(c),
    "of lists": lambda c: {key: [] for key in c},
    "of a kind that there is not": lambda c: c | {"peft_type": "../../LORA"},
    "of modules that there are not": lambda c: c | {"target_modules": ["../../etc"], "rank_pattern": {"(a+)+$": 8}},
}  # fmt: skip


@pytest.mark.parametrize("what", CONFIGS)
def test_a_config_made_to_do_harm_is_refused(what: str, tiny_base: Base, registry: Registry, adapter: Path) -> None:
    made = CONFIGS[what](json.loads((adapter / CONFIG).read_text()))
    data = made if isinstance(made, bytes) else (made if isinstance(made, str) else json.dumps(made)).encode()
    (adapter / CONFIG).write_bytes(data)
    refused(tiny_base, registry, adapter)


def _tensors(adapter: Path) -> dict[str, torch.Tensor]:
    return dict(folder.read(adapter).tensors)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_number_that_is_none_is_refused(value: float, tiny_base: Base, registry: Registry, adapter: Path) -> None:
    tensors = _tensors(adapter)
    tensors[max(tensors)].view(-1)[-1] = value
    save_file(tensors, adapter / WEIGHTS, {"imprint": json.dumps({"base": "tiny", "revision": "tiny-revision"})})
    refused(tiny_base, registry, adapter)


@pytest.mark.parametrize(
    "told", [{"base": "tiny", "revision": "another"}, {"base": "someone/else", "revision": "x"}, {"base": "../../tiny", "revision": "\0"}]
)  # fmt: skip
def test_an_adapter_of_another_base_is_refused(
    told: dict[str, str], tiny_base: Base, registry: Registry, adapter: Path
) -> None:
    save_file(_tensors(adapter), adapter / WEIGHTS, {"imprint": json.dumps(told)})
    refused(tiny_base, registry, adapter)


# --- exports ----------------------------------------------------------------------------------


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key))
    elif path:
        yield path


def test_a_record_that_says_anything_else_is_refused_or_harmless(registry: Registry, tmp_path: Path) -> None:
    """Every field of an export's record, with every hostile value: refused, or taken as the words that it is."""
    version = Registry(tmp_path / "there").publish(
        "a", adapter_folder(tmp_path / "a"), base="smol", corpus_hash="c", recipe={"rank": 2}, details={"run": "r"}, now=NOW
    )  # fmt: skip
    out = Registry(tmp_path / "there").export(version, tmp_path / "out")
    record = json.loads((out / "imprint.json").read_text())
    before = _outside(registry)
    for path in [*_leaves(record)]:
        for value in ("../../x", "\x1b[2J", "\ud800", -1, 2**80, 1e308, None, True, [], {"a": {}}, "x" * 10_000):
            changed = json.loads(json.dumps(record))
            at = changed
            for key in path[:-1]:
                at = at[key]
            at[path[-1]] = value
            (out / "imprint.json").write_text(json.dumps(changed))
            try:
                taken = registry.import_folder(out, "copy", now=NOW)
            except ImprintError:
                continue
            registry.verify(taken)
            assert taken.name == "copy" and "run" not in taken.details
    assert _outside(registry) == before


def test_a_list_of_sums_that_leads_elsewhere_is_refused(registry: Registry, tmp_path: Path) -> None:
    there = Registry(tmp_path / "there")
    version = there.publish("a", adapter_folder(tmp_path / "a"), base="b", corpus_hash="c", recipe={}, now=NOW)
    for name in ("../secret.json", "/etc/passwd.json", "a\\b.json", "con.json", "x.bin"):
        out = there.export(version, tmp_path / "out")
        listing = (out / files.SUMS).read_text() + f"{'0' * 64}  {name}\n"
        (out / files.SUMS).write_text(listing)
        with pytest.raises(ImprintError):
            registry.import_folder(out, "copy", now=NOW)
        shutil.rmtree(out)
    assert registry.list() == []
