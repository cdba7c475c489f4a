"What happens to a training that is killed, interrupted or out of disk."
import hashlib
import random
import re
import resource
import shutil
import signal
import time
from functools import partial

import pytest
from forked import Script
from test_house import BIN, ROOT

SETTLED = dict(precision="fp32", channels_last=True, n_threads=1)  # `auto` measures, and two runs on a busy machine may measure differently and add in another order
OPTIONS = SETTLED | dict(preset="none", network="timm:lcnet_035", img_size=32, bs=16, epochs=6, ema=0.9, checkpoint_every=2, freeze_epochs=1, body_lr=0.5, mix="mixup", seed=3)


@pytest.fixture
def start(sample_crops):
    "Begins a training on the sample's crops."
    def begin(out, before=None, **changed):
        options = [w for k, v in (dict(crops=sample_crops) | OPTIONS | changed).items() for w in (f"--{k}", str(v))]
        return Script(BIN/"lightweight", "train", *options, "--out", out, folder=ROOT, before=before)
    return begin


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


def test_killed_run_ends_like_an_unbroken_one(start, tmp_path, request):
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


def test_what_a_killed_write_left_is_removed_at_the_next_start(start, tmp_path):
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


def test_no_class_may_lose_all_its_crops(start, tmp_path):
    out = tmp_path/"run"
    run = start(out, train_min_side=100_000)
    said = run.communicate()[0]
    assert run.returncode == 2 and "train_min_side = 100000" in said and "Traceback" not in said, said
    assert not out.exists()


def test_disk_that_is_full_at_once(start, tmp_path):
    "Not even the first checkpoint can be written: the sentence promises no file."
    out = tmp_path/"run"
    full = start(out, before=limit_files(20_000), checkpoint_every=0)
    said = full.communicate()[0]
    assert full.returncode == 2 and "File too large" in said and "No epoch has been kept" in said and "to start over" in said, said
    assert not (out/"model.safetensors").exists()
    run = start(out)
    assert run.wait() == 0, run.stdout.read()


def test_a_log_has_a_line_an_epoch_and_few_between(start, tmp_path):
    began = time.monotonic()
    run = start(tmp_path/"run")
    lines = run.communicate()[0].splitlines()
    epochs = [line for line in lines if line.startswith("epoch") and " steps, " not in line]
    assert run.returncode == 0 and len(epochs) == OPTIONS["epochs"] + OPTIONS["freeze_epochs"], lines
    assert sum(" steps, " in line for line in lines) <= 1 + (time.monotonic() - began)/5 and not any("\r" in line or "\x1b" in line for line in lines)


def test_the_learning_rate_finder_comes_first(start, tmp_path):
    run = start(tmp_path/"run", find_lr=True, epochs=1, freeze_epochs=0)
    said = run.communicate()[0]
    assert run.returncode == 0 and re.search(r"^suggested learning rate: \d\S*; this run uses lr = 0.05$", said, re.M), said


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
def test_interrupt_leaves_a_record_and_can_be_resumed(inside, start, tmp_path):
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


def test_full_disk_leaves_what_was_good(start, tmp_path):
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


def test_vanished_crop_is_harmless_or_named(start, sample_crops, tmp_path):
    "A running training reads the decoded store and misses no file; a new one that has to decode says which is gone, and leaves what was good."
    crops, out = tmp_path/"crops", tmp_path/"run"
    shutil.copytree(sample_crops, crops)
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
