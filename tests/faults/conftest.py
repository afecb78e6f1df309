"""The fault matrix: what each test did to a run and what survived it, gathered from the tests themselves into one table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from engine import atomic
from tests.faults.runs import Reference, run_whole
from tests.faults.table import page

ROW = "fault"
Row = Callable[[str, str, str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--reliability", type=Path, help="write the table of the faults to this file, where every one of them was survived")


@pytest.fixture
def row(record_property: Callable[[str, object], None]) -> Row:
    """`row(fault, what was done, what survived)`: called at the end of a test, once all of it has held."""
    return lambda fault, done, survived: record_property(ROW, (fault, done, survived))


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """A run that nothing disturbed, and the preset and the data of all runs that are compared with it."""
    return run_whole(tmp_path_factory.mktemp("reference"))


class Matrix:
    """Collects the rows in the process that sees every report (with several test processes, the one that started them)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[tuple[str, int, str], tuple[str, str, str]] = {}
        self.missing: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.passed:
            self.missing.append(report.nodeid)
        elif report.when == "call":
            file, line, _ = report.location
            for name, values in report.user_properties:
                if name == ROW:
                    self.rows[file, line or 0, report.nodeid] = values

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.missing:
            terminalreporter.write_line(f"{self.path} was not written: {len(self.missing)} of the faults failed or could not be tried")
            return
        atomic.write(self.path, page([(*self.rows[key], key[2]) for key in sorted(self.rows)]))
        terminalreporter.write_line(f"{self.path}: {len(self.rows)} faults, all survived")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--reliability")
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Matrix(path), "fault matrix")
