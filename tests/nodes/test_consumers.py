"""Browsers' sockets: the real consumers by communicators, fed by played agents over a real server and Redis."""

import asyncio
import contextlib
import gc
from datetime import timedelta
from typing import NamedTuple

import msgspec
import pytest
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from channels.routing import URLRouter
from channels.testing import WebsocketCommunicator
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.contrib.sessions.backends.db import SessionStore
from django.db import OperationalError
from django.utils import timezone

from kubespan.core.messages import Delta, Pace, Upgrade, UpgradeFailed
from kubespan.core.options import ClusterOptions
from nodes import maps
from nodes.agents.rows import in_thread
from nodes.announce import KINDS, announce, group
from nodes.connections import sync_redis
from nodes.consumers import base, following
from nodes.consumers import cluster as cluster_page
from nodes.consumers.cluster import ClusterConsumer
from nodes.consumers.lists import ApiTokensConsumer
from nodes.consumers.node import NodeConsumer, NodeRowsConsumer
from nodes.live import Summary
from nodes.models import Cluster, Node, Rollout, Token, Tombstone, Transition
from nodes.pages import Flushed
from nodes.routing import websocket_urlpatterns
from nodes.services import api_tokens, clusters, rollouts, tokens, transitions, webhooks
from nodes.services import nodes as services
from nodes.vitals import workers
from tests.factories import make_user
from tests.handout import hand_out
from tests.players import PATIENCE, Machine, make_cluster, push

pytestmark = pytest.mark.django_db(transaction=True)

A = "192.0.2.1:51820"
UNKNOWN, UP, DOWN = range(3)


class Page:
    """An open page."""

    def __init__(self, communicator):
        self.communicator = communicator
        self.numbers = []

    async def hear(self):
        """The next snapshot or delta."""
        message = await self.communicator.receive_json_from(timeout=PATIENCE)
        self.numbers.append(message["number"])
        if message["type"] == "snapshot":
            # It has subscribed, but the layer does not wait for the answer: by the next one Redis has heard of it.
            await asyncio.to_thread(sync_redis().ping)
        return message

    async def find(self, wanted):
        """Read until `wanted` gives something of a message."""
        while not (found := wanted(await self.hear())):
            pass
        return found

    async def closed(self):
        """The code that it was closed with."""
        while (event := await self.communicator.receive_output(timeout=PATIENCE))["type"] != "websocket.close":
            pass
        return event["code"]


@pytest.fixture
async def person():
    return await in_thread(lambda: make_user("alice", "operator"))


@pytest.fixture
async def visit(valkey, person):
    """Open a page as somebody."""
    async with contextlib.AsyncExitStack() as stack:
        router = URLRouter(websocket_urlpatterns)

        async def visit(path, user=person, refused=None, **scope):
            async def serve(asked, receive, send):
                await router({**asked, "user": user, **scope}, receive, send)

            communicator = WebsocketCommunicator(serve, path)
            connected, code = await communicator.connect(timeout=PATIENCE)
            if not connected:
                assert code == refused
                return None
            stack.push_async_callback(communicator.disconnect, timeout=PATIENCE)
            return Page(communicator)

        yield visit


async def stranger():
    return AnonymousUser()


async def guest():
    return await in_thread(lambda: get_user_model().objects.create_user("bob"))


async def dismissed():
    return await in_thread(lambda: make_user("carol", "operator", is_active=False))


@pytest.mark.parametrize(
    ("who", "code"), [(stranger, 4401), (guest, 4404), (dismissed, 4401)], ids=["stranger", "guest", "dismissed"]
)
async def test_only_who_may_see_the_cluster_gets_its_page(visit, who, code):
    cluster, _, _ = await in_thread(make_cluster)
    page = await visit(f"/live/cluster/{cluster.uuid}", user=await who())
    assert await page.closed() == code


@pytest.mark.parametrize(
    "path",
    [
        "/live/cluster/00000000-0000-0000-0000-000000000000",
        "/live/node/4711",
        "/live/node/4711/rows",
        "/live/overview/00000000-0000-0000-0000-000000000000",
        "/live/map/00000000-0000-0000-0000-000000000000/site",
        "/live/pair/4711/4712",
        "/live/enrolment/00000000-0000-0000-0000-000000000000",
    ],
)
async def test_what_does_not_exist_is_said_to_be_gone(visit, path):
    assert await (await visit(path)).closed() == base.CLOSE_GONE


async def test_a_clusters_page_follows_its_links(visit, console):
    cluster, machines, _ = await in_thread(make_cluster)
    one, two = [await console.connect(machine) for machine in machines]
    page = await visit(f"/live/cluster/{cluster.uuid}")
    snapshot = await page.hear()
    assert (snapshot["type"], snapshot["number"], snapshot["partial"]) == ("snapshot", 0, False)
    assert {row["name"] for row in snapshot["nodes"]} == {machine.name for machine in machines}
    while not isinstance(await one.receive(), Pace):
        pass
    await one.report({1: (UP, A)}, complete=True)
    key = [machine.node.pk for machine in machines]

    def link(state):
        return lambda message: [
            found
            for found in message.get("links", ())
            if [found["node"], found["peer"]] == key and found["state"] == state
        ]

    (up,) = await page.find(link("up"))
    assert (up["endpoint"], up["received"], up["sent"]) == (A, 10, 20)
    assert up["handshake"] == pytest.approx(up["at"] - 1, abs=0.01)
    await one.report({1: (DOWN, A)})
    rows = await page.find(
        lambda message: [row for row in message.get("nodes", ()) if row["pk"] == key[0] and row["links"]["down"]]
    )
    assert rows[0]["connected"] is True
    assert page.numbers == list(range(len(page.numbers)))
    assert two


async def test_a_clusters_page_follows_its_members(visit, console):
    cluster, _, token = await in_thread(lambda: make_cluster(1, approval_required=True))
    page = await visit(f"/live/cluster/{cluster.uuid}")
    await page.hear()
    machine = await in_thread(lambda: Machine().enrol(token))

    def row(**wanted):
        return lambda message: [
            found
            for found in message.get("nodes", ())
            if found["pk"] == machine.node.pk and wanted.items() <= found.items()
        ]

    await page.find(row(status="pending", index=None))
    await in_thread(lambda: services.approve_node("console", machine.node, timezone.now()))
    await page.find(row(status="approved", index=0))
    player = await console.connect(machine)
    await page.find(row(connected=True))
    await player.apply()
    await page.find(row(behind=0))
    await in_thread(lambda: clusters.set_options("console", cluster, ClusterOptions(mtu=1400), timezone.now()))
    await page.find(row(behind=1))
    await player.reach(await push(cluster))
    await player.apply()
    await page.find(row(behind=0))
    await player.socket.close()
    await page.find(row(connected=False))
    await in_thread(lambda: services.remove_node("console", machine.node, machine.name, timezone.now()))
    await page.find(lambda message: machine.node.pk in message.get("nodes_gone", ()))


async def test_a_large_clusters_page_has_the_links_that_are_not_up(visit, console, monkeypatch):
    for module in ("nodes.consumers.cluster", "nodes.consumers.node", "nodes.agents.reports"):
        monkeypatch.setattr(f"{module}.FULL_LINKS", 1)
    cluster, machines, _ = await in_thread(lambda: make_cluster(3))
    one = await console.connect(machines[0])
    await one.report({1: (UP, A), 2: (DOWN, A)}, complete=True)
    page = await visit(f"/live/cluster/{cluster.uuid}")
    pks = [machine.node.pk for machine in machines]
    snapshot = await page.hear()
    assert snapshot["partial"]
    if not snapshot["links"]:
        await page.find(lambda message: message.get("links"))
    await one.report({2: (UP, A)})
    assert await page.find(lambda message: message.get("links_gone")) == [[pks[0], pks[2]]]
    await page.communicator.send_json_to({"type": "view", "nodes": [pks[0]]})
    while not isinstance(await one.receive(), Pace):
        pass


async def test_a_page_that_sends_nonsense_is_closed(visit):
    cluster, _, _ = await in_thread(make_cluster)
    page = await visit(f"/live/cluster/{cluster.uuid}")
    await page.hear()
    await page.communicator.send_to(text_data="nonsense")
    assert await page.closed() == 1008


async def test_a_nodes_page_has_both_ends_of_its_links(visit, console):
    _, machines, _ = await in_thread(make_cluster)
    one, two = [await console.connect(machine) for machine in machines]
    page = await visit(f"/live/node/{machines[0].node.pk}")
    snapshot = await page.hear()
    assert snapshot["node"]["name"] == machines[0].name
    (peer,) = snapshot["peers"]
    assert (peer["name"], peer["ours"], peer["theirs"]) == (machines[1].name, None, None)
    await one.report({1: (UP, A)}, complete=True)
    await page.find(lambda message: [row for row in message.get("peers", ()) if row["ours"]])
    await two.report({0: (DOWN, A)}, complete=True)
    (row,) = await page.find(lambda message: [row for row in message.get("peers", ()) if row["theirs"]])
    assert (row["ours"]["state"], row["theirs"]["state"]) == ("up", "down")
    again = await visit(f"/live/node/{machines[0].node.pk}")
    (row,) = (await again.hear())["peers"]
    assert (row["ours"]["state"], row["theirs"]["state"]) == ("up", "down")


async def move_until(player, state, told):
    """Have a link change until something is told: before the agents' end hears of the page, reports are only kept."""
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        telling = group.create_task(told)
        while not telling.done():
            for reported in (UP + DOWN - state, state):
                await player.report({1: (reported, A)}, complete=True)
            await asyncio.wait({telling}, timeout=1)


async def test_a_nodes_page_says_why_the_links_in_view_are_not_up(visit, console):
    """By the same words as every other page; a link that comes up has none, and nor has one that nobody looks at."""
    cluster, machines, _ = await in_thread(lambda: make_cluster(3))
    one, two, _ = players = [await console.connect(machine) for machine in machines]
    newest = await push(cluster)
    for player in players:
        await player.reach(newest)
        await player.apply()
    here, there, unseen = (machine.node for machine in machines)
    page = await visit(f"/live/node/{here.pk}")
    told = {row["pk"]: row for row in (await page.hear())["peers"]}
    assert not [row for row in told.values() if "why" in row]
    await page.communicator.send_json_to({"type": "view", "nodes": [there.pk, here.pk, 4711]})

    async def hear_why(text):
        while told[there.pk].get("why", "") != text:
            told.update({row["pk"]: row for row in (await page.hear()).get("peers", ())})
            ends = [told[there.pk][end] or {} for end in ("ours", "theirs")]
            why_not_up = "No endpoint" in told[there.pk].get("why", "")
            assert not why_not_up or [end.get("state") for end in ends] != ["up", "up"]

    await one.report({1: (DOWN, A), 2: (DOWN, A)}, complete=True)
    await hear_why("No endpoint is known of either end, so neither can begin.")
    await two.report({0: (UP, A)}, complete=True)
    await one.report({1: (UP, A)})
    await hear_why("")
    await one.report({1: (UP, A)}, losses=(1000,))
    await hear_why(f"Handshakes pass, but {there.name} answers no probe of {here.name}.")
    await one.report({1: (DOWN, A)})
    await two.socket.close()
    await hear_why(f"The agent of {there.name} is away: the machine is off, or cannot reach this console.")
    assert told[unseen.pk]["ours"]["state"] == "down"
    assert "why" not in told[unseen.pk]


async def test_of_many_peers_those_in_view_report_at_full_pace(visit, console, monkeypatch):
    for module in ("nodes.consumers.node", "nodes.agents.reports"):
        monkeypatch.setattr(f"{module}.FULL_LINKS", 1)
    _, machines, _ = await in_thread(lambda: make_cluster(3))
    last = [await console.connect(machine) for machine in machines][-1]
    page = await visit(f"/live/node/{machines[0].node.pk}")
    await page.hear()
    await page.communicator.send_json_to({"type": "view", "nodes": [machines[-1].node.pk]})
    while not isinstance(await last.receive(), Pace):
        pass


async def test_links_of_a_talos_machine_are_as_its_peers_see_them(visit, console):
    _, machines, _ = await in_thread(make_cluster)
    talos = machines[1].node
    await in_thread(Node.objects.filter(pk=talos.pk).update, kind=Node.Kind.TALOS)
    one = await console.connect(machines[0])
    page = await visit(f"/live/node/{talos.pk}")
    assert (await page.hear())["node"]["links"] == {"up": 0, "unknown": 0, "down": 0}
    for state, counts in ((UP, {"up": 1, "unknown": 0, "down": 0}), (DOWN, {"up": 0, "unknown": 0, "down": 1})):
        await one.report({1: (state, A)}, complete=True)
        await page.find(lambda message, counts=counts: (message.get("node") or {}).get("links") == counts)
    again = await (await visit(f"/live/node/{talos.pk}")).hear()
    assert again["node"]["links"] == {"up": 0, "unknown": 0, "down": 1}
    assert (again["peers"][0]["ours"], again["peers"][0]["theirs"]["state"]) == (None, "down")


@pytest.mark.parametrize("path", ["cluster/{}", "map/{}/site"], ids=["nodes", "map"])
@pytest.mark.parametrize("full", [50, 1], ids=["all links", "those that are not up"])
async def test_a_clusters_pages_count_links_of_a_talos_machine_as_its_peers_see_them(
    visit, console, monkeypatch, full, path
):
    monkeypatch.setattr(cluster_page, "FULL_LINKS", full)
    monkeypatch.setattr(maps, "MAP_LINKS", full)
    monkeypatch.setattr(base, "RENEW_SECONDS", 3600.0)
    cluster, machines, _ = await in_thread(make_cluster)
    talos = machines[1].node
    await in_thread(Node.objects.filter(pk=talos.pk).update, kind=Node.Kind.TALOS)
    one = await console.connect(machines[0])
    address = "/live/" + path.format(cluster.uuid)

    def links(message):
        return [row["links"] for row in message.get("nodes", ()) if row["pk"] == talos.pk]

    page = await visit(address)
    assert await page.find(links) == [{"up": 0, "unknown": 0, "down": 0}]
    for state, counts in ((UP, {"up": 1, "unknown": 0, "down": 0}), (DOWN, {"up": 0, "unknown": 0, "down": 1})):
        await move_until(one, state, page.find(lambda message, counts=counts: links(message) == [counts]))
    assert links(await (await visit(address)).hear()) == [{"up": 0, "unknown": 0, "down": 1}]


async def test_a_talos_machines_tabs_hear_of_links_that_its_peers_see(visit, console, monkeypatch):
    monkeypatch.setattr(NodeRowsConsumer, "pause", 0.0)
    monkeypatch.setattr(base, "RENEW_SECONDS", 3600.0)
    _, machines, _ = await in_thread(make_cluster)
    talos = machines[1].node
    await in_thread(Node.objects.filter(pk=talos.pk).update, kind=Node.Kind.TALOS)
    one = await console.connect(machines[0])
    page = await visit(f"/live/node/{talos.pk}/rows")
    assert (await page.hear())["type"] == "snapshot"
    await move_until(one, UP, page.hear())


async def test_a_clusters_page_says_since_when_a_talos_machine_has_left(visit):
    cluster, machines, _ = await in_thread(make_cluster)
    node, now = machines[0].node, timezone.now()
    await in_thread(Node.objects.filter(pk=node.pk).update, kind=Node.Kind.TALOS)

    def stand(message):
        return [(row["connected"], row["last_seen"]) for row in message.get("nodes", ()) if row["pk"] == node.pk]

    page = await visit(f"/live/cluster/{cluster.uuid}")
    ((here, _),) = stand(await page.hear())
    await in_thread(Node.objects.filter(pk=node.pk).update, left_at=now)
    await in_thread(announce, cluster.pk, "node.changed")
    assert here
    assert await page.find(stand) == [(False, now.timestamp())]


async def test_an_enrolment_is_followed_to_its_first_handshake(visit, console):
    cluster, _, _ = await in_thread(lambda: make_cluster(1))
    _, token = await in_thread(lambda: _make_token(cluster))
    uuid = (await in_thread(lambda: Token.objects.order_by("-pk").first())).uuid
    page = await visit(f"/live/enrolment/{uuid}")
    snapshot = await page.hear()
    assert (snapshot["nodes"], snapshot["used"], snapshot["uses"], snapshot["worthless"]) == ([], 0, 1, None)
    machine = await in_thread(lambda: Machine().enrol(token))

    def stage(name):
        return lambda message: [found for found in message.get("nodes", ()) if found["stage"] == name]

    (enrolled,) = await page.find(stage("enrolled"))
    assert (enrolled["name"], enrolled["peers"]) == (machine.name, 1)
    player = await console.connect(machine)
    await page.find(stage("connected"))
    await player.report({0: (UP, A)}, complete=True, age=0)
    (up,) = await page.find(stage("up"))
    assert 0 <= up["handshake"] < 60


def _make_token(cluster):
    return tokens.create_token(
        "console",
        cluster,
        name="one",
        uses=1,
        lifetime=timedelta(hours=1),
        approval_required=False,
        now=timezone.now(),
    )


async def test_deltas_are_few(visit, console, monkeypatch):
    cluster, machines, _ = await in_thread(make_cluster)
    one = await console.connect(machines[0])
    page = await visit(f"/live/cluster/{cluster.uuid}")
    await page.hear()
    while not isinstance(await one.receive(), Pace):
        pass
    loop = asyncio.get_running_loop()
    started = loop.time()
    deltas = 0
    for _ in range(3):
        for state in (UP, DOWN):
            await one.report({1: (state, A)}, complete=True)
        await page.find(lambda message: message.get("links"))
        deltas += 1
    assert loop.time() - started >= (deltas - 1) * base.DELTA_SECONDS


class Looks:
    """What an overview takes from agents, as links up and down, and whether its looks find something to tell."""

    def __init__(self, monkeypatch):
        self._noted = asyncio.Queue()
        take, differs = following.OverviewConsumer.take, following.OverviewConsumer.differs

        def note_taken(consumer, flushed):
            for _, summary in flushed.nodes:
                self._noted.put_nowait((summary.up, summary.down))
            return take(consumer, flushed)

        def note_found(consumer):
            self._noted.put_nowait(found := differs(consumer))
            return found

        monkeypatch.setattr(following.OverviewConsumer, "take", note_taken)
        monkeypatch.setattr(following.OverviewConsumer, "differs", note_found)

    async def until(self, wanted):
        """All that comes before that."""
        before = []
        while (noted := await asyncio.wait_for(self._noted.get(), PATIENCE)) != wanted:
            before.append(noted)
        return before

    async def first(self, report, wanted):
        """Have it reported until it is told: what is reported before the agents' end hears of the page is only kept."""
        for _ in range(int(PATIENCE)):
            await report()
            with contextlib.suppress(TimeoutError):
                return await asyncio.wait_for(self.until(wanted), 1)
        raise AssertionError(f"{wanted} is not told")

    async def now(self):
        """All that its looks found so far, and the next two: the first of these may have begun before."""
        found = [self._noted.get_nowait() for _ in range(self._noted.qsize())]
        return found + await self.until(False) + await self.until(False)

    async def settle(self):
        """Have it look until all is told; twice, for a look that is under way may have begun before the last of it."""
        while not self._noted.empty():
            self._noted.get_nowait()
        quiet = 0
        while quiet < 2:
            await in_thread(announce, None, "cluster.changed")
            while (found := await asyncio.wait_for(self._noted.get(), PATIENCE)) not in {True, False}:
                pass
            quiet = 0 if found else quiet + 1


async def test_the_overview_is_told_of_what_it_shows_and_of_nothing_else(visit, console, monkeypatch):
    monkeypatch.setattr(following.OverviewConsumer, "pause", 0.0)
    monkeypatch.setattr(base, "RENEW_SECONDS", 3600.0)  # only what is said counts
    looks = Looks(monkeypatch)
    page = await visit("/live/overview")
    assert (await page.hear())["type"] == "snapshot"  # there need not be a cluster
    cluster, machines, _ = await in_thread(make_cluster)
    await looks.settle()
    one = await console.connect(machines[0])
    await looks.until(True)
    await looks.first(lambda: one.report({1: (UP, A)}, complete=True), (1, 0))
    await looks.settle()
    await one.report({1: (UP, A)}, complete=True)  # a newer handshake, and nothing else
    assert True not in await looks.until((1, 0)) + await looks.until(False)
    await one.report({1: (UP, A)}, rtts=(-1,), losses=(1000,))
    assert True not in await looks.until((1, 0))
    await looks.until(True)
    await one.report({1: (DOWN, A)})
    assert True not in await looks.until((0, 1))
    await looks.until(True)
    await in_thread(lambda: clusters.delete_cluster("console", cluster, cluster.name, timezone.now()))
    await looks.until(True)
    assert [(await page.hear())["type"] for _ in range(6)] == ["delta"] * 6


@pytest.mark.parametrize("of_one", [False, True])
@pytest.mark.parametrize("changed", [{"left_at": timezone.now()}, {"site": "attic"}], ids=["left", "site"])
async def test_an_overview_is_told_when_a_talos_machine_leaves_and_of_its_site(visit, monkeypatch, changed, of_one):
    monkeypatch.setattr(following.OverviewConsumer, "pause", 0.0)
    monkeypatch.setattr(base, "RENEW_SECONDS", 3600.0)
    cluster, machines, _ = await in_thread(make_cluster)
    rows = Node.objects.filter(pk=machines[0].node.pk)
    await in_thread(rows.update, kind=Node.Kind.TALOS)
    page = await visit(f"/live/overview/{cluster.uuid}" if of_one else "/live/overview")
    assert (await page.hear())["type"] == "snapshot"
    for columns in (changed, {"left_at": None, "site": ""}):
        await in_thread(lambda columns=columns: rows.update(**columns))
        await in_thread(announce, cluster.pk, "node.changed")
        assert (await page.hear())["type"] == "delta"


@pytest.mark.parametrize(("path", "counts"), [("/live/overview", True), ("/live/links", False)])
async def test_who_counts_changes_is_told_when_one_is_none_of_the_last_hour_any_more(visit, monkeypatch, path, counts):
    for page in (following.OverviewConsumer, following.LinksConsumer):
        monkeypatch.setattr(page, "pause", 0.0)
    looks = Looks(monkeypatch)
    monkeypatch.setattr(base, "RENEW_SECONDS", 0.05)
    cluster, _, _ = await in_thread(make_cluster)
    now = timezone.now()
    for minutes in (59, 1):
        at = now - timedelta(minutes=minutes)
        await in_thread(lambda at=at: Transition.objects.create(cluster=cluster, kind="drift", at=at))
    page = await visit(path)
    assert (await page.hear())["type"] == "snapshot"
    await looks.until(True)  # the snapshot's
    await in_thread(Transition.objects.filter(at__lt=at).update, at=now - timedelta(minutes=61))  # two minutes pass
    assert (True in await looks.now()) is counts


async def test_the_overview_looks_again_while_a_link_is_unknown(visit, console, monkeypatch):
    """How long it has been is what makes it worth a sentence."""
    monkeypatch.setattr(following.OverviewConsumer, "pause", 0.0)
    monkeypatch.setattr(base, "RENEW_SECONDS", 0.05)
    _, machines, _ = await in_thread(make_cluster)
    one = await console.connect(machines[0])
    await one.report({1: (UNKNOWN, A)}, complete=True)
    looks = Looks(monkeypatch)
    page = await visit("/live/overview")
    for number in range(4):
        assert (await page.hear())["number"] == number
    await one.report({1: (UP, A)})
    await looks.until(False)


async def test_a_removed_nodes_page_is_told_when_a_member_drops_it(visit, console, monkeypatch):
    monkeypatch.setattr(following.RemovalConsumer, "pause", 0.0)
    monkeypatch.setattr(base, "RENEW_SECONDS", 3600.0)
    cluster, machines, _ = await in_thread(make_cluster)
    one = await console.connect(machines[0])
    await in_thread(lambda: services.remove_node("console", machines[1].node, machines[1].name, timezone.now()))
    page = await visit(f"/live/removal/{machines[1].node.pk}")
    assert (await page.hear())["type"] == "snapshot"
    await push(cluster)
    while not isinstance(await one.receive(), Delta):
        pass
    await one.apply()
    assert (await page.hear())["type"] == "delta"
    assert not await in_thread(lambda: Node.objects.not_cut_off(Tombstone.objects.get()).exists())


@pytest.mark.parametrize("page", ["removal/{node}", "rotation/{cluster}"])
async def test_pages_on_who_follows_are_told_when_a_talos_machine_leaves(visit, monkeypatch, page):
    monkeypatch.setattr(base.FollowingConsumer, "pause", 0.0)
    monkeypatch.setattr(base, "RENEW_SECONDS", 3600.0)
    cluster, machines, _ = await in_thread(make_cluster)
    await in_thread(lambda: services.remove_node("console", machines[1].node, machines[1].name, timezone.now()))
    rows = Node.objects.filter(pk=machines[0].node.pk)
    await in_thread(rows.update, kind=Node.Kind.TALOS)
    page = await visit("/live/" + page.format(node=machines[1].node.pk, cluster=cluster.uuid))
    assert (await page.hear())["type"] == "snapshot"
    await in_thread(lambda: rows.update(left_at=timezone.now()))
    await in_thread(announce, cluster.pk, "node.changed")
    assert (await page.hear())["type"] == "delta"


async def test_a_nodes_tabs_hear_what_is_done_to_it(visit, monkeypatch):
    monkeypatch.setattr(NodeRowsConsumer, "pause", 0.0)
    monkeypatch.setattr(base, "RENEW_SECONDS", 3600.0)
    _, machines, _ = await in_thread(make_cluster)
    node = machines[0].node
    page = await visit(f"/live/node/{node.pk}/rows")
    assert (await page.hear())["type"] == "snapshot"
    renamed = await in_thread(lambda: services.rename_node("console", node, "dc-1", timezone.now()))
    assert (await page.hear())["number"] == 1
    await in_thread(lambda: services.remove_node("console", renamed, "dc-1", timezone.now()))
    assert (await page.hear())["number"] == 2


async def test_a_clusters_overview_hears_of_that_cluster_alone(visit, monkeypatch):
    monkeypatch.setattr(following.OverviewConsumer, "pause", 0.0)
    monkeypatch.setattr(base, "RENEW_SECONDS", 3600.0)
    cluster, machines, _ = await in_thread(make_cluster)
    page = await visit(f"/live/overview/{cluster.uuid}")
    assert (await page.hear())["type"] == "snapshot"
    await in_thread(lambda: clusters.create_cluster("console", name="another", now=timezone.now()))
    mine = machines[0].node
    await in_thread(lambda: services.rename_node("console", mine, "dc-1", timezone.now()))
    assert (await page.hear())["number"] == 1
    await in_thread(lambda: clusters.delete_cluster("console", cluster, cluster.name, timezone.now()))
    assert await page.closed() == base.CLOSE_GONE


async def test_an_upgrade_that_a_machine_puts_away_is_told_to_its_page(console, visit, monkeypatch, settings, tmp_path):
    monkeypatch.setattr(following.AgentsConsumer, "pause", 0.0)
    monkeypatch.setattr(base, "RENEW_SECONDS", 3600.0)
    settings.AGENT_FILES = tmp_path
    release = hand_out(tmp_path)
    cluster, machines, _ = await in_thread(make_cluster)
    player = await console.connect(machines[0])
    pk = machines[0].node.pk
    await in_thread(lambda: Node.objects.filter(pk=pk).update(agent_version="0.1.0+0a0a0a0a"))
    page = await visit(f"/live/agents/{cluster.uuid}")
    assert (await page.hear())["type"] == "snapshot"
    rollout = await in_thread(lambda: rollouts.start_rollout("tests", cluster, timezone.now()))
    while not isinstance(told := await player.receive(), Upgrade):
        pass
    assert told == Upgrade(version=release.version, sha256=release.sha256, size=release.size)
    assert (await page.hear())["type"] == "delta"
    await player.say(UpgradeFailed(version=told.version, reason="it hung"))
    while await in_thread(lambda: Rollout.objects.get(pk=rollout.pk).state) == "running":
        await page.hear()
    assert (await in_thread(lambda: Rollout.objects.get(pk=rollout.pk))).reason.endswith("it hung")


async def test_a_node_that_is_still_there_has_no_page_of_its_removal(visit):
    _, machines, _ = await in_thread(make_cluster)
    page = await visit(f"/live/removal/{machines[0].node.pk}")
    assert await page.closed() == base.CLOSE_GONE


async def test_who_signs_out_loses_the_page(visit, monkeypatch):
    monkeypatch.setattr(base, "RENEW_SECONDS", 0.05)
    cluster, _, _ = await in_thread(make_cluster)
    session = SessionStore()
    await in_thread(session.create)
    page = await visit(f"/live/cluster/{cluster.uuid}", session=session)
    await page.hear()
    await in_thread(lambda: SessionStore(session.session_key).delete())
    assert await page.closed() == 4401


async def test_who_is_dismissed_loses_the_page(visit, person, monkeypatch):
    monkeypatch.setattr(base, "RENEW_SECONDS", 0.05)
    cluster, _, _ = await in_thread(make_cluster)
    page = await visit(f"/live/cluster/{cluster.uuid}")
    await page.hear()
    await in_thread(lambda: type(person).objects.filter(pk=person.pk).update(is_active=False))
    assert await page.closed() == 4401


async def test_whose_role_is_taken_loses_the_page(visit, person, monkeypatch):
    monkeypatch.setattr(base, "RENEW_SECONDS", 0.05)
    cluster, _, _ = await in_thread(make_cluster)
    page, overview = await visit(f"/live/cluster/{cluster.uuid}"), await visit("/live/overview")
    await page.hear()
    await in_thread(person.grants.all().delete)
    assert await page.closed() == base.CLOSE_GONE
    assert await overview.closed() == base.CLOSE_FORBIDDEN


async def test_a_deleted_clusters_page_is_closed(visit):
    cluster, _, _ = await in_thread(make_cluster)
    page = await visit(f"/live/cluster/{cluster.uuid}")
    await page.hear()
    await in_thread(lambda: clusters.delete_cluster("console", cluster, cluster.name, timezone.now()))
    assert await page.closed() == base.CLOSE_GONE


async def come_back(visit, path):
    """Connect until there is a snapshot, as browsers do: the layer's own connection may be away for longer."""
    while True:
        if page := await visit(path, refused=1013):
            event = await page.communicator.receive_output(timeout=PATIENCE)
            if event["type"] == "websocket.send":
                return page
            assert event["code"] == 1013


@pytest.fixture
def _collected():
    """What a test leaves behind is collected while its own filters count, not by whichever test comes later."""
    yield
    gc.collect()


# The layer's receiver and whoever joins a group may connect anew at the same time, and redis-py forgets to close one.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("_collected")  # before all others, and so at the end behind them and their loop
async def test_redis_away_closes_the_page_and_it_can_come_back(visit, valkey, monkeypatch):
    monkeypatch.setattr(base, "RENEW_SECONDS", 0.05)
    cluster, _, token = await in_thread(lambda: make_cluster(1))
    path = f"/live/cluster/{cluster.uuid}"
    page = await visit(path)
    await page.hear()
    valkey.stop()
    assert await page.closed() == 1013
    assert await visit(path, refused=1013) is None
    valkey.start()
    page = await come_back(visit, path)
    machine = await in_thread(lambda: Machine().enrol(token))
    await page.find(lambda message: [one for one in message.get("nodes", ()) if one["pk"] == machine.node.pk])


@pytest.mark.parametrize("part", ["_lost", "find", "read"])
@pytest.mark.parametrize("fault", [OperationalError("the server closed the connection"), RuntimeError("unforeseen")])
async def test_a_page_whose_socket_fails_within_is_closed_and_can_come_back(visit, monkeypatch, part, fault):
    monkeypatch.setattr(base, "RENEW_SECONDS", 0.05)
    cluster, _, _ = await in_thread(make_cluster)

    def fail(_):
        raise fault

    with monkeypatch.context() as patch:
        patch.setattr(ClusterConsumer, part, fail)
        assert await (await visit(f"/live/cluster/{cluster.uuid}")).closed() == 1013
    assert (await (await visit(f"/live/cluster/{cluster.uuid}")).hear())["type"] == "snapshot"


@pytest.mark.parametrize("kind", KINDS)
def test_every_announcement_has_its_handler(kind):
    assert callable(getattr(base.MeshConsumer, kind.replace(".", "_")))


def test_an_unknown_announcement_is_an_error(valkey):
    with pytest.raises(ValueError, match=r"node\.sneezed"):
        announce(1, "node.sneezed")


def test_an_announcement_without_redis_is_no_error(valkey):
    valkey.stop()
    announce(1, "node.changed")


@pytest.mark.parametrize("count", [3, 12])
def test_reading_a_page_costs_the_same_for_any_number_of_nodes(django_assert_num_queries, valkey, count):
    cluster, _, _ = make_cluster(count)
    consumer = ClusterConsumer()
    consumer.scope = {"url_route": {"kwargs": {"cluster": cluster.uuid}}}
    consumer.find()
    with django_assert_num_queries(2):
        consumer.read()
    node = NodeConsumer()
    node.scope = {"url_route": {"kwargs": {"node": next(iter(consumer._nodes.now))}}}
    node.find()
    with django_assert_num_queries(2):
        node.read()


async def test_the_page_of_a_link_hears_of_both_ends_and_of_no_other_link(visit, console):
    _, machines, _ = await in_thread(lambda: make_cluster(nodes=3))
    one, two, three = [await console.connect(machine) for machine in machines]
    here, there = (machine.node.pk for machine in machines[:2])
    page = await visit(f"/live/pair/{here}/{there}")
    assert (await page.hear())["type"] == "snapshot"
    while not isinstance(await one.receive(), Pace):
        pass
    await three.report({0: (UP, A)}, complete=True)
    await one.report({1: (UP, A)}, complete=True)
    assert (await page.hear())["number"] == 1
    await two.report({0: (DOWN, A)}, complete=True)
    assert (await page.hear())["number"] == 2


async def test_the_page_about_the_console_hears_that_a_worker_lives(visit, monkeypatch):
    monkeypatch.setattr(base, "RENEW_SECONDS", 0.1)
    page = await visit("/live/about")
    assert (await page.hear())["type"] == "snapshot"
    await in_thread(lambda: workers.mark("celery@test", clock=0.0, wall=timezone.now().timestamp()))
    assert (await page.hear())["type"] == "delta"


@pytest.mark.parametrize("by", ["site", "kind"])
async def test_a_clusters_map_follows_its_links(visit, console, by):
    cluster, machines, _ = await in_thread(make_cluster)
    one, two = [await console.connect(machine) for machine in machines]
    page = await visit(f"/live/map/{cluster.uuid}/{by}")
    snapshot = await page.hear()
    assert (snapshot["type"], snapshot["number"], snapshot["grouped"]) == ("snapshot", 0, False)
    assert {node["group"] for node in snapshot["nodes"]} == {"none" if by == "site" else "=Linux"}
    await one.report({1: (UP, A)}, complete=True)
    await two.report({0: (DOWN, A)}, complete=True)
    pks = [machine.node.pk for machine in machines]
    missing = [[*pks, "up", 0], [*reversed(pks), "down", 0]]
    while missing:
        message = await page.hear()
        missing = [link for link in missing if link not in message.get("links", ())]
    assert page.numbers == list(range(len(page.numbers)))
    await in_thread(services.remove_node, "tests", machines[1].node, machines[1].node.name, timezone.now())
    assert await page.find(lambda message: message.get("nodes_gone")) == [pks[1]]
    await page.communicator.send_to(text_data="nonsense")
    assert await page.closed() == 1008


async def test_the_pages_about_webhooks_hear_what_became_of_a_delivery(visit, person):
    asked = webhooks.Wanted("on call", "https://hooks.example/", "json", ["node.away"], (), timedelta(0))
    webhook, _ = await in_thread(lambda: webhooks.create_webhook("tests", asked, timezone.now()))
    boss = await in_thread(lambda: get_user_model().objects.create_superuser("boss"))
    pages = [await visit(path, boss) for path in ("/live/alerts", f"/live/alerts/{webhook.uuid}")]
    for page in pages:
        assert (await page.hear())["type"] == "snapshot"
    await in_thread(lambda: webhooks.send_test("tests", webhook.pk, timezone.now()))
    for page in pages:
        assert (await page.hear())["type"] == "delta"
    assert await (await visit("/live/alerts", person)).closed() == base.CLOSE_FORBIDDEN


def another_machine(made):
    Machine().enrol(made.token)


def a_revoked_token(made):
    tokens.revoke_token("tests", Token.objects.get(cluster=made.cluster), timezone.now())


def another_name(made):
    services.rename_node("tests", made.node, "dc-1", timezone.now())


def a_report(made):
    """Rows are written beside what is told of it, and announced by nothing else."""
    row = Transition(node=made.node, kind=Transition.Kind.LINK, before="up", after="down", at=timezone.now())
    transitions.record_transitions(made.cluster.pk, [row], timezone.now())
    told = {"type": "live.flushed", "data": msgspec.msgpack.encode(Flushed([], []))}
    async_to_sync(get_channel_layer().group_send)(group(made.cluster.pk), told)


def other_options(made):
    clusters.set_options("tests", made.cluster, options=ClusterOptions(mtu=1400), now=timezone.now())


class Made(NamedTuple):
    """What there is before a page is opened."""

    cluster: Cluster
    token: str
    node: Node


@pytest.mark.parametrize(
    ("path", "deed"),
    [
        pytest.param("/live/tokens", another_machine, id="a token is used"),
        pytest.param("/live/tokens", a_revoked_token, id="a token is revoked"),
        pytest.param("/live/activity", another_name, id="somebody did something"),
        pytest.param("/live/activity", a_report, id="something changed by itself"),
        pytest.param("/live/activity/{}", another_name, id="somebody did something in the cluster"),
        pytest.param("/live/activity/{}", a_report, id="something changed by itself in the cluster"),
        pytest.param("/live/options/{}", other_options, id="options are set"),
    ],
)
async def test_lists_hear_what_is_added_to_them(visit, monkeypatch, path, deed):
    monkeypatch.setattr(base, "RENEW_SECONDS", 3600.0)  # only what is announced counts
    cluster, machines, token = await in_thread(make_cluster)
    made = Made(cluster, token, machines[0].node)
    page = await visit(path.format(cluster.uuid))
    assert (await page.hear())["type"] == "snapshot"
    await in_thread(deed, made)
    assert (await page.hear())["type"] == "delta"


async def test_the_list_of_tokens_hears_that_one_has_expired(visit, monkeypatch):
    monkeypatch.setattr(base, "RENEW_SECONDS", 0.1)  # nobody announces it
    await in_thread(make_cluster)
    page = await visit("/live/tokens")
    assert (await page.hear())["type"] == "snapshot"
    await in_thread(lambda: Token.objects.update(expires=timezone.now()))
    assert (await page.hear())["type"] == "delta"


async def test_the_page_of_api_tokens_hears_of_their_use(visit, person, monkeypatch):
    monkeypatch.setattr(base, "RENEW_SECONDS", 0.1)
    asked = {"name": "script", "role": "viewer", "lifetime": timedelta(hours=1), "now": timezone.now()}
    _, plain = await in_thread(lambda: api_tokens.create_api_token(person, **asked))
    page = await visit("/live/api-tokens")
    assert (await page.hear())["type"] == "snapshot"
    await in_thread(lambda: api_tokens.authenticate(plain, timezone.now()))
    assert (await page.hear())["type"] == "delta"


@pytest.mark.parametrize(("role", "number"), [("viewer", 1), ("administrator", 2)])
def test_the_page_of_api_tokens_hears_of_those_that_it_shows(role, number):
    for name, theirs in (("alice", role), ("bob", "viewer")):
        asked = {"name": "script", "role": "viewer", "lifetime": timedelta(hours=1), "now": timezone.now()}
        api_tokens.create_api_token(make_user(name, theirs), **asked)
    consumer = ApiTokensConsumer()
    consumer.scope = {"user": get_user_model().objects.get(username="alice")}
    consumer.find()
    consumer.read()
    assert len(consumer._tokens.now) == number


def test_a_first_report_is_news_even_where_there_is_no_link_to_report(valkey):
    _, machines, _ = make_cluster(1)
    consumer = following.OverviewConsumer()
    consumer.scope = {"user": make_user("alice", "viewer")}
    consumer.find()
    consumer.read()
    found = []
    for summary in (Summary("s"), Summary("s", at=1.0), Summary("s", at=2.0)):
        consumer.take(Flushed([(machines[0].node.pk, summary)], []))
        found.append(consumer.differs())
    assert found == [True, True, False]
