"Every shell line of the README runs as typed (on the sample where photos or hours are needed), and every link leads somewhere."
import os
import re
import shlex
import shutil
import subprocess

import pytest
from forked import run_script
from test_house import BIN, ROOT

README = (ROOT/"README.md").read_text()
# Lines that need TACO, hours, several GPUs, or a person who looks on, and where the same options are tested instead.
ELSEWHERE = {"make run": "the stages, one by one, in test_stages.py", "make tune": "test_tune.py", "make dashboard": "test_tune.py",
             "lightweight sweep": "test_sweep.py", "torchrun": "the page training/06_distributed", "lightweight compress": "test_compress.py"}
SMALL = ["-p", "epochs", "1", "-p", "img_size", "32"]


def list_lines():
    blocks = re.findall(r"```bash\n(.*?)```", README, re.S)
    return [line.split("  #")[0].strip() for block in blocks for line in block.splitlines() if line.strip() and not line.startswith("#")]


def run(line, folder):
    "Run a line: its exit code, and what it said. Commands of this package run without the time that importing the libraries takes."
    commands = [shlex.split(part) for part in line.split(" && ")]
    if set("|<>*~$;") & set(line) or any(command[0] != "lightweight" for command in commands):
        env = os.environ | dict(PATH=f"{BIN}:{os.environ['PATH']}", PYTHONPATH=str(ROOT))
        done = subprocess.run(["bash", "-c", line], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
        return done.returncode, done.stdout
    for _, *options in commands:
        code, said = run_script(BIN/"lightweight", *options, folder=folder)
        if code: break
    return code, said


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    "A copy of the checkout whose data/mine and data/taco are the sample."
    from lightweight.data.image import open_photo
    from lightweight.data.sample import make_sample
    copy = tmp_path_factory.mktemp("readme")/"checkout"
    skip = shutil.ignore_patterns(".git", ".venv", "outputs", "data", "__pycache__", "*.egg-info", "build")
    shutil.copytree(ROOT, copy, symlinks=True, ignore=skip)
    for name in ("mine", "taco"): make_sample(copy/"data"/name)
    for path in (copy/"data/mine").rglob("*.jpg"):  # the sample has a damaged photo, and predict ends with an error if it cannot read one
        try: open_photo(path)
        except (OSError, ValueError): path.unlink()
    shutil.copy(ROOT/"configs/class_maps/taco6.csv", copy/"data/mine/classes.csv")
    return copy


def shorten(line):
    "The line as typed, with fewer epochs and smaller images where it trains, fewer formats and processes where it exports and measures (all of them: test_stages)."
    if line.startswith("papermill nbs/train"): return f"{line} {' '.join(SMALL)} -p pretrained false -p network tiny -p cut null"
    if line.startswith("papermill nbs/export"): return f"{line} -y 'formats: [onnx, openvino]'"
    if line.startswith("papermill nbs/evaluate"): return f"{line} -p n_starts 1 -p n_rounds 5"
    if line.startswith("lightweight train"): return f"{line} --epochs 2 --img-size 32"
    line = re.sub(r"(lightweight export \S+)", r"\1 --formats onnx", line)
    return re.sub(r"(lightweight evaluate \S+)", r"\1 --n-rounds 5", line)


def test_lines_run(checkout):
    "In the order of the README: crops, training, export, report, predictions; then the same with papermill and the settings files of TACO."
    for line in list_lines():
        if any(line.startswith(start) for start in ELSEWHERE): continue
        code, said = run(shorten(line), checkout)
        assert code == 0, f"{line}\n{said[-3000:]}"
    assert (checkout/"outputs/mine/evaluate/report.html").is_file() and (checkout/"outputs/taco/evaluate.ipynb").is_file()


def test_links_lead_somewhere():
    links = {link for link in re.findall(r"\]\(([^)#\s]+)", README) if not link.startswith("http")}
    assert links and not [link for link in links if not (ROOT/link).exists()]


def test_tables_are_narrow():
    rows = [line for line in README.splitlines() if line.startswith("| ---")]
    assert rows and max(row.count("---") for row in rows) <= 8
