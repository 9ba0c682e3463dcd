"""Reports: merged to tables, flushed to a real Redis, read back; what moved becomes rows."""

import asyncio
import ipaddress
import struct
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubespan.core.messages import MessageError, Pace, Report, Resync, Revision
from kubespan.core.options import ClusterOptions
from nodes import agents, fanout, live
from nodes.agents import reports
from nodes.agents.rows import in_thread
from nodes.counters import read_counters
from nodes.live import Moved, Seen, Summary, Table
from nodes.models import Candidate, Transition
from nodes.services import nodes as services
from tests.players import PATIENCE, make_cluster, until

NOW = 1_700_000_000.0
A, B = "192.0.2.1:51820", "[2001:db8::1]:51820"
UNKNOWN, UP, DOWN = 0, 1, 2
MEMBERS = frozenset(range(10))
OWN = 9


def report(links, *, complete=False, number=0, ages=None, **columns):
    """Links by member index: state and endpoint; and further columns."""
    count = len(links)
    figures = {"received": (7,) * count, "sent": (8,) * count} | columns
    return Report(
        number=number,
        complete=complete,
        revision=Revision(1, 1),
        members=tuple(links),
        states=tuple(state for state, _ in links.values()),
        endpoints=tuple(endpoint for _, endpoint in links.values()),
        handshakes=tuple(ages or (2000,) * count),
        **figures,
    )


def table(links):
    """A table that was told this before."""
    told = Table()
    told.merge(report(links, complete=True), OWN, MEMBERS, NOW)
    return told


@pytest.mark.parametrize(
    ("age", "handshake"),
    [
        pytest.param(2000, NOW - 2, id="a while ago"),
        pytest.param(-1, None, id="never"),
        pytest.param(int(NOW * 1000) + 1, 0.0, id="a moment before the beginning of time"),
        pytest.param(2**63 - 1, 0.0, id="any number"),
    ],
)
def test_an_age_is_a_time_that_a_page_can_show(age, handshake):
    told = Table()
    told.merge(report({1: (UP, A)}, complete=True, ages=(age,)), OWN, MEMBERS, NOW)
    assert told.seen(1).handshake == handshake


@pytest.mark.parametrize(
    ("before", "after", "moved"),
    [
        pytest.param({1: (UP, A)}, {1: (UP, A)}, [], id="as it was"),
        pytest.param({1: (UP, A)}, {1: (DOWN, A)}, [Moved(1, "up", "down", A, A)], id="lost"),
        pytest.param({1: (UP, A)}, {1: (UP, B)}, [Moved(1, "up", "up", A, B)], id="endpoint changed"),
        pytest.param({1: (DOWN, A)}, {1: (UNKNOWN, B)}, [Moved(1, "down", "unknown", A, B)], id="both"),
        pytest.param({}, {1: (UNKNOWN, "")}, [], id="new and not measured"),
        pytest.param({}, {1: (UP, A)}, [Moved(1, "unknown", "up", "", A)], id="new and up"),
        pytest.param({1: (UNKNOWN, "")}, {1: (UNKNOWN, A)}, [], id="its first endpoint"),
        pytest.param({}, {99: (UP, A)}, [], id="a member that the cluster does not know"),
        pytest.param({}, {OWN: (UP, A)}, [], id="itself"),
    ],
)
def test_what_moved(before, after, moved):
    changed, found = table(before).merge(report(after, number=1), OWN, MEMBERS, NOW)
    assert found == moved
    assert changed == [index for index in after if index in MEMBERS and index != OWN]


def test_the_first_complete_report_of_an_unknown_node_is_no_news():
    assert Table().merge(report({1: (UP, A), 2: (DOWN, A)}, complete=True), OWN, MEMBERS, NOW)[1] == []


def test_a_complete_report_forgets_what_it_leaves_out():
    told = table({1: (UP, A), 2: (DOWN, B)})
    changed, _ = told.merge(report({1: (UP, A)}, complete=True), OWN, MEMBERS, NOW)
    assert sorted(changed) == [1, 2]
    assert told.seen(2) is None
    assert told.counts == [0, 1, 0]


def test_a_link_is_read_as_it_was_reported():
    told = table({1: (UP, B)})
    assert told.seen(1) == Seen("up", B, NOW - 2, 7, 8, NOW, since=NOW, at_least=True)
    told.merge(report({1: (DOWN, "")}, ages=(-1,)), OWN, MEMBERS, NOW + 9)
    assert told.seen(1) == Seen("down", "", None, 7, 8, NOW + 9, since=NOW + 9)


def test_round_trip_and_loss_are_read_as_they_were_reported():
    told = Table()
    told.merge(report({1: (UP, A), 2: (UP, B)}, rtts=(1500, -1), losses=(250, 1000)), OWN, MEMBERS, NOW)
    assert [(seen.rtt, seen.loss) for _, seen in told.links()] == [(0.0015, 0.25), (None, 1.0)]
    told.merge(report({1: (UP, A)}), OWN, MEMBERS, NOW)
    assert (told.seen(1).rtt, told.seen(1).loss) == (None, None)


@pytest.mark.parametrize(
    ("states", "since", "at_least"),
    [
        pytest.param([UP], 0, True, id="heard of first"),
        pytest.param([UP, UP, UP], 0, True, id="as it was"),
        pytest.param([UP, DOWN], 1, False, id="lost"),
        pytest.param([UP, UNKNOWN, DOWN, UNKNOWN], 1, False, id="lost, and tried at one endpoint after the other"),
        pytest.param([DOWN, UNKNOWN], 0, True, id="tried ever since it was heard of"),
        pytest.param([DOWN, UP, UP], 1, False, id="up again"),
        pytest.param([None, UP], 1, False, id="a member that is new"),
        pytest.param([UP, None, UP], 2, False, id="forgotten and new"),
    ],
)
def test_a_link_is_as_old_as_its_last_coming_up_or_ceasing_to_be(states, since, at_least):
    told = Table()
    for number, state in enumerate(states):
        links = {2: (UP, B)} if state is None else {1: (state, A), 2: (UP, B)}
        told.merge(report(links, complete=True, number=number), OWN, MEMBERS, NOW + number)
    for each in (told, Table(told.dump())):
        assert (each.seen(1).since, each.seen(1).at_least) == (NOW + since, at_least)
        assert each.seen(2).since == NOW == each.summarise("s").began, "it was up all the time"


def test_a_node_is_first_heard_of_by_its_first_complete_report():
    """A report of what changed may come first where Redis lost what was said before."""
    told = Table()
    told.merge(report({1: (UP, A)}), OWN, MEMBERS, NOW)
    _, moved = told.merge(report({1: (UP, A), 2: (UP, A)}, complete=True, number=1), OWN, MEMBERS, NOW + 9)
    assert moved == []
    assert [(seen.since, seen.at_least) for _, seen in told.links()] == [(NOW, True), (NOW + 9, True)]


def test_a_summary_has_sums_of_traffic_and_means_of_what_is_measured():
    told = table({1: (UP, A), 2: (UP, A), 3: (UP, A)})
    measured = report({1: (UP, A), 2: (UP, A)}, rtts=(1000, 3000), losses=(0, 500))
    told.merge(measured, OWN, MEMBERS, NOW)
    found = told.summarise("s")
    assert (found.received, found.sent, found.rtt, found.loss) == (21, 24, 0.002, 0.25)
    told.drop([1, 2])
    found = told.summarise("s")
    assert (found.received, found.sent, found.rtt, found.loss) == (7, 8, None, None)


def test_a_summary_counts_links_that_are_up_and_answer_no_probe():
    links = {1: (UP, A), 3: (UP, A), 4: (UP, A), 5: (DOWN, A), 6: (UP, A)}
    told = table({})
    told.merge(report(links, complete=True, rtts=(-1,) * 5, losses=(999, 1000, -1, 1000, 1000)), OWN, MEMBERS, NOW)
    found = told.summarise("s")
    assert (found.mute, found.mute_to) == (2, 3)
    told.merge(report({3: (UP, A), 6: (UP, A)}, rtts=(-1, 900), losses=(-1, 950)), OWN, MEMBERS, NOW)
    found = told.summarise("s")
    assert (found.mute, found.mute_to) == (0, None)


def test_a_node_that_claims_more_traffic_than_can_be_encoded_stops_nobodys_summary():
    told = Table()
    told.merge(report({1: (UP, A), 2: (UP, A)}, received=(2**63 - 1,) * 2), OWN, MEMBERS, NOW)
    assert msgspec.msgpack.decode(told.summary("s"), type=Summary).received == 2**63 - 1


def test_a_summary_of_the_release_before_is_read():
    assert live._summary_decoder.decode(msgspec.msgpack.encode(["s", NOW, 3, 1, 0, 0, None])).rtt is None


def test_an_endpoint_that_is_none_is_refused():
    with pytest.raises(MessageError, match="nowhere"):
        Table().merge(report({1: (UP, "nowhere")}), OWN, MEMBERS, NOW)


def test_the_worst_link_is_the_one_longest_without_a_handshake():
    told = Table()
    told.merge(report({1: (UP, A), 2: (UNKNOWN, A)}), OWN, MEMBERS, NOW)
    assert told.worst() == 2
    told.merge(report({3: (DOWN, A), 4: (DOWN, A)}, ages=(1000, 9000)), OWN, MEMBERS, NOW)
    assert told.worst() == 4
    told.merge(report({1: (UP, A)}, complete=True), OWN, MEMBERS, NOW)
    assert told.worst() is None


def test_a_record_of_another_format_is_as_good_as_none():
    assert not Table(b"something else").known


links = st.dictionaries(st.integers(0, 8), st.tuples(st.integers(0, 2), st.sampled_from(["", A, B])), max_size=9)
figures = st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(-1, 9), st.integers(-1, 9))


@given(st.lists(st.dictionaries(st.integers(0, 8), figures, max_size=4), max_size=3), st.sets(st.integers(0, 8)))
def test_sums_and_means_are_of_the_links_that_are_there(said, gone):
    told = Table()
    for number, news in enumerate(said):
        names = "received", "sent", "rtts", "losses"
        columns = dict(zip(names, zip(*news.values(), strict=True) if news else ((),) * 4, strict=True))
        told.merge(report(dict.fromkeys(news, (UP, A)), complete=number % 2 == 0, **columns), OWN, MEMBERS, NOW)
    told.drop(index for index in gone if index in told.indexes())
    seen = [link for _, link in told.links()]
    rtts = [link.rtt for link in seen if link.rtt is not None]
    losses = [link.loss for link in seen if link.loss is not None]
    for each in (told, Table(told.dump())):
        found = each.summarise("s")
        assert found.received == sum(link.received for link in seen)
        assert found.sent == sum(link.sent for link in seen)
        assert found.rtt == (pytest.approx(sum(rtts) / len(rtts)) if rtts else None)
        assert found.loss == (pytest.approx(sum(losses) / len(losses)) if losses else None)


def test_a_record_is_as_processes_of_another_release_have_it():
    """An old web process beside a new one reads what the other wrote, by this format's name."""
    told = Table()
    told.merge(report({2: (UP, A)}, complete=True, rtts=(1500,), losses=(250,)), OWN, MEMBERS, NOW)
    told.merge(report({0: (DOWN, B), 1: (UNKNOWN, "")}, number=7, ages=(-1, -1)), OWN, MEMBERS, NOW + 5)
    ipv4, ipv6 = ipaddress.ip_address("192.0.2.1").packed + bytes(12), ipaddress.ip_address("2001:db8::1").packed
    now_ms, now = 1_700_000_000_000, 1_700_000_000
    assert told.dump() == b"".join(
        (
            struct.pack("<4sIqI", b"KSR3", 7, now_ms + 5000, now),
            struct.pack("<BBH16sqqqihI", 2, 6, 51820, ipv6, -1, 7, 8, -1, -1, now + 5),
            struct.pack("<BBH16sqqqihI", 0, 0, 0, bytes(16), -1, 7, 8, -1, -1, now + 5),
            struct.pack("<BBH16sqqqihI", 1, 4, 51820, ipv4, now_ms - 2000, 7, 8, 1500, 250, now),
        )
    )


@given(st.lists(st.tuples(links, st.booleans())))
def test_record_and_counts_agree_with_what_was_said(said):
    told, expected = Table(), {}
    for number, (news, complete) in enumerate(said):
        told.merge(report(news, complete=complete, number=number), OWN, MEMBERS, NOW)
        expected = dict(news) if complete else expected | news
    again = Table(told.dump())
    for each in (told, again):
        assert {index: (seen.state, seen.endpoint) for index, seen in each.links()} == {
            index: (live.STATES[state], endpoint) for index, (state, endpoint) in expected.items()
        }
        states = [state for state, _ in expected.values()]
        assert each.counts == [states.count(state) for state in range(3)]


def test_all_summaries_of_a_session_begin_alike():
    start = live.summary_start(Summary("a" * 32))
    for summary in (table({1: (UP, A)}).summary("a" * 32), Table().summary("a" * 32)):
        assert summary.startswith(start)
    assert not Table().summary("b" * 32).startswith(start)


# Over sockets, to Redis and rows.

database = pytest.mark.django_db(transaction=True)


async def connect_two(console, **options):
    cluster, machines, _ = await in_thread(lambda: make_cluster(2, **options))
    return cluster, [await console.connect(machine) for machine in machines]


@database
async def test_a_report_is_read_by_pages(console):
    cluster, (one, two) = await connect_two(console)
    await one.report({1: (UP, A)}, complete=True, rtts=(1500,), losses=(0,))
    await two.report({0: (DOWN, B)}, complete=True)
    pks = [player.machine.node.pk for player in (one, two)]

    def both():
        found = live.read_summaries(cluster)
        return found if all(found.get(pk) and found[pk].at for pk in pks) else None

    summaries = await until(both)
    assert [(summaries[pk].up, summaries[pk].down, summaries[pk].worst) for pk in pks] == [(1, 0, None), (0, 1, 0)]
    node = one.machine.node
    ours, theirs = await in_thread(lambda: (live.read_links(node), live.read_links_to(node, pks)))
    assert (ours[1].state, ours[1].endpoint, ours[1].rtt, ours[1].loss) == ("up", A, 0.0015, 0.0)
    assert (summaries[pks[0]].rtt, summaries[pks[1]].rtt) == (0.0015, None)
    assert {pk: seen.state for pk, seen in theirs.items()} == {pks[1]: "down"}
    matrix = await in_thread(lambda: {pk: dict(found.links()) for pk, found in live.read_matrix(pks)})
    assert {pk: list(found) for pk, found in matrix.items()} == {pks[0]: [1], pks[1]: [0]}
    states = await in_thread(lambda: live.read_states(pks))
    assert states == {pks[0]: bytes([live.ABSENT, UP]), pks[1]: bytes([DOWN])}
    ages = await in_thread(lambda: live.read_ages(pks))
    since = ours[1].since
    assert time.time() - 60 < since <= time.time()
    assert ages[pks[0]].tolist() == [0, since]
    assert await in_thread(lambda: dict(live.read_figures(pks[:1], "since"))) == {pks[0]: [-1, since]}
    assert theirs[pks[1]].at_least, "what was so at the first look may be so for longer"


@database
async def test_values_live_for_a_while_and_presence_ends_with_the_connection(console, valkey):
    _, (one, _) = await connect_two(console)
    await one.report({1: (UP, A)}, complete=True)
    pk = one.machine.node.pk
    await until(lambda: live.read_links(one.machine.node))
    with valkey.client() as client:
        for key in (live.record_key(pk), live.states_key(pk), live.ages_key(pk), live.summary_key(pk)):
            assert 0 < client.ttl(key) <= live.TIME_TO_LIVE
    await one.socket.close()
    await until(lambda: pk not in live.read_summaries_of([pk]))
    assert await in_thread(lambda: live.read_links(one.machine.node))


@database
async def test_an_older_connections_end_does_not_end_the_newer_ones_presence(console):
    _, (one, _) = await connect_two(console)
    newer = await console.connect(one.machine)
    await one.closed()
    await newer.report({1: (UP, A)}, complete=True)
    pk = one.machine.node.pk
    await until(lambda: (found := live.read_summaries_of([pk]).get(pk)) and found.up == 1)
    end = agents.running_end()
    await until(lambda: len(end.conversations) == 2)
    await end.reports.flush()
    assert pk in await in_thread(lambda: live.read_summaries_of([pk]))


@database
async def test_a_transition_becomes_a_row_and_a_reconnect_does_not(console):
    _, (one, _) = await connect_two(console)
    pk, peer = one.machine.node.pk, (await in_thread(lambda: one.machine.node.cluster.nodes.get(index=1))).pk
    await one.report({1: (UNKNOWN, A)}, complete=True)
    await one.report({1: (UP, A)})
    await until(lambda: Transition.objects.filter(node=pk, peer=peer, before="unknown", after="up").exists())
    await until(lambda: [seen.state for seen in live.read_links(one.machine.node).values()] == ["up"])
    again = await console.connect(one.machine)
    await again.report({1: (UP, A)}, complete=True)
    await again.report({1: (DOWN, A)})
    await until(lambda: Transition.objects.filter(node=pk, peer=peer, after="down").exists())
    assert await in_thread(lambda: Transition.objects.filter(node=pk, kind="link").count()) == 2


@database
async def test_a_gap_in_reports_asks_for_a_complete_one(console):
    _, (one, _) = await connect_two(console)
    await one.report({1: (UP, A)}, complete=True)
    next(one.reports)
    await one.report({1: (UP, A)})
    while not isinstance(await one.receive(), Resync):
        pass


@database
async def test_a_first_report_that_is_not_complete_is_asked_for_again(console):
    _, (one, _) = await connect_two(console)
    await one.report({1: (UP, A)})
    while not isinstance(await one.receive(), Resync):
        pass


@database
async def test_reports_wait_for_redis(console, valkey, monkeypatch):
    monkeypatch.setattr(reports, "RETRY_SECONDS", 0.05)
    _, (one, _) = await connect_two(console)
    valkey.stop()
    await one.report({1: (DOWN, A)}, complete=True)
    end = agents.running_end()
    pk = one.machine.node.pk
    async with asyncio.timeout(PATIENCE):
        while not end.reports._lines[pk].table.counts[DOWN]:
            await asyncio.sleep(0.01)
    end.tally["frame.bad"] += 1
    assert not await end.reports.flush()
    valkey.start()
    await until(lambda: (found := live.read_summaries_of([pk]).get(pk)) and found.down == 1)
    assert read_counters()["frame.bad"] == 1


@database
async def test_what_an_emptied_redis_lost_is_written_again_without_a_new_report(console, valkey):
    _, (one, _) = await connect_two(console)
    await one.report({1: (UP, A)}, complete=True)
    pk = one.machine.node.pk
    await until(lambda: (found := live.read_summaries_of([pk]).get(pk)) and found.up == 1)
    valkey.stop()
    valkey.start()
    # Long before the presence of a node that says nothing is renewed.
    await until(lambda: (found := live.read_summaries_of([pk]).get(pk)) and found.up == 1)
    assert list(live.read_links(one.machine.node)) == [1]


@database
async def test_a_node_in_view_is_asked_to_report_faster(console):
    cluster, (one, two) = await connect_two(console)
    watch = fanout.Watch((one.machine.node.pk,), 1.0, 60.0)
    await asyncio.to_thread(fanout.publish_watch, cluster.pk, watch)
    while not isinstance(pace := await one.receive(), Pace):
        pass
    assert (pace.seconds, pace.lease) == (1.0, pytest.approx(60, abs=1))
    again = await console.greet(one.machine)
    while not isinstance(await again.receive(), Pace):
        pass
    assert two


@database
@pytest.mark.parametrize("harvest", [True, False])
async def test_endpoints_that_neighbours_see_are_harvested_where_wanted(console, monkeypatch, harvest):
    monkeypatch.setattr("nodes.agents.ledger.HARVEST_SECONDS", 0.0)
    _, (one, two) = await connect_two(console, options=ClusterOptions(harvest_extra_endpoints=harvest))
    seen = "203.0.113.9:4242"
    await one.report({1: (UP, seen)}, complete=True)
    harvested = Candidate.objects.filter(node=two.machine.node, endpoint=seen, source="harvested")
    if harvest:
        await until(harvested.exists)
    else:
        await until(lambda: live.read_links(one.machine.node))
        await agents.running_end().ledger.write()
        assert not await in_thread(harvested.exists)


@database
async def test_a_removed_members_links_are_forgotten(console):
    _, (one, two) = await connect_two(console)
    await one.report({1: (DOWN, A)}, complete=True)
    pk, node = one.machine.node.pk, two.machine.node
    await until(lambda: (found := live.read_summaries_of([pk]).get(pk)) and found.down == 1)
    await in_thread(lambda: services.remove_node("console", node, node.name, node.enrolled))
    agents.running_end().reports.moved(node.cluster_id)
    await one.report({})
    await until(lambda: (found := live.read_summaries_of([pk]).get(pk)) and found.down == 0)


@database
async def test_links_to_members_that_went_while_a_node_was_away_are_forgotten(console):
    _, (one, two) = await connect_two(console)
    await one.report({1: (DOWN, A)}, complete=True)
    pk, node = one.machine.node.pk, two.machine.node
    await until(lambda: (found := live.read_summaries_of([pk]).get(pk)) and found.down == 1)
    await one.socket.close()
    await until(lambda: not live.read_summaries_of([pk]))
    await in_thread(lambda: services.remove_node("console", node, node.name, node.enrolled))
    agents.running_end().reports.moved(node.cluster_id)
    again = await console.connect(one.machine)
    await again.report({})
    await until(lambda: (found := live.read_summaries_of([pk]).get(pk)) and found.at and found.down == 0)
