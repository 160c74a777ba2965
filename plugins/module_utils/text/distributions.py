# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Distributions that write flags, certificates and kubelet configuration themselves: how each is told, and where its
own configuration is. Pure data and functions; docs/distributions.md names the sources."""

from __future__ import annotations

import json
import re
import typing as t

Object = t.Mapping[str, t.Any]
Pairs = t.Sequence[t.Tuple[str, str]]

#: What the front proxy's headers are called everywhere.
_HEADERS = {
    "requestheader-extra-headers-prefix": "X-Remote-Extra-",
    "requestheader-group-headers": "X-Remote-Group",
    "requestheader-username-headers": "X-Remote-User",
}
#: What a kubelet has to do for a metrics server, as flags: ask the API who a client is and what it may do.
KUBELET_ACCESS = {
    "anonymous-auth": "false",
    "authentication-token-webhook": "true",
    "authorization-mode": "Webhook",
    "read-only-port": "0",
}
ROUTING = {"enable-aggregator-routing": "true"}
_ONE_BY_ONE = "one server after the other"


def _front_proxy(directory: str, authority: str, name: str, client: str) -> t.Dict[str, str]:
    return {
        "requestheader-client-ca-file": "%s/%s" % (directory, authority),
        "requestheader-allowed-names": name,
        **_HEADERS,
        "proxy-client-cert-file": "%s/%s.crt" % (directory, client),
        "proxy-client-key-file": "%s/%s.key" % (directory, client),
    }


class Distribution(t.NamedTuple):
    """One distribution."""

    name: str
    #: What it writes itself, and where that is changed: a clause that follows the name.
    means: str
    #: Who serves the resource metrics API in it, a clause that ends a sentence.
    server: str
    #: Whether the control plane belongs to a provider and has no hosts that could be examined.
    hosted: bool = False

    # --- how its processes are told ---
    #: How the names of its systemd services begin.
    units: t.Tuple[str, ...] = ()
    #: Expressions, one of which is found in an argument of each of its processes.
    arguments: t.Tuple[str, ...] = ()

    # --- how the API tells it ---
    #: An expression that is found in the version of its binaries, which nobody can set from outside.
    version: str = ""
    #: Labels that all of its nodes have. Of each group one; a single one could be set by hand, and does not count.
    labels: t.Tuple[t.Tuple[str, ...], ...] = ()
    #: How the provider IDs of its nodes begin.
    providers: t.Tuple[str, ...] = ()
    #: A path of the API that exists in it only; requested where the labels are there.
    marker: str = ""

    # --- its files ---
    kubeconfigs: t.Tuple[str, ...] = ()
    pki_dir: str = ""
    #: The CA of kubelets' serving certificates where it is another one than that of clients.
    serving_authority: str = ""
    #: Where its flags are configured.
    config: str = ""

    # --- what it does itself, and what a person can do ---
    front_proxy: t.Mapping[str, str] = {}
    renew_front_proxy: t.Tuple[str, ...] = ()
    #: How kubelets come by serving certificates, a sentence, and how they are issued anew.
    serving_certificates: str = ""
    renew_serving: t.Tuple[str, ...] = ()
    restart: t.Tuple[str, ...] = ()
    #: How its own metrics server is switched off, as a clause and as lines; empty where it would not come back.
    switch_off: str = ""
    switch_off_lines: t.Tuple[str, ...] = ()


def _rancher(key: str, name: str, means: str, server: str, component: str, **more: t.Any) -> Distribution:
    config = "/etc/rancher/%s/config.yaml" % key
    base = "/var/lib/rancher/%s" % key
    service = "rke2-server" if key == "rke2" else key
    restart = "systemctl restart %s   # on servers, %s; on agents %s-agent" % (service, _ONE_BY_ONE, key)
    return Distribution(
        name=name,
        means=means,
        server=server,
        version=r"\+%s" % key,
        kubeconfigs=("/etc/rancher/%s/%s.yaml" % (key, key),),
        pki_dir=base + "/server/tls",
        serving_authority=base + "/agent/server-ca.crt",
        config=config,
        front_proxy=_front_proxy(
            base + "/server/tls", "request-header-ca.crt", "system:auth-proxy", "client-auth-proxy"
        ),
        renew_front_proxy=(
            "systemctl stop %s   # on each server, %s" % (service, _ONE_BY_ONE),
            "%s certificate rotate --service auth-proxy" % key,
            "systemctl start %s" % service,
        ),
        serving_certificates="It signs the serving certificates of kubelets by its own CA of servers (%s) when it "
        "starts." % (base + "/agent/server-ca.crt"),
        renew_serving=(
            "systemctl stop %s   # on an agent %s-agent" % (service, key),
            "%s certificate rotate --service kubelet" % key,
            "systemctl start %s" % service,
        ),
        restart=(restart,),
        switch_off="put `disable: [%s]` into %s on every server and restart them one after the other"
        % (component, config),
        switch_off_lines=(
            "# %s, on every server" % config,
            "disable:",
            "- %s" % component,
            restart,
        ),
        **more,
    )


def _hosted(name: str, server: str, **more: t.Any) -> Distribution:
    return Distribution(
        name=name,
        means="has a control plane of its provider's, whose hosts, flags, certificates and logs nobody else sees, so "
        "that only what the API says is examined, and nothing is changed",
        server=server,
        hosted=True,
        serving_certificates="Its nodes get their serving certificates from the provider; replacing a node replaces "
        "its certificate.",
        **more,
    )


TABLE: t.Dict[str, Distribution] = {
    "k3s": _rancher(
        "k3s",
        "k3s",
        "runs API server and kubelet inside its own process and writes their flags and certificates itself, so that "
        "they are changed in /etc/rancher/k3s/config.yaml and never by a playbook",
        "it ships a metrics server of its own",
        "metrics-server",
        units=("k3s",),
    ),
    "rke2": _rancher(
        "rke2",
        "RKE2",
        "writes the manifests, flags and certificates of its components at every start, so that they are changed in "
        "/etc/rancher/rke2/config.yaml and never by a playbook",
        "it ships a metrics server of its own, as the chart rke2-metrics-server",
        "rke2-metrics-server",
        units=("rke2-",),
        # The directory of its data can be another one; what is below it has the same names.
        arguments=(r"/rke2/(?:server|agent)/",),
    ),
    "minikube": Distribution(
        name="minikube",
        means="writes the manifests, flags and certificates of its components at every start, so that they are changed "
        "by --extra-config of minikube start and never by a playbook",
        server="its addon metrics-server serves the API where it is enabled",
        arguments=("/var/lib/minikube/",),
        labels=(("minikube.k8s.io/name",), ("minikube.k8s.io/version",), ("minikube.k8s.io/commit",)),
        kubeconfigs=("/etc/kubernetes/admin.conf", "/var/lib/minikube/kubeconfig"),
        pki_dir="/var/lib/minikube/certs",
        config="minikube start --extra-config",
        front_proxy=_front_proxy(
            "/var/lib/minikube/certs", "front-proxy-ca.crt", "front-proxy-client", "front-proxy-client"
        ),
        renew_front_proxy=("minikube stop", "minikube start   # renews certificates that have expired"),
        serving_certificates="Its kubelets sign their serving certificates themselves; --extra-config="
        "kubelet.rotate-server-certificates=true makes them request one of the cluster's CA.",
        renew_serving=(
            "minikube start --extra-config=kubelet.rotate-server-certificates=true",
            "minikube kubectl -- get certificatesigningrequests",
        ),
        restart=("minikube stop", "minikube start"),
        switch_off="run `minikube addons disable metrics-server`",
        switch_off_lines=("minikube addons disable metrics-server",),
    ),
    "microk8s": Distribution(
        name="MicroK8s",
        means="runs all components inside one process of its snap, so that their flags are changed in "
        "/var/snap/microk8s/current/args and never by a playbook",
        server="its addon metrics-server serves the API where it is enabled",
        units=("snap.microk8s.",),
        arguments=("/snap/microk8s/",),
        labels=(
            ("microk8s.io/cluster",),
            ("node.kubernetes.io/microk8s-controlplane", "node.kubernetes.io/microk8s-worker"),
        ),
        kubeconfigs=("/var/snap/microk8s/current/credentials/client.config",),
        pki_dir="/var/snap/microk8s/current/certs",
        config="/var/snap/microk8s/current/args",
        front_proxy=_front_proxy(
            "${SNAP_DATA}/certs", "front-proxy-ca.crt", "front-proxy-client", "front-proxy-client"
        ),
        renew_front_proxy=("microk8s refresh-certs --cert front-proxy-client.crt",),
        serving_certificates="Its own CA signs /var/snap/microk8s/current/certs/kubelet.crt, which kubelets serve, "
        "when a node is installed or joins.",
        renew_serving=(
            "openssl x509 -in /var/snap/microk8s/current/certs/kubelet.crt -noout -issuer -enddate -ext subjectAltName",
            "microk8s refresh-certs --cert ca.crt   # all certificates; other nodes have to join again",
        ),
        restart=("snap restart microk8s.daemon-kubelite   # one node after the other",),
        switch_off_lines=("microk8s disable metrics-server",),
    ),
    "k0s": Distribution(
        name="k0s",
        means="supervises its components and writes their flags and certificates at every start, so that they are "
        "changed in /etc/k0s/k0s.yaml and never by a playbook",
        server="it ships a metrics server of its own",
        units=("k0s",),
        arguments=("/var/lib/k0s/", "/run/k0s/"),
        version=r"\+k0s",
        kubeconfigs=("/var/lib/k0s/pki/admin.conf",),
        pki_dir="/var/lib/k0s/pki",
        config="/etc/k0s/k0s.yaml",
        front_proxy=_front_proxy("/var/lib/k0s/pki", "front-proxy-ca.crt", "front-proxy-client", "front-proxy-client"),
        renew_front_proxy=("systemctl restart k0scontroller   # issues it anew; %s" % _ONE_BY_ONE,),
        serving_certificates="Its kubelets request serving certificates, which its component csr-approver approves.",
        renew_serving=(
            "kubectl get certificatesigningrequests",
            "systemctl restart k0sworker",
        ),
        restart=("systemctl restart k0scontroller   # on controllers, %s; on workers k0sworker" % _ONE_BY_ONE,),
        switch_off="install its controllers with `--disable-components=metrics-server` and restart them one after the "
        "other",
        switch_off_lines=(
            "k0s install controller --disable-components=metrics-server --force   # with the other options as they are",
            "systemctl daemon-reload",
            "systemctl restart k0scontroller   # %s" % _ONE_BY_ONE,
        ),
    ),
    "openshift": Distribution(
        name="OpenShift",
        means="has operators that write the manifests, flags and certificates of its components, so that they are "
        "changed by the operators' objects and never on hosts",
        server="its monitoring operator serves the API, since 4.16 by metrics-server, before by prometheus-adapter",
        arguments=("^--openshift-config", r"node\.openshift\.io/os_id"),
        labels=(("node.openshift.io/os_id",),),
        marker="/apis/config.openshift.io/v1/clusterversions/version",
        kubeconfigs=(
            "/etc/kubernetes/static-pod-resources/kube-apiserver-certs/secrets/node-kubeconfigs/localhost.kubeconfig",
        ),
        pki_dir="/etc/kubernetes/static-pod-resources/kube-apiserver-certs",
        front_proxy={
            "requestheader-client-ca-file": "/etc/kubernetes/static-pod-certs/configmaps/aggregator-client-ca/"
            "ca-bundle.crt",
            "requestheader-allowed-names": "kube-apiserver-proxy,system:kube-apiserver-proxy,"
            "system:openshift-aggregator",
            **_HEADERS,
            "proxy-client-cert-file": "/etc/kubernetes/static-pod-certs/secrets/aggregator-client/tls.crt",
            "proxy-client-key-file": "/etc/kubernetes/static-pod-certs/secrets/aggregator-client/tls.key",
        },
        renew_front_proxy=(
            "oc get clusteroperators kube-apiserver",
            "oc delete secret aggregator-client --namespace openshift-kube-apiserver   # its operator makes it anew",
        ),
        serving_certificates="Its kubelets request serving certificates, which its cluster-machine-approver approves.",
        renew_serving=("oc get certificatesigningrequests", "oc get clusteroperators machine-approver"),
        restart=("oc get clusteroperators kube-apiserver",),
        switch_off="OpenShift has no switch for it, so leave the API to it",
        switch_off_lines=("oc get clusteroperators monitoring",),
    ),
    "eks": _hosted(
        "EKS",
        "its managed add-on metrics-server, or one of your own, serves the API",
        version=r"-eks-",
        providers=("aws:", "eks-hybrid:"),
        switch_off="run `aws eks delete-addon --addon-name metrics-server`",
        switch_off_lines=("aws eks delete-addon --cluster-name NAME --addon-name metrics-server",),
    ),
    "aks": _hosted(
        "AKS",
        "the metrics server of AKS serves the API",
        labels=(("kubernetes.azure.com/cluster",),),
        providers=("azure:",),
        switch_off="AKS has no switch for it, so leave the API to it",
    ),
    "gke": _hosted(
        "GKE",
        "the metrics server of GKE serves the API",
        version=r"-gke\.",
        providers=("gce:",),
        switch_off="GKE has no switch for it, so leave the API to it",
    ),
}

#: Where k0s.yaml takes flags of the control plane.
_K0S_SECTIONS = {
    "kube-apiserver": ("api", "extraArgs"),
    "kube-controller-manager": ("controllerManager", "extraArgs"),
    "kube-scheduler": ("scheduler", "extraArgs"),
    "kube-proxy": ("network", "kubeProxy", "extraArgs"),
    "etcd": ("storage", "etcd", "extraArgs"),
}
_CONTROL_PLANE_LABELS = ("control-plane", "controlplane", "master")


class Found(t.NamedTuple):
    """Which distribution a cluster is, by the key in TABLE, and what says so. Empty where nothing does."""

    key: str = ""
    because: str = ""


# --- telling ---------------------------------------------------------------------------------------------------------


def of_process(argv: t.Sequence[str], unit: t.Optional[str]) -> str:
    """The distribution that a process belongs to, by its command line and its service; empty for another one."""
    for key, entry in TABLE.items():
        if unit and entry.units and unit.startswith(entry.units):
            return key
        if any(re.search(expression, argument) for expression in entry.arguments for argument in argv):
            return key
    return ""


def questions(nodes: t.Sequence[Object]) -> t.List[str]:
    """The paths of the API that only one distribution has, for those whose labels some node has."""
    return [
        entry.marker
        for entry in TABLE.values()
        if entry.marker and any(_has_labels(node, entry.labels) for node in nodes)
    ]


def of_cluster(nodes: t.Sequence[Object], version: str, markers: t.Collection[str] = ()) -> Found:
    """What the API says: its version, its Node objects, and which of the paths of questions() it has.

    A version is compiled into the binary. What is written into objects, such as labels, counts only where several
    signs agree on every node; annotations such as k3s.io/node-args do not count.
    """
    for key, entry in TABLE.items():
        because = _by_version(entry, nodes, version) if entry.version else _by_signs(entry, nodes, markers)
        if because and not (entry.hosted and any(_is_control_plane(node) for node in nodes)):
            return Found(key, because)
    return Found()


def _by_version(entry: Distribution, nodes: t.Sequence[Object], version: str) -> str:
    if not all(_provider_id(node).startswith(entry.providers or ("",)) for node in nodes if _provider_id(node)):
        return ""
    if version:
        return "its API server says %s" % version if re.search(entry.version, version) else ""
    versions = [_kubelet_version(node) for node in nodes]
    if versions and all(re.search(entry.version, one) for one in versions):
        return "its kubelets say %s" % ", ".join(sorted(set(versions)))
    return ""


def _by_signs(entry: Distribution, nodes: t.Sequence[Object], markers: t.Collection[str]) -> str:
    labels = ", ".join(group[0] for group in entry.labels)
    if entry.marker:
        labelled = any(_has_labels(node, entry.labels) for node in nodes)
        return "its API has %s" % entry.marker if labelled and entry.marker in markers else ""
    marked = [node for node in nodes if _has_labels(node, entry.labels)]
    if not nodes or len(marked) < len(nodes):
        return ""
    if entry.providers:
        known = all(_provider_id(node).startswith(entry.providers) for node in nodes)
        return "its nodes have the label %s and provider IDs of %s" % (labels, entry.name) if known else ""
    return "its nodes have the labels %s" % labels


def _has_labels(node: Object, groups: t.Sequence[t.Sequence[str]]) -> bool:
    labels = (node.get("metadata") or {}).get("labels") or {}
    return bool(groups) and all(any(name in labels for name in group) for group in groups)


def _is_control_plane(node: Object) -> bool:
    labels = (node.get("metadata") or {}).get("labels") or {}
    return any("node-role.kubernetes.io/" + role in labels for role in _CONTROL_PLANE_LABELS)


def _provider_id(node: Object) -> str:
    return str((node.get("spec") or {}).get("providerID") or "")


def _kubelet_version(node: Object) -> str:
    return str(((node.get("status") or {}).get("nodeInfo") or {}).get("kubeletVersion") or "")


# --- saying ----------------------------------------------------------------------------------------------------------


def sentence(key: str, because: str = "") -> str:
    """Which distribution it is, and what that means, for a person."""
    entry = TABLE[key]
    why = " (%s)" % because if because else ""
    return "This cluster is %s%s. %s %s; %s." % (entry.name, why, entry.name, entry.means, entry.server)


def flags_place(key: str, component: str) -> str:
    """Where flags of a component are configured, in words."""
    if key in ("k3s", "rke2"):
        return "%s-arg of %s" % (component, TABLE[key].config)
    if key == "microk8s":
        return "%s/%s" % (TABLE[key].config, component)
    return TABLE[key].config or "the configuration of %s" % TABLE[key].name


def flags_clause(key: str, component: str, pairs: Pairs) -> str:
    """Where flags of a component belong, in one clause that has them."""
    short = component.replace("kube-", "", 1)
    if key in ("k3s", "rke2"):
        shown = ", ".join('"%s=%s"' % pair for pair in pairs)
        return "put %s-arg: [%s] into %s and restart it" % (component, shown, TABLE[key].config)
    if key == "minikube":
        shown = " ".join("--extra-config=%s.%s=%s" % (short, *pair) for pair in pairs)
        return "start it with %s" % (shown or "other --extra-config options")
    if key == "k0s" and component in _K0S_SECTIONS:
        shown = json.dumps(dict(pairs), sort_keys=True) if pairs else "the flags"
        section = ".".join(("spec", *_K0S_SECTIONS[component]))
        return "put %s into %s of %s and restart its controller" % (shown, section, TABLE[key].config)
    if key == "k0s":
        shown = " ".join("--%s=%s" % pair for pair in pairs)
        return "install its worker with --%s-extra-args=%s" % (short, json.dumps(shown))
    if key == "microk8s":
        shown = ", ".join("--%s=%s" % pair for pair in pairs) or "the flags"
        return "put %s into %s/%s, each on its own line, and restart the snap" % (shown, TABLE[key].config, component)
    if TABLE[key].hosted:
        return "ask its provider, who runs it"
    return "change the object that its operators take them from (KubeletConfig for kubelets), not the hosts"


def flag_lines(key: str, component: str, pairs: Pairs) -> t.List[str]:
    """The same as lines to write, with what brings them into effect. No line needs its indentation, since reports
    drop it."""
    short = component.replace("kube-", "", 1)
    entry = TABLE[key]
    where = "every node" if component == "kubelet" else "every server"
    if key in ("k3s", "rke2"):
        arguments = ['- "%s=%s"' % pair for pair in pairs]
        return ["# %s, on %s" % (entry.config, where), "%s-arg:" % component, *arguments, *entry.restart]
    if key == "minikube":
        return ["minikube start %s" % " ".join("--extra-config=%s.%s=%s" % (short, *pair) for pair in pairs)]
    if key == "k0s" and component in _K0S_SECTIONS:
        value = "{%s}" % ", ".join('%s: "%s"' % pair for pair in pairs)
        for name in reversed(_K0S_SECTIONS[component]):
            value = "{%s: %s}" % (name, value)
        return ["# %s, on every controller" % entry.config, "spec: " + value, *entry.restart]
    if key == "k0s":
        shown = " ".join("--%s=%s" % pair for pair in pairs)
        return [
            "k0s install worker --%s-extra-args=%s --force   # with the other options as they are"
            % (short, json.dumps(shown)),
            "systemctl daemon-reload",
            "systemctl restart k0sworker   # one node after the other",
        ]
    if key == "microk8s":
        arguments = ["--%s=%s" % pair for pair in pairs]
        return ["# %s/%s, on every node" % (entry.config, component), *arguments, *entry.restart]
    if key == "openshift" and component == "kubelet":
        return ["oc get kubeletconfigs --output=yaml   # take out what contradicts: %s" % _listed(pairs)]
    if key == "openshift":
        return [
            "oc get kubeapiservers cluster --output=yaml   # unsupportedConfigOverrides must not contradict %s"
            % _listed(pairs)
        ]
    return []


def environment_lines(key: str, name: str, value: str) -> t.Tuple[str, ...]:
    """How a variable gets into the environment of the API server."""
    entry = TABLE[key]
    shown = "%s=%s" % (name, value)
    if key in ("k3s", "rke2"):
        service = "rke2-server" if key == "rke2" else key
        return (
            "echo %s >> /etc/default/%s   # replace the line that is there" % (shown, service),
            "systemctl restart %s   # %s" % (service, _ONE_BY_ONE),
        )
    if key == "minikube":
        return ("export %s" % shown, "minikube stop", "minikube start")
    if key == "k0s":
        return ("systemctl edit k0scontroller   # [Service] Environment=%s" % shown, *entry.restart)
    if key == "microk8s":
        return ("echo %s >> /etc/environment   # replace the line that is there" % shown, *entry.restart)
    if key == "openshift":
        return ("oc edit proxy cluster   # spec.noProxy: %s" % value,) if name == "NO_PROXY" else ()
    return ()


def _listed(pairs: Pairs) -> str:
    return ", ".join("%s=%s" % pair for pair in pairs)
