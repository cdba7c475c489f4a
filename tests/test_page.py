"A run's page in a real browser, as wide as a phone, a desk and a sheet of paper; and pages that are broken on purpose, which the same checks must find."
import base64
import io

import numpy as np
import pandas as pd
import pytest
from conftest import PATIENCE_MS
from test_house import ROOT

from lightweight.metrics.metrics import compute_metrics, confusion
from lightweight.metrics.purity import measure_confidence, risk_coverage
from lightweight.evaluation import result_plots as plots
from lightweight.evaluation.analysis import judge_promises
from lightweight.evaluation.page import Section, tabulate, tabulate_promises, write_page
from lightweight.core.records import read_record
from lightweight.data.sample import make_sample

ATTACK = "<script>alert(1)</script>"
PHONE = dict(viewport=dict(width=375, height=812), is_mobile=True, has_touch=True)
DESK = dict(viewport=dict(width=1280, height=800))
PAPER = dict(viewport=dict(width=672, height=1000))  # 178 mm, what A4 has between its margins

SCROLLED = "(function inside(e) { return e && (getComputedStyle(e).overflowX != 'visible' || inside(e.parentElement)) })"
OVERFLOW = f"""() => {{
    const page = document.documentElement, inside = {SCROLLED};
    if (page.scrollWidth <= page.clientWidth) return [];
    const out = [...document.body.querySelectorAll('*')].filter(e => e.getBoundingClientRect().right > page.clientWidth + 1 && !inside(e.parentElement));
    return [`overflow: ${{page.scrollWidth}} of ${{page.clientWidth}} px: ${{out.map(e => e.tagName).slice(0, 5)}}`] }}"""
IMAGES = """() => [...document.images].flatMap(i => [
    ...(i.complete && i.naturalWidth > 0 ? [] : [`broken image: ${i.alt} ${i.src.slice(0, 40)}`]), ...(i.alt.trim() ? [] : ['image without words'])])"""
HEADINGS = """() => {
    const levels = [...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map(h => +h.tagName[1]);
    const skipped = levels.some((l, i) => l > (i ? levels[i - 1] : 0) + 1);
    return levels.filter(l => l == 1).length != 1 || !levels.includes(2) || skipped ? [`headings: ${levels}`] : [] }"""
LETTERS = """() => {
    const least = matchMedia('print').matches ? 10 : 12, width = document.documentElement.clientWidth;
    const small = [...document.querySelectorAll('p, li, td, th, dd, dt, figcaption')].filter(e => parseFloat(getComputedStyle(e).fontSize) < least).map(e => `small letters: ${e.textContent.trim().slice(0, 30)}`);
    return [...new Set(small), ...(Math.abs(width - screen.width) < 20 ? [] : [`viewport: laid out for ${width} px, shown on ${screen.width}`])] }"""
CONTRAST = """() => {
    const parse = c => c.match(/[\\d.]+/g).map(Number), linear = v => (v /= 255) <= .04045 ? v/12.92 : ((v + .055)/1.055)**2.4;
    const light = ([r, g, b]) => .2126*linear(r) + .7152*linear(g) + .0722*linear(b);
    const behind = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c[3] !== 0) return c } return [255, 255, 255] };
    const told = [...document.body.querySelectorAll('*')].filter(e => [...e.childNodes].some(n => n.nodeType == 3 && n.textContent.trim()) && e.getClientRects().length);
    return [...new Set(told.flatMap(e => {
        const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))], ratio = (Math.max(a, b) + .05)/(Math.min(a, b) + .05);
        return ratio < 4.5 ? [`contrast ${ratio.toFixed(1)}: ${e.tagName} ${e.textContent.trim().slice(0, 30)}`] : [] }))] }"""


class Visit:
    "One look at a page: `faults` says everything that is wrong with it."
    def __init__(self, browser, path, screen, scheme="light", media="screen"):
        self.faults, self.fetched, self.url = [], [], path.as_uri()
        self.page = browser.new_context(**screen, color_scheme=scheme, offline=True).new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.emulate_media(media=media)
        self.page.on("console", lambda m: m.type == "error" and self.faults.append(f"console: {m.text}"))
        self.page.on("pageerror", lambda e: self.faults.append(f"exception: {e}"))
        self.page.on("dialog", lambda d: (self.faults.append(f"dialog: {d.message}"), d.dismiss()))
        self.page.on("request", lambda r: r.url.startswith((self.url, "data:")) or self.fetched.append(r))
        self.page.goto(self.url, wait_until="load")
        self.faults += [f"request: {r.url}" for r in self.fetched]
        for check in (OVERFLOW, IMAGES, HEADINGS, LETTERS, CONTRAST): self.faults += self.page.evaluate(check)

    def __enter__(self): return self
    def __exit__(self, *_): self.page.context.close()


def make_sorting():
    "Simulated promises: kept and broken, a class that is never accepted, one without a promise; and what follows from them."
    rng, classes = np.random.default_rng(0), ["Metal", "Paper", ATTACK, "Plastic", "Plasticbag", "Styrofoam"]
    probs = rng.dirichlet(np.full(6, .2), 600)
    targets = np.where(rng.random(600) < .8, probs.argmax(1), rng.integers(6, size=600))
    thresholds = dict(zip(classes, [.9, .3, .5, .6, 1., None]))
    sorting = judge_promises(targets, probs, np.arange(600)//2, dict(purity=.9, confidence=.95, mix=None, thresholds=thresholds))
    quality = {name: dict(zip(("value", "low", "high"), values)) for name, values in measure_confidence(targets, probs, np.arange(600)).items()}
    figures = {"Purity and recovery": plots.plot_promises(sorting["per_class"], .9), "Risk": plots.plot_risk(risk_coverage(targets, probs), [.1, .05, .2], (.5, .1))}
    return dict(sorting=sorting, quality=quality), Section("Purity and recovery", "", {"Promises": tabulate_promises(sorting["per_class"])}, figures)


def make_sections(folder):
    "A dozen figures and all that makes pages burst: a wide table, a long word, a hostile class."
    rng, classes = np.random.default_rng(0), ["Metal", "Paper", ATTACK, "Plastic", "Plasticbag", "Styrofoam"]
    make_sample(folder, n_photos=12)
    photos = sorted(folder.rglob("*.jpg"))[:12]
    targets, probs = np.arange(12) % 6, rng.dirichlet(np.ones(6), 12)
    preds = probs.argmax(1)
    found = pd.DataFrame(compute_metrics(targets, preds, classes)["per_class"])
    epochs = np.arange(30)
    history = pd.DataFrame(dict(epoch=epochs, train_loss=np.exp(-epochs/9), valid_loss=np.exp(-epochs/12) + .1, macro_f1=1 - np.exp(-epochs/9), accuracy=1 - np.exp(-epochs/7)))
    wide = pd.DataFrame({f"with {i} % of noise": rng.random(4) for i in range(14)}, index=pd.Index(["as they are", "blurred", ATTACK, "dark"], name="corruption"))
    figures = [{f"{name} {i}": draw() for i in range(3)} for name, draw in {
        "F1 of each class": lambda: plots.plot_per_class(found), "Confusion": lambda: plots.plot_confusion(confusion(targets, preds, 6), classes),
        "Training": lambda: plots.plot_history(history), "Photos": lambda: plots.plot_worst(photos, targets, preds, probs, classes)}.items()]
    return [Section("Which classes it knows", f"The *mean* of these. One is called `{ATTACK}`, or {ATTACK}, or " + "n"*200 + ".\n\n## Why\n\n| a | b |\n|---|---|\n" + f"| {'n'*300} | 2 |",
                    {"Per class": found}, figures[0]),
            Section("What is taken for what", "", {}, figures[1]), Section(f"Class {ATTACK}", "", {"Spoilt": wide}, figures[2]),
            Section("What it gets wrong", "", {"Times": tabulate(dict(network=dict(p50_ms=1.2)))}, figures[3])]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    record = read_record(ROOT/"results/taco-quick.json")
    metrics, sorting = make_sorting()
    record |= dict(command=record["command"] + " --out " + "deep/"*60, hashes=record["hashes"] | {ATTACK: "0"*64}, metrics=record["metrics"] | metrics)
    return write_page(folder/"page.html", f"A run with {ATTACK}", "", [*make_sections(folder/"sample"), sorting], record)


@pytest.mark.parametrize("screen, scheme, media", [(PHONE, "light", "screen"), (PHONE, "dark", "screen"), (DESK, "light", "screen"), (DESK, "dark", "screen"), (PAPER, "dark", "print")],
                         ids=["phone", "phone-dark", "desk", "desk-dark", "paper"])
def test_page_is_whole_and_readable(browser, page, screen, scheme, media):
    with Visit(browser, page, screen, scheme, media) as visit:
        assert not visit.faults
        assert visit.page.locator("h1").inner_text() == f"A run with {ATTACK}", "a name from outside is shown as it is"
        assert visit.page.locator("h2").all_inner_texts() == ["Which classes it knows", "What is taken for what", f"Class {ATTACK}", "What it gets wrong", "Purity and recovery", "Provenance"]
        assert visit.page.locator("script").count() == 0
        assert visit.page.locator("img").count() == 14
        assert visit.page.locator("th", has_text=ATTACK).first.is_visible()
    assert page.stat().st_size < 3e6


def test_page_leads_with_purity_and_recovery(browser, page):
    "The verdicts are those of the classes, and the first numbers are what a sorting machine needs."
    sorting = make_sorting()[0]["sorting"]
    verdicts = [row["verdict"] for row in sorting["per_class"]]
    assert verdicts[-2:] == ["nothing accepted", "no promise"] and {"kept", "contradicted"} <= set(verdicts)
    with Visit(browser, page, DESK) as visit:
        assert visit.page.locator(".numbers dt").all_inner_texts()[:4] == ["test purity, accepted crops", "test recovery", "AUGRC", "test macro-F1"]
        assert visit.page.locator(".numbers .value").first.inner_text() == f"{sorting['overall']['purity']:.3f}"
        assert visit.page.locator(".lead").inner_text().startswith("Purity of the accepted crops")
        assert visit.page.get_by_role("region", name="Promises").locator("tbody td:last-child").all_inner_texts() == verdicts


def test_contents_lead_to_the_parts_and_a_wide_table_scrolls_in_its_box(browser, page):
    with Visit(browser, page, PHONE) as visit:
        links = visit.page.locator("nav a")
        assert links.count() == 6 and all(visit.page.locator(links.nth(i).get_attribute("href")).count() == 1 for i in range(6))
        box = visit.page.get_by_role("region", name="Spoilt")
        assert box.evaluate("e => e.scrollWidth > e.clientWidth + 100 && (e.scrollLeft = 1e6, e.scrollLeft > 100)")
        last = box.locator("thead th").last.bounding_box()
        assert 0 < last["x"] and last["x"] + last["width"] <= 375, "its last column can be reached"
        assert box.locator("tbody th").first.bounding_box()["x"] >= 0, "its first column stays"


def test_policy_stops_what_escaping_would_let_through(browser, page, tmp_path):
    broken = tmp_path/"broken.html"
    broken.write_text(page.read_text().replace("<h1>", f'<h1>{ATTACK}<img alt="x" src="http://127.0.0.1:9/x.png" onerror="alert(2)">', 1))
    with Visit(browser, broken, DESK) as visit:
        assert not [f for f in visit.faults if f.startswith("dialog")], "a script ran"
        assert {r.failure for r in visit.fetched} == {"csp"}, "something was fetched that the policy did not stop"
        assert sum("Content Security Policy" in f for f in visit.faults) == 3


def pixel():
    from PIL import Image
    Image.new("RGB", (1, 1)).save(buffer := io.BytesIO(), "png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


GOOD = '<!DOCTYPE html><html lang="en"><meta name="viewport" content="width=device-width, initial-scale=1"><title>t</title><body><h1>One</h1><h2>Two</h2>%s</body></html>'
BROKEN = {"overflow": '<table style="width: 2000px"><td>wide</table>', "broken image": '<img alt="gone" src="data:image/png;base64,AAAA">',
          "image without words": f'<img src="{pixel()}">', "console": '<script>console.error("broken")</script>', "exception": '<script>throw Error("broken")</script>',
          "request: http": '<script src="http://127.0.0.1:9/x.js"></script>', "request: file": '<img alt="missing" src="missing.png">', "dialog": ATTACK,
          "headings": "<h4>Four</h4>", "small letters": '<p style="font-size: 8px">small</p>', "contrast": '<p style="color: #aaa">pale</p>'}
FOLLOWING = {"request: http": ["console"], "request: file": ["console", "broken image"]}  # what a fault brings with it


@pytest.mark.parametrize("fault", [None, *BROKEN], ids=lambda f: f or "none")
def test_checks_find_what_is_broken(browser, tmp_path, fault):
    path = tmp_path/"page.html"
    path.write_text(GOOD % BROKEN.get(fault, "<p>Nothing is wrong here.</p>"))
    with Visit(browser, path, PHONE) as visit: found = visit.faults
    assert bool(fault) == any(f.startswith(str(fault)) for f in found), found
    assert [f for f in found if not f.startswith((str(fault), *FOLLOWING.get(fault, ())))] == [], "nothing else is wrong with it"


def test_checks_find_a_page_without_its_scrolling_boxes(browser, page, tmp_path):
    for name, old, new in (("overflow", "overflow-x: auto", "overflow-x: visible"), ("viewport", 'name="viewport"', 'name="other"')):
        path = tmp_path/f"{name}.html"
        path.write_text(page.read_text().replace(old, new))
        with Visit(browser, path, PHONE) as visit: assert any(f.startswith(name) for f in visit.faults), visit.faults
