"""Does a test notice when the code is wrong? Draws small faults in the exported code, makes each in a copy of the repository
(in the notebook and in the module), and runs the notebook that explains the code and the tests that have its name.

    make mutants N=60 SEED=1          # or: .venv/bin/python tests/mutate.py -n 60 --seed 1 -j 2 --out outputs/mutants.jsonl [--only train,data/05_coco]

Each mutation is a line of JSON in the file: notebook, cell, line of the cell, kind, before, after, and the result: killed, survived, or
timeout (longer than FACTOR times the page unmutated, which counts as killed). Stopped and started again, it goes on with what is missing.
`make test` does not run it (a mutation costs as long as its page), but must have been run: stages need the sample's crops and runs."""
import argparse
import ast
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT, BIN, FACTOR = Path(__file__).parent.parent, Path(sys.executable).parent, 3
FLIPS = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==", ast.In: "not in", ast.NotIn: "in", ast.Is: "is not", ast.IsNot: "is"}
SWAPS = {ast.Add: (ast.Sub, "+ becomes -"), ast.Sub: (ast.Add, "- becomes +"), ast.Mult: (ast.Div, "* becomes /"), ast.Div: (ast.Mult, "/ becomes *")}
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "argmin": "argmax", "argmax": "argmin"}


def change(node, source):
    "What may be put in the place of a node: pairs of kind and text."
    text = lambda n: f"({ast.get_source_segment(source, n)})"
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        yield "comparison", f"{text(node.left)} {FLIPS[type(node.ops[0])]} {text(node.comparators[0])}"
    if isinstance(node, ast.BinOp) and type(node.op) in SWAPS and not any(isinstance(n, (ast.JoinedStr, ast.Dict, ast.List)) or
            (isinstance(n, ast.Constant) and isinstance(n.value, str)) for n in (node.left, node.right)):
        sign = {ast.Sub: "-", ast.Add: "+", ast.Div: "/", ast.Mult: "*"}[SWAPS[type(node.op)][0]]
        yield SWAPS[type(node.op)][1], f"{text(node.left)} {sign} {text(node.right)}"
    if isinstance(node, ast.Constant) and type(node.value) in (int, float): yield "constant", f"{node.value!r} + 1"
    if isinstance(node, ast.Constant) and isinstance(node.value, bool): yield "constant", repr(not node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not): yield "not dropped", text(node.operand)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.func.id == "abs": yield "abs dropped", text(node.args[0])
        if node.func.id in NAMES: yield "swapped", NAMES[node.func.id] + ast.get_source_segment(source, node)[len(node.func.id):]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in NAMES:
        yield "swapped", f"{text(node.func.value)}.{NAMES[node.func.attr]}({', '.join(ast.get_source_segment(source, a) for a in [*node.args, *node.keywords])})"
    if isinstance(node, ast.BoolOp):
        yield "and/or", (" or " if isinstance(node.op, ast.And) else " and ").join(text(v) for v in node.values)
    if isinstance(node, ast.Raise): yield "raise removed", "pass"
    if isinstance(node, ast.Return) and node.value is not None: yield "early return", "return None"


def mutate_cell(source):
    "All mutations of an exported cell: line, kind, what stood there, and the cell with the fault."
    tree = ast.parse(source)
    hidden = {id(n) for parent in ast.walk(tree) if isinstance(parent, (ast.JoinedStr, ast.Assert, ast.AnnAssign)) for n in ast.walk(parent)}
    hidden |= {id(n) for parent in ast.walk(tree) for note in (getattr(parent, "annotation", None), getattr(parent, "returns", None)) if note for n in ast.walk(note)}
    data = source.encode()
    starts = [0] + [i + 1 for i, byte in enumerate(data) if byte == 10]
    for node in ast.walk(tree):
        if id(node) in hidden or not hasattr(node, "lineno"): continue
        a, b = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
        for kind, text in change(node, source):
            before = data[a:b].decode()
            if before == text: continue
            if not isinstance(node, ast.stmt): text = f"({text})"
            mutated = (data[:a] + text.encode() + data[b:]).decode()
            try: ast.parse(mutated)
            except SyntaxError: continue
            yield dict(line=node.lineno, kind=kind, before=before, after=text), mutated


def list_mutations(only):
    for path in sorted((ROOT/"nbs").rglob("[!.]*.ipynb")):
        page = str(path.relative_to(ROOT/"nbs").with_suffix(""))
        if only and page not in only: continue
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "code" and source.startswith("#| export"):
                yield from (dict(notebook=page, cell=cell["id"], **about, source=mutated) for about, mutated in mutate_cell(source))


def copy_repository(copy):
    "Copy what is committed and the sample's photos, crops and runs."
    def skip(place, names):
        kept = {ROOT/"data": ("splits", "README.md", "sample"), ROOT/"outputs": ("sample", "README.md")}.get(Path(place), names)
        return [n for n in names if n in (".git", ".venv", "build", "__pycache__", "shared") or n not in kept]
    shutil.copytree(ROOT, copy, symlinks=True, ignore=skip)
    (copy/".venv").symlink_to(BIN.parent)


def run_page(notebook, cell="", source=""):
    "Run a page and the tests of its name, with a cell replaced: exit code, output, seconds."
    with tempfile.TemporaryDirectory() as folder:
        copy_repository(copy := Path(folder)/"repository")
        path, tests = copy/f"nbs/{notebook}.ipynb", copy/f"tests/test_{Path(notebook).name.lstrip('0123456789_')}.py"
        env = os.environ | dict(PYTHONPATH=str(copy), OMP_NUM_THREADS="1", MPLBACKEND="agg", HF_HUB_OFFLINE="1", PYTHONDONTWRITEBYTECODE="1")
        if cell:
            book = json.loads(path.read_text(encoding="utf-8"))
            next(c for c in book["cells"] if c["id"] == cell)["source"] = source.splitlines(keepends=True)
            path.write_text(json.dumps(book, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            subprocess.run([BIN/"nbdev_export"], cwd=copy, env=env, capture_output=True, check=True)
        began, limit = time.monotonic(), FACTOR*TIMES[notebook] + 20 if cell else None
        command = f"'{BIN}/nbdev_test' {path} --n-workers 0" + (f" && '{BIN}/pytest' -n0 -x {tests}" if tests.exists() else "")
        process = subprocess.Popen(command, shell=True, cwd=copy, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
        try: output, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL); process.communicate()
            return "timeout", "", time.monotonic() - began
        return process.returncode, output, time.monotonic() - began


def judge(mutation):
    code, output, seconds = run_page(mutation["notebook"], mutation["cell"], mutation["source"])
    result = "timeout" if code == "timeout" else "killed" if code else "survived"
    reason = next((line for line in reversed(output.splitlines()) if "Error" in line or "Exception" in line), "") if code else ""
    return {k: v for k, v in mutation.items() if k != "source"} | dict(result=result, reason=reason[:160], seconds=round(seconds, 1))


TIMES = {}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=60, help="mutations drawn")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-j", type=int, default=1, help="how many at once")
    parser.add_argument("--only", default="", help="notebooks, separated by commas; default: all")
    parser.add_argument("--out", type=Path, default=ROOT/"outputs/mutants.jsonl")
    s = parser.parse_args()
    every = list(list_mutations(set(filter(None, s.only.split(",")))))
    drawn = random.Random(s.seed).sample(every, min(s.n, len(every)))
    key = lambda m: json.dumps([m[k] for k in ("notebook", "cell", "line", "kind", "before", "after")])
    s.out.parent.mkdir(parents=True, exist_ok=True)
    done = {key(m): m for m in map(json.loads, s.out.read_text().splitlines())} if s.out.exists() else {}
    todo = [m for m in drawn if key(m) not in done]
    print(f"{len(every)} mutations are possible, {len(drawn)} drawn, {len(todo)} to do")
    with ThreadPoolExecutor(s.j) as pool, open(s.out, "a") as out:
        for page, (code, output, seconds) in zip(pages := sorted({m["notebook"] for m in todo}), pool.map(run_page, pages)):
            if code: sys.exit(f"{page} fails without any mutation:\n{output[-2000:]}")
            TIMES[page] = seconds
        for result in pool.map(judge, todo):
            out.write(json.dumps(result) + "\n"); out.flush()
            print(json.dumps(result))
            done[key(result)] = result
    survived = [m for m in map(done.get, map(key, drawn)) if m["result"] == "survived"]
    print(f"{len(drawn)} drawn, {len(drawn) - len(survived)} killed, {len(survived)} survived")


if __name__ == "__main__": main()
