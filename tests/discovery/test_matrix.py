"""The conformance matrix of spec/discovery-protocol.md §8: which test has each case.

One case is another here than upstream, and is meant to be: *subscription*. An update of the same data in other words
is told to whoever watches, as there; one that repeats what is kept renews its expiry and wakes nobody, where upstream
tells everybody. Upstream heals by that a client that was told of a live affiliate's deletion because an endpoint of it
had expired; here nobody is told so (`test_expiry_is_by_each_endpoint_and_a_live_affiliate_is_never_told_as_gone`).

*Storage* is a file that is written now and then upstream; here each update is a row before it is answered. So there is
no interval, no size of a file, and nothing of before that had absolute times: those three cases have nothing to test.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

SERVER, CLIENT = "tests/discovery/test_server.py", "tests/discovery/test_client.py"
STATE, LIMITER = "tests/discovery/test_state.py", "tests/discovery/test_limiter.py"
ROWS, PAGES, GO = "tests/nodes/test_discovery.py", "tests/nodes/test_inspection.py", "tests/interop/test_go_client.py"

MATRIX = [
    ("API: Hello, loopback", SERVER, "test_hello_says_where_one_comes_from_and_sends_nobody_elsewhere"),
    ("API: Hello, forwarded addresses", SERVER, "test_forwarded_addresses_are_believed_of_trusted_proxies_alone"),
    ("API: Hello, addresses not reported", SERVER, "test_addresses_can_be_kept_back"),
    ("API: update, merge, list", SERVER, "test_updates_merge"),
    ("API: delete unknown, then known", SERVER, "test_deletion_of_the_unknown_and_the_known"),
    ("API: watch: snapshot, add, delete", SERVER, "test_a_watch_is_a_snapshot_and_then_every_change_in_order"),
    ("validation: cluster id, each call", SERVER, "test_cluster_ids"),
    ("validation: affiliate id, each call that has one", SERVER, "test_affiliate_ids"),
    ("validation: data 2049, endpoint 33, ttl 30 min + 1 ns", SERVER, "test_contents"),
    ("validation: ttl 30 min, and the largest of everything", SERVER, "test_the_largest_of_everything_is_taken"),
    ("validation: 1025th affiliate, 65th endpoint", SERVER, "test_one_affiliate_and_one_endpoint_too_many"),
    ("validation: those by rows, over all processes", ROWS, "test_the_limit_counts_those_that_are_not_touched"),
    (
        "limiter: 61st call, and another address",
        SERVER,
        "test_who_asks_too_often_waits_and_is_refused_only_where_there_is_no_time_to",
    ),
    ("limiter: full buckets are collected", LIMITER, "test_full_buckets_are_forgotten"),
    ("redirect: Hello names it", SERVER, "test_redirect"),
    ("redirect: the client moves and publishes there", CLIENT, "test_the_service_sends_a_client_elsewhere_for_good"),
    ("redirect: so does Go's", GO, "test_it_follows_a_redirect"),
    ("client pair: data, endpoints, deletion", CLIENT, "test_two_see_each_other_their_endpoints_and_their_end"),
    ("client pair: expiry", CLIENT, "test_one_sees_the_other_expire"),
    ("client pair: of Go's", GO, "test_two_see_each_others_data_and_endpoints_and_who_leaves_is_gone"),
    ("client pair: expiry, of Go's", GO, "test_what_is_not_renewed_expires"),
    ("cluster simulation: 5, 15, 50", CLIENT, "test_many_see_all_others_with_what_their_neighbours_saw"),
    ("cluster simulation: of Go's", GO, "test_many_see_each_other"),
    (
        "subscription: dead ones with a buffer of one, and live ones in order",
        SERVER,
        "test_two_dead_watchers_lose_their_place_and_live_ones_see_everything_in_order",
    ),
    ("subscription: the same again (changed)", STATE, "test_the_same_again_is_no_change_but_lives_longer"),
    ("storage: a restart keeps everything", ROWS, "test_a_restart_keeps_everything_and_declares_nobody_gone"),
    ("storage: what was asked is written at the end", ROWS, "test_what_was_asked_is_written_before_it_stops"),
    ("stats: cached, counted anew, an error", PAGES, "test_how_many_there_are_is_counted_once_an_hour"),
]


@pytest.mark.parametrize(("case", "path", "name"), MATRIX)
def test_each_case_has_its_test(case, path, name):
    tree = ast.parse((ROOT / path).read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
