"The stages in the order of the walk, and what happens to a run that is killed, interrupted or out of disk."
import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from forked import Script, run_script
from test_house import ROOT, STAGES, name_page
from test_notebooks import run_notebook

BIN = Path(sys.executable).parent
ORDER = ["eda", "crop", "train", "export", "calibrate", "evaluate", "compare", "teach", "compress", "race", "tune", "measure", "benchmark"]  # each finds what the one before it left
SETTLED = dict(precision="fp32", channels_last=True, n_threads=1)  # `auto` measures, and two runs on a busy machine may measure differently and add in another order
OPTIONS = SETTLED | dict(crops="outputs/sample/crops", network="timm:lcnet_035", img_size=32, bs=16, epochs=6, ema=0.9, checkpoint_every=2,
                         freeze_epochs=1, body_lr=0.5, mix="mixup", seed=3)


@pytest.mark.parametrize("path", sorted(STAGES, key=lambda p: (ORDER.index(p.stem) if p.stem in ORDER else 99)), ids=name_page)
def test_stage_notebook(path, request):
    run_notebook(path, request)


def test_commands_do_not_repeat_what_libraries_say(tmp_path):
    "Exporters and runtimes talk of processors, GPUs that are not there and what is deprecated; a person reads our own lines only."
    shutil.copytree(ROOT/"outputs/sample/train", tmp_path/"train")
    env = os.environ | dict(CUDA_HOME="/usr/local/cuda")
    for command in (["export", "--formats", "[openvino, executorch, openvino-int8]"], ["evaluate", "--out", tmp_path/"evaluate", "--n-rounds", "5"]):
        done = subprocess.run([BIN/"lightweight", command[0], tmp_path/"train", *command[1:]], cwd=ROOT, env=env, capture_output=True, text=True)
        theirs = [line for line in done.stderr.splitlines() if not re.search(r"\d+ of \d+ \w+, \d+ s", line)]        # ours say how far it is
        assert done.returncode == 0 and not theirs, (command, theirs, done.stdout)


def run_command(*words): return run_script(BIN/"lightweight", *words, folder=ROOT)


def test_evaluate_compares_promises_with_the_test_crops(tmp_path):
    "A calibrated run is judged at its thresholds, another one says how to choose them, and thresholds of another checkpoint are refused."
    run, out = tmp_path/"train", tmp_path/"evaluate"
    shutil.copytree(ROOT/"outputs/sample/train", run)
    for name in ("model.pte", "model.torchscript.pt", "model.xml"): (run/"export"/name).unlink(missing_ok=True)      # one format is enough here
    assert run_command("calibrate", run, "--purity", "0.6", "--confidence", "0.8")[0] == 0
    path = run/"export/calibration.json"
    found = json.loads(path.read_text())
    thresholds = found["metrics"]["thresholds"]
    never, given = list(thresholds)[0], {name for name, threshold in thresholds.items() if threshold is not None}
    changed = found["metrics"] | dict(thresholds=thresholds | {never: 1.})          # the files hold other ones
    path.write_text(json.dumps(found | dict(metrics=changed)))
    code, said = run_command("evaluate", run, "--out", out, "--n-rounds", "5")
    assert code == 2 and "its thresholds are not those of calibration.json; run lightweight calibrate again" in said, said
    path.write_text(json.dumps(found))
    code, said = run_command("evaluate", run, "--out", out, "--n-rounds", "5")
    assert code == 0 and re.search("^promise    A purity of 0.6 is promised with confidence 0.8 for", said, re.M), said
    sorting = json.loads((out/"record.json").read_text())["metrics"]["sorting"]
    assert {row["class"] for row in sorting["per_class"] if row["verdict"] != "no promise"} == given
    assert "### Sorting" in (out/"README.md").read_text() and "Test crops at the calibrated thresholds" in (out/"report.html").read_text()
    path.unlink()
    code, said = run_command("evaluate", run, "--out", out, "--n-rounds", "5")
    assert code == 0 and "promise    Not calibrated: `lightweight calibrate RUN`" in said and "confidence AUGRC" in said, said
    assert "Not calibrated" in (out/"report.html").read_text() and run_command("summary", out/"record.json") == (0, said[said.index("promise "):said.index("report  ")])
    ledger = (ROOT/"outputs/sample/crops-openings.csv").read_text()
    path.write_text(json.dumps(found | dict(hashes=found["hashes"] | dict(checkpoint="0"*64))))
    code, said = run_command("evaluate", run, "--out", out, "--n-rounds", "5")
    assert code == 2 and "calibration.json: it belongs to another checkpoint; run lightweight calibrate" in said, said
    assert (ROOT/"outputs/sample/crops-openings.csv").read_text() == ledger


def start(out, before=None, **changed):
    options = [w for k, v in (OPTIONS | changed).items() for w in (f"--{k}", str(v))]
    return Script(BIN/"lightweight", "train", *options, "--out", out, folder=ROOT, before=before)


def limit_files(n_bytes): return partial(resource.setrlimit, resource.RLIMIT_FSIZE, (n_bytes, n_bytes))


def digest(out): return hashlib.sha256((out/"model.safetensors").read_bytes()).hexdigest()


def wait_until(run, moment, seconds=1200):
    "Wait for a moment in the life of a run; False when the run was over before it came."
    end = time.time() + seconds
    while not moment():
        if run.poll() is not None: return False
        assert time.time() < end, "the moment never came"
        time.sleep(0.0005)
    return True


def n_epochs(out): return len((out/"history.csv").read_text().split()) - 1 if (out/"history.csv").exists() else 0


def list_states(out): return {p.name: p.stat().st_mtime_ns for p in out.glob("resume-*.state")}


def list_temporaries(out): return {p.name for p in out.glob(".*.part")}


def moments(out, rng):
    "After a random number of states, while one is being written (a temporary that was not there before), between two epochs."
    done, seen, old, wanted = n_epochs(out), [list_states(out)], list_temporaries(out), rng.randint(1, 4)

    def count_states():
        if list_states(out) != seen[-1]: seen.append(list_states(out))
        return len(seen) - 1
    return [lambda: count_states() >= wanted, lambda: count_states() and list_temporaries(out) - old, lambda: n_epochs(out) > done]


def test_killed_run_ends_like_an_unbroken_one(tmp_path, request):
    assert (ROOT/"outputs/sample/crops/crops.json").exists() or subprocess.run([BIN/"lightweight", "crop"], cwd=ROOT).returncode == 0
    whole, broken, rng = tmp_path/"whole", tmp_path/"broken", random.Random(1)
    run = start(whole)
    assert run.wait() == 0, run.stdout.read()
    kills, wanted = 0, 20 if request.config.getoption("--slow") else 3
    while True:
        run = start(broken)
        if kills < wanted and wait_until(run, moments(broken, rng)[kills % 3]):
            run.send_signal(signal.SIGKILL)
            run.wait()
            kills += 1
            continue
        assert run.wait() == 0, run.stdout.read()
        if kills < wanted:  # the run was over too soon: begin another
            assert digest(broken) == digest(whole)
            continue
        break
    assert "resumed from step" in run.stdout.read()
    assert digest(broken) == digest(whole)
    assert not list(broken.glob("*resume-*")) and not list_temporaries(broken), "a finished run leaves no state behind, nor half of one"


def test_what_a_killed_write_left_is_removed_at_the_next_start(tmp_path):
    "Killed while a file is being written; if the kill was too late, again."
    out, left = tmp_path/"run", set()
    while not left:
        run = start(out)
        if not wait_until(run, lambda: list_temporaries(out)): continue      # the run was over too soon
        run.send_signal(signal.SIGKILL)
        run.wait()
        left = list_temporaries(out)
    run = start(out)
    said = run.communicate()[0]
    assert run.returncode == 0 and not list_temporaries(out), said
    assert said.splitlines()[-1].startswith("valid macro-F1 ") and said.splitlines()[-1].endswith(f"saved in {out}")


def test_no_class_may_lose_all_its_crops(tmp_path):
    out = tmp_path/"run"
    run = start(out, train_min_side=100_000)
    said = run.communicate()[0]
    assert run.returncode == 2 and "train_min_side = 100000" in said and "Traceback" not in said, said
    assert not out.exists()


def test_disk_that_is_full_at_once(tmp_path):
    "Not even the first checkpoint can be written: the sentence promises no file."
    out = tmp_path/"run"
    full = start(out, before=limit_files(20_000), checkpoint_every=0)
    said = full.communicate()[0]
    assert full.returncode == 2 and "File too large" in said and "No epoch has been kept" in said and "to start over" in said, said
    assert not (out/"model.safetensors").exists()
    run = start(out)
    assert run.wait() == 0, run.stdout.read()


def test_a_log_has_a_line_an_epoch_and_few_between(tmp_path):
    began = time.monotonic()
    run = start(tmp_path/"run")
    lines = run.communicate()[0].splitlines()
    epochs = [line for line in lines if line.startswith("epoch") and " steps, " not in line]
    assert run.returncode == 0 and len(epochs) == OPTIONS["epochs"] + OPTIONS["freeze_epochs"], lines
    assert sum(" steps, " in line for line in lines) <= 1 + (time.monotonic() - began)/5 and not any("\r" in line or "\x1b" in line for line in lines)


def hide_interrupt():
    "Have the interrupt come while pandas writes the history, whose C code replaces it by an error of its own."
    import pandas as pd
    write = pd.DataFrame.to_json
    def interrupted(table, **options):
        if len(table) < 2: return write(table, **options)
        try: signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt: raise ValueError("Error retrieving .array from Index/Series object") from None
    pd.DataFrame.to_json = interrupted


@pytest.mark.parametrize("inside", [None, hide_interrupt], ids=["anywhere", "inside-pandas"])
def test_interrupt_leaves_a_record_and_can_be_resumed(inside, tmp_path):
    out = tmp_path/"run"
    run = start(out, before=inside)
    if not inside:
        assert wait_until(run, lambda: n_epochs(out) >= 1)
        run.send_signal(signal.SIGINT)
    said = run.communicate()[0]
    assert run.returncode == 2 and "interrupted from the keyboard" in said and "to resume" in said, said
    assert '"stopped": "interrupted from the keyboard"' in (out/"record.json").read_text()
    run = start(out)
    first, *rest = run.communicate()[0].splitlines()
    assert run.returncode == 0 and re.fullmatch(r"resumed from step \d+ \(epoch \d+ of 7\)", first), first
    assert all(line.startswith(("epoch ", "valid macro-F1 ")) for line in rest), rest


def test_full_disk_leaves_what_was_good(tmp_path):
    "No file may grow beyond 100 kB: the operating system refuses the next checkpoint half-way, as a full disk does."
    out = tmp_path/"run"
    run = start(out)
    assert wait_until(run, lambda: n_epochs(out) >= 2)
    run.send_signal(signal.SIGKILL)
    run.wait()
    kept = digest(out)
    full = start(out, before=limit_files(100_000))
    said = full.communicate()[0]
    assert full.returncode == 2 and "File too large" in said and "to resume" in said, said
    assert digest(out) == kept and not list_temporaries(out), "the good checkpoint is whole and nothing half-written is left"
    run = start(out)
    assert run.wait() == 0 and "resumed from step" in run.stdout.read()


def test_vanished_crop_is_harmless_or_named(tmp_path):
    "A running training reads the decoded store and misses no file; a new one that has to decode says which is gone, and leaves what was good."
    crops, out = tmp_path/"crops", tmp_path/"run"
    shutil.copytree(ROOT/"outputs/sample/crops", crops)
    lost = next(crops.glob("train/*/*.jpg"))
    run = start(out, crops=crops)
    assert wait_until(run, lambda: n_epochs(out) >= 1)
    lost.unlink()
    assert run.wait() == 0, run.stdout.read()
    kept = digest(out)
    for decoded in crops.glob("decoded-*"): decoded.unlink()
    again = start(out, crops=crops)
    said = again.communicate()[0]
    assert again.returncode == 2 and lost.name in said and "cut the crops again" in said, said
    assert digest(out) == kept
