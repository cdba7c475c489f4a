"Photos as people have them: read as they are, or refused by name, in `check` and in `crop`."
import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from cases import HEIGHT, WIDTH, both, draw, first, make_coco, put, rename, run, suite
from PIL import Image

from lightweight.data.image import open_photo

PHOTO = "photos/000.jpg"
CHECK, CROP = "check annotations.json --examples 99", "crop annotations.json --class-map classes.csv --out out"


def encode(image, format="JPEG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def photo(content, name=None):
    "Other bytes for the first photo, perhaps under another name."
    if name is None: return put(PHOTO, content)
    return both(put(f"photos/{name}", content), first("images", file_name=f"photos/{name}"))


def turned(value, kind=3):
    "A JPEG with this EXIF orientation; kind: number of the TIFF type."
    tag = struct.pack("<HHII", 0x0112, kind, 1, value)
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + tag + b"\0\0\0\0"
    return encode(draw(0), exif=exif)


def make_png(width, height, kind=2, depth=8):
    "A PNG of one colour with any size, a few thousand times smaller than its pixels."
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    packer, row = zlib.compressobj(9), b"\0"*(1 + (width*channels*depth + 7)//8)
    body = b"".join([packer.compress(row) for _ in range(height)] + [packer.flush()])
    chunk = lambda name, data: struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def stretch(width, height):
    "A BMP that says it has other sides than it has."
    header = encode(draw(0), "BMP")
    return header[:18] + struct.pack("<ii", width, height) + header[26:]


def ramp(kind, most):
    return Image.fromarray(np.linspace(0, most, WIDTH*HEIGHT).reshape(HEIGHT, WIDTH).astype(kind))


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
REFUSED = (CHECK, 1, "1  refused   undecodable photo", "photos/000.jpg")

test_photos = suite(make_coco,
    ("empty", photo(b""), *REFUSED),
    ("a text", photo("no picture"), *REFUSED),
    ("truncated", photo(lambda data: data[:len(data)//2]), *REFUSED, "truncated"),
    ("the header only", photo(lambda data: data[:200]), *REFUSED),
    ("without its last bytes", photo(lambda data: data[:-2]), *REFUSED, "truncated"),
    ("more behind its end", photo(lambda data: data + b"\0"*1000), CHECK, 0, "24 objects"),
    ("a web page", photo("<!DOCTYPE html><html>gone</html>"), *REFUSED),
    ("PostScript", photo(EPS), *REFUSED),
    ("PDF", photo(b"%PDF-1.7\n"), *REFUSED),
    ("a drawing", photo('<svg xmlns="http://www.w3.org/2000/svg"/>'), *REFUSED),
    ("HEIC", photo(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"), *REFUSED),
    ("an archive", photo(b"PK\3\4" + b"\0"*30), *REFUSED),
    ("144 million pixels", photo(stretch(12_000, 12_000)), *REFUSED, "more pixels than the 128,000,000 that are read"),
    ("4 thousand million pixels", photo(stretch(2**16, 2**16)), *REFUSED, "more pixels than the 128,000,000"),
    ("no width", photo(stretch(0, 72)), *REFUSED),
    ("a photo of a small copy", photo(encode(draw(0, (48, 36)))), CHECK, 0, "boxes scaled by 0.5"),
    ("a photo of another shape", photo(encode(draw(0, (50, 50)))), CHECK, 1, "wrong recorded size", "another shape"),
    ("a photo of swapped sides", photo(encode(draw(0, (72, 96)))), CHECK, 1, "width and height are swapped, or the photo was turned"),
    ("grey", photo(encode(draw(0).convert("L"))), CROP, 0, "24 of 24 boxes"),
    ("CMYK", photo(encode(draw(0).convert("CMYK"))), CROP, 0, "24 of 24 boxes"),
    ("black and white", photo(encode(draw(0).convert("1"), "PNG"), "a.png"), CROP, 0, "24 of 24 boxes"),
    ("a palette with transparency", photo(encode(draw(0).convert("P"), "PNG", transparency=0), "a.png"), CROP, 0, "24 of 24 boxes"),
    ("a palette with bytes of transparency", photo(encode(draw(0).convert("P"), "PNG", transparency=b"\0\x80"), "a.png"), CROP, 0, "24 of 24 boxes"),
    ("grey with transparency", photo(encode(draw(0).convert("LA"), "PNG"), "a.png"), CROP, 0, "24 of 24 boxes"),
    ("GIF", photo(encode(draw(0), "GIF"), "a.gif"), CROP, 0, "24 of 24 boxes"),
    ("moving GIF", photo(encode(draw(0), "GIF", save_all=True, append_images=[draw(1)]), "a.gif"), CROP, 0, "24 of 24 boxes"),
    ("WebP", photo(encode(draw(0), "WEBP"), "a.webp"), CROP, 0, "24 of 24 boxes"),
    ("TIFF", photo(encode(draw(0), "TIFF"), "a.tif"), CROP, 0, "24 of 24 boxes"),
    ("TIFF of two pages", photo(encode(draw(0), "TIFF", save_all=True, append_images=[draw(1)]), "a.tif"), CROP, 0, "24 of 24 boxes"),
    ("AVIF", photo(encode(draw(0), "AVIF"), "a.avif"), CROP, 0, "24 of 24 boxes"),
    ("PNG that calls itself JPEG", photo(encode(draw(0), "PNG")), CROP, 0, "24 of 24 boxes"),
    ("MPO", photo(encode(draw(0), "MPO", save_all=True, append_images=[draw(1)])), CROP, 0, "24 of 24 boxes"),
    ("rubbish as colour profile", photo(encode(draw(0), icc_profile=b"rubbish")), CROP, 0, "24 of 24 boxes"),
    ("rubbish as EXIF", photo(encode(draw(0), exif=b"Exif\0\0rubbish")), CROP, 0, "24 of 24 boxes"),
    ("EXIF that is cut off", photo(encode(draw(0), exif=b"Exif\0\0II*\0\x08\0\0\0\x09\0\x12\x01")), CROP, 0, "24 of 24 boxes"),
    ("EXIF orientation 9", photo(turned(9)), CROP, 0, "24 of 24 boxes"),
    ("EXIF orientation as a long number", photo(turned(6, 4)), CHECK, 0, "EXIF orientation"),
    ("EXIF orientation as a text", photo(turned(0x36, 2)), CHECK, 0, "24 objects"),
    ("EXIF orientation as a fraction", photo(turned(6, 5)), CHECK, 0, "24 objects"),
    ("turned", photo(turned(6)), CHECK, 0, "EXIF orientation is 6; boxes turned upright"),
    ("turned, upright boxes", both(photo(turned(6)), first("images", width=HEIGHT, height=WIDTH)), CHECK, 0, "boxes are upright already"),
    ("all photos turned", both(*(put(f"photos/{i:03}.jpg", turned(3)) for i in range(12))), CHECK, 1, "12  kept      EXIF orientation", "boxes taken as upright"),
    ("12 of 16 bits", photo(encode(ramp(np.uint16, 4095), "PNG"), "a.png"), CHECK, 0, "deep pixels", "the value 4095 is read as white"),
    ("16 bits", photo(encode(ramp(np.uint16, 65535), "PNG"), "a.png"), CROP, 0, "24 of 24 boxes"),
    ("fractions from 0 to 1", photo(encode(ramp(np.float32, 1), "TIFF"), "a.tif"), CROP, 0, "24 of 24 boxes"),
    ("fractions with NaN", photo(encode(ramp(np.float32, np.nan), "TIFF"), "a.tif"), CHECK, 1, "undecodable photo", "they must be numbers from 0 up"),
    ("numbers below zero", photo(encode(ramp(np.float32, -5), "TIFF"), "a.tif"), CHECK, 1, "its pixels go from -5 to 0"),
    ("fractions of unknown white", photo(encode(ramp(np.float32, 20), "TIFF"), "a.tif"), CHECK, 1, "does not say which value is white; save it with 8 bits"),
    ("a folder", both(rename(PHOTO, "other.jpg"), put(f"{PHOTO}/x", "")), CHECK, 1, "missing photo"))

test_bombs = suite(make_coco,
    ("91 million pixels", photo(make_png(9550, 9550), "a.png"), CHECK, 1, "wrong recorded size", "(9550, 9550)"))


@pytest.mark.parametrize("kind, most", [(np.uint16, 4095), (np.uint16, 65535), (np.float32, 1), (np.float32, 255)])
def test_deep_pixels_are_a_ramp_like_any_other(tmp_path, kind, most):
    ramp(kind, most).save(tmp_path/"ramp.tif")
    grey = np.asarray(open_photo(tmp_path/"ramp.tif"), int)[..., 0].ravel()
    assert np.abs(grey - np.linspace(0, 255, len(grey))).max() <= 1.1


def test_transparent_pixels_take_little_memory(tmp_path):
    "A photo of 25 million pixels is held twice, as it is and as RGB, four bytes a pixel."
    (tmp_path/"a.png").write_bytes(make_png(5000, 5000, 6))
    code = ("import resource, sys; from lightweight.data.image import open_photo; used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "before = used(); open_photo(sys.argv[1]); print(used() - before)")
    done = subprocess.run([sys.executable, "-c", code, tmp_path/"a.png"], capture_output=True, text=True)
    assert int(done.stdout) < 260_000, done.stdout + done.stderr


def test_ghostscript_is_not_started(tmp_path, monkeypatch):
    make_coco(tmp_path)
    photo(EPS)(tmp_path)
    put("bin/gs", f"#!/bin/sh\ntouch {tmp_path}/started\n")(tmp_path)
    (tmp_path/"bin/gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=":")
    assert run(CHECK, tmp_path).code == 1 and not (tmp_path/"started").exists()
