"""Every list of every page, found by what the pages show: each is to be had as a file, and turns pages."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

import pytest
from django.db import connection
from django.urls import reverse
from django.utils import timezone

from nodes.models import Invitation, Node, Webhook
from nodes.secrets import Secret
from nodes.services import api_tokens
from nodes.services import nodes as services
from nodes.views.common import PAGE_SIZE
from tests import pages
from tests.factories import enrol, fill, make_cluster, make_user

pytestmark = pytest.mark.django_db

NO_LIST = {
    ("account", "sessions"): "where somebody is signed in themselves: no program is to read it",
    ("overview", "attention"): "sentences that are made of the lists of nodes and links",
    ("cluster", "attention"): "the same",
    ("node", "lately"): "the beginning of the node's activity",
    ("settings-person", "did"): "the beginning of Activity",
    ("pair", "changes"): "the beginning of Activity",
    ("pair", "end-here"): "one end of one link; the node's endpoints are a list",
    ("pair", "end-there"): "the same",
    ("settings-about", "parts"): "figures; /api/health has them for programs",
    ("settings-about", "kept"): "figures",
    ("cluster-map", "map-groups"): "filled as the drawing is; the lists of nodes and of links say the same",
    ("cluster-map", "map-bad"): "the same",
    ("cluster-map", "map-nodes"): "the same",
}
"""Rows that are no list of their own: the page's name, and what names the section that they are in."""


@dataclass
class Section:
    """A section of a page: what names it, how many lists it has, and where files are to be had from it."""

    label: str
    lists: int = 0
    files: list[str] = field(default_factory=list)


class Reader(HTMLParser):
    """Finds the sections of a page; the first stands for what is in none."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sections = [Section("")]
        self._open = [self.sections[0]]
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "section":
            self._open.append(Section(given.get("aria-labelledby") or given.get("aria-label") or ""))
            self.sections.append(self._open[-1])
        inside = self._open[-1]
        inside.lists += tag == "table" or "data-peers" in given or "ks-sentence" in (given.get("class") or "").split()
        if tag == "a" and "_export=" in (given.get("href") or ""):
            inside.files.append(given["href"])

    def handle_endtag(self, tag):
        if tag == "section":
            self._open.pop()


def without_file(text: str) -> set[str]:
    """The sections with a list that is not to be had as a file, neither there nor from the page's head."""
    head, *sections = Reader(text).sections
    return set() if head.files else {one.label for one in (head, *sections) if one.lists and not one.files}


@pytest.fixture
def browser():
    return pages.sign_in()


@pytest.fixture
def addresses(browser):
    """Where every page is, by name, with more rows on it than it shows at once."""
    furnished = pages.furnish(PAGE_SIZE + 10)
    pages.settle_people(furnished, PAGE_SIZE + 1)
    return pages.find(browser, furnished)


def test_every_list_of_every_page_is_to_be_had_as_a_file_and_turns_pages(browser, addresses):
    missing, unpaged, read = set(), {}, set()
    for name, address in addresses.items():
        text = browser.get(address).content.decode()
        missing |= {(name, label) for label in without_file(text)}
        if longest := max((body.count("<tr") for body in re.findall("<tbody.*?</tbody>", text, re.DOTALL)), default=0):
            unpaged |= {name: longest} if longest > PAGE_SIZE else {}
        files = {file for one in Reader(text).sections for file in one.files}
        assert {file.replace("=json", "=csv") for file in files} <= files, address
        for file in (one for one in files if "=json" in one):
            response = browser.get(address.partition("?")[0] + file)
            assert (response.status_code, "X-Total-Count" in response.headers) == (200, True), (address, file)
            assert response.json(), (address, file)
            assert "s3cret" not in response.content.decode()
            read.add(name)
    assert sorted(missing ^ NO_LIST.keys()) == []
    assert unpaged == {}
    settings = {"settings-people", "settings-sign-on", "settings-webhook", "settings-alerts", "settings-api-tokens"}
    assert settings | {"node-links"} <= read


# ------------------------------------------------------------------------------------------------- who may see which


@pytest.fixture
def two_clusters():
    """Each with somebody in it, and somebody invited; `carol` is administrator of the first alone."""
    mine, other = make_cluster("homelab"), make_cluster("office")
    for cluster in (mine, other):
        make_user(f"viewer-of-{cluster.name}", "viewer", cluster)
        given = {"role": "viewer", "made": timezone.now(), "made_by": "alice", "expires": timezone.now() + pages.HOUR}
        Invitation.objects.create(name=f"guest-of-{cluster.name}", digest=cluster.name, cluster=cluster, **given)
    return make_user("carol", "administrator", mine)


def sign_in(client, user):
    client.force_login(user)
    return client


def test_files_of_people_have_those_whom_somebody_decides_about(client, two_clusters):
    browser = sign_in(client, two_clusters)
    people = browser.get("/settings/people/?_export=json").json()
    assert [row["name"] for row in people] == ["carol", "viewer-of-homelab"]
    assert people[1]["roles"] == "viewer of homelab"
    invited = browser.get("/settings/people/?_export=json&list=invitations").json()
    assert [(row["name"], row["state"]) for row in invited] == [("guest-of-homelab", "waiting")]


def test_a_file_of_people_has_what_the_search_leaves(client, two_clusters):
    browser = sign_in(client, make_user("alice", "administrator"))
    found = browser.get("/settings/people/?q=OFFICE&_export=json").json()
    assert [row["name"] for row in found] == ["viewer-of-office"]


ADMINISTRATORS = ["settings-people", "settings-alerts", "settings-webhook", "settings-keys", "settings-sign-on"]


@pytest.mark.parametrize("name", ADMINISTRATORS)
@pytest.mark.parametrize("role", ["viewer", "operator"])
def test_files_of_the_settings_are_for_administrators(client, name, role):
    webhook = Webhook.objects.create(name="chat", url=Secret("https://hooks.example/"), secret=Secret("x"))
    address = reverse(name, args=[webhook.uuid] if name == "settings-webhook" else [])
    assert sign_in(client, make_user("bob", role)).get(f"{address}?_export=csv").status_code == 403


def test_other_peoples_tokens_are_for_administrators(client):
    alice, bob = make_user("alice", "administrator"), make_user("bob", "viewer")
    for owner in (alice, bob):
        api_tokens.create_api_token(owner, name="script", role="viewer", lifetime=pages.HOUR, now=timezone.now())
    address = reverse("settings-api-tokens")

    def owners(user, which):
        response = sign_in(client, user).get(f"{address}?_export=json&list={which}")
        return [row["owner"] for row in response.json()] if response.status_code == 200 else response.status_code

    assert (owners(bob, "own"), owners(bob, "others")) == (["bob"], 403)
    assert (owners(alice, "own"), owners(alice, "others")) == (["alice"], ["bob"])


def test_a_page_has_no_other_list(client, two_clusters):
    response = sign_in(client, two_clusters).get("/settings/people/?_export=csv&list=secrets")
    assert response.status_code == 400


@pytest.mark.parametrize(("query", "shown"), [("", 25), ("?page=2", 2), ("?page=9", 2), ("?page=2&q=p-1", 10)])
def test_people_have_pages_of_25(client, query, shown):
    alice = make_user("alice", "administrator")
    for number in range(26):
        make_user(f"p-{number:02}")
    assert len(sign_in(client, alice).get(f"/settings/people/{query}").context["people"]) == shown


def test_who_may_still_have_a_removed_node_is_a_list(client):
    cluster = make_cluster()
    gone = enrol(cluster)
    fill(cluster, PAGE_SIZE + 1)
    services.remove_node("tests", gone, gone.name, timezone.now())
    browser = sign_in(client, make_user("alice", "administrator"))
    text = browser.get(gone.get_absolute_url()).content.decode()
    assert without_file(text) == {"lately"}
    assert text.partition('id="cutting"')[2].partition("</section>")[0].count("<tr>") == PAGE_SIZE + 1
    assert len(browser.get(f"{gone.get_absolute_url()}?_export=json").json()) == PAGE_SIZE + 1


def test_the_first_nodes_by_name_are_found_without_sorting_all():
    if connection.vendor == "postgresql":  # which sorts a table of no rows whatever indexes there are
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL enable_sort = off")
            cursor.execute("SET LOCAL enable_seqscan = off")
    plan = Node.objects.present().order_by("name")[:PAGE_SIZE].explain()
    assert re.search(r"\bnode_name\b", plan)
