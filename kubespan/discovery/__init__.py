"""Finding each other: the discovery protocol's service and client (spec/discovery-protocol.md)."""
