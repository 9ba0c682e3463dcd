"""One agent's connection: challenge, hello, welcome, and then two directions that do not wait for each other.

What the agent sends is read here and handed to reports or the ledger, neither of which waits for a database. What it is
sent is queued at its `Socket` and written by that one's writer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
import redis
import structlog

from kubespan.core import messages
from kubespan.core.endpoint import IPAddress, parse_address
from kubespan.core.messages import (
    FRAME_BASE,
    VERSIONS,
    Applied,
    Claim,
    ClusterSecret,
    FetchHistory,
    Findings,
    FromAgent,
    Hello,
    History,
    MessageError,
    Notice,
    Removed,
    Report,
    SecretKept,
    UpgradeFailed,
    dump,
    frame_limit,
    parse_from_agent,
)
from nodes.agents.gate import TOGETHER, Gate
from nodes.agents.history import Questions, Told, answer
from nodes.agents.hub import Hub
from nodes.agents.ledger import Ledger
from nodes.agents.reports import Line, Reports
from nodes.agents.rows import AWAY, DatabaseRows, in_thread
from nodes.agents.sockets import SEND_SECONDS, Socket, Stalled
from nodes.connections import async_redis
from nodes.counters import Tally
from nodes.fanout import CLOSE_LATER, CLOSE_POLICY, CLOSE_REMOVED, CLOSE_REPLACED, CLOSE_TOO_BIG, Ask, Watch
from nodes.services import rotation, sessions
from nodes.services.refused import Refused
from nodes.services.rotation import Holding
from nodes.services.sessions import Greeting, Session

HISTORY_SINCE = 2
"""The version of the protocol that has FetchHistory."""

HELLO_SECONDS = 10.0
"""For the answer to the challenge."""

ADMISSIONS = 2 * TOGETHER
"""Connections that are let in at a time: a console that comes back meets a thousand agents at once."""

STRANGERS = 2000
"""Connections that have not said who they are; more must come back later."""

STRANGERS_EACH = 1000
"""Those of one address: it must not have all the places."""

STOP_SECONDS = 5.0
"""For conversations to end when the process does."""

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]

log = structlog.get_logger(__name__)


class End:
    """What all agents' sockets of this process share."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        tally = Tally()
        self.tally = tally
        self.ledger = Ledger(tally)
        self.reports = Reports(self.ledger, tally)
        self.hub = Hub(DatabaseRows(), self)
        self.gate = Gate()
        self.redis = async_redis()
        self.admission = asyncio.Semaphore(ADMISSIONS)
        self.strangers: Counter[IPAddress | None] = Counter()
        self.conversations: dict[Socket, Conversation] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._served: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin to listen and to write."""
        self.hub.start()
        self.spawn(self.reports.write_always())
        self.spawn(self.ledger.write_always())

    async def stop(self) -> None:
        """Send the agents elsewhere, write the last of what they said."""
        self.hub.dismiss()
        if self._served:
            # Each takes leave with Redis, so this comes before that is let go of.
            await asyncio.wait(self._served, timeout=STOP_SECONDS)
        await self.hub.stop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.ledger.write()
        await self.ledger.write_claims()
        await self.reports.stop()
        await self.redis.aclose()

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """While the present task serves a connection, the stop waits for it."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for the type checker: a coroutine asks
        self._served.add(task)
        try:
            yield
        finally:
            self._served.discard(task)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run beside everything else, until the stop."""
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # What the hub hears (nodes.agents.hub.Listener).

    def settle(self, socket: Socket) -> None:
        """A node's standing changed."""
        if (conversation := self.conversations.get(socket)) is not None:
            self.spawn(conversation.settle_again())

    def resubscribed(self) -> None:
        """Redis may have been emptied."""
        self.reports.write_all()

    def moved(self, cluster_pk: int) -> None:
        """A cluster's members or options changed."""
        self.reports.moved(cluster_pk)

    def hand_out(self, cluster_pk: int) -> None:
        """Nodes of a cluster may lack a secret."""
        self.spawn(self._hand_out(cluster_pk))

    async def _hand_out(self, cluster_pk: int) -> None:
        conversations = {
            socket.node: conversation
            for socket, conversation in self.conversations.items()
            if socket.cluster == cluster_pk and socket.approved and socket.settled
        }
        held = {node: conversation.holding for node, conversation in conversations.items()}
        if not held:
            return
        try:
            lacked = await in_thread(rotation.seal_all, cluster_pk, held)
        except AWAY as error:
            log.warning("secrets not handed out yet", cluster=cluster_pk, error=str(error))
            return
        for node, secrets in lacked.items():
            conversations[node].give(secrets, held[node])

    def asked(self, socket: Socket, ask: Ask) -> None:
        """Somebody wants a link's past."""
        if (conversation := self.conversations.get(socket)) is not None and socket.approved:
            conversation.ask(ask)

    def tell(self, node_pk: int, request: int, told: Told) -> None:
        """Bring an agent's answer to who asked."""
        self.spawn(self._tell(node_pk, request, told))

    async def _tell(self, node_pk: int, request: int, told: Told) -> None:
        try:
            await answer(self.redis, node_pk, request, told)
        except (redis.RedisError, OSError) as error:
            log.warning("a history was not brought to who asked", node=node_pk, error=str(error))

    def watched(self, cluster_pk: int, watch: Watch) -> None:
        """A page looks."""
        self.reports.watch(cluster_pk, watch)


class _Ended(Exception):
    """The agent went away."""


class _Bad(Exception):
    """The agent sent what it must not; it is told so, and the connection closed."""

    def __init__(self, code: str, reason: str, close: int = CLOSE_POLICY) -> None:
        super().__init__(reason)
        self.frame = dump(messages.Refused(code=code, reason=reason))
        self.code = code
        self.close = close


class Conversation:
    """One connection from accept to close."""

    def __init__(self, end: End, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        self._end = end
        self._receive = receive
        self._send = send
        self._peer = peer_address(scope)
        self._limit = FRAME_BASE
        self._version = VERSIONS[0]
        self._settling = asyncio.Lock()
        self._questions = Questions()
        self._nonce = ""
        self._heard_at = 0.0
        self._hello: Hello
        self._session: Session
        self._socket: Socket
        self._line: Line

    async def run(self) -> None:
        """Serve it to its end."""
        if (await self._receive())["type"] != "websocket.connect":
            return
        await self._send({"type": "websocket.accept"})
        try:
            await self._begin()
        except _Ended:
            return
        except _Bad as fault:
            await self._refuse(fault)
            return
        except Refused as refusal:
            self._end.tally[f"hello.{refusal.code}"] += 1
            await self._close(CLOSE_POLICY if refusal.code == "version" else CLOSE_REMOVED, _farewell(refusal))
            return
        except AWAY as error:
            log.warning("an agent cannot be let in yet", error=str(error))
            self._end.tally["hello.later"] += 1
            await self._close(CLOSE_LATER)
            return
        await self._converse()

    # Who is it?

    async def _begin(self) -> None:
        end = self._end
        if end.strangers.total() >= STRANGERS or end.strangers[self._peer] >= STRANGERS_EACH:
            end.tally["hello.crowded"] += 1
            await self._close(CLOSE_LATER)
            raise _Ended
        end.strangers[self._peer] += 1
        try:
            challenge = sessions.challenge()
            self._nonce = challenge.nonce
            await self._send({"type": "websocket.send", "text": dump(challenge).decode()})
            self._hello = await self._hear_hello()
            async with end.admission, self._settling:
                await self._let_in()
        finally:
            end.strangers[self._peer] -= 1
            if not end.strangers[self._peer]:
                del end.strangers[self._peer]

    async def _hear_hello(self) -> Hello:
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                message = await self._hear()
        except TimeoutError:
            self._end.tally["hello.late"] += 1
            await self._close(CLOSE_LATER, reason=f"no hello within {HELLO_SECONDS:.0f} s")
            raise _Ended from None
        if not isinstance(message, Hello):
            raise _Bad("hello-expected", "the first message must be a hello that answers the challenge")
        self._heard_at = self._end.loop.time()
        return message

    async def _let_in(self) -> None:
        session = await self._open_session()
        version = session.welcome.version
        socket = Socket(self._send, session.cluster_pk, session.node_pk, session.id, self._hello.held, version)
        self._session, self._socket, self._version = session, socket, version
        self._end.conversations[socket] = self
        try:
            await self._end.hub.join(socket)
            self._line = await self._end.reports.open(socket, session.index)
        except BaseException:
            await self._leave()
            raise
        self._welcome()
        self._end.hub.confirm(socket)

    async def _open_session(self, session: str = "") -> Session:
        opened = await self._end.gate.enter(partial(self._greeting, session))
        if opened.moved is not None or opened.was_away:
            await in_thread(sessions.note_return, opened, datetime.now(UTC))
        return opened

    def _greeting(self, session: str) -> Greeting:
        # Its clock has gone on since it said hello.
        hello = self._hello
        if hello.agent_time:
            elapsed = self._end.loop.time() - self._heard_at
            hello = msgspec.structs.replace(hello, agent_time=hello.agent_time + elapsed)
        return Greeting(hello, self._nonce, self._peer, session)

    def _welcome(self) -> None:
        session, socket = self._session, self._socket
        self._limit = max(FRAME_BASE, session.welcome.frame_limit)
        socket.say(dump(session.welcome).decode())
        self._give(session.secrets)
        if session.status == "approved" and not socket.approved:
            socket.follow(self._hello.held)
        socket.settled = True
        self._end.reports.pace(self._line)

    def _give(self, secrets: Iterable[ClusterSecret]) -> None:
        for secret in secrets:
            self._socket.say(dump(secret).decode())
            self._hello = msgspec.structs.replace(self._hello, secret_generation=secret.generation)

    @property
    def holding(self) -> Holding:
        """What the node was last given, or said at hello that it has."""
        return Holding(self._hello.secret_generation, self._version)

    def give(self, secrets: Iterable[ClusterSecret], holding: Holding) -> None:
        """Give secrets that a node with this in hand lacks; if it was given others meanwhile, they are none of it."""
        if self._socket in self._end.conversations and self.holding == holding:
            self._give(secrets)

    def ask(self, ask: Ask) -> None:
        """Pass a question on; an agent that does not know it is not asked."""
        if self._version < HISTORY_SINCE:
            self._end.tell(ask.node, ask.request, Told("agent-too-old"))
            return
        self._questions.note(ask.request, ask.member)
        self._socket.say(dump(FetchHistory(request=ask.request, member=ask.member)).decode())

    async def settle_again(self) -> None:
        """The node's standing changed, or it was taken for gone: open its session anew, and tell it what that means."""
        async with self._settling:
            if self._socket not in self._end.conversations:
                return
            try:
                session = await self._open_session(self._socket.session)
            except Refused as refusal:
                if refusal.code == "replaced":
                    self._socket.close(CLOSE_REPLACED)
                else:
                    self._socket.close(CLOSE_REMOVED, _farewell(refusal).decode())
                return
            except AWAY as error:
                log.warning("a node's standing was not read", node=self._socket.node, error=str(error))
                return
            self._session = session
            if self._socket not in self._end.conversations:  # it left meanwhile
                self._end.ledger.note_left(self._socket)
                return
            if self._line.index is None and session.index is not None:
                self._line = await self._end.reports.open(self._socket, session.index)
            self._end.reports.touch(self._line)
            self._welcome()

    # Both directions.

    async def _converse(self) -> None:
        socket, end = self._socket, self._end
        writer = asyncio.create_task(socket.write(end.hub.read))
        reader = asyncio.create_task(self._read())
        try:
            await end.hub.claim(socket)
            await asyncio.wait((writer, reader), return_when=asyncio.FIRST_COMPLETED)
            if reader.done() and reader.exception() is not None and not writer.done():
                self._stop_reading(reader.exception())
                await asyncio.wait((writer,), timeout=SEND_SECONDS)
        finally:
            for task in (writer, reader):
                task.cancel()
            results = await asyncio.gather(writer, reader, return_exceptions=True)
            self._note(results)
            await self._leave()

    def _stop_reading(self, error: BaseException | None) -> None:
        if isinstance(error, _Bad):
            self._end.tally[f"frame.{error.code}"] += 1
            self._socket.close(error.close, error.frame.decode())
        else:
            log.error("an agent's message was not understood by us", node=self._socket.node, exc_info=error)
            self._socket.close(1011)

    def _note(self, results: tuple[BaseException | None, ...]) -> None:
        for result in results:
            if isinstance(result, Stalled):
                self._end.tally["sockets.stalled"] += 1
                log.warning("an agent takes nothing any more", node=self._socket.node)
            elif isinstance(result, OSError):
                pass  # it went away while we wrote
            elif isinstance(result, Exception) and not isinstance(result, _Bad | _Ended):
                log.error("an agent's connection failed", node=self._socket.node, exc_info=result)

    async def _leave(self) -> None:
        """Let go of everything."""
        socket, end = self._socket, self._end
        end.conversations.pop(socket, None)
        await end.hub.leave(socket)
        if hasattr(self, "_line"):
            await end.reports.close(self._line)
        if not end.hub.serves(socket.cluster):
            end.reports.forget(socket.cluster)
        end.ledger.note_left(socket)

    # What it says.

    async def _read(self) -> None:
        while True:
            try:
                # Not by a name of its own: what was said last, a report of a thousand links, would stay until the next.
                await self._take(await self._hear())
            except _Ended:
                return
            except MessageError as error:
                raise _Bad("bad", str(error)) from None

    async def _take(self, message: FromAgent) -> None:
        ledger, socket = self._end.ledger, self._socket
        match message:
            case Report():
                await self._take_report(message)
            case History() | UpgradeFailed() if socket.approved:
                self._take_answer(message)
            case Applied() if socket.approved:
                ledger.note_applied(socket, message)
            case SecretKept() if socket.approved:
                ledger.note_kept(socket, message)
            case Findings() if socket.approved:
                ledger.note_findings(socket, message)
            case Claim():
                ledger.note_claim(socket, message, self._peer)
            case Notice() if socket.approved:
                self._end.tally[f"notice.{message.kind}"] += 1
                ledger.note_notice(socket, message)
            case Hello():
                raise MessageError("a connection has one hello")

    def _take_answer(self, message: History | UpgradeFailed) -> None:
        if isinstance(message, UpgradeFailed):
            self._end.ledger.note_failed_upgrade(self._socket, message)
        elif self._questions.settle(message.request, message.member):
            self._end.tell(self._socket.node, message.request, Told("told", message.tracks))
        else:
            self._end.tally["history.unasked"] += 1

    async def _take_report(self, report: Report) -> None:
        try:
            await self._end.reports.take(self._line, report)
        except AWAY as error:
            # Its cluster's members were never read; the next complete report makes good what is lost now.
            log.warning("a report was lost", node=self._socket.node, error=str(error))
            self._line.expected = -1

    async def _hear(self) -> FromAgent:
        """The next message; raises _Bad for what is none, and _Ended."""
        event = await self._receive()
        if event["type"] != "websocket.receive":
            if event.get("code") == CLOSE_TOO_BIG:  # the server's own limit, far beyond any cluster's, or the agent's
                self._end.tally["frame.too-large"] += 1
                log.warning("a frame was too large", peer=str(self._peer), reason=event.get("reason", ""))
            raise _Ended
        frame = event.get("text")
        if frame is None:
            frame = event.get("bytes") or b""
        size = len(frame) if isinstance(frame, bytes) or frame.isascii() else len(frame.encode())
        if size > self._limit and size > await self._present_limit():
            reason = f"a frame of {size} bytes is more than this cluster can need ({self._limit})"
            raise _Bad("too-large", reason, CLOSE_TOO_BIG)
        try:
            return parse_from_agent(frame, self._version)
        except MessageError as error:
            raise _Bad("bad", str(error)) from None

    async def _present_limit(self) -> int:
        """The limit by the highest index that a member has now; it grows with the cluster."""
        if not hasattr(self, "_socket") or not self._socket.approved:
            return self._limit
        try:
            roster = await self._end.reports.roster(self._socket.cluster)
        except AWAY:
            return self._limit
        self._limit = max(self._limit, frame_limit(1 + max(roster.members, default=-1)))
        return self._limit

    async def _refuse(self, fault: _Bad) -> None:
        self._end.tally[f"frame.{fault.code}"] += 1
        await self._close(fault.close, fault.frame)

    async def _close(self, code: int, frame: bytes = b"", reason: str = "") -> None:
        """Say the last word and close, where there is no writer yet."""
        try:
            async with asyncio.timeout(SEND_SECONDS):
                if frame:
                    await self._send({"type": "websocket.send", "text": frame.decode()})
                await self._send({"type": "websocket.close", "code": code, "reason": reason})
        except (TimeoutError, OSError):
            pass  # it went first


def _farewell(refusal: Refused) -> bytes:
    if refusal.code == "removed":
        return dump(Removed(reason=refusal.reason))
    return dump(messages.Refused(code=refusal.code, reason=refusal.reason))


def peer_address(scope: dict[str, Any]) -> IPAddress | None:
    """Where the connection comes from; the wiring has put the client's address there for trusted proxies."""
    client = scope.get("client")
    try:
        return parse_address(client[0]) if client else None
    except ValueError:  # a Unix socket
        return None
