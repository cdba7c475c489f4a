"Sweeps for real: papermill processes side by side, one that fails, one killed outright, one interrupted."
import os
import signal
import subprocess
import sys
import time

import nbformat
import pandas as pd
import psutil
import pytest
from joblib import cpu_count
from test_house import ROOT

SWEEP = [sys.executable, "-c", "from lightweight.experiments.sweep import main; main()"]  # what the console script does
GATED = ["n = 0\nout = 'outputs/gated'", """
import os, time
from pathlib import Path
with open(f'begun-{n}', 'a') as f: f.write('x')      # the working folder is the root
while not Path('gate').exists(): time.sleep(0.05)
""", """
from lightweight.core.records import start_record, write_record
from lightweight.core.settings import Settings
class Gated(Settings): n:int = 0
metrics = dict(n_squared=n*n, threads=int(os.environ['OMP_NUM_THREADS']))
write_record(f'{out}/record.json', start_record('gated', Gated(n=n), '.')(metrics))
"""]


@pytest.fixture
def gated(tmp_path):
    "A folder with a stage that goes on only when there is a file named gate, and a sweep of three such runs."
    cells = [nbformat.v4.new_code_cell(source) for source in GATED]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = dict(name="python3", display_name="python3", language="python")
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=dict(kernelspec=kernel)), tmp_path/"gated.ipynb")
    (tmp_path/"sweep.yaml").write_text("{notebook: gated.ipynb, out: swept, workers: 2, grid: {n: [1, 2, 3]}}")
    yield tmp_path
    (tmp_path/"gate").touch()  # whatever a failed test left waiting comes to its end


def start(root, *options, **env):
    kept = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | env
    return subprocess.Popen([*SWEEP, *options], cwd=root, env=kept, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_until(moment, seconds=900):
    end = time.time() + seconds
    while not moment():
        assert time.time() < end, "the moment never came"
        time.sleep(0.02)


def begun(root): return {p.name: p.read_text() for p in root.glob("begun-*")}


def test_sweep_of_trainings(sample_crops, tmp_path):
    "Two trainings at once, one with a value that only the stage can refuse; corrected, and called again, only that one runs."
    config, out = tmp_path/"sweep.yaml", tmp_path/"out"
    text = (f"{{out: {out}, columns: [valid.macro_f1], base: {{crops: {sample_crops}, preset: none, network: 'timm:lcnet_035', img_size: 32, epochs: 1}}, "
            "runs: {good: {seed: 1}, bad: {lr: LR}}}")
    config.write_text(text.replace("LR", "-1"))
    first = start(ROOT, "nbs/train.ipynb", "-f", str(config), "--workers", "2", OMP_NUM_THREADS="1")
    said = first.communicate()[0]
    assert first.returncode == 1 and "2 runs: 0 finished before, 2 to run, 2 at a time" in said, said
    table = pd.read_csv(out/"sweep.csv").set_index("folder")
    assert table.status.to_dict() == dict(good="finished", bad="failed")
    assert table.cell["bad"] == "settings = apply_preset(TrainSettings.from_notebook(globals()))" and "lr = -1" in table.error["bad"]
    assert "failed: bad, in the cell that begins with 'settings = apply_preset(TrainSettings" in said
    assert (out/"bad/failed.ipynb").exists() and not (out/"bad/train.ipynb").exists()
    assert 0 <= table.loc["good", "valid.macro_f1"] <= 1 and table.wall_s["good"] > 0

    kept = (out/"good/train/model.safetensors").stat().st_mtime_ns, (out/"good/train.ipynb").stat().st_mtime_ns
    config.write_text(text.replace("LR", "0.02"))
    second = start(ROOT, "nbs/train.ipynb", "-f", str(config), "--workers", "2", OMP_NUM_THREADS="1")
    said = second.communicate()[0]
    assert second.returncode == 0 and "2 runs: 1 finished before, 1 to run" in said, said
    assert (pd.read_csv(out/"sweep.csv").status == "finished").all()
    assert kept == ((out/"good/train/model.safetensors").stat().st_mtime_ns, (out/"good/train.ipynb").stat().st_mtime_ns)
    assert not (out/"bad/failed.ipynb").exists() and (out/"bad/train.ipynb").exists()


def test_killed_sweep_goes_on(gated):
    "Runs that outlive a killed sweep are waited for, not started twice, and counted when they end well."
    killed = start(gated, "-f", "sweep.yaml")
    wait_until(lambda: len(begun(gated)) == 2)
    killed.kill()
    killed.wait()
    again = start(gated, "-f", "sweep.yaml")
    assert "still going on here; waiting for them" in again.stdout.readline()
    (gated/"gate").touch()
    said = again.communicate()[0]
    assert again.returncode == 0 and "3 runs: 2 finished before, 1 to run, 1 at a time" in said, said
    assert begun(gated) == {"begun-1": "x", "begun-2": "x", "begun-3": "x"}
    table = pd.read_csv(gated/"swept/sweep.csv")
    assert table.n_squared.tolist() == [1, 4, 9] and (table.status == "finished").all()
    assert table.threads.tolist() == [max(1, cpu_count()//2)]*2 + [cpu_count()], "the cores are shared by the runs there are"


def test_dead_runs_of_a_killed_sweep_are_run_again(gated):
    "When all went down at once, nothing half-done counts as finished."
    killed = start(gated, "-f", "sweep.yaml")
    wait_until(lambda: len(begun(gated)) == 2)
    family = psutil.Process(killed.pid).children(recursive=True)
    killed.kill()
    for process in family: process.kill()
    psutil.wait_procs(family, timeout=60)
    assert (gated/"swept/n-1/running.ipynb").exists()
    (gated/"gate").touch()
    again = start(gated, "-f", "sweep.yaml")
    said = again.communicate()[0]
    assert again.returncode == 0 and "3 runs: 0 finished before, 3 to run" in said, said
    assert begun(gated) == {"begun-1": "xx", "begun-2": "xx", "begun-3": "x"}


@pytest.mark.parametrize("wish", [signal.SIGINT, signal.SIGTERM], ids=["interrupt", "terminate"])
def test_interrupt_stops_the_runs_and_says_what_is_left(gated, wish):
    run = start(gated, "-f", "sweep.yaml")
    wait_until(lambda: len(begun(gated)) == 2)
    family = psutil.Process(run.pid).children(recursive=True)
    assert len(family) == 4, "two papermills and their kernels"
    run.send_signal(wish)
    said = run.communicate()[0]
    assert run.returncode == 2 and "3 of 3 runs are left: n-1, n-2, n-3; start the same command again to go on" in said, said
    assert not any(p.is_running() for p in family)
    assert pd.read_csv(gated/"swept/sweep.csv").status.tolist() == ["left"]*3


def test_misspelt_parameter_stops_before_anything_runs(gated):
    (gated/"sweep.yaml").write_text("{notebook: gated.ipynb, out: swept, base: {m: 2}, grid: {n: [1, 2]}}")
    run = start(gated, "-f", "sweep.yaml")
    said = run.communicate()[0]
    assert run.returncode == 2 and "unknown parameter m" in said and not (gated/"swept").exists(), said


@pytest.mark.parametrize("path", sorted((ROOT/"configs/sweeps").glob("*.yaml")), ids=lambda p: p.stem)
def test_committed_sweeps_name_only_what_their_stage_knows(path):
    from lightweight.core.settings import read_yaml
    from lightweight.experiments.sweep import SweepSettings, check_names, plan_runs
    from lightweight.stages.train import TrainSettings
    s = SweepSettings.check(read_yaml(path), str(path))
    runs = plan_runs(s, ROOT)
    check_names(ROOT/s.notebook, {name: r.name for r in runs for name in r.parameters})
    assert s.notebook == "nbs/train.ipynb" and all(TrainSettings.check(r.parameters) for r in runs)
