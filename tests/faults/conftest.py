"""The recorder of faults, and the table at the end of `make faults`."""

from __future__ import annotations

from pathlib import Path

import pytest
from _pytest.terminal import TerminalReporter
from fault_record import Injector, every_third, read, table, write_table


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-reliability", type=Path, metavar="PAGE", help="put the table of faults into this page")
    parser.addoption("--third", type=int, choices=(0, 1, 2), help="every third fault only; the three make up all")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    faults = [item for item in items if Path(__file__).parent in item.path.parents]
    for item in faults:
        item.add_marker(pytest.mark.faults)
    third = config.getoption("--third", default=None)
    if third is not None:
        kept = every_third([item.nodeid for item in faults], third)
        left_out = [item for item in faults if item.nodeid not in kept]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


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
    if page is not None and config.getoption("--third", default=None) is None:
        write_table(page, lines)
