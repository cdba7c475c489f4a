"A compression schedule that is killed twice gives the result of an uninterrupted one, and needs no test crops."
import hashlib
import json
import shutil
import signal

import pandas as pd
import pytest
from forked import Script
from test_house import BIN, ROOT
from test_training import SETTLED, wait_until

from lightweight.core.records import read_record

@pytest.fixture
def crops(sample_crops, tmp_path):
    "The sample's crops without those of the test split."
    shutil.copytree(sample_crops, tmp_path/"crops")
    shutil.rmtree(tmp_path/"crops/test")
    return tmp_path/"crops"


@pytest.fixture
def start(crops, sample_run):
    "Begins a schedule."
    training = dict(epochs=5, **SETTLED)
    steps = [dict(channels=dict(ratio=0.5, train=training)), dict(train=dict(training, teacher=str(sample_run))), dict(variant="torchscript")]
    def begin(out):
        options = dict(run=sample_run, steps=json.dumps(steps), out=out, crops=crops, max_latency_ms=1e9)  # everything is fast enough: what is accepted depends on F1 alone
        return Script(BIN/"lightweight", "compress", *(w for k, v in options.items() for w in (f"--{k}", v)), folder=ROOT)
    return begin


def test_nothing_foreign_is_touched(start, crops, sample_run, tmp_path):
    "A file in a step's folder, a folder that is read, and a second schedule in the same folder are refused before any work."
    notes = tmp_path/"mine/00-start/notes.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("mine")
    for out, said in ((tmp_path/"mine", "00-start/notes.txt is there"), (crops/"steps", "this lies in crops"), (sample_run, "this is run")):
        run = start(out)
        text = run.communicate()[0]
        assert run.returncode == 2 and said in text, text
    assert notes.read_text() == "mine" and [p.name for p in (tmp_path/"mine").rglob("*") if p.is_file()] == ["notes.txt"] and not (crops/"steps").exists()


def digests(out): return {p.parent.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in out.glob("0*/model.safetensors")}


def n_epochs(step): return len((step/"train/history.csv").read_text().split()) - 1 if (step/"train/history.csv").exists() else 0


def test_killed_schedule_gives_the_uninterrupted_result(start, tmp_path):
    out = tmp_path/"steps"
    run = start(out)
    said = run.communicate()[0]
    assert run.returncode == 0, said
    whole, table = digests(out), pd.read_csv(out/"steps.csv")
    assert len(whole) == 4 and table.step.tolist() == sorted(whole), table
    shutil.rmtree(out)

    moments = [lambda: 2 <= n_epochs(out/"01-channels") < 5, lambda: 2 <= n_epochs(out/"02-train") < 5]
    for moment in moments:
        run = start(out)
        assert wait_until(run, moment), run.stdout.read()
        run.send_signal(signal.SIGKILL)
        run.wait()
    first = read_record(out/"01-channels/record.json")
    run = start(out)
    said = run.communicate()[0]
    assert run.returncode == 0 and "resumed from step" in said and "01-channels …" not in said, said
    assert digests(out) == whole, "every step has the weights of the uninterrupted schedule, to the bit"
    assert read_record(out/"01-channels/record.json") == first, "a finished step is not executed again"
    again = pd.read_csv(out/"steps.csv")
    assert again.macro_f1.equals(table.macro_f1) and again.accepted[:3].equals(table.accepted[:3]) and (again.n == table.n).all()
    assert read_record(out/"record.json")["metrics"]["path"][0]["time"] == 1
