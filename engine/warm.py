"""Imported by multiprocessing's fork server and nobody else: what a run imports, so that its process need not.

The server is a child of the terminal program: what the libraries print while they are imported must not reach the screen.
"""

import os

_nowhere = os.open(os.devnull, os.O_RDWR)
for _stream in range(3):
    os.dup2(_nowhere, _stream)
os.close(_nowhere)

import engine.group  # noqa: E402
import engine.predict  # noqa: E402, F401
