"""`imprint serve`, and the keys that open a server."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imprint import clock
from imprint.errors import BadInput
from imprint.interfaces.options import BaseName

if TYPE_CHECKING:
    from imprint.hosting.keys import Keys


_OF_OWN_ENGINE = (
    *("max_rows", "max_waiting", "max_adapters", "routed", "requests_per_minute", "concurrent"),
    *("jobs", "longest_job", "open_metrics"),
)


class Server(StrEnum):
    """What computes the answers of a server."""

    own = "own"
    vllm = "vllm"


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
        now=clock.now(),
        say=lambda line: typer.echo(line, err=True),
    )


def _refuse_given(context: typer.Context, *names: str) -> None:
    """Options that would do nothing are refused. Defaults were not given."""
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise BadInput(f"--{name.replace('_', '-')} is for imprint's own engine; vLLM's options come after --.")


def add_key(
    tenant: Annotated[
        str, typer.Argument(metavar="TENANT", help="Whose key it is; 'local' shares your own adapters.")
    ],
) -> None:
    """Make a key for a tenant, and print it.

    It is shown this once: only its hash is kept. Every tenant has adapters, files and jobs of its own, and
    cannot tell what others have. A running server knows the key at once.
    """
    key, secret = _keys().add(tenant, now=clock.now())
    typer.echo(secret)
    typer.echo(f"{key.id} opens what is {tenant}'s. To take it back: imprint keys revoke {key.id}", err=True)


def list_keys() -> None:
    """List the keys: their ids, tenants and age, and nothing that opens a door."""
    from imprint.interfaces import tables

    found = _keys().list()
    if found:
        tables.stdout().print(tables.key_list(found))
    else:
        typer.echo("No keys yet. Make one: imprint keys add local", err=True)


def revoke_key(
    id: Annotated[str, typer.Argument(metavar="ID", help="As `imprint keys list` tells it.")],
) -> None:
    """Take a key back.

    A running server refuses it from the next request on.
    """
    key = _keys().revoke(id)
    typer.echo(f"Revoked {key.id} of {key.tenant}")


def _keys() -> Keys:
    from imprint.home import home_folder
    from imprint.hosting.keys import Keys

    return Keys(home_folder())
