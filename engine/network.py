"""Whether a server can be reached, decided quickly: clients of hubs and trackers block for a minute and more where not."""

from __future__ import annotations

import socket
import threading
import urllib.request
from urllib.parse import urlsplit

WAIT_S = 2.0


def reachable(url: str, wait_s: float = WAIT_S) -> bool:
    """Whether the server of `url` (or the proxy in front of it) accepts a connection; answers within `wait_s` seconds.

    The name look-up is in a thread because a resolver has time-outs of its own that nobody can shorten.
    """
    parts = urlsplit(url)
    proxy = None if urllib.request.proxy_bypass(parts.hostname or "") else urllib.request.getproxies().get(parts.scheme)
    parts = urlsplit(proxy) if proxy else parts
    port = parts.port or (443 if parts.scheme == "https" else 80)
    answered = threading.Event()

    def probe() -> None:
        try:
            with socket.create_connection((parts.hostname or "", port), timeout=wait_s):
                answered.set()
        except OSError:
            return
        finally:
            finished.set()

    finished = threading.Event()
    threading.Thread(target=probe, daemon=True, name="probe").start()
    finished.wait(wait_s)
    return answered.is_set()
