"Where a training may be written: nothing a person has is moved or deleted, and one folder holds one run."
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from test_house import ROOT

from lightweight.stages.crop import CropSettings, crop
from lightweight.data.sample import make_sample
from lightweight.core.settings import StageStopped
from lightweight.stages.teach import TeachSettings, teach
from lightweight.stages.train import TrainSettings, train
from lightweight.training.checkpoint import _explain_rest, read_checkpoint_info

QUICK = dict(img_size=32, epochs=1, precision="fp32", channels_last=False, n_threads=1)


def state(folder): return {p.relative_to(folder): p.read_bytes() if p.is_file() and p.name != ".lock" else None for p in Path(folder).rglob("*")}


def run(root, **options): return train(TrainSettings(**QUICK | options), root, say=lambda line: None)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    "A folder with annotations, photos and crops, as a person has them."
    mine = tmp_path_factory.mktemp("drawn")/"mine"
    annotations = make_sample(mine)
    crop(CropSettings(annotations=str(annotations), out=str(mine/"crops"), class_map=str(ROOT/"configs/class_maps/taco6.csv")), ROOT)
    (mine/"notes.txt").write_text("not to be lost")
    return mine


@pytest.fixture
def mine(drawn, tmp_path, monkeypatch):
    "A copy of it in a folder that is working folder, root and home at once."
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return Path(shutil.copytree(drawn, tmp_path/"mine"))


def test_a_folder_that_a_person_filled_is_left_alone(mine, tmp_path):
    (tmp_path/"elsewhere").mkdir()
    for link, target in (("to-mine", mine), ("to-crops", mine/"crops"), ("to-root", tmp_path)): (tmp_path/"elsewhere"/link).symlink_to(target)
    (tmp_path/"sheet").mkdir()
    (tmp_path/"sheet/record.json").write_text("a record of my own")
    (tmp_path/"kept.previous").mkdir()
    (tmp_path/"kept.previous/photo.jpg").write_text("the only copy")
    (tmp_path/"file").write_text("a file")
    before = state(tmp_path)
    outs = ["mine", "mine/", "mine/crops", "mine/crops/sub", "mine/crops/train/run", ".", "", "./mine/..", "..", str(tmp_path), "~", "elsewhere/to-mine",
            "elsewhere/to-crops/sub", "elsewhere/to-root", "sheet", "kept", "file"]
    for out in outs:
        with pytest.raises((ValueError, OSError), match="out = "): run(tmp_path, crops="mine/crops", out=out)
        assert state(tmp_path) == before, out


def test_crops_in_what_an_earlier_run_would_lose(mine, tmp_path):
    shutil.move(mine, tmp_path/"mine.previous")
    before = state(tmp_path)
    with pytest.raises((ValueError, OSError), match="out = "): run(tmp_path, crops="mine.previous/crops", out="mine")
    assert state(tmp_path) == before


def test_runs_replace_runs_only(mine, tmp_path):
    first = run(tmp_path, crops="mine/crops", out="run", seed=1)
    (tmp_path/"run/.resume-0.state.0a1b2c3d.part").write_text("left by a killed run")
    second = run(tmp_path, crops="mine/crops", out="run", seed=2)
    seeds = {name: read_checkpoint_info(tmp_path/name/"model.safetensors")["settings"]["seed"] for name in ("run", "run.previous")}
    assert seeds == {"run": 2, "run.previous": 1} and second.record["seed"] == 2
    assert json.loads((tmp_path/"run.previous/record.json").read_text()) == first.record
    assert not list((tmp_path/"run").glob(".resume*"))
    (tmp_path/"run.previous/my notes.txt").write_text("put there by a person")
    before = state(tmp_path)
    with pytest.raises(FileExistsError, match="my notes.txt"): run(tmp_path, crops="mine/crops", out="run", seed=3)
    assert state(tmp_path) == before
    with pytest.raises((ValueError, OSError), match="out = .*run: start .* lies in it"): train(TrainSettings(start="run/model.safetensors", crops="mine/crops", out="run"), tmp_path)
    assert state(tmp_path) == before


def test_a_second_run_in_one_folder_is_refused(mine, tmp_path):
    refused = []
    def say(line):
        if not refused and line.startswith("epoch"):
            with pytest.raises(FileExistsError, match="another train is running there") as error: run(tmp_path, crops="mine/crops", out="run", seed=2)
            refused.append(error)
    result = train(TrainSettings(**QUICK | dict(crops="mine/crops", out="run", seed=1)), tmp_path, say=say)
    assert refused and result.record["seed"] == read_checkpoint_info(tmp_path/"run/model.safetensors")["settings"]["seed"] == 1


def test_weights_of_another_run_get_no_record(mine, tmp_path):
    run(tmp_path, crops="mine/crops", out="other", seed=2)
    def say(line):      # what a process that knows no lock might do
        if line.startswith("epoch"): shutil.copy(tmp_path/"other/model.safetensors", tmp_path/"run/model.safetensors")
    with pytest.raises(StageStopped, match="not the weights of this run"): train(TrainSettings(**QUICK | dict(crops="mine/crops", out="run", seed=1)), tmp_path, say=say)
    assert not (tmp_path/"run/record.json").exists()


def test_what_is_wrong_is_said_before_anything_is_written(mine, tmp_path):
    before = state(tmp_path)
    for options, message in ((dict(network="none"), "none"), (dict(precision="fp16", device="cpu"), "fp16"), (dict(teacher="none"), "none"), (dict(start="none"), "none"),
                             (dict(crops="none"), "crops"), (dict(device="cuda:99"), "cuda:99"), (dict(pretrained="none.safetensors"), "none.safetensors")):
        with pytest.raises((ValueError, OSError), match=message): run(tmp_path, **dict(crops="mine/crops", out="run") | options)
        assert state(tmp_path) == before, options


def test_the_sentence_of_a_stop_names_what_is_there(tmp_path):
    assert _explain_rest(tmp_path, "model.safetensors", True) == "No epoch has been kept; run the same command again to start over"
    (tmp_path/"model.safetensors").touch()
    assert _explain_rest(tmp_path, "model.safetensors", False).startswith("No epoch has been kept")       # an earlier run's
    (tmp_path/"resume-1.state").touch()
    assert _explain_rest(tmp_path, "model.safetensors", True).endswith("model.safetensors; run the same command again to resume")


def test_teaching_leaves_a_persons_files_alone(mine, tmp_path):
    (tmp_path/"full").mkdir()
    (tmp_path/"full/features-mine.txt").write_text("mine")
    before = state(tmp_path)
    for options, message in ((dict(out="mine"), "out = "), (dict(out="."), "out = "), (dict(out="mine/crops/sub"), "out = "), (dict(out="full"), "out = "),
                             (dict(patches="mine"), "patches = "), (dict(patches="full"), "patches = "), (dict(out="same", patches="same"), "out = "),
                             (dict(out="kept/sub", patches="kept"), "out = "), (dict(patches=""), "(out|patches) = ")):
        with pytest.raises((ValueError, OSError), match=message):
            teach(TeachSettings(**dict(crops="mine/crops", out="taught", patches="pieces", teacher="none") | options), tmp_path, say=lambda line: None)
        assert state(tmp_path) == before, options


def test_a_run_teaches_another_network(mine, tmp_path):
    "The features of a checkpoint, of patches at the size of its training."
    run(tmp_path, crops="mine/crops", out="run")
    quick = dict(network="tiny", n_patches=40, img_size=24, bs=8, epochs=1)
    teach(TeachSettings(**quick, crops="mine/crops", out="taught", patches="pieces", teacher="run/model.safetensors"), tmp_path, say=lambda line: None)
    record = json.loads((tmp_path/"taught/record.json").read_text())
    assert (tmp_path/"taught/features.safetensors").exists() and record["settings"]["teacher"] == "run/model.safetensors"
    [features] = (tmp_path/"pieces").glob("features-*.npy")
    assert len(np.load(features)) == 40
