"Settings files and options: every mistake is named with the file or option, before any work."
import pytest
from cases import make_coco, put, remove, run, same, suite, write

STAGES = ("crop", "eda", "train", "export", "evaluate", "tune", "compress", "teach", "compare", "sweep", "submit")
BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(f"{n}: &{n} [{', '.join([f'*{o}']*10)}]\n" for o, n in zip("abcdefgh", "bcdefghi"))
CROP, TRAIN = "crop -f settings.yaml --out out", "train -f settings.yaml --out out"


def make_settings(folder):
    make_coco(folder)
    write(folder/"settings.yaml", "annotations: annotations.json\nclass_map: classes.csv\n")


def lines(text): return put("settings.yaml", lambda old: old + text.encode() + b"\n")
def only(text): return put("settings.yaml", text)


test_settings_files = suite(make_settings,
    ("sound", same, CROP, 0, "24 of 24 boxes"),
    ("not there", remove("settings.yaml"), CROP, 2, "settings.yaml: there is no such settings file"),
    ("a folder", lambda folder: (remove("settings.yaml")(folder), (folder/"settings.yaml").mkdir()), CROP, 2, "settings.yaml: there is no such settings file"),
    ("empty", only(""), CROP, 2, "settings.yaml: expected lines of", "found NoneType"),
    ("a list", only("- crop\n"), CROP, 2, "settings.yaml: expected lines of", "found list"),
    ("a word", only("crop\n"), CROP, 2, "settings.yaml: expected lines of", "found str"),
    ("a tab", lines("\tseed: 1"), CROP, 2, "settings.yaml: not readable as YAML"),
    ("not UTF-8", only("out: Müll\n".encode("cp1252")), CROP, 2, "settings.yaml, line 1: this is not UTF-8 text (byte 6); save the file as UTF-8"),
    ("UTF-16", put("settings.yaml", lambda old: old.decode().encode("utf-16")), CROP, 2, "settings.yaml, line 1: this is not UTF-8 text (byte 0)"),
    ("byte order mark", put("settings.yaml", lambda old: b"\xef\xbb\xbf" + old), CROP, 0, "24 of 24 boxes"),
    ("a null", put("settings.yaml", b"seed: \0\n"), CROP, 2, "settings.yaml: not readable as YAML"),
    ("two documents", lines("---\nseed: 1"), CROP, 2, "settings.yaml: not readable as YAML"),
    ("a name twice", lines("seed: 1\nseed: 2"), CROP, 2, "settings.yaml: not readable as YAML: seed occurs twice"),
    ("a misspelt name", lines("sede: 1"), CROP, 2, "settings.yaml: unknown parameter sede; did you mean seed?"),
    ("a name of a number", lines("1: 1"), CROP, 2, "settings.yaml: unknown parameter 1"),
    ("a name of a list", lines("? [a, b]\n: 1"), CROP, 2, "settings.yaml"),
    ("an object of Python", lines("seed: !!python/object/apply:os.system [touch owned]"), CROP, 2, "settings.yaml: not readable as YAML"),
    ("an unknown tag", lines("seed: !mine 1"), CROP, 2, "settings.yaml: not readable as YAML"),
    ("a whole number of nothing", lines('seed: !!int ""'), CROP, 2, "settings.yaml: not readable as YAML"),
    ("a truth of nothing", lines('square: !!bool ""'), CROP, 2, "settings.yaml: not readable as YAML"),
    ("a date that is none", lines("out: 2026-99-99"), CROP, 2, "settings.yaml: not readable as YAML"),
    ("aliases of aliases", lines(f"{BOMB}seed: *i"), CROP, 2, "settings.yaml: not readable as YAML: it has too many values"),
    ("an alias of itself", lines("seed: &a [*a]"), CROP, 2, "settings.yaml: not readable as YAML: it has too many values"),
    ("10,000 brackets", lines("seed: " + "["*10_000), CROP, 2, "settings.yaml: not readable as YAML"),
    ("null", lines("seed:"), CROP, 2, "settings.yaml: seed = None", "valid integer"),
    ("a path of null", lines("photos: ~"), CROP, 2, "settings.yaml: photos", "null"),
    ("two files", same, f"{CROP} -f classes.csv", 2, "one settings file at a time"),
    ("the annotations", same, "crop -f annotations.json --out out", 2, "annotations.json: annotations = ", "unknown parameter images"))

test_values = suite(make_settings,
    ("a word for a number", lines("seed: one"), CROP, 2, "seed = 'one'", "valid integer"),
    ("a fraction for a whole number", lines("seed: 1.5"), CROP, 2, "seed = '1.5'"),
    ("a number with an underscore", lines("seed: 1_000"), CROP, 2, "seed = '1_000'", "write numbers without _"),
    ("below the limit", lines("seed: -1"), CROP, 2, "seed = '-1'", "greater than or equal to 0"),
    ("above the limit", lines("valid: 0.9"), CROP, 2, "valid = '0.9'", "less than 0.5"),
    ("NaN", lines("context: .nan"), CROP, 2, "context = "),
    ("infinite", lines("context: .inf"), CROP, 2, "context = "),
    ("5000 digits", lines("seed: " + "9"*5000), CROP, 2, "settings.yaml: not readable as YAML"),
    ("a list for a number", lines("seed: [1, 2]"), CROP, 2, "seed = [1, 2]"),
    ("a mapping for a path", lines("photos: {a: 1}"), CROP, 2, "photos = {'a': 1}"),
    ("a word for a truth", lines("square: perhaps"), CROP, 2, "square = 'perhaps'"),
    ("yes for a truth", lines("square: yes"), CROP, 0, "24 of 24 boxes"),
    ("an unset variable", lines("photos: $NOT_SET/x"), CROP, 2, "photos = '$NOT_SET/x'", "$NOT_SET is not set"),
    ("no way to group", lines("group_by: magic"), CROP, 2, "group_by = 'magic': expected alike:BITS"),
    ("a broken expression", lines("group_by: 'name:('"), CROP, 2, "group_by = 'name:('"),
    ("a field that no photo has", lines("group_by: image:run"), CROP, 2, "group_by = 'image:run'", "has no 'run' in images"),
    ("times that no photo has", lines("group_by: time:10"), CROP, 2, "group_by = 'time:10'", "has no time"),
    ("shares above one", lines("valid: 0.49\ntest: 0.49"), CROP, 2, "class"),
    ("two mistakes at once", lines("sede: 1\nsquare: perhaps"), CROP, 2, "unknown parameter sede", "square = 'perhaps'"),
    ("an unknown network", only("network: resnet5000\nepochs: 1\n"), f"{TRAIN} --crops nowhere", 2, "nowhere"),
    ("no training", only("epochs: 0\n"), TRAIN, 2, "epochs = 0: nothing would be trained"),
    ("none for no cut", only("cut: none\n"), f"{TRAIN} --cut none --crops nowhere", 2, "nowhere is not a finished crop store"),
    ("a loss that is none", only("loss: hinge\n"), TRAIN, 2, "loss = 'hinge'", "cross_entropy"),
    ("a word or a number", only("resume: perhaps\n"), TRAIN, 2, "resume = 'perhaps': choose from true, false, auto"),
    ("no photos to train on", same, "train --out out --crops photos", 2, "photos is not a finished crop store"))

test_command_lines = suite(make_settings,
    ("no such command", same, "corp", 2, "unknown command 'corp'; did you mean crop?"),
    ("help", same, "--help", 0, "Data:", "Training:"),
    ("a misspelt option", same, "crop --sede 1", 2, "unknown parameter sede; did you mean seed?"),
    ("an option without a value", same, "crop --seed", 2, "argument --seed: expected one argument"),
    ("an abbreviated option", same, "crop --see 1", 2, "unknown parameter see; did you mean seed?"),
    ("two words without a name", same, "crop annotations.json more.json", 2, "command line: not understood"),
    ("an option of check", same, "check annotations.json --rot x", 2, "--rot"),
    ("examples as a word", same, "check annotations.json --examples many", 2, "argument --examples: invalid int value: 'many'"),
    ("an empty path", same, "crop '' --out out", 2, "annotations is empty; name a file or folder"),
    ("a path of 5000 letters", same, f"check {'x'*5000}", 2, "File name too long; choose a shorter name"),
    ("out is the folder of the photos", same, "crop annotations.json --photos photos --out photos", 2, "out = ", "photos"),
    ("out is a file", same, "crop annotations.json --out classes.csv", 2, "classes.csv: this is a file; choose a folder of its own"),
    ("out is the working folder", same, "crop annotations.json --out .", 2, "out = ", "choose a folder of its own"),
    ("out holds other files", put("mine/notes.txt", "precious"), "crop annotations.json --out mine", 2, "mine: notes.txt is there, which crop did not make"),
    ("out is below a file", same, "crop annotations.json --out classes.csv/out", 2, "classes.csv"),
    *((f"{stage}: an unknown option", same, f"{stage} --no-such-option 1", 2, "unknown parameter no_such_option") for stage in STAGES),
    *((f"{stage}: no settings file", same, f"{stage} -f none.yaml", 2, "none.yaml: there is no such settings file") for stage in STAGES))


@pytest.mark.parametrize("name", ["run #1", "@x", "%20x", "{x}/p", "[x]", "*x", "&x", "!x", "`x", "'x", "2024", "0123", "no", "null", "1e3", "a: b", "- x", "M\u00fcll", "x,y"])
def test_a_path_is_taken_as_typed(tmp_path, name):
    make_coco(tmp_path)
    done = run(["crop", "annotations.json", "--class-map", "classes.csv", "--out", name], tmp_path)
    assert done.code == 0 and (tmp_path/name/"crops.json").is_file(), done.err
