# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a diagnosis is about: the API of an APIService, and how it and its server are called in sentences."""

from __future__ import annotations

import dataclasses
import string

#: The version of the resource metrics API that every kubectl asks for.
RESOURCE_METRICS = "v1beta1.metrics.k8s.io"
_GROUP = "metrics.k8s.io"


@dataclasses.dataclass(frozen=True)
class Subject:
    """An aggregated API. service: NAMESPACE/NAME of the Service behind it, empty where that is not known."""

    apiservice: str = RESOURCE_METRICS
    service: str = ""

    @property
    def group(self) -> str:
        return self.apiservice.partition(".")[2]

    @property
    def version(self) -> str:
        return self.apiservice.partition(".")[0]

    @property
    def path(self) -> str:
        return f"/apis/{self.group}/{self.version}"

    @property
    def resource_metrics(self) -> bool:
        """Whether it is the API that this collection's metrics server serves, with nodes and pods behind it."""
        return self.group == _GROUP

    @property
    def api(self) -> str:
        return "the metrics API" if self.resource_metrics else f"the API {self.group}/{self.version}"

    @property
    def server(self) -> str:
        if self.resource_metrics:
            return "the metrics server"
        return f"the extension server {self.service}" if self.service else f"the extension server of {self.group}"

    @property
    def Server(self) -> str:  # noqa: N802 - the same at the beginning of a sentence
        return _capital(self.server)

    @property
    def name(self) -> str:
        """What its objects are called, as far as the name of its Service tells."""
        return "metrics-server" if self.resource_metrics else self.service.partition("/")[2] or "NAME"

    @property
    def namespace(self) -> str:
        return "kube-system" if self.resource_metrics else self.service.partition("/")[0] or "NAMESPACE"

    @property
    def requests(self) -> str:
        """What a client does that needs it."""
        return "kubectl top" if self.resource_metrics else f"a request for {self.group}/{self.version}"

    def words(self) -> dict[str, str]:
        """What stands in the texts of rows for what differs from API to API."""
        metrics = self.resource_metrics
        return {
            "apiservice": self.apiservice,
            "group": self.group,
            "path": self.path,
            "api": self.api,
            "server": self.server,
            "Server": self.Server,
            "kind_of_server": "metrics server" if metrics else "extension server",
            "servers": "metrics servers" if metrics else "extension servers",
            "Servers": "Metrics servers" if metrics else "Extension servers",
            "a_server": "a metrics server" if metrics else self.server,
            "service": f"{self.namespace}/{self.name}",
            "namespace": self.namespace,
            "name": self.name,
            "Api": _capital(self.api),
            "requests": self.requests,
            "Requests": self.requests if metrics else _capital(self.requests),
            # How kubectl says that an API is not there, that it is not served, and what it asked for.
            "missing": "error: Metrics API not available"
            if metrics
            else "Error from server (NotFound): the server could not find the requested resource",
            "unavailable": "error: Metrics API not available"
            if metrics
            else "Error from server (ServiceUnavailable): the server is currently unable to handle the request",
            "resource": "nodes.metrics.k8s.io" if metrics else f"RESOURCE.{self.group}",
            "Served": "Resource metrics" if metrics else _capital(self.api),
            "answers": "kubectl top" if metrics else "what clients get",
            "get": " (get nodes.metrics.k8s.io)" if metrics else "",
        }

    def told(self, text: str) -> str:
        """A text of the catalogue, with the words that it has for this API."""
        return string.Template(text).safe_substitute(self.words())


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
