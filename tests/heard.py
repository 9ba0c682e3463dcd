"""What was published on channels of Redis: all of it, and nothing is waited for that does not come."""

from __future__ import annotations

from redis.client import PubSub


def heard_by(subscription: PubSub) -> list[bytes]:
    """What it heard since it was last asked: on one connection the answer to a ping comes behind all that was before.

    Once this returned, the subscription is in force.
    """
    subscription.ping()
    found = []
    for message in subscription.listen():
        if message["type"] == "pong":
            break
        if message["type"].endswith("message"):
            found.append(message["data"])
    return found
