"""Where Weights & Biases would have the run, asked beside the other checks: a network that is not there must not be waited for."""

from __future__ import annotations

import threading
import time

from engine.checkup import Finding
from engine.events import Toggles
from engine.schema import WandbTable
from engine.tracking import Mode, choose_mode

WAIT_S = 1.0


class TrackingCheck:
    """Asks from its making on; `result` waits for at most what is left of a second."""

    def __init__(self, table: WandbTable, toggles: Toggles) -> None:
        self._table, self._toggles = table, toggles
        self._answers: list[tuple[Mode, str]] = []
        self._began = time.monotonic()
        self._thread = threading.Thread(target=lambda: self._answers.append(choose_mode(table.mode)), daemon=True)
        self._thread.start()

    def result(self) -> tuple[str, list[Finding]]:
        """What it would be, in a line, and what is wrong with that."""
        self._thread.join(max(0.0, self._began + WAIT_S - time.monotonic()))
        mode, why = self._answers[0] if self._answers else ("offline", f"its server does not answer within {WAIT_S:g} s")
        if mode == "disabled":
            return "disabled", []
        if mode == "online":
            entity = self._table.entity if self._toggles.private else self._table.team_entity
            text = "wandb.entity is empty, so the private run goes to the default entity of your API key: set it to be sure"
            findings = [Finding("note", "W&B", text)] if self._toggles.private and not entity else []
            return f"online as {entity or 'your default entity'}/{self._table.project}", findings
        findings = []
        if self._table.mode == "online":
            text = f'wandb.mode is "online", and the run would be offline: {why}'
            findings.append(Finding("warning", "W&B", text))
        return f"offline: {why}", findings
