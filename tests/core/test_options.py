"""A cluster's options: what is refused, and in which words."""

import msgspec
import pytest

from kubespan.core.options import ClusterOptions, Options


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(Options(), id="as they come"),
        pytest.param(Options(mtu=1280), id="least MTU"),
        pytest.param(Options(mtu=65455), id="greatest MTU"),
        pytest.param(
            Options(
                endpoint_filters=("0.0.0.0/0", "!192.168.0.0/16", "::/0"),
                peer_endpoint_filters=("!10.0.0.1",),
                exclude_advertised_networks=("10.244.3.128/25", "::/0"),
            ),
            id="every list",
        ),
    ],
)
def test_good_options(options):
    options.check()


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        pytest.param(Options(mtu=1279), "KubeSpan link MTU must be at least 1280", id="MTU too small"),
        pytest.param(Options(mtu=65456), "KubeSpan link MTU must be at most 65455", id="MTU too large"),
        pytest.param(Options(endpoint_filters=("/8",)), 'KubeSpan endpoint filter is not valid: "/8"', id="filter"),
        pytest.param(
            Options(peer_endpoint_filters=("!nowhere",)),
            'KubeSpan endpoint filter is not valid: "nowhere"',
            id="peers' filter",
        ),
        pytest.param(
            Options(exclude_advertised_networks=("10.0.0.0/33",)),
            "'10.0.0.0/33' is not a network in CIDR form, such as 10.0.0.0/8",
            id="excluded network",
        ),
        pytest.param(
            ClusterOptions(mtu=1, extra_endpoints=("192.0.2.1",), approved_networks=("10.0.0.0/33",)),
            "KubeSpan link MTU must be at least 1280; "
            "'192.0.2.1' is not an endpoint: write 192.0.2.1:51820 or [2001:db8::1]:51820; "
            "'10.0.0.0/33' is not a network in CIDR form, such as 10.0.0.0/8",
            id="a cluster's own besides",
        ),
        pytest.param(
            Options(enabled=False, mtu=1, endpoint_filters=("a", "b")),
            "KubeSpan link MTU must be at least 1280; "
            'KubeSpan endpoint filter is not valid: "a"; KubeSpan endpoint filter is not valid: "b"',
            id="all faults at once, also where KubeSpan is off",
        ),
    ],
)
def test_bad_options(options, fault):
    with pytest.raises(ValueError) as caught:
        options.check()
    assert str(caught.value) == fault


def test_a_row_holds_what_the_release_before_does_not_know_only_where_somebody_set_it():
    assert set(ClusterOptions().to_row()) == set(Options.__struct_fields__) - {"probes"}
    chosen = ClusterOptions(discovery=False, approved_networks=("10.0.0.0/8",))
    assert msgspec.convert(chosen.to_row(), ClusterOptions) == chosen
