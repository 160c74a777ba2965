# SPDX-License-Identifier: GPL-3.0-or-later
"""Many sockets behind one descriptor, one of them a turn of the event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial

from metrics_server.scrape.poll import Poll


@contextmanager
def pairs(count: int) -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    made = [socket.socketpair() for _unused in range(count)]
    for pair in made:
        for one in pair:
            one.setblocking(False)
    try:
        yield made
    finally:
        for pair in made:
            for one in pair:
                one.close()


@asynccontextmanager
async def polling() -> AsyncIterator[Poll]:
    poll = Poll(asyncio.get_running_loop())
    try:
        yield poll
    finally:
        poll.close()
        # Twice is as good as once.
        poll.close()


async def test_others_have_their_turn_between_two_sockets() -> None:
    turn = 0
    called: list[tuple[int, int]] = []

    def note(number: int) -> None:
        called.append((turn, number))

    with pairs(16) as sockets:
        async with polling() as poll:
            for number, (ours, theirs) in enumerate(sockets):
                theirs.send(b"answer")
                poll.add_reader(ours.fileno(), partial(note, number))
            for _unused in range(64):
                await asyncio.sleep(0)
                turn += 1
    turns = [turn for turn, _unused in called]
    # A client that is ready waits for one of them, not for sixteen.
    assert len(turns) == len(set(turns)) > 32
    # And none of those that are not read waits for ever behind the others.
    assert {number for _unused, number in called[:16]} == set(range(16))


async def test_readers_and_writers_come_and_go() -> None:
    called: list[str] = []
    with pairs(1) as [(ours, theirs)]:
        async with polling() as poll:
            fd = ours.fileno()
            poll.add_writer(fd, lambda: called.append("write"))
            poll.add_reader(fd, lambda: called.append("read"))
            await asyncio.sleep(0.01)
            assert set(called) == {"write"}
            poll.remove_writer(fd)
            poll.remove_writer(fd)
            called.clear()
            theirs.send(b"x")
            await asyncio.sleep(0.01)
            assert set(called) == {"read"}
            poll.remove_reader(fd)
            called.clear()
            await asyncio.sleep(0.01)
            assert called == []
            # The end of the other side is something to read, too.
            poll.add_reader(fd, lambda: called.append("end"))
            assert ours.recv(10) == b"x"
            theirs.close()
            await asyncio.sleep(0.01)
            assert set(called) == {"end"}
            # A number that is used again belongs to another socket.
            poll.remove_reader(fd)
            ours.close()
            with pairs(2) as again:
                called.clear()
                for one, other in again:
                    other.send(b"y")
                    poll.add_reader(one.fileno(), lambda: called.append("again"))
                await asyncio.sleep(0.01)
                assert set(called) == {"again"}


async def test_a_reader_may_end_itself() -> None:
    with pairs(2) as sockets:
        async with polling() as poll:
            for ours, theirs in sockets:

                def end(ours: socket.socket = ours) -> None:
                    poll.remove_reader(ours.fileno())
                    ours.close()

                theirs.send(b"x")
                poll.add_reader(ours.fileno(), end)
            await asyncio.sleep(0.02)
            assert [ours.fileno() for ours, _unused in sockets] == [-1, -1]
