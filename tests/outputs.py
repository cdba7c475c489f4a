"""Run the pages at the top of nbs/ and store their outputs, so that they can be read without running anything: `make notebooks [PAGES="train crop"]`.

Stored are tables, printed lines and pictures; times, paths and counters that change from run to run are not. Output of a cell tagged `unstored`
(a measured time, say) is dropped. The page's metadata keep a hash of its source: the tests fail when stored outputs are older than the source."""
import base64
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tokenize
from pathlib import Path

ROOT = Path(__file__).parent.parent
ORDER = ["crop", "eda", "train", "teach", "tune", "compress", "export", "calibrate", "evaluate", "compare"]  # each uses what the ones before it made
OWN = dict(crop=["crops"], export=["train/export"], teach=["teach", "patches"])  # folders of outputs/sample; of other pages: the page's name
KINDS = ("image/png", "image/svg+xml", "text/html", "text/markdown", "text/plain")
VOLATILE = re.compile(r"0x[0-9a-f]{6,}|\d\d:\d\d:\d\d|\b\d+(\.\d+)? ?(s|ms|min|seconds|minutes)\b|it/s|/tmp/|" + re.escape(str(ROOT)))


def list_pages():
    "The pages that are stored with outputs, in the order in which they run."
    pages = sorted((ROOT/"nbs").glob("*.ipynb"))
    return sorted(pages, key=lambda p: (ORDER.index(p.stem) if p.stem in ORDER else len(ORDER), p.stem))


def hash_source(nb):
    "Hash what the outputs depend on: the source of the page's code cells."
    source = [["".join(c["source"]), c["metadata"].get("tags", [])] for c in nb["cells"] if c["cell_type"] == "code"]
    return hashlib.sha256(json.dumps(source).encode()).hexdigest()[:16]


def comment_parameters(source, cls):
    "The source of a `parameters` cell, with the description of each setting behind its line."
    comments = {t.start[0]: t.start[1] for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type == tokenize.COMMENT}
    lines = source.splitlines()
    for i, line in enumerate(lines):
        field = cls.model_fields.get(line.partition(" = ")[0])
        if field: lines[i] = f"{line[:comments.get(i + 1)].rstrip()}  # {field.description}"
    return "\n".join(lines)


def shrink_picture(data, width=900):
    "A PNG of at most this width, with 256 colours; with 64 if it shows photos."
    from PIL import Image
    picture = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
    if picture.width > width: picture = picture.resize((width, picture.height*width//picture.width), Image.Resampling.LANCZOS)
    colours = 64 if picture.getcolors(20_000) is None else 256
    out = io.BytesIO()
    picture.quantize(colours).save(out, "PNG", optimize=True)
    return base64.b64encode(out.getvalue()).decode() + "\n"


def clean_text(text):
    "Leave out lines that would differ in the next run."
    return "".join(line for line in text.splitlines(keepends=True) if not VOLATILE.search(line))


def clean_output(output):
    "An output as it is stored, or None."
    if output["output_type"] == "stream":
        text = clean_text("".join(output["text"])) if output["name"] == "stdout" else ""
        return dict(output_type="stream", name="stdout", text=text.splitlines(keepends=True)) if text.strip() else None
    data = {k: v if isinstance(v, str) else "".join(v) for k, v in output.get("data", {}).items() if k in KINDS}
    if "image/png" in data: data = {"image/png": shrink_picture(data["image/png"])}
    elif "image/svg+xml" in data: data = {"image/svg+xml": data["image/svg+xml"]}
    elif VOLATILE.search(data.get("text/html", "") + data.get("text/plain", "")): return None
    if not data: return None
    kept = {k: v if k == "image/png" else v.splitlines(keepends=True) for k, v in data.items()}
    return dict(output_type="display_data", data=kept, metadata={})


def list_pictures(nb):
    "Stored pictures of cells tagged `picture-NAME`, which the README shows as results/NAME.png."
    tagged = [(tag.removeprefix("picture-"), c) for c in nb["cells"] for tag in c["metadata"].get("tags", []) if tag.startswith("picture-")]
    return {name: base64.b64decode(o["data"]["image/png"]) for name, c in tagged for o in c["outputs"] if "image/png" in o.get("data", {})}


def store_outputs(path):
    "Run a page without the results of an earlier run of it, and write its outputs into it."
    import nbformat
    from nbclient import NotebookClient
    for name in OWN.get(path.stem, [path.stem]): shutil.rmtree(ROOT/"outputs/sample"/name, ignore_errors=True)
    nb = json.loads(path.read_text(encoding="utf-8"))
    ran = nbformat.read(path, as_version=4)
    NotebookClient(ran, timeout=1800, resources=dict(metadata=dict(path=str(path.parent))), kernel_name="python3").execute()
    for cell, done in zip(nb["cells"], ran["cells"]):
        if cell["cell_type"] != "code": continue
        shown = [] if "unstored" in cell["metadata"].get("tags", []) else map(clean_output, done["outputs"])
        cell["outputs"] = [o for o in shown if o]
    for name, picture in list_pictures(nb).items(): (ROOT/f"results/{name}.png").write_bytes(picture)
    nb["metadata"]["outputs_of"] = hash_source(nb)
    path.write_text(json.dumps(nb, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    subprocess.run([Path(sys.executable).parent/"nbdev_clean", "--fname", path], check=True)


def main(names):
    os.environ |= dict(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", PYTHONWARNINGS="ignore", MPLBACKEND="module://matplotlib_inline.backend_inline")
    pages = {path.stem: path for path in list_pages()}
    if unknown := set(names) - set(pages): sys.exit(f"no such pages: {sorted(unknown)}; there are {sorted(pages)}")
    for path in (pages[name] for name in names or pages):
        store_outputs(path)
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size//1000} kB", flush=True)


if __name__ == "__main__": main(sys.argv[1:])
