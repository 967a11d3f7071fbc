"""Pictures and pages of graphs: every variable is there, and a page derives what the package does."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from pyrodvae.graph import Graph, Verdict, compliance, graph_of, posterior
from pyrodvae.graph_command import SIZES, draw
from pyrodvae.graph_drawing import arrow_kinds, plot_graph
from pyrodvae.graph_layout import BENDS, CLEAR, RADIUS, bends, two_slices, unrolled
from pyrodvae.graph_page import graph_page, page_data
from pyrodvae.weights import make_pair

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NODE = shutil.which("node")
ENGINES = [name for name, found in (("chromium", CHROMIUM), ("node", NODE)) if found]
needs_script = pytest.mark.skipif(not ENGINES, reason="neither chromium nor node is there to run the script")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is there to click in")

LECTURE = Graph(
    {"A": "C", "B": "D", "C": "", "D": "", "E": "AB", "F": "A", "G": "", "H": "I", "I": "EJ", "J": "G"},
    observed="H",
    deterministic="I",
    plates={"H": ("data",), "I": ("data",)},
)


def random_graph(nodes: int, density: float) -> Graph:
    """Arrows from lower to higher numbers, each with the same probability."""
    arrow = torch.rand(nodes, nodes) < density
    return Graph({f"v{j}": [f"v{i}" for i in range(j) if arrow[i, j]] for j in range(nodes)})


@cache
def judged(name: str, frames: int = 5) -> tuple[Graph, Any]:
    """A model's graph, and the verdict on its paper's guide."""
    model, guide = make_pair(name, SIZES, "paper")
    graph = graph_of(model, frames)
    return graph, compliance(model, guide, frames=frames, graph=graph)


def run_script(engine: str, page: str, script: str, folder: Path) -> Any:
    """What a script, added to the page, leaves in ``out``; outside a browser, to the page's logic."""
    if engine == "node":
        (logic,) = re.findall(r'<script id="logic">(.*?)</script>', page, re.S)
        path = folder / "page.js"
        path.write_text(f"{logic}\nlet out;\n{script}\nconsole.log(JSON.stringify(out));", "utf-8")
        done = subprocess.run([str(NODE), str(path)], capture_output=True, text=True, check=True, timeout=120)
        return json.loads(done.stdout)
    path = folder / "page.html"
    tail = f"<script>let out;\n{script}\ndocument.body.textContent = JSON.stringify(out);</script></body>"
    path.write_text(page.replace("</body>", tail), "utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    done = subprocess.run(
        [str(CHROMIUM), *options, "--dump-dom", path.as_uri()],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    (body,) = re.findall(r"<body>(.*)</body>", done.stdout, re.S)
    return json.loads(body.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


# Layouts.


def test_frames_are_columns_and_variables_rows() -> None:
    at = unrolled(judged("dsae")[0]).at
    assert all(at[f"z_{t}"] == (t, 0) and at[f"x_{t}"] == (t, 1) for t in range(5))
    assert at["w"][0] < 0


def test_layers_put_parents_above_children_and_keep_nodes_apart() -> None:
    torch.manual_seed(0)
    for graph in [LECTURE, *(random_graph(9, 0.3) for _ in range(20))]:
        at = unrolled(graph).at
        assert all(at[parent][1] < at[child][1] for parent, child in graph.arrows)
        places = np.array([at[node] for node in graph.nodes])
        apart = np.linalg.norm(places[:, None] - places, axis=-1) + 9 * np.eye(len(places))
        assert apart.min() > 2 * RADIUS


def test_arrows_bend_around_nodes_in_their_way() -> None:
    at = {"a": (0.0, 0.0), "b": (1.0, 0.0), "c": (2.0, 0.0), "d": (0.0, 1.0)}
    found = bends(at, [("a", "b"), ("a", "c"), ("a", "d")])
    assert found["a", "b"] == found["a", "d"] == 0
    highest = abs(found["a", "c"]) * 2 / 2  # half the bend times the length: over b
    assert highest >= CLEAR
    assert max(b for b in map(abs, BENDS) if b < abs(found["a", "c"])) < CLEAR  # and no more than it has to
    assert bends({k: at[k] for k in "acd"}, [("a", "c")])["a", "c"] == 0  # with b away, it is straight


def test_two_slices_tell_the_last_frame_from_all_before() -> None:
    dkf, vrnn = (two_slices(judged(name)[0]) for name in ("dkf", "vrnn"))
    assert dkf is not None
    assert vrnn is not None
    assert set(dkf.graph.arrows) == {("z_{t-1}", "z_{t}"), ("z_{t-1}", "x_{t-1}"), ("z_{t}", "x_{t}")}
    assert not dkf.further
    assert vrnn.further == {(f"{a}_{{t-1}}", f"{b}_{{t}}") for a in "zx" for b in "zx"}
    assert two_slices(LECTURE) is None


def test_a_plate_with_strangers_inside_has_no_frame() -> None:
    graph = Graph({"z_0": "", "z_1": "", "z_2": ""}, plates={"z_0": ("p",), "z_2": ("p",), "z_1": ("q",)})
    assert set(unrolled(graph).boxes()) == {"q"}
    assert unrolled(graph).unframed() == {"z_0": ("p",), "z_2": ("p",)}
    assert set(unrolled(LECTURE).boxes()) == {"data"}


def test_layers_keep_what_is_in_no_plate_out_of_them() -> None:
    parents = {"mu": "", "theta": ["mu"], "sigma": "", "loc": ["theta"], "obs": ["loc", "sigma"]}
    plates = dict.fromkeys(("theta", "loc", "obs"), ("schools",))
    picture = unrolled(Graph(parents, plates=plates))
    left, top, right, bottom = picture.boxes()["schools"]
    x, y = picture.at["sigma"]
    assert top < y < bottom
    assert not left - RADIUS < x < right + RADIUS
    assert left < picture.at["loc"][0] < right


# Pictures.


def gids(svg: bytes) -> set[str]:
    return {found for element in ET.fromstring(svg).iter() if (found := element.get("id"))}


def test_an_svg_has_every_node_and_arrow(tmp_path: Path) -> None:
    graph, verdict = judged("dsae")
    path = tmp_path / "dsae.svg"
    plot_graph(graph, path, verdict=verdict, blanket_of="z_2", title="dsae")
    found = gids(path.read_bytes())
    assert {f"node-{node}" for node in graph.nodes} <= found
    assert {f"arrow-{parent}-{child}" for parent, child in graph.arrows} <= found
    assert "node-x_5" not in found
    again = tmp_path / "again.svg"
    plot_graph(graph, again, verdict=verdict, blanket_of="z_2", title="dsae")
    assert again.read_bytes() == path.read_bytes()


def test_colours_tell_what_a_node_is() -> None:
    trail = LECTURE.open_trail("A", "G", given="H")
    figure = plot_graph(LECTURE, trail=trail)
    patches = {p.get_gid(): p for p in figure.axes[0].patches if p.get_gid()}
    grey = {n for n in LECTURE.nodes if patches[f"node-{n}"].get_facecolor() != (1, 1, 1, 1)}
    assert grey == {"H"}
    shapes = {n for n in LECTURE.nodes if type(patches[f"node-{n}"]).__name__ == "RegularPolygon"}
    assert shapes == {"I"}
    plain = patches["arrow-C-A"].get_edgecolor()
    coloured = {a for a in LECTURE.arrows if patches[f"arrow-{a[0]}-{a[1]}"].get_edgecolor() != plain}
    assert coloured == {("A", "E"), ("E", "I"), ("J", "I"), ("G", "J")}
    blanket = plot_graph(LECTURE, blanket_of="E").axes[0].patches
    strong = {
        p.get_gid()[5:] for p in blanket if (p.get_gid() or "").startswith("node-") and p.get_linewidth() > 2
    }
    assert strong == {"E", *LECTURE.markov_blanket("E")}


def test_the_arrows_of_a_guide_are_its_verdict() -> None:
    kinds = arrow_kinds(judged("dsae")[1])
    into = {parent: kind for (parent, node), kind in kinds.items() if node == "z_1"}
    assert into == {
        "z_0": "missing",
        "x_0": "superfluous",
        **dict.fromkeys(("w", *(f"x_{t}" for t in range(1, 5))), "both"),
    }


def test_the_command_writes_what_the_name_says(tmp_path: Path) -> None:
    graph, verdict = judged("dkf")
    draw(str(tmp_path / "dkf.png"), "dkf, guide paper", graph, verdict)
    pixels = imread(tmp_path / "dkf.png")
    assert pixels.shape[0] > 300
    assert pixels[..., :3].min() < 0.2 < 0.95 < pixels[..., :3].max()
    draw(str(tmp_path / "dkf.html"), "dkf, guide paper", graph, verdict)
    assert "<title>dkf, guide paper</title>" in (tmp_path / "dkf.html").read_text("utf-8")
    with pytest.raises(ValueError, match=r"no name for a picture: end it in \.svg or \.png"):
        plot_graph(graph, "dkf.txt")


def test_names_that_are_no_mathematics_are_drawn_too(tmp_path: Path) -> None:
    graph = Graph({"a_b$ c": "", "δ^{x}": ["a_b$ c"], "%#&": ["a_b$ c"]})
    plot_graph(graph, tmp_path / "odd.svg", blanket_of="a_b$ c", title="$")
    assert {f"node-{node}" for node in graph.nodes} <= gids((tmp_path / "odd.svg").read_bytes())


# Pages.


def test_the_page_says_what_the_graph_says() -> None:
    graph, verdict = judged("dsae")
    data = page_data(graph, title="a </script> & b", verdict=verdict)
    page = graph_page(graph, title="a </script> & b", verdict=verdict)
    (written,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert json.loads(written) == json.loads(json.dumps(data))
    assert [node["id"] for node in data["nodes"]] == list(graph.nodes)
    assert {node["id"] for node in data["nodes"] if node["observed"]} == graph.observed
    assert tuple((p, c) for p, c, _ in data["arrows"]) == graph.arrows
    sees = {n: set(g) for group in verdict.sees.factors for f in group for n, g in f.given.items()}
    assert {n: set(g) for n, g in data["guide"]["sees"].items()} == sees
    assert "<title>a &lt;/script&gt; &amp; b</title>" in page
    assert not re.search(r"""(?:src|href)=|url\(|@import|fetch\(|@TITLE@|@DATA@""", page)  # nothing is loaded


@pytest.mark.parametrize("backward", [False, True])
def test_the_page_can_derive_the_posterior_in_the_order_of_the_guide(backward: bool) -> None:
    graph = judged("vrnn")[0]
    latents = graph.latent[::-1] if backward else graph.latent
    product = posterior(graph, latents)
    guide = page_data(graph, verdict=Verdict("it", product, product))["guide"]
    order = guide["order"]
    derived = {n: set(graph.needs(n, {*order[:i], *graph.observed})) for i, n in enumerate(order)}
    assert derived == product["z"].given
    other = order[::-1]
    wrong = {n: set(graph.needs(n, {*other[:i], *graph.observed})) for i, n in enumerate(other)}
    assert wrong != product["z"].given


def questions(count: int) -> tuple[list[Any], list[Any]]:
    """Random graphs with questions as the script takes them, and the answers of the package."""
    torch.manual_seed(1)
    asked, answers = [], []
    for i in range(count):
        graph = random_graph(3 + i % 8, float(torch.rand(())))
        a, b, *rest = (graph.nodes[j] for j in torch.randperm(len(graph.nodes)))
        given = rest[: int(torch.randint(0, len(rest) + 1, ()))]
        trail = graph.open_trail(a, b, given)
        told = [n for n in graph.nodes if n not in (a, *given) and not graph.d_separated(a, n, given)]
        asked.append([graph.nodes, graph.arrows, a, b, given])
        answers.append([
            [list(graph.markov_blanket(n)) for n in graph.nodes],
            None if trail is None else [trail.nodes, trail.forward, sorted(trail.opened.items())],
            told,
            list(graph.needs(a, [b, *given])),
        ])  # fmt: skip
    return asked, json.loads(json.dumps(answers))


ANSWER = """
out = ASKED.map(([nodes, arrows, a, b, given]) => {
  const graph = makeGraph(nodes, arrows), trail = openTrail(graph, a, b, given);
  return [nodes.map(n => blanket(graph, n)),
          trail && [trail.nodes, trail.forward, trail.opened.sort()],
          dependents(graph, a, given), needs(graph, a, [b, ...given])];
});
"""


@needs_script
@pytest.mark.parametrize("engine", ENGINES or ["none"])
def test_the_script_derives_what_the_package_does(engine: str, tmp_path: Path) -> None:
    asked, answers = questions(200)
    assert 60 < sum(answer[1] is None for answer in answers) < 140  # both answers are common
    page = graph_page(LECTURE)
    assert run_script(engine, page, ANSWER.replace("ASKED", json.dumps(asked)), tmp_path) == answers
    # A ball that is stopped by every collider, given or not, is found out.
    broken = page.replace("up = down ? opens.has(node) : passes", "up = down ? false : passes")
    assert broken != page
    assert run_script(engine, broken, ANSWER.replace("ASKED", json.dumps(asked)), tmp_path) != answers


MARKING = """
const lecture = makeGraph(NODES, ARROWS), kinds = new Set(), seen = [];
let seed = 1;
const random = () => (seed = (seed * 16807) % 2147483647) / 2147483647;
for (let i = 0; i < 60; i++) seen.push(makeTask(lecture, ["A", "E", "J"], ["H"], random));
out = {tasks: seen, right: mark(["A", "B"], ["B", "A"]), half: mark(["A", "B"], ["B", "C"])};
"""


@needs_script
@pytest.mark.parametrize("engine", ENGINES[-1:] or ["none"])
def test_exercises_have_the_answers_of_the_package(engine: str, tmp_path: Path) -> None:
    script = MARKING.replace("NODES", json.dumps(LECTURE.nodes)).replace("ARROWS", json.dumps(LECTURE.arrows))
    out = run_script(engine, graph_page(LECTURE), script, tmp_path)
    assert {task["kind"] for task in out["tasks"]} == {"blanket", "separation", "needs"}
    for task in out["tasks"]:
        if task["kind"] == "blanket":
            assert tuple(task["answer"]) == LECTURE.markov_blanket(task["node"])
        elif task["kind"] == "needs":
            assert tuple(task["answer"]) == LECTURE.needs(task["node"], task["given"])
        else:
            assert task["answer"] == LECTURE.d_separated(task["a"], task["b"], task["given"])
    assert {task["answer"] for task in out["tasks"] if task["kind"] == "separation"} == {True, False}
    assert out["right"] == {"right": True, "missed": [], "wrong": []}
    assert out["half"] == {"right": False, "missed": ["A"], "wrong": ["C"]}


CLICKS = """
const node = id => [...document.querySelectorAll(".node")].find(n => n.dataset.node === id);
const click = id => node(id).dispatchEvent(new MouseEvent("click"));
const press = text => [...document.querySelectorAll("button")].find(b => b.textContent === text).click();
const words = () => document.getElementById("side").textContent;
const marked = kind => [...document.querySelectorAll(`.node.${kind}`)].map(n => n.dataset.node);
const arrows = kind => [...document.querySelectorAll(`.arrow.${kind}`)].map(a => a.dataset.arrow);
out = {nodes: marked("node")};
click("z_1");
out.blanket = marked("strong");
press("Separation"); press("no evidence"); click("z_0"); click("x_2");
out.open = [arrows("trail"), words()];
click("z_1"); click("w");
out.closed = [marked("grey"), words()];
press("Guide"); click("z_1");
out.guide = [arrows("missing"), arrows("superfluous")];
press("Exercise");
state.task = {kind: "blanket", node: "x_1", answer: blanket(graph, "x_1")}; render();
click("z_1"); press("Check");
out.wrong = [words(), marked("missed")];
state.mark = null; render(); click("w"); press("Check");
out.right = words();
"""


@needs_browser
def test_clicks(tmp_path: Path) -> None:
    graph, verdict = judged("dsae")
    out = run_script("chromium", graph_page(graph, verdict=verdict), CLICKS, tmp_path)
    assert out["nodes"] == list(graph.nodes)
    assert set(out["blanket"]) == {"z_1", *graph.markov_blanket("z_1")}
    trail = graph.open_trail("z_0", "x_2")
    assert trail is not None
    assert trail.nodes == ("z_0", "z_2", "x_2")
    assert set(out["open"][0]) == {"z_0 z_2", "z_2 x_2"}
    assert "not d-separated" in out["open"][1]
    assert set(out["closed"][0]) == {"z_1", "w"}
    assert "not d-separated" in out["closed"][1]
    assert out["guide"] == [["z_0 z_1"], ["x_0 z_1"]]
    assert "Not so. Missed: {w}." in out["wrong"][0]
    assert out["wrong"][1] == ["w"]
    assert "Right." in out["right"]
