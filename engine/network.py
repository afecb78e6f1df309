"""Whether a server can be reached, decided quickly: clients of hubs and trackers block for a minute and more where not."""

from __future__ import annotations

import socket
import threading
import urllib.request
from urllib.parse import urlsplit

WAIT_S = 1.5


def why_unreachable(url: str) -> str:
    """Why the host of `url` (or the proxy before it) does not answer within 1.5 s; empty where it does.

    A resolver without a network can block for a minute, whatever time-out is set: it is left behind in a thread.
    """
    target = urlsplit(url)
    proxy = urllib.request.getproxies().get(target.scheme, "")
    if proxy and not urllib.request.proxy_bypass(target.hostname or ""):
        target = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    answers: list[str] = []

    def probe() -> None:
        try:
            address = (target.hostname or "", target.port or (443 if target.scheme == "https" else 80))
            socket.create_connection(address, timeout=WAIT_S).close()
            answers.append("")
        except (OSError, ValueError) as error:
            answers.append(f"{target.hostname} does not answer ({error})")

    thread = threading.Thread(target=probe, name="probe", daemon=True)
    thread.start()
    thread.join(WAIT_S)
    return answers[0] if answers else f"{target.hostname} does not answer within {WAIT_S:g} s"
