"""Build the documentation from notebooks and records, into outputs/docs/html: `make docs`.

Pages at the top of nbs/ show their stored outputs. Library pages are executed, unless the outputs of their present code with the present
package are kept from an earlier build. `python docs/build.py --stored` runs none."""
import argparse, hashlib, importlib, inspect, json, os, re, shutil, sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import nbformat
import pandas as pd
from fastcore.nbio import mk_cell, nb2str, read_nb
from nbclient import NotebookClient
from nbdev.processors import NBProcessor, add_show_docs, show_doc
from sphinx.cmd.build import main as run_sphinx

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT/"tests")]
from lightweight.core.files import claim_folder  # noqa: E402
from outputs import clean_output, hash_source  # noqa: E402

OWN_FILES = ["html/**", "work/**", "executed/*.json", "jupyter_execute/**"]
COPIED = ["CONTRIBUTING.md", "CHANGELOG.md", "data/README.md", "lightweight/bundled/README.md", "results/**/*.*", "configs/presets/*"]
TITLES = dict(benchmark="Speed of training", compare="Ablations on TACO", compress="Compression of a TACO network", evaluate="Single runs on TACO", measure="Latency",
              probe="Linear probes on TACO", race="Records of the cross-validation", sorting="Promised purity and label choice", train="Trainings on TACO",
              trashnet="TrashNet, blocks of photos", tune="Samplers and workers", web="Browser")
INTRO = "Each row is a record that a run has written; the columns are its fields. Longer tables are cut after 40 rows, and complete in the record."
UNSTORED = "```{note}\nShown without outputs: this page measures for long. What it measured is among the measured tables.\n```"
NAME = re.compile(r"(?<![\[`\w])`(\w*[A-Z_]\w*)(?:\(\))?`(?![`\]])")  # in a text, and perhaps a function's: it has a capital or an underscore
FIELD, LOST = (re.compile(text, re.M) for text in (r"^    (\w+)(?=:)[^#\n]* # (.+)$", r"^ *(?:def __init__\(self, )?(\*\*\w+|\))[^#\n]* # (.+)$"))
TUPLE = re.compile(r"^([A-Z]\w*) = namedtuple.*$", re.M)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def execute(path, cache, package, stored=False):
    "Run a page, unless its outputs are kept; the outputs of its code cells. Pages with parameters run as stages, not here; none if `stored`."
    nb, kinds = nbformat.read(path, as_version=4), [set(cell.directives) for cell in read_nb(path).cells]
    kept = cache/f"{path.stem}-{hashlib.sha256(f'{package} {hash_source(nb)}'.encode()).hexdigest()[:16]}.json"
    if stored and not kept.exists() or any("parameters" in cell.metadata.get("tags", []) for cell in nb.cells): return
    if not kept.exists():
        print(path.relative_to(ROOT), flush=True)
        for cell, kind in zip(nb.cells, kinds):
            if kind & {"slow", "eval"}: cell.metadata["tags"] = ["skip-execution"]
        NotebookClient(nb, timeout=1800, resources=dict(metadata=dict(path=str(path.parent))), kernel_name="python3").execute()
        write(kept, json.dumps([list(filter(None, map(clean_output, cell.outputs))) for cell in nb.cells if cell.cell_type == "code"]))
    return json.loads(kept.read_text())


def list_public(module):
    "The functions and classes of a module: name → object."
    found = {name: getattr(module, name) for name in module.__all__}
    return {name: thing for name, thing in found.items() if callable(thing) and getattr(thing, "__module__", "") == module.__name__}


def make_table(head, rows): return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (head, ["---"]*len(head), *rows))


def show(thing, name, level):
    "The heading of a function, its signature with the comment behind each parameter, and the first line of its docstring."
    thing = getattr(thing, "__func__", thing)
    quoted = {k: v for k, v in getattr(thing, "__annotations__", {}).items() if isinstance(v, str)}  # types of libraries that are imported inside
    if quoted: thing.__annotations__ |= {k: type(v, (), dict(__module__="builtins")) for k, v in quoted.items()}
    text = show_doc(thing, name=name, title_level=level)._repr_markdown_().removeprefix("---").lstrip()
    made = thing.__init__ if inspect.isclass(thing) else thing
    found = FIELD.findall(inspect.getsource(thing)) if made is not thing else []  # comments that nbdev leaves out: of fields, here, and of **names
    lost = [(key, comment) for key, comment in found + (LOST.findall(inspect.getsource(made)) if inspect.isfunction(made) else []) if comment not in text]
    return text + "".join(f"\n\n`{key if key != ')' else 'returns'}`: {comment}" for key, comment in lost)


def describe(name, module):
    "A function or class in Markdown, with its documented methods, and the options of a class of settings as a table."
    thing = getattr(module, name)
    options = [(f"`{option}`", f"`{field.default!r}`", field.description or "") for option, field in getattr(thing, "model_fields", {}).items()]
    methods = [m for m, f in vars(thing).items() if inspect.isroutine(f) and f.__doc__ and (m[0] != "_" or m == "__call__")
               and getattr(f, "__module__", "") == module.__name__]
    table = make_table(["option", "default", "description"], options) if options else ""
    return "\n\n".join([f"({module.__name__}.{name})=", show(thing, name, 3), table, *(show(getattr(thing, m), f"{name}.{m}".replace("__", r"\_\_"), 4) for m in methods)])


def link_names(text, names):
    "Let names of functions lead to their description; blocks of code stay as they are."
    def link(match): return f"[{match[0]}](#{names[match[1]]})" if match[1] in names else match[0]
    return "".join(part if part.startswith("```") else NAME.sub(link, part) for part in re.split(r"(```.*?```)", text, flags=re.S))


def prepare(nb, module, names):
    "A page for readers: in place of its definition a function is described, with the source folded below; hidden cells are left out."
    NBProcessor(nb=nb, procs=[add_show_docs]).process()
    cells, source = [], []
    for cell in nb.cells:
        if getattr(cell, "has_sd", False): cells.append(mk_cell(describe(cell.source[9:-1], module), "markdown", id=f"d{len(cells)}"))
        elif not {"hide", "default_exp"} & cell.directives_.keys():
            cells, source = cells + source, []
            if cell.cell_type == "markdown": cell.source = link_names(cell.source, names)
            if "echo" in cell.directives_: cell.metadata["tags"] = ["remove-input"]
            if "export" not in cell.directives_: cells.append(cell)
            else:
                cell.metadata["tags"], source = ["hide-input"], [cell]
                cells += [mk_cell(f"({module.__name__}.{m[1]})=\n### {m[1]}\n\n```python\n{m[0]}\n```", "markdown", id=f"t{m[1]}")
                          for m in TUPLE.finditer(cell.source)]
    nb.cells = cells + source
    return nb


def tabulate(rows):
    "Rows of measurements in Markdown, without what is nested deeper and without hashes; long tables are cut."
    table = pd.json_normalize(rows)
    kept = [c for c in table.columns if not re.search("checkpoint|hash", c) and not table[c].map(lambda value: isinstance(value, (list, dict))).any()]
    def show(value): return "" if value is None or value != value else f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|")
    return make_table(kept, [[show(row[c]) for c in kept] for row in table.head(40).to_dict("records")]) if kept else ""


def describe_record(path, record):
    "What was run, on which machine, and the tables of its metrics."
    source = f"{record['machine']['cpu']}, {record['started'][:10]} ([record]({path.name})):"
    parts = [f"## {path.stem}", record["metrics"].get("about", ""), source, f"```bash\n{record['command']}\n```"]
    for key, value in record["metrics"].items():
        rows = [{key: name} | row for name, row in value.items() if isinstance(row, dict)] if isinstance(value, dict) else value
        if key not in ("plan", "setup", "asked", "steps") and isinstance(rows, list) and rows and isinstance(rows[0], dict):
            parts.append(f"### {path.stem}: {key}\n\n{tabulate(rows)}")
    return "\n\n".join(parts)


def write_results(source):
    "Pages of measured tables: one for each folder of records, and one for each stage of those at the top."
    groups = {}
    for path in sorted((ROOT/"results").rglob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        name = record["stage"] if path.parent == ROOT/"results" else path.parent.name
        groups.setdefault(path.parent/f"{name}.md", []).append((path, record))
    for page, records in groups.items():
        summary = tabulate([{"record": f"[{path.stem}](#{path.stem})"} | {key: value for key, value in record["metrics"].items()
                            if isinstance(value, (int, float)) or key in ("network", "test", "valid", "f1")} for path, record in records])
        write(source/page.relative_to(ROOT), "\n\n".join([f"# {TITLES.get(page.stem, page.stem)}", INTRO, summary, *(describe_record(*pair) for pair in records)]) + "\n")


def write_pages(source, outputs):
    "Prepared pages, what they refer to, and a reference of each folder."
    pages = {path: read_nb(path) for path in sorted((ROOT/"nbs").rglob("[!.]*.ipynb"), key=lambda path: (len(path.parts), path))}
    modules = {path: importlib.import_module(f"lightweight.{cell.directives['default_exp']}")
               for path, nb in pages.items() for cell in nb.cells if "default_exp" in cell.directives}
    names = {name: f"{module.__name__}.{name}" for module in modules.values() for name in list_public(module)}
    for path, nb in pages.items():
        for cell, found in zip([c for c in nb.cells if c.cell_type == "code"], outputs.get(path) or []): cell.outputs = found
        if path.parent.name == "experiments" and not any(cell.get("outputs") for cell in nb.cells): nb.cells.insert(1, mk_cell(UNSTORED, "markdown", id="u"))
        write(source/path.relative_to(ROOT), nb2str(prepare(nb, modules.get(path), names)))
    for folder in {path.parent for path in modules} - {ROOT/"nbs"}:
        write(source/folder.relative_to(ROOT)/"index.md", f"# {folder.name.title()}\n\n```{{toctree}}\n:glob:\n:maxdepth: 1\n\n*\n```\n")
    reference = ["# Reference"]
    for path, module in modules.items():
        rows = [(f"[`{name}`](#{module.__name__}.{name})", (thing.__doc__ or "").strip().split("\n")[0]) for name, thing in list_public(module).items()]
        reference += [f"## [{module.__name__}]({path.relative_to(ROOT/'nbs')})", make_table(["name", "what it does"], rows)]
    write(source/"nbs/reference.md", "\n\n".join(reference))


def hash_package():
    "Hash what pages use of the package: its code, templates and model, and the configs, to which lightweight/configs is a link."
    files = [file for folder in ("configs", "lightweight") for file in sorted((ROOT/folder).rglob("*")) if file.is_file() and file.suffix != ".pyc"]
    lines = [f"{file.relative_to(ROOT).as_posix()} {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT/"outputs/docs", help="folder of the site (html) and of what it is made from")
    parser.add_argument("--stored", action="store_true", help="run no page: show the outputs that are kept from earlier builds")
    args = parser.parse_args()
    with ExitStack() as held:
        try: held.enter_context(claim_folder(args.out, "docs", OWN_FILES, root=ROOT, field="--out"))
        except (OSError, ValueError) as error: parser.error(str(error))
        return build(args)


def build(args):
    "Replace what an earlier build made in the claimed folder; the exit code."
    source, html = args.out/"work/source", args.out/"html"
    for folder in (html, source): shutil.rmtree(folder, ignore_errors=True)
    package = hash_package()
    library = sorted((ROOT/"nbs").glob("*/[!.]*.ipynb"))
    os.environ |= dict(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", MPLBACKEND="module://matplotlib_inline.backend_inline")  # of the kernels
    with ThreadPoolExecutor(2) as pool:
        outputs = dict(zip(library, pool.map(lambda path: execute(path, args.out/"executed", package, args.stored), library)))
    for path in [path for pattern in COPIED for path in ROOT.glob(pattern) if path.is_file()]: write(source/path.relative_to(ROOT), path.read_bytes())
    write(source/"index.md", (ROOT/"docs/index.md").read_bytes())
    write_pages(source, outputs)
    write_results(source)
    if run_sphinx(["-WEq", "--keep-going", "-j", "auto", "-c", str(ROOT/"docs"), "-d", str(args.out/"work/doctrees"), str(source), str(html)]): return 1
    sizes = {path: path.stat().st_size/1e6 for path in html.rglob("*") if path.is_file()}
    print(f"{html/'index.html'}: {sum(path.suffix == '.html' for path in sizes)} pages, {sum(sizes.values()):.1f} MB")


if __name__ == "__main__": sys.exit(main())
