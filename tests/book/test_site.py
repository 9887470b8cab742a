"""The book builds without a warning, has no broken link, and works in Chromium without any other host.

It needs the extra `docs`, and for the browser the package playwright and Debian's `chromium`.
"""

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from html.parser import HTMLParser
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import numpy as np
import pytest

import gradtx as gx
from gradtx import lab

ROOT = Path(__file__).parents[2]
CHROMIUM = (
    os.environ.get("CHROMIUM")
    or shutil.which("chromium")
    or shutil.which("chromium-browser")
    or shutil.which("google-chrome")
)
pytestmark = pytest.mark.xdist_group("book")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, built strictly: a warning is an error."""
    if missing := [name for name in ("material", "mathjax") if not find_spec(name)]:
        pytest.skip(f"declared: the extra docs is not installed: {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", "notebooks/mkdocs.yml", "-d", str(folder)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("XLA_FLAGS", "JAX_"))}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


class Page(HTMLParser):
    """The links, and the anchors, of a page."""

    def __init__(self, path):
        super().__init__()
        self.links, self.anchors = set(), set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        self.links |= {given[name] for name in ("href", "src") if given.get(name)}


def test_no_link_and_no_anchor_is_broken(site):
    pages = {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(pages) > 120
    broken = []
    for path, page in pages.items():
        here = "http://site/" + path.relative_to(site).as_posix()
        for link in page.links:
            url = urlsplit(urljoin(here, link))
            if url.netloc != "site":
                continue
            target = site / unquote(url.path).lstrip("/")
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                broken.append(f"{here}: {link}")
            elif url.fragment and target.suffix == ".html":
                anchors = pages[target].anchors
                if unquote(url.fragment) not in anchors and not unquote(url.fragment).startswith("__"):
                    broken.append(f"{here}: {link}: no anchor")
    assert not broken, "\n".join(broken[:30])


def test_every_public_name_has_a_place(site):
    places = {anchor for path in (site / "reference").rglob("index.html") for anchor in Page(path).anchors}
    modules = {"schedules", "lab", "training"}
    for name in {*gx.__all__} - modules:
        assert {f"gx.{name}", f"gx.projections.{name}"} & places or (
            site / "optimizers" / name / "index.html"
        ).is_file(), name


# ---------------------------------------------------------------- in a browser
@pytest.fixture(scope="module")
def browser(site):
    """A page in Chromium, the address of the site, and what went wrong in it."""
    if not (find_spec("playwright") and CHROMIUM):
        pytest.skip("declared: playwright or Chromium is not installed")
    sync_playwright = import_module("playwright.sync_api").sync_playwright

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address, wrong = f"http://127.0.0.1:{server.server_port}", []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1280, "height": 900})
        page.on("console", lambda m: wrong.append(f"{page.url}: {m.text}") if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(f"{page.url}: {error}"))
        page.on("request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else wrong.append(r.url))
        page.on("response", lambda r: wrong.append(f"{r.status}: {r.url}") if r.status >= 400 else None)
        yield page, address, wrong
        chromium.close()
    server.shutdown()
    server.server_close()


def test_every_page_loads_without_an_error_or_another_host(site, browser):
    page, address, wrong = browser
    wrong.clear()
    for path in sorted(site.rglob("index.html")):
        page.goto(f"{address}/{path.parent.relative_to(site).as_posix()}/", wait_until="load")
        if "$$" in page.inner_text("article") or r"\[" in page.inner_text("article"):
            page.wait_for_function("document.querySelectorAll('mjx-merror').length === 0 && MathJax.startup.promise")
    assert not wrong, "\n".join(wrong[:20])


@pytest.mark.parametrize("place", ["optimizers/adam/", "concepts/", "course/04_momentum/"])
def test_formulas_are_typeset(browser, place):
    page, address, _ = browser
    page.goto(f"{address}/{place}")
    page.wait_for_selector("mjx-container", timeout=20_000)
    page.evaluate("MathJax.startup.promise")
    formulas = page.eval_on_selector_all(
        "article .arithmatex", "all => all.map(x => !!x.querySelector('mjx-container'))"
    )
    assert formulas and all(formulas)
    assert page.locator("mjx-merror").count() == 0


QUESTIONS = {
    "gx.adamw": "optimizers/adamw/",
    "weight decay mask": "groups/",
    "learning rate in the middle of training": "schedules/",
    "clip_grad_norm_": "from_torch/",
    "MultiSteps": "from_optax/",
    "accumulate micro-batches": "wrappers/",
    "tensorboard": "logging/",
    "Shampoo": "optimizers/shampoo/",
    "needs the argument": "errors/",
    "bfloat16 rounding": "precision/",
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_search_finds(browser, question):
    page, address, _ = browser
    page.goto(f"{address}/install/")
    page.click("label.md-search__icon, .md-search__input")
    page.fill(".md-search__input", question)
    page.press(".md-search__input", "End")  # it listens to keys, which `fill` does not press
    page.wait_for_selector(".md-search-result__link", timeout=60_000)
    page.wait_for_timeout(500)
    found = page.eval_on_selector_all(
        ".md-search-result__item > .md-search-result__link", "all => all.map(x => x.href)"
    )
    pages = list(dict.fromkeys(urlsplit(url).path for url in found))
    assert f"/{QUESTIONS[question]}" in pages[:3], pages


RULES = {
    "optimizers/heavy_ball/": gx.heavy_ball(0.02, 0.9),
    "optimizers/averaged_momentum/": gx.averaged_momentum(0.2, 0.9),
    "optimizers/rmsprop/": gx.rmsprop(0.1, 0.9),
    "optimizers/adam/": gx.adam(0.1),
}


@pytest.mark.parametrize("place", RULES)
def test_the_path_of_a_figure_is_gradtxs_and_follows_the_sliders(browser, place):
    page, address, _ = browser
    page.goto(f"{address}/{place}")
    end = page.get_attribute(".play", "data-end")
    expected = lab.descend(lab.SURFACES["elongated_bowl"], RULES[place], 100)[-1]
    np.testing.assert_allclose([float(x) for x in end.split(",")], expected, atol=2e-3)
    before = page.evaluate("document.querySelector('.play canvas').toDataURL()")
    sliders = page.locator(".play input")
    for i in range(sliders.count()):
        sliders.nth(i).focus()
        for _ in range(20):
            page.keyboard.press("ArrowLeft")
        now = page.evaluate("document.querySelector('.play canvas').toDataURL()")
        assert now != before
        before = now


def test_the_average_follows_its_slider(browser):
    page, address, _ = browser
    page.goto(f"{address}/course/03_averages/")
    before = page.get_attribute(".play", "data-end")
    page.locator(".play input").evaluate("x => { x.value = 0.5; x.dispatchEvent(new Event('input')) }")
    assert page.get_attribute(".play", "data-end") != before


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize(
    "place", ["", "optimizers/", "optimizers/adam/", "from_optax/", "course/04_momentum/", "schedules/"]
)
def test_no_page_is_wider_than_the_screen(browser, place, width):
    page, address, _ = browser
    page.set_viewport_size({"width": width, "height": 844})
    page.goto(f"{address}/{place}")
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert re.search(r"\w", page.inner_text("article h1"))
    page.set_viewport_size({"width": 1280, "height": 900})
