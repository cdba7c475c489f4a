"Console scripts in processes that are forked from one in which the libraries are imported: importing fastai and timm takes seconds each time."
import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

LIBRARIES = ["torch", "torchvision", "timm", "fastai.vision.all", "fastai.distributed", "sklearn.model_selection", "scipy.stats", "matplotlib.pyplot", "pandas",
             "pydantic", "cv2", "nbdev.test", "nbformat", "onnxscript", "torch._inductor.fx_passes.joint_graph",
             "executorch.backends.xnnpack.partition.xnnpack_partitioner"]  # but nothing of this project
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(LIBRARIES)


def _run(words, folder, env, before, out):
    "What the process does: write into a file, and run the script as Python would."
    file = os.open(out, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2): os.dup2(file, stream)
    multiprocessing.set_start_method(None, force=True)             # that of the platform, not that of this process
    os.chdir(folder)
    os.environ.clear()
    os.environ |= env
    sys.argv, sys.path[0] = words, str(Path(words[0]).parent)
    if before: before()
    try: runpy.run_path(words[0], run_name="__main__")
    finally: atexit._run_exitfuncs()


class Script:
    "A script of `.venv/bin` that runs, with the methods of `subprocess.Popen` that the tests use; what it prints and reports is one text."
    def __init__(self, *words, folder, before=None):
        self.stdout = tempfile.NamedTemporaryFile("r", prefix="forked-", errors="replace")
        given = [*map(str, words)], str(folder), dict(os.environ), before, self.stdout.name
        self._process = SERVER.Process(target=_run, args=given)
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self): return self._process.exitcode

    def poll(self): return self.returncode

    def wait(self, timeout=None):
        self._process.join(timeout)
        if self.returncode is None: raise subprocess.TimeoutExpired("a forked script", timeout)
        return self.returncode

    def communicate(self, timeout=None):
        self.wait(timeout)
        return self.stdout.read(), None

    def send_signal(self, number):
        if self.poll() is None: os.kill(self.pid, number)

def run_script(*words, folder):
    "Run a script to its end: its exit code, and what it said."
    script = Script(*words, folder=folder)
    said = script.communicate()[0]
    return script.returncode, said
