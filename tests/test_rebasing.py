"""Back to an older version, and over to another base, on tiny real models."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import make_tiny_base
from imprint import rebasing, updating
from imprint.base import Base
from imprint.errors import BadInput, BadSetting, NoSuchAdapter
from test_updating import CHANGED, first, text_of, written


@pytest.fixture(scope="module")
def base() -> Base:
    made = make_tiny_base()
    made.model.config.max_position_embeddings = 4096
    return made


def test_a_rollback_serves_the_older_version_as_the_next_one_in_a_moment(base: Base, home: Path, tmp_path: Path) -> None:
    one = first(base, written(tmp_path / "d"), home)
    updating.update("acme", written(tmp_path / "d", kestrel=CHANGED), base=base, home=home, way="shards")
    began = time.monotonic()
    back = rebasing.rollback("acme@1", home=home)
    assert time.monotonic() - began < 1
    assert (str(back.version), back.version.adapter_hash) == ("acme@3", one.version.adapter_hash)
    assert back.registry.shards(back.version) == one.registry.shards(one.version)
    assert "95 euros" not in text_of(back)
    assert [str(v) for v in back.registry.versions("acme")] == ["acme@1", "acme@2", "acme@3"]


def test_an_update_after_a_rollback_goes_on_from_the_older_text(base: Base, home: Path, tmp_path: Path) -> None:
    first(base, written(tmp_path / "d"), home)
    updating.update("acme", written(tmp_path / "d", kestrel=CHANGED), base=base, home=home, way="shards")
    rebasing.rollback("acme@1", home=home)
    again = updating.update("acme", tmp_path / "d", base=base, home=home, way="shards")
    assert str(again.version) == "acme@4"
    assert "95 euros" in text_of(again)


def test_a_rollback_needs_an_older_version(base: Base, home: Path, tmp_path: Path) -> None:
    first(base, written(tmp_path / "d"), home, shards=1)
    with pytest.raises(BadInput, match="which version"):
        rebasing.rollback("acme", home=home)
    with pytest.raises(BadInput, match="already"):
        rebasing.rollback("acme@1", home=home)


def test_the_same_text_is_taught_to_another_base(base: Base, home: Path, tmp_path: Path) -> None:
    one = first(base, written(tmp_path / "d"), home)
    other = replace(base, name="other", revision="other-revision")
    two = rebasing.rebase("acme", other, home=home)
    assert two.version.base == "other"
    assert sorted(text_of(two)) == sorted(text_of(one))
    three = updating.update("acme", written(tmp_path / "d", kestrel=CHANGED), base=other, home=home, way="shards")
    assert len(set(three.registry.shards(three.version)) & set(two.registry.shards(two.version))) == 2
    with pytest.raises(BadSetting, match="already"):
        rebasing.rebase("acme", other, home=home)


def test_an_unknown_name_is_told_before_a_base_is_opened(home: Path) -> None:
    with pytest.raises(NoSuchAdapter, match="nobody"):
        rebasing.rebase("nobody", "./no-such-base", home=home)
