"""The reference of the discovery benchmarks: calls of the same names on the same server, with nothing of ours between.

Run as `python -m tests.bench.bare_discovery HOST:PORT`. What an update brings is the message that watchers are to hear,
as it is: nothing is read, kept, checked, counted or gathered.
"""

from __future__ import annotations

import argparse
import asyncio

import grpc.aio

from kubespan.discovery import service


class Broadcast:
    """Everybody who watches."""

    def __init__(self) -> None:
        self._watchers: set[asyncio.Queue[bytes]] = set()

    async def watch(self, _request: bytes, context: grpc.aio.ServicerContext) -> None:
        """An empty message, and then all that is told."""
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._watchers.add(queue)
        try:
            await context.write(b"")
            while True:
                await context.write(await queue.get())
        finally:
            self._watchers.discard(queue)

    async def update(self, request: bytes, _context: grpc.aio.ServicerContext) -> bytes:
        """Have everybody told."""
        for queue in self._watchers:
            queue.put_nowait(request)
        return b""


async def hello(_request: bytes, _context: grpc.aio.ServicerContext) -> bytes:
    """Nothing: a call of which nobody hears."""
    return b""


async def serve(address: str) -> None:
    """Until it is ended from outside."""
    broadcast = Broadcast()
    handlers = {
        "Watch": grpc.unary_stream_rpc_method_handler(broadcast.watch),
        "Hello": grpc.unary_unary_rpc_method_handler(hello),
        "AffiliateUpdate": grpc.unary_unary_rpc_method_handler(broadcast.update),
    }
    server = grpc.aio.server(options=service.SERVER_OPTIONS)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.SERVICE, handlers),))
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


def main() -> None:
    """Read the words of the command line, and serve."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.bare_discovery", description=__doc__.splitlines()[0])
    parser.add_argument("address", help="HOST:PORT")
    asyncio.run(serve(parser.parse_args().address))


if __name__ == "__main__":
    main()
