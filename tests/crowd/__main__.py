"""The process of the crowd: does what lines on standard input say."""

from __future__ import annotations

import argparse
import asyncio

from tests.apart import allow_files, answer_lines
from tests.crowd.simulation import Simulation


async def serve(urls: list[str], seed: str) -> None:
    """Do what the lines of standard input say until it ends."""
    simulation = Simulation(urls, seed, asyncio.get_running_loop())
    await answer_lines(simulation)
    await simulation.end()


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m tests.crowd", description=__doc__.splitlines()[0])
    parser.add_argument("urls", nargs="+", help="where the console is, http://HOST:PORT; several are taken in turn")
    parser.add_argument("--seed", default="crowd", help="of keys and names: the same ones for the same seed")
    options = parser.parse_args()
    allow_files()
    asyncio.run(serve(options.urls, options.seed))


if __name__ == "__main__":
    main()
