"""The `imprint` command: its words are the library's words. Nothing heavy is imported until a command needs it."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

import imprint
from imprint import clock
from imprint.errors import ImprintError
from imprint.interfaces import (
    admit_commands,
    asking_commands,
    audit_commands,
    change_commands,
    keeping_commands,
    merging_commands,
    nightly_commands,
    plan_command,
    prove_command,
    serving_commands,
    teaching_commands,
    updating_commands,
)
from imprint.interfaces.options import Name

if TYPE_CHECKING:
    from imprint.registry import Registry

WHAT_IT_DOES = """
Teach a language model your documents by training them into a small adapter, prove what it learnt, and ask it.

Adapters live in $IMPRINT_HOME, or else in your data folder; `imprint doctor` says where that is.
"""
_GO_ON = ("teach", "prove", "curve", "map", "audit-index", "update", "forget", "rebase", "nightly", "federate")
Command = TypeVar("Command", bound=Callable[..., None])


class _Border(TyperGroup):
    """Where what imprint raises becomes one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ImprintError as error:
            typer.echo(f"imprint: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(2) from error
        except OSError as error:
            if error.errno in (None, errno.EPIPE):  # no file's fault but ours, or that of who reads our output
                raise
            where = f" ({error.filename})" if error.filename else ""
            typer.echo(
                f"imprint: The system says: {error.strerror}{where}. `imprint doctor` looks around.", err=True
            )
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

_command(
    "imprint teach ./handbook --as handbook --budget 30min",
    "imprint teach ./handbook --as handbook --questions questions.jsonl",
    "imprint teach ./sales --as sales ./support --as support",
    "imprint teach --jobs jobs.toml",
    "imprint teach ./handbook --as handbook --writer http://127.0.0.1:8001/v1 --writer-model qwen3 --estimate",
)(teaching_commands.teach)
_command(
    'imprint ask handbook "How many vacation days do I get?"',
    'imprint ask handbook "How many vacation days do I get?" --cite',
    'imprint ask handbook "How many vacation days do I get?" --anyway',
    'imprint ask handbook "How many vacation days do I get?" --as-of 2026-03-01',
    'echo "Who founded the company?" | imprint ask handbook -',
)(asking_commands.ask)
_command("imprint chat handbook")(asking_commands.chat)
_command(
    "imprint prove handbook",
    "imprint prove handbook --questions questions.jsonl --suite ./general_gauntlet --out ./certificates",
    "imprint prove handbook --systems weights,rag,weights_rag --only forgotten,coverage",
    "imprint prove handbook --only leaks,confidence",
    "imprint prove handbook --rival http://127.0.0.1:8001/v1 --rival-model qwen3 --rival-key-env ''",
    "imprint prove handbook --judge http://127.0.0.1:8001/v1 --judge-model qwen3 --judge-key-env ''",
    "imprint prove handbook --quick --json > proof.json",
)(prove_command.prove)
_command("imprint curve ./handbook", "imprint curve ./handbook --sample 20 --questions questions.jsonl")(
    teaching_commands.curve
)
_command(
    "imprint plan ./handbook --questions-per-day 200 --updates-per-month 4",
    "imprint plan ./handbook --latency 2 --local-only",
    "imprint plan ./handbook --budget 2h --prices prices.toml --json",
)(plan_command.plan)
_command(
    "imprint map ./handbook --questions questions.jsonl",
    "imprint map ./handbook --kinds lora,lora_xs --sizes small,middle --text-tokens 20k --no-tune",
    "imprint map ./handbook --suite general_gauntlet --suite blimp --general-text wikitext2.txt --work ./map",
    "imprint map ./handbook --work ./map --only-report",
    name="map",
)(teaching_commands.map_)
_command("imprint audit handbook", "imprint audit handbook --examples 10", "imprint audit handbook --json")(
    audit_commands.audit
)
_command(
    "imprint audit-index ./handbook",
    "imprint audit-index --texts texts.jsonl --vectors vectors.npy --budget 30min",
    "imprint audit-index ./handbook --storage float32,int8,binary,noise=0.02 --json > audit.json",
    name="audit-index",
)(audit_commands.audit_index)


# --- when documents change --------------------------------------------------------------------

_command(
    "imprint update handbook ./handbook",
    "imprint update handbook ./handbook --date 2026-03-01 --way shards",
    "imprint update handbook ./handbook --estimate",
    "imprint update handbook ./handbook --shards 8",
)(updating_commands.update)
_command(
    "imprint forget handbook --document salaries.md",
    "imprint forget handbook --passage 'The contract ends on 17 May 2031.' --later",
    "imprint forget handbook --from anna",
    "imprint forget handbook",
)(updating_commands.forget)
_command("imprint diff handbook@3 handbook@4", "imprint diff handbook@1 handbook --all --json")(
    change_commands.diff
)
_command(
    "imprint conflicts ./handbook",
    "imprint conflicts ./handbook --name handbook --rules newer,ask",
    "imprint conflicts ./handbook --rules order --source-order 'policies/*,faq.md' --json",
)(change_commands.conflicts)
_command("imprint rollback handbook@3")(updating_commands.rollback)
_command("imprint rebase handbook --base ./my-llama")(updating_commands.rebase)
_command(
    "imprint nightly ./people --recipe small.toml --budget 2min",
    "imprint nightly --jobs people.toml",
    "imprint nightly --jobs people.toml --wave 16 --json > night.json",
)(nightly_commands.nightly)
_command(
    "imprint admit handbook ./from-anna --from anna",
    "imprint admit handbook --list",
    "imprint admit handbook --release 1f0c93aa",
)(admit_commands.admit)
_command("imprint promote handbook --from anna")(admit_commands.promote)
_command(
    "imprint merge anna ben --as both",
    "imprint merge anna ben carl --as mean --weights 0.33,0.33,0.33",
    "imprint merge anna ben --as small --how ties --rank 16 --density 0.3",
)(merging_commands.merge)

federate = typer.Typer(no_args_is_help=True, help="One adapter of several sites' documents, which stay there.")
app.add_typer(federate, name="federate", epilog=_examples("imprint federate start ./shared --site anna --site ben"))
_command("imprint federate start ./shared --site anna --site ben --method ffa", name="start", to=federate)(
    merging_commands.start
)
_command("imprint federate site ./shared ./docs --as anna", name="site", to=federate)(merging_commands.site)
_command("imprint federate aggregate ./shared", name="aggregate", to=federate)(merging_commands.aggregate)


# --- serving ----------------------------------------------------------------------------------

_command(
    "imprint serve",
    "imprint serve --base ./my-llama --port 9000",
    "imprint serve --engine vllm --vllm-python ~/vllm-env/bin/python -- --max-model-len 4096",
)(serving_commands.serve)

keys = typer.Typer(no_args_is_help=True, help="The keys that open a server: one tenant each, shown once.")
app.add_typer(keys, name="keys", epilog=_examples("imprint keys add anna", "imprint keys list"))
_command("imprint keys add anna", name="add", to=keys)(serving_commands.add_key)
_command("imprint keys list", name="list", to=keys)(serving_commands.list_keys)
_command("imprint keys revoke key-1f0c93aa", name="revoke", to=keys)(serving_commands.revoke_key)


# --- what there is ----------------------------------------------------------------------------


@_command("imprint list", name="list")
def list_() -> None:
    """List the adapters, and how their last proofs went.

    Of each name, the latest version.
    """
    from imprint.interfaces import tables

    registry = _registry()
    reports = registry.latest_reports()
    rows = [(head, reports.get(head.name, ())) for head in registry.heads()]
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
    typer.echo(f"Imported {_registry().import_folder(folder, name, now=clock.now())}")


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


_command("imprint verify", "imprint verify --repair", "imprint verify --json")(keeping_commands.verify)
_command("imprint backup ./imprint.tar", "imprint backup ./small.tar --without-runs")(keeping_commands.backup)
_command("imprint restore ./imprint.tar", "imprint restore ./imprint.tar --into ./elsewhere")(
    keeping_commands.restore
)


def _registry() -> Registry:
    from imprint.home import home_folder
    from imprint.registry import Registry

    return Registry(home_folder())


if __name__ == "__main__":
    main()
