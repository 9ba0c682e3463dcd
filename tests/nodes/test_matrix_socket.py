"""The matrix's socket: the real consumer by a communicator, fed by Redis and by what agents' processes tell."""

import contextlib
import json
import struct
import time

import pytest
from channels.routing import URLRouter
from channels.testing import WebsocketCommunicator

from nodes.agents.rows import in_thread
from nodes.announce import announce_soon
from nodes.consumers import base
from nodes.consumers import matrix as consumer
from nodes.fanout import Watch
from nodes.models import Node
from nodes.routing import websocket_urlpatterns
from tests.big import Live, make_mesh
from tests.factories import make_user
from tests.players import PATIENCE

pytestmark = pytest.mark.django_db(transaction=True)

UP, DOWN, GONE = 1, 2, 3


class Page:
    """An open matrix: members, and the cells that it was told, as the browser keeps them."""

    def __init__(self, communicator):
        self.communicator = communicator
        self.numbers = []
        self.members = {}
        self.rows = self.columns = ()
        self.width = 0
        self.cells = {}

    async def hear(self):
        """The next message; gives its head."""
        message = await self.communicator.receive_from(timeout=PATIENCE)
        (length,) = struct.unpack_from("<I", message)
        head, body = json.loads(message[4 : 4 + length]), message[4 + length :]
        self.numbers.append(head["number"])
        for row in head.get("members", ()):
            self.members[row[0]] = row
        for index in head.get("gone", ()):
            del self.members[index]
        if head.get("view"):
            count = head["view"]["rows"] * head["view"]["columns"]
            places = [(row, column) for row in self.rows for column in self.columns]
            self.cells = self._read(body, places, count)
        elif count := head.get("cells", 0):
            start = count * self.width
            rows, columns = (struct.unpack_from(f"<{count}H", body, start + at * count * 2) for at in (0, 1))
            places = [(self.rows[row], self.columns[column]) for row, column in zip(rows, columns, strict=True)]
            self.cells |= self._read(body, places, count)
        return head

    def _read(self, body, places, count):
        kind = {0: "x", 4: "f", 8: "d"}[self.width]
        figures = struct.unpack_from(f"<{count}{kind}", body) if self.width else [None] * count
        states = [(both & 3, both >> 2) for both in body[len(body) - count :]]
        return {place: (state, figure) for place, state, figure in zip(places, states, figures, strict=True)}

    async def look_at(self, rows, columns, mode="state"):
        """Ask for a part of it, and wait for that."""
        self.rows, self.columns = tuple(rows), tuple(columns)
        self.width = {"state": 0, "uptime": 8}.get(mode, 4)
        view = {"type": "view", "id": 7, "mode": mode, "rows": [*rows], "columns": [*columns]}
        await self.communicator.send_json_to(view)
        while not (head := await self.hear()).get("view"):
            pass
        assert head["view"] == {"id": 7, "rows": len(self.rows), "columns": len(self.columns)}

    async def closed(self):
        """The code that it was closed with."""
        while (event := await self.communicator.receive_output(timeout=PATIENCE))["type"] != "websocket.close":
            pass
        return event["code"]


@pytest.fixture
async def open_page(valkey):
    """Open a cluster's matrix, with its members known."""
    person = await in_thread(lambda: make_user("alice", "viewer"))
    async with contextlib.AsyncExitStack() as stack:
        router = URLRouter(websocket_urlpatterns)

        async def open_page(cluster):
            async def serve(asked, receive, send):
                await router({**asked, "user": person}, receive, send)

            communicator = WebsocketCommunicator(serve, f"/live/matrix/{cluster.uuid}")
            assert (await communicator.connect(timeout=PATIENCE))[0]
            stack.push_async_callback(communicator.disconnect, timeout=PATIENCE)
            page = Page(communicator)
            await page.hear()
            return page

        yield open_page


@pytest.fixture
async def live(valkey):
    """Sixty nodes that have reported."""

    def make():
        found = Live(make_mesh(60, talos=0), time.time())
        found.write()
        return found

    return await in_thread(make)


def reporting(live, count):
    return live.reporting[:count]


async def test_members_come_first_and_cells_when_they_are_asked_for(live, open_page):
    page = await open_page(live.mesh.cluster)
    assert {row[1] for row in page.members.values()} == {node.pk for node in live.members}
    assert not page.cells
    one, two, three = reporting(live, 3)
    await page.look_at([one.index, two.index], [three.index])
    states = {name: number for number, name in enumerate(("unknown", "up", "down"))}
    for row in (one, two):
        expected = states[live.state(row, three)], states[live.state(three, row)]
        assert page.cells[row.index, three.index] == (expected, None)


async def test_a_link_that_goes_down_is_told_to_who_has_it_in_view(live, open_page):
    page, elsewhere = await open_page(live.mesh.cluster), await open_page(live.mesh.cluster)
    one, two, three = reporting(live, 3)
    live.set_state(one, two, "up")
    live.set_state(two, one, "up")
    for node in (one, two):
        live.report(node, time.time())
    await in_thread(live.write)
    await page.look_at([one.index], [node.index for node in live.members])
    await elsewhere.look_at([three.index], [three.index])
    assert page.cells[one.index, two.index] == ((UP, UP), None)
    live.set_state(one, two, "down")
    changed = [(one, index) for index in live.report(one, time.time())]
    await in_thread(live.write, [one])
    await in_thread(live.tell, [one], changed)
    while page.cells[one.index, two.index] != ((DOWN, UP), None):
        head = await page.hear()
        assert head.get("cells", 0) <= 1, "of all cells in view only that one"
    assert page.numbers == list(range(len(page.numbers)))
    counts = await elsewhere.hear()
    assert "cells" not in counts, "only how many links are in which state"


async def test_figures_follow_a_node_in_view(live, open_page):
    page = await open_page(live.mesh.cluster)
    one, two = reporting(live, 2)
    live.set_state(one, two, "up")
    live.report(one, time.time())
    await in_thread(live.write)
    await page.look_at([one.index], [node.index for node in live.members], "received")
    seen = live.tables[one.pk].seen(two.index)
    assert page.cells[one.index, two.index][1] == pytest.approx(seen.received, rel=1e-6)
    await page.look_at([one.index], [two.index], "rtt")
    assert page.cells[one.index, two.index][1] == pytest.approx(seen.rtt, rel=1e-6)
    live._bytes = [received + 5_000_000 for received in live._bytes]
    await page.look_at([one.index], [two.index], "received")
    live.report(one, time.time())
    await in_thread(live.tell, [one], [(one, two.index)])
    while page.cells[one.index, two.index][1] != pytest.approx(seen.received + 5_000_000, rel=1e-6):
        await page.hear()


async def test_since_when_links_are_up_is_told_and_when_that_began_to_be_known(live, open_page):
    one, two = reporting(live, 2)
    live.set_state(one, two, "down")
    live.report(one, time.time())
    await in_thread(live.write)
    page = await open_page(live.mesh.cluster)
    await page.look_at([one.index], [node.index for node in live.members], "uptime")
    table = live.tables[one.pk]
    assert page.members[one.index][9] == table.began > 0
    assert page.cells[one.index, two.index][1] == table.seen(two.index).since
    live.set_state(one, two, "up")
    later = int(time.time()) + 100
    live.report(one, later)
    await in_thread(live.tell, [one], [(one, two.index)])
    while page.cells[one.index, two.index] != ((UP, page.cells[one.index, two.index][0][1]), later):
        head = await page.hear()
        assert head.get("cells", 0) <= 2, "of all that is in view only what changed"


async def test_a_node_that_leaves_has_said_nothing(live, open_page):
    page = await open_page(live.mesh.cluster)
    one, two = reporting(live, 2)
    await page.look_at([one.index], [two.index])
    assert page.cells[one.index, two.index][0][0] != GONE
    await in_thread(lambda: live.forget(one))
    await announce_soon(live.mesh.cluster.pk, "node.away", node=one.pk)
    while page.cells[one.index, two.index][0][0] != GONE:
        await page.hear()
    assert page.members[one.index][5] is False


async def test_a_member_that_is_removed_goes(live, open_page):
    page = await open_page(live.mesh.cluster)
    one = live.members[0]
    await in_thread(lambda: Node.objects.filter(pk=one.pk).update(status="removed"))
    await announce_soon(live.mesh.cluster.pk, "node.removed", node=one.pk)
    while one.index in page.members:
        await page.hear()


async def test_only_so_many_nodes_report_faster_for_it(live, open_page, monkeypatch):
    told = []
    monkeypatch.setattr(base, "publish_watch", lambda pk, watch: told.append(watch))
    monkeypatch.setattr(consumer, "LINKS_A_SECOND", 57 * 5)
    page = await open_page(live.mesh.cluster)
    await page.look_at(range(20), range(20))
    assert told[-1].nodes == (), "changes of state come at once by themselves"
    await page.look_at(range(20), range(20), "sent")
    assert told[-1] == Watch(tuple(node.pk for node in live.members[:5]), base.PACE_SECONDS, base.LEASE_SECONDS)


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param("no view", id="no JSON"),
        pytest.param('{"type": "view", "id": 1, "mode": "colour", "rows": [], "columns": []}', id="no mode"),
        pytest.param('{"type": "view", "id": 1, "mode": "state", "rows": [4711], "columns": [1]}', id="no member"),
    ],
)
async def test_what_is_no_view_ends_it(live, open_page, asked):
    page = await open_page(live.mesh.cluster)
    await page.communicator.send_to(text_data=asked)
    assert await page.closed() == base.CLOSE_POLICY
