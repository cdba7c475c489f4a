"A race that is killed goes on, and what was done is not done again."
import json
import os
import signal
import subprocess
import sys
import time

import yaml
from test_house import ROOT

RACE = [sys.executable, "-c", "from lightweight.race import main; main()"]  # what the console script does


def start(plan, out):
    return subprocess.Popen([*RACE, "--plan", str(plan), "--out", str(out), "--n_rounds", "5"], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"},
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_killed_race_goes_on(tmp_path):
    plan = yaml.safe_load((ROOT/"configs/race/plan-sample.yaml").read_text())
    del plan["goals"]
    recipe = plan["contestants"]["tiny"]["steps"][0]["train"] | dict(epochs=12)
    plan["contestants"] = dict(tiny=dict(group="tiny", steps=[dict(train=recipe)]))
    (tmp_path/"plan.yaml").write_text(yaml.safe_dump(plan))
    runs = tmp_path/"out/runs/tiny"
    race, note = start(tmp_path/"plan.yaml", tmp_path/"out"), runs/"fold-1-seed-0/1-train.json"
    while not note.exists():
        assert race.poll() is None, race.stdout.read()
        time.sleep(0.02)
    race.send_signal(signal.SIGKILL)
    race.wait()
    first = {f: f.stat().st_mtime_ns for f in (runs/"fold-0-seed-0").rglob("*") if f.is_file()}
    spent = json.loads(note.read_text())
    assert not spent["done"] and spent["cpu_seconds"] > 0
    race = start(tmp_path/"plan.yaml", tmp_path/"out")
    assert race.wait() == 0, race.stdout.read()
    assert {f: f.stat().st_mtime_ns for f in (runs/"fold-0-seed-0").rglob("*") if f.is_file()} == first, "the first fold was touched again"
    done = json.loads(note.read_text())
    assert done["done"] and done["cpu_seconds"] > spent["cpu_seconds"], "what was spent before the kill counts"
    record = json.loads((tmp_path/"out/results/tiny.json").read_text())["metrics"]
    assert [r["openings"] for r in record["runs"]] == [dict(checkpoints=1, evaluations=1)]*2, "each test fold was read once"
    assert record["epochs"] == 12 and len(json.loads((tmp_path/"out/results/times.json").read_text())["metrics"]["rows"]) >= 1


def test_plan_is_refused_before_any_work(tmp_path):
    plan = yaml.safe_load((ROOT/"configs/race/plan-sample.yaml").read_text())
    del plan["goals"]
    plan["groups"]["tiny"] = dict(cpu_minuts=1)
    (tmp_path/"plan.yaml").write_text(yaml.safe_dump(plan))
    race = start(tmp_path/"plan.yaml", tmp_path/"out")
    said = race.communicate()[0]
    assert race.returncode == 2 and "plan.yaml: groups: tiny" in said and "did you mean cpu_minutes?" in said, said
    assert not (tmp_path/"out").exists()
