"""Who may do what: each action with each role, and that no service, page or socket is without a rule."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import uuid

import pytest
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import PermissionDenied
from django.http import Http404
from django.test import RequestFactory
from django.urls import get_resolver

from nodes import access, services
from nodes.access import ACTIONS, ENTER, Forbidden, may
from nodes.consumers.base import Gone, MeshConsumer
from nodes.models import Audit, Cluster, Node, Role, Rollout, Token
from nodes.routing import websocket_urlpatterns
from nodes.services import nodes, rotation
from nodes.views.common import RoleMixin
from tests.factories import NOW, enrol, give_role, make_cluster, make_user

pytestmark = pytest.mark.django_db

LEAST = {
    "viewer": {ENTER, "view_cluster", "view_strangers"},
    "operator": {
        "approve_node", "change_node", "remove_node", "try_again", "create_token", "revoke_token", "change_options",
        "keep_history", "upgrade_agents", "reveal_id", "open_discoveryaffiliate",
    },
    "administrator": {
        "reveal_secret", "rotate_secret", "delete_cluster", "manage_people", "create_cluster", "manage_console",
    },
}  # fmt: skip
"""What each role may that the one before may not: said here once more, so that nobody changes it unawares."""

ORDER = ["nothing", *LEAST]
CASES = [
    pytest.param(role, action, ORDER.index(role) >= ORDER.index(least), id=f"{role}-{action}")
    for least, actions in LEAST.items()
    for action in sorted(actions)
    for role in ORDER
]


def somebody(role, cluster=None):
    return make_user(role=None if role == "nothing" else role, cluster=cluster)


@pytest.fixture
def cluster():
    return make_cluster("homelab")


def test_every_action_is_in_the_matrix():
    assert set().union(*LEAST.values()) == set(ACTIONS)


@pytest.mark.parametrize(("role", "action", "allowed"), CASES)
def test_matrix(role, action, allowed, cluster):
    other = make_cluster("elsewhere")
    everywhere, here = somebody(role), somebody(role, cluster)
    assert may(everywhere, action, cluster) == allowed
    assert may(everywhere, action) == allowed
    assert may(here, action, cluster) == allowed
    if action != ENTER:  # which is about no cluster
        assert not may(here, action, other)
        assert not may(here, action)


def test_who_is_signed_out_or_dismissed_may_nothing_and_a_superuser_all(cluster):
    dismissed = make_user(role="administrator", is_active=False)
    assert not any(may(who, action, cluster) for who in (AnonymousUser(), dismissed) for action in ACTIONS)
    assert all(may(make_user(is_superuser=True), action, cluster) for action in ACTIONS)


def test_the_larger_of_two_roles_counts(cluster):
    person = make_user(role="viewer")
    give_role(person, "operator", cluster)
    assert may(person, "approve_node", cluster)
    assert not may(person, "approve_node", make_cluster("elsewhere"))


def test_rows_of_the_discovery_service_are_no_clusters_of_ours():
    with pytest.raises(TypeError, match="belongs to no cluster"):
        access.cluster_of(importlib.import_module("nodes.models").DiscoveryAffiliate())


def test_a_refusal_names_the_role_and_who_can_give_it(cluster):
    make_user("root", "administrator")
    make_user("zoe", "administrator", cluster)
    make_user("elsewhere", "administrator", make_cluster("elsewhere"))
    with pytest.raises(Forbidden) as refused:
        rotation.start(make_user("bob", "operator"), cluster, automatic=False, now=NOW)
    assert (refused.value.code, refused.value.status) == ("forbidden", 403)
    assert refused.value.reason == (
        "To rotate the cluster secret you need the role administrator for the cluster homelab. "
        "It is given by root or zoe."
    )
    assert not Audit.objects.filter(verb__startswith="rotation").exists()


# ------------------------------------------------------------------------------------------------------------ services


def public_services():
    """Every function of a service that somebody acts by."""
    for module in pkgutil.walk_packages(services.__path__, "nodes.services."):
        for name, function in inspect.getmembers(importlib.import_module(module.name), inspect.isfunction):
            parameters = list(inspect.signature(function).parameters)
            if function.__module__ == module.name and parameters[:1] == ["actor"] and name != "write":
                yield pytest.param(function, id=f"{module.name.removeprefix('nodes.services.')}.{name}")


def row_for(service, cluster):
    """What its second argument is about: a row of the cluster, or none."""
    second = [*inspect.signature(service).parameters.values()][1]
    match second.annotation:
        case "Cluster":
            return cluster
        case "Node":
            return Node(cluster=cluster)
        case "Token":
            return Token(cluster=cluster)
        case "Rollout":
            return Rollout(cluster=cluster)
    return None


@pytest.mark.parametrize("service", list(public_services()))
def test_every_service_asks_for_its_action_first(service, cluster):
    assert getattr(service, "action", None) in ACTIONS, "decorate it with nodes.access.needs"
    row = row_for(service, cluster)
    given = [] if row is None else [row]
    for role in ORDER:
        for person in (somebody(role), somebody(role, cluster) if row is not None else somebody(role)):
            if ORDER.index(role) < ORDER.index(ACTIONS[service.action].role):
                with pytest.raises(Forbidden):
                    service(person, *given)
            else:
                with pytest.raises(TypeError, match="missing"):  # it was let in, and had no more arguments
                    service(person, *given)
    if row is not None:
        with pytest.raises(Forbidden):
            service(somebody("administrator", make_cluster("elsewhere")), *given)


# --------------------------------------------------------------------------------------------------------------- pages

NO_ROLE = {
    "settings", "enrol", "agent-release", "agent-archive", "agent-script", "discovery-stats",
}  # fmt: skip
"""Pages for whoever comes, and one that only leads on; each with a reason of its own."""


def patterns(resolver):
    """All that it resolves, those of the resolvers within it as well."""
    for pattern in resolver.url_patterns:
        yield from patterns(pattern) if hasattr(pattern, "url_patterns") else (pattern,)


PATTERNS = [
    pytest.param(pattern, id=pattern.name)
    for pattern in patterns(get_resolver("nodes.urls"))
    if pattern.name not in NO_ROLE
]


@pytest.fixture
def rows(cluster):
    """What pages' addresses name."""
    node, other = enrol(cluster), enrol(cluster)
    rollout = Rollout.objects.create(cluster=cluster, version="0.2", sha256="", size=1, started=NOW, started_by="tests")
    return {"uuid": cluster.uuid, "token": node.token.uuid, "pk": node.pk, "rollout": rollout.pk, "other": other.pk}


def opened(view, method, person, kwargs):
    """What becomes of somebody at a page's door: let in, `forbidden` or `nothing here`."""
    request = getattr(RequestFactory(), method)("/")
    request.user, request.htmx = person, False
    page = view.view_class()
    page.setup(request, **kwargs)
    page.http_method_names = ()  # let in, it answers that the method is not allowed, and does nothing
    try:
        return page.dispatch(request, **kwargs).status_code == 405
    except PermissionDenied:
        return "forbidden"
    except Http404:
        return "nothing here"


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_page_asks_for_its_action(pattern, rows, cluster):
    page = pattern.callback.view_class
    assert issubclass(page, RoleMixin), "a page is a RoleMixin, or named in NO_ROLE with a reason"
    assert "permission" in {name for one in page.__mro__[: page.__mro__.index(RoleMixin)] for name in vars(one)}, (
        "name what opening the page needs: permission = …"
    )
    kwargs = {name: rows[name] for name in pattern.pattern.converters if name in rows}
    if "here" in pattern.pattern.converters:
        kwargs = {"here": rows["pk"], "there": rows["other"]}
    if pattern.name.startswith("token"):
        kwargs = {"uuid": rows["token"]} if kwargs else {}
    if pattern.name.startswith("rollout"):
        kwargs = {"pk": rows["rollout"]}
    elsewhere = somebody("administrator", make_cluster("elsewhere"))
    of_console = pattern.name.startswith(("discovery-stranger", "settings-"))  # what they name is of no cluster
    for method, action in (("get", page.permission), ("post", page.post_permission or page.permission)):
        needed = ORDER.index(ACTIONS[action].role)
        if kwargs and not of_console:
            assert opened(pattern.callback, method, elsewhere, kwargs) == "nothing here"
        for role in ORDER:
            expected = True if ORDER.index(role) >= needed else "forbidden"
            if role == "nothing" and kwargs and not of_console:
                expected = "nothing here"
            assert opened(pattern.callback, method, somebody(role), kwargs) == expected, (method, role)


# -------------------------------------------------------------------------------------------------------------- sockets

SOCKETS = [pytest.param(pattern, id=str(pattern.pattern)) for pattern in websocket_urlpatterns]


@pytest.mark.parametrize("pattern", SOCKETS)
def test_every_socket_asks_for_its_action(pattern, rows, cluster):
    kind = pattern.callback.consumer_class
    assert "permission" in {name for one in kind.__mro__[: kind.__mro__.index(MeshConsumer)] for name in vars(one)}, (
        "name what the page needs: permission = …"
    )
    given = {"cluster": cluster.uuid, "node": rows["pk"], "token": rows["token"], "here": rows["pk"]}
    given |= {"there": rows["other"], "webhook": uuid.uuid4()}
    of_console = str(pattern.pattern).startswith("live/alerts")  # what it names is of no cluster
    names, extra = pattern.pattern.converters, pattern.default_args or {}

    def found(person):
        consumer = kind()
        consumer.scope = {"user": person, "url_route": {"kwargs": {name: given[name] for name in names} | extra}}
        try:
            clusters = consumer._find()
        except Gone:
            return "nothing here"
        except Forbidden:
            return "forbidden"
        return clusters & {None, cluster.pk}

    if str(pattern.pattern).startswith("live/removal"):
        gone = Node.objects.get(pk=rows["other"])
        nodes.remove_node("tests", gone, gone.name, NOW)
        given["node"] = gone.pk
    needed = ORDER.index(ACTIONS[kind.permission].role)
    for role in ORDER:
        below = "nothing here" if role == "nothing" and names and not of_console else "forbidden"
        if ORDER.index(role) < needed:
            assert found(somebody(role)) == below, role
        else:
            assert found(somebody(role)) <= {None, cluster.pk}, role
    expected = "forbidden" if of_console else "nothing here" if names else {None}
    assert found(somebody("administrator", make_cluster("elsewhere"))) == expected


# --------------------------------------------------------------------------------------------------------------- lists


def test_lists_have_what_one_may_see_and_no_more(client, cluster):
    enrol(cluster, name="seen")
    hidden = make_cluster("hidden-cluster")
    node = enrol(hidden)
    person = make_user("bob", "viewer", cluster)
    client.force_login(person)
    for path in ("/", "/clusters/", "/nodes/", "/tokens/", "/discovery/", "/activity/", "/activity/?tab=audit"):
        shown = client.get(path).content.decode()
        assert "hidden-cluster" not in shown, path
        assert node.name not in shown, path
    assert client.get(hidden.get_absolute_url()).status_code == 404
    assert list(Cluster.objects.visible_to(person)) == [cluster]
    assert set(Audit.objects.visible_to(person).values_list("cluster", flat=True)) == {cluster.pk}


def test_who_did_what_to_the_console_is_for_its_administrators(cluster):
    Audit.objects.create(at=NOW, actor_name="console", verb="console.first-code-made", target="console")
    counts = {role: Audit.objects.visible_to(somebody(role)).filter(cluster=None).count() for role in Role}
    assert counts == {"viewer": 0, "operator": 0, "administrator": 1}
