"""Tells from what pip, uv or apt printed that no connection was possible, and what to do then."""

from __future__ import annotations

import re
from typing import Sequence

_UNREACHED = re.compile(
    "|".join(
        (
            # pip treats an index that it cannot reach as one without packages.
            r"Retrying \(Retry\(.*\(from versions: none\)",
            r"Max retries exceeded with url|Read timed out|error: (proxy-)?connection-(failed|timeout)",
            # uv
            "error sending request for url|request or response body error",
            # apt
            "Temporary failure resolving|Could not connect to|Unable to connect to",
        )
    ),
    re.DOTALL,
)
# The server was reached then, and another setting is the remedy.
_UNTRUSTED = re.compile("SSLError|CertificateError|certificate verify failed|invalid peer certificate", re.IGNORECASE)


def unreached(command: Sequence[str], output: str) -> tuple[str, str] | None:
    """The server that a failed program could not reach, and what to do, if that was the reason."""
    if not _UNREACHED.search(output) or _UNTRUSTED.search(output):
        return None
    if "apt-get" in command:
        server, settings = "apt's server", "a proxy for apt (Acquire::http::Proxy)"
    elif "pip" in command:
        server, settings = "the package index", "an index (PIP_INDEX_URL) or a proxy (https_proxy) that it can reach"
    else:
        server, settings = "the server", "a proxy (https_proxy)"
    return server, f"connect this machine, or set {settings}"
