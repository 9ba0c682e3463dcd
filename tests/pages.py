"""Every page of the console, found from its URL patterns so that none is forgotten, with something on each.

    furnished = furnish(1000)          # rows, live state in Redis, history: the database must be there
    client = sign_in()
    pages = find(client, furnished)    # address by name

A pattern is a page when an administrator who gets it is given HTML. What belongs in the place of a `<int:pk>` is said
in `Furnished.keys`, by how the pattern's name begins; a pattern that wants something else stops the search, and so does
one that fails.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from django.test import Client

    from tests.big import Live, Mesh

NOT_HERE = {"first-run"}
"""Pages that are only there while nobody has an account."""
ELSEWHERE = re.compile(r"admin|api|schema")
"""Namespaces that are not the console's own pages."""
VARIANTS = {
    "cluster-activity": {"audit": "?kind=audit"},
    "cluster-links": {"list": "?view=list"},
    "links": {"list": "?view=list"},
    "activity": {"audit": "?tab=audit"},
}
"""What else a page shows by a parameter, each a page of its own: its name's end, and what its address ends with."""
HISTORY = 120
HOUR = timedelta(hours=1)
NO_PAGE = {301, 302, 400, 401, 403, 404, 405, 410, 429}


@dataclass
class Furnished:
    """A console with something on every page."""

    mesh: Mesh
    live: Live
    keys: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """By the beginning of a pattern's name, the longest first: what its parameters are."""

    def values(self, name: str) -> Mapping[str, object]:
        """The parameters of one pattern."""
        found: dict[str, object] = {}
        for start in sorted(self.keys, key=len):
            if name.startswith(start):
                found |= self.keys[start]
        return found


def furnish(count: int, *, name: str = "big") -> Furnished:
    """Make a cluster of so many nodes, with tokens, history, findings, an upgrade and a stranger at discovery."""
    from nodes.models import DiscoveryAffiliate, DiscoveryCluster  # noqa: PLC0415 - settings may be prepared later
    from tests.big import Live, make_mesh  # noqa: PLC0415

    now = datetime.now(UTC)
    mesh = make_mesh(count, name=name, seed=name)
    live = Live(mesh, time.time(), seed=name)
    here, there = islice((node for node in mesh.members if node.session), 2)
    live.set_state(here, there, "down")
    live.report(here, time.time())
    live.write()
    tokens = _make_tokens(mesh, now)
    _make_history(mesh, now)
    rollout = _make_rollout(mesh, now)
    stranger = DiscoveryCluster.objects.create(cluster_id=f"{name}: another's")
    ours = DiscoveryCluster.objects.create(cluster_id=mesh.cluster.cluster_id)
    DiscoveryAffiliate.objects.bulk_create(
        DiscoveryAffiliate(cluster=served, affiliate_id=f"one-{number}", data=b"sealed", expires=4e9, due=4e9)
        for served in (stranger, ours)
        for number in range(min(count, 200))
    )
    keys = {
        "": {"uuid": mesh.cluster.uuid, "pk": here.pk, "here": here.pk, "there": there.pk},
        "token": {"uuid": tokens[0].uuid},
        "rollout": {"pk": rollout.pk},
        "discovery-stranger": {"pk": stranger.pk},
        "openid_connect": {"provider_id": "of-nobody"},
        "invitation": {"token": "of-nobody"},  # for who is not signed in yet: no page of an administrator
    }
    return Furnished(mesh, live, keys)


def settle_people(furnished: Furnished, count: int) -> None:
    """Beside the mesh: so many people, linked ones, invitations, programs, webhooks, and a rotation under way."""
    from allauth.socialaccount.models import SocialAccount  # noqa: PLC0415
    from django.contrib.auth.models import User  # noqa: PLC0415

    from nodes.models import ApiToken, Delivery, Grant, Invitation, Webhook  # noqa: PLC0415
    from nodes.secrets import Secret  # noqa: PLC0415
    from nodes.services import rotation  # noqa: PLC0415

    now, cluster = datetime.now(UTC), furnished.mesh.cluster
    names = [f"{cluster.name} {number}" for number in range(count)]
    people = User.objects.bulk_create(User(username=name.replace(" ", "-")) for name in names)
    given = {"cluster": cluster, "role": "viewer"}
    Grant.objects.bulk_create(Grant(user=person, at=now, given_by="alice", **given) for person in people)
    SocialAccount.objects.bulk_create(
        SocialAccount(user=person, provider="sso", uid=f"s3cret of {person}", extra_data={"sub": "s3cret"})
        for person in people
    )
    Invitation.objects.bulk_create(
        Invitation(name=name, digest=f"s3cret of {name}", made=now, made_by="alice", expires=now + HOUR, **given)
        for name in names
    )
    owners = [*people, *User.objects.filter(username="alice")]
    ApiToken.objects.bulk_create(
        ApiToken(user=owner, name=name, digest=f"s3cret of {owner} {name}", created=now, expires=now + HOUR)
        for name in names
        for owner in (owners[0], owners[-1])
    )
    webhooks = Webhook.objects.bulk_create(
        Webhook(name=name, url=Secret("https://hooks.example/s3cret"), host="hooks.example", secret=Secret("s3cret"),
                everywhere=False, created_by=owners[0])
        for name in names
    )  # fmt: skip
    for webhook in webhooks:
        webhook.clusters.add(cluster)
    Delivery.objects.bulk_create(
        Delivery(webhook=webhooks[0], kind="test", event={}, text=name, created=now) for name in names
    )
    rotation.start("tests", cluster, automatic=False, now=now)
    furnished.keys = {
        **furnished.keys, "settings-webhook": {"uuid": webhooks[0].uuid}, "settings-person": {"pk": people[0].pk},
    }  # fmt: skip


def _make_tokens(mesh: Mesh, now: datetime) -> list:
    from nodes.models import Token  # noqa: PLC0415
    from nodes.services import tokens  # noqa: PLC0415

    names = ("rack 4", "office", "laptops", "spare", "lab")
    for name in names:
        asked = {"name": name, "uses": 5, "lifetime": timedelta(days=7), "approval_required": name == "laptops"}
        tokens.create_token("alice", mesh.cluster, **asked, now=now - timedelta(days=2))
    Token.objects.filter(name="spare").update(used=5, last_used=now - timedelta(hours=30))
    Token.objects.filter(name="office").update(used=2, last_used=now - timedelta(hours=3))
    return list(Token.objects.filter(cluster=mesh.cluster))


def _make_history(mesh: Mesh, now: datetime) -> None:
    """Transitions and audit rows of the last hours, and what preflight found on some machines."""
    from nodes.models import Audit, Obstacle, Transition  # noqa: PLC0415

    members = mesh.members
    pairs = [(members[number % len(members)], members[(number * 7 + 1) % len(members)]) for number in range(HISTORY)]
    Transition.objects.bulk_create(
        Transition(
            cluster=mesh.cluster, node=one, peer=other, kind="link", at=now - timedelta(minutes=3 * number),
            before="up" if number % 2 else "down", after="down" if number % 2 else "up",
        )
        for number, (one, other) in enumerate(pairs)
    )  # fmt: skip
    verbs = ("node.approved", "node.options-set", "cluster.options-set", "token.created", "cluster.secret-shown")
    Audit.objects.bulk_create(
        Audit(
            at=now - timedelta(minutes=11 * number), actor_name=("alice", "bob")[number % 3 == 0], verb=verb,
            cluster=mesh.cluster, node=one if verb.startswith("node") else None,
            target=one.name if verb.startswith("node") else mesh.cluster.name,
        )
        for number, (one, _) in enumerate(pairs)
        for verb in (verbs[number % len(verbs)],)
    )  # fmt: skip
    Obstacle.objects.bulk_create(
        Obstacle(
            node=node, place=0, code="rp-filter", text="The kernel drops what peers send.",
            since=now - timedelta(hours=2),
            remedy="sysctl -w net.ipv4.conf.all.rp_filter=2",
        )
        for node in members[3 :: max(1, len(members) // 4)]
    )  # fmt: skip


def _make_rollout(mesh: Mesh, now: datetime) -> object:
    from nodes.models import Rollout, RolloutStep  # noqa: PLC0415

    rollout = Rollout.objects.create(
        cluster=mesh.cluster, version="0.2.0", sha256="0" * 64, size=1, state="done", started=now - timedelta(days=1),
        started_by="alice", ended=now - timedelta(hours=23),
    )  # fmt: skip
    agents = [node for node in mesh.members if not node.is_talos]
    RolloutStep.objects.bulk_create(
        RolloutStep(rollout=rollout, node=node, order=order, before="0.1.0", state="done", ended=now)
        for order, node in enumerate(agents)
    )
    return rollout


def sign_in() -> Client:
    """An administrator's browser."""
    from django.contrib.auth import get_user_model  # noqa: PLC0415
    from django.test import Client  # noqa: PLC0415

    people = get_user_model().objects
    alice = people.filter(username="alice").first() or people.create_superuser("alice")
    client = Client(headers={"host": "127.0.0.1"})
    client.force_login(alice)
    return client


def patterns() -> Iterator[tuple[str, list[str]]]:
    """The name of every pattern that can be got and is not the admin's nor a program's, with its parameters."""
    from django.urls import get_resolver  # noqa: PLC0415

    yield from _walk(get_resolver().url_patterns, ())


def _walk(found, wanted: tuple[str, ...]) -> Iterator[tuple[str, list[str]]]:
    from django.views.generic import RedirectView  # noqa: PLC0415

    for one in found:
        parameters = (*wanted, *one.pattern.converters)
        if hasattr(one, "url_patterns"):
            if not (one.namespace and ELSEWHERE.match(one.namespace)):
                yield from _walk(one.url_patterns, parameters)
        elif one.name and hasattr(getattr(one.callback, "view_class", RedirectView), "get"):
            yield one.name, list(parameters)


def find(client: Client, furnished: Furnished) -> dict[str, str]:
    """The address of every page, by name, those that are VARIANTS of one included."""
    from django.urls import reverse  # noqa: PLC0415

    pages = {}
    for name, wanted in patterns():
        values = furnished.values(name)
        if missing := set(wanted) - values.keys():
            raise LookupError(f"{name}: say in tests/pages.py what {', '.join(sorted(missing))} is")
        address = reverse(name, kwargs={parameter: values[parameter] for parameter in wanted})
        response = client.get(address)
        is_html = response.headers.get("Content-Type", "").startswith("text/html")
        if response.status_code == 200 and is_html:
            pages[name] = address
            pages |= {f"{name}-{end}": address + query for end, query in VARIANTS.get(name, {}).items()}
        elif response.status_code not in NO_PAGE and response.status_code != 200:
            raise RuntimeError(f"{name} at {address} answers {response.status_code}")
    return pages
