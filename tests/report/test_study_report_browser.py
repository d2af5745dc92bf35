"""The reports in a real browser. `tests/report/chromium-up.sh` installs one."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image
from planted_study import Planted, plant

from trocar.report import run_report
from trocar.report.gather_run import RunInputs
from trocar.report.study_report import write

pytestmark = [pytest.mark.slow, pytest.mark.browser]
WIDTH = 1280
PROBE = """<!doctype html><meta charset=utf-8><body style="margin:0">
<iframe id=page style="border:0;width:{width}px;height:900px" src="index.html"></iframe><pre id=found></pre><script>
page.onload = () => {{
  const seen = page.contentDocument, root = seen.documentElement;
  const images = [...seen.images];
  const wide = [...seen.querySelectorAll('main *')].filter(one => !one.closest('.scroll, svg, pre, details')
    && one.getBoundingClientRect().right > {width} + 1).map(one => one.outerHTML.slice(0, 120));
  const cut = [...seen.querySelectorAll('.scroll')].filter(one => one.checkVisibility()
    && one.scrollWidth > one.clientWidth + 1).map(one => one.textContent.slice(0, 80));
  found.textContent = JSON.stringify({{width: root.scrollWidth, height: root.scrollHeight, images: images.length,
    broken: images.filter(image => !image.complete || !image.naturalWidth).length, wide: wide, cut: cut,
    charts: [...seen.querySelectorAll('.curves svg')].map(one => one.getBoundingClientRect().width)}});
}};
</script>"""


@pytest.fixture(scope="module")
def chromium():
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium here; tests/report/chromium-up.sh installs it")
    return found


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Everything a report can have, with long names."""
    sizes = (1, 2, 4, 8, 12)
    arms = {f"mixture of hospitals with {n} cases": 0.9 - 0.4 / n for n in sizes}
    planted = Planted(
        arms=arms,
        given={"init": 0.5, "other": 0.6},
        tasks=("phase", "masks"),
        budgets={"2": 2, "100%": 8},
        seeds=2,
        luck=0.025,
        test_cases=[f"case{number:02d}_with_a_long_name_of_its_own" for number in range(8)],
        cases_of={a: [[f"phantom/case{2 * i:02d}" for i in range(n)]] * 2 for a, n in zip(arms, sizes, strict=True)},
        leak={"other": {"verdict": "test case seen unlabelled", "cases": ["s/case1"], "why": ["its name " * 20]}},
        left_out={"east": "no case of it is public " * 12},
    )
    root = tmp_path_factory.mktemp("browser")
    return write(*plant(root, planted), root / "report", draws=60)


def run(chromium, tmp_path, *words):
    """(stdout, console messages) of one headless run with a profile of its own."""
    done = subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
         "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", *words],
        capture_output=True, text=True, timeout=240, check=True,
    )  # fmt: skip
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def probe(chromium, page, tmp_path, width=WIDTH):
    """What a page of this width is like inside."""
    around = page.parent / "probe.html"
    around.write_text(PROBE.format(width=width))
    words = ["--allow-file-access-from-files", "--virtual-time-budget=20000", "--dump-dom", around.as_uri()]
    out, console = run(chromium, tmp_path, *words)
    found = re.search(r"<pre id=.?found.?>(.*?)</pre>", out, re.DOTALL)
    assert found is not None
    assert found.group(1), "the page never finished loading"
    return json.loads(html.unescape(found.group(1))), console


def test_nothing_overflows_every_image_loads_and_the_console_is_silent(chromium, page, tmp_path):
    found, console = probe(chromium, page, tmp_path)
    assert console == []
    assert found["images"] > 20
    assert found["broken"] == 0
    assert found["width"] == WIDTH
    assert found["wide"] == []
    assert found["cut"] == []
    assert len(found["charts"]) == 4
    assert min(found["charts"]) > 400


def test_a_narrow_window_scrolls_tables_and_not_the_page(chromium, page, tmp_path):
    found, _ = probe(chromium, page, tmp_path, width=400)
    assert found["width"] == 400


@pytest.mark.parametrize("about", ["study", "run"])
def test_nothing_is_cut_off_on_paper(chromium, page, tmp_path, about):
    text = (page if about == "study" else write_run_page(tmp_path / "run")).read_text()
    (tmp_path / "index.html").write_text(text.replace("@media print", "@media all"))
    # What A4 leaves between the margins, at 96 pixels an inch.
    found, _ = probe(chromium, tmp_path / "index.html", tmp_path, width=703)
    assert found["cut"] == []
    assert found["width"] == 703


def write_run_page(folder):
    """The page about a run, with as many metrics beside each other as a table has."""
    names = [f"metric_{number}" for number in range(6)]
    value = {"mean": 0.5, "sd": 0.01}
    row = {
        "task": "phase",
        "protocol": "knn",
        "backbone": "mine",
        "kind": "backbone",
        "members": ["a"],
        "interval": None,
    }
    row |= {"headline": names[0], "metrics": dict.fromkeys(names, value), "leak": {"verdict": "contaminated"}}
    task = {"headline": names[0], "metrics": names, "frames": 10, "cases": 2, "scheme": "train -> test"}
    results = {"data": {"frames": 10, "cases": 2, "layout": "folder"}, "tasks": {"phase": task}, "rows": [row]}
    return run_report.write(RunInputs("a run", {}, evaluation=results), folder)


def test_a_broken_page_would_be_noticed(chromium, page, tmp_path):
    bad = tmp_path / "bad"
    bad.mkdir()
    text = page.read_text().replace("<main>", '<main><div style="width:3000px">x</div><img src="nowhere.png">', 1)
    (bad / "index.html").write_text(text)
    found, console = probe(chromium, bad / "index.html", tmp_path)
    assert found["broken"] == 1
    assert found["width"] > WIDTH
    assert console


def test_the_screenshot_shows_a_page(chromium, page, tmp_path):
    shot = tmp_path / "shot.png"
    _, console = run(chromium, tmp_path, f"--window-size={WIDTH},3000", f"--screenshot={shot}", page.as_uri())
    assert console == []
    pixels = np.asarray(Image.open(shot).convert("L"))
    assert pixels.shape == (3000, WIDTH)
    # Ink all the way down, and white margins on both sides.
    assert all((band < 128).any() for band in np.array_split(pixels, 10))
    assert (pixels[:, :20] > 240).all()
    assert (pixels[:, -20:] > 240).all()


def test_every_task_begins_a_new_printed_page(chromium, page, tmp_path):
    paper = tmp_path / "report.pdf"
    run(chromium, tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={paper}", page.as_uri())
    with_breaks = _pages(paper)
    flowing = page.parent / "flowing.html"
    flowing.write_text(page.read_text().replace("break-before: page;", ""))
    run(chromium, tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={paper}", flowing.as_uri())
    assert 4 <= _pages(paper) <= with_breaks


def _pages(pdf):
    return len(re.findall(rb"/Type\s*/Page\b", pdf.read_bytes()))
