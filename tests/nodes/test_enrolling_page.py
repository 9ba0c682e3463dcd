"""The enrolment dialog: a tab for each kind of machine, the line for a container, and who is offered it."""

from __future__ import annotations

import html
import re
import shlex
import subprocess

import pytest
from django.urls import reverse
from django.utils import timezone

from nodes.services.enrolment import enrol as accept
from tests.factories import PEER, Machine, enrol, make_cluster, make_user
from tests.handout import hand_out

pytestmark = pytest.mark.django_db


@pytest.fixture
def cluster():
    return make_cluster("homelab", now=timezone.now())


@pytest.fixture
def page(client):
    client.force_login(make_user("alice", "administrator"))
    return client


def read(response):
    return re.sub(r"\s+", " ", response.content.decode())


def ask(page, cluster, **changes):
    form = {"cluster": cluster.uuid, "uses": 1, "lifetime": "3600", "name": ""} | changes
    return page.post(reverse("cluster-enrolment", args=[cluster.uuid]), form)


def line_of(response):
    return html.unescape(re.search(r"data-secret>(.*?)</p>", response.content.decode(), re.DOTALL)[1])


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        pytest.param("linux", "Make the line", id="linux"),
        pytest.param("talos", "Get the patch for homelab", id="talos"),
        pytest.param("container", "This console has no agent to hand out", id="container without an agent"),
        pytest.param("nonsense", "Make the line", id="nonsense"),
    ],
)
def test_each_kind_of_machine_has_a_tab(page, cluster, kind, said):
    address = reverse("cluster-enrolment", args=[cluster.uuid])
    text = read(page.get(f"{address}?kind={kind}", headers={"HX-Request": "true"}))
    assert said in text
    assert "<html" not in text
    assert re.findall(r'aria-current="page"[^>]*>(\w+)</a>', text) == [kind.title() if kind != "nonsense" else "Linux"]


DOCKER = """#!/bin/sh
[ "$1" = run ] || exit 9
for word in "$@"; do printf '%s\\n' "$word"; done > "$SEEN/$(ls "$SEEN" | wc -l)"
case " $* " in *" -i "*) cat > "$SEEN/token" ;; esac
"""


def test_the_line_for_a_container_keeps_the_token_out_of_its_command(page, cluster, settings, tmp_path):
    """What an engine is told, and keeps for whoever inspects it, has no token; the one that enrols gets it as input."""
    settings.AGENT_FILES = tmp_path
    hand_out(tmp_path)
    line = line_of(ask(page, cluster, kind="container"))
    programs, seen = tmp_path / "bin", tmp_path / "seen"
    programs.mkdir()
    seen.mkdir()
    (programs / "docker").write_text(DOCKER)
    (programs / "docker").chmod(0o755)
    env = {"PATH": f"{programs}:/usr/bin:/bin", "SEEN": str(seen)}
    subprocess.run(["sh", "-c", line], env=env, check=True)
    token = (seen / "token").read_text().strip()
    first, second = ((seen / name).read_text().rstrip("\n").split("\n") for name in ("0", "2"))
    assert token not in first
    assert not any(token in word for word in [*first, *second])
    for words in (first, second):
        subprocess.run(["sh", "-n", "-c", words[-1]], check=True)
        assert words[words.index("--network") + 1] == "host"
    kept = [[word for word in words if word.startswith("kubespan-agent-")] for words in (first, second)]
    assert kept[0] == kept[1]
    assert len(kept[0]) == 2
    assert "exec /opt/kubespan-agent/kubespan-agent run" in second[-1]
    assert accept(Machine().request(token), peer=PEER, now=timezone.now()).status == "approved"


def test_the_lines_shell_takes_the_token_from_its_input(page, cluster, settings, tmp_path):
    settings.AGENT_FILES = tmp_path
    hand_out(tmp_path)
    words = shlex.split(line_of(ask(page, cluster, kind="container")))
    inner = words[words.index("sh") + 2]
    assert "read -r t && " in inner
    assert "echo $t | " in inner


OFFERS = ("/", "/nodes/", "/tokens/")


@pytest.mark.parametrize(("role", "offered"), [("viewer", False), ("operator", True)])
def test_who_may_not_enrol_is_offered_nothing(client, cluster, role, offered):
    enrol(cluster, now=timezone.now())
    client.force_login(make_user("bob", role))
    for address in (*OFFERS, cluster.get_absolute_url(), reverse("cluster-options", args=[cluster.uuid])):
        text = read(client.get(address))
        assert ('id="enrol"' in text) == offered, address
    assert bool(re.search("<button[^>]* disabled[^>]*>Save as revision", text)) != offered
    assert "Delete the cluster" not in text
    assert "Reveal the secret" not in text


@pytest.mark.parametrize("tab", ["cluster-agents", "cluster-talos", "cluster-rotation", "cluster-nodes"])
def test_a_viewer_sees_a_clusters_pages_without_their_buttons(client, cluster, tab):
    enrol(cluster, approval_required=True, now=timezone.now())
    client.force_login(make_user("bob", "viewer"))
    text = read(client.get(reverse(tab, args=[cluster.uuid])))
    forms = re.findall(r'<form method="post" action="([^"]*)"', text.partition('id="content"')[2])
    assert [one for one in forms if not one.endswith("rotation/start/")] == []


def test_what_is_not_there_is_said_in_the_shell(page):
    response = page.get("/nothing/")
    assert response.status_code == 404
    assert 'aria-label="Main"' in read(response)
