"""Activity: everything that is written down has a sentence, and is found by kind, actor, object and time."""

from __future__ import annotations

import ast
import json
import re
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone
from django.utils.html import strip_tags

from nodes import sentences
from nodes.models import Audit, Transition
from nodes.templatetags.kubespan import audit_sentence
from tests.factories import Machine, enrol, make_cluster, make_user

ROOT = Path(__file__).parents[2] / "nodes"


def verbs_in(tree):
    """Every verb that a call of `audit.write` may write; a verb that cannot be read is told by its line."""
    for call in ast.walk(tree):
        if not (isinstance(call, ast.Call) and ast.unparse(call.func) == "audit.write"):
            continue
        given = call.args[1] if len(call.args) > 1 else next(one.value for one in call.keywords if one.arg == "verb")
        places = [given] if not isinstance(given, ast.Name) else values_of(given.id, tree)
        found = [one.value for place in places for one in ast.walk(place) if is_verb(one)]
        yield from found or [f"line {call.lineno}: {ast.unparse(given)}"]


def values_of(name, tree):
    """What a name may stand for: what is assigned to it, else what the file's calls are given."""
    named = [node for node in ast.walk(tree) if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name]
    given = [arg for node in ast.walk(tree) if isinstance(node, ast.Call) for arg in node.args]
    return [node.value for node in named] or given


def is_verb(node):
    return isinstance(node, ast.Constant) and re.fullmatch(r"[a-z-]+\.[a-z-]+", str(node.value))


def written():
    """All verbs of the console's code, each with the file that writes it."""
    return {
        verb: str(file.relative_to(ROOT))
        for file in sorted(ROOT.rglob("*.py"))
        for verb in verbs_in(ast.parse(file.read_text()))
    }


def test_whatever_is_written_down_has_a_sentence():
    found = written()
    assert {"node.approved", "node.history-let-go", "cluster.rotation-started"} <= found.keys()
    missing = {verb: file for verb, file in found.items() if verb not in sentences.VERBS}
    assert missing == {}, "say in nodes/sentences.py what was done"


def test_each_has_a_sign_that_is_drawn():
    drawn = json.loads((ROOT.parent / "frontend" / "src" / "icons.json").read_text())
    assert {sign for sign, _ in sentences.VERBS.values()} <= set(drawn)
    assert {verb.partition(".")[0] for verb in sentences.VERBS} == set(sentences.NOUNS)


@pytest.mark.parametrize("verb", sorted(sentences.VERBS))
def test_a_sentence_begins_with_who_and_ends_with_what(verb):
    row = Audit(actor_name="alice", verb=verb, target="edge-1")
    text = strip_tags(audit_sentence(row))
    assert text.startswith("edge-1 enrolled" if verb == "node.enrolled" else "alice "), text
    assert "edge-1" in text
    assert "-" not in text.replace("edge-1", "").replace("sign-on", ""), text


pytestmark = pytest.mark.django_db


@pytest.fixture
def page(client):
    client.force_login(make_user("alice", "administrator"))
    return client


def rows(response):
    text = re.sub(r"\s+", " ", response.content.decode())
    return [strip_tags(one) for one in re.findall(r'<span class="ks-grow">(.*?)</span><span class="ks-when">', text)]


@pytest.fixture
def history():
    """Two people's deeds of today and of last week, and a link's fall."""
    now = timezone.now()
    cluster = make_cluster("homelab", now=now)
    node, peer = (enrol(cluster, Machine(name), now=now) for name in ("edge-1", "edge-2"))
    Audit.objects.all().delete()
    for actor, verb, target, age in (
        ("alice", "node.approved", node, timedelta(hours=2)),
        ("bob", "node.options-set", peer, timedelta(minutes=5)),
        ("bob", "cluster.options-set", cluster, timedelta(days=8)),
    ):
        about = {"cluster": cluster, "node": None if target is cluster else target, "target": target.name}
        Audit.objects.create(at=now - age, actor_name=actor, verb=verb, **about)
    link = {"cluster": cluster, "node": node, "peer": peer, "kind": "link", "before": "up", "after": "down"}
    Transition.objects.create(at=now - timedelta(hours=30), **link)
    return now


@pytest.mark.parametrize(
    ("query", "found"),
    [
        pytest.param("", ["options of node edge-2", "approved node edge-1", "options of cluster homelab"], id="all"),
        pytest.param("actor=bob", ["options of node edge-2", "options of cluster homelab"], id="actor"),
        pytest.param("object=edge", ["options of node edge-2", "approved node edge-1"], id="object"),
        pytest.param("kind=cluster", ["options of cluster homelab"], id="kind"),
        pytest.param("since=hour", ["options of node edge-2"], id="last hour"),
        pytest.param("since=day", ["options of node edge-2", "approved node edge-1"], id="last day"),
        pytest.param("actor=bob&kind=node", ["options of node edge-2"], id="two filters"),
        pytest.param("since=nonsense", ["edge-2", "edge-1", "homelab"], id="nonsense"),
    ],
)
def test_deeds_are_found_by_kind_actor_object_and_time(page, history, query, found):
    shown = rows(page.get(f"/activity/?tab=audit&{query}"))
    assert len(shown) == len(found)
    assert all(part in text for part, text in zip(found, shown, strict=True)), shown


def test_deeds_are_found_between_two_days(page, history):
    day = history - timedelta(days=8)
    span = f"after={day:%Y-%m-%d}&before={day:%Y-%m-%d}"
    assert len(rows(page.get(f"/activity/?tab=audit&{span}"))) == 1
    assert "Nothing matches" in page.get("/activity/?tab=audit&before=2001-01-01").content.decode()


@pytest.mark.parametrize(("query", "count"), [("", 1), ("since=day", 0), ("since=week", 1), ("object=edge-2", 1),
                                              ("object=edge-3", 0), ("kind=drift", 0)])  # fmt: skip
def test_transitions_are_found_by_kind_object_and_time(page, history, query, count):
    assert len(rows(page.get(f"/activity/?tab=links&{query}"))) == count


def test_a_file_has_the_sentence_as_well(page, history):
    found = page.get("/activity/?tab=audit&actor=alice&_export=json").json()
    assert [row["sentence"] for row in found] == ["alice approved node edge-1 in homelab"]
