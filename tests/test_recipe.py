"""The laws of recipes: what is not understood is refused with a hint, and lineage reads back."""

from dataclasses import asdict
from pathlib import Path

import pytest

from imprint.errors import BadSetting
from imprint.recipe import RAW_TEXT, Recipe, WriterSettings, from_mapping, read
from imprint.synthesis import KINDS
from imprint.synthesis.cloze import Cloze
from imprint.synthesis.questions import Questions


def recipe(tmp_path: Path, text: str) -> Recipe:
    file = tmp_path / "recipe.toml"
    file.write_text(text, "utf-8")
    return read(file)


def test_a_file_sets_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    assert recipe(tmp_path, "") == Recipe()
    assert recipe(tmp_path, 'rank = 8\nlr = 1\n'.replace("1\n", "0.01\n")) == Recipe(rank=8, lr=0.01)
    assert recipe(tmp_path, 'generators = ["raw_text"]') == RAW_TEXT


def test_a_mix_is_kinds_with_shares(tmp_path: Path) -> None:
    assert recipe(tmp_path, "[mix]\nquestions = 2\nraw_text = 1\n").mix == {"questions": 2.0, "raw_text": 1.0}
    assert recipe(tmp_path, 'generators = ["cloze", "replay"]').mix == {"cloze": 1.0, "replay": 1.0}


def test_sections_are_for_order_only(tmp_path: Path) -> None:
    assert recipe(tmp_path, "[adapter]\nrank = 8\n[training]\nepochs = 3\n") == Recipe(rank=8, epochs=3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rnak = 8", "Unknown key 'rnak' in .*recipe.toml. Did you mean 'rank'"),
        ("[training]\nepoch = 8", "Did you mean 'epochs'"),
        ("colour = 8", "It knows mix, kinds, text_tokens"),
        ("rank = 8.5", "'rank' in .* must be int; it is 8.5"),
        ("rank = true", "must be int"),
        ('lr = "fast"', "must be float"),
        ('generators = "raw_text"', "must be a list of names"),
        ("adapter = 5", "must be str"),
        ("rank = 0", "rank = 0 is out of range"),
        ("lr = nan", "lr = nan is out of range"),
        ("generators = []", "out of range"),
        ("rank 8", "not a TOML file"),
        ("[mix]\nquestions = 'many'", "share of 'questions' in the mix of .* must be a number"),
        ("[mix]\nquestions = -1", "out of range"),
        ("[writer]\nkind = 'poet'", "No writer 'poet'"),
        ("[writer]\nkind = 'endpoint'", "needs its address"),
        ("[writer]\nkind = 'endpoint'\naddress = 'http://x/v1'", "Name the model"),
        ("[writer]\nadress = 'http://x/v1'", "Did you mean 'address'"),
        ("[kinds.poems]\nseveral = 8", "No kind of synthesis 'poems'. There are: questions"),
        ("[kinds.questions]\nsevral = 8", r"Unknown key 'sevral' in \[kinds.questions\].* Did you mean 'several'"),
        ("[kinds.questions]\nname = 'x'", "Unknown key 'name'"),
        ("[kinds.cloze]\nseveral = 8", "It knows none"),
        ("[kinds.questions]\nseveral = 8.5", r"'several' in \[kinds.questions\] of the recipe must be int; it is 8.5"),
        ("[kinds.questions]\ntemperature = 'hot'", "must be float"),
        ("[kinds.questions]\nseveral = -1", r"several = -1 in \[kinds.questions\] is out of range"),
        ("[kinds.questions]\ntemperature = nan", "temperature = nan in .* is out of range"),
        ("[mix]\npoems = 1", "No kind of synthesis 'poems'. There are: questions"),
        ("[kinds.self_study]\nrequests = 0", "self_study needs requests of 1 or more"),
        ("kinds = ['questions']", "'kinds' in .* must be a table"),
        ("[kinds]\nquestions = 8", "'kinds.questions' in .* must be a table"),
        ("[judge]\nadress = 'http://x/v1'", r"in \[judge\] of .*Did you mean 'address'"),
        ("judge = 'gpt'", "'judge' in .* must be a table"),
        ("[judge]\nkind = 'endpoint'\naddress = 'http://x/v1'", "Name the model"),
        ("[writer]\njudge = true\n[judge]\nkind = 'local'", "Say either"),
        ("[judge]\njudge = true", "Say either"),
        ("store = 'float16'", "not stored in 'float16'. They may be in: float32, bfloat16"),
    ],
)
def test_what_is_wrong_is_refused_by_its_name(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BadSetting, match=said):
        recipe(tmp_path, text)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="cannot be read"):
        read(tmp_path / "none.toml")


def test_a_kind_has_settings_of_its_own(tmp_path: Path) -> None:
    made = recipe(tmp_path, "[mix]\nquestions = 2\ncloze = 1\n[kinds.questions]\nseveral = 8\ntemperature = 1\n")
    assert made.kind("questions") == Questions(several=8, temperature=1)
    assert made.kind("cloze") == Cloze()
    assert made.as_json()["kinds"] == {"questions": {"several": 8, "temperature": 1}}


def test_every_setting_of_every_kind_can_be_said() -> None:
    for name, kind in KINDS.items():
        own = {k: v for k, v in asdict(kind()).items() if k != "name"}
        assert Recipe(kinds={name: own}).kind(name) == kind()


def test_a_judge_is_named_as_a_writer_is(tmp_path: Path) -> None:
    named = "kind = 'endpoint'\naddress = 'http://x/v1'\nmodel = 'm'\nusd_per_million_in = 1\nmax_usd = 2\n"
    judge = recipe(tmp_path, f"[judge]\n{named}").judge
    assert judge == recipe(tmp_path, f"[writer]\n{named}").writer != WriterSettings()
    assert recipe(tmp_path, "").judge is None


JUDGE = WriterSettings("endpoint", "http://x/v1", "m")


@pytest.mark.parametrize(
    "made",
    [
        Recipe(rank=8, top_layers=2, epochs=3.0, store="bfloat16"), Recipe(), RAW_TEXT, Recipe(judge=JUDGE),
        Recipe(kinds={"questions": {"several": 8}}),
    ],
)
def test_a_recipe_kept_as_json_reads_back(made: Recipe) -> None:
    assert from_mapping(made.as_json()) == made


@pytest.mark.parametrize("text", ["epochs = inf", "alpha = inf"])
def test_nothing_is_infinite(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadSetting):
        recipe(tmp_path, text)


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(BadSetting):
        read(tmp_path)


def test_a_list_of_names_must_be_one() -> None:
    with pytest.raises(BadSetting, match=r"'conflicts' in the recipe must be a list of names; it is 'newer'"):
        from_mapping({"conflicts": "newer"})
