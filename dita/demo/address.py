"""Where the demo is served: checked before a model is loaded."""

from __future__ import annotations

import errno
import socket

from dita.values import whole

_REASONS = {
    errno.EADDRINUSE: "port {port} of {host!r} is in use; give another --port, or none to take the first free one",
    errno.EACCES: "port {port} needs more rights than this process has; give one from 1024 on",
    errno.EADDRNOTAVAIL: "host {host!r} is no address of this machine; give 127.0.0.1, or 0.0.0.0 for all of them",
}


def check_address(host: str, port: int | None) -> None:
    """Raises `ValueError` where nothing can be served at `host` and `port`; None is any free port."""
    if port is not None:
        whole("port", port, 1, 65535)
    try:
        if not host.strip():
            raise OSError(errno.EADDRNOTAVAIL, "no host")
        found = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise ValueError(_REASONS[errno.EADDRNOTAVAIL].format(host=host)) from None
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: a port that was just left is free
        try:
            tried.bind(address)
        except OSError as error:
            reason = _REASONS.get(error.errno or 0, "nothing can be served at host {host!r}, port {port}")
            raise ValueError(reason.format(host=host, port=port)) from None
