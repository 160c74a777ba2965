# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Keys and certificates in the files of a host, by its openssl program. Standard library only, Python 3.8."""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import os
import re
import secrets
import shutil
import ssl
import subprocess
import tempfile
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import files as host_files
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import processes

TIMEOUT = 60
NEW_KEY = ("-newkey", "rsa:2048")
#: What a new certificate is backdated by, as kubeadm does: a clock that is a little behind would call it not valid yet.
BACKDATE = datetime.timedelta(minutes=5)

#: Of our own, because distributions put extensions of theirs into the default configuration.
CONFIGURATION = """\
[req]
distinguished_name = name
prompt = no
[name]
CN = {common_name}
[ca]
default_ca = here
[here]
database = {directory}/index.txt
new_certs_dir = {directory}
serial = {directory}/serial
policy = any
default_md = sha256
unique_subject = no
email_in_dn = no
copy_extensions = none
[any]
commonName = supplied
organizationName = optional
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, digitalSignature, keyEncipherment, keyCertSign
subjectKeyIdentifier = hash
[client]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature, keyEncipherment
extendedKeyUsage = clientAuth
subjectKeyIdentifier = hash
# By issuer and serial number where the CA has no identifier of its key: CAs by kubeadm up to 1.18, or by cert-manager.
authorityKeyIdentifier = keyid, issuer
"""

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_COMMON_NAME = re.compile(r"^[A-Za-z0-9._: -]+$")


class CertificateError(Exception):
    """One sentence for the user."""


@contextlib.contextmanager
def reported(module: t.Any) -> t.Iterator[None]:
    """What goes wrong inside fails the module with one sentence."""
    try:
        yield
    except (CertificateError, host_files.HostFileError) as exc:
        module.fail_json(msg=str(exc))
    except OSError as exc:
        module.fail_json(msg="Cannot write %s: %s." % (exc.filename or "a temporary file", exc.strerror or exc))


def check_common_name(name: str) -> None:
    """Names go into a configuration file of openssl. Raises CertificateError."""
    if not _COMMON_NAME.match(name):
        raise CertificateError("common_name is %r; give letters, digits and the signs -._: only." % name)


def check_days(days: int) -> None:
    if days < 1:
        raise CertificateError("days is %d; give at least 1." % days)


# --- PEM ------------------------------------------------------------------------------------------------------------


def ders_in(text: str) -> t.List[str]:
    """The certificates of a PEM text, DER in base64. A damaged block is no certificate."""
    found = []
    for block in _PEM.findall(text):
        try:
            found.append(base64.b64encode(ssl.PEM_cert_to_DER_cert(block)).decode("ascii"))
        except ValueError:
            continue
    return found


def ders_in_file(path: t.Optional[str]) -> t.List[str]:
    """The certificates of a file; none without it. Raises HostFileError when it cannot be read."""
    return ders_in(text_of(path)) if path else []


def text_of(path: str) -> str:
    return host_files.read_file(path).content.decode("utf-8", "replace")


def pem_of(ders: t.Iterable[str]) -> str:
    return "".join(ssl.DER_cert_to_PEM_cert(base64.b64decode(der)) for der in ders)


def fingerprint(der: str) -> str:
    return hashlib.sha256(base64.b64decode(der)).hexdigest()


# --- pairs ----------------------------------------------------------------------------------------------------------


def why_unusable(certificate: str, key: str) -> str:
    """Why a certificate and a key do not belong together, or an empty string."""
    for path in (certificate, key):
        if not os.path.exists(path):
            return "%s does not exist" % path
    try:
        # A password that is asked for would hang the run; this one makes an encrypted key an error instead.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as exc:
        return str(getattr(exc, "reason", None) or getattr(exc, "strerror", None) or exc)
    return ""


def signed_with(ders: t.Iterable[str], key: str) -> t.Optional[str]:
    """The one of the certificates that the key belongs to."""
    for der in ders:
        with tempfile.NamedTemporaryFile("w", suffix=".crt") as handle:
            handle.write(pem_of([der]))
            handle.flush()
            if not why_unusable(handle.name, key):
                return der
    return None


def pair_of(certificate: str, key: str) -> bool:
    """Whether the first certificate of a PEM text belongs to a key file."""
    return signed_with(ders_in(certificate)[:1], key) is not None


# --- the program ----------------------------------------------------------------------------------------------------


def openssl(*arguments: str) -> str:
    """What openssl prints. Raises CertificateError; keys are named by their files and never are an argument."""
    program = shutil.which("openssl", path="/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin")
    if program is None:
        raise CertificateError("There is no openssl program on this host; install its package.")
    try:
        done = subprocess.run(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CertificateError("openssl %s did not finish within %d s." % (arguments[0], TIMEOUT)) from None
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[-300:]
        raise CertificateError("openssl %s failed: %s" % (arguments[0], said or "it gave no reason."))
    return done.stdout


class Workshop(t.NamedTuple):
    """A directory for root alone, with openssl's configuration in it."""

    directory: str

    @property
    def configuration(self) -> str:
        return self.path("openssl.cnf")

    def path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def put(self, name: str, text: str) -> str:
        path = self.path(name)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
            handle.write(text)
        return path

    def get(self, name: str) -> str:
        with open(self.path(name), encoding="utf-8") as handle:
            return handle.read()


@contextlib.contextmanager
def workshop(common_name: str = "unused") -> t.Iterator[Workshop]:
    """A workshop that is gone afterwards."""
    check_common_name(common_name)
    with tempfile.TemporaryDirectory(prefix="kubemetrics-") as directory:
        one = Workshop(directory)
        one.put("openssl.cnf", CONFIGURATION.format(common_name=common_name, directory=directory))
        yield one


def moment(when: datetime.datetime) -> str:
    """A time as certificates have it, with two digits of the year as long as these say which one."""
    return when.strftime("%y%m%d%H%M%SZ" if when.year < 2050 else "%Y%m%d%H%M%SZ")


def sign(shop: Workshop, request: str, extensions: str, days: int, *signer: str) -> str:
    """A certificate for a request, backdated. ``signer`` are the arguments that name the CA.

    Only ``openssl ca`` takes the beginning of a certificate in every version that hosts have.
    """
    now = datetime.datetime.now(datetime.timezone.utc)
    shop.put("index.txt", "")
    # The first bit is never set, so that it is a positive number of as many digits.
    shop.put("serial", "%016X\n" % (secrets.randbits(62) | 1 << 62))
    openssl(
        *("ca", "-batch", "-notext", "-config", shop.configuration, "-extensions", extensions, *signer),
        *("-startdate", moment(now - BACKDATE), "-enddate", moment(now + datetime.timedelta(days=days))),
        *("-in", request, "-out", shop.path("signed.crt")),
    )
    return shop.get("signed.crt")


# --- files ----------------------------------------------------------------------------------------------------------

KEY_MODE = 0o640
CERTIFICATE_MODE = 0o644


def replacement(
    path: str,
    text: t.Optional[str],
    *,
    key: bool,
    like: t.Optional[str] = None,
    readers: t.Sequence[processes.Credentials] = (),
) -> host_files.Replacement:
    """A step of a recorded change: a key or a certificate that shall be there, or be gone.

    A file that exists keeps its owner, and of its mode what is proper for its kind; a new one is like the model. A key
    stays open to those of the ``readers`` who read it now.
    """
    state = host_files.read_file(path)
    limit = KEY_MODE if key else CERTIFICATE_MODE
    if key and shut_out(path, like, readers):
        limit |= 0o004
    mode, owner = (0o600 if key else 0o644), None
    model = host_files.read_file(like) if like and not state.exists else None
    if model is not None and model.exists:
        mode, owner = model.mode & limit, (model.uid, model.gid)
    content = None if text is None else text.encode("ascii")
    return host_files.Replacement(path, content, state.sha256, mode, owner, limit=limit)


def shut_out(
    path: str, like: t.Optional[str], readers: t.Sequence[processes.Credentials]
) -> t.Optional[processes.Credentials]:
    """The first of the readers who can read a key, or its model, only because everybody can."""
    state = host_files.read_file(path)
    if not state.exists and like:
        state = host_files.read_file(like)
    if not state.exists:
        return None
    owner = (state.uid, state.gid)
    for one in readers:
        if one.may_read(state.mode, *owner) and not one.may_read(state.mode & KEY_MODE, *owner):
            return one
    return None


def discard(*paths: str) -> None:
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def difference(
    path: str, before: t.Sequence[str], after: t.Sequence[str], notes: t.Sequence[str] = ()
) -> t.Dict[str, str]:
    """A diff of a certificate file by fingerprints, with what else happens; content of keys is in none."""

    def lines(ders: t.Sequence[str]) -> str:
        return "".join("certificate sha256:%s\n" % fingerprint(der) for der in ders)

    return {
        "before_header": path,
        "after_header": path,
        "before": lines(before),
        "after": lines(after) + "".join(note + "\n" for note in notes),
    }
