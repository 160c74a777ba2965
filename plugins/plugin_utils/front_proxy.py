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


def running_flags(host: t.Mapping[str, t.Any]) -> t.Mapping[str, t.Any]:
    """The flags of the running API server, as component_info reads them: those that take lists are lists."""
    return t.cast("t.Mapping[str, t.Any]", host["components"]["kube-apiserver"]["flags"])


def is_complete(flags: t.Mapping[str, t.Any]) -> bool:
    """Whether all seven are there. Allowed names may be empty: then every name that the CA signs is allowed."""
    return all(name in flags and (flags[name] or name == ALLOWED_NAMES) for name in REQUIRED)


def wanted_flags(
    host: t.Mapping[str, t.Any],
    peers: t.Sequence[t.Mapping[str, t.Any]],
    files: t.Mapping[str, t.Any],
    routing: str = "auto",
) -> t.Dict[str, t.Any]:
    """The flags that an API server shall have: what it has, else what the others have, else kubeadm's values.

    ``files`` may name ``ca_file``, ``cert_file`` and ``key_file``, which win, the ``directory`` for those that are
    named nowhere, and whether to ``replace_shared`` CAs.
    """
    own = running_flags(host)
    others = [running_flags(peer) for peer in peers if peer["name"] != host["name"]]
    directory = files.get("directory") or host["kubernetes_dir"]["pki_dir"]
    given = {CA_FILE: files.get("ca_file"), CERT_FILE: files.get("cert_file"), KEY_FILE: files.get("key_file")}

    # With the cluster's CA in this place the client pair is in question, too: it may serve other purposes.
    borrowed = bool(files.get("replace_shared")) and own.get(CA_FILE, "") == own.get("client-ca-file", "-")

    def found(name: str) -> t.Any:
        sources = others if borrowed and name in FILES else [own, *others]
        return next(
            (flags[name] for flags in sources if flags.get(name) and flags[name] != own.get("client-ca-file")), None
        )

    result: t.Dict[str, t.Any] = {}
    for name, file_name in FILES.items():
        path = given[name] or found(name)
        if not path and not directory:
            raise FrontProxyError(
                "The directory of the certificates of %s is not known; name it as front_proxy_pki_directory."
                % host["name"]
            )
        result[name] = path or posixpath.join(directory, file_name)
    if ALLOWED_NAMES in own:
        # A list of one empty name, which literal quotes make, admits nobody; that was meant to be empty.
        result[ALLOWED_NAMES] = [] if own[ALLOWED_NAMES] == [""] else own[ALLOWED_NAMES]
    else:
        result[ALLOWED_NAMES] = found(ALLOWED_NAMES) or [COMMON_NAME]
    for name, default in HEADERS.items():
        result[name] = found(name) or [default]
    uid = uid_headers(host, own, others)
    if uid:
        result[UID_HEADERS] = uid
    result.update(routing_flag(host, own, routing))
    return result


def uid_headers(
    host: t.Mapping[str, t.Any], own: t.Mapping[str, t.Any], others: t.Sequence[t.Mapping[str, t.Any]]
) -> t.Optional[t.List[str]]:
    """The header that carries the user's uid: the same for all, and nothing to restart a complete API server for."""
    if own.get(UID_HEADERS):
        return list(own[UID_HEADERS])
    version = flag_history.parse_version(host["components"]["kube-apiserver"].get("version"))
    if is_complete(own) or version is None or flag_history.refusal("kube-apiserver", UID_HEADERS, version):
        return None
    complete = [flags for flags in others if is_complete(flags)]
    there = next((flags[UID_HEADERS] for flags in others if flags.get(UID_HEADERS)), None)
    return there or (None if complete else [UID_HEADER])


def routing_flag(host: t.Mapping[str, t.Any], own: t.Mapping[str, t.Any], routing: str) -> t.Dict[str, bool]:
    """Without kube-proxy nothing on the host knows ClusterIPs, so the API server has to go to the endpoints itself."""
    present = own.get(ROUTING, "").lower() in ("1", "t", "true")
    if routing == "auto":
        return {} if host["components"]["kube-proxy"]["running"] else {ROUTING: True}
    if routing == "true":
        return {ROUTING: True}
    return {ROUTING: False} if present else {}


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
    """The CAs of a control plane's file that can vouch for anybody, without those that are the cluster's own."""
    cluster = set(info["client_ca"])
    result = []
    for der in info["ca"]:
        certificate = load(der)
        if der in cluster or certificate is None:
            continue
        words = certs.describe(certificate, now)
        if words["is_ca"] and not words["expired"]:
            result.append(Authority(certificate, der))
    return result


def common_name(certificate: t.Any) -> str:
    for attribute in certificate.subject:
        if attribute.oid.dotted_string == "2.5.4.3":
            return str(attribute.value)
    return ""


def trouble_with(
    info: t.Mapping[str, t.Any],
    trusted: t.Sequence[Authority],
    allowed_names: t.Sequence[str],
    threshold_days: int,
    now: datetime.datetime,
) -> str:
    """Why the client certificate of a control plane will not do, as the end of a sentence; empty if it does."""
    if not info["certificate"]:
        return "there is no certificate in %s" % info["cert_file"]
    certificate = load(info["certificate"])
    if certificate is None:
        return "%s does not parse" % info["cert_file"]
    words = certs.describe(certificate, now)
    if words["expired"]:
        return "it expired at %s" % words["not_after"]
    if not info["pair"]["usable"]:
        return "it does not go with its key (%s)" % info["pair"]["message"]
    if not certs.issued_by(certificate, [one.certificate for one in trusted]):
        return "no front-proxy CA has signed it"
    if "client auth" not in words["extended_key_usages"]:
        return "it is not made for clients (extended key usage clientAuth)"
    if allowed_names and common_name(certificate) not in allowed_names:
        return "its name %s is not allowed (%s)" % (common_name(certificate), ", ".join(allowed_names))
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


class Settings(t.NamedTuple):
    """What the user decides."""

    threshold_days: int = 30
    renew: bool = False
    replace_shared: bool = False


def plan(
    hosts: t.Mapping[str, t.Mapping[str, t.Any]],
    allowed_names: t.Mapping[str, t.Sequence[str]],
    settings: Settings,
    now: t.Optional[datetime.datetime] = None,
) -> t.Dict[str, t.Any]:
    """What has to be done to the front proxy's certificates of all control planes. Raises FrontProxyError.

    ``hosts`` maps each control plane to what ``front_proxy_info`` says of it.
    """
    now = now or datetime.datetime.now(datetime.timezone.utc)
    shared = sorted(name for name, info in hosts.items() if set(info["ca"]) & set(info["client_ca"]))
    if shared and not settings.replace_shared:
        raise FrontProxyError(
            "On %s the CA of the front proxy (%s) is the cluster's own CA, so that every client certificate of the "
            "cluster can act as any user; set front_proxy_pki_replace_shared_ca to true to have a CA of its own made."
            % (", ".join(shared), hosts[shared[0]]["ca_file"])
        )
    trusted: t.Dict[str, Authority] = {}
    for name, info in hosts.items():
        for one in [] if name in shared else authorities(info, now):
            trusted.setdefault(one.der, one)
    issue = {}
    for name, info in hosts.items():
        reason = trouble_with(info, list(trusted.values()), allowed_names[name], settings.threshold_days, now)
        if name in shared:
            reason = "the cluster's own CA vouches for it"
        if not reason and settings.renew:
            reason = "renewal was asked for"
        if reason:
            issue[name] = reason
    bundle = list(trusted)
    update = sorted(
        name
        for name, info in hosts.items()
        if name in shared or {one.der for one in authorities(info, now)} != set(bundle)
    )
    signers = {name: der for name, info in hosts.items() for der in bundle if info["ca_key"]["signs"] == der}
    signer = next(iter(sorted(signers)), None)
    create = not bundle
    foreign = [name for name in issue if hosts[name]["used_elsewhere"]]
    if foreign:
        raise FrontProxyError(
            "On %s the front-proxy client certificate %s has to be replaced (%s), but other flags name the same files; "
            "give the front proxy files of its own (--%s, --%s)."
            % (foreign[0], hosts[foreign[0]]["cert_file"], issue[foreign[0]], CERT_FILE, KEY_FILE)
        )
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
        update = sorted(name for name in hosts if name != signer)
    return {
        "create_ca": create,
        "reuse_key": bool(create and signer not in shared and hosts[signer]["ca_key"]["exists"]),
        "shared": shared,
        "signer": signer,
        "signing_ca": pem_of([signers[signer]]) if signer in signers else "",
        "bundle": pem_of(bundle),
        "update_ca": update,
        "issue": issue,
    }


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
        if create or not certs.issued_by(load(hosts[name]["certificate"] or ""), [goal.certificate])
    ]
    if reissue and signer is None:
        raise FrontProxyError(
            "No control plane has the key of the front-proxy CA %s, so that the certificates of %s cannot be replaced. "
            "For a CA of your own, first add its certificate to %s on every control plane, then put client "
            "certificates by it in place; after that this takes the old CA out."
            % (goal.certificate.subject.rfc4514_string(), ", ".join(reissue), hosts[reissue[0]]["ca_file"])
        )
    order = [goal.der] + [one.der for one in ranked if one is not goal]
    old_ders = {one.der for one in old}
    return {
        "create": create,
        "signer": signer,
        "target": None if create else goal.der,
        "target_pem": "" if create else pem_of([goal.der]),
        "all": order,
        "all_pem": pem_of(order),
        "old": [one.certificate.subject.rfc4514_string() for one in old],
        "reissue": reissue,
        "extend": [name for name in sorted(hosts) if not set(order) <= set(hosts[name]["ca"])],
        "drop": [name for name in sorted(hosts) if set(hosts[name]["ca"]) != {goal.der}],
        # A key of a CA that nobody will trust; kubeadm would sign with it what nobody then accepts.
        "stale_keys": {
            name: info["ca_key"]["path"] for name, info in hosts.items() if info["ca_key"]["signs"] in old_ders
        },
    }
