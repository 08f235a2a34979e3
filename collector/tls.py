"""TLS contexts from PEM files, with errors that say which file is wrong."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from pathlib import Path

from collector.http.settings import AccessError


def server_context(
    section: str, certificate_file: Path, key_file: Path, client_ca_file: Path | None = None
) -> ssl.SSLContext:
    """Return a context for a server: TLS 1.2 or newer, with client certificates required if `client_ca_file` is given.

    `section` is that of the settings, for messages.  Raises AccessError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_certificate(context, section, certificate_file, key_file)
    if client_ca_file is not None:
        _readable(section, "client_ca_file", client_ca_file)
        try:
            context.load_verify_locations(client_ca_file)
        except ssl.SSLError as error:
            raise AccessError(f"{section}.client_ca_file = {client_ca_file}: no PEM certificates in it") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def replace_certificate(contexts: Iterable[ssl.SSLContext], fresh: ssl.SSLContext) -> None:
    """Give new connections to servers with these contexts what `fresh` has: certificate, key, authorities.

    A server keeps the context that it was given, and OpenSSL allows no change to one on a thread while another uses it,
    so each connection gets the fresh one when its first message arrives.  OpenSSL calls this without a server name,
    too.
    """

    def switch(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = fresh

    for context in contexts:
        context.sni_callback = switch


def _load_certificate(context: ssl.SSLContext, section: str, certificate_file: Path, key_file: Path) -> None:
    """Put the certificate into a context.  Raises AccessError if it cannot be used."""
    _readable(section, "certificate_file", certificate_file)
    _readable(section, "key_file", key_file)
    try:
        context.load_cert_chain(certificate_file, key_file, password=_refuse_passphrase)
    except _EncryptedError as error:
        raise AccessError(
            f"{section}.key_file = {key_file}: the key is encrypted, and a service cannot ask for the "
            "passphrase; write it without one (`openssl pkey -in OLD -out NEW`), mode 0600"
        ) from error
    except ssl.SSLError as error:
        reason = error.reason or ""
        if "MISMATCH" in reason:
            raise AccessError(
                f"{section}.key_file = {key_file}: not the key of the certificate in {certificate_file}"
            ) from error
        raise AccessError(
            f"{section}: no certificate in {certificate_file} or no key in {key_file}; PEM files are expected"
        ) from error


class _EncryptedError(Exception):
    pass


def _refuse_passphrase() -> str:
    """Refuse an encrypted key; without this callback, OpenSSL would ask for the password at the terminal."""
    raise _EncryptedError


def _readable(section: str, key: str, file: Path) -> None:
    try:
        with file.open("rb"):
            pass
    except OSError as error:
        raise AccessError(f"{section}.{key} = {file}: {error.strerror or error}") from error
