"Searches with several workers: no plan is completed twice, whoever dies; and what a search leaves can be trained and looked at."
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.request
import warnings
from collections import Counter
from pathlib import Path

import psutil
import pytest
from conftest import PATIENCE_MS
from forked import Script
from test_house import BIN, ROOT

QUIET = dict(cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


def find_port():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def wait_for(moment, seconds=1200, pause=0.05):
    end = time.time() + seconds
    while not (found := moment()):
        assert time.time() < end, "the moment never came"
        time.sleep(pause)
    return found


def answers_at(port):
    with socket.socket() as s: return s.connect_ex(("localhost", port)) == 0


def stop(process):
    process.terminate()
    process.wait()


# ---- a real database server -------------------------------------------------------------------------------------------------

def as_postgres(*command):
    "PostgreSQL refuses to run as root; Debian's package brings a user of its own."
    return ["runuser", "-u", "postgres", "--", *map(str, command)] if os.getuid() == 0 else list(map(str, command))


@pytest.fixture(scope="module")
def postgres():
    "The address of an empty database, or None where PostgreSQL is not installed."
    if not POSTGRES:
        assert not os.environ.get("LIGHTWEIGHT_WANT_POSTGRESQL"), "PostgreSQL was to be installed and is not"
        yield None
        return
    folder, port, programs = Path(tempfile.mkdtemp(dir="/tmp")), find_port(), POSTGRES[-1].parent
    if os.getuid() == 0: shutil.chown(folder, "postgres")
    run = lambda *command: subprocess.run(as_postgres(*command), check=True, capture_output=True, cwd="/tmp")
    run(programs/"initdb", "-D", folder/"data", "-U", "postgres", "-A", "trust", "--no-sync")
    options = f"-p {port} -k {folder} -c listen_addresses=localhost -c fsync=off"
    subprocess.run(as_postgres(programs/"pg_ctl", "-D", folder/"data", "-l", folder/"log", "-o", options, "-w", "start"), check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/tmp")
    try: yield f"postgresql://postgres@localhost:{port}/postgres"
    finally:
        run(programs/"pg_ctl", "-D", folder/"data", "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


def name_storage(postgres):
    if postgres: return postgres
    warnings.warn("PostgreSQL is not installed (apt-get install postgresql): the journal file was used instead", stacklevel=2)
    return "journal"


# ---- the list, with a work that takes no time -------------------------------------------------------------------------------

WORKER = """
import sys, time
from pathlib import Path
from lightweight.search.storage import open_storage
from lightweight.search.study import Queue, make_sampler, open_study, run_worker
where, folder, broken = sys.argv[1], Path(sys.argv[2]), set(map(int, sys.argv[3:]))
storage = open_storage(where, folder, folder)
study, created = open_study(storage, 'race', ['minimize'], {'x': 1})
queue = Queue(study, storage, range(30), heartbeat_timeout=600, attempts=3)
if created:
    queue.enqueue_all()
def do(trial):
    if trial.user_attrs['plan'] in broken: raise RuntimeError(f"plan {trial.user_attrs['plan']} cannot be exported")
    with open(folder/'done.txt', 'a') as f: f.write(f"{trial.user_attrs['plan']}\\n")
    time.sleep(.02)
    return [trial.suggest_float('x', 0, 1)]
run_worker(queue, do, lambda plan: make_sampler('random', plan), pause=.1)
"""


@pytest.fixture
def storages(postgres, tmp_path):
    "Makes the address of an empty storage of a kind."
    servers = []

    def make(kind):
        if kind == "postgresql": return postgres or pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
        if kind != "grpc": return dict(journal="journal", sqlite="sqlite:///study.db")[kind]
        if not importlib.util.find_spec("grpc"): pytest.skip("grpcio is not installed: pip install -e '.[grpc]'")
        port = find_port()
        code = ("from optuna.storages import *; from lightweight.search.storage import *; "   # the line that the storage page gives
                f"run_grpc_proxy_server(open_database('sqlite:///{tmp_path}/study.db'), host='localhost', port={port})")
        servers.append(subprocess.Popen([sys.executable, "-c", code], **QUIET))
        wait_for(lambda: answers_at(port))
        return f"grpc://localhost:{port}"
    yield make
    for server in servers: stop(server)


@pytest.mark.parametrize("kind", ["journal", "sqlite", "postgresql", "grpc"])
def test_two_workers_do_every_plan_once(kind, storages, tmp_path):
    where = storages(kind)
    workers = [subprocess.Popen([sys.executable, "-c", WORKER, where, str(tmp_path)], **QUIET) for _ in range(2)]
    said = [w.communicate(timeout=1200)[0] for w in workers]
    assert [w.returncode for w in workers] == [0, 0], said
    assert sorted(map(int, (tmp_path/"done.txt").read_text().split())) == list(range(30))


def test_a_plan_that_always_fails_stops_no_worker(tmp_path):
    workers = [subprocess.Popen([sys.executable, "-c", WORKER, "journal", str(tmp_path), "0", "7"], **QUIET) for _ in range(2)]
    said = [w.communicate(timeout=1200)[0] for w in workers]
    assert [w.returncode for w in workers] == [0, 0], said
    assert sorted(map(int, (tmp_path/"done.txt").read_text().split())) == [n for n in range(30) if n not in (0, 7)]
    failed = [t for t in watch_trials("journal", tmp_path, "race")() if t.state.name == "FAIL"]
    assert Counter(t.user_attrs["plan"] for t in failed) == {0: 3, 7: 3}, "each has its three attempts"
    assert all(t.user_attrs["why"] == f"RuntimeError: plan {t.user_attrs['plan']} cannot be exported" for t in failed)


# ---- real trials ------------------------------------------------------------------------------------------------------------

@pytest.fixture
def start(sample_crops):
    "Begins a search on the sample's crops."
    def begin(out, **options):
        base = dict(study="test", out=out, crops=sample_crops, space="tight", img_sizes="[32]", n_trials=4, n_long=0, variant="torchscript",
                    baseline="tiny", baseline_size=64)
        words = [w for k, v in (base | options).items() for w in (f"--{k}", v)]
        return Script(BIN/"lightweight", "tune", *words, folder=ROOT)
    return begin


def finish(*workers):
    said = [w.communicate(timeout=1800)[0] for w in workers]
    assert all(w.returncode == 0 for w in workers), said
    return said


def watch_trials(where, out, study="test"):
    "Looks at the trials of a study from outside, again and again."
    import optuna

    from lightweight.search.storage import open_storage
    storage = open_storage(where, out, ROOT)

    def read():
        try: return optuna.load_study(study_name=study, storage=storage).get_trials()
        except KeyError: return []      # nobody has created it yet
    return read


def read_history(out, plan):
    path = out/f"trials/{plan:04d}/short/history.csv"
    return path.read_text().splitlines() if path.exists() else []


def test_killed_worker_loses_nothing(postgres, start, tmp_path):
    "A worker is killed in the middle of a trial; another notices, resumes the training from its checkpoint, and finishes the list."
    where, out, epochs = name_storage(postgres), tmp_path/"tune", 12
    options = dict(storage=where, epochs=epochs, pruner="none")
    victim, read = start(out, **options), watch_trials(where, out)
    rows = lambda trial: len(read_history(out, trial.user_attrs["plan"]))

    def in_the_middle():
        assert victim.poll() is None, victim.stdout.read()
        trial = next((t for t in read() if t.state.name == "RUNNING" and 3 <= rows(t) <= epochs//2), None)
        if trial is None: return None
        victim.send_signal(signal.SIGSTOP)
        while psutil.Process(victim.pid).status() != psutil.STATUS_STOPPED: time.sleep(0.001)
        if rows(trial) < epochs: return trial
        victim.send_signal(signal.SIGCONT)  # it was quicker
    trial = wait_for(in_the_middle)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    other = start(out, **options, heartbeat_timeout=2)  # no living worker to be misjudged
    plan, before = trial.user_attrs["plan"], read_history(out, trial.user_attrs["plan"])
    finish(other)

    trials = read()
    complete = [t for t in trials if t.state.name == "COMPLETE"]
    assert Counter(t.user_attrs["plan"] for t in complete) == Counter(range(4)), "each plan is complete exactly once"
    [lost] = [t for t in trials if t.state.name == "FAIL"]
    assert lost.number == trial.number and lost.user_attrs["why"] == "no heartbeat for 2 s"
    [again] = [t for t in complete if t.user_attrs["plan"] == plan]
    assert again.user_attrs["attempt"] == 2 and again.user_attrs["worker"] == other.pid and again.params == lost.params
    after = read_history(out, plan)
    # a history row holds the seconds its epoch took: the same to the last digit, so these epochs were not trained again
    assert after[:len(before) - 1] == before[:-1] and len(after) == epochs + 1
    assert again.user_attrs["epochs_done"] == epochs and not list(out.glob("trials/*/short/resume-*")), "nothing is left to resume"

    done = subprocess.run([BIN/"lightweight", "train", "-f", out/"chosen/train.yaml", "--epochs", "1"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and (out/"chosen/train/model.safetensors").exists(), done.stderr


def test_poor_trials_are_stopped_early(start, tmp_path):
    out = tmp_path/"tune"
    finish(start(out, n_trials=8, epochs=4, sampler="random"))
    trials = watch_trials("journal", out)()
    pruned = [t for t in trials if t.state.name == "PRUNED"]
    assert len(trials) == 8 and 0 < len(pruned) < 8
    assert all(t.user_attrs["epochs_done"] < 4 and len(read_history(out, t.user_attrs["plan"])) == t.user_attrs["epochs_done"] + 1 for t in pruned)
    assert all(t.user_attrs["epochs_done"] == 4 for t in trials if t not in pruned)
    counts = json.loads((out/"record.json").read_text())["metrics"]["counts"]
    assert counts["stopped_early"] == len(pruned) and counts["trained"] == 8 - len(pruned)
    other = start(out, epochs=5)
    said = other.communicate(timeout=1200)[0]
    assert other.returncode == 2 and "was begun with epochs = 4, now 5" in said, said


def test_what_is_over_budget_is_never_trained(start, tmp_path):
    out = tmp_path/"tune"
    finish(start(out, space="published", objective="pareto", sampler="nsga2", population=4, n_trials=8, max_parameters=300_000, n_long=2, long_epochs=2))
    trials, record = watch_trials("journal", out)(), json.loads((out/"record.json").read_text())["metrics"]
    over = [t for t in trials if t.user_attrs["parameters"] > 300_000]
    assert {t.state.name for t in trials} == {"COMPLETE"} and 0 < len(over) < 8
    assert all(t.constraints["parameters"] == pytest.approx(t.user_attrs["parameters"]/300_000 - 1) and t.values[0] == 0 for t in over)
    assert not any((out/f"trials/{t.user_attrs['plan']:04d}/short").exists() for t in over)
    assert all((out/f"front/{row['plan']:04d}/{name}.yaml").exists() for row in record["front"] for name in ("network", "train"))
    assert record["fidelity"]["n"] == 2 and record["counts"]["over_budget"] == len(over) and record["chosen"][0]["parameters"] <= 300_000
    assert {f.name for f in out.glob("crops/*")} >= {"crops.json", "manifest.csv"} and ",test," not in (out/"crops/manifest.csv").read_text()


def test_what_is_wrong_is_said_before_anything_is_written(start, sample_crops, tmp_path):
    "Foreign files, folders that are read, and addresses of storages; no password is repeated."
    from lightweight.stages.tune import TuneSettings, tune
    notes = tmp_path/"mine/trials/0000/notes.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("mine")
    secret = "postgresql://ann:hunter2@localhost:1/waste?sslpassword=hunter2"
    cases = [(dict(out=tmp_path/"mine"), "trials/0000/notes.txt is there, which tune did not make"), (dict(out=sample_crops/"tune"), "this lies in crops"),
             (dict(record=notes), "record = "), (dict(training="{epochs: 1}"), "training: epochs is sampled or has a setting of its own"),
             (dict(training="{refit: true}"), "training: refit = true: trials are compared on the validation crops"), (dict(storage=f"sqlite:///{notes}"), "storage = "), (dict(storage="redis://ann:hunter2@h"), "storage: unknown kind"),
             (dict(storage="postgresql://ann:x@hunter2@h/waste"), "storage: this postgresql address cannot be read"),
             (dict(storage=secret), "storage = postgresql://ann:***@localhost:1/waste: cannot be opened")]
    base = dict(crops=str(sample_crops), variant="torchscript", baseline="tiny", baseline_size=64, out=str(tmp_path/"new"))
    for options, expected in cases:
        options = {k: str(v) for k, v in options.items()}
        with pytest.raises((ValueError, OSError)) as refused: tune(TuneSettings.check(base | options), ROOT)
        shown = "".join(traceback.format_exception(refused.value))
        assert expected in str(refused.value) and "hunter2" not in shown, shown
        assert not (tmp_path/"new").exists()
    worker = start(tmp_path/"new", storage=secret)
    said = worker.communicate(timeout=1200)[0]
    assert worker.returncode == 2 and expected in said and "hunter2" not in said and "Traceback" not in said, said
    assert notes.read_text() == "mine" and [p for p in (tmp_path/"mine").rglob("*") if p.is_file()] == [notes] and not (sample_crops/"tune").exists()


def test_if_every_trial_fails_the_stage_fails(sample_crops, tmp_path):
    "What is trained from is no network: each trial has the reason, and the command ends with a sentence."
    out, code = tmp_path/"tune", "import lightweight.stages.tune as tune; tune._train_trial = None; tune.main()"
    base = dict(study="test", out=out, crops=sample_crops, space="tight", img_sizes="[32]", n_trials=2, variant="torchscript", baseline="tiny", baseline_size=64, attempts=2)
    worker = subprocess.run([sys.executable, "-c", code, *(w for k, v in base.items() for w in (f"--{k}", str(v)))], cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert worker.returncode == 2 and "2 of 2 plans were given up (0, 1); the last reason: TypeError" in worker.stderr and "Traceback" not in worker.stderr, worker.stderr
    assert worker.stdout.count("failed: TypeError") == 4 and (out/"trials.csv").read_text().count("TypeError: ") == 4
    assert json.loads((out/"record.json").read_text())["metrics"]["counts"]["given_up"] == [0, 1]


# ---- the dashboard ----------------------------------------------------------------------------------------------------------

def test_dashboard_shows_a_study(browser, tmp_path):
    "optuna-dashboard on a journal, in a real browser."
    if not (BIN/"optuna-dashboard").exists(): pytest.skip("optuna-dashboard is not installed")
    from lightweight.search.storage import open_journal
    from lightweight.search.study import Queue, open_study, run_worker
    storage = open_journal(tmp_path/"study.log")
    queue = Queue(open_study(storage, "shown", ["maximize", "minimize"], {})[0], storage, range(5))
    queue.enqueue_all()
    run_worker(queue, lambda trial: [trial.suggest_float("lr", 0, 1), trial.suggest_int("width", 8, 64)])
    port = find_port()
    server = subprocess.Popen([BIN/"optuna-dashboard", tmp_path/"study.log", "--port", str(port)], **QUIET)
    try:
        def answers():
            try: return urllib.request.urlopen(f"http://127.0.0.1:{port}/dashboard", timeout=5).status == 200
            except OSError: return False
        wait_for(answers)
        page, errors = browser.new_page(), []
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda e: errors.append(str(e)))
        page.goto(f"http://127.0.0.1:{port}/dashboard")
        page.get_by_text("shown").first.click()
        page.get_by_text("Hyperparameter Importance").first.wait_for()
        page.goto(f"http://127.0.0.1:{port}/dashboard/studies/0/trials")
        page.get_by_text("Trial 4").first.wait_for()
        assert not errors, errors
    finally: stop(server)
