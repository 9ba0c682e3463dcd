"""Browsers' sockets over the real channel layer: idle for long, and over a restart of the server."""

import asyncio

import pytest
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.layers import get_channel_layer
from channels.testing import WebsocketCommunicator

# Channels looks after a connection to the database that another test may have left in its thread.
pytestmark = pytest.mark.django_db

IDLE_SECONDS = 61
PATIENCE = 60


class Listener(AsyncJsonWebsocketConsumer):
    """Passes on what its group hears."""

    groups = ("idle",)

    async def something_changed(self, event):
        await self.send_json(event["number"])


@pytest.fixture
async def listener(valkey):
    communicator = WebsocketCommunicator(Listener.as_asgi(), "/")
    connected, _ = await communicator.connect(PATIENCE)
    assert connected
    yield communicator
    await communicator.disconnect(timeout=PATIENCE)


async def tell(number):
    await get_channel_layer().group_send("idle", {"type": "something.changed", "number": number})


@pytest.mark.slow
async def test_a_consumer_idle_for_a_minute_still_receives(listener):
    await tell(1)
    assert await listener.receive_json_from(timeout=PATIENCE) == 1
    await asyncio.sleep(IDLE_SECONDS)  # not to wait for something: the idling is what is tested
    await tell(2)
    assert await listener.receive_json_from(timeout=PATIENCE) == 2


async def test_a_consumer_receives_again_after_a_restart_of_redis(listener, valkey):
    await tell(1)
    assert await listener.receive_json_from(timeout=PATIENCE) == 1
    valkey.stop()
    valkey.start()
    async with asyncio.timeout(PATIENCE):
        while await listener.receive_nothing(timeout=0.2, interval=0.05):
            await tell(2)  # who listens anew misses what was said before; the pages then ask for a snapshot
    assert await listener.receive_json_from(timeout=PATIENCE) == 2
