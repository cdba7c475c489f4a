"Random damage to annotations, settings and photos: a command ends with a result or a sentence, soon, in little memory, and touches nothing. `make fuzz` looks longer."
import argparse
import copy
import io
import json
import resource
import struct
import sys
import tempfile
import time
import traceback
import zlib
from pathlib import Path

import hypothesis
import pytest
from cases import draw as draw_photo, make_coco, make_folders, make_voc, make_yolo, read_tree, run, write
from hypothesis import HealthCheck, given, settings, strategies as st
from test_exports import make_onnx

GIB = 2**20           # in KiB, the unit of `ru_maxrss`
COUNTS = dict(examples=0, codes={})

# -- damage -------------------------------------------------------------------------------------------------------------

ODD = [None, True, False, "", " ", "0", " 1 ", "1.0", "1e999", "nan", "none", -1, 0, 1, 2**31, 2**63, -2**63, 10**400, .5, 1e308, -1e308, 5e-324, float("nan"), float("inf"),
       "\ud800", "\0", "../x.jpg", "/etc/passwd", "C:\\x.jpg", "photos", "photos/000.jpg\0", "x"*5000, "a\nb", "\u202e", [], {}, [[]], [[[1]]], [1, 2, 3, 4], ["1", "2", "3", "4"],
       [0, 0, 10**400, 1], {"size": [72, 96], "counts": "o"*2000 + "0"}, {"size": [0, 0], "counts": []}, {"size": [72, 96], "counts": [6912]}, {"size": [10**9]*2, "counts": [10**18]},
       {"size": [-72, -96], "counts": [6912]}, {"counts": "\ud800"}, [["a", "b"]], [[1e308]*8, [-1e308]*8], [[float("nan")]*6], [None]*4, "@deep", ["@deep"]*4, [["@deep", 1, "@deep", 1]]]
TEXTS = st.text(max_size=20) | st.characters(categories=["Cs", "Cc", "Cf", "Lo", "Mn"])
VALUES = st.sampled_from(ODD) | st.integers() | st.floats() | TEXTS | st.recursive(st.none() | st.integers(-9, 99), lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=5)


@st.composite
def damaged(draw, data):
    "Bytes with a few places changed."
    data = bytearray(data)
    for _ in range(draw(st.integers(0, 4))):
        at, length = draw(st.integers(0, max(0, len(data) - 1))), draw(st.sampled_from([1, 2, 4, 8, 64, 10**9]))
        new = draw(st.sampled_from([b"", b"\0", b"\xff", b"\xff"*4, b"\x7f\xff\xff\xff", b"\x80", b"<", b"&", b"[", b'"']) | st.binary(max_size=8))
        kind = draw(st.sampled_from(["put", "flip", "cut", "repeat", "insert"]))
        if kind == "put": data[at:at + len(new)] = new
        elif kind == "flip" and data: data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut": del data[at:at + length]
        elif kind == "repeat": data[at:at] = data[at:at + min(length, 10**4)]
        else: data[at:at] = new
    return bytes(data)


def change(draw, content):
    "One place of nested lists and objects: removed, replaced, repeated, or moved one level down."
    place, key = content, None
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        if not keys: break
        key = draw(st.sampled_from(list(keys)))
        if not isinstance(place[key], (dict, list)) or not place[key] or draw(st.integers(0, 4)) == 0: break
        place = place[key]
    kind = draw(st.sampled_from(["odd", "odd", "odd", "remove", "repeat", "wrap", "add"]))
    if kind == "add" and isinstance(place, dict): place[draw(st.sampled_from(["bbox", "segmentation", "iscrowd", "area", "id", "file_name", "width"]))] = draw(VALUES)
    elif not keys: return
    elif kind == "remove": del place[key]
    elif kind == "repeat" and isinstance(place, list): place.append(copy.deepcopy(place[key]))
    else: place[key] = [place[key]] if kind == "wrap" else draw(VALUES)


@st.composite
def documents(draw, folder):
    "A COCO file with a few changes."
    content = json.loads((folder/"annotations.json").read_text())
    for _ in range(draw(st.integers(1, 5))): change(draw, content)
    if draw(st.integers(0, 9)) == 0: content = draw(VALUES)
    text = json.dumps(content, ensure_ascii=draw(st.booleans())).replace('"@deep"', "["*(depth := draw(st.integers(600, 990))) + "]"*depth)
    if draw(st.integers(0, 4)) == 0: text = text.replace('"id"', draw(st.sampled_from(['"id": 5, "id"', '"image_id"', '"Id"'])), draw(st.integers(1, 3)))
    data = text.encode("utf-8", "surrogatepass")
    return draw(damaged(data)) if draw(st.integers(0, 4)) == 0 else data


WORDS = st.sampled_from(["0", "1", "2", "-1", "9"*5000, ".5", "0.1", "1e308", "-1e308", "nan", "inf", "1_0", "0x1", "1,5", "can", "\u0661", "\0", "#", "\ufeff", "1.0000001", "-.005"]) | TEXTS


@st.composite
def labels(draw, folder):
    "A label file: lines of numbers and of anything."
    lines = draw(st.lists(st.lists(WORDS, max_size=9).map(" ".join), max_size=6))
    return draw(damaged("\n".join(lines).encode("utf-8", "surrogatepass")))


SCALARS = st.sampled_from(["can", "images/train", "[a, b]", "{0: a}", "~", "", "1", "*a", "&a [*a]", "&a {x: *a}", "!!int ''", "!!python/name:os.system", "2026-99-99", "0o9", "1:99:99", "!!binary x", "!!set {a}",
                           "'\\0'", '"\\0"', '"\\ud800"', "|", ">", "[", "{", "- x", "? [a]", "<<: 1", "=", ".inf", "../..", "/tmp", "/", "x"*5000, "[images/train, images/val]", "[[a]]", "images/train/1.jpg"]) | TEXTS


@st.composite
def data_yaml(draw, folder):
    "A data.yaml with other values, lines and names."
    names = st.sampled_from(["train", "val", "test", "names", "path", "nc", "<<", "valid", "1", "download"])
    lines = (folder/"data.yaml").read_text().splitlines() if draw(st.booleans()) else []
    lines += [f"{draw(names)}: {draw(SCALARS)}" for _ in range(draw(st.integers(0, 5)))]
    if lines: lines.pop(draw(st.integers(0, len(lines) - 1)))
    return draw(damaged("\n".join(lines).encode("utf-8", "surrogatepass")))


@st.composite
def voc_xml(draw, folder):
    "A VOC file with other texts, elements and heads."
    text = (folder/"Annotations/1.xml").read_text()
    for _ in range(draw(st.integers(0, 3))):
        tag = draw(st.sampled_from(["xmin", "xmax", "ymin", "ymax", "name", "filename", "bndbox", "object", "annotation"]))
        old, new = draw(st.sampled_from([(f"<{tag}>", f"<{tag}>%s"), (f"</{tag}>", "%s"), (f"<{tag}>", f"<{tag}>%s</{tag}><{tag}>"), (tag, "%s")]))
        text = text.replace(old, new.replace("%s", draw(WORDS | st.sampled_from(["&#0;", "&amp;", "&x;", "../../x.jpg", "<a/>", "<![CDATA[x]]>", "C:\\1.jpg", "/etc/passwd"]))))
    head = draw(st.sampled_from(["", '<?xml version="1.0" encoding="utf-16"?>', '<?xml version="1.0" encoding="x"?>', '<?xml version="9"?>', '<!DOCTYPE a [<!ENTITY x "&y;&y;"><!ENTITY y "1">]>', "\ufeff", "<a>"*3000]))
    return draw(damaged((head + text).encode("utf-8", "surrogatepass")))


def encode(format, mode="RGB", **options):
    file = io.BytesIO()
    photo = draw_photo(0)
    (photo.convert("L") if "I" in mode else photo).convert(mode).save(file, format, **options)
    return file.getvalue()


EXIF = b"Exif\0\0II*\0\x08\0\0\0\x03\0" + struct.pack("<HHII", 0x0112, 3, 1, 6) + struct.pack("<HHII", 0x8769, 4, 1, 50) + struct.pack("<HHII", 0x0132, 2, 20, 60) + b"\0"*4 + b"2026:05:01 10:00:00\0"*2
PHOTOS = [encode("JPEG"), encode("JPEG", exif=EXIF), encode("JPEG", "CMYK"), encode("JPEG", progressive=True), encode("PNG"), encode("PNG", "P", transparency=0), encode("PNG", "LA"), encode("PNG", "I;16"),
          encode("GIF"), encode("TIFF"), encode("TIFF", "F"), encode("TIFF", compression="tiff_lzw"), encode("TIFF", compression="tiff_adobe_deflate"), encode("BMP"), encode("WEBP"), encode("AVIF"), encode("PPM")]


def split_chunks(data):
    "Name and content of the chunks of a PNG."
    at = 8
    while at + 8 <= len(data):
        length = struct.unpack(">I", data[at:at + 4])[0]
        yield data[at + 4:at + 8], data[at + 8:at + 8 + length]
        at += 12 + length


@st.composite
def photos(draw, folder):
    "A photo with damage, in its EXIF, in a chunk with a right checksum, or anywhere."
    kind = draw(st.sampled_from(["any", "any", "exif", "png", "size"]))
    if kind == "exif": return draw(damaged(encode("JPEG", exif=draw(damaged(EXIF))))) if draw(st.booleans()) else encode("JPEG", exif=draw(damaged(EXIF)))
    if kind == "any": return draw(damaged(draw(st.sampled_from(PHOTOS))))
    chunks = [list(c) for c in split_chunks(draw(st.sampled_from([photo for photo in PHOTOS if photo[1:4] == b"PNG"])))]
    if kind == "size": chunks[0][1] = struct.pack(">II", *(draw(st.sampled_from([0, 1, 97, 9000, 14000, 2**16, 2**31 - 1, 2**31])) for _ in range(2))) + chunks[0][1][8:]
    else:
        for _ in range(draw(st.integers(1, 3))):
            chunk = draw(st.sampled_from(chunks))
            chunk[:] = draw(st.sampled_from([chunk[0], b"tRNS", b"sBIT", b"iCCP", b"eXIf", b"zTXt", b"acTL", b"fcTL", b"PLTE", b"IDAT"])), draw(damaged(chunk[1]))
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks)


# -- what is looked at ---------------------------------------------------------------------------------------------------

PHOTO, CROP = "photos/000.jpg", "crop annotations.json --class-map classes.csv --out out"
SETS = { # name: set, damaged file, its content, commands in turn
    "coco": (make_coco, "annotations.json", documents, ["check annotations.json"]*3 + [CROP, "predict model.onnx annotations.json"]),
    "labels": (make_yolo, "labels/train/1.txt", labels, ["check ."]),
    "data.yaml": (make_yolo, "data.yaml", data_yaml, ["check .", "check .", "crop . --out out", "crop -f data.yaml --out out"]),
    "xml": (make_voc, "Annotations/1.xml", voc_xml, ["check .", "check .", "check .", "crop . --out out"]),
    "list": (make_voc, "ImageSets/Main/train.txt", labels, ["check .", "crop . --out out"]),
    "photo": (make_coco, PHOTO, photos, ["check annotations.json"]*3 + [CROP, "predict model.onnx photos", "predict model.onnx annotations.json"]),
    "photo of a class": (make_folders, "can/0.jpg", photos, ["check ."]),
    "class map": (make_coco, "classes.csv", labels, [CROP]),
    "record": (make_coco, "record.json", documents, ["summary record.json"]),
}


def observe(command, folder):
    "Run a command on a damaged set and check how it ends."
    before, used = read_tree(folder), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    done = run(command, folder, seconds=300)
    said = done.out + done.err
    assert done.code in (0, 1, 2) and "Traceback" not in said and not done.warnings, (done.code, said, done.warnings)
    assert done.code != 2 or done.err.splitlines()[-1].strip(), "nothing is said"
    assert read_tree(folder) == before, "a file outside `out` was changed"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used < GIB and "out of memory" not in said, "too much memory"
    COUNTS["examples"] += 1
    COUNTS["codes"][done.code] = COUNTS["codes"].get(done.code, 0) + 1


def prepare(name, folder):
    "The strategy and the check of one kind of damage, in a folder."
    make, file, strategy, commands = SETS[name]
    if not folder.exists():
        make(folder)
        write(folder/"model.onnx", make_onnx())
    sound = (folder/file).read_bytes() if (folder/file).exists() else b""

    def check(content, turn):
        write(folder/file, content)
        try: observe(commands[turn % len(commands)], folder)
        finally: write(folder/file, sound)
    return given(strategy(folder), st.integers(0, 59))(check)


def look(name, folder, n, **options):
    "Look at n examples of a kind of damage."
    check = settings(max_examples=n, deadline=None, database=None, suppress_health_check=list(HealthCheck), **options)(prepare(name, folder))
    check()


@pytest.mark.parametrize("name", SETS)
def test_damage_ends_in_a_sentence(name, tmp_path):
    look(name, tmp_path/"set", 25, derandomize=True)


def main():
    "Look at every kind of damage in turn, until the time is over; each round has another seed."
    parser = argparse.ArgumentParser(description="Damage files at random and check how the commands end.")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=SETS, help="one kind of damage")
    args, start, failed = parser.parse_args(), time.monotonic(), 0
    with tempfile.TemporaryDirectory() as place:
        for turn in range(10**9):
            for i, name in enumerate([args.only] if args.only else SETS):
                if time.monotonic() - start > 60*args.minutes: break
                check = settings(max_examples=50, deadline=None, database=None, print_blob=True, suppress_health_check=list(HealthCheck))(prepare(name, Path(place)/f"set-{i}"))
                try: hypothesis.seed(1000*args.seed + turn)(check)()
                except BaseException as error:
                    if isinstance(error, KeyboardInterrupt): raise
                    failed += 1
                    print(f"{name}, seed {1000*args.seed + turn}: {error!s:.3000}", *getattr(error, "__notes__", []), *traceback.format_tb(error.__traceback__)[-4:], type(error), sep="\n", flush=True)
            else: continue
            break
    codes = ", ".join(f"{n:,} with {code}" for code, n in sorted(COUNTS["codes"].items()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/GIB
    print(f"fuzz: {COUNTS['examples']:,} examples ({codes}), {failed} faults, {time.monotonic() - start:.0f} s, peak memory {peak:.2f} GiB")
    return int(bool(failed))


if __name__ == "__main__": sys.exit(main())
