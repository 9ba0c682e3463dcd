"""What Talos wrote down of a cluster, as people bring it to the console; much of it must not be kept."""

ID = "8XuV9TZHW08DOk3bVxQjH9ih_TBKjnh-j44tsCLSBzo="
SECRET = "dAmFcyNmDXusqnTSkPJrsgLJ38W8oEEXGZKM0x6Orpc="
TOKEN = "5w2flr.qqsdd2ct1gqmn7o0"
CA_KEY = "LS0tLS1CRUdJTiBFRDI1NTE5IFBSSVZBVEUgS0VZLS0tLS0K"
CONFIGURATION = f"""\
version: v1alpha1
machine:
    type: controlplane
    token: {TOKEN}
    ca: {{crt: aaaa, key: {CA_KEY}}}
    network: {{kubespan: {{enabled: true, mtu: 1380, allowDownPeerBypass: true}}}}
cluster:
    id: {ID}
    secret: {SECRET}
    discovery: {{enabled: true}}
"""
