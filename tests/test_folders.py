"What a stage takes for its own is what it writes: a person's file is found in whichever of its folders it lies."
import re
from importlib import import_module

import pytest
from test_house import ROOT, STAGES, run_opening

from lightweight.stages.compare import CompareSettings, check_plan
from lightweight.core.files import find_foreign
from lightweight.core.settings import read_yaml

OWN = ["crop STORE_FILES", "crop SHARED_FILES", "eda OWN_FILES", "evaluate OWN_FILES", "export list_own_files", "measure _files",
       "train OWN_FILES", "teach OWN_FILES", "teach CACHED_FILES", "compress OWN_FILES", "compare list_places",
       "tune OWN_FILES", "race list_own_files", "web _files"]
PLACES = {"crop": "data.crops"}
EXACT = {"baselines", "benchmark", "calibrate", "cluster", "select", "sorting", "submit", "sweep"}  # a single name each; what a sweep's runs leave is guarded by the stage that leaves it


def read_patterns(stage, name):
    if stage == "compare":
        s = CompareSettings()
        return import_module("lightweight.stages.compare").list_places(s, check_plan(read_yaml(ROOT/s.plan), s.plan), ROOT)["files"]
    page = ROOT/f"nbs/experiments/{stage}.ipynb"
    names = run_opening(page) if page.exists() else vars(import_module(f"lightweight.{PLACES.get(stage, f'stages.{stage}')}"))
    found = names[name]
    return found() if callable(found) else found


def fill(pattern):
    "A name that a pattern stands for."
    for sign, text in {r"\[([^]])[^]]*\]": r"\1", r"\*": "7", r"\?": "x"}.items(): pattern = re.sub(sign, text, pattern)
    return pattern


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    return path


def test_every_stage_that_claims_a_folder_is_looked_at():
    claiming = {p.stem for p in STAGES if "claim_folder(" in p.read_text() or "check_folder(" in p.read_text()}
    assert claiming == {own.split()[0] for own in OWN} | (EXACT & {p.stem for p in STAGES})


@pytest.mark.parametrize("own", OWN)
def test_a_persons_file_is_foreign_wherever_it_lies(own, tmp_path):
    patterns = read_patterns(*own.split())
    for name in map(fill, patterns): write(tmp_path/"own"/name)
    assert find_foreign(tmp_path/"own", patterns) is None
    for i, folder in enumerate({fill(p).rpartition("/")[0] for p in patterns} | {""}):
        for name in ("notes.txt", "photo.jpg", "labels.csv", "x", "new/notes.txt"):
            path = write(tmp_path/f"{i}"/folder/name)
            assert find_foreign(tmp_path/f"{i}", patterns) == str(path.relative_to(tmp_path/f"{i}"))
            path.unlink()
