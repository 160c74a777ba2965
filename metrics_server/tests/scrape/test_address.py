# SPDX-License-Identifier: GPL-3.0-or-later
"""Which address is dialled, and which certificates pass for a node."""

from __future__ import annotations

import pytest

from metrics_server.scrape.address import ADDRESS_TYPES, canonical, certificate_covers, choose_target
from metrics_server.scrape.errors import Reason, ScrapeError

ADDRESSES = (
    ("InternalIP", "10.0.0.5"),
    ("InternalIP", "FD00::0005"),
    ("ExternalIP", "203.0.113.5"),
    ("Hostname", "Node-1"),
    ("InternalDNS", "node-1.internal."),
)


@pytest.mark.parametrize(
    ("preferred", "hosts"),
    [
        (ADDRESS_TYPES, ("node-1",)),
        (("InternalIP", "ExternalIP", "Hostname"), ("10.0.0.5", "fd00::5")),
        (("ExternalDNS", "ExternalIP"), ("203.0.113.5",)),
        (("InternalDNS",), ("node-1.internal",)),
    ],
)
def test_the_first_preferred_type_that_is_there(preferred: tuple[str, ...], hosts: tuple[str, ...]) -> None:
    target = choose_target("n1", ADDRESSES, preferred, 10250)
    assert target.hosts == hosts
    assert target.port == 10250
    assert target.names == {"n1", "10.0.0.5", "fd00::5", "203.0.113.5", "node-1", "node-1.internal"}


@pytest.mark.parametrize("addresses", [(), ADDRESSES])
def test_no_address_of_a_wanted_type(addresses: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(ScrapeError, match="--kubelet-preferred-address-types") as caught:
        choose_target("n1", addresses, ["ExternalDNS"], 10250)
    assert caught.value.reason is Reason.NO_ADDRESS


@pytest.mark.parametrize(
    "name",
    [
        "x" * 64,
        "\u043d\u043e\u0434\u0430",
        "two words",
        "a..b",
        "-a",
        "a" * 254,
        "n1\r\nX: y",
        "fe80::1%\u6f22",
        "fe80::1%a\r\nX: y",
    ],
)
def test_a_name_that_is_none_is_not_dialled(name: str) -> None:
    """Whoever may edit a Node may write anything there."""
    addresses = (("Hostname", name), ("InternalIP", "10.0.0.5"))
    assert choose_target("n1", addresses, ADDRESS_TYPES, 10250).hosts == ("10.0.0.5",)
    with pytest.raises(ScrapeError, match="neither an IP address nor a DNS name") as caught:
        choose_target("n1", addresses, ["Hostname"], 10250)
    assert caught.value.reason is Reason.NO_ADDRESS
    assert caught.value.message.isascii()
    assert "\n" not in caught.value.message


NAMES = frozenset({"n1", "node-1.example.com", "10.0.0.5", "fd00::5"})


@pytest.mark.parametrize(
    ("subject_alternative_names", "covered"),
    [
        ([("DNS", "n1")], True),
        ([("DNS", "N1")], True),
        ([("IP Address", "10.0.0.5")], True),
        ([("IP Address", "FD00:0:0:0:0:0:0:5")], True),
        ([("DNS", "other"), ("IP Address", "10.0.0.5")], True),
        ([("DNS", "*.example.com")], True),
        ([], False),
        ([("DNS", "n2")], False),
        ([("DNS", "*.com")], False),
        ([("DNS", "*")], False),
        ([("DNS", "node-1.*.com")], False),
        ([("IP Address", "10.0.0.6")], False),
        # An address in a DNS name, a name in an address: neither is what it says.
        ([("DNS", "10.0.0.5")], False),
        ([("IP Address", "n1")], False),
        ([("URI", "n1"), ("email", "n1")], False),
    ],
)
def test_certificate_names(subject_alternative_names: list[tuple[str, str]], covered: bool) -> None:
    assert certificate_covers(subject_alternative_names, NAMES) is covered


def test_a_wildcard_does_not_cover_the_bare_domain_or_an_address() -> None:
    assert not certificate_covers([("DNS", "*.example.com")], frozenset({"example.com", ".example.com"}))
    assert not certificate_covers([("DNS", "*.0.0.5")], frozenset({"10.0.0.5"}))


def test_canonical() -> None:
    assert canonical("::FFFF:10.0.0.1") == canonical("::ffff:a00:1")
    assert canonical("Node.Example.") == "node.example"
