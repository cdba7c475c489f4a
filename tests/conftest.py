"How the tests are counted: one a notebook, one a rule of the house, and cells marked `#| slow` are counted as skipped."
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from filelock import FileLock
from forked import run_script
from test_house import BIN, ROOT
from xdist.scheduler import LoadScopeScheduling

# Notebooks run side by side, so each gets one thread: quicker together, and repeatable.
os.environ |= {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "HF_HUB_OFFLINE": "1"}


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the cells marked `#| slow` too, and kill more often")
    parser.addoption("--fast", action="store_true", help="only the quick rules of the house, and the pages that differ from the last commit")


# Pages that take long go first, so that the workers end together.
LONG = ["training/05_learner", "deploy/02_formats", "compression/02_int8", "search/03_study", "training/06_distributed",
        "training/08_distillation", "tutorial_own_data", "deploy/03_timing", "training/04_autotune"]

PATIENCE_MS = 600_000  # a browser on a busy machine; what is waited for is the event


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    "A folder of this run of the tests, common to its workers."
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


def make_once(folder, *words):
    "Have a command write a folder, unless another worker did so."
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            code, said = run_script(BIN/"lightweight", *words, "--out", folder, folder=ROOT)
            assert code == 0, said
    return folder


@pytest.fixture(scope="session")
def sample_crops(shared):
    "The sample's crops, for tests that only read them."
    return make_once(shared/"crops", "crop")


@pytest.fixture(scope="session")
def sample_run(shared, sample_crops):
    "A training with the default settings, for tests that only read it."
    return make_once(shared/"train", "train", "--crops", sample_crops, "--preset", "none")


@pytest.fixture(scope="session")
def launch():
    "Start Chromium, with these further flags; one Playwright a process."
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not path:
        wanted = os.environ.get("LIGHTWEIGHT_WANT_CHROMIUM") == "1"
        (pytest.fail if wanted else pytest.skip)("no Chromium here, so no page was looked at; on Debian: apt-get install chromium")
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        def start(*flags):
            flags = ["--no-sandbox", "--disable-dev-shm-usage", *flags]
            return playwright.chromium.launch(executable_path=path, args=flags, timeout=PATIENCE_MS)
        yield start


@pytest.fixture(scope="module")
def browser(launch):
    chromium = launch()
    yield chromium
    chromium.close()


SLOW_RULES = ("installed_package", "defaults_work_outside", "readme_and_pictures", "package_names_load", "names_the_right_one", "real_photos", "misspelt")  # ten seconds and more


def is_fast(item, changed):
    if item.path.stem == "test_house": return not any(rule in item.name for rule in SLOW_RULES)
    return item.path.stem in ("test_notebooks", "test_stages") and item.name.partition("[")[2].rstrip("]") in changed


def list_changed():
    "Pages that differ from the last commit."
    listed = subprocess.run(["git", "status", "--porcelain", "--untracked-files=all", "nbs"], cwd=Path(__file__).parents[1], capture_output=True, text=True).stdout
    return {line[3:].removeprefix("nbs/").removesuffix(".ipynb") for line in listed.splitlines()}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    if config.getoption("--fast"):
        changed = list_changed()
        items[:] = [item for item in items if is_fast(item, changed)]
    page = lambda item: next((i for i, name in enumerate(LONG) if f"[{name}]" in item.name), len(LONG))
    items.sort(key=lambda item: (item.path.stem, page(item)) if item.path.stem == "test_notebooks" else (item.path.stem, 0))


class OneWorkerAFile(LoadScopeScheduling):
    "A file's tests stay together on one worker and in order (its fixtures, and stages that build on each other); library pages go to whoever is free."

    def _split_scope(self, nodeid):
        file = Path(nodeid.split("::")[0]).stem
        return nodeid if file == "test_notebooks" else file


def pytest_xdist_make_scheduler(config, log): return OneWorkerAFile(config, log)


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
