"""Connections to Redis: few, whatever happens at once."""

import asyncio

from nodes.connections import CONNECTIONS, async_redis


async def test_a_thousand_commands_at_once_share_a_few_connections(valkey):
    with valkey.client() as look:
        before = look.info("clients")["connected_clients"]
        client = async_redis()
        assert all(await asyncio.gather(*(client.ping() for _ in range(1000))))
        assert look.info("clients")["connected_clients"] <= before + CONNECTIONS
        await client.aclose()
