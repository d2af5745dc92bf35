"""The recorder of faults, and the table at the end of `make faults`."""

from __future__ import annotations

from pathlib import Path

import pytest
from _pytest.terminal import TerminalReporter
from fault_record import Injector, read, table, write_table


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-reliability", type=Path, metavar="PAGE", help="put the table of faults into this page")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.faults)


@pytest.fixture
def inject(request: pytest.FixtureRequest) -> Injector:
    """Records the faults that a test injects; see `fault_record.Injector`."""
    return Injector(request.node.name.partition("[")[0], request.node.user_properties)


def pytest_terminal_summary(terminalreporter: TerminalReporter, config: pytest.Config) -> None:
    reports = [r for some in terminalreporter.stats.values() for r in some if getattr(r, "when", "") == "call"]
    injections = [injection for report in reports for injection in read(report.user_properties)]
    if not injections:
        return
    lines = table(injections)
    terminalreporter.section("faults")
    for line in lines:
        terminalreporter.write_line(line)
    page = config.getoption("--write-reliability", default=None)
    if page is not None:
        write_table(page, lines)
