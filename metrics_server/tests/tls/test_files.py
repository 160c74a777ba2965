# SPDX-License-Identifier: GPL-3.0-or-later
"""CA files and tokens as the world writes them, and files that are broken for a while."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from support.pki import Authority

from metrics_server.tls import files
from metrics_server.tls.files import ClientTls, MaterialError, Source


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "CHECK_INTERVAL", 0.0)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("# AC Raíz Certicámara S.A.\n".encode(), id="a-comment-in-utf-8"),
        pytest.param("# Größe\n".encode("latin-1"), id="a-comment-in-latin-1"),
        pytest.param(b"\xef\xbb\xbf", id="a-byte-order-mark"),
        pytest.param(b"subject=CN = x\r\n", id="what-openssl-prints"),
    ],
)
def test_text_around_the_certificates_of_a_ca_file_is_none_of_it(tmp_path: Path, text: bytes) -> None:
    authority = Authority()
    path = tmp_path / "ca.crt"
    path.write_bytes(text + authority.pem)
    tls = ClientTls(ca=Source("CA file", path=path))
    assert len(tls.context().get_ca_certs()) == 1
    # The same when the file is replaced later on.
    path.write_bytes(authority.pem + text + Authority().pem)
    assert len(tls.context().get_ca_certs()) == 2


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", "ä".encode(), b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_ca_file_without_a_certificate_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ca.crt"
    path.write_bytes(content)
    with pytest.raises(MaterialError, match=r"CA file .*ca\.crt holds no usable PEM certificate"):
        ClientTls(ca=Source("CA file", path=path)).context()


def test_a_file_that_stays_broken_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    authority = Authority()
    path = tmp_path / "ca.crt"
    path.write_bytes(authority.pem)
    tls = ClientTls(ca=Source("CA file", path=path))
    good = tls.context()
    caplog.set_level(logging.WARNING)
    for content, text in ((b"junk", "no usable PEM"), (b"\n", "is empty"), (None, "cannot be read")):
        caplog.clear()
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        for _unused in range(5):
            assert tls.context() is good
        assert len([record for record in caplog.records if text in record.getMessage()]) == 1
    # Once it was good again, the next fault is news.
    path.write_bytes(Authority().pem)
    assert tls.context() is not good
    caplog.clear()
    path.write_bytes(b"junk")
    tls.context()
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == [
        f"CA file {path} holds no usable PEM certificate"
    ]
