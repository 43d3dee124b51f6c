"""`imprint prove`: the certificate, or the short proof."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

import imprint
from imprint.errors import BadInput
from imprint.interfaces.options import Name, stderr, without_nan, words

if TYPE_CHECKING:
    from imprint import OtherModel
    from imprint.writers.endpoint import Endpoint


def prove(
    name: Name,
    questions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Questions of your own; else those held out when it was taught."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only untouched base, weights, full context and RAG; no page.")
    ] = False,
    systems: Annotated[
        str | None, typer.Option(metavar="A,B", help="Ask only these systems, such as weights,rag,weights_rag.")
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="Measure only these parts: forgotten, leaks, confidence, judge, coverage, citations, context_rot; "
            "'none' for none. Without --systems, of the systems only the weights are asked then; for the judge RAG "
            "and full context too.",
        ),
    ] = None,
    suite: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="A folder of items judged by log-likelihood, before and after."),
    ] = None,
    general_text: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="A text whose perplexity is taken too; repeatable.")
    ] = None,
    rival: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="An OpenAI-compatible endpoint that is asked the same.")
    ] = None,
    rival_model: Annotated[
        str | None, typer.Option(metavar="NAME", help="The model's name at the rival's address.")
    ] = None,
    rival_key_env: Annotated[
        str, typer.Option(metavar="VARIABLE", help="Environment variable with the rival's key; '' for no key.")
    ] = "OPENAI_API_KEY",
    rival_window: Annotated[
        int | None, typer.Option(min=1024, metavar="N", help="Tokens the rival can read; else as many as the base.")
    ] = None,
    rival_usd: Annotated[
        str | None, typer.Option(metavar="IN,OUT", help="The rival's US dollars for a million tokens in and out.")
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="An OpenAI-compatible endpoint that judges the answers of weights, RAG and full context; 'base' "
            "for the untaught base itself.",
        ),
    ] = None,
    judge_model: Annotated[
        str | None, typer.Option(metavar="NAME", help="The model's name at the judge's address.")
    ] = None,
    judge_key_env: Annotated[
        str, typer.Option(metavar="VARIABLE", help="Environment variable with the judge's key; '' for no key.")
    ] = "OPENAI_API_KEY",
    samples: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="Also draw N answers to each question: do they agree with the answer?"
        ),
    ] = 0,
    usd_per_hour: Annotated[
        float | None, typer.Option(min=0, metavar="N", help="What this machine costs, to tell money per answer.")
    ] = None,
    raw_text: Annotated[
        bool, typer.Option("--raw-text", help="Also train on the bare documents, for as many tokens, and compare.")
    ] = False,
    seed: Annotated[int, typer.Option(metavar="N", help="Draws intervals, facts and the order of texts.")] = 0,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where NAME-N.certificate.html and .json are written.")
    ] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    answers: Annotated[bool, typer.Option("--answers", help="Also show every answer of the weights.")] = False,
) -> None:
    """Prove what was learnt: the certificate.

    Questions that training never saw are put to the weights and to their rivals: the base without the documents,
    with all of them in its context, with those that a search finds (RAG), with several searches in turn, and to
    what joins weights and reading. Besides: what was forgotten, what of the documents leaks, how sure the answers
    are, which facts of which passages were learnt and what taught them, whether the documents bear the answers out,
    and how full context rots as its prompt grows. A page (HTML) and JSON are written.

    Most of the time goes into the reading of long prompts. On one CPU core 80 questions about 1,100 tokens of
    documents took 12 minutes, and a --suite of 1,700 items with a --general-text of 300 kB 6 more; documents that
    fill a window of 8,000 tokens take several times as long. --systems and --only shorten it; --quick is the short
    proof of a minute or two. Killed, the same command goes on where it stopped.

    A questions file holds one JSON object a line: {"question": ..., "answer": ...}; an empty answer means that the
    documents do not tell. "wrong" lists what a near-duplicate says in the answer's place, and "as_of" is the date
    for which is asked. The result is kept with the version; where 30 questions or more were answered, `imprint ask`
    says from then on that it does not know where an answer is too unsure.
    """
    from imprint.interfaces.progress import watching

    if quick:
        _prove_quickly(name, questions, raw_text, as_json, answers)
        return
    parts = None if only is None else () if only == "none" else words(only)
    examined = imprint.Examined(
        systems=words(systems) if systems else _asked_for(parts),
        parts=parts,
        suites=suite or [],
        texts=general_text or [],
        rivals=_rivals(name, rival, rival_model, rival_key_env, rival_window, rival_usd),
        raw_text=raw_text,
        usd_per_hour=usd_per_hour,
        judge=_judge(judge, judge_model, judge_key_env),
        samples=samples,
        seed=seed,
    )
    with watching(stderr()) as watch:
        made = imprint.open(name).certify(questions, examined, watch=watch)
    from imprint.interfaces import certificate_page, tables

    files = certificate_page.write(made, out)
    if as_json:
        record = made.as_json()
        if not answers:
            record["systems"] = {k: {**s, "answers": []} for k, s in record["systems"].items()}
        typer.echo(json.dumps(record, indent=2))
    else:
        console = tables.stdout()
        console.print(tables.certificate_page(made))
        if answers and "weights" in made.systems:
            console.print(tables.answer_table(made.systems["weights"].answers))
    typer.echo(f"Written: {', '.join(str(file) for file in files)}", err=True)


def _prove_quickly(name: str, questions: Path | None, raw_text: bool, as_json: bool, answers: bool) -> None:
    """The short proof: what fits a few minutes."""
    from imprint.interfaces import tables
    from imprint.interfaces.progress import watching

    with watching(stderr()) as watch:
        proof = imprint.open(name).prove(questions, raw_text=raw_text, watch=watch)
    if as_json:
        record = proof.as_json()
        told = record if answers else {key: value for key, value in record.items() if key != "answers"}
        typer.echo(json.dumps(without_nan(told), indent=2))
        return
    console = tables.stdout()
    console.print(tables.proof_page(proof))
    if answers:
        console.print(tables.answer_table(proof.answers.get("weights", ())))


def _rivals(
    name: str, address: str | None, model: str | None, key_env: str, window: int | None, usd: str | None
) -> list[OtherModel]:
    """The rival that was named; its prices are those said, or of the recipe's writer where it is the same model."""
    if address is None:
        if model or window or usd:
            raise BadInput("--rival-model, --rival-window and --rival-usd need an address: --rival ADDRESS.")
        return []
    if model is None:
        raise BadInput(f"Which model at {address}? Name it with --rival-model NAME.")
    from imprint.writers.endpoint import Endpoint
    from imprint.writers.spending import Budget

    writer = imprint.open(name).version.recipe.get("writer") or {}
    prices = (0.0, 0.0)
    if usd is not None:
        prices = _prices(usd)
    elif (writer.get("address"), writer.get("model")) == (address, model):
        prices = (writer.get("usd_per_million_in", 0.0), writer.get("usd_per_million_out", 0.0))
    endpoint = Endpoint(model, address, key_env, budget=Budget(*prices))
    return [imprint.OtherModel(endpoint, window)]


def _asked_for(parts: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Whom to ask where no systems are named: all; for some parts alone those that they speak of."""
    if not parts:
        return None
    return ("weights", "rag", "full_context") if "judge" in parts else ("weights",)


def _judge(address: str | None, model: str | None, key_env: str) -> Endpoint | Literal["base"] | None:
    """The judge that was named."""
    if address is None or address == "base":
        if model:
            raise BadInput("--judge-model is a name at an address: --judge ADDRESS.")
        return None if address is None else "base"
    if model is None:
        raise BadInput(
            f"Which model at {address}? Name it with --judge-model NAME, or judge by the base: --judge base."
        )
    from imprint.writers.endpoint import Endpoint

    return Endpoint(model, address, key_env)


def _prices(text: str) -> tuple[float, float]:
    """'0.15,0.60'."""
    try:
        read, written = (float(part) for part in text.split(","))
    except ValueError:
        raise BadInput(f"--rival-usd is '{text}'. Say two prices of a million tokens, such as 0.15,0.60.") from None
    return read, written
