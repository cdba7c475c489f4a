"""Which lines of the package do pages and tests execute? Prints those that none executes, and writes a record.

    make coverage                     # about twice as long as make test; .venv/bin/python tests/cover.py --only probe: some tests, without a record

In a copy of the repository, each exported cell of a page executes the lines of the module that it was exported to, so that they are counted. All
processes are counted but those that are killed and those of other environments."""
import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from mutate import BIN, ROOT, copy_repository

sys.path.insert(0, str(ROOT))
from lightweight.core.records import start_record, write_record  # noqa: E402
from lightweight.core.settings import Settings  # noqa: E402

RULES = """
[run]
source = {folder}/repository/lightweight
parallel = true
patch = subprocess, fork, _exit
data_file = {folder}/data
[paths]
package =
    lightweight
    */lightweight
[report]
exclude_also =
    if __name__ == .__main__.
"""
USE = """from pathlib import Path as _Path
__package__ = {package!r}
exec(compile({start}*chr(10) + chr(10).join(_Path({path!r}).read_text().splitlines()[{start}:{end}]), {path!r}, "exec"))"""
STAGES = ("test_notebooks.py", "test_stages.py")


def list_cells(module):
    "The exported cells of a module: page, id, first line and the line after the last, from 0."
    lines = module.read_text(encoding="utf-8").splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith("# %% ..")]
    for start, end in zip(starts, [*starts[1:], len(lines)]):
        _, _, page, name = lines[start].split()
        yield (module.parent/page).resolve(), name[1:], start, end


def use_modules(copy):
    "Have the exported cells of the pages execute the lines of their modules."
    pages = {path: json.loads(path.read_text(encoding="utf-8")) for path in (copy/"nbs").rglob("[!.]*.ipynb")}
    cells = {(path, cell["id"]): cell for path, book in pages.items() for cell in book["cells"]}
    for module in (copy/"lightweight").rglob("*.py"):
        package = ".".join(module.relative_to(copy).parent.parts)
        for page, name, start, end in list_cells(module): cells[page, name]["source"] = USE.format(package=package, path=str(module), start=start, end=end)
    for path, book in pages.items(): path.write_text(json.dumps(book, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def count_lines(folder, only):
    "Run the tests of a copy: coverage's report by module, and whether all passed."
    copy, rules = (folder/"repository").resolve(), folder/"rules"
    rules.write_text(RULES.format(folder=folder.resolve()))
    copy_repository(copy)
    if (ROOT.parent/"shared").exists(): (folder/"shared").symlink_to(ROOT.parent/"shared")
    env = os.environ | dict(PYTHONPATH=str(copy), COVERAGE_RCFILE=str(rules))
    coverage = lambda *words: subprocess.run([BIN/"python", "-m", "coverage", *words], cwd=copy, env=env).returncode
    tests = sorted(p for p in (copy/"tests").rglob("test_*.py") if p.name not in (*STAGES, "test_house.py"))
    failed = coverage("run", "-m", "pytest", *tests, "-k", only)
    use_modules(copy)
    failed |= coverage("run", "-m", "pytest", *(copy/"tests"/name for name in STAGES), "-k", only)
    coverage("combine", "--quiet")
    coverage("json", "--quiet", "-o", folder/"report.json")
    files = json.loads((folder/"report.json").read_text())["files"]
    return {name.partition("lightweight/")[2]: found for name, found in files.items() if found["summary"]["num_statements"]}, not failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only tests whose name holds this (pytest's -k), without a record")
    s, make_record = parser.parse_args(), start_record("coverage", Settings(), ROOT)
    with tempfile.TemporaryDirectory() as folder: files, passed = count_lines(Path(folder), s.only)
    for name, found in files.items():
        if found["missing_lines"]: print(f"{name}: {', '.join(map(str, found['missing_lines']))}")
    modules = {name: dict(lines=found["summary"]["num_statements"], missed=len(found["missing_lines"])) for name, found in files.items()}
    lines, missed = (sum(row[key] for row in modules.values()) for key in ("lines", "missed"))
    print(f"{lines - missed:,} of {lines:,} lines are executed ({1 - missed/lines:.1%})" + "; not all tests passed"*(not passed))
    if s.only or not passed: return
    record = make_record(dict(lines=lines, missed=missed, executed=1 - missed/lines, modules=modules)) | dict(command="make coverage")
    write_record(ROOT/"results/coverage.json", record)


if __name__ == "__main__": main()
