"""What the service keeps: tables of updates, expiry, watchers. Time is a number of seconds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubespan.discovery.limits import AFFILIATES, ENDPOINTS
from kubespan.discovery.state import (
    Batch,
    ClusterState,
    Event,
    SealedAffiliate,
    SealedEndpoint,
    Update,
    batches,
    coalesce,
    differences,
)

MINUTE = 60.0


def update(state, affiliate_id="af1", data=b"", endpoints=(), ttl=MINUTE, now=0.0):
    return state.update(Update(affiliate_id, data, tuple(endpoints), ttl), now)


def shown(state):
    """What a list of the cluster has."""
    return {one.id: (one.data, [endpoint.data for endpoint in one.endpoints]) for one in state.affiliates.values()}


def test_endpoints_are_added_and_data_stays():
    state = ClusterState()
    assert update(state, data=b"data1", endpoints=[b"e1", b"e2"]).event.affiliate.data == b"data1"
    assert update(state, endpoints=[b"e3", b"e2"]).event is not None
    assert shown(state) == {"af1": (b"data1", [b"e1", b"e2", b"e3"])}
    assert update(state, endpoints=[b"e1"]).event is None


def test_the_same_again_is_no_change_but_lives_longer():
    state = ClusterState()
    update(state, data=b"data1", endpoints=[b"e1"])
    assert update(state, data=b"data1", endpoints=[b"e1"], now=30.0).event is None
    assert state.collect(80.0) == []
    assert shown(state) == {"af1": (b"data1", [b"e1"])}


def test_others_data_is_a_change():
    state = ClusterState()
    update(state, data=b"data1")
    assert update(state, data=b"data2").event == Event("af1", state.affiliates["af1"])


def test_an_affiliate_that_only_others_spoke_of_is_told_without_data():
    state = ClusterState()
    event = update(state, endpoints=[b"e1"]).event
    assert (event.affiliate.data, event.affiliate.endpoints) == (b"", (SealedEndpoint(b"e1", MINUTE),))


def test_new_data_may_shorten_its_life_and_what_others_saw_prolongs_it():
    state = ClusterState()
    update(state, data=b"d", ttl=3 * MINUTE)
    update(state, data=b"d", ttl=MINUTE)
    assert state.affiliates["af1"].expires == MINUTE
    update(state, endpoints=[b"e"], ttl=2 * MINUTE)
    assert state.affiliates["af1"].expires == 2 * MINUTE


def test_an_endpoints_life_is_never_shortened():
    state = ClusterState()
    update(state, endpoints=[b"e"], ttl=3 * MINUTE)
    update(state, endpoints=[b"e"], ttl=MINUTE)
    assert state.affiliates["af1"].endpoints[0].expires == 3 * MINUTE


def test_expiry_is_by_each_endpoint_and_a_live_affiliate_is_never_told_as_gone():
    state = ClusterState()
    update(state, data=b"d", endpoints=[b"e2"], ttl=MINUTE)
    update(state, endpoints=[b"e1", b"e3"], ttl=3 * MINUTE)
    assert state.collect(0.0) == []
    (event,) = state.collect(2 * MINUTE)
    assert [endpoint.data for endpoint in event.affiliate.endpoints] == [b"e1", b"e3"]
    assert state.collect(2 * MINUTE) == []
    assert state.collect(4 * MINUTE) == [Event("af1", None)]
    assert shown(state) == {}


@pytest.mark.parametrize("ttl", [0.0, -1.0])
def test_without_a_time_to_live_it_goes_at_the_next_collection(ttl):
    state = ClusterState()
    update(state, data=b"d", ttl=ttl)
    assert shown(state) == {"af1": (b"d", [])}
    assert state.collect(0.1) == [Event("af1", None)]


def test_deletion():
    state = ClusterState()
    assert state.delete("af1") is None
    update(state, data=b"d")
    assert state.delete("af1") == Event("af1", None)
    assert shown(state) == {}


def test_one_affiliate_too_many():
    state = ClusterState()
    for number in range(AFFILIATES):
        assert update(state, f"af{number}", data=b"d").refusal is None
    outcome = update(state, "one more", data=b"d")
    assert (str(outcome.refusal), outcome.event) == ("too many affiliates in the cluster", None)
    assert update(state, "af7", data=b"other").refusal is None
    assert len(state.affiliates) == AFFILIATES


def test_one_endpoint_too_many_keeps_what_came_before_it():
    state = ClusterState()
    many = [b"%d" % number for number in range(ENDPOINTS - 1)]
    update(state, data=b"d", endpoints=many)
    outcome = update(state, data=b"d2", endpoints=[b"new", b"one more"], ttl=MINUTE / 2)
    assert str(outcome.refusal) == "too many endpoints in the affiliate"
    assert [endpoint.data for endpoint in outcome.event.affiliate.endpoints] == [*many, b"new"]
    assert (outcome.event.affiliate.data, outcome.event.affiliate.expires) == (b"d2", MINUTE / 2)


def test_what_another_process_changed_is_followed():
    state = ClusterState()
    one = SealedAffiliate("af1", MINUTE, b"d")
    state.take(Event("af1", one))
    assert state.affiliates == {"af1": one}
    state.take(Event("af1", None))
    state.take(Event("af1", None))
    assert state.affiliates == {}


def test_no_more_come_than_the_service_has_room_for():
    state = ClusterState(room=1)
    assert update(state, "af1", data=b"d").refusal is None
    outcome = update(state, "af2", data=b"d")
    assert (str(outcome.refusal), outcome.event) == ("too many affiliates in the service", None)
    assert update(state, "af1", data=b"other").refusal is None
    state.delete("af1")
    assert update(state, "af2", data=b"d").refusal is None


def test_where_it_comes_from_is_where_its_own_words_do():
    state = ClusterState()
    state.update(Update("af1", b"d", (), MINUTE, "192.0.2.1"), 0.0)
    state.update(Update("af1", b"", (b"e",), MINUTE, "192.0.2.2"), 0.0)  # a neighbour saw it
    assert state.affiliates["af1"].address == "192.0.2.1"
    assert state.update(Update("af1", b"d", (), MINUTE, "192.0.2.3"), 0.0).event is None  # nobody is woken
    assert state.affiliates["af1"].address == "192.0.2.3"


# Watchers.


def live(affiliate_id, data=b"d"):
    return Event(affiliate_id, SealedAffiliate(affiliate_id, MINUTE, data))


def gone(affiliate_id):
    return Event(affiliate_id, None)


def test_the_newest_of_each_in_the_order_of_the_changes():
    events = (live("af1"), live("af2"), live("af1", b"newer"), gone("af3"))
    assert coalesce(events) == [live("af2"), live("af1", b"newer"), gone("af3")]


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param([live("a"), live("b")], [(False, "ab")], id="a burst is one message"),
        pytest.param([gone("a"), gone("b")], [(True, "ab")], id="so are deletions"),
        pytest.param([live("a"), gone("b"), live("c")], [(False, "a"), (True, "b"), (False, "c")], id="order is kept"),
    ],
)
def test_batches(events, expected):
    found = [(batch.deleted, "".join(batch.ids) + "".join(one.id for one in batch.affiliates))
             for batch in batches(events, 10_000)]  # fmt: skip
    assert found == expected


def test_a_batch_stays_below_its_limit():
    events = [live(f"a{number}", bytes(1000)) for number in range(10)]
    sizes = [len(batch.affiliates) for batch in batches(events, 3200)]
    assert sizes == [3, 3, 3, 1]
    assert list(batches(events[:1], 10)) == [Batch(False, (events[0].affiliate,))]


ids = st.sampled_from(["a", "b", "c"])
contents = st.binary(max_size=2)
operations = st.one_of(
    st.builds(Update, id=ids, data=contents, endpoints=st.lists(contents.filter(bool), max_size=3).map(tuple),
              ttl=st.integers(0, 5).map(float)),
    st.builds(lambda affiliate_id: ("delete", affiliate_id), ids),
    st.just("collect"),
)  # fmt: skip


@given(st.lists(operations, max_size=30), st.data())
def test_who_hears_all_events_knows_what_a_list_shows(steps, data):
    """Whatever happens, and however they are put together; and who missed events is told the difference."""
    state, watched, pending = ClusterState(), ClusterState(), []
    for now, step in enumerate(steps):
        match step:
            case Update():
                events = [state.update(step, float(now)).event]
            case ("delete", affiliate_id):
                events = [state.delete(affiliate_id)]
            case _:
                events = state.collect(float(now))
        pending += filter(None, events)
        if data.draw(st.booleans()):
            for event in coalesce(pending):
                watched.take(event)
            pending.clear()
    late = ClusterState(dict(watched.affiliates))
    for event in coalesce(pending):
        watched.take(event)
    assert shown(watched) == shown(state)
    for event in differences(late.affiliates, state.affiliates):
        late.take(event)
    assert shown(late) == shown(state)
