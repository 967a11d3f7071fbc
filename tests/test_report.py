"""Reports: what a page shows is what was found, and it works in a browser without a network."""

from __future__ import annotations

import base64
import html
import io
import json
import math
import re
import shlex
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread
from small_runs import FAST, save_small_run, save_sound, sound

from pyrodvae import examples
from pyrodvae.cli import main
from pyrodvae.enhance import Enhanced, enhance
from pyrodvae.enhance_config import EnhanceConfig
from pyrodvae.observations import POWER_FLOOR
from pyrodvae.report import EnhancementReport, check_page, results_page, write_results
from pyrodvae.report.charts import Axis, Dot, dots, heat, lines
from pyrodvae.report.page import Html, element, table, text
from pyrodvae.results import Results

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is there to look at pages with")
ODD = """a <b> & "c" 'd'.wav"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return save_small_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def result() -> Enhanced:
    """The packaged example, with two chains."""
    return enhance(examples.noisy(), config=EnhanceConfig(iterations=6, chains=2, noise_rank=3, seed=1))


def report(path: Path, *results: Enhanced, name: str = ODD, **options: Any) -> EnhancementReport:
    """A report on recordings of one name."""
    page = EnhancementReport(path / "r.html", **options)
    for one in results:
        page.add(one)
        page.finish(name)
    return page


def measured() -> Results:
    """Two systems on three recordings, one without a score, and a fourth that could not be read."""
    rows = []
    for system, gain, rtf in (("langevin", 3.0, 0.2), ("hmc <x>", 5.0, 4.0)):
        for i, before in enumerate((-10.0, 2.5, 9.0)):
            row = {"model": "rvae@01234567", "system": system, "settings": "steps=1", "seed": "0"}
            row |= {"file": f"{i} & co.wav", "noise": "", "snr": "", "rtf": f"{rtf + 0.01 * i}"}
            row |= {"si_sdr_in": f"{before}", "si_sdr_out": f"{before + gain + i / 2}"}
            row |= {"estoi_in": "nan" if i == 2 else "0.5", "estoi_out": "nan" if i == 2 else "0.75"}
            rows.append(
                row | {"reasons": "estoi_in: too <short>. | estoi_out: too <short>." if i == 2 else ""}
            )
    return Results(("si_sdr", "estoi"), rows, [("bad.wav", "bad.wav holds <nothing>.")])


# --- markup


class Tree(HTMLParser):
    """What a browser would read: tags, opened and closed in order, with their attributes, and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open, self.tags, self.words = list[str](), list[tuple[str, dict[str, str | None]]](), ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words += data

    def having(self, attribute: str) -> list[str]:
        return [value for _, attrs in self.tags if (value := attrs.get(attribute)) is not None]


@settings(max_examples=40)
@given(st.text(), st.text())
def test_text_stays_text(words: str, value: str) -> None:
    tree = Tree(element("p", {"title": value, "id": None}, words, element("b", {}, words)))
    norm = lambda s: s.replace("\r\n", "\n").replace("\r", "\n")  # noqa: E731
    if "\0" not in words + value:
        assert norm(tree.words) == norm(2 * words)
        assert [(tag, list(attrs)) for tag, attrs in tree.tags] == [("p", ["title"]), ("b", [])]
    assert text(Html("<i>"), "<i>") == "<i>&lt;i&gt;"  # the control: markup is not escaped


def test_a_table_leaves_empty_columns_out() -> None:
    tree = Tree(table(("a", "b", "c"), [("1", "", "2"), ("3", "", "")], "what"))
    assert tree.words == "whatac123"
    assert [tag for tag, _ in tree.tags].count("td") == 2


@pytest.mark.parametrize("name", ["r.txt", "missing/r.html", "folder.html"])
def test_a_page_that_cannot_be_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(ValueError, match=r"end it in \.html\.|its folder does not exist\.|it is a folder\."):
        check_page(tmp_path / name)
    assert check_page(tmp_path / "r.html") == tmp_path / "r.html"
    assert [p.name for p in tmp_path.iterdir()] == ["folder.html"]  # nothing is left by the question


# --- pictures


@given(st.floats(-1e4, 1e4), st.floats(1e-3, 1e4), st.booleans(), st.integers(3, 8))
def test_ticks_are_few_round_and_in_their_place(low: float, width: float, log: bool, most: int) -> None:
    axis = Axis("", abs(low) + 1e-3, abs(low) + 1e-3 + width, log) if log else Axis("", low, low + width)
    ticks = axis.ticks(most)
    assert len(ticks) <= most + 1
    for value, name in ticks:
        assert -1e-6 <= axis.share(value) <= 1 + 1e-6
        assert float(name.replace("−", "-")) == pytest.approx(value, rel=1e-3, abs=1e-3 * width)
    if not log:
        assert len(ticks) >= most / 2.5 - 1


def test_shares_are_of_the_length_or_of_its_logarithm() -> None:
    assert Axis("", 1, 100).share(10) == pytest.approx(1 / 11)
    assert Axis("", 1, 100, log=True).share(10) == pytest.approx(0.5)
    assert [name for _, name in Axis("", 0.5, 3.5, whole=True).ticks()] == ["1", "2", "3"]
    assert len(Axis("", 0.5, 3.5).ticks()) > 3  # the control


def colours(picture: str) -> np.ndarray:
    """The pixels of the first image in a picture, (rows, columns, 3), from 0 to 1."""
    (data, *_) = re.findall(r"data:image/webp;base64,([^\"]*)", picture)
    return imread(io.BytesIO(base64.b64decode(data)), format="webp")[..., :3] / 255.0


def test_a_heat_map_has_its_values_in_place() -> None:
    values = torch.zeros(5, 9)
    values[1, 6] = 10.0
    values[4, 0] = -10.0
    x, y, key = Axis("s", 0, 9), Axis("Hz", 0, 5), Axis("dB", -10, 10)
    pixels = colours(heat(x, y, values, key, "what"))
    map = matplotlib.colormaps["viridis"]
    wanted = map(((values.flip(0) + 10) / 20).numpy())[..., :3]  # the first row is the lowest
    assert np.abs(pixels - wanted).max() < 0.01
    assert np.abs(pixels - wanted[::-1]).max() > 0.3  # the control
    assert 'class="now"' in heat(x, y, values, key, "what", plays=True)
    assert 'class="now"' not in heat(x, y, values, key, "what")


def path_points(path: str) -> list[tuple[str, float, float]]:
    return [(kind, float(x), float(y)) for kind, x, y in re.findall(r"([ML])([\d.]+) ([\d.]+)", path)]


def test_lines_go_through_their_points_and_break_where_there_is_none() -> None:
    trace = [1.0, 2.0, math.nan, 4.0, math.inf, 0.0]
    picture = lines(Axis("i", -0.5, 5.5), "nats", [trace], (2.5, 5.5), "what")
    (path,) = re.findall(r' d="([^"]*)"', picture)
    points = path_points(path)
    assert [kind for kind, *_ in points] == ["M", "L", "M", "M"]
    across, up = np.array([[x, y] for _, x, y in points]).T
    assert np.corrcoef(across, [0, 1, 3, 5])[0, 1] > 0.999
    assert np.corrcoef(up, [1.0, 2.0, 4.0, 0.0])[0, 1] < -0.999  # in pictures y grows downwards
    long = lines(Axis("i", 0, 1e4), "", [list(np.arange(10_000.0))], (0, 1), "what")
    (path,) = re.findall(r' d="([^"]*)"', long)
    assert 100 < len(path_points(path)) < 500


def test_names_of_dots_keep_clear_of_each_other_and_of_dots() -> None:
    points = [Dot(f"system {i}", 1.0 + 0.02 * i, 0.05 * i, 0.3) for i in range(5)]
    picture = dots(Axis.around("s", (p.x for p in points), log=True), "dB", points, "what")
    names = re.findall(r'class="(name|y) c\d" x="([\d.]+)" y="([\d.]+)"', picture)
    boxes = [(float(x) - (60 if kind == "y" else 0), float(y)) for kind, x, y in names]
    assert len(boxes) == 5
    for i, (left, top) in enumerate(boxes):
        assert all(abs(left - a) >= 60 or abs(top - b) >= 12 for a, b in boxes[:i])
    # The control: side by side at their own height they would not.
    heights = [float(h) for h in re.findall(r'<circle [^>]*cy="([\d.]+)"', picture)]
    assert min(abs(np.diff(heights))) < 12


# --- enhancement


def heard(page: str) -> list[np.ndarray]:
    found = re.findall(r"data:audio/flac;base64,([^\"]*)", page)
    return [soundfile.read(io.BytesIO(base64.b64decode(data)))[0] for data in found]


def test_the_players_play_what_was_found(tmp_path: Path, result: Enhanced) -> None:
    page = report(tmp_path, result).page()
    noisy, speech, noise, draw = heard(page)
    given, _ = soundfile.read(examples.noisy())
    step = 2.0**-15
    assert np.abs(noisy - given).max() <= step
    assert np.abs(speech - result.speech.ravel()).max() <= step
    assert np.abs(noisy - speech - noise).max() <= 2 * step
    assert np.abs(speech - noise).max() > 0.1  # the control
    ratio = 10 * np.log10(np.sum(speech**2) / np.sum((draw - speech) ** 2))
    assert 0 < ratio < 30  # it is not the mean, and not far from it
    assert report(tmp_path, result).page() == page  # nothing of it is left to chance


def test_a_page_says_what_was_found_and_loads_nothing(tmp_path: Path, result: Enhanced) -> None:
    command = shlex.join(["pyrodvae", "enhance", ODD, "-o", "$HOME.wav", "--report", "r.html"])
    tree = Tree(report(tmp_path, result, command=command).page())
    assert not tree.open
    headings = ["To hear", "Spectrograms", "The noise model", "Inference", "How it was made"]
    for words in (ODD, command, *headings, *result.diagnostics.warnings(), "noise rank", "Langevin("):
        assert words in tree.words
    for line in result.diagnostics.summary().splitlines():
        assert line.replace(": ", "", 1) in tree.words or line in tree.words
    assert shlex.split(command)[2] == ODD
    sources = [*tree.having("src"), *tree.having("href")]
    assert len(sources) > 10
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert [tag for tag, _ in tree.tags].count("svg") == 6 + 1 + len(result.diagnostics.names)
    assert all(attrs.get("aria-label") for tag, attrs in tree.tags if tag in ("svg", "audio"))
    assert "default-src 'none'" in "".join(tree.having("content"))


@pytest.mark.parametrize("as_published", [False, True])
def test_the_noise_factors_are_those_of_the_noise(run: Path, as_published: bool) -> None:
    config = EnhanceConfig(iterations=2, noise_rank=2, as_published=as_published)
    found = enhance(sound(0.5), sample_rate=16_000, model=run, config=config)
    ((W, H),), ((_, posterior),) = found.noise_factors, found._windows
    floor = 0.0 if as_published else POWER_FLOOR
    torch.testing.assert_close((W @ H).mT + floor, posterior.noise)
    assert not torch.allclose((W.flip(-1) @ H).mT + floor, posterior.noise)  # the control


def test_windows_are_told_and_the_first_is_shown(tmp_path: Path, result: Enhanced, monkeypatch) -> None:
    monkeypatch.setattr("pyrodvae.report.recording.WINDOW_SECONDS", 0.5)
    page = EnhancementReport(tmp_path / "r.html")
    page.add(result)
    page.add(result)
    page.finish("long.wav")
    written = page.page()
    assert "enhanced in 2 windows; the first with sound is shown" in written
    assert [len(y) for y in heard(written)] == 4 * [8000]


def test_a_page_has_room_for_so_much_and_a_line_for_each(tmp_path: Path, result: Enhanced) -> None:
    seconds = result.speech.shape[-1] / result.sample_rate
    page = report(tmp_path, result, result, result, seconds=2.5 * seconds)
    page.finish("bad.wav", "bad.wav is <silent>.")
    written = page.page()
    assert len(heard(written)) == 8
    assert written.count("There is no room for its sound on this page.") == 1
    assert "bad.wav is &lt;silent&gt;." in written
    links = {link[1:] for link in Tree(written).having("href") if link.startswith("#")}
    assert links == {"recording-1", "recording-2"} <= set(Tree(written).having("id"))
    assert len(heard(report(tmp_path, result, seconds=0.0).page())) == 4  # the first is always there


def test_without_a_recording_an_earlier_page_stays(tmp_path: Path, result: Enhanced) -> None:
    page = EnhancementReport(tmp_path / "r.html", command="pyrodvae a & b")
    page.save()
    assert not (tmp_path / "r.html").exists()
    page.add(result)
    page.finish("a.wav")
    page.save()
    before, earlier = (tmp_path / "r.html").read_bytes(), save_sound(tmp_path / "later.wav")
    again = EnhancementReport(tmp_path / "r.html", command="pyrodvae a & b")
    assert not again.stands([earlier])  # a file that is newer than the page
    assert again.stands([])
    assert not EnhancementReport(tmp_path / "r.html", command="pyrodvae a & c").stands([])
    again.save()
    assert (tmp_path / "r.html").read_bytes() == before


# --- the commands


@pytest.fixture
def call(tmp_path: Path, monkeypatch, capsys):
    """Run a command in an empty folder: its status and what it says on stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path) -> tuple[int, str]:
        return main([str(a) for a in arguments]), capsys.readouterr().err

    return call


def test_enhance_writes_a_page_once(call, run: Path) -> None:
    for name in (ODD, "b.wav"):
        save_sound(Path("in") / name)
    Path("in/bad.wav").write_text("no sound")
    options = ["in", "-o", "out", "--model", run, *FAST, "--report", "r.html"]
    status, _ = call("enhance", *options)
    assert status == 1
    page = Path("r.html").read_text("utf-8")
    assert len(heard(page)) == 8
    assert "cannot be read as audio" in page
    (command,) = re.findall("<code>(.*)</code>", page)
    assert shlex.split(html.unescape(command)) == ["pyrodvae", "enhance", *map(str, options)]
    save_sound(Path("in/bad.wav"))
    assert call("enhance", *options)[0] == 0  # not all was done: the page is of all again
    page = Path("r.html").read_text("utf-8")
    assert len(heard(page)) == 12
    assert "cannot be read" not in page
    assert call("enhance", *options)[1].count("skipped") == 3
    assert Path("r.html").read_text("utf-8") == page
    assert call("enhance", *options, "--set", "gain=true")[1].count("skipped") == 0
    assert "gain=true" in Path("r.html").read_text("utf-8")


@pytest.mark.parametrize("command", ["enhance", "evaluate"])
def test_a_missing_folder_is_told_before_any_work(call, run: Path, command: str) -> None:
    save_sound(Path("a.wav"))
    what = ["a.wav", "-o", "b.wav"] if command == "enhance" else [run, "--pairs", "none"]
    status, told = call(command, *what, "--report", "none/r.html")
    assert status == 1
    assert "error: none/r.html cannot be written: its folder does not exist." in told
    assert not Path("b.wav").exists()
    assert "r.wav is no name for a report: end it in .html." in call(command, *what, "--report", "r.wav")[1]


def test_evaluate_writes_a_page(call, run: Path) -> None:
    for name in ("clean/a.wav", "noisy/a.wav", "clean/b.wav"):
        save_sound(Path("pairs") / name, 1.0, seed=len(name))
    options = [run, "--pairs", "pairs", *FAST, "--metrics", "si_sdr", "--report", "r.html"]
    assert call("evaluate", *options)[0] == 1
    tree = Tree(Path("r.html").read_text("utf-8"))
    assert "pairs/noisy/b.wav does not exist." in tree.words
    assert shlex.join(["pyrodvae", "evaluate", *map(str, options)]) in tree.words


# --- results


def test_the_results_page_says_what_the_results_do(tmp_path: Path) -> None:
    results = measured()
    write_results(results, tmp_path / "r.html", command="pyrodvae evaluate")
    page = (tmp_path / "r.html").read_text("utf-8")
    assert page == results_page(results, command="pyrodvae evaluate")
    tree = Tree(page)
    assert not tree.open
    for line in results.summary()[1:]:
        assert "".join(line) in tree.words
    assert "+3.50 ± 0.29" in tree.words  # of 3, 3.5 and 4: s = 0.5, over √3
    assert tree.words.count("—") == 2 * 3
    assert "estoi_in: too <short>.2" in tree.words  # in two runs
    assert "bad.wav holds <nothing>." in tree.words
    said = [label for label in tree.having("aria-label") if "against time" in label]
    assert said[0].endswith("langevin: +3.5 in 0.21 s; hmc <x>: +5.5 in 4.01 s.")
    assert len(said) == 2
    assert [c.gain for c in results.costs()] == [c.gain for c in results.costs("si_sdr")]
    assert [c.gain for c in results.costs("estoi")] == [0.25, 0.25]


def test_resynthesis_has_no_picture(tmp_path: Path) -> None:
    rows = [{**row, "si_sdr_in": "", "estoi_in": ""} for row in measured().rows]
    tree = Tree(results_page(Results(("si_sdr", "estoi"), rows)))
    assert "There was no noisy input to improve on." in tree.words
    assert "svg" not in [tag for tag, _ in tree.tags]
    assert "Failures" not in tree.words
    assert "Evaluation of nothing" in Tree(results_page(Results(("estoi",), [], [("a", "b")]))).words


# --- in a browser


LOOK = """
const page = frame.contentDocument, {scrollWidth, clientWidth} = page.documentElement;
const all = (query, root = page) => [...root.querySelectorAll(query)];
const column = (table, i) => [...table.tBodies[0].rows].map(row => row.cells[i].textContent);
const heading = (table, name) => [...table.tHead.rows[0].cells].find(cell => cell.textContent === name);
const press = button => button.dispatchEvent(new frame.contentWindow.MouseEvent("click", {bubbles: true}));
const out = {width: clientWidth, beyond: scrollWidth - clientWidth};
"""


def look(page: str, script: str, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """What a script leaves in ``out``, run on a page in a frame of 400 pixels; complaints on the console."""
    host = f"""<!doctype html><body><iframe id="frame" style="width:400px;height:800px;border:0"
      srcdoc="{html.escape(page)}"></iframe><script>window.onload = () => {{
      const frame = document.getElementById("frame"); {LOOK} {script}
      document.body.textContent = JSON.stringify(out); }};</script></body>"""
    path = folder / "host.html"
    path.write_text(host, "utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    done = subprocess.run(
        [str(CHROMIUM), *options, f"--user-data-dir={folder / 'profile'}", "--dump-dom", path.as_uri()],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    (body,) = re.findall(r"<body>(.*)</body>", done.stdout, re.S)
    return json.loads(html.unescape(body)), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


PLAY = """
out.seconds = all("audio").map(player => player.duration);
out.players = all("audio").map(player => player.error);
out.order = all("h1, h2, h3").map(h => h.tagName);
const picture = all("svg.plays")[1], {left, width} = picture.querySelector(".border").getBoundingClientRect();
const event = {bubbles: true, clientX: left + width / 4};
picture.dispatchEvent(new frame.contentWindow.MouseEvent("click", event));
out.at = all("audio")[0].currentTime / all("audio")[0].duration;
"""


@needs_browser
def test_a_recording_plays_in_a_browser(tmp_path: Path, result: Enhanced) -> None:
    page = report(tmp_path, result).page()
    out, complaints = look(page, PLAY, tmp_path)
    assert complaints == []
    assert out["seconds"] == pytest.approx(4 * [result.speech.shape[-1] / result.sample_rate], abs=0.01)
    assert out["players"] == 4 * [None]
    assert 300 < out["width"] <= 400
    assert out["beyond"] == 0
    assert out["order"] == ["H1", "H2", "H3", "H3", "H3", "H3", "H2"]
    assert out["at"] == pytest.approx(0.25, abs=0.01)
    # The control: what is too wide, or is loaded from elsewhere, is found out.
    wrong = '<img src="https://example.org/x.png" alt=""><div style="width:900px">wide</div>'
    broken = page.replace("<h1>", f"{wrong}<h1>")
    out, complaints = look(broken, "", tmp_path)
    assert out["beyond"] > 400
    assert len(complaints) == 1


SORT = """
const table = all("table")[1], names = [...table.tHead.rows[0].cells].map(cell => cell.textContent);
const by = name => {
  press(heading(table, name).querySelector("button"));
  return column(table, names.indexOf(name));
};
out.names = names;
out.seen = names.filter(name => !heading(table, name).hidden);
out.up = by("si_sdr out"); out.sorted = heading(table, "si_sdr out").getAttribute("aria-sort");
out.down = by("si_sdr out"); out.turned = heading(table, "si_sdr out").getAttribute("aria-sort");
out.missing = [by("estoi gain"), by("estoi gain")];
out.words = by("system");
press(all("button").find(button => button.textContent === "estoi"));
out.other = names.filter(name => !heading(table, name).hidden);
"""


@needs_browser
def test_tables_sort_in_a_browser(tmp_path: Path) -> None:
    out, complaints = look(results_page(measured()), SORT, tmp_path)
    assert complaints == []
    assert 300 < out["width"] <= 400
    assert out["beyond"] == 0
    found = ["-7.00", "-5.00", "6.00", "8.00", "13.00", "15.00"]
    assert (out["up"], out["sorted"]) == (found, "ascending")
    assert found != sorted(found)  # numbers, not words
    assert (out["down"], out["turned"]) == (found[::-1], "descending")
    assert [cells[-2:] for cells in out["missing"]] == [["—", "—"], ["—", "—"]]
    assert out["words"] == 3 * ["hmc <x>"] + 3 * ["langevin"]
    first = ["recording", "system", "seed", "time ratio"]
    assert out["seen"] == [*first, "si_sdr in", "si_sdr out", "si_sdr gain"]
    assert out["other"] == [*first, "estoi in", "estoi out", "estoi gain"]
