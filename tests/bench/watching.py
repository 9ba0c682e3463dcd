"""When a cluster's revisions could be read by others, and when their frames passed through Redis."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Self

import redis

LOOK_SECONDS = 0.001
"""Between two looks at the database; a look takes less than a tenth of it."""


class Watch:
    """A context manager: notes when each revision of a cluster was first met with, by CLOCK_MONOTONIC."""

    def __init__(self, cluster: object) -> None:
        self.cluster = cluster.pk
        self._times: dict[int, float] = {}
        self._thread = threading.Thread(target=self.watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(5)

    def __len__(self) -> int:
        return len(self._times)

    def note(self, number: int) -> None:
        """Note it, if it is new."""
        self._times.setdefault(number, time.monotonic())

    def at(self, number: int) -> float:
        """When this revision, or one after it, was met with; raises ValueError."""
        return min(at for noted, at in list(self._times.items()) if noted >= number)

    def watch(self) -> None:
        """Note until the end, in a thread."""
        raise NotImplementedError


class Commits(Watch):
    """What can be read from the database, by many looks at it: each time is late by one look at most."""

    def __init__(self, cluster: object) -> None:
        super().__init__(cluster)
        self._ended = threading.Event()

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        super().__exit__(*exc)

    def watch(self) -> None:
        from django.db import connection  # noqa: PLC0415 - the settings could not be read before there is a console

        with contextlib.closing(connection), connection.cursor() as cursor:
            while not self._ended.wait(LOOK_SECONDS):
                cursor.execute("SELECT revision FROM nodes_cluster WHERE id = %s", [self.cluster])
                for (number,) in cursor.fetchall():
                    self.note(number)


class Frames(Watch):
    """What is sent to all agents of the cluster."""

    def __enter__(self) -> Self:
        from django.conf import settings  # noqa: PLC0415

        from nodes import fanout  # noqa: PLC0415

        self._client = redis.Redis.from_url(settings.REDIS_URL)
        self._pubsub = self._client.pubsub()
        self._pubsub.subscribe(fanout.channel_name(self.cluster))
        return super().__enter__()

    def __exit__(self, *exc: object) -> None:
        self._pubsub.unsubscribe()
        super().__exit__(*exc)
        self._client.close()

    def watch(self) -> None:
        from nodes import fanout  # noqa: PLC0415

        with contextlib.suppress(redis.RedisError, OSError, ValueError):
            for message in self._pubsub.listen():
                if message["type"] == "message":
                    parcel = fanout.parse_parcel(message["data"])
                    if isinstance(parcel, fanout.News):
                        self.note(parcel.revision.number)
