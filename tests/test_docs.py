"The documentation builds without a warning, explains every parameter, is found by search, and needs no network."
import ast
import html
import importlib
import json
import re
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec

import pytest
from conftest import PATIENCE_MS
from test_house import NBS, ROOT, code_cells

WORDS = {"hyperparameter": "nbs/tune", "ablation": "nbs/compare", "overfitting": "nbs/train", "learning rate": "nbs/train",
         "purity": "nbs/metrics/02_purity", "browser": "nbs/deploy/08_web"}
MISSING = [name for name in ("sphinx", "myst_nb", "furo") if not find_spec(name)]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}; pip install '.[docs]'")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "All pages; those of the library without outputs, because no page is run."
    out = tmp_path_factory.mktemp("docs")
    done = subprocess.run([sys.executable, ROOT/"docs/build.py", "--stored", "--out", out], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return out/"html"


@pytest.fixture(scope="module")
def pages(site):
    return {str(path.relative_to(site)): path.read_text(encoding="utf-8") for path in site.rglob("*.html")}


def clean(text): return " ".join(re.sub("[`'‘’]", "", text).split())


def read_text(page):
    "What a page shows at first: without tags, and without folded source."
    return clean(html.unescape(re.sub(r"<[^>]+>", "", re.sub(r"<details.*?</details>", "", page, flags=re.S))))


def list_comments(source):
    "The comments behind the parameters of a module's public functions and documented methods: [(function, comment)]."
    lines, found = source.splitlines(), []
    for node in ast.parse(source).body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("_"): continue
        methods = [n for n in getattr(node, "body", []) if isinstance(n, ast.FunctionDef)
                   and (n.name[0] != "_" or n.name in ("__init__", "__call__")) and "property" not in [getattr(d, "id", "") for d in n.decorator_list]]
        found += [(node.name, lines[n.lineno - 1].split(" # ", 1)[1]) for n in node.body if isinstance(n, ast.AnnAssign) and " # " in lines[n.lineno - 1]]
        for made in [node] if isinstance(node, ast.FunctionDef) else [n for n in methods if n.name == "__init__" or ast.get_docstring(n)]:
            head = lines[made.lineno - 1:made.body[0].lineno - 1]
            found += [(node.name, line.split(" # ", 1)[1].strip()) for line in head if " # " in line]
    return found


def test_every_parameter_of_every_public_function_is_explained(pages):
    n, missing = 0, []
    for path in NBS:
        module = next((m[1] for c in code_cells(path) if (m := re.match(r"#\| default_exp (\S+)", "".join(c["source"])))), None)
        if not module: continue
        text = read_text(pages[str(path.relative_to(ROOT).with_suffix(".html"))])
        comments = list_comments((ROOT/f"lightweight/{module.replace('.', '/')}.py").read_text())
        n += len(comments)
        missing += [(module, name, comment) for name, comment in comments if clean(comment) not in text]
    assert n > 500 and not missing, missing[:10]


def test_every_setting_is_explained(pages):
    from lightweight.stages.train import TrainSettings
    text = read_text(pages["nbs/train.html"])
    assert not [name for name, field in TrainSettings.model_fields.items() if clean(f"{name} {field.default!r} {field.description}") not in text]


def test_first_page_has_three_doors(pages):
    for door in ("I have photos", "I have a belt", "I want to change something"): assert door in read_text(pages["index.html"])


def test_measured_tables_are_those_of_the_records(pages):
    "One page per group of records; each page has the figures of its records."
    record = json.loads((ROOT/"results/trashnet/lite0.json").read_text())["metrics"]
    assert f"{record['f1']['eager']['mean']:.4g}" in read_text(pages["results/trashnet/trashnet.html"])
    assert "compressed" in read_text(pages["results/race/README.html"])
    assert all(path.stem in "".join(p for name, p in pages.items() if name.startswith("results/")) for path in (ROOT/"results").rglob("*.json"))


def test_links_lead_somewhere(site, pages):
    "Every local link, to its page and its heading."
    ids = {name: set(re.findall(r'\bid="([^"]+)"', page)) for name, page in pages.items()}
    bad = []
    for name, page in pages.items():
        for link in set(re.findall(r'(?:href|src)="([^"]+)"', re.sub(r"<pre>.*?</pre>", "", page, flags=re.S))):
            if re.match(r"https?:|mailto:|data:", link): continue
            file, _, anchor = html.unescape(link).partition("#")
            target = ((site/name).parent/file.split("?")[0]).resolve() if file else site/name
            own = ids.get(str(target.relative_to(site.resolve()))) if target.is_file() and target.suffix == ".html" else {anchor}
            if not target.exists() or own is None or (anchor and anchor not in own): bad.append((name, link))
    assert len(pages) > 80 and not bad, bad[:10]


def test_site_needs_no_network_and_is_small(site, pages):
    outside = Counter(link for page in pages.values() for link in re.findall(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="(https?://[^"]+)"', page))
    assert not outside
    sizes = {path: path.stat().st_size for path in site.rglob("*") if path.is_file()}
    assert sum(sizes.values()) < 25e6 and max(size for path, size in sizes.items() if path.suffix == ".html") < 1.5e6


@pytest.mark.parametrize("word", WORDS)
def test_search_finds_the_page_that_explains(word, site, browser):
    "From a folder, without a server."
    page, asked = browser.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"file://{site}/search.html?q={word.replace(' ', '+')}")
    page.wait_for_selector("#search-results li a", timeout=PATIENCE_MS)
    page.wait_for_function("document.querySelector('#search-results p').textContent.includes('finished')", timeout=PATIENCE_MS)
    found = page.eval_on_selector_all("#search-results li > a", "links => links.map(a => a.getAttribute('href').split(/[?#]/)[0])")
    assert f"{WORDS[word]}.html" in found[:8], found
    assert not [url for url in asked if not url.startswith(("file:", "data:"))]


@pytest.fixture(scope="module")
def build():
    sys.path.insert(0, str(ROOT/"docs"))
    return importlib.import_module("build")


def write_page(path, *sources):
    kernel = dict(name="python3", display_name="python3", language="python")
    cells = [dict(cell_type="code", execution_count=None, id=f"c{i}", metadata={}, outputs=[], source=[s]) for i, s in enumerate(sources)]
    path.write_text(json.dumps(dict(cells=cells, metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=5)))
    return path


def test_page_runs_once_while_neither_it_nor_the_package_changes(build, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "ROOT", tmp_path)
    log = tmp_path/"log"
    page = write_page(tmp_path/"page.ipynb", f"print(1, file=open({str(log)!r}, 'a'))\n6*7", "#| slow\n1/0")
    for package, times in (("a", 1), ("a", 1), ("b", 2)):
        outputs = build.execute(page, tmp_path/"cache", package)
        assert outputs[0][0]["data"]["text/plain"] == ["42"] and outputs[1] == [] and log.read_text() == "1\n"*times
    with pytest.raises(Exception, match="ZeroDivisionError"): build.execute(write_page(page, "1/0"), tmp_path/"cache", "b")


def test_package_is_its_code_configs_templates_and_model(build, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "ROOT", tmp_path)
    seen = [build.hash_package()]
    for name in ("lightweight/a.py", "lightweight/templates/a.css", "lightweight/bundled/a.onnx", "configs/train/a.yaml"):
        for content in ("old", "new"):
            build.write(tmp_path/name, content)
            seen.append(build.hash_package())
    build.write(tmp_path/"lightweight/__pycache__/a.pyc", "compiled")
    assert len(set(seen)) == len(seen) and build.hash_package() == seen[-1]


@pytest.mark.parametrize("names", [["html/mine.txt"], ["html/mine.txt", "work/mine.txt"], ["work/source/mine.txt"], ["executed/mine.json"], ["mine.txt"]])
def test_foreign_folder_is_not_replaced(names, build, tmp_path, monkeypatch, capsys):
    for name in names:
        (tmp_path/name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/name).write_text("mine")
    monkeypatch.setattr(sys, "argv", ["build.py", "--stored", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"): build.main()
    assert f"--out = {tmp_path}: {names[0]} is there" in capsys.readouterr().err
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == names
    assert all((tmp_path/name).read_text() == "mine" for name in names)


def test_earlier_build_is_replaced(build, site, monkeypatch):
    "A build leaves no file that the next one would refuse."
    asked = []
    monkeypatch.setattr(build, "build", lambda args: asked.append(args.out) or 0)
    monkeypatch.setattr(sys, "argv", ["build.py", "--stored", "--out", str(site.parent)])
    assert build.main() == 0 and asked == [site.parent]
