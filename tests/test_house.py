"The rules of the house: what is generated is fresh, what is committed is clean, what is misspelt stops."
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NBS = sorted((ROOT/"nbs").glob("*.ipynb"))
BIN = Path(sys.executable).parent


def run(*command, **kwargs):
    return subprocess.run([str(c) for c in command], cwd=ROOT, capture_output=True, text=True, **kwargs)


def code_cells(path):
    return [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]


def is_stage(path):
    return any("parameters" in c["metadata"].get("tags", []) for c in code_cells(path))


STAGES = [p for p in NBS if is_stage(p)]
BASE = {"console", "files", "settings", "records"}  # every page may use these
PAGES = {"index", "protocol", "tutorial_own_data"}  # neither library nor stage: read from top to bottom


def snapshot():
    return {p.name: p.read_text() for p in sorted((ROOT/"lightweight").glob("*.py"))}



def test_exported_modules_are_fresh(tmp_path):
    "Exporting into an empty folder gives exactly the committed modules: none stale, none left over."
    shutil.copytree(ROOT/"nbs", tmp_path/"nbs", ignore=shutil.ignore_patterns(".*"))
    config = (ROOT/"pyproject.toml").read_text()
    (tmp_path/"pyproject.toml").write_text(config)
    (tmp_path/"lightweight").mkdir()
    (tmp_path/"lightweight/__init__.py").write_text((ROOT/"lightweight/__init__.py").read_text())
    done = subprocess.run([BIN/"nbdev_export"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    fresh = {p.name: p.read_text() for p in sorted((tmp_path/"lightweight").glob("*.py"))}
    stale = sorted(n for n in snapshot().keys() | fresh.keys() if snapshot().get(n) != fresh.get(n))
    assert not stale, f"run `make readme` and commit: {', '.join(stale)} is not what the notebooks export"


@pytest.mark.parametrize("path", NBS, ids=lambda p: p.stem)
def test_notebook_is_clean(path, tmp_path):
    "Notebooks are committed without outputs and just as nbdev_clean leaves them."
    copy = tmp_path/path.name
    copy.write_text(path.read_text())
    assert run(BIN/"nbdev_clean", "--fname", copy).returncode == 0
    assert copy.read_text() == path.read_text(), "run nbdev_clean"
    assert not any(c["outputs"] for c in code_cells(path)), "stored outputs"


def test_settings_leave_the_committed_records_alone():
    "Who runs a line of the README must not find the project's records rewritten; `--record results/NAME.json` asks for that."
    files = list((ROOT/"configs").rglob("*.yaml"))
    assert files and not [p.name for p in files if re.search(r"^\s*\w+:\s*['\"]?results/", p.read_text(), re.M)]


def test_every_stage_has_one_parameters_cell():
    "A lost tag would let papermill run the defaults in silence."
    verbs = {p.stem for p in NBS if not p.stem[:2].isdigit()} - PAGES
    assert verbs == {p.stem for p in STAGES}
    for path in STAGES:
        tagged = [i for i, c in enumerate(code_cells(path)) if "parameters" in c["metadata"].get("tags", [])]
        assert len(tagged) == 1, path.name
        after = "".join(code_cells(path)[tagged[0] + 1]["source"])
        assert "from_notebook(globals())" in after, f"{path.name}: the parameters are not checked right after their cell"


def test_modules_import_from_their_own_layer_or_lower():
    "The decade of a notebook is its layer; the base imports nothing of ours but itself."
    number = {p.stem[3:]: int(p.stem[:2]) for p in NBS if p.stem[:2].isdigit()}
    for path in (p for p in NBS if p.stem[:2].isdigit()):
        source = (ROOT/"lightweight"/f"{path.stem[3:]}.py").read_text()
        for used in set(re.findall(r"^\s*from (?:lightweight)?\.(\w+) import", source, re.M)) - BASE:
            assert number.get(used, 99)//10 <= number[path.stem[3:]]//10, f"{path.stem} imports {used}"
        assert path.stem[3:] not in BASE or set(re.findall(r"^\s*from (?:lightweight)?\.(\w+) import", source, re.M)) <= BASE


@pytest.mark.parametrize("path", STAGES, ids=lambda p: p.stem)
def test_parameters_cell_names_every_setting_at_its_default(path):
    "So papermill knows each name, and a command without options runs what the notebook runs."
    module = importlib.import_module(f"lightweight.{path.stem}")
    cls = next(v for k, v in vars(module).items() if k.endswith("Settings") and v.__module__ == module.__name__)
    cell = next(c for c in code_cells(path) if "parameters" in c["metadata"].get("tags", []))
    names = {}
    exec("".join(cell["source"]), names)
    names.pop("__builtins__")
    assert names == cls().model_dump()


@pytest.mark.parametrize("path", STAGES, ids=lambda p: p.stem)
def test_misspelt_parameter_stops_the_stage(path, tmp_path):
    done = run(BIN/"papermill", path, tmp_path/"out.ipynb", "-p", "sede", "1", "--no-progress-bar")
    assert done.returncode != 0 and "unknown parameter sede" in done.stderr, done.stderr[-2000:]
    ran = [c for c in code_cells(tmp_path/"out.ipynb") if c["outputs"]]
    assert len(ran) <= 2, "something ran before the parameters were checked"   # papermill's own note, and the error


def test_misspelt_parameter_names_the_right_one():
    done = run(BIN/"papermill", "nbs/train.ipynb", "-p", "imgsize", "156", "--no-progress-bar")
    assert done.returncode != 0 and "unknown parameter imgsize; did you mean img_size?" in done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    "A wheel, built from a copy of the committed files and installed into an empty folder."
    folder = tmp_path_factory.mktemp("installed")
    shutil.copytree(ROOT, folder/"source", symlinks=True, ignore=lambda place, names: [n for n in names if n.startswith(".")
                    or n in ("build", "__pycache__") or n.endswith(".egg-info") or (Path(place) == ROOT and n in ("data", "outputs", "results"))])
    done = run(BIN/"pip", "install", "-q", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--target", folder/"place", folder/"source")
    assert done.returncode == 0, done.stderr[-2000:]
    return folder/"place"


def run_installed(place, folder, *command):
    "Run Python code, or a command, with the installed package, from an empty folder that is no checkout."
    command = [sys.executable, *command] if command[0] == "-c" else [sys.executable, place/"bin"/command[0], *command[1:]]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(place)})


def test_installed_package_works_outside_the_repository(installed, tmp_path):
    code = ("import lightweight; from lightweight.zoo import build_network; from lightweight.score import competition_score; from lightweight.coco import read_coco;"
            "from lightweight.complexity import count_parameters, count_modules, count_macs;"
            "n = build_network('mobilenetv3', 6); print(count_parameters(n), count_modules(n), round(competition_score(0.7012, 58.1225), 4));"
            "build_network('tiny', 6); print(lightweight.__file__)")
    done = run_installed(installed, tmp_path, "-c", code)
    assert done.stdout.split()[:2] == ["4210998", "227"], done.stderr[-2000:]
    assert abs(float(done.stdout.split()[2]) - 1.1676) < 0.002
    assert Path(done.stdout.split()[3]).is_relative_to(installed), "another installation was asked"
    assert sorted(f.name for f in (installed/"lightweight/configs").iterdir()) == sorted(f.name for f in (ROOT/"configs").iterdir())
    assert not list(tmp_path.iterdir())


def test_defaults_work_outside_the_repository(installed, tmp_path):
    "In an empty folder: help, then crops and a training of the embedded sample; the class map and the network come with the package."
    done = run_installed(installed, tmp_path, "lightweight-train", "--help")
    assert done.returncode == 0 and "--network" in done.stdout, done.stderr[-2000:]
    assert not list(tmp_path.iterdir())
    for command in (["lightweight-crop"], ["lightweight-train", "--epochs", "1", "--img_size", "32"]):
        done = run_installed(installed, tmp_path, *command)
        assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path/"outputs/sample/crops/manifest.csv").is_file() and (tmp_path/"outputs/sample/train/record.json").is_file()
    assert sorted(f.name for f in tmp_path.iterdir()) == ["data", "outputs"]


# What a module may not do by itself, who may, and why. Everything else goes through `files`, `image` and `console`.
WRITES = r"""\bopen\([^)\n]*['"](?:[wax]b?\+?|r\+b?)['"]|\.write_(?:text|bytes)\(|\.to_csv\((?!\s*\)|index|lineterminator)|\.savefig\((?!buffer)|\brmtree\(|\bos\.(?:remove|unlink|rename|replace)\(|\.unlink\("""
RULES = {
    "writes or deletes files": (WRITES, {
        "files": "the one place", "sample": "removes what its own record names", "crops": "swaps finished stores", "store": "a cache of its own",
        "resume": "its own states", "formats": "parts of a file it has just written", "sweep": "logs of the runs it starts", "tune": "states of its own trials",
        "distillation": "a cache of its own, filled piece by piece", "study": "cuts a torn line off a journal",
        "coco": "photos it has just fetched", "measure": "a table of its own", "tracking": "a history that one process writes"}),
    "opens pictures": (r"\bImage\.open\(", {"image": "the one place: formats and limits", "page": "a figure it has just drawn; the example of a model card",
                                            "rivals": "crops of a store, as a plain PyTorch loop opens them"}),
    "shows progress": (r"\btqdm\b", {"console": "the one place: a bar or a line every few seconds", "predict": "lines beside its bar"}),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.replace(" ", "-"))
def test_what_only_one_module_may_do(rule):
    "Files are written whole and never somebody else's, pictures are opened with limits, and progress is shown in one way."
    pattern, allowed = RULES[rule]
    sources = {p.stem: [line.split("  # ")[0] for line in p.read_text().splitlines() if not line.lstrip().startswith("#")]
               for p in sorted((ROOT/"lightweight").glob("[!_]*.py"))}
    found = {name: lines for name, source in sources.items() if (lines := [line.strip() for line in source if re.search(pattern, line)])}
    foreign = {name: lines for name, lines in found.items() if name not in allowed}
    assert not foreign, "\n".join(f"{name}: {line}" for name, lines in foreign.items() for line in lines)
    assert not allowed.keys() - found.keys() - {"console", "files"}, "allowed, but not needed any more"


HOOK = ROOT/".githooks/pre-commit"


def test_commit_cleans_what_is_staged_and_nothing_else(tmp_path):
    "Committed notebooks have no outputs; changes that are not staged and outputs in the working tree stay."
    repo, notebook = tmp_path/"repo", tmp_path/"repo/nbs/page one.ipynb"
    git = lambda *command: subprocess.run(["git", *command], cwd=repo, capture_output=True, text=True, check=True).stdout
    def write(*sources):
        cell = dict(cell_type="code", execution_count=7, metadata=dict(tags=["parameters"], collapsed=True))
        cells = [cell | dict(id=f"c{i}", source=[s], outputs=[dict(output_type="stream", name="stdout", text=["1"])]) for i, s in enumerate(sources)]
        kernel = dict(name="python3", display_name="python3", language="python")
        notebook.write_text(json.dumps(dict(cells=cells, metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=5), indent=1) + "\n")
    notebook.parent.mkdir(parents=True)
    (repo/".venv").symlink_to(ROOT/".venv")
    shutil.copy(ROOT/"pyproject.toml", repo)
    git("init", "-q"); git("config", "core.hooksPath", str(HOOK.parent)); git("config", "user.name", "me"); git("config", "user.email", "me@example.org")
    write("a = 1")
    git("add", "nbs")
    write("a = 1", "not = staged")
    mine = notebook.read_text()
    git("commit", "-q", "-m", "one cell")
    committed = json.loads(git("show", "HEAD:nbs/page one.ipynb"))["cells"]
    assert ["".join(c["source"]) for c in committed] == ["a = 1"], "what was not staged has been committed"
    assert [(c["outputs"], c["execution_count"], c["metadata"]) for c in committed] == [([], None, dict(tags=["parameters"]))]
    assert notebook.read_text() == mine, "the working tree was changed"


def test_readme_and_pictures_are_made_from_records(tmp_path):
    "The README's tables and pictures are filled from results; a figure that no record holds has no way in."
    done = run(BIN/"lightweight-results", tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    made = {str(f.relative_to(tmp_path)): f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()}
    assert "README.md" in made
    stale = [name for name, content in made.items() if not (ROOT/name).is_file() or (ROOT/name).read_bytes() != content]
    assert not stale, f"run `make readme` and commit: {', '.join(stale)}"


def test_text_names_no_private_place():
    "Nothing committed names somebody's home folder."
    listed = run("git", "ls-files").stdout.split("\n")
    texts = [ROOT/f for f in listed if f.endswith((".ipynb", ".py", ".md", ".yaml", ".json", ".ini", ".toml", ".html"))]
    bad = [str(p.relative_to(ROOT)) for p in texts if p.exists() and re.search(r"/(home|Users|root)/\w", p.read_text())]
    assert not bad


def test_real_photos():
    "With TACO in place, its odd corners are found and nothing is lost without a reason."
    from lightweight.class_map import apply_class_map, read_class_map
    from lightweight.coco import read_coco
    from lightweight.settings import resolve_path
    annotations = resolve_path("data/taco/annotations.json", ROOT)
    if not annotations.exists(): pytest.skip("data/taco is not here; data/README.md says how to get it")
    coco, n = read_coco(annotations), len(json.loads(annotations.read_text())["annotations"])
    refused = coco.findings[(coco.findings.action == "refused") & coco.findings.annotation_id.notna()]
    assert len(coco.objects) + len(refused) == n
    assert (coco.findings.kind.str.contains("duplicate")).sum() >= 1, "two annotation ids of TACO occur twice"
    labelled = apply_class_map(coco.objects, read_class_map(ROOT/"configs/class_maps/taco6.csv"))
    assert sorted(labelled.label.unique()) == ["Metal", "Paper", "Paperpack", "Plastic", "Plasticbag", "Styrofoam"]
