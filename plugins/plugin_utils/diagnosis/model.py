# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the failure catalogue is made of: rows, what a rule observes, and what a person is told."""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.subject import Subject

if t.TYPE_CHECKING:
    from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.evidence import Evidence

DOCUMENTATION = "https://github.com/kubemetrics/kubemetrics.aggregation/blob/main/docs/findings/"

#: The hops of a request, in order, and what is beside them. The server of another API than that of resource metrics is
#: an extension_server in what is shown.
Layer = t.Literal[
    "client", "registration", "api_server", "service", "server", "extension_server", "kubelet", "consequence"
]
Severity = t.Literal["error", "warning"]

#: When an observation counts.
#:   own          always
#:   fallback     where no other row covers the same symptom of the same hosts: it names the place, they name the cause
#:   consequence  where another row that was found explains this one: alone it would be a guess
Standing = t.Literal["own", "fallback", "consequence"]

#: What can be measured to be wrong, whatever the cause. A root covers the symptoms that it explains.
#:   api_server      an API server does not run, answer or become ready           (on a control plane's host)
#:   registration    the API is not registered
#:   request         an API server does not serve the API                         (on a control plane's host)
#:   server_pod      no pod of the server behind the API is ready
#:   node_metrics    a node that is Ready has no recent metrics                   (on that node's host)
#:   pod_metrics     pods have no recent metrics
#:   authentication  an API server takes any client certificate for a front proxy's
#:   autoscaler, namespace, discovery   what others suffer from it
Symptom = t.Literal[
    "api_server",
    "registration",
    "request",
    "server_pod",
    "node_metrics",
    "pod_metrics",
    "authentication",
    "autoscaler",
    "namespace",
    "discovery",
]

#: What each of them brings with it: a row that explains the one explains the others; where no row does, only the first
#: is reported.
BRINGS: t.Mapping[Symptom, tuple[Symptom, ...]] = {
    "api_server": ("request", "discovery", "namespace", "autoscaler"),
    "registration": ("request", "autoscaler"),
    "request": ("discovery", "namespace", "autoscaler"),
    "server_pod": ("request", "discovery", "namespace", "autoscaler"),
    "node_metrics": ("pod_metrics", "autoscaler"),
    "pod_metrics": ("autoscaler",),
}


def with_brought(covered: t.Iterable[Symptom]) -> frozenset[Symptom]:
    """Symptoms with what comes of them."""
    return frozenset(found for symptom in covered for found in (symptom, *BRINGS.get(symptom, ())))


@dataclasses.dataclass(frozen=True)
class Repair:
    """How a finding is mended.

    kind: automatic (the playbook repair does it with C(repair=safe) or by its id), consent (only by its id), advice (no
    playbook does it; the commands say how).
    steps: parts of the sequence of site.yml, in its order, by the names of the roles.
    variables: what the playbook repair has to be given besides the id, such as metrics_server_takeover=true.
    downtime: in words, such as "none" or "each API server 45 s, one after the other".
    """

    kind: t.Literal["automatic", "consent", "advice"]
    text: str
    risk: str = "none"
    downtime: str = "none"
    steps: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()

    def told(self, about: Subject) -> Repair:
        return dataclasses.replace(
            self,
            text=about.told(self.text),
            risk=about.told(self.risk),
            downtime=about.told(self.downtime),
            commands=tuple(map(about.told, self.commands)),
        )


@dataclasses.dataclass(frozen=True)
class Observation:
    """What a rule has seen, on these hosts (inventory names, or node names where the inventory has none).

    evidence: lines to quote, each with its source. cause, repair: instead of the row's where this case differs.
    independent: whether this is no consequence of what is broken in the metrics API.
    covers: symptoms that this case explains beside those of the row.
    """

    evidence: tuple[str, ...]
    hosts: tuple[str, ...] = ()
    cause: str = ""
    severity: Severity = "error"
    repair: Repair | None = None
    independent: bool = False
    standing: Standing = "own"
    covers: tuple[Symptom, ...] = ()


Rule = t.Callable[["Evidence"], t.Iterable[Observation]]


#: The steps that are about this collection's own metrics server: never a repair of another API.
OWN_SERVER_STEPS = frozenset({"kubelet_access", "metrics_server"})
_ITS_OWNERS = Repair(
    "advice",
    "Mend it where $server comes from: its manifests, its chart or its operator.",
    commands=("kubectl --namespace $namespace get deployments,pods,services",),
)


def always(_cause: Finding, _consequence: Finding) -> bool:
    """A fault of one host explains what is seen on another, since requests pass hosts."""
    return True


@dataclasses.dataclass(frozen=True)
class Elsewhere:
    """What a row says instead where the diagnosis is about another API than that of resource metrics; empty: the same.

    No playbook of this collection deploys the server of such an API: its repair is advice.
    """

    symptom: str = ""
    cause: str = ""
    repair: Repair | None = None
    avoid: str = ""


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the failure catalogue.

    $server, $api and the like in its texts are the words of the API that the diagnosis is about (subject.py).
    only_resource_metrics: whether it is about the resource metrics API alone, such as what kubelets answer.
    explains: ids of rows that are consequences where this one is found, unless related(cause, consequence) says no.
    covers: the symptoms that this row explains; on the hosts of the observation, or everywhere where it names none.
    covers_everywhere: those of them that it explains on every host, such as what one broken API server does to others.
    """

    id: str
    title: str
    layer: Layer
    symptom: str
    cause: str
    repair: Repair
    avoid: str
    rule: Rule
    explains: tuple[str, ...] = ()
    related: t.Callable[[Finding, Finding], bool] = always
    covers: tuple[Symptom, ...] = ()
    covers_everywhere: tuple[Symptom, ...] = ()
    only_resource_metrics: bool = False
    elsewhere: Elsewhere = Elsewhere()

    def told(self, about: Subject) -> Row:
        """The row in the words of an API."""
        other = Elsewhere() if about.resource_metrics else self.elsewhere
        repair = other.repair or self.repair
        if not about.resource_metrics and OWN_SERVER_STEPS & {*repair.steps}:
            repair = _ITS_OWNERS
        return dataclasses.replace(
            self,
            title=about.told(self.title),
            symptom=about.told(other.symptom or self.symptom),
            cause=about.told(other.cause or self.cause),
            repair=repair.told(about),
            avoid=about.told(other.avoid or self.avoid),
            elsewhere=Elsewhere(),
        )

    @property
    def brings(self) -> frozenset[Symptom]:
        """The symptoms that it covers, with what comes of them."""
        return with_brought((*self.covers, *self.covers_everywhere))

    @property
    def documentation(self) -> str:
        return f"{DOCUMENTATION}{self.id}.md"


@dataclasses.dataclass
class Finding:
    """A row with what was seen, and its place among the others."""

    row: Row
    observations: tuple[Observation, ...]
    caused_by: tuple[str, ...] = ()
    causes: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return self.row.id

    @property
    def root(self) -> bool:
        return not self.caused_by

    @property
    def hosts(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(host for seen in self.observations for host in seen.hosts))

    @property
    def severity(self) -> Severity:
        return "error" if any(seen.severity == "error" for seen in self.observations) else "warning"

    @property
    def brings(self) -> frozenset[Symptom]:
        """The symptoms that it covers in this case, with what comes of them."""
        return self.row.brings | with_brought(symptom for seen in self.observations for symptom in seen.covers)

    @property
    def repair(self) -> Repair:
        return next((seen.repair for seen in self.observations if seen.repair), self.row.repair)

    def as_dict(self) -> dict[str, t.Any]:
        """The form of the diagnosis document."""
        repair = dataclasses.asdict(self.repair)
        return {
            "id": self.id,
            "title": self.row.title,
            "layer": self.row.layer,
            "severity": self.severity,
            "root": self.root,
            "causes": list(self.causes),
            "caused_by": list(self.caused_by),
            "hosts": list(self.hosts),
            "symptom": self.row.symptom,
            "cause": " ".join(dict.fromkeys(seen.cause for seen in self.observations if seen.cause)) or self.row.cause,
            "evidence": list(dict.fromkeys(line for seen in self.observations for line in seen.evidence)),
            "repair": {key: list(value) if isinstance(value, tuple) else value for key, value in repair.items()},
            "avoid": self.row.avoid,
            "documentation": self.row.documentation,
        }
