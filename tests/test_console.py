"What a person reads while a command runs."
import os
import re
import shutil
import subprocess

from test_house import BIN, ROOT


def test_commands_do_not_repeat_what_libraries_say(sample_run, tmp_path):
    "Exporters and runtimes talk of processors, GPUs that are not there and what is deprecated; a person reads our own lines only."
    shutil.copytree(sample_run, tmp_path/"train")
    env = os.environ | dict(CUDA_HOME="/usr/local/cuda")
    for command in (["export", "--formats", "[openvino, executorch, openvino-int8]"], ["evaluate", "--out", tmp_path/"evaluate", "--n-rounds", "5"]):
        done = subprocess.run([BIN/"lightweight", command[0], tmp_path/"train", *command[1:]], cwd=ROOT, env=env, capture_output=True, text=True)
        theirs = [line for line in done.stderr.splitlines() if not re.search(r"\d+ of \d+ \w+, \d+ s", line)]        # ours say how far it is
        assert done.returncode == 0 and not theirs, (command, theirs, done.stdout)
