# SPDX-License-Identifier: GPL-3.0-or-later
"""What the store keeps of readings until the next scrape: pieces of answers, in each form that was asked for.

This is the JSON form; the API adds others. A fragment is all of an object but its kind and its metadata.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec

from metrics_server.model import ContainerUsage, PodColumns, Reading
from metrics_server.quantity import cpu_quantity, go_duration, memory_quantity, rfc3339


class JsonForm:
    """`"timestamp":"...Z","window":"15.029s",` and the usage of a node, or the containers of a pod (no braces
    around)."""

    def node(self, reading: Reading) -> bytes:
        """Return the fragment of a node."""
        (usage,) = reading.containers
        cpu, memory = cpu_quantity(usage.cpu_nanocores), memory_quantity(usage.memory_bytes)
        return f'{_head(reading)}"usage":{{"cpu":"{cpu}","memory":"{memory}"}}'.encode()

    def pod(self, reading: Reading) -> bytes:
        """Return the fragment of a pod."""
        containers = ",".join(map(_container, reading.containers))
        return f'{_head(reading)}"containers":[{containers}]'.encode()

    def pods(self, columns: PodColumns) -> list[bytes | None]:
        """Return the fragments of all pods of a node: the same as `pod` for each, in a quarter of the time."""
        names, slots, usages, times, previous_times = columns
        texts: list[str | None] = []
        for usage in usages:
            if usage is None:
                texts.append(None)
                continue
            nanocores, size = usage
            if nanocores % 1000 and not size & 1023 and size & 0xFFFFF:
                # Nearly always: no coarser unit than these two is exact.
                texts.append(f'{nanocores}n","memory":"{size >> 10}Ki"}}}}')
            else:
                texts.append(f'{cpu_quantity(nanocores)}","memory":"{memory_quantity(size)}"}}}}')
        fragments: list[bytes | None] = []
        for names_of_pod, slots_of_pod in zip(names, slots, strict=True):
            if len(slots_of_pod) == 1:
                slot = slots_of_pod[0]
                text = texts[slot]
                containers = None if text is None else _container_head(names_of_pod[0]) + text
            else:
                slot = min(slots_of_pod, key=times.__getitem__)
                parts = [texts[each] for each in slots_of_pod]
                containers = None
                if None not in parts:
                    containers = ",".join(
                        [f"{_container_head(name)}{part}" for name, part in zip(names_of_pod, parts, strict=True)]
                    )
            if containers is None:
                fragments.append(None)
                continue
            now = times[slot]
            stamp, window = rfc3339(now // 1000), _window(now - previous_times[slot])
            fragments.append(f'"timestamp":"{stamp}","window":"{window}","containers":[{containers}]'.encode())
        return fragments


JSON = JsonForm()


@lru_cache(maxsize=32768)
def _window(milliseconds: int) -> str:
    return go_duration(milliseconds * 1_000_000)


@lru_cache(maxsize=4096)
def _container_head(name: str) -> str:
    return f'{{"name":{msgspec.json.encode(name).decode()},"usage":{{"cpu":"'


def _container(usage: ContainerUsage) -> str:
    cpu, memory = cpu_quantity(usage.cpu_nanocores), memory_quantity(usage.memory_bytes)
    return f'{_container_head(usage.name)}{cpu}","memory":"{memory}"}}}}'


def _head(reading: Reading) -> str:
    stamp = rfc3339(reading.timestamp_ns // 1_000_000_000)
    return f'"timestamp":"{stamp}","window":"{_window(reading.window_ns // 1_000_000)}",'
