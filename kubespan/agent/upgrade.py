"""Becoming another agent: what the console offers is fetched, checked, put in place on trial, and started.

The machine's mesh is not touched by any of it. What happens when the new agent does not reach its console is decided by
the launcher, which is not part of what was fetched (see `home`).
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Protocol

import structlog

from kubespan import __version__
from kubespan.agent.fetch import UpgradeError
from kubespan.agent.home import PROGRAMS, Home, HomeError
from kubespan.agent.store import Store
from kubespan.agent.talk import Talk
from kubespan.core.messages import Upgrade, UpgradeFailed

log = structlog.get_logger()


class Fetch(Protocol):
    """Gets what is offered into the home, whole and checked."""

    async def __call__(self, home: Home, offered: Upgrade) -> None:
        """Raises UpgradeError."""


class Succession:
    """The running agent's part in it."""

    def __init__(self, home: Home | None, talk: Talk, fetch: Fetch) -> None:
        self._home = home
        self._talk = talk
        self._fetch = fetch
        self._telling = False
        self._on_trial = False

    @property
    def possible(self) -> bool:
        """Whether this agent is one that another may take the place of."""
        return self._home is not None

    def begin(self) -> None:
        """See whether this agent is on trial, and have the console told of one that was put away for this one."""
        if self._home is None:
            return
        # Now, for later it may be another one, which this one has just put in place.
        self._on_trial = self._home.on_trial()
        failure = self._home.failure()
        if failure is not None:
            self._telling = True
            self._talk.failed_upgrade = UpgradeFailed(version=failure.version, reason=failure.reason)

    def look(self) -> None:
        """After each look at the machine that went well: this agent works, once the console has told it all."""
        if self._home is None:
            return
        try:
            if self._on_trial and self._talk.informed:
                self._on_trial = False
                self._home.confirm()
                log.info("this agent is connected, and stays")
            if self._telling and self._talk.failed_upgrade is None:
                self._telling = False
                self._home.forget_failure()
        except (HomeError, OSError) as error:
            log.warning("the agent's own directory cannot be written", reason=str(error))

    async def await_successor(self) -> None:
        """Do what the console asks for; ends when another agent is in place."""
        while True:
            await self._talk.upgrade_wanted.wait()
            offered = self._talk.upgrade
            if offered is not None and offered.version != __version__:
                try:
                    await self._make_way(offered)
                except (UpgradeError, HomeError) as error:
                    log.warning("not upgraded", version=offered.version, reason=str(error))
                    self._talk.failed_upgrade = UpgradeFailed(version=offered.version, reason=str(error))
                    self._talk.sayable.set()
                else:
                    log.info("making way for another agent", version=offered.version)
                    return
            # What was asked for meanwhile was the same again; the console asks anew for as long as it wants it.
            self._talk.upgrade_wanted.clear()

    async def _make_way(self, offered: Upgrade) -> None:
        if self._home is None:
            raise UpgradeError(
                "this agent was not installed by the console's line: upgrade it the way that it was installed"
            )
        if self._on_trial:
            raise UpgradeError("the agent that runs is on trial itself")
        await self._fetch(self._home, offered)
        self._home.stage(offered.sha256, offered.version)


class FetchApart:
    """Fetches in a process of its own, so that this one stays as small as it is, and can stop at any time."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def __call__(self, home: Home, offered: Upgrade) -> None:
        """Raises UpgradeError."""
        words = [offered.version, offered.sha256, str(offered.size), "--state-dir", str(self._store.directory)]
        archive = home.archive(home.present())
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", str(archive), PROGRAMS[0], "fetch", *words,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            _, said = await process.communicate()
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise
        if process.returncode:
            lines = said.decode(errors="replace").strip().splitlines() or ["it could not be fetched"]
            raise UpgradeError(lines[-1].removeprefix("Error: "))
