# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a restarted kubelet answers, and why one did not come back. Decides, asks nobody."""

from __future__ import annotations

import re
import typing as t

Facts = t.Mapping[str, t.Any]


def health_problems(answer: Facts, expected: Facts) -> list[str]:
    """What is wrong with the answers of a restarted kubelet (one of kubelet_info), as clauses; empty when healthy."""
    problems = []
    if not answer["connect"]["ok"]:
        problems.append(f"nothing listens on port {expected['port']}")
    elif not answer["tls"]["verified"]:
        error = (answer["tls"].get("error") or {}).get("message") or "no certificate"
        problems.append(f"its certificate does not verify ({error})")
    elif expected["webhook"]:
        anonymous, account = answer["anonymous"], answer.get("authenticated")
        if anonymous["status"] is None:
            problems.append(f"it does not answer unauthenticated clients ({why_silent(anonymous)})")
        elif anonymous["status"] != 401:
            problems.append(f"it answers {anonymous['status']} to unauthenticated clients instead of 401")
        if account and account["status"] is None:
            # It has to ask an API server, and waits for it.
            problems.append(f"it does not answer a service account that may get nodes/metrics ({why_silent(account)})")
        elif account and account["status"] != 200:
            said = str(account.get("message") or "").strip()
            problems.append(f"it answers {account['status']} to a service account that may get nodes/metrics ({said})")
    opened = bool((answer.get("read_only") or {}).get("open"))
    if opened != bool(expected["read_only"]):
        problems.append(f"port {expected['read_only_port']} without TLS is {'open' if opened else 'closed'}")
    return problems


def why_silent(answer: Facts) -> str:
    return str((answer.get("error") or {}).get("message") or "no answer").rstrip(".")


def last_error(lines: t.Iterable[t.Any]) -> str:
    """The error with which a kubelet exited, from its log; earlier starts may have left others before it."""
    found = ""
    for line in lines:
        text = str(line)
        if re.search(r'command failed|failed to run|err="', text):
            match = re.search(r'err="((?:[^"\\]|\\.)*)"', text)
            found = match.group(1) if match else ""
    return found.rstrip(".")[:300]
