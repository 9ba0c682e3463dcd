"""Upgrades of agents: who is told when, what stops them, and what an operator sees."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from io import StringIO

import msgspec
import pytest
import redis
from django.core.management import CommandError, call_command
from django.urls import reverse

from kubespan.core.messages import Upgrade, parse_from_console
from kubespan.core.release import may_follow
from nodes import live
from nodes.fanout import Personal, channel_name, parse_parcel
from nodes.models import Audit, Node, Rollout, RolloutStep, Transition
from nodes.services import rollouts
from nodes.services.nodes import remove_node
from nodes.services.refused import Refused
from tests.factories import NOW, Machine, enrol, make_cluster
from tests.handout import hand_out
from tests.heard import heard_by

pytestmark = pytest.mark.django_db

OLD, NEW = "0.1.0+0a0a0a0a", "0.2.0+1a2b3c4d"
SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("offered", "present", "expected"),
    [
        pytest.param("0.2.0+aaaa", "0.1.0+bbbb", True, id="newer"),
        pytest.param("0.2.0+aaaa", "0.2.0+bbbb", True, id="another build of the same version"),
        pytest.param("0.2.0+aaaa", "0.2.0+aaaa", False, id="the same"),
        pytest.param("0.1.0+aaaa", "0.2.0+bbbb", False, id="older"),
        pytest.param("0.10.0+aaaa", "0.9.0+bbbb", True, id="by number, not by letter"),
        pytest.param("0.2.0+aaaa", "0.1.0", False, id="one that no console handed out"),
        pytest.param("0.2.0+aaaa", "nonsense", False, id="something else"),
        pytest.param("0.2.0", "0.1.0+bbbb", False, id="nothing that was built"),
    ],
)
def test_what_may_be_offered(offered, present, expected):
    assert may_follow(offered, present) is expected


@pytest.fixture
def release(settings, tmp_path):
    settings.AGENT_FILES = tmp_path
    return hand_out(tmp_path, version=NEW)


class Fleet:
    """A cluster's nodes as the rows and Redis have them."""

    def __init__(self, valkey, *names):
        self.cluster = make_cluster()
        self.client = redis.Redis.from_url(valkey.url)
        for name in names:
            enrol(self.cluster, Machine(name))
            self.connect(name, OLD)

    def __getitem__(self, name):
        return Node.objects.present().get(cluster=self.cluster, name=name)

    def connect(self, name, version, up=3):
        """It says hello, and reports so many links up."""
        session = f"{name}-{version}"
        Node.objects.filter(pk=self[name].pk).update(session=session, agent_version=version)
        summary = live.Summary(session=session, at=NOW.timestamp(), up=up)
        self.client.set(live.summary_key(self[name].pk), msgspec.msgpack.encode(summary))

    def leave(self, name):
        Node.objects.filter(pk=self[name].pk).update(session="")
        self.client.delete(live.summary_key(self[name].pk))

    def states(self):
        steps = RolloutStep.objects.filter(rollout__cluster=self.cluster).select_related("node")
        return {step.node.name: step.state for step in steps}

    def start(self):
        return rollouts.start_rollout("tests", self.cluster, NOW)


@pytest.fixture
def fleet(valkey, release):
    return Fleet(valkey, "alpha", "bravo", "charlie")


@pytest.fixture
def heard(valkey, django_capture_on_commit_callbacks):
    """Who is told to upgrade while something is done."""

    def listen(fleet, act):
        names = {fleet[name].pk: name for name in Node.objects.present().values_list("name", flat=True)}
        with redis.Redis.from_url(valkey.url) as raw, raw.pubsub() as subscription:
            subscription.subscribe(channel_name(fleet.cluster.pk))
            assert heard_by(subscription) == []
            with django_capture_on_commit_callbacks(execute=True):
                act()
            told = {}
            for parcel in map(parse_parcel, heard_by(subscription)):
                if isinstance(parcel, Personal):
                    told[names[parcel.node]] = parse_from_console(parcel.frame)
        return told

    return listen


def advance(after):
    rollouts.advance_all(NOW + after)


def test_one_is_told_first_and_the_others_when_it_is_back_with_its_links(fleet, heard, release):
    wanted = Upgrade(version=NEW, sha256=release.sha256, size=release.size)
    assert heard(fleet, fleet.start) == {"alpha": wanted}
    assert heard(fleet, lambda: advance(SECOND)) == {}
    fleet.connect("alpha", NEW, up=2)  # one link is not up yet
    assert heard(fleet, lambda: advance(2 * SECOND)) == {}
    fleet.connect("alpha", NEW, up=3)
    assert heard(fleet, lambda: advance(3 * SECOND)) == {"bravo": wanted, "charlie": wanted}
    for name in ("bravo", "charlie"):
        fleet.connect(name, NEW, up=0)
    advance(4 * SECOND)
    assert fleet.states() == dict.fromkeys(("alpha", "bravo", "charlie"), "done")
    rollout = Rollout.objects.get()
    assert (rollout.state, rollout.reason) == ("done", "")
    assert list(Audit.objects.filter(verb__startswith="rollout").values_list("verb", flat=True)) == [
        "rollout.done",
        "rollout.started",
    ]


def test_links_of_its_former_connection_do_not_count(fleet, heard):
    fleet.start()
    # It is back, but what Redis has is what it said before.
    Node.objects.filter(pk=fleet["alpha"].pk).update(session="new", agent_version=NEW)
    assert heard(fleet, lambda: advance(SECOND)) == {}
    assert fleet.states()["alpha"] == "told"


def test_the_first_failure_stops_it_and_says_why(fleet, heard):
    fleet.start()
    rollouts.record_failure(fleet["alpha"].pk, NEW, "it ended 3 times", NOW + SECOND)
    rollout = Rollout.objects.get()
    assert (rollout.state, rollout.reason) == ("stopped", "alpha: it ended 3 times")
    assert heard(fleet, lambda: advance(SECOND)) == {}
    assert fleet.states() == {"alpha": "failed", "bravo": "waiting", "charlie": "waiting"}
    assert "it ended 3 times" in Transition.objects.filter(kind="fault").get().text
    assert Audit.objects.filter(verb="rollout.stopped").exists()


def test_a_failure_among_the_others_stops_those_not_told_yet(fleet, monkeypatch):
    monkeypatch.setattr(rollouts, "BATCH", 1)
    fleet.start()
    fleet.connect("alpha", NEW)
    advance(SECOND)
    assert fleet.states() == {"alpha": "done", "bravo": "told", "charlie": "waiting"}
    rollouts.record_failure(fleet["bravo"].pk, NEW, "it hung", NOW + SECOND)
    advance(2 * SECOND)
    assert fleet.states() == {"alpha": "done", "bravo": "failed", "charlie": "waiting"}


def test_no_more_are_under_way_than_the_console_wants_to_serve(valkey, release, monkeypatch):
    monkeypatch.setattr(rollouts, "BATCH", 2)
    fleet = Fleet(valkey, "alpha", "bravo", "charlie", "delta")
    fleet.start()
    fleet.connect("alpha", NEW)
    advance(SECOND)
    assert fleet.states() == {"alpha": "done", "bravo": "told", "charlie": "told", "delta": "waiting"}
    fleet.connect("charlie", NEW)
    advance(2 * SECOND)
    assert fleet.states() == {"alpha": "done", "bravo": "told", "charlie": "done", "delta": "told"}


@pytest.mark.parametrize(
    ("happens", "reason"),
    [
        pytest.param(lambda _: None, f"still runs {OLD}", id="it never did anything"),
        pytest.param(lambda fleet: fleet.leave("alpha"), "has not come back", id="it went and did not return"),
        pytest.param(lambda fleet: fleet.connect("alpha", NEW, up=1), "1 of its 3 links", id="its links stay down"),
    ],
)
def test_who_takes_too_long_has_failed(fleet, happens, reason):
    fleet.start()
    happens(fleet)
    advance(rollouts.TOLD_FOR - SECOND)
    assert Rollout.objects.get().state == "running"
    advance(rollouts.TOLD_FOR)
    assert Rollout.objects.get().state == "stopped"
    assert reason in Rollout.objects.get().reason


def test_a_word_that_was_lost_is_said_again(fleet, heard):
    fleet.start()
    assert heard(fleet, lambda: advance(rollouts.TELL_AGAIN - SECOND)) == {}
    assert set(heard(fleet, lambda: advance(rollouts.TELL_AGAIN))) == {"alpha"}
    assert heard(fleet, lambda: advance(rollouts.TELL_AGAIN + SECOND)) == {}


def test_who_left_before_its_turn_is_left_out_and_another_goes_first(fleet):
    fleet.leave("bravo")
    fleet.start()
    assert fleet.states() == {"alpha": "told", "charlie": "waiting"}
    fleet.leave("charlie")
    fleet.connect("alpha", NEW)
    advance(SECOND)
    assert fleet.states() == {"alpha": "done", "charlie": "skipped"}
    assert Rollout.objects.get().state == "done"


def test_a_node_that_is_removed_meanwhile_is_no_failure(fleet):
    fleet.start()
    remove_node("tests", fleet["alpha"], "alpha", NOW)
    advance(SECOND)
    assert fleet.states() == {"alpha": "skipped", "bravo": "told", "charlie": "waiting"}
    fleet.connect("bravo", NEW, up=0)
    advance(2 * SECOND)
    assert fleet.states()["charlie"] == "waiting", "bravo goes first now, and its links are not up"


def test_another_build_in_between_stops_it(fleet, tmp_path):
    fleet.start()
    hand_out(tmp_path, archive=b"the next one", version="0.3.0+bbbbbbbb")
    advance(SECOND)
    assert "another agent" in Rollout.objects.get().reason


def test_a_cancelled_one_tells_nobody_else(fleet, heard):
    rollout = fleet.start()
    rollouts.cancel_rollout("tests", rollout, NOW)
    fleet.connect("alpha", NEW)
    assert heard(fleet, lambda: advance(SECOND)) == {}
    with pytest.raises(Refused, match="ended already"):
        rollouts.cancel_rollout("tests", rollout, NOW)


def test_what_cannot_begin_says_why(fleet, settings, tmp_path):
    rollout = fleet.start()
    with pytest.raises(Refused, match="already"):
        fleet.start()
    rollouts.cancel_rollout("tests", rollout, NOW)
    for name in ("alpha", "bravo", "charlie"):
        fleet.connect(name, NEW)
    with pytest.raises(Refused, match="No connected agent"):
        fleet.start()
    settings.AGENT_FILES = tmp_path / "none"
    with pytest.raises(Refused, match="make agent"):
        fleet.start()


def test_agents_that_were_installed_otherwise_are_counted_and_left_alone(fleet):
    fleet.connect("alpha", "0.1.0")
    offer = rollouts.read_offer(fleet.cluster)
    assert [agent.pk for agent in offer.nodes] == [fleet["bravo"].pk, fleet["charlie"].pk]
    assert [agent.pk for agent in offer.otherwise] == [fleet["alpha"].pk]


# The page and the command.


def test_the_page_offers_shows_and_cancels(fleet, admin_client):
    address = reverse("cluster-agents", args=[fleet.cluster.uuid])
    page = admin_client.get(address).content.decode()
    assert "Upgrade 3 agents" in page
    assert OLD in page
    assert NEW in page
    page = admin_client.post(address, follow=True).content.decode()
    assert "0 of 3 upgraded" in page
    assert "Upgrade 3 agents" not in page
    rollouts.record_failure(fleet["alpha"].pk, NEW, "it hung", NOW)
    assert "Stopped because of alpha: it hung" in admin_client.get(address).content.decode()
    rollout = rollouts.start_rollout("tests", fleet.cluster, NOW)
    page = admin_client.post(reverse("rollout-cancel", args=[rollout.pk]), follow=True).content.decode()
    assert "Cancelled" in page


def test_of_a_large_upgrade_the_page_shows_what_went_wrong_first(fleet, admin_client, monkeypatch):
    monkeypatch.setattr("nodes.views.lists.PAGE_SIZE", 1)
    rollout = rollouts.start_rollout("tests", fleet.cluster, NOW)
    rollout.steps.filter(node__name="charlie").update(state="failed", reason="it hung")
    pages = [
        admin_client.get(reverse("cluster-agents", args=[fleet.cluster.uuid]), {"page": number}).content.decode()
        for number in (1, 2, 3)
    ]
    rows = [re.findall(r'<tr data-key="\d+">.*?>(\w+)</a>', page, re.DOTALL) for page in pages]
    assert rows == [["charlie"], ["alpha"], ["bravo"]]
    assert "0 of 3 upgraded" in pages[2]


def test_the_command_begins_shows_and_cancels(fleet):
    def call(*words):
        output = StringIO()
        call_command("upgrade_agents", fleet.cluster.name, *words, stdout=output)
        return json.loads(output.getvalue())

    with pytest.raises(CommandError, match="never upgraded"):
        call("--show")
    assert call()["nodes"] == {"alpha": "told", "bravo": "waiting", "charlie": "waiting"}
    assert call("--show")["state"] == "running"
    assert call("--cancel")["state"] == "cancelled"
    with pytest.raises(CommandError, match="no cluster"):
        call_command("upgrade_agents", "nowhere")
