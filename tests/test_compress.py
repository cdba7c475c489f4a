"A ladder that is killed twice ends like an unbroken one, and no test crop is needed for it."
import hashlib
import json
import shutil
import signal
import subprocess

import pandas as pd
import pytest
from test_house import BIN, ROOT
from test_stages import SETTLED, wait_until

from lightweight.records import read_record

STEPS = [dict(channels=dict(ratio=0.5, train=dict(epochs=4, **SETTLED))), dict(train=dict(epochs=4, teacher="outputs/sample/train", **SETTLED)), dict(variant="torchscript")]
KEPT = ["00-start", "01-channels"]


@pytest.fixture
def crops(tmp_path):
    "The sample's crops without those of the test split."
    if not (ROOT/"outputs/sample/crops/crops.json").exists(): subprocess.run([BIN/"lightweight-crop"], cwd=ROOT, check=True)
    if not (ROOT/"outputs/sample/train/record.json").exists(): subprocess.run([BIN/"lightweight-train"], cwd=ROOT, check=True)
    shutil.copytree(ROOT/"outputs/sample/crops", tmp_path/"crops")
    shutil.rmtree(tmp_path/"crops/test")
    return tmp_path/"crops"


def start(crops, out):
    options = dict(steps=json.dumps(STEPS), out=out, crops=crops, min_f1_drop=1)
    return subprocess.Popen([BIN/"lightweight-compress", *(w for k, v in options.items() for w in (f"--{k}", str(v)))], cwd=ROOT,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def digests(out): return {p.parent.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in out.glob("0*/model.safetensors")}


def n_epochs(rung): return len((rung/"train/history.csv").read_text().split()) - 1 if (rung/"train/history.csv").exists() else 0


def test_killed_ladder_ends_like_an_unbroken_one(crops, tmp_path):
    out = tmp_path/"ladder"
    run = start(crops, out)
    said = run.communicate()[0]
    assert run.returncode == 0, said
    whole, table = digests(out), pd.read_csv(out/"ladder.csv")
    assert len(whole) == 4 and set(KEPT) <= set(table.rung[table.kept]), table
    shutil.rmtree(out)

    moments = [lambda: 2 <= n_epochs(out/"01-channels") < 4, lambda: 2 <= n_epochs(out/"02-train") < 4]
    for moment in moments:
        run = start(crops, out)
        assert wait_until(run, moment), run.stdout.read()
        run.send_signal(signal.SIGKILL)
        run.wait()
    first = read_record(out/"01-channels/record.json")
    run = start(crops, out)
    said = run.communicate()[0]
    assert run.returncode == 0 and "going on after step" in said and "01-channels …" not in said, said
    assert digests(out) == whole, "every rung has the weights of the unbroken ladder, to the bit"
    assert read_record(out/"01-channels/record.json") == first, "a rung that was finished is not touched again"
    assert set(KEPT) <= set((again := pd.read_csv(out/"ladder.csv")).rung[again.kept]) and (again.n == table.n).all()
    assert read_record(out/"record.json")["metrics"]["path"][0]["time"] == 1
