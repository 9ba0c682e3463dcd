"""A large cluster without machines is as its rows and its live state say."""

import pytest

from nodes import live
from nodes.models import Candidate
from nodes.services import revisions
from tests.big import Live, make_mesh
from tests.factories import NOW

pytestmark = pytest.mark.django_db


def test_members_are_such_as_the_console_itself_makes():
    mesh = make_mesh(60, now=NOW)
    assert len(mesh.nodes) == 60
    assert [node.index for node in mesh.members] == list(range(57))
    assert Candidate.objects.filter(node__in=mesh.members).count() == 2 * 57
    frame = revisions.frame(mesh.cluster.pk, None)
    assert frame.revision == mesh.cluster.current


def test_what_is_written_is_what_pages_read():
    mesh = make_mesh(60, now=NOW)
    seen = Live(mesh, NOW.timestamp())
    one, other = seen.reporting[0], seen.reporting[1]
    seen.set_state(one, other, "down")
    assert other.index in seen.report(one, NOW.timestamp())
    seen.write()
    assert live.read_links(one)[other.index].state == "down" == seen.state(one, other)
    summaries = live.read_summaries(mesh.cluster)
    assert set(summaries) == {node.pk for node in seen.reporting}
    assert sum(one.up for one in summaries.values()) > 0.8 * len(summaries) * 56
