"Dask processes that are killed at random, and started again as an operator would; for tests/test_cluster.py and nbs/experiments/cluster.ipynb."
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

# Loaded by every worker: it notes each photo, takes PAUSE seconds more for it, and dies of photos called crash. A preload may be imported twice.
PRELOAD = '''
import os, time
import lightweight.deploy.predict as predict
pause = time.sleep
load = predict._quick = getattr(predict, "_quick", predict._load_listed)
def slow(predictor, path, folder):
    with open(os.environ["LIGHTWEIGHT_LOG"], "a") as log: log.write(os.path.basename(path) + "\\n")
    if "crash" in path: os.kill(os.getpid(), 11); pause(60)
    time.sleep(float(os.environ["LIGHTWEIGHT_PAUSE"]))
    return load(predictor, path, folder)
predict._load_listed = slow
'''
PREDICT = [sys.executable, "-c", "import sys; from lightweight.deploy.predict import main; sys.exit(main())"]
ROOT = Path(__file__).parent.parent


def describe(folder, pause=None):
    "The environment of processes that work on a list in a folder; with a pause, workers load the text above."
    (folder/"slow.py").write_text(PRELOAD)
    extra = {} if pause is None else dict(DASK_DISTRIBUTED__WORKER__PRELOAD=json.dumps([str(folder/"slow.py")]))
    own = dict(PYTHONPATH=f"{folder}:{ROOT}", LIGHTWEIGHT_LOG=str(folder/"log.txt"), LIGHTWEIGHT_PAUSE=str(pause or 0), OMP_NUM_THREADS="1")
    return os.environ | own | extra


def count_shards(out): return len([name for name in os.listdir(out/"shards") if name[0] != "."]) if (out/"shards").is_dir() else 0


def wait_for(happened, seconds=120):
    end = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < end, "nothing happens any more"
        time.sleep(.02)
    return found


class Site:
    "A scheduler, two workers with nannies, and a client, each a process; `around`: a command that runs the second worker."

    def __init__(self, folder, out, command, pause=.02, around=()):
        with socket.socket() as s: s.bind(("127.0.0.1", 0)); self.port = s.getsockname()[1]
        self.folder, self.out, self.address, self.processes, self.around = folder, out, f"tcp://127.0.0.1:{self.port}", {}, around
        self.command, self.env = [*PREDICT, *map(str, command), "--scheduler", self.address, "--out", str(out)], describe(folder, pause)
        self.log = open(folder/"site.txt", "ab")

    def start(self, name, *line):
        old = self.processes.get(name)
        if old is None or old.poll() is not None:
            self.processes[name] = subprocess.Popen(line, cwd=self.folder, env=self.env, stdout=self.log, stderr=self.log)

    def start_workers(self):
        dask = [sys.executable, "-m", "dask"]
        self.start("scheduler", *dask, "scheduler", "--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard", "--no-show")
        for i in range(2): self.start(f"nanny {i}", *(self.around if i else ()), *dask, "worker", self.address, "--nthreads", "1", "--no-dashboard")

    def repair(self):
        scheduler = self.processes.get("scheduler")
        if scheduler and scheduler.poll() is not None:
            for name in ("nanny 0", "nanny 1"): self.kill(name)    # they would end by themselves
            wait_for(lambda: self.processes["client"].poll() is not None)
        self.start_workers()
        self.start("client", *self.command)

    def kill(self, name):
        process = self.processes[name]
        process.kill()
        process.wait()

    def kill_worker(self, rng):
        found = [p for i in range(2) for p in self.list_workers(f"nanny {i}")]
        if found: rng.choice(found).kill()
        return bool(found)

    def list_workers(self, nanny):
        process = self.processes[nanny]
        children = psutil.Process(process.pid).children() if process.poll() is None else []
        return [p for p in children if "spawn_main" in " ".join(p.cmdline())]

    def has_ended(self): return self.processes["client"].poll() in (0, 1)

    def may_kill(self): # a shard that has begun twice is left alone: after a third death it would count as failed
        return not (self.out/"attempts").is_dir() or not any(name.endswith(".2") for name in os.listdir(self.out/"attempts"))

    def kill_randomly(self, kinds, rng):
        "Kill one process of each kind at a random moment after some progress, and start it again; the kinds killed until the client ended."
        self.repair()
        for i, kind in enumerate(kinds):
            before = count_shards(self.out)
            wait_for(lambda: count_shards(self.out) >= before + 2 and self.may_kill() or self.has_ended())
            time.sleep(rng.uniform(0, .2))
            if self.has_ended(): return kinds[:i]
            if kind == "worker": wait_for(lambda: self.kill_worker(rng))
            else: self.kill(f"nanny {rng.randrange(2)}" if kind == "nanny" else kind)
            self.repair()
        return kinds

    def finish(self):
        "The exit code of the client, and what it said."
        while (code := self.processes["client"].wait(600)) == 2: self.repair()
        return code, (self.folder/"site.txt").read_text()

    def close(self):
        for name in self.processes: self.kill(name)
        self.log.close()


def count_lost(kinds): return sum(2 if kind in ("scheduler", "client") else 1 for kind in kinds)  # shards that two workers had begun


# Workers wait before each shard while the file HOLD is there.
HELD = '''
import os, time
import lightweight.core.shards as shards
from lightweight.stages import compare, crop, evaluate, tune
def wait(*args, work=shards._work_on):
    while os.path.exists(os.environ["LIGHTWEIGHT_HOLD"]): time.sleep(.02)
    return work(*args)
shards._work_on = wait
'''
STARTER = '''
import json, os, sys
from multiprocessing import forkserver, resource_tracker, set_forkserver_preload, util
import distributed, held
from lightweight.core.cli import main
answers, server, start = os.fdopen(os.dup(1), "w"), forkserver._forkserver, util.spawnv_passfds
os.dup2(2, 1)
def fork(program, words, kept): # instead of a new process that imports everything again
    if pid := os.fork(): return pid
    low, high = sorted(kept)
    for ends in ((3, low), (low + 1, high), (high + 1, 1000)): os.closerange(*ends)
    exec(words[-1])
    os._exit(0)
resource_tracker.ensure_running()
set_forkserver_preload([])
util.spawnv_passfds = fork
server.ensure_running()
util.spawnv_passfds, server.ensure_running = start, lambda: None
print(server._forkserver_pid, file=answers, flush=True)
for line in sys.stdin:
    words, log = json.loads(line)
    pid = os.fork()
    if not pid:
        log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for i in (1, 2): os.dup2(log, i)
        sys.exit(main(words))
    print(pid, file=answers, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=answers, flush=True)
'''


class Starter:
    "Starts commands and their workers as forks of a process that has imported the stages: in a second, not in ten."

    def __init__(self, folder):
        (folder/"held.py").write_text(HELD)
        self.folder, self.hold = folder, folder/"hold"
        own = dict(PYTHONPATH=f"{folder}:{ROOT}", LIGHTWEIGHT_HOLD=str(self.hold), OMP_NUM_THREADS="1",
                   DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD="forkserver")
        self.process = subprocess.Popen([sys.executable, "-c", STARTER], cwd=folder, env=os.environ | own, text=True, start_new_session=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=open(folder/"starter.txt", "w"))
        self.server = psutil.Process(self.read())

    def read(self): return int(self.process.stdout.readline())
    def list_workers(self): return [p for p in self.server.children() if p.status() != psutil.STATUS_ZOMBIE]

    def run(self, *words, happened=None, kill=None):
        "Run a command, and call a function with its process once something has happened; the exit code, and what it said."
        print(json.dumps([[*map(str, words)], str(self.folder/"said.txt")]), file=self.process.stdin, flush=True)
        main = psutil.Process(self.read())
        if happened:
            wait_for(lambda: happened() or not main.is_running(), 600)
            if main.is_running(): kill(main)
        code = self.read()
        wait_for(lambda: not self.list_workers())
        return code, (self.folder/"said.txt").read_text()

    def close(self):
        self.process.stdin.close()
        try: self.process.wait(60)
        except subprocess.TimeoutExpired: os.killpg(self.process.pid, signal.SIGKILL)
