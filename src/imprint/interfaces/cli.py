"""The `imprint` command: its words are the library's words. Nothing heavy is imported until a command needs it."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import re
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

import imprint
from imprint.errors import BadInput, ImprintError
from imprint.interfaces import plan_command, prove_command
from imprint.interfaces.options import BaseName, Name, RecipeFile, WriterAddress, WriterModel, words
from imprint.interfaces.options import stderr as _stderr
from imprint.interfaces.options import with_others as _with_others
from imprint.interfaces.options import without_nan as _without_nan

if TYPE_CHECKING:
    from imprint import Lesson
    from imprint.evaluation.citing import Cited
    from imprint.hosting.keys import Keys
    from imprint.inversion import Settings as AuditSettings
    from imprint.inversion import Stored
    from imprint.learning_map import LearningMap
    from imprint.recipe import Recipe
    from imprint.registry import Registry
    from imprint.types import Embedder

WHAT_IT_DOES = """
Teach a language model your documents by training them into a small adapter, prove what it learnt, and ask it.

Adapters live in $IMPRINT_HOME, or else in your data folder; `imprint doctor` says where that is.
"""
_GO_ON = ("teach", "prove", "curve", "map", "audit-index")
Command = TypeVar("Command", bound=Callable[..., None])


class _Border(TyperGroup):
    """Where what imprint raises becomes one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ImprintError as error:
            typer.echo(f"imprint: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(2) from error
        except KeyboardInterrupt:
            goes_on = " The same command goes on where it stopped." if ctx.invoked_subcommand in _GO_ON else ""
            typer.echo(f"\nimprint: Stopped.{goes_on}", err=True)
            raise typer.Exit(130) from None


def _examples(*lines: str) -> str:
    return "\n\n".join(["For example:", *lines])


app = typer.Typer(
    cls=_Border,
    help=WHAT_IT_DOES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_examples(
        "imprint teach ./handbook --as handbook",
        'imprint ask handbook "How many vacation days do I get?"',
        "imprint prove handbook",
    ),
)


def _command(
    *examples: str, name: str | None = None, to: typer.Typer | None = None
) -> Callable[[Command], Command]:
    """Adds a command, whose help is its docstring and these examples."""

    def add(command: Command) -> Command:
        # Typer keeps line breaks inside paragraphs; on a narrower screen they would fall anywhere.
        paragraphs = [" ".join(p.split()) for p in (command.__doc__ or "").split("\n\n")]
        (to or app).command(name, help="\n\n".join(paragraphs), epilog=_examples(*examples))(command)
        return command

    return add


class Personal(StrEnum):
    """What to do about personal data (documents.personal.WISHES)."""

    report = "report"
    refuse = "refuse"
    ignore = "ignore"


NewName = Annotated[str, typer.Option("--as", metavar="NAME", help="What to call the adapter.")]


def main() -> None:
    """The entry point."""
    app()


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"imprint {imprint.__version__}")
        raise typer.Exit


@app.callback()
def _imprint(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Tell the version and end.")
    ] = False,
) -> None: ...


# --- teaching and asking ----------------------------------------------------------------------


@_command(
    "imprint teach ./handbook --as handbook --budget 30min",
    "imprint teach ./handbook --as handbook --questions questions.jsonl",
    "imprint teach ./sales --as sales ./support --as support",
    "imprint teach --jobs jobs.toml",
    "imprint teach ./handbook --as handbook --writer http://127.0.0.1:8001/v1 --writer-model qwen3 --estimate",
)
def teach(
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="PATH...", help="A document, or a folder of documents.")
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option("--as", metavar="NAME", help="What to call the adapter; one for each PATH, in their order."),
    ] = None,
    jobs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A TOML file instead of PATHs: a section \\[\\[teach]] for each adapter, with path, as, and "
            "where wanted budget, recipe, seed, questions and personal. What is said here too is said for those "
            "without their own.",
        ),
    ] = None,
    base: BaseName = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="BUDGET", help="What it may take: 10min (the default), 2h, '500k tokens', '5 USD'."),
    ] = None,
    recipe: RecipeFile = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="The same seed gives the same adapter; 0 if not said.")
    ] = None,
    questions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Questions for the proof, kept out of the training text.")
    ] = None,
    writer: WriterAddress = None,
    writer_model: WriterModel = None,
    judge: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="An OpenAI-compatible endpoint that judges what the writer writes."),
    ] = None,
    judge_model: Annotated[
        str | None, typer.Option(metavar="NAME", help="The model's name at the judge's address.")
    ] = None,
    personal: Annotated[
        Personal | None,
        typer.Option(help="Personal data in the documents: report it (if not said), refuse it, or ignore it."),
    ] = None,
    canaries: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Put N secret lines among the training text, to measure how they can be drawn out."
        ),
    ] = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Tell the plan (tokens, minutes, money) and stop; nothing is spent.")
    ] = False,
) -> None:
    """Teach documents to a new version of an adapter, and publish it.

    The budget decides how much is taught; the plan is told before anything is spent. Several adapters are
    trained side by side, in shared passes over one base model; the budget is each one's own. A run that was
    stopped or killed goes on where it stopped when you give the same command again. Prints the versions.
    """
    from imprint.interfaces.progress import watching

    usual: dict[str, Any] = {
        "budget": budget, "recipe": recipe, "seed": seed, "questions": questions, "personal": personal,
    }  # fmt: skip
    usual = {key: value for key, value in usual.items() if value is not None}
    asked = {"writer": (writer, writer_model), "judge": (judge, judge_model)}
    if canaries is not None or any(word is not None for words in asked.values() for word in words):
        if jobs is not None:
            raise BadInput(
                "A job file names its writers and canaries in its recipes: leave out --writer, --judge and "
                "--canaries, or name PATHs."
            )
        usual["recipe"] = _with_others(recipe, asked, canaries)
    lessons = _lessons(paths or [], names or [], jobs, usual)
    if estimate:
        with watching(_stderr()) as watch:
            imprint.estimate(lessons, base=base, watch=watch)
        return
    with watching(_stderr()) as watch:
        taught = imprint.teach_many(lessons, base=base, watch=watch)
    for each in taught:
        typer.echo(each.name)
    first = taught[0].name
    typer.echo(f"Now: imprint prove {first}, or imprint ask {first} 'a question'", err=True)


def _lessons(paths: list[Path], names: list[str], jobs: Path | None, usual: dict[str, Any]) -> list[Lesson]:
    from imprint.interfaces import job_file

    if jobs is not None:
        if paths or names:
            raise BadInput("Name either a job file or documents: --jobs FILE, or PATH --as NAME.")
        return job_file.read(jobs, usual)
    if not paths:
        raise BadInput("There is nothing to teach. Name documents and an adapter: imprint teach PATH --as NAME.")
    if len(paths) != len(names):
        raise BadInput(
            f"There are {len(paths)} PATHs and {len(names)} --as NAMEs. Each PATH needs a name: "
            "imprint teach A --as a B --as b."
        )
    return [imprint.Lesson(path, name, **usual) for path, name in zip(paths, names, strict=True)]


@_command(
    'imprint ask handbook "How many vacation days do I get?"',
    'imprint ask handbook "How many vacation days do I get?" --cite',
    'imprint ask handbook "How many vacation days do I get?" --anyway',
    'echo "Who founded the company?" | imprint ask handbook -',
)
def ask(
    name: Name,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="The question; - reads it from stdin.")],
    max_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="Longest answer, in tokens.")] = 128,
    all_: Annotated[
        bool, typer.Option("--all", help="Of several adapters, wear all at once; by default the one it is about.")
    ] = False,
    routed: Annotated[
        bool, typer.Option("--routed", help="Let the base answer what is not about the documents.")
    ] = False,
    cite: Annotated[
        bool, typer.Option("--cite", help="Tell the passages behind the answer, and whether they bear it out.")
    ] = False,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Give an answer that is too unsure all the same.")
    ] = False,
) -> None:
    """Ask a question, answered from the weights alone.

    No document is in the prompt. Several adapters are joined with '+': the one that the question is about answers.
    With --cite the kept documents are searched for the answer, and what is found is read: an answer that no
    passage bears out is marked.

    Where a certificate (imprint prove) has measured how sure this version's answers are, one that is less sure than
    its line is not given: it says that it does not know. --anyway gives it all the same.
    """
    from imprint.interfaces import tables
    from imprint.interfaces.tables import printable

    asked = (sys.stdin.read() if question == "-" else question).strip()
    if not asked:
        raise BadInput("The question is empty. Write it after the name, or send it to stdin and say '-'.")
    if cite and "+" in name:
        raise BadInput("One adapter cites at a time: name one of them.")
    cited: Cited | None = None
    unsure = ""
    with _stderr().status("Thinking"):
        if "+" in name:
            how = "all" if all_ else "choose"
            answer = imprint.together(name.split("+")).ask(asked, how=how, max_tokens=max_tokens)
        else:
            taught = imprint.open(name)
            found = taught.answer(asked, routed=routed, max_tokens=max_tokens)
            answer = found.text if anyway else found.given
            cited = taught.cite(asked, answer) if cite else None
            if found.declined and found.verdict is not None:
                told = "Given all the same" if anyway else "Not given (--anyway shows it)"
                unsure = f"{told}: {taught.name}'s answer is {found.verdict.probability:.0%} likely to be right."
    typer.echo(printable(answer))
    if unsure:
        typer.echo(unsure, err=True)
    if cited is not None:
        typer.echo(printable("\n".join(tables.citation_lines(cited))))


@_command("imprint chat handbook")
def chat(
    name: Name,
    max_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="Longest answer, in tokens.")] = 256,
) -> None:
    """Talk with an adapter; it remembers the conversation.

    An empty line, /exit or Ctrl-D ends it.
    """
    from imprint.interfaces.tables import printable
    from imprint.types import Turn

    taught = imprint.open(name)
    turns: list[Turn] = []
    typer.echo(f"{taught.name} listens. An empty line, /exit or Ctrl-D ends the conversation.", err=True)
    while (said := _next_line()) not in ("", "/exit"):
        turns.append(Turn("user", said))
        with _stderr().status("Thinking"):
            answer = taught.chat(turns, max_tokens=max_tokens)
        turns.append(Turn("assistant", answer))
        typer.echo(printable(answer))


_command(
    "imprint prove handbook",
    "imprint prove handbook --questions questions.jsonl --suite ./general_gauntlet --out ./certificates",
    "imprint prove handbook --systems weights,rag,weights_rag --only forgotten,coverage",
    "imprint prove handbook --only leaks,confidence",
    "imprint prove handbook --rival http://127.0.0.1:8001/v1 --rival-model qwen3 --rival-key-env ''",
    "imprint prove handbook --judge http://127.0.0.1:8001/v1 --judge-model qwen3 --judge-key-env ''",
    "imprint prove handbook --quick --json > proof.json",
)(prove_command.prove)


@_command("imprint curve ./handbook", "imprint curve ./handbook --sample 20 --questions questions.jsonl")
def curve(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A document, or a folder of documents.")],
    sample: Annotated[int, typer.Option(min=1, metavar="N", help="Passages to try it on.")] = 12,
    most_tokens: Annotated[
        int, typer.Option(min=1, metavar="N", help="Training text at which it ends at the latest.")
    ] = 200_000,
    base: BaseName = None,
    recipe: RecipeFile = None,
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed gives the same curve.")] = 0,
    questions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Questions about the documents; else the writer asks some.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Find out how much training text is enough.

    A sample of the passages is taught with twice the text again and again, and asked the same held-out questions
    each time, until two doublings in a row gain less than one point. Nothing is published; `imprint audit` tells
    of it for what is taught from the same documents. Killed, the same command goes on where it stopped.
    """
    from imprint.interfaces import tables
    from imprint.interfaces.progress import watching

    asked: dict[str, Any] = {"sample": sample, "most_tokens": most_tokens, "seed": seed, "questions": questions}
    with watching(_stderr()) as watch:
        found = imprint.curve(path, base=base, recipe=recipe, watch=watch, **asked)
    if as_json:
        typer.echo(json.dumps(_without_nan(dataclasses.asdict(found)), indent=2))
    else:
        tables.stdout().print(tables.curve_page(found))


_command(
    "imprint plan ./handbook --questions-per-day 200 --updates-per-month 4",
    "imprint plan ./handbook --latency 2 --local-only",
    "imprint plan ./handbook --budget 2h --prices prices.toml --json",
)(plan_command.plan)


@_command(
    "imprint map ./handbook --questions questions.jsonl",
    "imprint map ./handbook --kinds lora,lora_xs --sizes small,middle --text-tokens 20k --no-tune",
    "imprint map ./handbook --suite general_gauntlet --suite blimp --general-text wikitext2.txt --work ./map",
    "imprint map ./handbook --work ./map --only-report",
    name="map",
)
def map_(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A document, or a folder of documents.")],
    questions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Questions about the documents; else the writer's own.")
    ] = None,
    strangers: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Questions that the documents do not answer.")
    ] = None,
    suite: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="Tasks judged by log-likelihood, before and after; may be said again."),
    ] = None,
    general_text: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A text whose perplexity is taken besides; may be said again."),
    ] = None,
    kinds: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Kinds of adapters; else all, 'full' only with memory for it."),
    ] = None,
    sizes: Annotated[str, typer.Option(metavar="A,B", help="Sizes of each kind.")] = "small,middle,large",
    budget: Annotated[
        str | None,
        typer.Option(metavar="BUDGET", help="What writing the text and one training may take; 10min if not said."),
    ] = None,
    text_tokens: Annotated[
        str | None, typer.Option(metavar="N", help="Training text to write, in tokens: 20000, 20k.")
    ] = None,
    tokens: Annotated[
        str | None, typer.Option(metavar="N", help="Training tokens of each adapter, visits counted: 100k.")
    ] = None,
    tune: Annotated[
        bool, typer.Option("--tune/--no-tune", help="Find each kind's learning rate on a tenth of the text first.")
    ] = True,
    base: BaseName = None,
    recipe: RecipeFile = None,
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed gives the same map.")] = 0,
    work: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where the map is kept; else in the adapters' home.")
    ] = None,
    only_report: Annotated[
        bool, typer.Option("--only-report", help="Measure nothing: plots and page of what stands in --work.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Find out which kind of adapter learns most of your documents, and what each forgets.

    The training text is written once; every kind at every size is trained on it for as many tokens, and asked the
    same questions, beside the untouched base, full context and RAG. Measured are what it learnt, what it forgot of
    general text and of suites, whether it speaks of the documents where it should not, its size and its cost.

    Each result is kept as it comes: killed, the same command goes on where it stopped. Leaves two plots and one
    page, map.html, beside the rows. Nothing is published.
    """
    from imprint.interfaces import map_plots
    from imprint.interfaces.progress import watching

    map_plots.check()
    if only_report:
        if work is None:
            raise BadInput("--only-report needs the folder of a map: --work FOLDER.")
        from imprint import learning_map

        _tell_map(learning_map.kept(work), as_json)
        return
    settings = imprint.MapSettings(
        kinds=words(kinds) if kinds else None,
        sizes=words(sizes),
        tokens=_count(tokens, "--tokens"),
        tune=tune,
        seed=seed,
    )
    asked: dict[str, Any] = {"questions": questions, "strangers": strangers, "base": base, "budget": budget}
    with watching(_stderr()) as watch:
        found = imprint.draw_map(
            path,
            settings=settings,
            recipe=_with_text(recipe, _count(text_tokens, "--text-tokens")),
            suites=suite or [],
            texts=general_text or [],
            work=work,
            watch=watch,
            **asked,
        )
    _tell_map(found, as_json)


def _tell_map(found: LearningMap, as_json: bool) -> None:
    from imprint.evaluation import trade_off
    from imprint.interfaces import map_page, tables

    files = map_page.write(found, found.folder)
    if as_json:
        typer.echo(json.dumps(_without_nan({"about": found.about, "rows": list(found.rows)}), indent=2))
    else:
        tables.stdout().print(tables.map_page(found, trade_off.read(found.rows, seed=int(found.about["seed"]))))
    typer.echo(f"Written: {', '.join(str(file) for file in files)}", err=True)


def _with_text(recipe: Path | None, text_tokens: int | None) -> Recipe | Path | None:
    """A recipe that asks for so much text."""
    if text_tokens is None:
        return recipe
    from imprint import recipe as recipes

    settings = recipes.read_toml(recipe, "recipe") if recipe else {}
    return recipes.from_mapping(settings | {"text_tokens": text_tokens}, source=str(recipe or "the command line"))


def _count(text: str | None, option: str) -> int | None:
    """'20000', '20k' or '2M'."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmM]?)", text.strip())
    if found is None:
        raise BadInput(f"{option} is '{text}'. Say a number of tokens, such as 20000, 20k or 2M.")
    return int(float(found[1]) * {"": 1, "k": 1_000, "m": 1_000_000}[found[2].lower()])


@_command("imprint audit handbook", "imprint audit handbook --examples 10", "imprint audit handbook --json")
def audit(
    name: Name,
    examples: Annotated[
        int, typer.Option(min=0, metavar="N", help="Also show N items of each kind of the training text.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a report.")] = False,
) -> None:
    """Show what an adapter was taught with, and what was kept out.

    Is the text faithful to the documents, what share of their facts does it cover, is it diverse, is it safe
    (orders to a model, contradictions, names easily confused), and is it enough? Made when the adapter was taught;
    nothing is computed anew.
    """
    from imprint.interfaces import tables

    taught = imprint.open(name)
    report = taught.audit
    if as_json:
        typer.echo(json.dumps(_without_nan(report), indent=2))
        return
    for line in taught.audit_lines():
        typer.echo(tables.printable(line))
    for example in taught.examples(examples):
        typer.echo(tables.printable(f"[{example.generator}] " + " / ".join(t.text for t in example.turns)))


@_command(
    "imprint audit-index ./handbook",
    "imprint audit-index --texts texts.jsonl --vectors vectors.npy --budget 30min",
    "imprint audit-index ./handbook --storage float32,int8,binary,noise=0.02 --json > audit.json",
    name="audit-index",
)
def audit_index(
    path: Annotated[
        Path | None, typer.Argument(metavar="PATH", help="A document, or a folder of documents.")
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='Instead of PATH: {"text": ...} on each line, with "questions": [...] where there are any.',
        ),
    ] = None,
    vectors: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The vectors of --texts (.npy), a row for each text.")
    ] = None,
    embedder: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Embedding model: a folder or a hub name; else the bundled one."),
    ] = None,
    storage: Annotated[
        str, typer.Option(metavar="A,B", help="Ways of storing: float32, int8, binary, noise=0.01.")
    ] = "float32,int8,binary,noise=0.01",
    budget: Annotated[str, typer.Option(metavar="TIME", help="What it may take: 10min, 1h.")] = "10min",
    guessed: Annotated[int, typer.Option(min=1, metavar="N", help="Texts to hold out and guess, at most.")] = 32,
    examples: Annotated[
        int, typer.Option(min=0, metavar="N", help="Also show N texts beside what was read from their vectors.")
    ] = 0,
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed holds out the same texts.")] = 0,
    work: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where guesses are kept; else in the adapters' home.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Find out how much of your texts can be read back from the vectors of a search index.

    Some texts are held out. From the others an attack learns how vectors tell of words; then it guesses those from
    their vectors alone, as each way of storing keeps them. Told are the words, names and numbers it got right,
    beside what can be guessed without any vector; what each way of storing costs in retrieval; and a verdict.

    The attack is a small one. What it reads back can be read back; what it does not may be read by a better one.
    Each guess is kept as it comes: killed, the same command goes on where it stopped.
    """
    from imprint import inversion
    from imprint.interfaces import index_page, tables
    from imprint.interfaces.progress import watching
    from imprint.planner import parse_budget

    if (path is None) == (texts is None) or (vectors is not None and texts is None):
        raise BadInput("Name either documents, or a file of texts with or without its vectors: --texts, --vectors.")
    seconds = parse_budget(budget).seconds
    if seconds is None:
        raise BadInput(f"An audit's budget is a time, and '{budget}' is none. Say --budget 10min.")
    settings = inversion.Settings(inversion.parse(storage), seconds, guessed, seed=seed)
    from imprint import embedders

    with watching(_stderr()) as watch:
        model = embedders.load(embedder)
        stored = _stored(path, texts, vectors, model, watch.say)
        folder = work or _audit_folder(model.name, settings, stored)
        found = inversion.audit_index(stored, model, settings, folder=folder, watch=watch)
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=2))
    else:
        tables.stdout().print(index_page.audit_page(found))
    if examples:
        tables.stdout().print(index_page.guess_table(found, examples))
    typer.echo(f"Texts and guesses are in {found.folder}; keep it where the documents are.", err=True)


def _stored(
    path: Path | None, texts: Path | None, vectors: Path | None, embedder: Embedder, say: Callable[[str], None]
) -> Stored:
    from imprint import documents, inversion

    if texts is not None:
        return inversion.read_stored(texts, vectors)
    assert path is not None
    loaded = documents.load(path)
    say(loaded.summary())
    return inversion.Stored(inversion.texts_of(loaded.documents, embedder))


def _audit_folder(embedder: str, settings: AuditSettings, stored: Stored) -> Path:
    from imprint.home import home_folder
    from imprint.types import content_hash

    given = b"" if stored.vectors_ND is None else stored.vectors_ND.tobytes()
    return home_folder() / "index-audits" / content_hash(embedder, repr(settings), *stored.texts, given)


# --- serving ----------------------------------------------------------------------------------


class Server(StrEnum):
    """What computes the answers of a server."""

    own = "own"
    vllm = "vllm"


@_command(
    "imprint serve",
    "imprint serve --base ./my-llama --port 9000",
    "imprint serve --engine vllm --vllm-python ~/vllm-env/bin/python -- --max-model-len 4096",
)
def serve(
    context: typer.Context,
    base: BaseName = None,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Where to listen; 0.0.0.0 lets the whole network in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="0 takes a free port.")] = 8000,
    engine: Annotated[Server, typer.Option(help="What computes: imprint itself, or vLLM.")] = Server.own,
    max_rows: Annotated[int, typer.Option(metavar="N", min=1, help="Requests answered at once.")] = 64,
    max_waiting: Annotated[int, typer.Option(metavar="N", min=1, help="Requests that may wait.")] = 256,
    max_adapters: Annotated[
        int, typer.Option(metavar="N", min=1, help="Adapters held in memory; the longest unused makes room.")
    ] = 64,
    routed: Annotated[
        bool, typer.Option("--routed", help="An adapter answers what is about its documents; the base the rest.")
    ] = False,
    requests_per_minute: Annotated[float, typer.Option(metavar="N", min=1, help="Of one tenant.")] = 600,
    concurrent: Annotated[int, typer.Option(metavar="N", min=1, help="Of one tenant, at the same time.")] = 64,
    jobs: Annotated[int, typer.Option(metavar="N", min=1, help="Teaching jobs at the same time.")] = 2,
    longest_job: Annotated[
        float | None, typer.Option(metavar="MINUTES", min=1, help="A teaching job that runs longer fails.")
    ] = None,
    open_metrics: Annotated[
        bool, typer.Option("--open-metrics", help="Let /metrics answer without a key.")
    ] = False,
    vllm_python: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The Python of the environment that has vLLM.")
    ] = None,
    vllm_options: Annotated[
        list[str] | None, typer.Argument(metavar="[-- VLLM OPTIONS]", help="Handed to vLLM as they are.")
    ] = None,
) -> None:
    """Serve the base and every adapter over HTTP, as OpenAI's API does.

    Point any OpenAI client at the address that is told, with a key of `imprint keys`; where there is none yet,
    one is made and shown. The model "handbook" is the latest version of that adapter, "handbook@2" that one,
    and the base's own name the untaught base. Documents can be taught over the same API: upload files, start a
    fine-tuning job, ask the model that it names.

    SIGINT or SIGTERM ends it when the answers on their way are written; unfinished teaching jobs go on at the
    next start. With vLLM there are no tenants and no teaching: its one key is $VLLM_API_KEY.
    """
    if engine is Server.vllm:
        from imprint.interfaces.vllm_engine import VllmServer, serve_with_vllm

        _refuse_given(context, *_OF_OWN_ENGINE)
        serve_with_vllm(
            VllmServer(base=base, host=host, port=port, python=vllm_python, vllm_args=tuple(vllm_options or ()))
        )
    if vllm_options or vllm_python:
        raise BadInput("Options for vLLM go with --engine vllm only.")
    from imprint.home import home_folder
    from imprint.interfaces.serve import Address, need_packages
    from imprint.interfaces.serve import serve as serve_own

    need_packages()
    from imprint.hosting.host import Settings
    from imprint.interfaces.gate import Limits

    serve_own(
        base,
        home_folder(),
        Address(host, port),
        Settings(
            max_rows=max_rows,
            max_waiting=max_waiting,
            max_adapters=max_adapters,
            jobs_at_once=jobs,
            longest_job_s=None if longest_job is None else 60 * longest_job,
            routed=routed,
        ),
        Limits(requests_per_minute=requests_per_minute, concurrent=concurrent, open_metrics=open_metrics),
        now=_now(),
        say=lambda line: typer.echo(line, err=True),
    )


keys = typer.Typer(no_args_is_help=True, help="The keys that open a server: one tenant each, shown once.")
app.add_typer(keys, name="keys", epilog=_examples("imprint keys add anna", "imprint keys list"))


@_command("imprint keys add anna", name="add", to=keys)
def add_key(
    tenant: Annotated[
        str, typer.Argument(metavar="TENANT", help="Whose key it is; 'local' shares your own adapters.")
    ],
) -> None:
    """Make a key for a tenant, and print it.

    It is shown this once: only its hash is kept. Every tenant has adapters, files and jobs of its own, and
    cannot tell what others have. A running server knows the key at once.
    """
    key, secret = _keys().add(tenant, now=_now())
    typer.echo(secret)
    typer.echo(f"{key.id} opens what is {tenant}'s. To take it back: imprint keys revoke {key.id}", err=True)


@_command("imprint keys list", name="list", to=keys)
def list_keys() -> None:
    """List the keys: their ids, tenants and age, and nothing that opens a door."""
    from imprint.interfaces import tables

    found = _keys().list()
    if found:
        tables.stdout().print(tables.key_list(found))
    else:
        typer.echo("No keys yet. Make one: imprint keys add local", err=True)


@_command("imprint keys revoke key-1f0c93aa", name="revoke", to=keys)
def revoke_key(
    id: Annotated[str, typer.Argument(metavar="ID", help="As `imprint keys list` tells it.")],
) -> None:
    """Take a key back.

    A running server refuses it from the next request on.
    """
    key = _keys().revoke(id)
    typer.echo(f"Revoked {key.id} of {key.tenant}")


# --- what there is ----------------------------------------------------------------------------


@_command("imprint list", name="list")
def list_() -> None:
    """List the adapters, and how their last proofs went.

    Of each name, the latest version.
    """
    from imprint.interfaces import tables

    registry = _registry()
    rows = [(version, registry.reports(version)) for version in registry.list()]
    if rows:
        tables.stdout().print(tables.version_list(rows))
    else:
        typer.echo("No adapters yet. Teach one: imprint teach ./handbook --as handbook", err=True)


@_command("imprint show handbook", "imprint show handbook@1")
def show(name: Name) -> None:
    """Show what a version was made from, how, and how good it is."""
    from imprint.interfaces import tables

    registry = _registry()
    version = registry.get(name)
    tables.stdout().print(tables.version_page(version, registry.reports(version)))


@_command("imprint remove handbook@1", "imprint remove handbook --yes")
def remove(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="handbook@2 for one version, handbook for all of them.")
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove one version, or a name with all its versions.

    Their numbers are not given again. The documents kept for proofs, and the run folders, stay.
    """
    registry = _registry()
    meant = [registry.get(name)] if "@" in name else registry.versions(name)
    listed = ", ".join(map(str, meant))
    if not yes and not typer.confirm(f"Remove {listed}?", err=True):
        typer.echo("Nothing was removed.", err=True)
        raise typer.Exit(1)
    for version in registry.remove(name):
        typer.echo(f"Removed {version}")


@_command("imprint export handbook ./handbook-adapter", "imprint export handbook ./for-peft --peft")
def export(
    name: Name,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that is new or empty.")],
    peft: Annotated[
        bool, typer.Option("--peft", help="As PEFT opens it, with all that a small kind leaves to the base.")
    ] = False,
) -> None:
    """Copy an adapter into a folder of its own.

    `imprint import` opens it; so do PEFT, transformers and vLLM, where they know the kind: LoRA and cartridges as
    they are, LoRA-XS and TinyLoRA with --peft.
    """
    registry = _registry()
    version = registry.get(name)
    where = imprint.open(name).export_for_peft(folder) if peft else registry.export(version, folder)
    typer.echo(f"Exported {version} to {where}")


@_command("imprint import ./handbook-adapter --as handbook", name="import")
def import_(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An exported folder, or any PEFT folder.")],
    name: NewName,
) -> None:
    """Take in an exported adapter, or any PEFT folder.

    It becomes the next version of the name.
    """
    typer.echo(f"Imported {_registry().import_folder(folder, name, now=_now())}")


@_command("imprint doctor")
def doctor() -> None:
    """Look whether everything is here that teaching needs.

    Ends with code 1 where something must be mended.
    """
    from imprint.interfaces import tables
    from imprint.interfaces.doctor import examine

    checks = list(examine())
    tables.stdout().print(tables.check_table(checks))
    todo = [check.todo for check in checks if check.todo and check.needed]
    if todo:
        typer.echo("\nTo do:\n" + "\n".join(f"  {line}" for line in todo))
        raise typer.Exit(1)
    typer.echo("\nAll is well.")


# --- inside -----------------------------------------------------------------------------------


_OF_OWN_ENGINE = (
    *("max_rows", "max_waiting", "max_adapters", "routed", "requests_per_minute", "concurrent"),
    *("jobs", "longest_job", "open_metrics"),
)


def _refuse_given(context: typer.Context, *names: str) -> None:
    """Options that would do nothing are refused. Defaults were not given."""
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise BadInput(f"--{name.replace('_', '-')} is for imprint's own engine; vLLM's options come after --.")


def _registry() -> Registry:
    from imprint.home import home_folder
    from imprint.registry import Registry

    return Registry(home_folder())


def _keys() -> Keys:
    from imprint.home import home_folder
    from imprint.hosting.keys import Keys

    return Keys(home_folder())


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _next_line() -> str:
    """What is said next; empty at the end of input and on Ctrl-C."""
    with contextlib.suppress(ImportError):  # Windows has none
        import readline  # noqa: F401 - gives input() its history and its arrow keys
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except (EOFError, KeyboardInterrupt):
        return ""


if __name__ == "__main__":
    main()
