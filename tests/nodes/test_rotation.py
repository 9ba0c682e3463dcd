"""Rotation of the secret: handed out, kept, switched, cancelled; who is behind; what a removal does to it."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
import redis
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from kubespan.core import sealing
from kubespan.core.messages import (
    Applied,
    ClusterSecret,
    Delta,
    Removed,
    Revision,
    SecretKept,
    Snapshot,
    Welcome,
)
from kubespan.core.rotation import Standing
from nodes import agents, fanout, secrets, tasks
from nodes.agents.rows import in_thread
from nodes.models import Audit, Change, Cluster, Node, Rotation
from nodes.services import clusters, keys, nodes, revisions, rotation
from nodes.services.refused import Refused
from tests.factories import NOW, enrol, make_cluster
from tests.heard import heard_by
from tests.players import make_cluster as play_cluster
from tests.players import push, until

LATER = NOW + timedelta(minutes=1)


@pytest.fixture
def cluster(db):
    return make_cluster("office")


def begin(cluster, *, automatic=False, actor="tests"):
    return rotation.start(actor, cluster, automatic=automatic, now=NOW)


def connect(node, *, kept=1, version=2, connected=True):
    """Let a member stand as if it were connected, and had said what it keeps."""
    columns = {"session": "s" if connected else "", "secret_kept": kept, "protocol": version, "last_seen": NOW}
    Node.objects.filter(pk=node.pk).update(**columns)


def verbs():
    return list(Audit.objects.filter(verb__contains="cluster.").order_by("pk").values_list("verb", flat=True))


# The two phases.


def test_a_new_secret_lies_beside_the_present_one_until_the_switch(cluster):
    before = cluster.secret.reveal()
    handed_out = begin(cluster).secret.reveal()
    cluster.refresh_from_db()
    assert (cluster.secret.reveal(), cluster.secret_generation, cluster.revision) == (before, 1, 0)
    assert clusters.reveal_secret("tests", cluster, NOW) == before
    assert handed_out != before

    revision = rotation.switch("tests", cluster, 2, LATER)
    cluster.refresh_from_db()
    assert (cluster.secret.reveal(), cluster.secret_generation) == (handed_out, 2)
    assert clusters.reveal_secret("tests", cluster, NOW) == handed_out
    assert revision == cluster.current
    assert Change.objects.get().kind == Change.Kind.SECRET
    assert not Rotation.objects.exists()


def test_the_switch_is_one_delta_that_names_the_generation_and_holds_no_secret(cluster):
    enrol(cluster)
    cluster.refresh_from_db()
    since = cluster.current
    secret = begin(cluster).secret.reveal()
    rotation.switch("tests", cluster, 2, LATER)
    frame = revisions.frame(cluster.pk, since)
    expected = Delta(since=since, revision=Revision(since.epoch, since.number + 1), secret_generation=2)
    assert json.loads(frame.bytes) == json.loads(revisions.dump(expected))
    assert secret.encode() not in frame.bytes


def test_a_snapshot_during_the_hand_out_names_the_present_one(cluster):
    begin(cluster)
    assert json.loads(revisions.frame(cluster.pk, None).bytes)["secret_generation"] == 1


def test_both_are_encrypted_at_rest_and_shown_to_nobody(cluster, settings):
    row = begin(cluster)
    plain = row.secret.reveal()
    stored = Rotation.objects.values_list("secret", flat=True).get().dump()
    assert plain not in stored
    assert plain not in f"{row!r} {vars(row)} {row.secret}"
    assert not any(plain in json.dumps(audit.details) for audit in Audit.objects.all())
    settings.KUBESPAN_KEYS = {"newer": secrets.Fernet.generate_key().decode(), **settings.KUBESPAN_KEYS}
    keys.rotate_keys("tests", NOW)
    assert Rotation.objects.get().secret.key_name == "newer"
    assert Rotation.objects.get().secret.reveal() == plain


def test_each_phase_is_an_audit_row(cluster):
    begin(cluster)
    rotation.cancel("tests", cluster, 2, NOW)
    begin(cluster, automatic=True)
    connect(enrol(cluster), connected=False)
    rotation.switch("tests", cluster, 3, LATER)
    assert verbs()[1:] == [
        "cluster.rotation-started",
        "cluster.rotation-cancelled",
        "cluster.rotation-started",
        "cluster.secret-switched",
    ]
    switched = Audit.objects.get(verb="cluster.secret-switched")
    assert (switched.actor_name, switched.details["generation"]) == ("tests", 3)
    assert switched.details["not_ready"] == [Node.objects.get().name]


def test_one_at_a_time(cluster):
    first = begin(cluster)
    with pytest.raises(Refused, match="being rotated already") as refused:
        begin(cluster)
    assert (refused.value.code, refused.value.status) == ("rotation-under-way", 409)
    assert Rotation.objects.get().secret.reveal() == first.secret.reveal()


@pytest.mark.parametrize("deed", [rotation.switch, rotation.cancel])
def test_what_is_not_under_way_is_refused_and_changes_nothing(cluster, deed):
    with pytest.raises(Refused, match="of generation 1"):
        deed("tests", cluster, 2, NOW)
    begin(cluster)
    with pytest.raises(Refused, match=r"Generation 2 .* not 7"):
        deed("tests", cluster, 7, NOW)
    assert Rotation.objects.get().generation == 2
    assert not Change.objects.exists()


def test_a_switch_asked_for_again_changes_nothing(cluster):
    begin(cluster)
    revision = rotation.switch("tests", cluster, 2, NOW)
    assert rotation.switch("tests", cluster, 2, LATER) == revision
    assert Change.objects.count() == 1


def test_a_cancelled_generation_never_returns(cluster):
    secret = begin(cluster).secret.reveal()
    rotation.cancel("tests", cluster, 2, NOW)
    again = begin(cluster)
    assert again.generation == 3
    assert again.secret.reveal() != secret


def test_there_is_no_switch_to_a_secret_that_no_key_opens(cluster, settings):
    begin(cluster)
    settings.KUBESPAN_KEYS = {"other": secrets.Fernet.generate_key().decode()}
    with pytest.raises(Refused, match="needs key") as refused:
        rotation.switch("tests", cluster, 2, NOW)
    assert refused.value.status == 503
    cluster.refresh_from_db()
    assert cluster.secret_generation == 1


# Who has it.


def test_whoever_is_away_is_listed_first(cluster):
    names = ["ready", "waiting", "old", "away with it", "away longer"]
    machines = {name: enrol(cluster) for name in names}
    following = begin(cluster)
    connect(machines["ready"], kept=2)
    connect(machines["waiting"])
    connect(machines["old"], version=1)
    connect(machines["away with it"], kept=2, connected=False)
    connect(machines["away longer"], connected=False)
    Node.objects.filter(pk=machines["away longer"].pk).update(last_seen=NOW - timedelta(days=1))
    by_pk = {node.pk: name for name, node in machines.items()}
    listed = [(by_pk[node.pk], stand) for node, stand in rotation.standings(cluster, following)]
    assert listed == [
        ("away longer", Standing.AWAY),
        ("away with it", Standing.AWAY),
        ("old", Standing.TOO_OLD),
        ("waiting", Standing.WAITING),
        ("ready", Standing.READY),
    ]


def test_pending_and_removed_nodes_are_none_of_its_business(cluster):
    enrol(cluster, approval_required=True)
    gone = enrol(cluster)
    nodes.remove_node("tests", gone, gone.name, NOW)
    assert rotation.standings(cluster, begin(cluster)) == []


@pytest.mark.parametrize("automatic", [True, False])
def test_it_switches_by_itself_when_asked_to_and_nobody_is_cut_off(cluster, automatic):
    one, two = enrol(cluster), enrol(cluster)
    begin(cluster, automatic=automatic)
    connect(one)
    connect(two, connected=False)
    rotation.record_kept({one.pk: 2, two.pk: 2}, LATER)
    cluster.refresh_from_db()
    assert cluster.secret_generation == 1
    connect(two, kept=2)
    assert bool(rotation.switch_where_all_are_ready(LATER)) is automatic
    cluster.refresh_from_db()
    assert cluster.secret_generation == 1 + automatic
    if automatic:
        assert Audit.objects.get(verb="cluster.secret-switched").actor_name == "console"


def test_the_last_word_switches(cluster):
    one, two = enrol(cluster), enrol(cluster)
    begin(cluster, automatic=True)
    connect(one)
    connect(two)
    rotation.record_kept({one.pk: 2}, LATER)
    assert Rotation.objects.exists()
    rotation.record_kept({two.pk: 2}, LATER)
    assert not Rotation.objects.exists()


def test_a_switch_that_nobody_made_is_made_by_the_timetable(cluster):
    """Whoever was to make it, at the last word, was killed."""
    connect(enrol(cluster), kept=2)
    begin(cluster, automatic=True)
    tasks.check_lag()
    assert not Rotation.objects.exists()


def test_who_has_not_followed_the_switch_is_told(cluster):
    one, two = enrol(cluster), enrol(cluster)
    assert rotation.not_following(cluster) == (None, [])
    begin(cluster)
    rotation.switch("tests", cluster, 2, LATER)
    cluster.refresh_from_db()
    for node, number in ((one, cluster.revision), (two, cluster.revision - 1)):
        Node.objects.filter(pk=node.pk).update(applied_epoch=cluster.epoch, applied_number=number)
    assert rotation.not_following(cluster) == (LATER, [two])
    revisions.start_epoch("tests", LATER)
    cluster.refresh_from_db()
    assert rotation.not_following(cluster) == (LATER, [two]), "it has not been back since the restore"


# Removal.


def test_a_node_that_is_removed_during_the_hand_out_knows_neither_secret(cluster):
    """It may have been given the next one: what is handed out is made anew."""
    gone, other = enrol(cluster), enrol(cluster)
    known = begin(cluster).secret.reveal()
    connect(other, kept=2)
    nodes.remove_node("tests", gone, gone.name, LATER)
    following = Rotation.objects.get()
    assert (following.generation, following.started) == (3, NOW)
    assert following.secret.reveal() != known
    assert [stand for _, stand in rotation.standings(cluster, following)] == [Standing.WAITING]
    assert Audit.objects.get(verb="cluster.rotation-renewed").details["generation"] == 3
    with pytest.raises(Refused, match="Generation 3"):
        rotation.switch("tests", cluster, 2, LATER)


def test_a_pending_node_that_is_turned_away_knows_nothing(cluster):
    begin(cluster)
    pending = enrol(cluster, approval_required=True)
    nodes.remove_node("tests", pending, pending.name, LATER)
    assert Rotation.objects.get().generation == 2


# The command.


def rotate(*arguments, capsys):
    call_command("rotate_secret", *arguments)
    return json.loads(capsys.readouterr().out)


def test_the_command_does_all_of_it_and_may_be_repeated(cluster, capsys):
    away = enrol(cluster)
    connect(away, connected=False)
    idle = rotate("office", capsys=capsys)
    assert (idle["secret_generation"], idle["rotation"], idle["not_yet_switched"]) == (1, None, [])
    started = rotate("office", "start", capsys=capsys)
    assert started["rotation"]["generation"] == 2
    assert started["nodes"] == [{"name": away.name, "standing": "away", "keeps": False, "away_since": NOW.isoformat()}]
    assert rotate("office", "start", capsys=capsys) == started
    assert rotate("office", "status", capsys=capsys) == started
    switched = rotate("office", "switch", "--generation", "2", capsys=capsys)
    assert (switched["secret_generation"], switched["rotation"]) == (2, None)
    assert rotate("office", "switch", "--generation", "2", capsys=capsys) == switched
    rotate("office", "start", "--automatic", capsys=capsys)
    cancelled = rotate("office", "cancel", capsys=capsys)
    assert (cancelled["secret_generation"], cancelled["rotation"]) == (2, None)
    assert rotate("office", "cancel", capsys=capsys) == cancelled


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("nowhere",), "no cluster named 'nowhere'"),
        (("office", "switch"), "No rotation of the secret of office is under way"),
        (("office", "switch", "--generation", "7"), "No rotation"),
    ],
    ids=["cluster", "nothing to switch to", "another generation"],
)
def test_the_command_refuses_with_a_sentence(cluster, arguments, reason):
    with pytest.raises(CommandError, match=reason):
        call_command("rotate_secret", *arguments)


# The pages.


@pytest.fixture
def browser(client, db):
    client.force_login(User.objects.create_superuser("alice"))
    return client


def text(response):
    return " ".join(response.content.decode().split())


def test_the_page_leads_from_the_hand_out_to_the_switch(cluster, browser):
    ready, away = enrol(cluster), enrol(cluster)
    connect(ready)
    connect(away, connected=False)
    where = reverse("cluster-rotation", args=[cluster.uuid])
    assert "Hand out a new secret" in text(browser.get(where))
    started = browser.post(reverse("rotation-start", args=[cluster.uuid]), {"way": "manual"}, follow=True)
    assert started.redirect_chain[-1][0] == where
    rotation.record_kept({ready.pk: 2}, NOW)
    shown = text(browser.get(where))
    assert "Generation 2 is being handed out" in shown
    assert "<strong>1 machine is away.</strong>" in shown
    assert "Is cut off from the switch until it reconnects, and gets it then at once" in shown
    assert ready.name not in shown
    assert "by alice" in shown
    for page in ("cluster", "cluster-options", "cluster-links"):
        assert "See who has it" in text(browser.get(reverse(page, args=[cluster.uuid])))
    switched = browser.post(reverse("rotation-switch", args=[cluster.uuid]), {"generation": 2}, follow=True)
    assert "Switched to generation 2" in text(switched)
    assert "See who has it" not in text(browser.get(cluster.get_absolute_url()))
    assert Audit.objects.get(verb="cluster.secret-switched").actor.username == "alice"


def test_a_page_that_is_too_old_switches_and_cancels_nothing(cluster, browser):
    begin(cluster)
    for deed in ("rotation-switch", "rotation-cancel"):
        answer = browser.post(reverse(deed, args=[cluster.uuid]), {"generation": 9}, follow=True)
        assert "not 9; look again" in text(answer)
        assert browser.post(reverse(deed, args=[cluster.uuid]), {"generation": "x"}).status_code == 400
    assert Rotation.objects.get().generation == 2
    browser.post(reverse("rotation-cancel", args=[cluster.uuid]), {"generation": 2})
    assert not Rotation.objects.exists()


def test_no_page_shows_either_secret(cluster, browser):
    gone = enrol(cluster)
    nodes.remove_node("tests", gone, gone.name, NOW)
    plain = [begin(cluster).secret.reveal(), cluster.secret.reveal()]
    pages = [reverse("cluster-rotation", args=[cluster.uuid]), cluster.get_absolute_url(), gone.get_absolute_url()]
    for page in (*pages, reverse("activity")):
        assert not any(secret in text(browser.get(page)) for secret in plain)


def test_activity_has_a_sentence_for_each_phase(cluster, browser):
    begin(cluster, actor=User.objects.get())
    gone = enrol(cluster)
    nodes.remove_node("tests", gone, gone.name, NOW)
    rotation.cancel("tests", cluster, 3, NOW)
    begin(cluster)
    rotation.switch("tests", cluster, 4, NOW)
    shown = text(browser.get(reverse("cluster-activity", args=[cluster.uuid]), {"kind": "audit"}))
    for deed in ("handed out a new secret of", "made anew the secret", "cancelled the rotation", "switched the secret"):
        assert deed in shown


def test_strangers_do_none_of_it(cluster):
    client = Client()
    for page in ("rotation-start", "rotation-switch", "rotation-cancel"):
        assert client.post(reverse(page, args=[cluster.uuid]), {"generation": 2}).status_code == 302
    assert client.get(reverse("cluster-rotation", args=[cluster.uuid])).status_code == 302
    assert not Rotation.objects.exists()


def test_a_removal_offers_a_rotation_and_begins_it_where_it_is_wanted(cluster, browser):
    one, two, other = enrol(cluster), enrol(cluster), enrol(cluster)
    connect(other)
    assert "Only a new secret shuts it out for good" in text(browser.get(one.get_absolute_url()))
    browser.post(reverse("node-remove", args=[one.pk]), {"typed_name": one.name})
    assert not Rotation.objects.exists()
    for listed in (True, False):  # not yet cut off, and cut off by everybody
        shown = text(browser.get(one.get_absolute_url()))
        assert (f'href="{reverse("cluster-rotation", args=[cluster.uuid])}"' in shown) is True
        assert (f"{other.name}</a>" in shown) is listed
        cluster.refresh_from_db()
        Node.objects.filter(pk__in=[two.pk, other.pk]).update(
            applied_epoch=cluster.epoch, applied_number=cluster.revision
        )
    answer = browser.post(reverse("node-remove", args=[two.pk]), {"typed_name": two.name, "rotate": "yes"})
    assert answer.url == reverse("cluster-rotation", args=[cluster.uuid])
    assert Rotation.objects.get().started_by == "alice"
    rotation.switch("tests", cluster, 2, LATER)
    assert "the secret that it knows is no longer the cluster" in text(browser.get(two.get_absolute_url())) or (
        "The cluster secret was changed since its removal" in text(browser.get(two.get_absolute_url()))
    )


@pytest.mark.parametrize("automatic", [True, False])
def test_talos_machines_are_not_waited_for_in_silence(browser, cluster, automatic):
    """They are neither away nor given the secret: the page says what a switch does to them."""
    linux, talos = enrol(cluster), enrol(cluster)
    connect(linux, kept=2)
    Node.objects.filter(pk=talos.pk).update(kind=Node.Kind.TALOS, last_seen=None)
    begin(cluster, automatic=automatic)
    assert rotation.switch_where_all_are_ready(LATER) == []
    shown = text(browser.get(reverse("cluster-rotation", args=[cluster.uuid])))
    assert "1 Talos machine takes no part." in shown
    assert "is away." not in shown
    assert ("It does not switch by itself while Talos machines are members." in shown) is automatic


# Over real connections.

live = pytest.mark.django_db(transaction=True)


def start_now(cluster, **wish):
    return rotation.start("tests", cluster, automatic=wish.get("automatic", False), now=timezone.now())


def opened(player, message):
    return sealing.open_sealed(
        message.sealed,
        player.machine.keys.private_key,
        cluster=player.machine.cluster,
        node_id=player.machine.node_id,
        generation=message.generation,
    )


@live
async def test_handed_out_to_whoever_is_connected_kept_and_switched(console):
    cluster, machines, _ = await in_thread(play_cluster)
    players = [await console.connect(machine, version=2) for machine in machines]
    before = players[0].secret
    following = await in_thread(start_now, cluster)
    for player in players:
        handed_out = await player.receive(ClusterSecret)
        assert handed_out.generation == 2
        assert opened(player, handed_out) == following.secret.reveal() != before
        await player.say(SecretKept(generation=2))
    await until(lambda: Node.objects.filter(cluster=cluster, secret_kept=2).count() == 2)
    assert (await in_thread(rotation.standings, cluster, following))[0][1] is Standing.READY
    await in_thread(rotation.switch, "tests", cluster, 2, timezone.now())
    await push(cluster)
    for player in players:
        assert (await player.receive(Delta)).secret_generation == 2


@live
async def test_it_switches_by_itself_at_the_last_word(console):
    cluster, machines, _ = await in_thread(play_cluster)
    players = [await console.connect(machine, version=2) for machine in machines]
    await in_thread(lambda: start_now(cluster, automatic=True))
    for player in players:
        await player.receive(ClusterSecret)
        await player.say(SecretKept(generation=2))
    await until(lambda: Cluster.objects.get(pk=cluster.pk).secret_generation == 2)


@live
async def test_whoever_connects_during_the_hand_out_gets_both(console):
    cluster, (machine, other), _ = await in_thread(play_cluster)
    following = await in_thread(start_now, cluster)
    fresh = await console.greet(machine, version=2)
    await fresh.receive(Welcome)
    both = [await fresh.receive(ClusterSecret), await fresh.receive(ClusterSecret)]
    assert [message.generation for message in both] == [1, 2]
    assert opened(fresh, both[1]) == following.secret.reveal()
    known = await console.greet(other, version=2, secret_generation=1)
    await known.receive(Welcome)
    assert (await known.receive(ClusterSecret)).generation == 2
    await known.receive(Snapshot)


@live
async def test_a_version_1_agent_gets_the_new_one_with_the_switch_and_not_before(console):
    cluster, (machine, _), _ = await in_thread(play_cluster)
    player = await console.connect(machine, version=1)
    following = await in_thread(start_now, cluster)
    ((_, stand), *_) = [row for row in await in_thread(rotation.standings, cluster, following) if row[0].session]
    assert stand is Standing.TOO_OLD
    await in_thread(rotation.switch, "tests", cluster, 2, timezone.now())
    assert (await player.receive(ClusterSecret)).generation == 2
    assert player.secret == following.secret.reveal()


@live
async def test_who_was_away_gets_the_new_one_at_once(console):
    cluster, (machine, _), _ = await in_thread(play_cluster)
    player = await console.connect(machine, version=2)
    await player.socket.close()
    await in_thread(start_now, cluster)
    await in_thread(rotation.switch, "tests", cluster, 2, timezone.now())
    again = await console.greet(machine, version=2, secret_generation=1, held=player.held.revision)
    again.held = player.held
    await again.receive(Welcome)
    assert (await again.receive(ClusterSecret)).generation == 2
    assert (await again.receive(Delta)).secret_generation == 2


@live
async def test_after_a_cancellation_the_present_one_comes_again(console):
    """That tells an agent to forget the other one; one that was away hears it when it connects."""
    cluster, (machine, other), _ = await in_thread(play_cluster)
    player = await console.connect(machine, version=2)
    await in_thread(start_now, cluster)
    assert (await player.receive(ClusterSecret)).generation == 2
    await in_thread(rotation.cancel, "tests", cluster, 2, timezone.now())
    assert (await player.receive(ClusterSecret)).generation == 1
    late = await console.greet(other, version=2, secret_generation=2)
    await late.receive(Welcome)
    assert (await late.receive(ClusterSecret)).generation == 1


@live
async def test_a_generation_of_another_epoch_is_another_secret(console):
    """After a backup was restored, what was given after it was made is not what is given now."""
    cluster, (machine, _), _ = await in_thread(play_cluster)
    await in_thread(start_now, cluster)
    await in_thread(rotation.switch, "tests", cluster, 2, timezone.now())
    player = await console.greet(machine, version=2, secret_generation=2, held=Revision(cluster.epoch + 7, 3))
    await player.receive(Welcome)
    assert (await player.receive(ClusterSecret)).generation == 2


@live
async def test_a_removed_node_is_not_given_what_comes_after(console):
    cluster, (machine, other), _ = await in_thread(play_cluster)
    gone, stays = await console.connect(machine, version=2), await console.connect(other, version=2)
    await in_thread(start_now, cluster)
    known = {opened(gone, await gone.receive(ClusterSecret)), gone.secret}
    await stays.receive(ClusterSecret)
    await in_thread(lambda: nodes.remove_node("tests", machine.node, machine.name, timezone.now()))
    await gone.receive(Removed)
    # The present one again, so that what was handed out is forgotten; then what is handed out now.
    assert (await stays.receive(ClusterSecret)).generation == 1
    renewed = await stays.receive(ClusterSecret)
    assert renewed.generation == 3
    assert opened(stays, renewed) not in known
    assert await gone.closed() == fanout.CLOSE_REMOVED


@live
async def test_a_lost_word_is_made_good_when_the_sockets_are_compared(console, monkeypatch):
    cluster, (machine, _), _ = await in_thread(play_cluster)
    player = await console.connect(machine, version=2)
    with monkeypatch.context() as patch:
        patch.setattr(fanout, "publish_hand_out", lambda _: None)
        await in_thread(start_now, cluster)
    await agents.running_end().hub.check(cluster.pk)
    assert (await player.receive(ClusterSecret)).generation == 2


@live
async def test_no_secret_passes_redis(console, valkey):
    cluster, (machine, _), _ = await in_thread(play_cluster)
    player = await console.connect(machine, version=2)
    with redis.Redis.from_url(valkey.url) as client, client.pubsub() as subscription:
        subscription.psubscribe("*")
        assert heard_by(subscription) == []
        following = await in_thread(start_now, cluster)
        await player.receive(ClusterSecret)
        revision = await in_thread(rotation.switch, "tests", cluster, 2, timezone.now())
        await push(cluster)
        await player.reach(revision)
        said = [str(data) for data in heard_by(subscription)]
    assert any("hand-out" in text for text in said)
    assert not any(following.secret.reveal() in text or '"sealed"' in text for text in said)


@live
async def test_an_agent_that_has_applied_the_switch_is_not_listed(console):
    cluster, (machine, _), _ = await in_thread(play_cluster)
    player = await console.connect(machine, version=2)
    await player.apply()
    await in_thread(start_now, cluster)
    await player.receive(ClusterSecret)
    revision = await in_thread(rotation.switch, "tests", cluster, 2, timezone.now())
    await push(cluster)
    await player.reach(revision)
    await until(lambda: [node.pk for node in rotation.not_following(cluster)[1]] == [machine.node.pk])
    await player.say(Applied(revision=revision))
    await until(lambda: rotation.not_following(cluster)[1] == [])
