# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading what an API holds part by part, so that one that cannot be read does not hide the others."""

from __future__ import annotations

import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api import kube


class Parts:
    """The API, why parts of a result could not be read, and what was left out of others."""

    def __init__(self, api: kube.Api, max_items: int) -> None:
        self.api = api
        self.max_items = max_items
        self.errors: t.Dict[str, str] = {}
        self.truncated: t.List[str] = []

    def part(self, name: str, call: t.Callable[[], t.Any], otherwise: t.Any) -> t.Any:
        """The result of a call; where it fails, something else, and why."""
        try:
            return call()
        except kube.KubeError as exc:
            self.errors[name] = exc.message
            return otherwise
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            # An object of a form that nobody expects must not hide the other parts.
            self.errors[name] = "the answer of the API has an unexpected form (%s: %s)." % (type(exc).__name__, exc)
            return otherwise

    def get(self, path: str) -> t.Optional[t.Dict[str, t.Any]]:
        """An object, or None where there is none."""
        try:
            found = self.api.get(path)[0]
        except kube.KubeError as exc:
            if exc.status == 404:
                return None
            raise
        return found if isinstance(found, dict) else None

    def list(self, path: str, query: t.Optional[t.Mapping[str, t.Any]] = None) -> t.List[t.Dict[str, t.Any]]:
        return self.api.list(path, query=query)[0]

    def cut(self, items: t.List[t.Any], what: str) -> t.List[t.Any]:
        limit = self.max_items
        if len(items) > limit:
            self.truncated.append("%d of %d %s were left out" % (len(items) - limit, len(items), what))
        return items[:limit]
