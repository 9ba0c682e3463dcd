"""spec/kubespan.md §3.4: the table of upstream's tests, and what else an operator may type."""

from __future__ import annotations

import pytest

from kubespan.core.service_endpoint import ServiceEndpoint


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
    ],
)
def test_parse(url, target, insecure):
    endpoint = ServiceEndpoint.parse(url)
    assert (endpoint.target, endpoint.insecure) == (target, insecure)


@pytest.mark.parametrize(
    "url", ["", "h", "h:443", "ftp://h", "https://", "https://h:99999", "https://h:0", "https://[::1"]
)
def test_what_is_no_endpoint(url):
    with pytest.raises(ValueError, match="the endpoint"):
        ServiceEndpoint.parse(url)
