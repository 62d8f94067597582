"""What a test may lack, said here alone; and the list at the end of what was skipped for it."""

from __future__ import annotations

from collections import Counter
from enum import Enum
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

STRICT = "--strict-skips"


class Need(Enum):
    """What some tests need and a machine may not have; the value says how to get it."""

    SD_SCRIPTS = "a checkout of sd-scripts: set SD_SCRIPTS_DIR to its folder"
    SD_SCRIPTS_CLONE = "a checkout of sd-scripts with its history: set SD_SCRIPTS_DIR to a clone"
    SHARED = "the complete reference outputs: set SIAMESE_SHARED to their folder"
    GPU = "a GPU"
    NO_GPU = "a machine without a GPU"
    LINUX = "Linux: finds open files in /proc"
    COMFYUI = "ComfyUI: run `make setup`"
    CHROMIUM = "Chromium: apt-get install chromium"
    NODE = "Node.js: apt-get install nodejs npm"
    BROWSER_DRIVER = "playwright-core: run `make setup`"
    BLUEPRINTS = "a ComfyUI that lists blueprints"
    PAGES = "other releases of ComfyUI's page: run `make setup`"
    SUPPORTED_PAGE = "a page from 1.28 on, which the oldest supported ComfyUI has"
    DEEPSPEED = "DeepSpeed: run `make setup`"
    RAY = "Ray: run `make setup`"

    def unless(self, there: bool) -> pytest.MarkDecorator:
        """The mark of tests that are skipped unless it is there."""
        return pytest.mark.skipif(not there, reason=self.reason)

    @property
    def reason(self) -> str:
        return f"needs {self.value}"

    def skip(self) -> NoReturn:
        """Skip the test that is being set up or run."""
        pytest.skip(self.reason)


# What no set-up brings to every machine. All else must run where --strict-skips is given.
MACHINE = {Need.GPU, Need.NO_GPU, Need.LINUX}
PERMITTED = MACHINE | {Need.SD_SCRIPTS, Need.SD_SCRIPTS_CLONE, Need.SHARED}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        STRICT, action="store_true", help="fail when a test is skipped that could have been run"
    )


def skipped(reporter: TerminalReporter) -> Counter[str]:
    """Reason -> number of tests."""
    reasons = (report.longrepr[2] for report in reporter.stats.get("skipped", []))
    return Counter(reason.removeprefix("Skipped: ") for reason in reasons)


def avoidable(reasons: Counter[str]) -> list[str]:
    return sorted(reasons.keys() - {need.reason for need in PERMITTED})


def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
    strict = session.config.getoption(STRICT) and reporter  # a worker of xdist has none
    if strict and session.exitstatus == pytest.ExitCode.OK and avoidable(skipped(reporter)):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: TerminalReporter, config: pytest.Config) -> None:
    if not (reasons := skipped(terminalreporter)):
        return
    terminalreporter.section(f"{reasons.total()} skipped", yellow=True)
    for reason, count in reasons.most_common():
        terminalreporter.line(f"{count:4}  {reason}")
    if config.getoption(STRICT) and (wrong := avoidable(reasons)):
        terminalreporter.section(f"{STRICT}: these must run", red=True)
        for reason in wrong:
            terminalreporter.line(f"{reasons[reason]:4}  {reason}", red=True)
