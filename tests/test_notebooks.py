"Every notebook is a test: its cells run, and their assertions hold. (The stages, which build on each other, are in test_stages.)"
import subprocess
import sys
from pathlib import Path

import pytest
from forked import run_script
from test_house import NBS, ROOT, STAGES, code_cells, name_page

BIN = Path(sys.executable).parent


def slow_cells(path):
    return sum("#| slow" in "".join(c["source"]) for c in code_cells(path))


def run_notebook(path, request):
    command = [BIN/"nbdev_test", path, "--n-workers", "0"]
    if request.config.getoption("--slow"):                      # in a process that imports everything by itself
        done = subprocess.run([*command, "--flags", "slow"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        code, said = done.returncode, done.stdout
    else: code, said = run_script(*command, folder=ROOT)
    assert code == 0, said[-6000:]


@pytest.mark.parametrize("path", [p for p in NBS if p not in STAGES], ids=name_page)
def test_library_notebook(path, request):
    run_notebook(path, request)


@pytest.mark.parametrize("path", [p for p in NBS if slow_cells(p)], ids=name_page)
def test_slow_cells(path, request):
    if not request.config.getoption("--slow"): pytest.skip(f"{slow_cells(path)} slow cells; make test-slow runs them")
