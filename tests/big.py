"""A large cluster without machines: its rows in the database, and in Redis what its nodes last said of each other.

    mesh = make_mesh(1000)             # rows alone, in about a second
    live = Live(mesh, time.time())     # what all nodes see, in memory, in seconds
    live.write()                       # records and summaries; they live for TIME_TO_LIVE
    live.set_state(one, other, "down") # how one node sees another from now on; `write` again, and `tell` open pages

Nearly all links are up. Not so: nodes that are away (all others see them down), a site whose uplink is bad, pairs that
see each other differently. All of it follows from the seed.

    python -m tests.big --nodes 1000 --data DIRECTORY

makes one beside a console that `manage.py run --data DIRECTORY` runs, and keeps it alive until it is interrupted: every
node reports now and then, and each second a link changes.
"""

from __future__ import annotations

import argparse
import base64
import os
import random
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nodes.live import Table
    from nodes.models import Cluster, Node

SITES = (
    ("fra", "192.0.2", 30), ("ams", "198.51.100", 22), ("iad", "203.0.113", 18), ("sgp", "198.18.4", 12),
    ("edge-berlin", "198.18.8", 8), ("edge-lyon", "198.18.9", 6), ("home", "198.18.12", 4),
)  # fmt: skip
"""Name, public addresses, and weight among all nodes."""

ROLES = ("worker", "worker", "worker", "worker", "db", "cache", "gw")
BAD_SITE = "home"
FAR_SITE = "sgp"
"""The bad site's uplink does not reach this one."""

FAR = {"iad": 80, "sgp": 160, "home": 30}
"""How far a site is from the others, in about as many milliseconds of a round trip."""

SYSTEMS = ("Debian GNU/Linux 12 (bookworm)", "Ubuntu 24.04.1 LTS", "Fedora Linux 41", "Alpine Linux v3.20")
BATCH = 100
REPORTS_A_SECOND = 1 / 45
"""The share of nodes that reports within a second."""

ODD_ONES = 300
"""One pair in so many is not as its sites are."""

STATES = ("unknown", "up", "down")
UNKNOWN, UP, DOWN = range(3)


@dataclass(frozen=True)
class Mesh:
    """A cluster and its nodes; those that are approved have the member indexes 0, 1, 2 … in this order."""

    cluster: Cluster
    nodes: list[Node]

    @property
    def members(self) -> list[Node]:
        """The approved ones."""
        return [node for node in self.nodes if node.index is not None]


def make_mesh(
    count: int = 1000, *, name: str = "big", talos: float = 0.1, seed: object = "big", now: datetime | None = None
) -> Mesh:
    """Rows of a cluster of so many nodes, a few of which wait for approval, are away, at fault or behind.

    `talos` is the share of Talos machines, of which discovery alone speaks.
    """
    from nodes.models import Candidate, Change, Node  # noqa: PLC0415 - settings may be prepared after the import
    from nodes.services import clusters  # noqa: PLC0415

    now = now or datetime.now(UTC)
    dice = random.Random(repr(seed))
    cluster, _ = clusters.create_cluster("tests", name=name, now=now)
    pending = min(3, count // 10)
    rows = [_row(cluster, place, place < count - pending, dice, talos, now) for place in range(count)]
    nodes = Node.objects.bulk_create(rows, batch_size=BATCH)
    Candidate.objects.bulk_create(
        (
            Candidate(node=node, endpoint=endpoint, source=source, order=order, seen=now - timedelta(minutes=order))
            for node in nodes
            for order, (endpoint, source) in enumerate(_endpoints(node))
        ),
        batch_size=BATCH * 5,
    )
    members = [node for node in nodes if node.index is not None]
    Change.objects.bulk_create(
        (
            Change(cluster=cluster, number=cluster.revision + 1 + place, kind="member", index=node.index, at=now)
            for place, node in enumerate(members)
        ),
        batch_size=BATCH * 5,
    )
    cluster.next_index = len(members)
    cluster.revision += len(members)
    cluster.pushed = cluster.revision
    cluster.save()
    for node in members:
        node.cluster = cluster
        node.applied_epoch, node.applied_number = cluster.epoch, cluster.revision
        if node.index % 173 == 5:
            node.applied_number -= 3
    Node.objects.bulk_update(members, ["applied_epoch", "applied_number"], batch_size=BATCH)
    return Mesh(cluster, nodes)


def _row(cluster: Cluster, place: int, approved: bool, dice: random.Random, talos: float, now: datetime) -> Node:
    from kubespan.core.identity import encode_node_id, node_address  # noqa: PLC0415
    from nodes.models import Node  # noqa: PLC0415

    site, addresses, _ = dice.choices(SITES, [weight for *_, weight in SITES])[0]
    is_talos = approved and dice.random() < talos
    role = ("cp" if place % 9 == 0 else "talos") if is_talos else dice.choice(ROLES)
    away = not is_talos and dice.random() < 0.01
    seen = now - timedelta(minutes=dice.randrange(4, 600)) if away else now - timedelta(seconds=dice.randrange(30))
    here = approved and not away and not is_talos
    return Node(
        cluster=cluster,
        index=place if approved else None,
        node_id=encode_node_id(dice.randbytes(32)),
        name=f"{site}-{role}-{place:03}",
        site=site,
        hostname=f"{site}-{role}-{place:03}.example.net",
        public_key=base64.b64encode(dice.randbytes(32)).decode(),
        verify_key="" if is_talos else base64.b64encode(dice.randbytes(32)).decode(),
        kind="talos" if is_talos else "linux",
        machine_type="controlplane" if role == "cp" else "worker",
        address=str(node_address(_prefix(cluster), b"\x02" + dice.randbytes(7))),
        status="approved" if approved else "pending",
        enrolled=now - timedelta(days=dice.randrange(1, 300), seconds=dice.randrange(86400)),
        approved_at=now - timedelta(days=1) if approved else None,
        operating_system="Talos (v1.9.1)" if is_talos else dice.choice(SYSTEMS),
        agent_version="" if is_talos else "0.1.0",
        backend="" if is_talos else dice.choice(("kernel", "kernel", "kernel", "userspace")),
        addresses=[f"10.{64 + len(site)}.{place // 250}.{place % 250 + 1}"],
        peer_address=f"{addresses}.{place % 250 + 1}",
        session=f"{place:032x}" if here else "",
        connected_at=now - timedelta(hours=dice.randrange(1, 200)) if here else None,
        last_seen=seen if approved else None,
        away=not here,
        clock_skew=0.02 if here else None,
        fault="nftables: table inet kubespan cannot be made" if here and place % 211 == 7 else "",
    )


def _prefix(cluster: Cluster) -> object:
    from kubespan.core.cluster import ula_prefix  # noqa: PLC0415

    return ula_prefix(cluster.cluster_id)


def _endpoints(node: Node) -> Iterable[tuple[str, str]]:
    yield f"{node.peer_address}:51820", "observed"
    yield f"{node.addresses[0]}:51820", "local"


class Live:
    """What a mesh's nodes see of each other, and its copy in Redis."""

    def __init__(self, mesh: Mesh, now: float, *, seed: object = "big") -> None:
        """Work out how all see all, as of this Unix time; seconds for a thousand."""
        from nodes.live import Table  # noqa: PLC0415

        self.mesh = mesh
        self.members = mesh.members
        self._dice = random.Random(repr(seed))
        self._size = len(self.members)
        self._endpoints = tuple(f"{node.peer_address}:51820" for node in self.members)
        self._sites = [node.name.rsplit("-", 2)[0] for node in self.members]
        self._usual = {site: self._usual_row(site) for site in set(self._sites)}
        self._odd = self._make_odd()
        self._bytes = [int(self._dice.lognormvariate(17, 2)) for _ in range(2 * self._size)]
        self._ages = [self._dice.randrange(115_000) for _ in range(2 * self._size)]
        self._shifts = [self._dice.randrange(self._size) for _ in range(self._size)]
        self._losses = [self._dice.choices((0, 2, 8, 40, 150), (200, 8, 4, 2, 1))[0] for _ in range(2 * self._size)]
        self._number = 0
        self.tables: dict[int, Table] = {node.pk: Table() for node in self.members if node.session}
        """By primary key, of those that report."""
        for node in self.reporting:
            self.report(node, now)

    @property
    def reporting(self) -> list[Node]:
        """Nodes whose agents are connected."""
        return [node for node in self.members if node.session]

    def _usual_row(self, site: str) -> list[int]:
        cut = {BAD_SITE: FAR_SITE, FAR_SITE: BAD_SITE}.get(site)
        return [
            DOWN if there == cut or (node.away and not node.is_talos) else UP
            for node, there in zip(self.members, self._sites, strict=True)
        ]

    def _make_odd(self) -> dict[int, dict[int, int]]:
        """Pairs that are not as their sites are: some not settled yet, some with two opinions."""
        odd: dict[int, dict[int, int]] = {}
        for _ in range(self._size * self._size // ODD_ONES):
            one, other = self._dice.randrange(self._size), self._dice.randrange(self._size)
            state = self._dice.choice((UNKNOWN, UNKNOWN, DOWN))
            odd.setdefault(one, {})[other] = state
            if self._dice.randrange(2):
                odd.setdefault(other, {})[one] = state
        return odd

    def state(self, one: Node, other: Node) -> str:
        """How one node sees another, whether it reports or not."""
        return STATES[self._states(one)[other.index]]

    def set_state(self, one: Node, other: Node, state: str) -> None:
        """Have one node see another like this from its next report on."""
        self._odd.setdefault(one.index, {})[other.index] = STATES.index(state)

    def _states(self, node: Node) -> list[int]:
        states = list(self._usual[self._sites[node.index]])
        for index, state in self._odd.get(node.index, {}).items():
            states[index] = state
        return states

    def report(self, node: Node, now: float) -> list[int]:
        """Have a node say all of its links anew; gives the members whose links changed their state."""
        from kubespan.core.messages import Report, Revision  # noqa: PLC0415

        states = self._states(node)
        start = self._shifts[node.index]
        ages, moved = self._ages[start : start + self._size], self._bytes[start : start + self._size]
        for index, state in enumerate(states):
            if state != UP:
                ages[index] = -1 if index % 5 == 0 else 200_000 + 40_000 * (index % 97)
        self._number += 1
        said = Report(
            number=self._number,
            complete=True,
            revision=Revision(self.mesh.cluster.epoch, self.mesh.cluster.revision),
            members=tuple(range(self._size)),
            states=tuple(states),
            endpoints=self._endpoints,
            handshakes=tuple(ages),
            received=tuple(moved),
            sent=(*moved[1:], moved[0]),
            rtts=tuple(self._rtts(node, states)),
            losses=tuple(-1 if state != UP else self._losses[start + index] for index, state in enumerate(states)),
        )
        _, news = self.tables[node.pk].merge(said, node.index, range(self._size), now)
        return [move.member for move in news]

    def _rtts(self, node: Node, states: list[int]) -> Iterable[int]:
        """Near within a site, far between continents, and a little different for each pair."""
        here = self._sites[node.index]
        for index, state in enumerate(states):
            there = self._sites[index]
            usual = 400 if here == there else 900 * (FAR.get(here, 8) + FAR.get(there, 8))
            yield usual + (node.index * 31 + index * 17) % 97 * usual // 200 if state == UP else -1

    def write(self, nodes: Iterable[Node] | None = None) -> None:
        """Write what these nodes (all, unless given) said last into Redis."""
        from nodes import live  # noqa: PLC0415
        from nodes.connections import sync_redis  # noqa: PLC0415

        chosen = self.reporting if nodes is None else list(nodes)
        seconds = int(live.TIME_TO_LIVE)
        for start in range(0, len(chosen), BATCH):
            with sync_redis().pipeline(transaction=False) as pipeline:
                for node in chosen[start : start + BATCH]:
                    table = self.tables[node.pk]
                    pipeline.set(live.record_key(node.pk), table.dump(), ex=seconds)
                    pipeline.set(live.states_key(node.pk), table.states(), ex=seconds)
                    pipeline.set(live.ages_key(node.pk), table.ages(), ex=seconds)
                    pipeline.set(live.summary_key(node.pk), table.summary(node.session), ex=seconds)
                pipeline.execute()

    def forget(self, node: Node) -> None:
        """Take what a node said out of Redis, as when its connection has ended and some time has passed."""
        from nodes import live  # noqa: PLC0415
        from nodes.connections import sync_redis  # noqa: PLC0415

        keys = (live.record_key, live.states_key, live.ages_key, live.summary_key)
        sync_redis().delete(*(key(node.pk) for key in keys))

    def tell(self, nodes: Iterable[Node], changed: Iterable[tuple[Node, int]] = ()) -> None:
        """Tell open pages that these nodes reported, and that these links (node, member index) changed."""
        import msgspec  # noqa: PLC0415
        from asgiref.sync import async_to_sync  # noqa: PLC0415
        from channels.layers import get_channel_layer  # noqa: PLC0415

        from nodes.announce import group  # noqa: PLC0415
        from nodes.pages import Flushed  # noqa: PLC0415

        flushed = Flushed(
            [(node.pk, self.tables[node.pk].summarise(node.session)) for node in nodes],
            [(node.pk, self.members[index].pk, self.tables[node.pk].seen(index)) for node, index in changed],
        )
        message = {"type": "live.flushed", "data": msgspec.msgpack.encode(flushed)}
        async_to_sync(get_channel_layer().group_send)(group(self.mesh.cluster.pk), message)

    def go_on(self, until: float = float("inf")) -> None:
        """Report, each node before its last report is too old, and change a link each second; until this Unix time."""
        reporting = self.reporting
        place = 0
        while time.time() < until:
            started = time.time()
            step = max(1, round(len(reporting) * REPORTS_A_SECOND))
            turn = [reporting[(place + number) % len(reporting)] for number in range(step)]
            place = (place + step) % len(reporting)
            self.set_state(turn[0], self._dice.choice(self.members), self._dice.choice(("up", "up", "unknown", "down")))
            self._bytes = [moved + self._dice.randrange(40_000) for moved in self._bytes]
            changed = [(node, index) for node in turn for index in self.report(node, started)]
            self.write(turn)
            self.tell(turn, changed)
            time.sleep(max(0.0, started + 1 - time.time()))


def main() -> int:
    """Make one, and keep it alive."""
    parser = argparse.ArgumentParser(prog="python -m tests.big", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--talos", type=float, default=0.1, help="the share of Talos machines (default: %(default)s)")
    parser.add_argument("--name", default="big", help="of the cluster; one that is there is taken up again")
    parser.add_argument("--data", help="of the console that runs (default: KUBESPAN_DATA)")
    options = parser.parse_args()
    prepare(options.data)
    from nodes.models import Cluster  # noqa: PLC0415

    cluster = Cluster.objects.filter(name=options.name).first()
    if cluster is None:
        mesh = make_mesh(options.nodes, name=options.name, talos=options.talos, seed=options.name)
    else:
        mesh = Mesh(cluster, _take_up(cluster))
    live = Live(mesh, time.time())
    live.write()
    print(f"{options.name}: {len(mesh.nodes)} nodes, {len(live.tables)} of them report; Ctrl-C ends it", flush=True)
    try:
        live.go_on()
    except KeyboardInterrupt:
        return 0
    return 1


def _take_up(cluster: Cluster) -> list[Node]:
    """Its nodes; those whose agents were connected when it was last interrupted are so again."""
    from nodes.models import Node  # noqa: PLC0415

    agents = Node.objects.approved().filter(cluster=cluster, kind="linux", connected_at__isnull=False)
    for node in agents:
        node.session, node.away, node.last_seen = f"{node.index:032x}", False, datetime.now(UTC)
    Node.objects.bulk_update(agents, ["session", "away", "last_seen"], batch_size=BATCH)
    approved = Node.objects.approved().filter(cluster=cluster).order_by("index")
    return [*approved, *Node.objects.pending().filter(cluster=cluster)]


def prepare(data: str | None) -> None:
    """Set this process up as a command of that console would be."""
    from nodes import embedded  # noqa: PLC0415

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "kubespan_web.settings")
    embedded.prepare(["manage.py", "shell", *(["--data", data] if data else [])], os.environ)
    import django  # noqa: PLC0415

    django.setup()


if __name__ == "__main__":
    sys.exit(main())
