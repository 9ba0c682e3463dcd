"""Facts → findings: what would keep the mesh from working here, each with its remedy. No IO, no clock.

Every remedy is a command, or begins with one: it is meant to be copied and run as root.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network

from kubespan.agent.preflight.facts import Facts, Holder, Mine, OtherPeer, OtherWireGuard, PolicyRule, TableRoute
from kubespan.agent.preflight.rulesets import Arrival, Block, Ruleset
from kubespan.core.endpoint import IPNetwork
from kubespan.core.findings import worst_first
from kubespan.core.messages import Finding
from kubespan.core.plan import ROUTE_TABLE, RULE_PRIORITY, TO_WIREGUARD

REVERSE_PATH: Mapping[int, str] = {1: "strict", 2: "loose"}
"""rp_filter of ip-sysctl."""
SYSCTL_FILE = "/etc/sysctl.d/99-z-kubespan.conf"
NETWORKD_DROP_IN = "/etc/systemd/networkd.conf.d/kubespan.conf"
NETWORKD_NETWORK = "/etc/systemd/network/00-kubespan.network"
NETWORK_MANAGER_DROP_IN = "/etc/NetworkManager/conf.d/90-kubespan.conf"
FIREWALLD_CONF = "/etc/firewalld/firewalld.conf"

MOVED_PRIORITY = 32600
"""Where rules go that stood before ours: behind it, and before the kernel's own of the table main (32766)."""
TABLE_LOCAL, TABLE_MAIN = 255, 254
TABLE_NAMES: Mapping[int, str] = {TABLE_LOCAL: "local", TABLE_MAIN: "main", 253: "default"}
SKEW_SECONDS = 60.0
"""A clock that is off by more is worth a word; certificates and logs suffer before WireGuard does."""
SET_BACK_SECONDS = 5.0
IPTABLES_CHAINS: Mapping[str, str] = {"ip": "iptables", "ip6": "ip6tables"}


def find(facts: Facts) -> tuple[Finding, ...]:
    """List all findings, what stops the mesh first."""
    return worst_first(
        finding
        for judge in (
            find_missing,
            find_port_taken,
            find_reverse_path,
            find_reverse_path_rules,
            find_closed_firewall,
            find_networkd,
            find_network_manager,
            find_other_wireguards,
            find_taken_addresses,
            find_rules_before,
            find_taken_table,
            find_clock,
        )
        for finding in judge(facts)
    )


def find_missing(facts: Facts) -> Iterator[Finding]:
    """Programs without which nothing works."""
    if not facts.has_nft:
        yield Finding(
            code="nft-missing",
            text="The program nft is not installed: nothing can be forced into the tunnel.",
            remedy=_install(facts, "nftables"),
        )
    if not facts.has_wireguard:
        what = {
            "kernel": "this kernel has no WireGuard, and the data plane is to be the kernel's",
            "userspace": "wireguard-go is not installed, and the data plane is to be its",
        }.get(facts.mine.data_plane, "this kernel has no WireGuard, and wireguard-go is not installed")
        remedy = "modprobe wireguard" if facts.mine.data_plane == "kernel" else _install(facts, "wireguard-go")
        yield Finding(code="wireguard-missing", text=f"{_sentence(what)}.", remedy=remedy)


def _install(facts: Facts, package: str) -> str:
    return f"{facts.installer} {package}" if facts.installer else f"install the package {package}"


def find_port_taken(facts: Facts) -> Iterator[Finding]:
    """WireGuard's UDP port is somebody else's."""
    port = facts.mine.listen_port
    for holder in facts.port_holders:
        yield Finding(
            code="port-taken",
            text=f"UDP port {port} is taken by {_name_holder(holder)}; WireGuard cannot listen there.",
            remedy=f"{_end_holder(holder, facts.free_port)}  # or enrol with --listen-port {facts.free_port}",
        )


def _name_holder(holder: Holder) -> str:
    if holder.interface:
        return f"the WireGuard interface {holder.interface}"
    if not holder.process:
        return "the kernel, or a process that cannot be seen"
    of = f" of {holder.unit}" if holder.unit else ""
    return f"{holder.name or 'a process'} (process {holder.process}{of})"


def _end_holder(holder: Holder, free_port: int) -> str:
    if holder.interface:
        return f"wg set {holder.interface} listen-port {free_port}"
    if holder.unit:
        return f"systemctl disable --now {holder.unit}"
    return f"kill {holder.process}" if holder.process else "ss -ulpn"


def find_reverse_path(facts: Facts) -> Iterator[Finding]:
    """The kernel drops what comes out of the tunnel: by its main table, answers would leave by another interface.

    Our link's own switch is the agent's to turn off, and it does; but of `all` and the link's own the greater one
    holds. Loose is as bad as strict here (`kubespan.agent.netlink`).
    """
    of_all, link = facts.reverse_path.get("all", 0), facts.mine.link
    own = facts.reverse_path.get(link, 0)
    if not of_all and not own:
        return
    by, value = ("all", of_all) if of_all else (link, own)
    # The other interfaces keep the check that they have through `all`.
    kept = {
        name: of_all
        for name, of_one in facts.reverse_path.items()
        if name not in {"all", link, "lo"} and of_one < of_all
    }
    lines = [f"net.ipv4.conf.{name}.rp_filter = {number}" for name, number in (kept | {"all": 0, link: 0}).items()]
    yield Finding(
        code="rp-filter",
        text=f"The kernel drops what peers send from their IPv4 addresses through {link}: "
        f"net.ipv4.conf.{by}.rp_filter is {value} ({REVERSE_PATH.get(value, 'unknown')}).",
        remedy=f"printf '%s\\n' {' '.join(map(repr, lines))} > {SYSCTL_FILE} && sysctl -e -p {SYSCTL_FILE}",
    )


def find_reverse_path_rules(facts: Facts) -> Iterator[Finding]:
    """A firewall does the same by a rule of its own; firewalld's default does, for IPv6."""
    ruleset = Ruleset(facts.ruleset)
    for family in facts.families:
        for block in ruleset.reverse_path_rules(family):
            firewalld = block.table == "firewalld"
            where = "firewalld's reverse path filter" if firewalld else f"a reverse path rule in {_name_chain(block)}"
            yield Finding(
                code="rp-filter-rule",
                text=f"{_sentence(where)} drops what peers send from their IPv{family} addresses through "
                f"{facts.mine.link}.",
                remedy=f"sed -i 's/^IPv6_rpfilter=.*/IPv6_rpfilter=no/' {FIREWALLD_CONF} && firewall-cmd --reload"
                if firewalld
                else _delete_rule(block),
            )


def _delete_rule(block: Block) -> str:
    chain = block.rule_chain or block.chain
    return (
        f"nft delete rule {block.family} {block.table} {chain} handle {block.handle}"
        "  # and in the file that the rules are loaded from"
    )


def _name_chain(block: Block) -> str:
    return f"the chain {block.rule_chain or block.chain} of nftables' table {block.family} {block.table}"


def find_closed_firewall(facts: Facts) -> Iterator[Finding]:
    """The port is not open to peers that call first, or not even answers come in."""
    ruleset = Ruleset(facts.ruleset)
    found: dict[Block, tuple[set[int], bool]] = {}
    for family in facts.families:
        for interface in facts.interfaces or ("",):
            arrival = Arrival(family, interface, facts.mine.listen_port)
            answers = {_base(block) for block in ruleset.blocks(_replace_state(arrival, "established"))}
            for block in ruleset.blocks(arrival):
                families, closed = found.setdefault(block, (set(), _base(block) in answers))
                families.add(family)
                found[block] = families, closed
    for text, remedies in _one_each(found, ruleset, facts.mine.listen_port).items():
        code, words = text
        remedy = " && ".join(dict.fromkeys(remedies))
        lasting = (
            "" if remedy.startswith(("ufw", "firewall-cmd")) else "  # and in the file that the rules are loaded from"
        )
        yield Finding(code=code, text=words, remedy=remedy + lasting)


def _base(block: Block) -> tuple[str, str, str]:
    return block.family, block.table, block.chain


def _replace_state(arrival: Arrival, state: str) -> Arrival:
    return Arrival(arrival.family, arrival.interface, arrival.port, state)


def _one_each(
    found: Mapping[Block, tuple[set[int], bool]], ruleset: Ruleset, port: int
) -> dict[tuple[str, str], list[str]]:
    """One sentence for each firewall, with the commands that open it: ufw has chains for each family, but one door."""
    said: dict[tuple[str, str], list[str]] = {}
    for block, (_, closed) in found.items():
        who, remedy = _open_firewall(block, ruleset, port)
        effect = "nor even answers to this machine" if closed else "unless this machine called first"
        text = f"{_sentence(who)} may drop what peers send to UDP port {port}, {effect}."
        said.setdefault(("firewall-closed" if closed else "firewall", text), []).append(remedy)
    return said


def _open_firewall(block: Block, ruleset: Ruleset, port: int) -> tuple[str, str]:
    if block.table == "firewalld":
        return "the firewall firewalld", f"firewall-cmd --permanent --add-port={port}/udp && firewall-cmd --reload"
    program = IPTABLES_CHAINS.get(block.family)
    if program and block.table == "filter" and block.chain == "INPUT":
        if ruleset.has_chain(block.family, block.table, f"ufw{'6' if program == 'ip6tables' else ''}-user-input"):
            return "the firewall ufw", f"ufw allow {port}/udp"
        return f"the firewall of {program}", f"{program} -I INPUT -p udp --dport {port} -j ACCEPT"
    place = f"{block.family} {block.table} {block.chain}"
    return (
        f"the chain {block.chain} of nftables' table {block.family} {block.table}",
        f"nft insert rule {place} udp dport {port} accept",
    )


def find_networkd(facts: Facts) -> Iterator[Finding]:
    """systemd-networkd takes what it did not make for a mistake."""
    networkd, link = facts.networkd, facts.mine.link
    if networkd is None:
        return
    kinds = [(networkd.manages_rules, "rules"), (networkd.manages_routes, "routes")]
    if managed := " and ".join(word for manages, word in kinds if manages):
        yield Finding(
            code="networkd",
            text=f"systemd-networkd removes {managed} that it did not make, each time it starts or configures a link.",
            remedy=f"mkdir -p {_folder(NETWORKD_DROP_IN)} && printf "
            "'[Network]\\nManageForeignRoutingPolicyRules=no\\nManageForeignRoutes=no\\n' "
            f"> {NETWORKD_DROP_IN} && systemctl try-restart systemd-networkd",
        )
    if networkd.claimed_by:
        yield Finding(
            code="networkd-link",
            text=f"systemd-networkd configures {link} by {networkd.claimed_by}, and so removes its address and routes.",
            remedy=f"printf '[Match]\\nName={link}\\n\\n[Link]\\nUnmanaged=yes\\n' > {NETWORKD_NETWORK} "
            "&& networkctl reload",
        )


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def find_network_manager(facts: Facts) -> Iterator[Finding]:
    """NetworkManager may take up what it did not make."""
    if facts.network_manager:
        link = facts.mine.link
        yield Finding(
            code="network-manager",
            text=f"NetworkManager is not told to leave {link} alone: it may remove its addresses, or take it down.",
            remedy=f"printf '[keyfile]\\nunmanaged-devices+=interface-name:{link}\\n' > {NETWORK_MANAGER_DROP_IN} "
            "&& nmcli general reload conf",
        )


def find_other_wireguards(facts: Facts) -> Iterator[Finding]:
    """Another WireGuard interface has ranges in which members of this mesh lie."""
    ours = dict(facts.mine.destinations)
    if facts.mine.prefix is not None:
        ours[facts.mine.prefix] = "the mesh itself"
    for other in facts.wireguards:
        for peer in other.peers:
            if taken := {mine: who for mine, who in ours.items() if _overlaps(peer.allowed_ips, mine)}:
                yield _overlapping(other, peer, taken)


def _overlaps(allowed: Sequence[IPNetwork], mine: IPNetwork) -> bool:
    # A tunnel for everything gives way to ours where rules come in the right order: `find_rules_before` looks at that.
    return any(theirs.prefixlen and theirs.version == mine.version and theirs.overlaps(mine) for theirs in allowed)


def _overlapping(other: OtherWireGuard, peer: OtherPeer, taken: Mapping[IPNetwork, str]) -> Finding:
    first, who = next(iter(taken.items()))
    more = f" and {len(taken) - 1} more" if len(taken) > 1 else ""
    left = [part for network in peer.allowed_ips for part in _without(network, list(taken))]
    return Finding(
        code="wireguard-overlap",
        text=f"The WireGuard interface {other.name} has ranges for {first} ({who}){more}: this mesh takes them over, "
        "and both tunnels want the traffic.",
        remedy=f"wg set {other.name} peer {peer.public_key} allowed-ips {shell(','.join(map(str, left)))}"
        f"  # and its AllowedIPs in /etc/wireguard/{other.name}.conf",
    )


def shell(text: str) -> str:
    """Write a word for a shell: an empty one must be there too."""
    return text or "''"


def _without(network: IPNetwork, holes: Sequence[IPNetwork]) -> list[IPNetwork]:
    """What is left of a network; one that is wholly taken leaves nothing."""
    left = [network]
    if not network.prefixlen:
        return left
    for hole in holes:
        left = [part for whole in left for part in _cut(whole, hole)]
    return left


def _cut(whole: IPNetwork, hole: IPNetwork) -> list[IPNetwork]:
    match whole, hole:
        case (IPv4Network(), IPv4Network()) | (IPv6Network(), IPv6Network()):
            if not whole.overlaps(hole):
                return [whole]
            if whole.subnet_of(hole):  # type: ignore[arg-type]
                return []
            return sorted(whole.address_exclude(hole))  # type: ignore[arg-type]
    return [whole]


def find_taken_addresses(facts: Facts) -> Iterator[Finding]:
    """Another interface has an address of our own range."""
    prefix = facts.mine.prefix
    for one in facts.addresses:
        if prefix is not None and one.interface != facts.mine.link and one.address in prefix:
            yield Finding(
                code="address-overlap",
                text=f"The interface {one.interface} has {one.address}, an address of this mesh ({prefix}).",
                remedy=f"ip address del {one.address}/{one.length} dev {one.interface}",
            )


def find_rules_before(facts: Facts) -> Iterator[Finding]:
    """A rule that comes before ours and takes what is meant for the tunnel."""
    number = 0
    for rule in facts.rules:
        if rule.priority > RULE_PRIORITY or not _may_take(rule):
            continue
        takes_all, who = _taken_by(rule, facts)
        if not who:
            continue
        words = describe(rule)
        ip = "ip -6 rule" if rule.family == 6 else "ip rule"  # noqa: PLR2004 - IPv6
        if rule.further:
            remedy = f"{ip} del priority {rule.priority}  # and add it again behind {RULE_PRIORITY}"
        else:
            moved = f"{ip} add {words} priority {MOVED_PRIORITY + number}"
            remedy = f"{moved} && {ip} del {words} priority {rule.priority}"
        number += 1
        yield Finding(
            code="rule-before" if takes_all else "rule-aside",
            text=f"The rule {rule.priority} of IPv{rule.family} ({words}) comes before the mesh's {RULE_PRIORITY} and "
            f"takes what is meant for {who}.",
            remedy=remedy,
        )


def _may_take(rule: PolicyRule) -> bool:
    """Say whether a packet of ours, made here and marked for the tunnel, may meet the rule."""
    if rule.incoming not in {"", "lo"} or rule.action == "nop" or rule.table in {TABLE_LOCAL, ROUTE_TABLE}:
        return False
    if rule.mark is None:
        return not rule.inverted or rule.source is not None or rule.destination is not None
    return ((TO_WIREGUARD & rule.mask) == rule.mark) is not rule.inverted


def _taken_by(rule: PolicyRule, facts: Facts) -> tuple[bool, str]:
    """Whether it takes everything, and what it takes in words; empty for nothing of ours."""
    whole = rule.source is None and rule.destination is None and not rule.further
    if rule.source is not None and not any(one.address in rule.source for one in facts.addresses):
        return False, ""
    if rule.action != "lookup":
        return whole, "the mesh"
    found = [route for route in facts.routes if (route.family, route.table) == (rule.family, rule.table)]
    shortest = -1 if rule.suppress_length is None else rule.suppress_length
    found = [route for route in found if route.destination.prefixlen > shortest and route.interface != facts.mine.link]
    if any(not route.destination.prefixlen for route in found) and rule.destination is None:
        return whole, "the mesh"
    theirs = [route.destination for route in found]
    if rule.destination is not None:
        theirs = [rule.destination]
    reached = [
        f"{mine} ({who})"
        for mine, who in facts.mine.destinations.items()
        if any(mine.version == one.version and mine.overlaps(one) for one in theirs)
    ]
    return whole and bool(reached), reached[0] if reached else ""


def describe(rule: PolicyRule) -> str:
    """Write a rule in the words of `ip rule`, without its priority."""
    words = ["not"] if rule.inverted else []
    words += ["from", str(rule.source) if rule.source else "all"]
    if rule.destination:
        words += ["to", str(rule.destination)]
    if rule.mark is not None:
        words += ["fwmark", f"{rule.mark:#x}" + ("" if rule.mask == 0xFFFFFFFF else f"/{rule.mask:#x}")]  # noqa: PLR2004
    if rule.incoming:
        words += ["iif", rule.incoming]
    words += ["lookup", TABLE_NAMES.get(rule.table, str(rule.table))] if rule.action == "lookup" else [rule.action]
    if rule.suppress_length is not None:
        words += ["suppress_prefixlength", str(rule.suppress_length)]
    return " ".join(words)


def find_taken_table(facts: Facts) -> Iterator[Finding]:
    """Our routing table has somebody else's routes in it."""
    for route in facts.routes:
        if route.table != ROUTE_TABLE or route.interface == facts.mine.link:
            continue
        words = describe_route(route)
        yield Finding(
            code="table-taken",
            text=f"The routing table {ROUTE_TABLE}, which the mesh uses, has a route of somebody else ({words}).",
            remedy=f"ip {'-6 ' if route.family == 6 else ''}route del {words} table {ROUTE_TABLE}",  # noqa: PLR2004
        )
    for rule in facts.rules:
        if rule.table == ROUTE_TABLE and rule.action == "lookup" and rule.mark != TO_WIREGUARD:
            ip = "ip -6 rule" if rule.family == 6 else "ip rule"  # noqa: PLR2004
            yield Finding(
                code="table-taken",
                text=f"The rule {rule.priority} of IPv{rule.family} ({describe(rule)}) sends other traffic to the "
                f"mesh's routing table {ROUTE_TABLE}.",
                remedy=f"{ip} del {describe(rule)} priority {rule.priority}",
            )


def describe_route(route: TableRoute) -> str:
    """Write a route in the words of `ip route`, without its table."""
    words = ["default" if not route.destination.prefixlen else str(route.destination)]
    if route.gateway:
        words += ["via", route.gateway]
    if route.interface:
        words += ["dev", route.interface]
    if route.metric:
        words += ["metric", str(route.metric)]
    return " ".join(words)


def find_clock(facts: Facts) -> Iterator[Finding]:
    """A clock that is off is said, and is never an error; one that was set back silences WireGuard."""
    if facts.skew is not None and abs(facts.skew) > SKEW_SECONDS:
        way = "ahead of" if facts.skew > 0 else "behind"
        yield Finding(
            code="clock-skew",
            text=f"The clock of this machine is {abs(facts.skew):.0f} s {way} the console's.",
            remedy=_set_clock(facts, -facts.skew),
        )
    if facts.set_back > SET_BACK_SECONDS:
        yield Finding(
            code="clock-set-back",
            text=f"The clock of this machine was set back by at least {facts.set_back:.0f} s: peers refuse its "
            "handshakes, which seem to be old ones, until it has caught up.",
            remedy=_set_clock(facts, facts.set_back),
        )


def _set_clock(facts: Facts, seconds: float) -> str:
    """Where systemd runs, the network tells the time; elsewhere the clock is set by what it is off, once."""
    if facts.has_systemd:
        return "timedatectl set-ntp true"
    return f'date -u -s "@$(($(date +%s) {seconds:+.0f}))"'


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


__all__ = ["Mine", "find"]
