"How the tests are counted: one a notebook, one a rule of the house, and cells marked `#| slow` are counted as skipped."
import os

import pytest

# Notebooks run side by side, so each gets one thread: quicker together, and repeatable.
os.environ |= {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "HF_HUB_OFFLINE": "1"}


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the cells marked `#| slow` too")


def pytest_configure(config):
