"""The laws of advice: the arithmetic is right, prices are dated, certificates come first, and the advice follows."""

import datetime
import math
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imprint.advice import (
    Hour,
    Measured,
    Pace,
    Prices,
    Quality,
    Size,
    Teaching,
    Use,
    Way,
    advise,
    prices,
    qualities,
)
from imprint.advice.qualities import expected
from imprint.advice.recommendation import recommend
from imprint.advice.ways import HERE, WAYS, break_even, on_hosted, on_machine
from imprint.errors import BadSetting
from imprint.evaluation import certificate
from imprint.types import Report, Score, Version

TODAY = datetime.date(2026, 11, 26)
SIZE = Size(tokens=3000, passages=20, facts=90, passage_tokens=150.0)
PACE = Pace(
    base="smol", device="2 CPU cores", read_s=0.002, read_more_s=1e-7, write_s=0.07, write_more_s=1e-5, adapter_factor=1.2,
    index_s=0.01, window_tokens=8192, base_bytes=270_000_000, kv_bytes=23_040, adapter_bytes=20_000_000,
    index_bytes=100_000, free_bytes=8_000_000_000, usd_per_hour=0.08,
)  # fmt: skip
TEACHING = Teaching(write_s=200.0, train_s=160.0, times=10.0)
GPT = prices.read().hosted["gpt-6-luna"]


def known(**rights: float) -> dict[str, Quality]:
    return {way: Quality(right, right - 0.05, right + 0.05, 100, "smol", "a test") for way, right in rights.items()}


def here(use: Use | None = None, size: Size = SIZE, *, rights: Mapping[str, float] | None = None, **more: Any) -> dict[str, Way]:
    pace, teaching = more.get("pace", PACE), more.get("teaching", TEACHING)
    return {w.way: w for w in on_machine(use or Use(), size, pace, teaching, known(**(rights or {})))}


def hosted(use: Use, tokens: int = 50_000) -> dict[str, Way]:
    return {w.way: w for w in on_hosted(use, replace(SIZE, tokens=tokens), "gpt", GPT, 0.0, 0.0)}


# --- the arithmetic ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(60))
def test_a_break_even_is_what_counting_finds(seed: int) -> None:
    draw = random.Random(seed)

    def way() -> Way:
        figures = (draw.choice([0, 0.25, 0.5, 1, 2]), draw.choice([0, 8, 16, 64, 100]))
        return Way("w", HERE, Quality(None), figures[0], 1.0, 1.0, 1.0, figures[1], 0)

    one, other = way(), way()
    dearer = [n for n in range(1000) if one.usd(n) > other.usd(n)]
    counted = None if dearer and dearer[-1] == 999 else dearer[-1] + 1 if dearer else 0
    assert break_even(one, other) == counted


def test_reading_and_writing_add_up_token_by_token() -> None:
    steps = sum(PACE.reading(1, after) for after in range(100, 300))
    assert PACE.reading(200, 100) == pytest.approx(steps)
    assert PACE.reading(300) == pytest.approx(PACE.reading(100) + PACE.reading(200, 100))


def test_what_is_read_once_is_not_waited_for_again() -> None:
    ways = here()
    assert ways["cached_context"].first_token_s < ways["rag"].first_token_s < ways["context"].first_token_s  # type: ignore[operator]
    assert ways["cached_context"].update_s == pytest.approx(PACE.reading(SIZE.tokens))
    assert ways["weights"].first_token_s < ways["cached_context"].first_token_s  # type: ignore[operator]


def test_memory_is_the_base_its_cache_and_what_the_way_keeps() -> None:
    use, ways = Use(question_tokens=30, answer_tokens=32), here()
    assert ways["weights"].memory_bytes == PACE.base_bytes + PACE.adapter_bytes + 62 * PACE.kv_bytes
    assert ways["context"].memory_bytes == PACE.base_bytes + (SIZE.tokens + 62) * PACE.kv_bytes
    assert ways["rag"].memory_bytes - ways["weights"].memory_bytes == 600 * PACE.kv_bytes + PACE.index_bytes - PACE.adapter_bytes
    assert use == Use()


def test_more_questions_never_make_weights_dearer_for_each() -> None:
    def share(per_day: float) -> float:
        use = Use(questions_per_day=per_day)
        return here(use)["weights"].usd_per_month(use) / per_day

    costs = [share(n) for n in (1, 3, 10, 100, 10_000)]
    assert costs == sorted(costs, reverse=True)


def test_a_month_is_its_versions_and_its_questions() -> None:
    use = Use(questions_per_day=50, updates_per_month=4)
    way = here(use)["weights"]
    assert way.usd_per_month(use) == pytest.approx(4 * way.update_usd + 50 * 365.25 / 12 * way.usd_per_question)
    never = Use(questions_per_day=50, updates_per_month=0)
    assert way.usd_per_month(never) == pytest.approx(way.update_usd / 12 + 50 * 365.25 / 12 * way.usd_per_question)


def test_a_warm_cached_prompt_costs_a_tenth_of_a_cent() -> None:
    busy = hosted(Use(questions_per_day=100_000), tokens=100_000)
    assert busy["cached_context"].usd_per_question == pytest.approx(0.001, rel=0.05)
    assert busy["context"].usd_per_question == pytest.approx(0.01, rel=0.05)


def test_a_cache_that_nobody_asks_is_written_each_time() -> None:
    asked = [hosted(Use(questions_per_day=n))["cached_context"].usd_per_question for n in (0.01, 1, 50, 5000)]
    assert asked == sorted(asked, reverse=True)
    written = (50_000 * GPT.cache_write + 30 * GPT.input + 32 * GPT.output) / 1e6
    assert asked[0] == pytest.approx(written, rel=1e-3)


def test_a_text_too_short_for_the_cache_is_paid_in_full() -> None:
    ways = hosted(Use(), tokens=GPT.cache_from_tokens - 1)
    assert ways["cached_context"].usd_per_question == ways["context"].usd_per_question


def test_a_long_prompt_is_charged_by_its_factors() -> None:
    short, long = (hosted(Use(), tokens=GPT.long_from_tokens + n)["context"] for n in (-30, 1))
    ratio = long.usd_per_question / short.usd_per_question
    assert ratio == pytest.approx(GPT.long_input_factor, rel=1e-3)


@pytest.mark.parametrize("wrong", [{"questions_per_day": 0}, {"updates_per_month": -1}, {"latency_s": 0}, {"least_right": 1.5}, {"questions_per_day": math.nan}])
def test_a_use_that_means_nothing_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(BadSetting, match=next(iter(wrong))):
        Use(**wrong)  # type: ignore[arg-type]


# --- what rules a way out ---------------------------------------------------------------------


def test_documents_larger_than_the_window_rule_context_out_and_say_so() -> None:
    ways = here(size=replace(SIZE, tokens=9000))
    assert all("window" in ways[w].impossible[0] and "9,062" in ways[w].impossible[0] for w in ("context", "cached_context"))
    assert not any(ways[w].impossible for w in ("rag", "weights", "weights_and_rag"))
    said = recommend(list(ways.values()), Use(hosted=False)).reasons
    assert any(r.startswith("context:") and "window" in r for r in said)


def test_an_answer_slower_than_allowed_is_ruled_out() -> None:
    ways = here(Use(latency_s=4.0))
    assert ways["context"].impossible and "4 s allowed" in ways["context"].impossible[0]
    assert not ways["weights"].impossible


def test_a_budget_that_teaches_nothing_rules_weights_out() -> None:
    ways = here(teaching=Teaching(0, 0, impossible="A budget of 1 s is too small."))
    assert [w for w in WAYS if ways[w].impossible] == ["weights", "weights_and_rag"]


def test_memory_that_is_not_there_rules_out_what_needs_it() -> None:
    ways = here(pace=replace(PACE, free_bytes=30_000_000))
    assert "GB are free" in ways["context"].impossible[0] and not ways["weights"].impossible


# --- quality ----------------------------------------------------------------------------------


def measured(right: float, **more: Any) -> Measured:
    settings = {"way": "weights", "base": "smol", "data": "d", "n": 100, "source": "s", "times": 10.0, **more}
    return Measured(right=right, low=right - 0.1, high=right + 0.1, **settings)


def test_ones_own_certificates_go_before_ours_and_of_the_same_documents_first() -> None:
    ours, own = measured(0.2), measured(0.6, own=True, corpus_hash="other")
    same = measured(0.7, own=True, corpus_hash="these")
    assert expected("weights", [ours, own, same], base="smol", corpus_hash="these", times=10).right == pytest.approx(0.7)
    assert expected("weights", [ours, own], base="smol", corpus_hash="these", times=10).right == pytest.approx(0.6)
    assert expected("weights", [ours], base="smol", corpus_hash="these", times=10).right == pytest.approx(0.2)
    assert expected("weights", [ours, own], base="smol", times=10).own


def test_figures_of_another_base_are_named_as_such() -> None:
    found = expected("weights", [measured(0.6, own=True, base="smol"), measured(0.2)], base="large", times=10)
    assert found.right == pytest.approx(0.2) and "on smol, not large" in found.known_from


def test_quality_lies_between_what_was_measured_and_never_beyond() -> None:
    curve = [measured(0.1, times=2.0), measured(0.3, times=8.0)]
    rights = [expected("weights", curve, base="smol", times=t).right for t in (1, 2, 4, 8, 100)]
    assert rights == pytest.approx([0.1, 0.1, 0.2, 0.3, 0.3])
    assert "nearest measured" in expected("weights", curve, base="smol", times=100).known_from


def test_more_text_is_never_expected_to_teach_less() -> None:
    draw = random.Random(0)
    curve = [measured(draw.random(), times=2.0**i, n=draw.randint(10, 500)) for i in range(8)]
    rights = [expected("weights", curve, base="smol", times=2 ** (i / 3)).right or 0 for i in range(24)]
    assert all(b >= a - 1e-12 for a, b in zip(rights, rights[1:], strict=False))


def test_what_is_not_taught_is_not_expected_to_be_answered() -> None:
    assert expected("weights", [measured(0.4)], base="smol", times=10, taught=0.25).right == pytest.approx(0.1)
    assert expected("rag", [measured(0.4, way="rag", times=None)], base="smol", taught=0.25).right == pytest.approx(0.4)


def test_what_nobody_measured_is_not_guessed() -> None:
    assert expected("weights_and_rag", [measured(0.4)], base="smol", times=10).right is None


def test_a_certificate_is_read_from_the_last_proof_with_the_text_that_came_of_it() -> None:
    details = {"plan": {"times": 20.0}, "plan_and_actual": {"actual": {"times": 12.0}}}
    version = Version("handbook", 2, "h", "smol", "these", {}, details=details)
    proofs = [Report("proof", {"weights": Score(v, v, v, 50), "rag": Score(0.5, 0.4, 0.6, 50)}, 0) for v in (0.1, 0.4)]
    found = {m.way: m for m in qualities.certificates([(version, [*proofs, Report("other", {}, 0)])])}
    assert (found["weights"].right, found["weights"].times, found["rag"].times) == (0.4, 12.0, None)
    assert found["rag"].own and found["rag"].corpus_hash == "these" and "handbook@2" in found["rag"].data


def scored(name: str, **right: float) -> Report:
    return Report(name, {key: Score(value, value, value, 50) for key, value in right.items()}, 0)


def test_a_certificate_tells_of_weights_and_rag_too_and_one_of_few_systems_hides_nothing() -> None:
    version = Version("handbook", 2, "h", "smol", "these", {}, details={"plan": {"times": 20.0}})
    whole = scored("certificate", weights=0.4, rag=0.3, rag_read=0.5, weights_rag=0.6, full_context=0.7, untouched=0.1)
    reports = [scored("proof", weights=0.1, rag=0.1, full_context=0.1), whole, scored("certificate", weights=0.9)]
    found = {m.way: m for m in qualities.certificates([(version, reports)])}
    rights = {way: m.right for way, m in found.items()}
    assert rights == {"weights": 0.4, "rag": 0.5, "weights_and_rag": 0.6, "context": 0.7}
    assert found["weights_and_rag"].times == 20.0 and "certificate of handbook@2" in found["rag"].source
    best = expected("weights_and_rag", [*found.values(), *qualities.packed()], base="smol", corpus_hash="these", times=20)
    assert (best.right, best.own) == (0.6, True)


def test_what_a_certificate_gives_to_the_registry_is_what_advice_reads() -> None:
    share = {"value": 0.8, "low": 0.5, "high": 1.0, "n": 10}
    none = {"value": None, "low": None, "high": None, "n": 0}
    system = certificate.Measured("s", "m", share, 0.5, 0.5, {}, none, none, 0.1, 1.0, 1.0, None)
    made = certificate.Certificate("handbook", 2, "smol", {}, "of a test", 10, {"weights": system, "weights_rag": system}, [])
    version = Version("handbook", 2, "h", "smol", "these", {})
    assert {m.way for m in qualities.certificates([(version, [made.report()])])} == {"weights", "weights_and_rag"}


def test_our_own_figures_are_whole() -> None:
    rows = qualities.packed()
    assert {m.way for m in rows} == {"weights", "rag", "context", "weights_and_rag"}
    assert all(0 <= m.low <= m.right <= m.high <= 1 and m.n > 0 and m.base and m.source for m in rows)
    assert all(m.times for m in rows if m.way == "weights")


# --- prices -----------------------------------------------------------------------------------


def written(folder: Path, text: str) -> Path:
    (folder / "prices.toml").write_text(text, "utf-8")
    return folder / "prices.toml"


def test_a_price_under_a_wrong_key_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="'inputs'.*Did you mean 'input'"):
        prices.read(written(tmp_path, '[hosted."gpt-6-luna"]\ninputs = 1.0\n'))
    with pytest.raises(BadSetting, match="'host'.*Did you mean 'hosted'"):
        prices.read(written(tmp_path, "[host.x]\ninput = 1.0\n"))


def test_a_new_entry_must_be_whole_and_a_known_one_may_say_what_differs(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="lacks .*cached_input"):
        prices.read(written(tmp_path, "[hosted.mine]\ninput = 1.0\n"))
    changed = prices.read(written(tmp_path, '[hosted."gpt-6-luna"]\ninput = 7\ndate = "2026-11-25"\n'))
    assert changed.hosted["gpt-6-luna"] == replace(GPT, input=7, date="2026-11-25")


@pytest.mark.parametrize("line", ["usd = -1", 'usd = "a lot"', 'date = "soon"', "usd = inf"])
def test_a_price_that_is_none_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(BadSetting):
        prices.read(written(tmp_path, f"[hours.H100]\n{line}\n"))


def test_an_old_price_is_named() -> None:
    table = prices.read()
    assert not table.old(datetime.date(2026, 11, 26))
    told = table.old(datetime.date(2027, 6, 1))
    assert len(told) == len(table.hosted) + len(table.hours) and "gpt-6-luna" in told[0] and "--prices" in told[0]


def test_a_machine_is_found_by_its_name_and_a_cpu_by_its_cores() -> None:
    table = Prices({}, {name: Hour(usd, "2026-11-01", "s") for name, usd in (("cpu core", 0.05), ("H100", 4.0), ("H100 NVL", 3.0))})
    assert table.of_machine("NVIDIA H100 NVL", 0) == ("H100 NVL", table.hours["H100 NVL"])
    assert table.of_machine("4 CPU cores", 4)[1].usd == pytest.approx(0.2)  # type: ignore[index]
    assert table.of_machine("Apple GPU", 0) is None


def test_every_entry_that_comes_along_says_where_it_is_from() -> None:
    table = prices.read()
    assert all(len(e.source) > 20 for e in (*table.hosted.values(), *table.hours.values()))
    assert all(0 < h.cached_input <= h.input < h.output for h in table.hosted.values())


# --- the recommendation -----------------------------------------------------------------------


def advised(rights: Mapping[str, float], use: Use | None = None, **more: Any) -> tuple[str | None, str]:
    use = use or Use()
    ways = list(here(use, more.pop("size", SIZE), rights=rights, **more).values())
    if use.hosted:
        ways += on_hosted(use, SIZE, "gpt", GPT, 0.0, PACE.usd_per_hour)
    found = recommend(ways, use)
    return found.way, found.where


def test_where_nothing_here_is_good_enough_the_advice_is_to_paste() -> None:
    rights = {"context": 0.1, "cached_context": 0.1, "rag": 0.2, "weights": 0.3}
    use = Use(questions_per_day=10_000)
    ways = [*here(use, rights=rights).values(), *on_hosted(use, SIZE, "gpt", GPT, 0.0, 0.0)]
    found = recommend(ways, use)
    assert (found.way, found.where) == ("cached_context", "gpt")
    assert found.words.startswith("Do not train: paste it") and any("not measured here" in r for r in found.reasons)


def test_a_text_dear_to_paste_is_searched() -> None:
    use = Use(questions_per_day=1)
    ways = [*here(use, rights={"rag": 0.2}).values(), *hosted(use, tokens=200_000).values()]
    found = recommend(ways, use)
    assert (found.way, found.where) == ("rag", "gpt")


def test_documents_that_must_stay_are_not_sent_away() -> None:
    way, where = advised({"rag": 0.2, "weights": 0.35}, Use(hosted=False))
    assert (way, where) == ("weights", HERE)


def test_of_ways_that_cannot_be_told_apart_the_cheapest_is_taken() -> None:
    rights = {"rag": 0.72, "weights": 0.70}
    assert advised(rights, Use(questions_per_day=10_000, updates_per_month=1)) == ("weights", HERE)
    assert advised(rights, Use(questions_per_day=1, updates_per_month=30)) == ("rag", HERE)


def test_a_way_clearly_better_is_taken_at_any_price() -> None:
    assert advised({"rag": 0.5, "weights": 0.9}, Use(questions_per_day=1, updates_per_month=30)) == ("weights", HERE)


def test_a_way_that_nobody_measured_is_not_recommended() -> None:
    assert advised({"rag": 0.6}, Use(hosted=False)) == ("rag", HERE)
    found = recommend(list(here(rights={"rag": 0.6}).values()), Use())
    assert any("Not measured" in reason and "weights + RAG" in reason for reason in found.reasons)


def test_where_nothing_can_be_done_nothing_is_recommended() -> None:
    slow = Use(hosted=False, latency_s=1e-6)
    found = recommend(list(here(slow).values()), slow)
    assert found.way is None and len(found.reasons) >= len(WAYS)


def test_the_whole_advice_is_json_and_names_its_prices() -> None:
    import json

    found = advise(
        Use(), SIZE, replace(PACE, base="SmolLM2-135M-Instruct", usd_per_hour=0.0), TEACHING, prices.read(), qualities.packed(),
        cores=2, today=TODAY,
    )  # fmt: skip
    told = json.loads(json.dumps(found.as_json()))
    assert len(told["ways"]) == len(WAYS) + 3 * len(prices.read().hosted)
    assert found.pace.usd_per_hour == pytest.approx(2 * 0.0408) and "cpu core" in found.notes[0]
    assert all(w["usd_per_month"] > 0 for w in told["ways"])
    unknown = advise(Use(), SIZE, replace(PACE, device="Apple GPU", usd_per_hour=0.0), TEACHING, prices.read(), [], cores=0, today=TODAY)
    assert "No price is known" in unknown.notes[0]
