"""Federated rounds on Flower: the only door to flwr. What travels are arrays and counts, as in the plain files.

    server_app(federation, base, keep)      goes through the rounds; the checks and sums are federated.py's
    client_app(federation, opened)          a site: what it trains on, it opens itself
    simulate(federation, base, opened)      all of them on this machine, each site in a process of Ray's

Nothing is told to Flower's or Ray's makers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from imprint.base import Base
from imprint.continual import federated
from imprint.continual.federated import Federation, Update
from imprint.engine import Engine
from imprint.errors import ImprintError, MissingPackage
from imprint.training.service import Service
from imprint.training.sft import Job
from imprint.types import Adapter

if TYPE_CHECKING:
    from flwr.app import ArrayRecord, Context, Message
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp

Opened = Callable[[str], tuple[Base, Job]]
"""A site's base and its training, by the site's name; called at the site, so that nothing of it travels."""

_JOIN_S = 600.0
"""How long the server waits for all clients to be there."""
_WAIT_S = 24 * 3600.0
"""How long it waits for a round's answers."""


def server_app(federation: Federation, base: Base, keep: Callable[[Adapter], None]) -> ServerApp:
    """What runs at the keeper's: `keep` is given the result of the last round.

    Raises ImprintError where a site fails, and what federated.check() raises."""
    _need_flower()
    from flwr.serverapp import ServerApp

    app = ServerApp()

    @app.main()  # type: ignore[untyped-decorator, unused-ignore]
    def _rounds(grid: Grid, context: Context) -> None:
        common = federated.begin(federation, base)
        for number in range(1, federation.rounds + 1):
            updates = _asked(grid, federation, common, number)
            common = federated.aggregate(federation, common, updates).common
        assert common is not None, "a federation has a round at least"
        keep(common)

    return app


def client_app(federation: Federation, opened: Opened) -> ClientApp:
    """What runs at a site. Its name is `site` in the node's configuration; in a simulation it follows from the
    node's place."""
    _need_flower()
    from flwr.app import ConfigRecord, Message, RecordDict
    from flwr.clientapp import ClientApp

    app = ClientApp()

    @app.train()  # type: ignore[untyped-decorator, unused-ignore]
    def _train(message: Message, context: Context) -> Message:
        named = context.node_config
        site = str(named["site"] if "site" in named else federation.sites[int(named["partition-id"])])
        number = int(message.content["told"]["round"])
        common = federation.common(_tensors(message.content["common"]))
        base, own = opened(site)
        job = federated.job_of(federation, common, site, number, own)
        service = Service(Engine(base, slots=2))
        ticket = service.submit(job)
        service.run_all()
        update = federated.update_of(federation, site, ticket.result().adapter, job)
        told = ConfigRecord({"site": site, "tokens": update.tokens})
        content = RecordDict({"update": _arrays(update.adapter), "told": told})
        return Message(content, reply_to=message)

    return app


def simulate(federation: Federation, base: Base, opened: Opened, *, at_once: int = 1) -> Adapter:
    """The result of all rounds, every site a client of its own. `at_once`: so many sites train at the same time.

    Raises MissingPackage without Flower, ImprintError where a site fails."""
    _need_flower()
    from flwr.simulation import run_simulation

    results: list[Adapter] = []
    run_simulation(
        server_app(federation, base, results.append),
        client_app(federation, opened),
        num_supernodes=len(federation.sites),
        backend_config={
            "init_args": {"num_cpus": at_once, "num_gpus": 0, "include_dashboard": False},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )
    if not results:
        raise ImprintError("The simulation ended before its last round; its log says why.")
    return results[0]


# --- inside -----------------------------------------------------------------------------------


def _asked(grid: Grid, federation: Federation, common: Adapter | None, number: int) -> list[Update]:
    """What the sites hand in for a round, in the order in which the federation names them."""
    from flwr.app import ConfigRecord, Message, RecordDict

    nodes = _joined(grid, len(federation.sites))
    told = ConfigRecord({"round": number})
    messages = [
        Message(RecordDict({"common": _arrays(common), "told": told}), dst_node_id=node, message_type="train")
        for node in nodes
    ]
    updates: list[Update] = []
    for reply in grid.send_and_receive(messages, timeout=_WAIT_S):
        if reply.has_error():
            raise ImprintError(f"A site failed in round {number}: {reply.error.reason}")
        said: Any = reply.content["told"]
        adapter = federation.adapter(_tensors(reply.content["update"]))
        updates.append(Update(str(said["site"]), adapter, int(said["tokens"])))
    if len(updates) < len(nodes):
        raise ImprintError(f"{len(nodes) - len(updates)} sites did not answer in round {number}.")
    order = {site: i for i, site in enumerate(federation.sites)}
    return sorted(updates, key=lambda update: order.get(update.site, len(order)))


def _joined(grid: Grid, sites: int) -> list[int]:
    """The clients, once there is one for each site: they come when the server runs already."""
    until = time.monotonic() + _JOIN_S
    while len(nodes := sorted(grid.get_node_ids())) < sites and time.monotonic() < until:
        time.sleep(0.2)
    if len(nodes) != sites:
        raise ImprintError(f"{len(nodes)} clients joined within {_JOIN_S:.0f} s; the federation has {sites} sites.")
    return nodes


def _arrays(adapter: Adapter | None) -> ArrayRecord:
    from flwr.app import ArrayRecord

    return ArrayRecord(torch_state_dict=dict(adapter.tensors) if adapter else {})


def _tensors(record: Any) -> dict[str, Any]:
    return dict(record.to_torch_state_dict())


def _need_flower() -> None:
    """Raises MissingPackage without Flower; told first that nothing is to be reported."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import flwr  # noqa: F401
    except ImportError as error:
        raise MissingPackage("This needs Flower. Install it with: pip install 'imprint[flower]'") from error
