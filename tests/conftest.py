"How the tests are counted: one a notebook, one a rule of the house, and cells marked `#| slow` are counted as skipped."
import os

import pytest

# Notebooks run side by side, so each gets one thread: quicker together, and repeatable.
os.environ |= {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "HF_HUB_OFFLINE": "1"}


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the cells marked `#| slow` too, and kill more often")


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter, config):
    stats = terminalreporter.stats
    number = lambda *keys: sum(len(stats.get(k, [])) for k in keys)
    config.counts = dict(passed=number("passed"), failed=number("failed", "error"), skipped=number("skipped"))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    "The closing line, whatever plug-ins printed before."
    counts = getattr(config, "counts", None)
    if counts is not None: print("{passed} passed, {failed} failed, {skipped} skipped".format(**counts))
