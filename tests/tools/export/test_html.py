"""The HTML page: one file, nothing from the network, no name that is taken for markup, and it works in a browser."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fxteleport as ft
from fxteleport.tools.checking.session import Run, run
from fxteleport.tools.export import html
from fxteleport.tools.export.html import page
from fxteleport.tools.models.load import load
from fxteleport.tools.models.request import Request
from fxteleport.tools.options.common import Settings

pytest.importorskip("matplotlib", reason="pictures need matplotlib: pip install matplotlib")


@pytest.fixture(scope="module")
def text(done: Run) -> str:
    return page(done)


@pytest.fixture(scope="module")
def data(text: str) -> Any:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_names_are_escaped(text: str, hostile: str) -> None:
    assert hostile not in text
    tags = Tags()
    tags.feed(text)
    assert [t for t, _ in tags.found].count("script") == 2
    assert all("onerror" not in a for _, a in tags.found)
    assert all((a["src"] or "").startswith("data:image/png") for t, a in tags.found if t == "img")


def test_it_needs_no_network(text: str) -> None:
    assert not re.search(r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//", text)
    assert "default-src 'none'" in text
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest", text)


def test_it_says_what_the_plan_says(data: Any, done: Run, hostile: str) -> None:
    groups = done.plan.groups
    assert [(g["id"], g["kind"], g["size"], len(g["members"])) for g in data["groups"]] == [
        (g.id, g.kind, g.size, len(g.members)) for g in groups
    ]
    nodes = {n["name"]: n for n in data["nodes"]}
    assert list(nodes) == [n.name for n in done.network.graph.nodes]
    stem = nodes["stem"]
    assert stem["moved"] == 1.0 and stem["parameters"] == 8 * 3 * 9 + 8 and stem["op"] == "Conv2d"
    assert [groups[i].kind for i in stem["groups"]] == ["free"]
    assert {n["change"] for n in data["nodes"]} == {"", "added", "wrapped"}
    assert any(hostile in n["within"] for n in data["nodes"])


def test_the_file_is_written_whole(done: Run, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "page", lambda _: text)
    html.write_html(done, tmp_path / "a.html")
    assert (tmp_path / "a.html").read_text() == text and text.endswith("</html>\n")
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(ft.TeleportError, match="cannot write"):
        html.write_html(done, tmp_path / "none" / "a.html")


def test_networks_with_little_to_show(make_run: Callable[..., Run]) -> None:
    text = page(make_run(nn.ReLU(), torch.randn(2, 3)))
    assert "nothing to draw" in text and "takes no image" in text


# -- in a browser ----------------------------------------------------------------------------------------


@pytest.fixture
def visit(browser: Any, tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    """Open a page's text; whatever the browser complains of, or asks the network for, is a failure at the end."""
    said: list[str] = []
    opened = []

    def go(text: str) -> Any:
        (tmp_path / "page.html").write_text(text)
        tab = browser.new_page(viewport={"width": 1400, "height": 1000})
        opened.append(tab)
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("dialog", lambda dialog: (said.append("a dialog: a name was run as code"), dialog.dismiss()))
        tab.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else said.append(r.url))
        tab.goto((tmp_path / "page.html").as_uri())
        tab.wait_for_selector("body[data-ready]")
        return tab

    yield go
    for tab in opened:
        tab.close()
    assert not said, said


def test_groups_are_searched_and_expanded(visit: Callable[[str], Any], text: str, done: Run) -> None:
    tab = visit(text)
    everything = len(done.plan.groups)
    assert tab.locator("tr.group").count() == everything
    tab.fill("#search", "stem")
    held = tab.locator("tr.group").count()
    assert 0 < held < everything and tab.inner_text("#found") == f"{held} of {everything} groups"
    tab.fill("#search", "#0")
    assert tab.locator("tr.group").count() == 1
    tab.locator("tr.group td").nth(3).click()
    assert tab.locator("tr.members li").count() == len(done.plan.groups[0].members)
    tab.locator("tr.group td").nth(3).click()
    assert tab.locator("tr.members").count() == 0
    tab.fill("#search", "no such thing")
    assert tab.locator("tr.group").count() == 0


def test_the_graph_opens_closes_and_explains(
    visit: Callable[[str], Any], text: str, done: Run, hostile: str, tmp_path: Path
) -> None:
    tab = visit(text)
    tab.click("#close")
    closed = tab.locator("#list .row").count()
    tab.locator("#list .row.module").first.click()
    assert tab.locator("#list .row").count() > closed
    tab.click("#open")
    names = tab.locator("#list .row > span:first-child").all_inner_texts()
    assert any(hostile in name for name in names)  # shown as it is
    tab.locator("#list .row", has_text="stem").first.click()
    facts = tab.inner_text("#facts")
    assert "Conv2d" in facts and "100% moved" in facts and "|tau| from" in facts
    tab.locator("#list .chip").first.click()
    assert tab.locator("#list .row.dim").count() > 0
    lines = tab.locator("#lines > path").count()
    assert lines > 5 and 0 < tab.locator("#lines > path.dim").count() < lines
    tab.click("#clear")
    assert tab.locator("#list .row.dim").count() == 0
    tab.click("#close")
    tab.fill("#find", "gelu")
    assert tab.locator("#list .row.hit").count() == 1
    tab.check("#plain")
    assert tab.locator("#list .row").count() > 0
    tab.screenshot(path=str(tmp_path / "seen.png"), full_page=True)
    assert (tmp_path / "seen.png").stat().st_size > 20_000


def test_members_lead_to_their_nodes(visit: Callable[[str], Any], text: str) -> None:
    tab = visit(text)
    tab.click("#close")
    tab.fill("#search", "norm")
    tab.locator("tr.group td").nth(3).click()
    tab.locator("tr.members a").first.click()
    assert tab.locator("#list .row.chosen").count() == 1


def test_a_large_network_opens_quickly(visit: Callable[[str], Any]) -> None:
    done = run(load("densenet121", Request((3, 32, 32))), Settings())
    text = page(done)
    assert len(text) < 10_000_000
    seconds = []
    for _ in range(3):  # the best of three: the machine may be busy
        start = time.perf_counter()
        tab = visit(text)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 3
    tab.click("#open")
    assert tab.locator("#list .row").count() >= 555


def test_a_found_node_is_seen_while_a_group_is_shown(visit: Callable[[str], Any], text: str, data: Any) -> None:
    opened = visit(text)
    opened.locator("#table .chip").first.click()
    opened.locator("#open").click()
    faded = opened.locator("#list .row.dim:not(.module)").first
    name = faded.locator("span[title]").get_attribute("title")
    opened.locator("#find").fill(name)
    seen = opened.locator("#list .row.chosen")
    assert float(seen.evaluate("row => getComputedStyle(row).opacity")) == 1


def test_the_keyboard_goes_through_rows_as_through_a_tree(visit: Callable[[str], Any], text: str) -> None:
    opened = visit(text)
    for part in ("#list", "#table"):
        assert opened.locator(f"{part} [tabindex='0']").count() == 1
        assert opened.locator(f"{part} button:not([tabindex='-1'])").count() == 0  # one stop of the Tab key
    focus = "document.activeElement.dataset.at"
    opened.locator("#list [tabindex='0']").focus()
    opened.keyboard.press("End")
    last = int(opened.evaluate(focus))
    opened.keyboard.press("ArrowUp")
    assert int(opened.evaluate(focus)) == last - 1
    opened.keyboard.press("Home")
    opened.keyboard.press("Enter")  # the first is an input: its facts are shown, and the focus stays
    assert opened.evaluate(focus) == "0" and opened.locator("#facts h3").count() == 1
    opened.keyboard.press("Escape")
    assert opened.evaluate(focus) == "0" and opened.locator("#facts h3").count() == 0
    opened.locator("#table [tabindex='0']").focus()
    opened.keyboard.press("Enter")
    opened.keyboard.press("ArrowDown")
    assert opened.locator("#table tr.members").count() == 1
    assert opened.evaluate("document.activeElement.matches('tr.group')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_page_in_both_schemes(scheme: str, visit: Callable[[str], Any], text: str) -> None:
    opened = visit(text)
    opened.emulate_media(color_scheme=scheme)
    opened.set_viewport_size({"width": 390, "height": 844})
    assert opened.evaluate("document.documentElement.scrollWidth") == 390
    back = opened.evaluate("getComputedStyle(document.body).backgroundColor")
    assert back == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 29)"}[scheme]
    for link in opened.locator("nav a").all():
        box = link.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    opened.locator("#list .row:not(.module)").first.click()
    box = opened.locator("#facts").bounding_box()
    assert box["y"] > 0 and box["y"] + box["height"] <= 845  # in sight
    opened.locator("#leave").click()
    assert not opened.locator("#facts").is_visible()


def test_no_network_runs_for_the_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    from fxteleport.tools.plots import feature_maps

    loaded, settings = load("test_vit", Request(redraw=True)), Settings()
    plan = settings.plan(loaded)
    kept = run(loaded, settings, plan=plan, keep=feature_maps.shown_nodes(plan, loaded))
    again = [
        (maps.layer, maps.channels, maps.cob) for maps in feature_maps._maps(run(loaded, settings), loaded.args[0], ())
    ]
    assert kept.values.keys() == set(feature_maps.shown_nodes(plan, loaded)) != set()

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("both networks are run once more")

    monkeypatch.setattr(feature_maps, "in_step", fail)
    assert [(m.layer, m.channels, m.cob) for m in feature_maps._maps(kept, loaded.args[0], ())] == again
