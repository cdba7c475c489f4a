"A race that is killed goes on, and what was done is not done again; no opening of a test is lost, whoever writes at the same time."
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from test_house import ROOT, run_opening

from lightweight.experiments.runner import read_plan
from lightweight.core.settings import resolve_path

RACE = "nbs/experiments/race.ipynb"
KILLED = """
import json, os, signal, sys
from lightweight.experiments.runner import Meter
note = Meter.note
def die(meter, done):
    noted = note(meter, done)
    if meter.path.parent.name == 'fold-1-seed-0': os.kill(os.getpid(), signal.SIGKILL)
    return noted
Meter.note, names = die, dict(__name__='race')
for cell in json.load(open(sys.argv[1]))['cells']:
    if cell['cell_type'] == 'code': exec(''.join(cell['source']), names)
    if 'parameters' in cell['metadata'].get('tags', []): names |= json.loads(sys.argv[2])
"""  # its cells with other parameters, killed when the second fold's training has noted its first line
NOTES = """
import sys
from datetime import datetime
from pathlib import Path
from lightweight.core.records import note_opening
store, name, n = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
print('ready', flush=True)
sys.stdin.readline()
for i in range(n): note_opening(store, 'split', f'{name}{i}', datetime(2026, 1, 1), store.parent)"""


def run(*command):
    return subprocess.run([str(c) for c in command], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run_race(plan, out, *more):
    "As typed in a shell; the executed notebook lies beside the output folder."
    given = yaml.safe_dump(dict(plan=str(plan), out=str(out), n_rounds=5))
    return run(Path(sys.executable).parent/"papermill", RACE, out.with_suffix(".ipynb"), "-y", given, "--log-output", "--no-progress-bar", *more)


def write_plan(folder, **contestants):
    "The plan of the sample with other contestants: name → settings of its training that differ from those of tiny."
    plan = yaml.safe_load((ROOT/"configs/race/plan-sample.yaml").read_text())
    del plan["goals"]
    recipe = plan["contestants"]["tiny"]["steps"][0]["train"]
    plan["contestants"] = {name: dict(group="tiny", steps=[dict(train=recipe | changed)]) for name, changed in contestants.items()}
    (folder/"plan.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    return folder/"plan.yaml"


def list_files(folder): return {f: f.stat().st_mtime_ns for f in folder.rglob("*") if f.is_file() and f.suffix != ".lock"}


def test_killed_race_goes_on(tmp_path):
    plan, runs = write_plan(tmp_path, tiny=dict(epochs=3)), tmp_path/"out/runs/tiny"
    given = dict(plan=str(plan), out=str(tmp_path/"out"), n_rounds=5)
    killed, note = run(sys.executable, "-c", KILLED, RACE, json.dumps(given)), runs/"fold-1-seed-0/1-train.json"
    assert killed.returncode == -signal.SIGKILL, killed.stdout
    first, spent = list_files(runs/"fold-0-seed-0"), json.loads(note.read_text())
    assert not spent["done"] and spent["cpu_seconds"] > 0
    again = run_race(plan, tmp_path/"out")
    assert again.returncode == 0, again.stdout
    assert all(re.search(rf"tiny +fold {fold}  seed \d+  macro-F1 0\.\d+", again.stdout) for fold in (0, 1)), "each run is told when it has ended"
    assert list_files(runs/"fold-0-seed-0") == first, "the first fold was touched again"
    done = json.loads(note.read_text())
    assert done["done"] and done["cpu_seconds"] > spent["cpu_seconds"], "what was spent before the kill counts"
    record = json.loads((tmp_path/"out/results/tiny.json").read_text())["metrics"]
    assert [r["openings"] for r in record["runs"]] == [dict(checkpoints=1, evaluations=1)]*2, "each test fold was read once"
    assert record["epochs"] == 3 and len(json.loads((tmp_path/"out/results/times.json").read_text())["metrics"]["rows"]) >= 1


def test_teacher_is_trained_for_a_student(tmp_path):
    "The teacher is not among those that are asked for: it is trained on the folds of its student, once, and has no record."
    plan = write_plan(tmp_path, tiny=dict(epochs=1), student=dict(epochs=1, teacher="{tiny}"))
    plan.write_text(plan.read_text().replace("  student:\n", "  student:\n    judged: [1]\n"))
    done = run_race(plan, tmp_path/"out", "-y", "only: [student]")
    assert done.returncode == 0, done.stdout
    assert [path.name for path in (tmp_path/"out/results").glob("*.json")] == ["student.json"]
    assert sorted(path.name for path in (tmp_path/"out/runs/tiny").iterdir() if path.is_dir()) == ["fold-1-seed-0"]
    assert not (tmp_path/"out/runs/tiny/fold-1-seed-0/test.json").exists(), "nobody asked how good the teacher is"
    spent = [json.loads((tmp_path/f"out/runs/{name}/fold-1-seed-0/1-train.json").read_text())["cpu_seconds"] for name in ("tiny", "student")]
    record = json.loads((tmp_path/"out/results/student.json").read_text())["metrics"]
    assert record["cpu_minutes"] == round(spent[1]/60, 2), spent


def test_no_opening_is_lost(tmp_path):
    "Two processes write 200 openings each at the same time."
    workers = [subprocess.Popen([sys.executable, "-c", NOTES, str(tmp_path/"crops"), name, "200"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for name in "ab"]
    for worker in workers: assert worker.stdout.readline() == "ready\n"
    for worker in workers: worker.stdin.write("go\n"); worker.stdin.flush()
    assert [worker.wait() for worker in workers] == [0, 0]
    head, *lines = (tmp_path/"crops-openings.csv").read_text().splitlines()
    assert head == "split,checkpoint,opened"
    assert sorted(line.split(",")[1] for line in lines) == sorted(f"{name}{i}" for name in "ab" for i in range(200))


def test_summary_of_anything_else_is_one_sentence(tmp_path, monkeypatch, capsys):
    from lightweight.stages.evaluate import summary_main
    whole = (ROOT/"results/taco-quick.json").read_text()
    files = dict(torn=whole[:300], other=(ROOT/"results/measure-taco.json").read_text(), poor=whole.replace('"test"', '"tset"'), listed="[1, 2]", number="5", empty="")
    for name, text in files.items(): (tmp_path/f"{name}.json").write_text(text)
    (tmp_path/"binary.json").write_bytes(bytes(range(256)))
    (tmp_path/"folder.json").mkdir()
    for name in [*files, "binary", "folder", "missing"]:
        monkeypatch.setattr(sys, "argv", ["lightweight summary", str(tmp_path/f"{name}.json")])
        with pytest.raises(SystemExit) as stopped: summary_main()
        printed, said = capsys.readouterr()
        assert stopped.value.code == 2 and f"{name}.json" in said and not printed, (name, said)


def test_race_keeps_out_of_other_folders(tmp_path):
    "What was there before a race is there after it, unchanged."
    names = run_opening(ROOT/RACE)
    mine, link = tmp_path/"mine", tmp_path/"link"
    (mine/"crops").mkdir(parents=True)
    (mine/"crops/a.jpg").write_bytes(b"mine")
    link.symlink_to(ROOT)
    before = list_files(mine)
    for out in (mine, tmp_path, ROOT, link, ROOT/"tests"):
        with pytest.raises((ValueError, OSError), match="out = "):
            s = names["RaceSettings"](out=str(out))
            with names["claim_race"](names["open_experiment"](s, ROOT), s): pass
    assert list_files(mine) == before and sorted(tmp_path.iterdir()) == [link, mine]


def test_default_plan_is_found_outside_a_checkout(tmp_path):
    "The package brings the plan and its folds."
    plan = read_plan(run_opening(ROOT/RACE)["RaceSettings"]().plan, tmp_path)
    assert resolve_path(plan.folds, tmp_path).is_file() and Path(plan.folds).parts[0] == "configs", "only configs/ is packaged"


def test_plan_is_refused_before_any_work(tmp_path):
    plan = yaml.safe_load((ROOT/"configs/race/plan-sample.yaml").read_text())
    del plan["goals"]
    plan["groups"]["tiny"] = dict(cpu_minuts=1)
    (tmp_path/"plan.yaml").write_text(yaml.safe_dump(plan))
    refused = run_race(tmp_path/"plan.yaml", tmp_path/"out")
    assert refused.returncode != 0 and "plan.yaml: groups: tiny" in refused.stdout and "did you mean cpu_minutes?" in refused.stdout, refused.stdout
    assert not (tmp_path/"out").exists()
