"""Where a discovery service is: spec/kubespan.md §3.4."""

import pytest

from kubespan.core.service_endpoint import PUBLIC_SERVICE, ServiceEndpoint


@pytest.mark.parametrize(
    ("url", "target", "insecure"),
    [
        ("https://h:6443", "h:6443", False),
        ("https://h", "h:443", False),
        ("grpc://h", "h:443", False),
        ("http://h:8080", "h:8080", True),
        ("http://h", "h:80", True),
        ("https://[::1]:6443", "[::1]:6443", False),
        ("http://[::1]", "[::1]:80", True),
        ("https://h:6443/api/v1", "h:6443", False),
        ("https://h:6443/?k=v", "h:6443", False),
        (" https://h \n", "h:443", False),
        (PUBLIC_SERVICE, "discovery.talos.dev:443", False),
    ],
)
def test_parse(url, target, insecure):
    endpoint = ServiceEndpoint.parse(url)
    assert (endpoint.target, endpoint.insecure) == (target, insecure)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        pytest.param("", "scheme is required", id="nothing"),
        pytest.param("h", "scheme is required", id="a name alone"),
        pytest.param("h:3000", "scheme is required", id="a name and a port"),
        pytest.param("ftp://h", "scheme must be http://, https:// or grpc://", id="another scheme"),
        pytest.param("https://", "host is required", id="no host"),
        pytest.param("https://:3000", "host is required", id="a port alone"),
        pytest.param("https://h:port", "not a URL", id="no number for a port"),
        pytest.param("https://h:99999", "not a URL", id="a port that there is none of"),
        pytest.param("https://h:0", "port must be a number from 1 to 65535", id="port nought"),
        pytest.param("https://[::1", "not a URL", id="half an address"),
        pytest.param("https://a b", "host is required", id="white space"),
    ],
)
def test_what_is_wrong_is_named(url, sentence):
    with pytest.raises(ValueError, match=sentence):
        ServiceEndpoint.parse(url)
