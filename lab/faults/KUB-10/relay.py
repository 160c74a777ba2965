#!/usr/bin/env python3
# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Passes TCP connections on and holds back everything that comes back: relay.py LISTEN_PORT TARGET_PORT SECONDS."""

import asyncio
import contextlib
import sys

LISTEN, TARGET, DELAY = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])


async def pump(reader, writer, delay):
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            await asyncio.sleep(delay)
            writer.write(data)
            await writer.drain()
    writer.close()


async def serve(reader, writer):
    try:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", TARGET)
    except OSError:
        writer.close()
        return
    await asyncio.gather(pump(reader, far_writer, 0), pump(far_reader, writer, DELAY))


async def main():
    server = await asyncio.start_server(serve, "0.0.0.0", LISTEN)
    async with server:
        await server.serve_forever()


asyncio.run(main())
