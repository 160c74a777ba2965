# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the aggregation layer of an API server needs: flags, a CA and a client certificate. Decides, writes nothing."""

from __future__ import annotations

import base64
import binascii
import datetime
import posixpath
import re
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.pki import certificates as certs
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.pki import names as pki_names
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text.flags import write_list
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.definitions import flag_history

CA_FILE = "requestheader-client-ca-file"
CERT_FILE = "proxy-client-cert-file"
KEY_FILE = "proxy-client-key-file"
ALLOWED_NAMES = "requestheader-allowed-names"
UID_HEADERS = "requestheader-uid-headers"
ROUTING = "enable-aggregator-routing"

#: kubeadm's names, which other installers took over.
FILES = {CA_FILE: "front-proxy-ca.crt", CERT_FILE: "front-proxy-client.crt", KEY_FILE: "front-proxy-client.key"}
HEADERS = {
    "requestheader-username-headers": "X-Remote-User",
    "requestheader-group-headers": "X-Remote-Group",
    "requestheader-extra-headers-prefix": "X-Remote-Extra-",
}
UID_HEADER = "X-Remote-Uid"
COMMON_NAME = "front-proxy-client"

#: The five flags of the request header and the two of the proxy client.
REQUIRED = (CA_FILE, ALLOWED_NAMES, *HEADERS, CERT_FILE, KEY_FILE)


class FrontProxyError(ValueError):
    """One sentence for the user."""


# --- flags ----------------------------------------------------------------------------------------------------------


def running_flags(host: t.Mapping[str, t.Any]) -> t.Dict[str, t.Any]:
    """The flags of the running API server, as component_info reads them: those that take lists are lists."""
    return dict(host["components"]["kube-apiserver"]["flags"])


def is_complete(flags: t.Mapping[str, t.Any]) -> bool:
    """Whether the front proxy can work. Without allowed names every name that the CA signs is allowed."""
    return all(flags.get(name) for name in REQUIRED if name != ALLOWED_NAMES)


def admits_nobody(flags: t.Mapping[str, t.Any]) -> bool:
    """Whether the only allowed name is an empty one, which no certificate has (`""` with literal quotes)."""
    names = flags.get(ALLOWED_NAMES)
    return bool(names) and not any(names)


def real_names(flags: t.Mapping[str, t.Any]) -> t.List[str]:
    """The names that a certificate may have; none for any."""
    return [name for name in flags.get(ALLOWED_NAMES) or [] if name]


def shares_client_ca(flags: t.Mapping[str, t.Any]) -> bool:
    """Whether the cluster's own CA vouches for front proxies, by the same path."""
    path = flags.get(CA_FILE)
    return bool(path) and posixpath.normpath(path) == posixpath.normpath(flags.get("client-ca-file") or "-")


def file_flags(
    host: t.Mapping[str, t.Any], peers: t.Sequence[t.Mapping[str, t.Any]], files: t.Mapping[str, t.Any]
) -> t.Dict[str, str]:
    """The three flags that name files: as given, as they are, as those of the other API servers, or as kubeadm's.

    ``files`` may name ``ca_file``, ``cert_file`` and ``key_file``, which win, and the ``directory`` for those that are
    named nowhere. API servers that use the cluster's CA use its pair, too, and are no example.
    """
    own = running_flags(host)
    others = [running_flags(peer) for peer in peers if peer["name"] != host["name"]]
    sources = [own, *(flags for flags in others if not shares_client_ca(flags))]
    directory = files.get("directory") or host["kubernetes_dir"]["pki_dir"]
    given = {CA_FILE: files.get("ca_file"), CERT_FILE: files.get("cert_file"), KEY_FILE: files.get("key_file")}
    result = {}
    for name, file_name in FILES.items():
        path = given[name] or next((flags[name] for flags in sources if flags.get(name)), None)
        if not path and not directory:
            raise FrontProxyError(
                "The directory of the certificates of %s is not known; name it as front_proxy_pki_directory."
                % host["name"]
            )
        result[name] = path or posixpath.join(directory, file_name)
    return result


def own_files(
    host: t.Mapping[str, t.Any], info: t.Mapping[str, t.Any], infos: t.Mapping[str, t.Mapping[str, t.Any]]
) -> t.Dict[str, str]:
    """The files of a front proxy that shall not share the cluster's CA any more.

    ``info`` is what ``front_proxy_info`` says of the files that it has now. They stay where nothing else uses them;
    names of our own take the place of those that something else refers to, and of all where the CA does.
    """
    files = {name: info[name] for name in ("ca_file", "cert_file", "key_file")}
    if not shared_hosts(infos) or (is_complete(running_flags(host)) and host["name"] not in shared_hosts(infos)):
        return files
    used = info["used_by"]
    new = info.get("new_files")
    if new is None:
        raise FrontProxyError(
            "The directory of the certificates of %s is not known; name it as front_proxy_pki_directory." % host["name"]
        )
    if used["ca_file"] or used["ca_key"]:
        return dict(new)
    if used["cert_file"] or used["key_file"]:
        return {**new, "ca_file": files["ca_file"]}
    return files


def wanted_flags(
    host: t.Mapping[str, t.Any],
    peers: t.Sequence[t.Mapping[str, t.Any]],
    files: t.Mapping[str, t.Any],
    routing: str = "auto",
) -> t.Dict[str, t.Any]:
    """The flags that an API server shall have: what it has, else what the others have, else kubeadm's values.

    ``files`` is as for :func:`file_flags`; its ``names`` are those that certificates have, for an API server whose
    allowed names admit nobody.
    """
    own = running_flags(host)
    others = [running_flags(peer) for peer in peers if peer["name"] != host["name"]]

    def found(name: str) -> t.Any:
        return next((flags[name] for flags in [own, *others] if flags.get(name)), None)

    result: t.Dict[str, t.Any] = dict(file_flags(host, peers, files))
    names = allowed_names(own, others, files.get("names") or [])
    if names is not None:
        result[ALLOWED_NAMES] = names
    for name, default in HEADERS.items():
        result[name] = found(name) or [default]
    uid = uid_headers(host, own, others)
    if uid:
        result[UID_HEADERS] = uid
    result.update(routing_flag(host, own, routing))
    return result


def names_for(host: t.Mapping[str, t.Any], peers: t.Sequence[t.Mapping[str, t.Any]]) -> t.List[str]:
    """The names that the certificate of an API server may have; none for any."""
    own = running_flags(host)
    if admits_nobody(own):
        return []
    others = [running_flags(peer) for peer in peers if peer["name"] != host["name"]]
    return [name for name in allowed_names(own, others, []) or [] if name]


def allowed_names(
    own: t.Mapping[str, t.Any], others: t.Sequence[t.Mapping[str, t.Any]], in_use: t.Sequence[str]
) -> t.Optional[t.List[str]]:
    """The allowed names to be set; None to leave the flag alone.

    API servers publish the union of their lists. So names that one of them newly has would shut out the certificates
    of another that allows all, and a list that admits nobody is mended only by the names that are in use.
    """
    if admits_nobody(own):
        return list(in_use) or next((names for names in map(real_names, others) if names), [COMMON_NAME])
    if own.get(ALLOWED_NAMES):
        return list(own[ALLOWED_NAMES])
    if own.get(CA_FILE) or any(flags.get(CA_FILE) and not flags.get(ALLOWED_NAMES) for flags in others):
        return None
    return next((names for names in map(real_names, others) if names), [COMMON_NAME])


def uid_headers(
    host: t.Mapping[str, t.Any], own: t.Mapping[str, t.Any], others: t.Sequence[t.Mapping[str, t.Any]]
) -> t.Optional[t.List[str]]:
    """The header that carries the user's uid: the same for all, and nothing to restart a complete API server for."""
    if own.get(UID_HEADERS):
        return list(own[UID_HEADERS])
    version = flag_history.parse_version(host["components"]["kube-apiserver"].get("version"))
    # Emulating an older version, or without its feature gate (beta), an API server does not start with this flag.
    gates = str(own.get("feature-gates") or "")
    gated = own.get("emulated-version") or any(name in gates for name in ("RemoteRequestHeaderUID", "AllBeta"))
    if is_complete(own) or gated or version is None or flag_history.refusal("kube-apiserver", UID_HEADERS, version):
        return None
    complete = [flags for flags in others if is_complete(flags)]
    there = next((flags[UID_HEADERS] for flags in others if flags.get(UID_HEADERS)), None)
    return there or (None if complete else [UID_HEADER])


def routing_flag(host: t.Mapping[str, t.Any], own: t.Mapping[str, t.Any], routing: str) -> t.Dict[str, bool]:
    """Where nothing on the host leads to ClusterIPs, the API server has to go to the endpoints itself."""
    present = str(own.get(ROUTING, "")).lower() in ("1", "t", "true")
    if routing == "auto":
        return {ROUTING: True} if routes_unknown(host) and host.get("cluster_ip_answers") is False else {}
    if routing == "true":
        return {ROUTING: True}
    return {ROUTING: False} if present else {}


def routes_unknown(host: t.Mapping[str, t.Any]) -> bool:
    """Whether a ClusterIP has to be tried from the host: no kube-proxy runs, and the API server does not route yet.

    A replacement of kube-proxy may be there, or its DaemonSet is just being rolled out.
    """
    present = str(running_flags(host).get(ROUTING, "")).lower() in ("1", "t", "true")
    return not present and not host["components"]["kube-proxy"]["running"]


def beside_kubeadm(wanted: t.Mapping[str, t.Any], directory: str) -> t.Dict[str, t.Any]:
    """Those of the flags that kubeadm does not set by itself; the others as None, so that its own values hold.

    Lists become the text that a command line holds: kubespray's variable of extra arguments takes no other.
    """
    defaults: t.Dict[str, t.Any] = {name: posixpath.join(directory, file) for name, file in FILES.items()}
    defaults.update(HEADERS)
    defaults[ALLOWED_NAMES] = COMMON_NAME
    defaults[ROUTING] = False
    texts = {name: write_list(value) if isinstance(value, list) else value for name, value in wanted.items()}
    return {name: None if defaults.get(name) == text else text for name, text in texts.items()}


def volume_name(directory: str) -> str:
    """A name for the volume of a directory, as Kubernetes allows them."""
    return ("front-proxy-" + re.sub(r"[^a-z0-9]+", "-", directory.lower()).strip("-"))[:63].rstrip("-")


# --- certificates ---------------------------------------------------------------------------------------------------


class Authority(t.NamedTuple):
    """A CA certificate that some control plane has, and where its key lies."""

    certificate: t.Any
    der: str


def load(encoded: str) -> t.Any:
    try:
        return certs.load_der(base64.b64decode(encoded, validate=True))
    except (binascii.Error, ValueError):
        return None


def authorities(info: t.Mapping[str, t.Any], now: datetime.datetime) -> t.List[Authority]:
    """The CAs of a control plane's file that can vouch for a front proxy, without those that are the cluster's own."""
    cluster = set(info["client_ca"])
    result = []
    for der in info["ca"]:
        certificate = load(der)
        if der in cluster or certificate is None:
            continue
        words = certs.describe(certificate, now)
        # Certificates of version 1 cannot say that they are of a CA, and Go takes them.
        may_sign = words["is_ca"] or certificate.version.name == "v1"
        if may_sign and not words["expired"]:
            result.append(Authority(certificate, der))
    return result


def chain_of(info: t.Mapping[str, t.Any]) -> t.List[t.Any]:
    """The certificates that the front proxy shows; those that do not parse are left out, except for the first."""
    loaded = [load(der) for der in info["chain"]]
    return loaded[:1] + [one for one in loaded[1:] if one is not None]


def trouble_with(
    info: t.Mapping[str, t.Any],
    trusted: t.Sequence[Authority],
    names: t.Sequence[str],
    threshold_days: int,
    now: datetime.datetime,
) -> str:
    """Why the client certificate of a control plane will not do, as the end of a sentence; empty if it does."""
    if not info["chain"]:
        return "there is no certificate in %s" % info["cert_file"]
    chain = chain_of(info)
    if chain[0] is None:
        return "%s does not parse" % info["cert_file"]
    words = certs.describe(chain[0], now)
    if words["expired"]:
        return "it expired at %s" % words["not_after"]
    if not info["pair"]["usable"]:
        return "it does not belong to its key (%s)" % info["pair"]["message"]
    unfit = certs.why_no_client(chain, [one.certificate for one in trusted], now)
    if unfit:
        return unfit
    name = certs.common_name(chain[0])
    if names and name not in names:
        return "its name %s is not allowed (%s)" % (name, ", ".join(names))
    if words["expires_in_days"] < threshold_days:
        return "it expires at %s" % words["not_after"]
    return ""


def pem_of(ders: t.Iterable[str]) -> str:
    lines = []
    for der in ders:
        lines.append("-----BEGIN CERTIFICATE-----")
        lines += [der[start : start + 64] for start in range(0, len(der), 64)]
        lines.append("-----END CERTIFICATE-----")
    return "".join(line + "\n" for line in lines)


def shared_hosts(infos: t.Mapping[str, t.Mapping[str, t.Any]]) -> t.List[str]:
    """Control planes whose CA of front proxies is one of the cluster's own."""
    return sorted(name for name, info in infos.items() if set(info["ca"]) & set(info["client_ca"]))


def shared_problem(
    infos: t.Mapping[str, t.Mapping[str, t.Any]], published: t.Sequence[str], replace_shared: bool
) -> str:
    """Why nothing may go on with the cluster's own CA in the place of the front proxy's, as a sentence; or empty.

    ``published`` are the subjects of CAs that API servers have published both for clients and for front proxies.
    """
    shared = shared_hosts(infos)
    if replace_shared or not (shared or published):
        return ""
    danger = (
        "so that whoever has a client certificate of the cluster with an allowed name can act as any user, "
        "cluster administrators included"
    )
    remedy = (
        "set front_proxy_pki_replace_shared_ca to true to have a CA of its own made in new files, API servers "
        "restarted with it one by one, and the cluster's CA taken out of what they publish"
    )
    if shared:
        return "Nothing was changed. On %s the CA of the front proxy (%s) is the cluster's own CA, %s; %s." % (
            ", ".join(shared),
            infos[shared[0]]["ca_file"],
            danger,
            remedy,
        )
    return (
        "Nothing was changed. ConfigMap kube-system/extension-apiserver-authentication still publishes the cluster's "
        "own CA (%s) for front proxies, %s of aggregated APIs; set front_proxy_pki_replace_shared_ca to true to have "
        "it taken out." % (", ".join(published), danger)
    )


def publishers(infos: t.Mapping[str, t.Mapping[str, t.Any]], hosts: t.Sequence[t.Mapping[str, t.Any]]) -> t.List[str]:
    """Control planes whose API server runs with the front proxy's CA file, and so publishes what it holds."""
    return [
        str(host["name"])
        for host in hosts
        if host["components"]["kube-apiserver"]["running"]
        and running_flags(host).get(CA_FILE) == infos[host["name"]]["ca_file"]
    ]


class Settings(t.NamedTuple):
    """What the user decides."""

    threshold_days: int = 30
    renew: bool = False


def plan(
    hosts: t.Mapping[str, t.Mapping[str, t.Any]],
    names: t.Mapping[str, t.Sequence[str]],
    settings: Settings,
    now: t.Optional[datetime.datetime] = None,
) -> t.Dict[str, t.Any]:
    """What has to be done to the front proxy's certificates of all control planes. Raises FrontProxyError.

    ``hosts`` maps each control plane to what ``front_proxy_info`` says of the files that it has or shall have, and
    ``names`` to those that certificates may have; none for any. The cluster's own CAs vouch for no front proxy.
    """
    now = now or datetime.datetime.now(datetime.timezone.utc)
    trusted: t.Dict[str, Authority] = {}
    for info in hosts.values():
        for one in authorities(info, now):
            trusted.setdefault(one.der, one)
    issue = {}
    for name, info in hosts.items():
        reason = trouble_with(info, list(trusted.values()), names[name], settings.threshold_days, now)
        if not reason and settings.renew:
            reason = "renewal was asked for"
        if reason:
            issue[name] = reason
    bundle = list(trusted)
    shared = shared_hosts(hosts)
    update = sorted(
        name
        for name, info in hosts.items()
        if name in shared or {one.der for one in authorities(info, now)} != set(bundle)
    )
    signers = {name: der for name, info in hosts.items() for der in bundle if info["ca_key"]["signs"] == der}
    signer = next(iter(sorted(signers)), None)
    create = not bundle
    if issue and not create and signer is None:
        name, reason = next(iter(issue.items()))
        raise FrontProxyError(
            "The front-proxy client certificate %s of %s has to be replaced (%s), but no control plane has the key of "
            "the CA that signs such certificates: put a certificate and a key by that CA there, or its key beside %s."
            % (hosts[name]["cert_file"], name, reason, hosts[name]["ca_file"])
        )
    if create:
        # Whoever has a key already, made for a certificate that is lost or has expired, goes on with it.
        signer = next(
            (name for name in hosts if name not in shared and hosts[name]["ca_key"]["exists"]), next(iter(hosts))
        )
        update = sorted(hosts)
    check_uses(hosts, list(issue), update, signer if create else None)
    return {
        "create_ca": create,
        "signer": signer,
        "signing_ca": pem_of([signers[signer]]) if signer in signers else "",
        "bundle": pem_of(bundle),
        "update_ca": [name for name in update if not create or name != signer],
        "issue": issue,
        "names_in_use": sorted(
            {certs.common_name(chain_of(info)[0]) for name, info in hosts.items() if name not in issue}
            | {new_name(names[name]) for name in issue}
        ),
    }


def left_over(
    hosts: t.Mapping[str, t.Mapping[str, t.Any]],
    names: t.Mapping[str, t.Sequence[str]],
    now: t.Optional[datetime.datetime] = None,
) -> str:
    """What is not in order, as clauses; none where each certificate is by a CA of its own host, and all trust the same.

    Another host's CA may vouch for a certificate only as long as that host is there and has published it.
    """
    now = now or datetime.datetime.now(datetime.timezone.utc)
    own = {name: authorities(info, now) for name, info in hosts.items()}
    everywhere = {one.der for trusted in own.values() for one in trusted}
    found = []
    for name, info in hosts.items():
        reason = trouble_with(info, own[name], names[name], 0, now)
        if reason:
            found.append("%s: %s" % (name, reason))
        elif {one.der for one in own[name]} != everywhere:
            found.append("%s: %s lacks a CA that another control plane trusts" % (name, info["ca_file"]))
    return "; ".join(found)


def new_name(names: t.Sequence[str]) -> str:
    """The name of a new certificate: the first one that is allowed."""
    return names[0] if names else COMMON_NAME


def check_uses(
    hosts: t.Mapping[str, t.Mapping[str, t.Any]],
    pairs: t.Sequence[str],
    authorities_of: t.Sequence[str],
    creator: t.Optional[str] = None,
) -> None:
    """Raises FrontProxyError where a file that has to be replaced serves something else, too."""
    checks = [(name, "cert_file", CERT_FILE) for name in pairs] + [(name, "key_file", KEY_FILE) for name in pairs]
    checks += [(name, "ca_file", CA_FILE) for name in authorities_of]
    for name, file, flag in checks:
        users = hosts[name]["used_by"][file]
        if users:
            raise FrontProxyError(
                "On %s the front proxy's file %s has to be replaced, but it serves something else, too (%s); give the "
                "front proxy files of its own (--%s), or that another one."
                % (name, hosts[name][file], ", ".join(users[:3]), flag)
            )
    if creator and hosts[creator]["used_by"]["ca_key"]:
        raise FrontProxyError(
            "On %s the key %s would be that of a new front-proxy CA, but it serves something else, too (%s); name "
            "another directory as front_proxy_pki_directory."
            % (creator, hosts[creator]["ca_key"]["path"], ", ".join(hosts[creator]["used_by"]["ca_key"][:3]))
        )


# --- a new CA -------------------------------------------------------------------------------------------------------


def rotation(
    hosts: t.Mapping[str, t.Mapping[str, t.Any]],
    target: t.Optional[str] = None,
    now: t.Optional[datetime.datetime] = None,
) -> t.Dict[str, t.Any]:
    """How far the control planes are from trusting one new front-proxy CA and no other. Raises FrontProxyError.

    ``hosts`` is as for :func:`plan`, which has to have nothing left to do. ``target`` is the CA to arrive at, DER in
    base64; without it, the newest one if there are several (somebody has begun), else one that has to be made.
    """
    now = now or datetime.datetime.now(datetime.timezone.utc)
    trusted: t.Dict[str, Authority] = {}
    for info in hosts.values():
        for one in authorities(info, now):
            trusted.setdefault(one.der, one)
    ranked = sorted(trusted.values(), key=lambda one: certs.not_before(one.certificate), reverse=True)
    if not ranked:
        raise FrontProxyError(
            "No control plane has a front-proxy CA that could be replaced; run the site playbook first."
        )
    create = len(ranked) < 2 and target is None
    goal = trusted.get(target or "") or ranked[0]
    signer = next((name for name in sorted(hosts) if hosts[name]["ca_key"]["signs"] == goal.der), None)
    if create and signer is None:
        # Interrupted between the new key and its certificate: that key is as good for a new CA.
        signer = next((name for name in sorted(hosts) if hosts[name]["ca_key"]["exists"]), None)
    old = [one for one in ranked if create or one is not goal]
    reissue = [
        name
        for name in sorted(hosts)
        if create or not chain_of(hosts[name]) or certs.why_no_client(chain_of(hosts[name]), [goal.certificate], now)
    ]
    if reissue and signer is None:
        raise FrontProxyError(
            "No control plane has the key of the front-proxy CA %s, so that the certificates of %s cannot be replaced. "
            "For a CA of your own, first add its certificate to %s on every control plane, then put client "
            "certificates by it in place; after that this takes the old CA out."
            % (pki_names.text(goal.certificate), ", ".join(reissue), hosts[reissue[0]]["ca_file"])
        )
    check_uses(hosts, reissue, sorted(hosts), signer if create else None)
    order = [goal.der] + [one.der for one in ranked if one is not goal]
    return {
        "create": create,
        "signer": signer,
        "target": None if create else goal.der,
        "target_pem": "" if create else pem_of([goal.der]),
        "all": order,
        "all_pem": pem_of(order),
        "old": [pki_names.text(one.certificate) for one in old],
        # Whose key makes no new CA.
        "retired": [one.der for one in old],
        "reissue": reissue,
        "extend": [name for name in sorted(hosts) if not set(order) <= set(hosts[name]["ca"])],
        "drop": [name for name in sorted(hosts) if set(hosts[name]["ca"]) != {goal.der}],
    }
