"""The protocol: round trips, strictness, versions, sizes."""

from functools import reduce
from operator import getitem

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubespan.core import messages
from kubespan.core.messages import (
    FRAME_BASE,
    VERSIONS,
    Applied,
    Challenge,
    Claim,
    ClaimRefused,
    ClusterSecret,
    Delta,
    EnrolReply,
    EnrolRequest,
    FetchHistory,
    Finding,
    Findings,
    Hello,
    History,
    Member,
    MessageError,
    Notice,
    Pace,
    Refusal,
    Refused,
    RefusedClaim,
    Removed,
    Report,
    Resync,
    Revision,
    SecretKept,
    Snapshot,
    Track,
    TryAgain,
    Upgrade,
    UpgradeFailed,
    VersionError,
    Welcome,
    challenge_text,
    dump,
    frame_limit,
    negotiate,
    parse_body,
    parse_from_agent,
    parse_from_console,
    parse_key,
)
from kubespan.core.options import Options

KEY = "NzW8oeIH5rJyY5lefD9WRoHWWRr/Q6DwsDjMX+xKjT4="
REVISION = Revision(1, 7)
MEMBER = Member(
    index=3,
    node_id="sou7yy34ykX3n373Zw1DXKb8zD7UnyKT6HT3QDsGH6L",
    name="one",
    public_key=KEY,
    address="fd7f:175a:b97c:5602:2c1a:b6ff:fe53:8169",
    addresses=("192.168.3.4",),
    endpoints=("192.168.3.4:51820",),
    networks=("10.244.3.0/24",),
    hostname="one.example.org",
)

FROM_CONSOLE = [
    Challenge(nonce="AA==", versions=(1,)),
    Welcome(version=1, status="pending", console_time=1.5),
    Welcome(version=1, status="approved", console_time=1.5, index=0),
    ClusterSecret(generation=1, sealed="AA=="),
    Snapshot(revision=REVISION, secret_generation=1, options=Options(mtu=1300), members=(MEMBER,)),
    Delta(since=Revision(1, 6), revision=REVISION, secret_generation=1, changed=(MEMBER,), gone=(1, 2)),
    Delta(since=Revision(1, 6), revision=REVISION, secret_generation=1, options=Options()),
    Pace(seconds=2.0, lease=60.0),
    Resync(),
    TryAgain(members=(1, 2)),
    Removed(reason="removed by an operator"),
    ClaimRefused(refused=(RefusedClaim(claim="10.0.0.5", reason="it is another member's"),)),
    Refused(code="frame", reason="what came is no message"),
    Upgrade(version="0.2.0", sha256="ab" * 32, size=9_000_000),
    FetchHistory(request=5, member=3),
]
FROM_AGENT = [
    Hello(version=1, cluster="c", node_id="n", signature="AA==", held=REVISION, secret_generation=2),
    Hello(version=1, cluster="c", node_id="n", signature="AA=="),
    Applied(revision=REVISION),
    Applied(revision=REVISION, fault="no WireGuard"),
    Claim(
        hostname="one",
        operating_system="Debian GNU/Linux 12",
        agent_version="0.1.0",
        backend="kernel",
        listen_port=51820,
        addresses=("192.168.3.4",),
    ),
    Report(
        number=0,
        complete=True,
        revision=REVISION,
        members=(1, 2),
        states=(0, 2),
        endpoints=("", "192.0.2.1:51820"),
        handshakes=(-1, 300_000),
        received=(0, 1),
        sent=(0, 2),
    ),
    Notice(kind="drift", text="the link was gone"),
    UpgradeFailed(version="0.2.0", reason="it did not connect within 60 s"),
    SecretKept(generation=2),
    History(request=5, member=3, tracks=(Track(seconds=60, age=1000, points="AAAAAAAAAAA="),)),
    Findings(
        findings=(Finding(code="rp-filter", text="eth0 drops", remedy="sysctl -w net.ipv4.conf.eth0.rp_filter=2"),)
    ),
    Findings(findings=()),
]
BODIES = [
    EnrolRequest(
        versions=(1,), token="t", node_id="n", name="one", public_key=KEY, verify_key=KEY, interface_id="0" * 16
    ),
    EnrolReply(
        version=1,
        status="approved",
        cluster="c",
        cluster_id="i",
        cluster_name="home",
        console_key="k",
        node_id="n",
        address="fd00::1",
    ),
    Refusal(code="token", reason="the token has expired"),
]


def names(values):
    return [f"{type(value).__name__}-{place}" for place, value in enumerate(values)]


@pytest.mark.parametrize("message", FROM_CONSOLE, ids=names(FROM_CONSOLE))
def test_console_round_trip(message):
    assert parse_from_console(dump(message)) == message
    assert parse_from_console(dump(message).decode()) == message


@pytest.mark.parametrize("message", FROM_AGENT, ids=names(FROM_AGENT))
def test_agent_round_trip(message):
    assert parse_from_agent(dump(message)) == message


@pytest.mark.parametrize("body", BODIES, ids=names(BODIES))
def test_body_round_trip(body):
    assert parse_body(dump(body), type(body)) == body


def any_of(info):
    """A strategy for whatever a field's type lets in."""
    match info:
        case msgspec.inspect.IntType(ge=least, le=most):
            return st.integers(-(2**63) if least is None else least, 2**63 - 1 if most is None else most)
        case msgspec.inspect.FloatType(ge=least, le=most):
            return st.floats(least, most, allow_nan=False, allow_infinity=False)
        case msgspec.inspect.StrType(min_length=least, max_length=most):
            return st.text(min_size=least or 0, max_size=most)
        case msgspec.inspect.BoolType():
            return st.booleans()
        case msgspec.inspect.NoneType():
            return st.none()
        case msgspec.inspect.LiteralType(values=words):
            return st.sampled_from(words)
        case msgspec.inspect.VarTupleType(item_type=item):
            return st.lists(any_of(item), max_size=3).map(tuple)
        case msgspec.inspect.UnionType(types=types):
            return st.one_of(*map(any_of, types))
        case msgspec.inspect.StructType(cls=kind, fields=fields):
            return st.builds(kind, **{field.name: any_of(field.type) for field in fields})
    raise TypeError(info)


def any_message(kind):
    """A strategy for whatever a message's fields let in; the columns of a report are of one length."""
    if kind is not Report:
        return any_of(msgspec.inspect.type_info(kind))
    fields = {field.name: field.type for field in msgspec.inspect.type_info(Report).fields}
    columns = {name: info.item_type for name, info in fields.items() if hasattr(info, "item_type")}
    rows = st.lists(st.tuples(*map(any_of, columns.values())), max_size=4)
    heads = {name: any_of(info) for name, info in fields.items() if name not in columns}

    def build(rows, **heads):
        cells = zip(*rows, strict=True) if rows else ((),) * len(columns)
        return Report(**heads, **dict(zip(columns, map(tuple, cells), strict=True)))

    return st.builds(build, rows=rows, **heads)


@pytest.mark.parametrize("kind", messages.FromConsole.__args__, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_whatever_a_console_can_say_is_understood(kind, data):
    message = data.draw(any_message(kind))
    assert parse_from_console(dump(message)) == message


@pytest.mark.parametrize("kind", messages.FromAgent.__args__, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_whatever_an_agent_can_say_is_understood(kind, data):
    message = data.draw(any_message(kind))
    assert parse_from_agent(dump(message)) == message


def test_every_message_is_tried_above():
    console = {type(message) for message in FROM_CONSOLE}
    agent = {type(message) for message in FROM_AGENT}
    assert console == set(messages.FromConsole.__args__)
    assert agent == set(messages.FromAgent.__args__)


NEW_IN_2 = [
    message
    for message in (*FROM_CONSOLE, *FROM_AGENT)
    if isinstance(message, Upgrade | UpgradeFailed | SecretKept | Findings | FetchHistory | History)
]


@pytest.mark.parametrize("message", NEW_IN_2, ids=names(NEW_IN_2))
def test_what_is_new_in_version_2_is_unknown_in_version_1(message):
    parse = parse_from_agent if message in FROM_AGENT else parse_from_console
    assert parse(dump(message), 2) == message
    with pytest.raises(MessageError, match="Invalid value"):
        parse(dump(message), 1)


OF_1 = [message for message in (*FROM_CONSOLE, *FROM_AGENT) if message not in NEW_IN_2]


@pytest.mark.parametrize("message", OF_1, ids=names(OF_1))
def test_what_version_1_has_is_the_same_in_both(message):
    parse = parse_from_agent if message in FROM_AGENT else parse_from_console
    assert parse(dump(message), 1) == parse(dump(message), 2) == message


@pytest.mark.parametrize(
    ("kind", "place", "field", "value"),
    [
        pytest.param(Report, (), "rtts", [1, 2], id="round trips"),
        pytest.param(Report, (), "losses", [], id="losses, of which nothing is said"),
        pytest.param(Welcome, (), "cluster_id", "i", id="cluster id"),
        pytest.param(Welcome, (), "cluster_name", "home", id="cluster name"),
        pytest.param(Welcome, (), "address", "", id="address, of which nothing is said"),
        pytest.param(Welcome, (), "discovery", "https://discovery.example", id="discovery"),
        pytest.param(Snapshot, ("options",), "probes", False, id="option of a snapshot"),
        pytest.param(Delta, ("options",), "probes", True, id="option of a delta, as it is by default"),
    ],
)
def test_a_field_that_is_new_in_version_2_is_unknown_in_version_1(kind, place, field, value):
    message = next(one for one in reversed(OF_1) if type(one) is kind)
    told = msgspec.json.decode(dump(message))
    reduce(getitem, place, told)[field] = value
    parse = parse_from_agent if kind is Report else parse_from_console
    assert type(parse(msgspec.json.encode(told), 2)) is kind
    with pytest.raises(MessageError, match=f"not a message of this protocol version: .* unknown field `{field}`"):
        parse(msgspec.json.encode(told), 1)


@pytest.mark.parametrize("version", VERSIONS)
def test_columns_of_unequal_length_are_refused_in_every_version(version):
    report = b'{"type":"report","number":0,"complete":true,"revision":[1,1],"members":[1]}'
    with pytest.raises(MessageError, match="all columns must have the length of members"):
        parse_from_agent(report, version)


SETTINGS = [
    Snapshot(revision=REVISION, secret_generation=1, options=Options(probes=False), members=(MEMBER,)),
    Delta(since=Revision(1, 6), revision=REVISION, secret_generation=1, options=Options(probes=False)),
    Delta(since=Revision(1, 6), revision=REVISION, secret_generation=1, changed=(MEMBER,)),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=["snapshot", "delta with options", "delta without"])
def test_an_agent_of_version_1_is_told_settings_without_what_it_does_not_know(settings):
    frame = dump(settings).decode()
    assert messages.settings_for(frame, 2) == frame
    told = parse_from_console(messages.settings_for(frame, 1), 1)
    assert "probes" not in messages.settings_for(frame, 1)
    options = None if settings.options is None else Options()
    assert told == msgspec.structs.replace(settings, options=options)


def test_options_that_nobody_has_switched_do_not_travel():
    snapshot = Snapshot(revision=REVISION, secret_generation=1, options=Options(mtu=1300), members=())
    assert msgspec.json.decode(dump(snapshot))["options"] == {"mtu": 1300}


def test_a_welcome_that_says_nothing_new_is_one_of_version_1():
    """What version 1 does not know is left out, for it takes no unknown field."""
    welcome = Welcome(version=1, status="approved", console_time=1.5, index=0)
    assert not {"cluster_id", "cluster_name", "address"} & set(msgspec.json.decode(dump(welcome)))


@pytest.mark.parametrize("message", FROM_AGENT, ids=names(FROM_AGENT))
def test_the_agents_messages_are_not_the_consoles(message):
    with pytest.raises(MessageError, match="Invalid value"):
        parse_from_console(dump(message))


@pytest.mark.parametrize("message", FROM_AGENT + FROM_CONSOLE, ids=names(FROM_AGENT + FROM_CONSOLE))
def test_an_unknown_field_is_refused_in_every_message(message):
    frame = msgspec.json.encode(msgspec.to_builtins(message) | {"extra": 1})
    parse = parse_from_agent if message in FROM_AGENT else parse_from_console
    with pytest.raises(MessageError, match="unknown field `extra`"):
        parse(frame)


@pytest.mark.parametrize(
    ("frame", "fault"),
    [
        pytest.param(b"", "truncated", id="empty"),
        pytest.param(b"null", "Expected `object`, got `null`", id="null"),
        pytest.param(b"[]", "Expected `object`, got `array`", id="an array"),
        pytest.param(b"{}", "required field `type`", id="no type"),
        pytest.param(b'{"type":"surprise"}', "Invalid value 'surprise'", id="unknown type"),
        pytest.param(b'{"type":1}', "Expected `str`", id="type of a wrong type"),
        pytest.param(b'{"type":"applied"}', "required field `revision`", id="field missing"),
        pytest.param(b'{"type":"applied","revision":7}', "Expected `array`, got `int`", id="wrong value"),
        pytest.param(b'{"type":"applied","revision":[1]}', "at least length 2", id="half a revision"),
        pytest.param(b'{"type":"applied","revision":[1,2,3]}', "at most length 2", id="a revision and a half"),
        pytest.param(b'{"type":"applied","revision":[1,-2]}', ">= 0", id="negative"),
        pytest.param(b'{"type":"applied","revision":[1,99999999999999999999]}', "<= 9223", id="too large a number"),
        pytest.param(b'{"type":"applied","revision":[true,2]}', "got `bool`", id="true is no number"),
        pytest.param(b'{"type":"applied","revision":[1,2]}{}', "trailing characters", id="two frames in one"),
        pytest.param(b'{"type":"notice","kind":"rumour","text":""}', "Invalid enum value 'rumour'", id="not a kind"),
        pytest.param(b"\xff\xfe", "malformed", id="not UTF-8"),
        pytest.param('{"type":"\ud800"}', "surrogates not allowed", id="half a character"),
        pytest.param(b'{"x":' + b'{"a":' * 50_000, "nested too deeply", id="nested without end"),
        pytest.param(
            b'{"type":"report","number":0,"complete":true,"revision":[1,1],"members":[1],"states":[3],'
            b'"endpoints":[""],"handshakes":[-1],"received":[0],"sent":[0]}',
            "<= 2",
            id="a state that does not exist",
        ),
        pytest.param(
            b'{"type":"claim","hostname":"","operating_system":"","agent_version":"","backend":"kernel",'
            b'"listen_port":70000,"addresses":[]}',
            "<= 65535",
            id="a port that does not exist",
        ),
        pytest.param(
            b'{"type":"hello","version":1,"cluster":"c","node_id":"","signature":""}',
            "length >= 1",
            id="no node id",
        ),
        pytest.param(
            b'{"type":"hello","version":1,"cluster":"c","node_id":"%s","signature":""}' % (b"n" * 257),
            "length <= 256",
            id="a node id without end",
        ),
        pytest.param(
            b'{"type":"hello","version":1,"cluster":"c","node_id":"n","signature":"","agent_time":1e308}',
            "<= 253402300799",
            id="a clock beyond all times",
        ),
    ],
)
def test_nonsense_is_refused_in_a_sentence(frame, fault):
    with pytest.raises(MessageError, match=r"^not a message of this protocol version: ") as caught:
        parse_from_agent(frame)
    assert fault in str(caught.value)


@given(st.binary() | st.text())
def test_any_nonsense_is_a_message_error(frame):
    for parse in (parse_from_agent, parse_from_console):
        with pytest.raises(MessageError):
            parse(frame)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
CHANGED = st.sampled_from([(message, field) for message in FROM_AGENT for field in message.__struct_fields__])


@given(CHANGED, JSON)
def test_a_changed_field_is_a_message_or_a_message_error(changed, value):
    message, field = changed
    frame = msgspec.json.encode(msgspec.to_builtins(message) | {field: value})
    try:
        parsed = parse_from_agent(frame)
    except MessageError:
        return
    assert type(parsed) is type(message)


def test_a_token_is_never_printed():
    request = EnrolRequest(
        versions=(1,), token="hush", node_id="n", name="one", public_key=KEY, verify_key=KEY, interface_id="0" * 16
    )
    assert "hush" not in repr(request)


@pytest.mark.parametrize(
    ("offered", "spoken", "version"),
    [
        pytest.param(VERSIONS, VERSIONS, VERSIONS[0], id="today's"),
        pytest.param((2, 1), (2, 1), 2, id="the newest of both"),
        pytest.param((1,), (2, 1), 1, id="an older agent: the console speaks the version before"),
        pytest.param((3, 2), (2, 1), 2, id="a newer agent"),
        pytest.param((1, 9, 2), (2, 1), 2, id="in no order"),
    ],
)
def test_negotiate(offered, spoken, version):
    assert negotiate(offered, spoken) == version


@pytest.mark.parametrize(
    ("offered", "fault"),
    [
        pytest.param((9,), "one end speaks 9, the other 2, 1; upgrade the older one", id="only future ones"),
        pytest.param((), "one end speaks none", id="none at all"),
    ],
)
def test_no_common_version(offered, fault):
    with pytest.raises(MessageError, match=fault):
        negotiate(offered, (2, 1))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"versions": [9], "colour": "red"}', id="unknown fields"),
        pytest.param(b'{"versions": [9]}', id="missing fields"),
    ],
)
def test_a_message_of_a_future_version_is_not_judged_by_its_fields(body):
    with pytest.raises(VersionError, match="one end speaks 9, the other 2, 1; upgrade the older one"):
        parse_body(body, EnrolRequest)


def test_a_message_of_our_version_is_judged_by_its_fields():
    with pytest.raises(MessageError, match="unknown field `colour`") as raised:
        parse_body(b'{"versions": [9, 1], "colour": "red"}', EnrolRequest)
    assert not isinstance(raised.value, VersionError)
    with pytest.raises(MessageError, match="unknown field"):
        parse_body(b'{"deep": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", EnrolRequest)


@given(st.lists(st.text(max_size=20), min_size=4, max_size=4), st.lists(st.text(max_size=20), min_size=4, max_size=4))
def test_no_two_challenges_are_signed_alike(one, other):
    assert (challenge_text(*one) == challenge_text(*other)) == (one == other)


def test_shifting_a_letter_makes_another_challenge():
    assert challenge_text("ab", "c", "n", "x") != challenge_text("a", "bc", "n", "x")


def longest_report(members):
    count = range(members)
    return Report(
        number=2**63 - 1,
        complete=True,
        revision=Revision(2**31, 2**53),
        members=tuple(100_000 + index for index in count),
        states=tuple(2 for _ in count),
        endpoints=tuple("[2001:db8:1111:2222:3333:4444:5555:6666]:51820" for _ in count),
        handshakes=tuple(2**53 for _ in count),
        received=tuple(2**63 - 1 for _ in count),
        sent=tuple(2**63 - 1 for _ in count),
        rtts=tuple(2**31 - 1 for _ in count),
        losses=tuple(1000 for _ in count),
    )


def test_a_report_that_measured_nothing_is_one_of_version_1():
    report = Report(number=0, complete=True, revision=REVISION, members=(1,), states=(1,), endpoints=("",),
                    handshakes=(-1,), received=(0,), sent=(0,))  # fmt: skip
    assert not {"rtts", "losses"} & set(msgspec.json.decode(dump(report)))
    assert parse_from_agent(dump(report), 1) == report


@pytest.mark.parametrize("column", ["rtts", "losses"])
def test_a_column_of_another_length_is_refused(column):
    with pytest.raises(ValueError, match="length of members"):
        Report(number=0, complete=True, revision=REVISION, **{column: (1,)})


@pytest.mark.parametrize("members", [0, 1, 1000])
def test_a_complete_report_fits_into_the_limit(members):
    assert len(dump(longest_report(members))) < frame_limit(members)
    assert frame_limit(0) == FRAME_BASE


def test_revisions_are_ordered_by_epoch_first():
    assert Revision(1, 9) < Revision(2, 1) < Revision(2, 2)
    assert str(Revision(2, 1)) == "2.1"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        pytest.param("not base64!", "the key is not standard base64", id="wrong alphabet"),
        pytest.param("AAAA", "the key must be 32 bytes, got 3", id="too short"),
        pytest.param(KEY[:-2] + "5=", "not standard base64 as WireGuard writes it", id="another spelling"),
    ],
)
def test_bad_keys_are_refused(text, fault):
    with pytest.raises(MessageError, match=fault):
        parse_key(text, "the key")


def test_parse_key():
    assert len(parse_key(KEY, "the key")) == 32
