# SPDX-License-Identifier: GPL-3.0-or-later
"""The kubelets' sockets behind one descriptor of their own.

Answers come in groups, because scrapes are begun in groups. Were their sockets the event loop's own, it would handle
all of them before it turns to its clients again. It sees one descriptor instead, that of a second epoll, and handles
one socket a turn: a request waits for the work of one scrape at most.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable

_READABLE = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP
_WRITABLE = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR

Callback = Callable[[], object]


class Poll:
    """Readers and writers as those of the event loop, called one at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._readers: dict[int, Callback] = {}
        self._writers: dict[int, Callback] = {}
        loop.add_reader(self._epoll.fileno(), self._turn)

    def add_reader(self, fd: int, callback: Callback) -> None:
        """Call back when there is something to read."""
        self._change(fd, self._readers, callback)

    def remove_reader(self, fd: int) -> None:
        """Call back no more; to be called before the socket is closed."""
        self._change(fd, self._readers, None)

    def add_writer(self, fd: int, callback: Callback) -> None:
        """Call back when there is room to write."""
        self._change(fd, self._writers, callback)

    def remove_writer(self, fd: int) -> None:
        """Call back no more; to be called before the socket is closed."""
        self._change(fd, self._writers, None)

    def close(self) -> None:
        """Forget all sockets; they are their owners' to close."""
        if not self._epoll.closed:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
        self._readers.clear()
        self._writers.clear()

    def _change(self, fd: int, callbacks: dict[int, Callback], callback: Callback | None) -> None:
        before = self._wanted(fd)
        if callback is None:
            callbacks.pop(fd, None)
        else:
            callbacks[fd] = callback
        wanted = self._wanted(fd)
        if wanted == before or self._epoll.closed:
            return
        if not before:
            self._epoll.register(fd, wanted)
        elif not wanted:
            self._epoll.unregister(fd)
        else:
            self._epoll.modify(fd, wanted)

    def _wanted(self, fd: int) -> int:
        return (select.EPOLLIN if fd in self._readers else 0) | (select.EPOLLOUT if fd in self._writers else 0)

    def _turn(self) -> None:
        # What is still ready afterwards comes again, behind the others.
        for fd, event in self._epoll.poll(0, 1):
            if event & _READABLE and (reader := self._readers.get(fd)) is not None:
                reader()
            if event & _WRITABLE and (writer := self._writers.get(fd)) is not None:
                writer()
