"""Webhooks: rows become events, events become deliveries, and deliveries reach a real HTTP server, or say why not."""

import hashlib
import hmac
import socket
import time
from datetime import timedelta
from ipaddress import ip_address, ip_network

import pytest
from cryptography.fernet import Fernet
from django.contrib.auth.models import User
from django.urls import reverse

from nodes import tasks
from nodes.models import Audit, Delivery, Node, Transition, Webhook
from nodes.notify import KINDS, carry, slack
from nodes.services import alerts, clusters, nodes, rotation, transitions, webhooks
from nodes.services.refused import Refused
from tests.big import Live, make_mesh
from tests.factories import NOW, Machine, enrol, make_cluster, make_user
from tests.receiver import Receiver

pytestmark = pytest.mark.django_db

LATER = NOW + timedelta(seconds=6)


@pytest.fixture
def receiver(settings, monkeypatch):
    settings.WEBHOOK_NETWORKS = ["127.0.0.0/8"]
    monkeypatch.setattr(carry, "SECONDS", 60.0)
    monkeypatch.setattr(carry, "WHOLE_SECONDS", 60.0)
    with Receiver().serving() as receiver:
        yield receiver


def make_webhook(url="https://hooks.example/T0/B0/key", *, kinds=tuple(KINDS), down=60, now=NOW, **changes):
    asked = {"name": "on call", "format": "json", "clusters": ()} | changes
    wanted = webhooks.Wanted(url=url, kinds=kinds, down=timedelta(seconds=down), **asked)
    webhook, secret = webhooks.create_webhook("tests", wanted, now)
    alerts.gather(now)  # the first look only notes how far there is to read
    return webhook, secret


def gathered(now=LATER):
    """What is told of all that happened up to `now`, once it has settled."""
    before = set(Delivery.objects.values_list("pk", flat=True))
    alerts.gather(now)
    alerts.gather(now + alerts.SETTLE)
    return list(Delivery.objects.exclude(pk__in=before).order_by("pk"))


def texts(found):
    return [(one.kind, one.text) for one in found]


def move(node, peer, before, after, at=NOW):
    row = Transition(node=node, peer=peer, kind="link", before=before, after=after, at=at)
    transitions.record_transitions(node.cluster_id, [row], at)


@pytest.fixture
def cluster():
    return make_cluster("homelab")


@pytest.fixture
def pair(cluster):
    return enrol(cluster, Machine("edge-1")), enrol(cluster, Machine("edge-2"))


def test_a_machine_that_waits_is_told(cluster):
    make_webhook()
    enrol(cluster, Machine("lets-itself-in"))
    enrol(cluster, Machine("waits"), approval_required=True)
    assert texts(gathered()) == [("node.pending", "waits waits for approval in cluster homelab.")]


def test_presence_and_faults_are_told(pair):
    make_webhook()
    node = pair[0]
    rows = [
        Transition(node=node, kind="node", before="", after="connected", at=NOW),
        Transition(node=node, kind="node", before="connected", after="away", at=NOW),
        Transition(node=node, kind="node", before="away", after="connected", at=NOW),
        Transition(node=node, kind="fault", text="the port is taken", at=NOW),
        Transition(node=node, kind="drift", text="healed", at=NOW),
    ]
    transitions.record_transitions(node.cluster_id, rows, NOW)
    assert texts(gathered()) == [
        ("node.away", "edge-1 of cluster homelab is away."),
        ("node.back", "edge-1 of cluster homelab is connected again."),
        ("configuration.fault", "edge-1 cannot apply its configuration: the port is taken"),
    ]


def test_rotation_and_what_becomes_of_clusters_are_told(cluster):
    make_webhook()
    rotation.start("alice", cluster, automatic=False, now=NOW)
    clusters.delete_cluster("alice", make_cluster("gone"), "gone", NOW)
    assert texts(gathered()) == [
        ("rotation", "A new secret of cluster homelab is being handed out, by alice."),
        ("cluster", "Cluster gone was made, by tests."),
        ("cluster", "Cluster gone was deleted, by alice."),
    ]


def test_only_what_was_asked_for_is_told(cluster):
    make_webhook(kinds=["rotation"])
    enrol(cluster, Machine("waits"), approval_required=True)
    assert gathered() == []


def test_only_its_own_clusters_are_told_also_when_the_last_of_them_is_gone(cluster):
    ours = make_cluster("ours")
    make_webhook(clusters=[ours])
    enrol(cluster, Machine("elsewhere"), approval_required=True)
    enrol(ours, Machine("here"), approval_required=True)
    assert texts(gathered()) == [("node.pending", "here waits for approval in cluster ours.")]
    clusters.delete_cluster("alice", ours, "ours", NOW)
    enrol(cluster, Machine("elsewhere-too"), approval_required=True)
    assert gathered(LATER + timedelta(minutes=1)) == []


def test_a_link_is_told_only_once_it_is_down_for_long_enough_and_up_only_if_that_was_told(pair):
    make_webhook(down=60)
    here, there = pair
    move(here, there, "up", "down")
    move(there, here, "up", "down")
    assert gathered() == []
    move(there, here, "down", "unknown", LATER)
    move(there, here, "unknown", "up", LATER)  # in time
    assert gathered(NOW + timedelta(seconds=40)) == []
    (down,) = gathered(NOW + timedelta(seconds=70))
    assert (down.kind, down.text) == (
        "link.down", "edge-1 cannot reach edge-2 in cluster homelab for more than 1 m."
    )  # fmt: skip
    assert down.event["url"].endswith(reverse("pair", args=[here.pk, there.pk]))
    move(here, there, "down", "up", NOW + timedelta(seconds=80))
    (up,) = gathered(NOW + timedelta(seconds=90))
    assert (up.kind, up.text) == ("link.up", "edge-1 reaches edge-2 again in cluster homelab.")


def report_all(mesh, down=()):
    """Have all members say that they see each other, but for those links that are down."""
    live = Live(mesh, now := time.time())
    live._odd.clear()
    for here, there in down:
        live.set_state(here, there, "down")
    for node in live.reporting:
        live.report(node, now)
    live.write()


def test_a_link_that_is_seen_up_again_is_told_though_no_row_says_so(valkey):
    mesh = make_mesh(3, talos=0, now=NOW)
    here, there, third = mesh.members
    Node.objects.update(session="5e55", away=False)
    webhook, _ = make_webhook(down=60)
    move(here, there, "up", "down")
    move(here, third, "up", "down")
    report_all(mesh, down=[(here, there), (here, third)])
    assert [one.kind for one in gathered(NOW + timedelta(seconds=70))] == ["link.down"]
    report_all(mesh, down=[(here, third)])
    assert texts(gathered(NOW + timedelta(seconds=80))) == [
        ("link.up", f"{here.name} reaches {there.name} again in cluster big.")
    ]
    assert [(one.node, one.peer) for one in webhook.outages.all()] == [(here, third)]


def test_a_link_that_is_seen_up_before_it_was_told_is_nothing_to_tell(valkey):
    mesh = make_mesh(2, talos=0, now=NOW)
    webhook, _ = make_webhook(down=60)
    move(*mesh.members, "up", "down")
    report_all(mesh)
    assert gathered(NOW + timedelta(seconds=70)) == []
    assert not webhook.outages.exists()


def test_many_links_of_a_cluster_are_one_message(cluster):
    make_webhook(down=0)
    members = [enrol(cluster) for _ in range(6)]
    for here in members:
        for there in members:
            if here != there:
                move(here, there, "up", "down")
    (down,) = gathered()
    assert down.text.startswith("30 links are down in cluster homelab")
    assert (len(down.event["links"]), down.event["more"]) == (20, 10)


def test_looking_costs_no_query_a_row(cluster, django_assert_num_queries, django_assert_max_num_queries):
    make_webhook(down=0)
    here, there, third = (enrol(cluster) for _ in range(3))
    move(here, there, "up", "down")
    alerts.gather(LATER)
    with django_assert_max_num_queries(30) as few:
        alerts.gather(LATER + alerts.SETTLE)
    for one, other in ((there, here), (here, third), (third, here)):
        move(one, other, "up", "down")
    alerts.gather(LATER + 2 * alerts.SETTLE)
    with django_assert_num_queries(len(few)):
        alerts.gather(LATER + 3 * alerts.SETTLE)


def test_a_row_that_another_transaction_commits_later_is_told_too(cluster):
    webhook, _ = make_webhook()
    enrol(cluster, Machine("first"), approval_required=True)
    late = Audit.objects.get(verb="node.enrolled")
    key, late.pk = late.pk, late.pk + 1
    late.save(force_insert=True)  # a later key is committed first …
    Audit.objects.filter(pk=key).update(verb="not.yet")
    alerts.gather(LATER)
    Audit.objects.filter(pk=key).update(verb="node.enrolled")  # … and the earlier one within SETTLE
    alerts.gather(LATER + alerts.SETTLE)
    assert webhook.deliveries.count() == 2


def test_it_arrives_signed(receiver, cluster):
    webhook, secret = make_webhook(receiver.url)
    enrol(cluster, Machine("waits"), approval_required=True)
    gathered()
    assert alerts.deliver(webhook.pk, NOW) == 1
    ((path, headers, body),) = receiver.got
    signature = hmac.new(secret.encode(), headers["X-KubeSpan-Timestamp"].encode() + b"." + body, hashlib.sha256)
    assert path == "/hook?key=k3y"
    assert headers["X-KubeSpan-Signature"] == f"sha256={signature.hexdigest()}"
    assert headers["X-KubeSpan-Event"] == "node.pending"
    (told,) = receiver.bodies()
    assert told["id"] == headers["X-KubeSpan-Delivery"]
    assert told["cluster"]["name"] == "homelab"
    assert told["nodes"][0]["name"] == "waits"
    (delivery,) = webhook.deliveries.all()
    assert (delivery.state, delivery.attempts, delivery.result) == ("delivered", 1, "Answered 204")
    assert alerts.deliver(webhook.pk, NOW) == 0
    assert len(receiver.got) == 1


def test_slack_gets_a_message_in_which_nothing_that_a_machine_says_is_a_link_or_a_call(receiver, pair):
    webhook, _ = make_webhook(receiver.url, format="slack")
    fault = Transition(node=pair[0], kind="fault", text="<!channel> & <http://evil|here>", at=NOW)
    transitions.record_transitions(fault.node.cluster_id, [fault], NOW)
    gathered()
    alerts.deliver(webhook.pk, NOW)
    (told,) = receiver.bodies()
    assert told["text"].splitlines()[0] == (
        ":warning: edge-1 cannot apply its configuration: &lt;!channel&gt; &amp; &lt;http://evil|here&gt;"
    )
    assert "X-KubeSpan-Signature" not in receiver.got[0][1]


def test_slack_names_the_links():
    link = {"node": "a", "peer": "b"}
    text = slack.encode({"kind": "link.down", "text": "2 links are down", "links": [link], "more": 1, "url": "u"}, "")
    assert '"text": ":red_circle: 2 links are down\\n• a → b\\n• and 1 more\\n<u|Open in the console>"' in text.decode()


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        pytest.param((500, {}, b"no\n disk"), "Answered 500 Internal Server Error: no disk", id="their fault"),
        pytest.param((500, {}, b"\0"), "Answered 500 Internal Server Error: \ufffd", id="what PostgreSQL cannot keep"),
        pytest.param((404, {}, b""), "Answered 404 Not Found", id="not there"),
        pytest.param((302, {"Location": "http://127.0.0.1/"}, b""), "Answered 302 Found: redirects are not", id="away"),
    ],
)
def test_what_fails_waits_and_says_why(answer, result, receiver, cluster):
    webhook, _ = make_webhook(receiver.url)
    enrol(cluster, Machine("waits"), approval_required=True)
    gathered()
    receiver.answers.append(answer)
    with pytest.raises(carry.Undelivered):
        alerts.deliver(webhook.pk, NOW)
    assert len(receiver.got) == 1, "a redirect is not followed"
    delivery = webhook.deliveries.get()
    assert (delivery.state, delivery.attempts) == ("waiting", 1)
    assert delivery.result.startswith(result)
    webhook.refresh_from_db()
    assert (webhook.failures, webhook.next_at) == (1, NOW + alerts.FIRST_PAUSE)
    assert alerts.deliver(webhook.pk, NOW) == 1
    webhook.refresh_from_db()
    assert (webhook.failures, webhook.next_at) == (0, None)


def test_celery_tries_again_by_itself(receiver, cluster):
    webhook, _ = make_webhook(receiver.url)
    webhooks.send_test("alice", webhook.pk, NOW)
    receiver.answers += [(503, {}, b"")] * 2
    tasks.deliver_alerts.apply(args=[webhook.pk])
    assert len(receiver.got) == 3
    assert webhook.deliveries.get().state == "delivered"
    assert {body["id"] for body in receiver.bodies()} == {str(webhook.deliveries.get().uuid)}


def test_what_waits_is_asked_for_again_once_the_pause_is_over(valkey, receiver, cluster, monkeypatch):
    asked = []
    monkeypatch.setattr(alerts, "_ask", asked.append)
    webhook, _ = make_webhook(receiver.url)
    webhooks.send_test("alice", webhook.pk, NOW)
    receiver.answers.append((503, {}, b""))
    with pytest.raises(carry.Undelivered):
        alerts.deliver(webhook.pk, NOW)
    alerts.gather(NOW + alerts.FIRST_PAUSE - timedelta(seconds=1))
    assert asked == []
    alerts.gather(NOW + alerts.FIRST_PAUSE)
    assert asked == [webhook.pk]


def test_a_task_ends_before_its_lock_does(receiver, monkeypatch):
    webhook, _ = make_webhook(receiver.url)
    webhooks.send_test("alice", webhook.pk, NOW)
    monkeypatch.setattr(alerts, "BUSY_SECONDS", -1)
    assert alerts.deliver(webhook.pk, NOW) == 0
    assert webhook.deliveries.get().state == "waiting"


def test_a_webhook_whose_key_is_missing_fails_and_says_so(receiver, settings):
    webhook, _ = make_webhook(receiver.url)
    webhooks.send_test("alice", webhook.pk, NOW)
    settings.KUBESPAN_KEYS = {"new": Fernet.generate_key().decode()}
    with pytest.raises(carry.Undelivered, match="needs key"):
        alerts.deliver(webhook.pk, NOW)
    webhook.refresh_from_db()
    assert webhook.failures == 1
    assert "KUBESPAN_KEYS does not hold" in webhook.deliveries.get().result


def test_two_workers_do_not_tell_the_same(valkey, receiver, cluster):
    webhook, _ = make_webhook(receiver.url)
    webhooks.send_test("alice", webhook.pk, NOW)
    assert tasks.cache.add(f"webhook-{webhook.pk}", 1, 60)
    tasks.deliver_alerts(webhook.pk)
    assert receiver.got == []
    tasks.cache.delete(f"webhook-{webhook.pk}")
    tasks.deliver_alerts(webhook.pk)
    assert len(receiver.got) == 1


def test_pauses_grow_to_two_hours():
    assert [alerts.pause(failures) for failures in (1, 6, 7, 13, 31, 50)] == [
        timedelta(minutes=5), timedelta(minutes=5), timedelta(minutes=10), timedelta(minutes=20), timedelta(hours=2),
        timedelta(hours=2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "failures", "reason"),
    [
        pytest.param(410, 0, "nobody wants it any more; the last: Answered 410 Gone", id="gone"),
        pytest.param(500, 49, "50 attempts in a row failed; the last: Answered 500", id="too often"),
    ],
)
def test_it_is_disabled_by_itself(status, failures, reason, receiver):
    webhook, _ = make_webhook(receiver.url)
    Webhook.objects.update(failures=failures)
    for _ in range(2):
        webhooks.send_test("alice", webhook.pk, NOW)
    receiver.answers.append((status, {}, b""))
    with pytest.raises(carry.Undelivered):
        alerts.deliver(webhook.pk, NOW)
    webhook.refresh_from_db()
    assert webhook.disabled_reason.startswith(reason)
    assert set(webhook.deliveries.values_list("state", flat=True)) == {"failed"}
    assert Audit.objects.filter(verb="webhook.gave-up").count() == 1
    with pytest.raises(Refused, match="enable it"):
        webhooks.send_test("alice", webhook.pk, NOW)


def test_what_happened_while_it_was_disabled_is_not_told(cluster):
    webhook, _ = make_webhook()
    webhooks.disable_webhook("alice", webhook.pk, NOW)
    enrol(cluster, Machine("waits"), approval_required=True)
    assert gathered() == []
    webhooks.enable_webhook("alice", webhook.pk, LATER)
    assert gathered(LATER + timedelta(minutes=1)) == []
    enrol(cluster, Machine("waits-too"), approval_required=True)
    assert [one.kind for one in gathered(LATER + timedelta(minutes=2))] == ["node.pending"]


PUBLIC = ["1.1.1.1", "2606:4700::1111"]
LOCAL = [
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
    "255.255.255.255", "240.0.0.1", "::1", "::", "fe80::1", "fd00:ec2::254", "fc00::1", "ff02::1", "::ffff:127.0.0.1",
    "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::1", "::127.0.0.1", "fec0::1", "feff::1",
]  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_may_be_told(address):
    assert carry.allowed(ip_address(address), [])


@pytest.mark.parametrize("address", LOCAL)
def test_no_other_may(address):
    assert not carry.allowed(ip_address(address), [])


def test_a_network_may_be_allowed_and_its_neighbours_stay_refused():
    networks = [ip_network("10.1.0.0/16")]
    assert [carry.allowed(ip_address(one), networks) for one in ("10.1.2.3", "::ffff:10.1.2.3", "10.2.0.1")] == [
        True, True, False
    ]  # fmt: skip


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433"], ids=["address", "name", "number"])
def test_this_machine_is_not_told_of_itself(host, receiver, settings):
    settings.WEBHOOK_NETWORKS = []
    webhook, _ = make_webhook(f"http://{host}:{receiver.port}/")
    webhooks.send_test("alice", webhook.pk, NOW)
    with pytest.raises(carry.Undelivered, match="not a public address"):
        alerts.deliver(webhook.pk, NOW)
    assert receiver.got == []


def test_the_address_that_was_judged_is_the_one_that_is_connected_to(receiver, monkeypatch):
    answers = iter([[(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", receiver.port))]])
    monkeypatch.setattr(carry.socket, "getaddrinfo", lambda *_, **__: next(answers))  # a second look-up would fail
    carry.post("http://rebinding.example/", b"{}", {}, [ip_network("127.0.0.0/8")])
    assert receiver.got[0][1]["Host"] == "rebinding.example"


def test_nobody_there(settings):
    settings.WEBHOOK_NETWORKS = ["127.0.0.0/8"]
    with socket.socket() as taken:  # by us, who do not listen
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(carry.Undelivered, match="cannot be reached"):
            carry.post(f"http://127.0.0.1:{taken.getsockname()[1]}/", b"{}", {}, [ip_network("127.0.0.0/8")])


@pytest.mark.parametrize(
    ("host", "fault"),
    [
        pytest.param("a" * 64, "cannot be looked up", id="longer than names are"),
        pytest.param("a..b", "cannot be looked up", id="an empty part"),
        pytest.param("\N{LATIN SMALL LETTER A WITH DIAERESIS}" * 64, "is no host", id="none in any alphabet"),
    ],
)
def test_a_name_that_no_host_can_have(host, fault):
    with pytest.raises(carry.Undelivered, match=fault):
        carry.post(f"http://{host}/", b"{}", {}, [])


def test_an_answer_that_never_ends_is_cut_off(monkeypatch):
    monkeypatch.setattr(carry, "WHOLE_SECONDS", 0.2)
    monkeypatch.setattr(carry, "SECONDS", 60.0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(carry.Undelivered, match="lost"):  # long before a read is given up
            carry.post(f"http://127.0.0.1:{port}/", b"{}", {}, [ip_network("127.0.0.0/8")])


@pytest.mark.parametrize(
    "url",
    ["ftp://h/", "//h/", "https://", "https://a:b@h/", "https://h:99999/", "https://h/ x", "file:///etc/passwd"],
)
def test_what_is_no_address_of_a_webhook(url):
    with pytest.raises(Refused) as refused:
        make_webhook(url)
    assert refused.value.code == "url"


def test_a_removed_node_leaves_nothing_to_follow(pair):
    webhook, _ = make_webhook(down=60)
    here, there = pair
    move(here, there, "up", "down")
    gathered()
    nodes.remove_node("alice", there, there.name, LATER)
    assert Node.objects.present().count() == 1
    assert gathered(NOW + timedelta(minutes=5)) == []
    assert not webhook.outages.filter(told=False).exists()


def test_secrets_are_not_in_rows_nor_on_pages(client, receiver):
    client.force_login(User.objects.create_superuser("alice"))
    webhook, secret = make_webhook(receiver.url)
    webhooks.send_test("alice", webhook.pk, NOW)
    alerts.deliver(webhook.pk, NOW)
    pages = [reverse("settings-alerts"), webhook.get_absolute_url()]
    pages += [reverse("admin:nodes_webhook_change", args=[webhook.pk]), reverse("activity") + "?tab=audit"]
    for page in pages:
        text = client.get(page).content.decode()
        assert "on call" in text
        assert secret not in text
        assert "k3y" not in text
    row = Webhook.objects.values("url", "secret").get()
    assert row["url"].dump() != receiver.url
    assert str(row["secret"]) == "Secret(…)"


FORM = {
    "name": "chat", "url": "https://hooks.example/T/B/k", "format": "slack", "kinds": ["node.away"],
    "down_seconds": "300",
}  # fmt: skip


def test_a_webhook_is_made_changed_and_deleted_by_its_pages(client, cluster):
    client.force_login(User.objects.create_superuser("alice"))
    made = client.post(reverse("settings-webhook-create"), FORM | {"clusters": [str(cluster.uuid)]})
    webhook = Webhook.objects.get()
    assert webhook.secret.reveal() in made.content.decode()
    assert (webhook.kinds, webhook.down_seconds, [*webhook.clusters.all()]) == (["node.away"], 300, [cluster])
    page = webhook.get_absolute_url()
    assert webhook.secret.reveal() not in client.get(page).content.decode()
    client.post(page, FORM | {"url": "", "name": "talk", "kinds": ["link.down"]})
    webhook.refresh_from_db()
    assert (webhook.name, webhook.url.reveal(), webhook.everywhere) == ("talk", FORM["url"], True)
    client.post(reverse("settings-webhook-test", args=[webhook.uuid]))
    assert "This is a test of the webhook talk" in client.get(page).content.decode()
    old = webhook.secret.reveal()
    renewed = client.post(reverse("settings-webhook-renew", args=[webhook.uuid])).content.decode()
    webhook.refresh_from_db()
    assert webhook.secret.reveal() in renewed
    assert webhook.secret.reveal() != old
    for deed, state in (("disable", True), ("enable", False)):
        client.post(reverse(f"settings-webhook-{deed}", args=[webhook.uuid]))
        webhook.refresh_from_db()
        assert (webhook.disabled_at is not None) is state
    client.post(reverse("settings-webhook-delete", args=[webhook.uuid]), {"typed_name": "chat"})
    assert Webhook.objects.exists()
    client.post(reverse("settings-webhook-delete", args=[webhook.uuid]), {"typed_name": "talk"})
    assert not Webhook.objects.exists()
    verbs = [*Audit.objects.filter(verb__startswith="webhook.").order_by("pk").values_list("verb", flat=True)]
    assert verbs == [
        f"webhook.{past}"
        for past in ("created", "changed", "tested", "secret-renewed", "disabled", "enabled", "deleted")
    ]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        pytest.param({"kinds": []}, "Choose at least one kind", id="tells nothing"),
        pytest.param({"url": ""}, "Give the address", id="leads nowhere"),
        pytest.param({"url": "ftp://example"}, "begins with https://", id="no web address"),
        pytest.param({"name": "on call"}, "already", id="taken"),
    ],
)
def test_what_is_wrong_is_said_on_the_page(changes, fault, client):
    client.force_login(User.objects.create_superuser("alice"))
    make_webhook()
    answer = client.post(reverse("settings-webhook-create"), FORM | changes)
    assert answer.status_code >= 400
    assert fault in answer.content.decode()
    assert Webhook.objects.count() == 1


def test_only_administrators_see_webhooks(client):
    client.force_login(make_user("bob", "operator"))
    webhook, _ = make_webhook()
    for page in (reverse("settings-alerts"), reverse("settings-webhook-create"), webhook.get_absolute_url()):
        assert client.get(page).status_code == 403
    assert client.post(reverse("settings-webhook-test", args=[webhook.uuid])).status_code == 403
    assert not webhook.deliveries.exists()


def test_old_deliveries_are_forgotten_unless_they_wait():
    webhook, _ = make_webhook()
    for state in Delivery.State.values:
        Delivery.objects.create(webhook=webhook, kind="test", event={}, text="", state=state, created=NOW)
    alerts.prune(NOW + alerts.KEPT_FOR)
    assert webhook.deliveries.count() == 3
    alerts.prune(NOW + alerts.KEPT_FOR + timedelta(seconds=1))
    assert [one.state for one in webhook.deliveries.all()] == ["waiting"]
