"The rules of the house: what is generated is fresh, what is committed is clean, what is misspelt stops."
import ast
import configparser
import contextlib
import importlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import outputs
import pytest

from lightweight.core.settings import SettingsError

ROOT = Path(__file__).parent.parent
NBS = sorted((ROOT/"nbs").rglob("[!.]*.ipynb"))
BIN = Path(sys.executable).parent


def run(*command, **kwargs):
    return subprocess.run([str(c) for c in command], cwd=ROOT, capture_output=True, text=True, **kwargs)


def code_cells(path):
    return [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]


def is_stage(path):
    return any("parameters" in c["metadata"].get("tags", []) for c in code_cells(path))


def name_page(path):
    "A page's name in the list of tests: its place in nbs/."
    return str(path.relative_to(ROOT/"nbs").with_suffix(""))


def name_module(path):
    "The module that a stage notebook exports, such as stages.train."
    return path.parent.name + "." + path.stem if path.parent.name != "nbs" else f"stages.{path.stem}"


def run_opening(path):
    "The names that the cells before the parameters define."
    names = {"__name__": path.stem}
    for cell in code_cells(path):
        if "parameters" in cell["metadata"].get("tags", []): return names
        exec("".join(cell["source"]), names)


def find_settings(path):
    "The settings class of a stage notebook: the last one that it, or the module that it exports, defines."
    exports = any("default_exp" in "".join(c["source"]) for c in code_cells(path))
    module = f"lightweight.{name_module(path)}" if exports else path.stem
    names = vars(importlib.import_module(module)) if exports else run_opening(path)
    return [v for k, v in names.items() if k.endswith("Settings") and v.__module__ == module][-1]


STAGES = [p for p in NBS if is_stage(p)]
PAGES = {"index", "tutorial_folders", "tutorial_own_data"}  # neither library nor stage: read from top to bottom
# A module imports from the floors below its own, and on its own floor only from its own folder.
FLOORS = [{"core"}, {"data", "models", "metrics"}, {"training"}, {"evaluation"}, {"deploy"}, {"compression", "search"}, {"stages"}, {"experiments"}]


def list_modules(root):
    return {str(p.relative_to(root/"lightweight")): p.read_text() for p in sorted((root/"lightweight").rglob("*.py"))}


def test_exported_modules_are_fresh(tmp_path):
    "Exporting into an empty folder gives exactly the committed modules: none stale, none left over."
    shutil.copytree(ROOT/"nbs", tmp_path/"nbs", ignore=shutil.ignore_patterns(".*"))
    config = (ROOT/"pyproject.toml").read_text()
    (tmp_path/"pyproject.toml").write_text(config)
    (tmp_path/"lightweight").mkdir()
    (tmp_path/"lightweight/__init__.py").write_text((ROOT/"lightweight/__init__.py").read_text())
    done = subprocess.run([BIN/"nbdev_export"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    fresh, committed = list_modules(tmp_path), list_modules(ROOT)
    stale = sorted(n for n in committed.keys() | fresh.keys() if committed.get(n) != fresh.get(n))
    assert not stale, f"run `make readme` and commit: {', '.join(stale)} is not what the notebooks export"


@pytest.mark.parametrize("path", NBS, ids=name_page)
def test_notebook_is_clean(path, tmp_path):
    "Notebooks are committed just as nbdev_clean leaves them; outputs are stored in the pages at the top of nbs/ only."
    copy = tmp_path/path.name
    copy.write_text(path.read_text())
    assert run(BIN/"nbdev_clean", "--fname", copy).returncode == 0
    assert copy.read_text() == path.read_text(), "run nbdev_clean"
    assert path.parent.name == "nbs" or not any(c["outputs"] for c in code_cells(path)), "stored outputs"


@pytest.mark.parametrize("path", outputs.list_pages(), ids=name_page)
def test_stored_outputs_belong_to_the_source(path):
    "Pages at the top are read without running: their outputs are there, of this very source, small, and without anything that changes from run to run."
    nb = json.loads(path.read_text())
    assert nb["metadata"].get("outputs_of") == outputs.hash_source(nb), f"make notebooks PAGES={path.stem}"
    stored = json.dumps([c["outputs"] for c in code_cells(path)])
    for name, picture in outputs.list_pictures(nb).items(): assert (ROOT/f"results/{name}.png").read_bytes() == picture, name
    assert stored.count("output_type") > 0 and path.stat().st_size < 600_000 and not re.search(r"/tmp/|/home/|0x[0-9a-f]{9}|Traceback", stored)


def test_stored_outputs_leave_out_what_changes():
    stream = dict(output_type="stream", name="stdout", text=["macro-F1 0.5\n", "done in 3.2 s\n", f"{ROOT}/x\n"])
    assert outputs.clean_output(stream)["text"] == ["macro-F1 0.5\n"]
    assert outputs.clean_output(stream | dict(name="stderr")) is None
    assert outputs.clean_output(dict(output_type="execute_result", data={"text/plain": "<A at 0x7f00112233aa>"})) is None


def test_settings_leave_the_committed_records_alone():
    "Who runs a line of the README must not find the project's records rewritten; `--record results/NAME.json` asks for that."
    files = list((ROOT/"configs").rglob("*.yaml"))
    assert files and not [p.name for p in files if re.search(r"^\s*\w+:\s*['\"]?results/", p.read_text(), re.M)]


def test_every_stage_has_one_parameters_cell():
    "A lost tag would let papermill run the defaults in silence."
    verbs = {p.stem for p in NBS if not p.stem[:2].isdigit()} - PAGES - {"protocol"}
    assert verbs == {p.stem for p in STAGES}
    for path in STAGES:
        tagged = [i for i, c in enumerate(code_cells(path)) if "parameters" in c["metadata"].get("tags", [])]
        assert len(tagged) == 1, path.name
        after = "".join(code_cells(path)[tagged[0] + 1]["source"])
        assert "from_notebook(globals())" in after, f"{path.name}: the parameters are not checked right after their cell"


def walk_module(node):
    "All nodes below one, without those inside functions, classes and comprehensions, whose names are their own."
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)): continue
        yield child
        yield from walk_module(child)


@pytest.mark.parametrize("path", STAGES, ids=name_page)
def test_no_cell_reuses_the_name_of_a_parameter(path):
    "The settings cell may be run again after any other cell, and reads the same parameters."
    given = find_settings(path).model_fields
    for cell in code_cells(path):
        source = "".join(cell["source"])
        if "parameters" in cell["metadata"].get("tags", []) or source.startswith("#| export"): continue
        names = {n.id for n in walk_module(ast.parse(source)) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        assert not names & given.keys(), f"{path.name}: {names & given.keys()} in: {source}"


def find_imports(source, folder):
    "The package's modules that a module imports, as folder.name."
    found = re.findall(r"^\s*(?:from|import) (?:lightweight\.(\w+\.\w+)|\.\.(\w+\.\w+)|\.(\w+) import)", source, re.M)
    return {outside or sibling or f"{folder}.{own}" for outside, sibling, own in found}


def find_upward_imports(modules):
    "Imports from a higher floor or from another folder of the same floor: {path: source} -> [(path, imported module)]."
    floor = {folder: i for i, floor in enumerate(FLOORS) for folder in floor}
    pairs = [(path, used) for path, source in modules.items() if "/" in path for used in find_imports(source, path.split("/")[0])]
    return [(path, used) for path, used in pairs
            if used.split(".")[0] != path.split("/")[0] and floor[used.split(".")[0]] >= floor[path.split("/")[0]]]


def test_imports_go_downwards():
    "A lower floor never imports from a higher one; the same for each single upward import that is put in."
    modules = list_modules(ROOT)
    assert find_upward_imports(modules) == []
    for line in ("from ..training.losses import make_loss", "    from lightweight.stages.train import train", "import lightweight.models.build as build"):
        assert len(find_upward_imports(modules | {"data/coco.py": line})) == 1, line


def test_pages_are_numbered_in_reading_order():
    "Within a folder a page imports only from pages with a smaller number."
    number = {f"{p.parent.name}.{p.stem[3:]}": int(p.stem[:2]) for p in NBS if p.stem[:2].isdigit()}
    for module in number:
        folder, name = module.split(".")
        for used in find_imports((ROOT/f"lightweight/{folder}/{name}.py").read_text(), folder):
            assert used.split(".")[0] != folder or number[used] < number[module], f"{module} imports {used}"


def test_top_of_nbs_holds_only_stages_and_tutorials():
    assert len(list((ROOT/"nbs").glob("*.ipynb"))) <= 14
    assert {p.name for p in (ROOT/"nbs").iterdir() if p.is_dir() and not p.name.startswith(".")} == set.union(*FLOORS) - {"stages"}


@pytest.mark.parametrize("path", STAGES, ids=name_page)
def test_parameters_cell_names_every_setting_at_its_default(path):
    "So papermill knows each name, and a command without options runs what the notebook runs."
    cls = find_settings(path)
    cell = next(c for c in code_cells(path) if "parameters" in c["metadata"].get("tags", []))
    names = {}
    exec("".join(cell["source"]), names)
    names.pop("__builtins__")
    assert names == cls().model_dump()
    assert outputs.comment_parameters("".join(cell["source"]), cls) == "".join(cell["source"]), "each line has its field's description behind it"


@pytest.mark.parametrize("path", STAGES, ids=name_page)
def test_misspelt_parameter_stops_the_stage(path):
    "As papermill does it, cell by cell: the first cell after the parameters refuses a name that it does not know."
    cells = code_cells(path)
    first = next(i for i, cell in enumerate(cells) if "parameters" in cell["metadata"].get("tags", []))
    with contextlib.redirect_stdout(io.StringIO()) as said:
        names = run_opening(path)
        exec("".join(cells[first]["source"]), names)
        with pytest.raises(SettingsError, match="unknown parameter sede"): exec("".join(cells[first + 1]["source"]), names | dict(sede=1))
    assert not said.getvalue(), "something ran before the parameters were checked"


def test_misspelt_parameter_names_the_right_one():
    done = run(BIN/"papermill", "nbs/train.ipynb", "-p", "imgsize", "156", "--no-progress-bar")
    assert done.returncode != 0 and "unknown parameter imgsize; did you mean img_size?" in done.stderr


def test_package_names_load_on_first_use():
    "`import lightweight` is light, and each name that it offers is there."
    code = "import sys, lightweight; assert not {'torch', 'pandas', 'numpy'} & set(sys.modules); assert all(getattr(lightweight, n) for n in lightweight.__all__)"
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr[-2000:]


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
    code = ("import lightweight; from lightweight.models.build import build_network; from lightweight.metrics.metrics import competition_score; from lightweight.data.coco import read_coco;"
            "from lightweight.models.complexity import count_parameters, count_modules, count_macs;"
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
    done = run_installed(installed, tmp_path, "lightweight", "train", "--help")
    assert done.returncode == 0 and "--network" in done.stdout, done.stderr[-2000:]
    assert not list(tmp_path.iterdir())
    for command in (["lightweight", "crop"], ["lightweight", "train", "--epochs", "1", "--img_size", "32"]):
        done = run_installed(installed, tmp_path, *command)
        assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path/"outputs/sample/crops/manifest.csv").is_file() and (tmp_path/"outputs/sample/train/record.json").is_file()
    assert sorted(f.name for f in tmp_path.iterdir()) == ["data", "outputs"]


# What a module may not do by itself, who may, and why. Everything else goes through `files`, `image` and `console`.
WRITES = r"""\bopen\([^)\n]*['"](?:[wax]b?\+?|r\+b?)['"]|\.write_(?:text|bytes)\(|\.to_csv\((?!\s*\)|index|lineterminator)|\.savefig\((?!buffer)|\brmtree\(|\bos\.(?:remove|unlink|rename|replace)\(|\.unlink\("""
RULES = {
    "writes or deletes files": (WRITES, {
        "files": "the one place", "sample": "removes what its own record names", "crops": "swaps finished stores", "cache": "a cache of its own",
        "checkpoint": "states of a training", "formats": "parts of a file it has just written", "sweep": "logs of the runs it starts", "tune": "states of its own trials",
        "distillation": "a cache of its own, filled piece by piece", "storage": "cuts a torn line off a journal",
        "download": "photos it has just fetched", "web": "files of an earlier page in its own folder"}),
    "opens pictures": (r"\bImage\.open\(", {"image": "the one place: formats and limits"}),
    "shows progress": (r"\btqdm\b", {"console": "the one place: a bar or a line every few seconds", "predict": "lines beside its bar"}),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.replace(" ", "-"))
def test_what_only_one_module_may_do(rule):
    "Files are written whole and never somebody else's, pictures are opened with limits, and progress is shown in one way."
    pattern, allowed = RULES[rule]
    sources = {Path(name).stem: [line.split("  # ")[0] for line in source.splitlines() if not line.lstrip().startswith("#")]
               for name, source in list_modules(ROOT).items() if not Path(name).stem.startswith("_")}
    found = {name: lines for name, source in sources.items() if (lines := [line.strip() for line in source if re.search(pattern, line)])}
    foreign = {name: lines for name, lines in found.items() if name not in allowed}
    assert not foreign, "\n".join(f"{name}: {line}" for name, lines in foreign.items() for line in lines)
    assert not allowed.keys() - found.keys() - {"console", "files"}, "allowed, but not needed any more"


HOOK = ROOT/".githooks/pre-commit"


def test_commit_cleans_what_is_staged_and_nothing_else(tmp_path):
    "Committed notebooks have no outputs; changes that are not staged and outputs in the working tree stay."
    repo, notebook = tmp_path/"repo", tmp_path/"repo/nbs/data/page one.ipynb"
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
    committed = json.loads(git("show", "HEAD:nbs/data/page one.ipynb"))["cells"]
    assert ["".join(c["source"]) for c in committed] == ["a = 1"], "what was not staged has been committed"
    assert [(c["outputs"], c["execution_count"], c["metadata"]) for c in committed] == [([], None, dict(tags=["parameters"]))]
    assert notebook.read_text() == mine, "the working tree was changed"


def test_readme_and_pictures_are_made_from_records(tmp_path):
    "The README's tables and pictures are filled from results; a figure that no record holds has no way in."
    out = tmp_path/"made"
    done = run(BIN/"papermill", "nbs/experiments/results.ipynb", tmp_path/"results.ipynb", "-p", "out", out, "--no-progress-bar")
    assert done.returncode == 0, done.stderr[-2000:]
    made = {str(f.relative_to(out)): f.read_bytes() for f in out.rglob("*") if f.is_file()}
    assert "README.md" in made
    stale = [name for name, content in made.items() if not (ROOT/name).is_file() or (ROOT/name).read_bytes() != content]
    assert not stale, f"run `make readme` and commit: {', '.join(stale)}"


def test_lock_holds_what_is_asked_for():
    "Every requirement of settings.ini has a version in requirements.lock that it allows, and nothing but names, versions and markers stands there."
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name
    locked = [Requirement(line) for line in (ROOT/"requirements.lock").read_text().splitlines()]
    versions = {canonicalize_name(r.name): str(r.specifier).removeprefix("==") for r in locked if r.marker is None or r.marker.evaluate()}
    assert all(r.url is None and re.fullmatch(r"==[^,]+", str(r.specifier)) for r in locked)
    settings = configparser.ConfigParser(delimiters=("=",), comment_prefixes=("#",))
    settings.read(ROOT/"settings.ini")
    asked = [Requirement(line) for key, lines in settings["DEFAULT"].items() if key.endswith("requirements") for line in lines.split("\n") if line.strip()]
    asked = [r for r in asked if r.name != "lightweight"]
    assert len(asked) > 50 and not [str(r) for r in asked if not r.specifier.contains(versions.get(canonicalize_name(r.name), "0.0.0"))]


def test_text_names_no_private_place():
    "Nothing committed names somebody's home folder."
    listed = run("git", "ls-files").stdout.split("\n")
    texts = [ROOT/f for f in listed if f.endswith((".ipynb", ".py", ".md", ".yaml", ".json", ".ini", ".toml", ".html"))]
    bad = [str(p.relative_to(ROOT)) for p in texts if p.exists() and re.search(r"/(home|Users|root)/\w", p.read_text())]
    assert not bad


def test_real_photos():
    "With TACO in place, its odd corners are found and nothing is lost without a reason."
    from lightweight.data.class_map import apply_class_map, read_class_map
    from lightweight.data.coco import read_coco
    from lightweight.core.settings import resolve_path
    annotations = resolve_path("data/taco/annotations.json", ROOT)
    if not annotations.exists(): pytest.skip("data/taco is not here; data/README.md says how to get it")
    coco, n = read_coco(annotations), len(json.loads(annotations.read_text())["annotations"])
    refused = coco.findings[(coco.findings.action == "refused") & coco.findings.annotation_id.notna()]
    assert len(coco.objects) + len(refused) == n
    assert (coco.findings.kind.str.contains("duplicate")).sum() >= 1, "two annotation ids of TACO occur twice"
    labelled = apply_class_map(coco.objects, read_class_map(ROOT/"configs/class_maps/taco6.csv"))
    assert sorted(labelled.label.unique()) == ["Metal", "Paper", "Paperpack", "Plastic", "Plasticbag", "Styrofoam"]
