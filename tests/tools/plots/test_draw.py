"""Pictures: valid files, true to the plan, and clear words where there is nothing to draw."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import fxteleport as ft
from fxteleport.tools.checking.session import Run
from fxteleport.tools.options.outputs import PICTURES
from fxteleport.tools.plots import channel_ranges, cob_by_layer, feature_maps, panels, weight_histograms
from fxteleport.tools.plots.draw import draw, rendered
from fxteleport.tools.plots.palette import dark_text, group_colour

pytest.importorskip("matplotlib", reason="pictures need matplotlib: pip install matplotlib")


@pytest.fixture(autouse=True)
def strict() -> object:
    """A layout that does not fit is a failure."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


@pytest.mark.parametrize("kind", PICTURES)
def test_a_png(kind: str, done: Run, tmp_path: Path) -> None:
    draw(kind, done, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.format == "PNG" and min(picture.size) > 200
        assert len(set(picture.convert("L").get_flattened_data())) > 20  # something is on it
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]  # nothing half written beside it


@pytest.mark.parametrize("kind", PICTURES)
def test_an_svg(kind: str, done: Run, tmp_path: Path) -> None:
    draw(kind, done, tmp_path / "a.SVG")
    assert ElementTree.parse(tmp_path / "a.SVG").getroot().tag.endswith("svg")


@pytest.mark.parametrize("form", ["png", "svg"])
def test_the_same_run_is_the_same_file(form: str, done: Run) -> None:
    assert rendered("cob", done, form) == rendered("cob", done, form)


def test_wrong_calls(done: Run, tmp_path: Path) -> None:
    for kind, path, message in (
        ("weight", "a.png", "no picture 'weight'"),
        ("cob", "a.pdf", r"a \.png or a \.svg file; got"),
        ("cob", "a", r"a \.png or a \.svg file; got"),
    ):
        with pytest.raises(ft.InputError, match=message):
            draw(kind, done, tmp_path / path)
    with pytest.raises(ft.TeleportError, match="folder does not exist"):
        draw("cob", done, tmp_path / "none" / "a.png")
    for kind in PICTURES:
        with pytest.raises(ft.InputError, match=r"no layer 'stm'.*did you mean .*stem"):
            draw(kind, done, tmp_path / "a.png", layers=["stm"])
    assert not list(tmp_path.iterdir())


def test_images_that_are_none(done: Run, tmp_path: Path) -> None:
    with pytest.raises(ft.InputError, match="there is no image"):
        draw("features", done, tmp_path / "a.png", image=tmp_path / "none.jpg")
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(ft.InputError, match="not an image that can be read"):
        draw("features", done, tmp_path / "a.png", image=tmp_path / "text.jpg")


def test_networks_with_nothing_to_draw(make_run: Callable[..., Run], tmp_path: Path) -> None:
    flat = make_run(nn.Linear(3, 3), torch.randn(2, 3))
    with pytest.raises(ft.InputError, match="nothing to draw"):
        draw("cob", flat, tmp_path / "a.png")
    with pytest.raises(ft.InputError, match="takes no image"):
        draw("features", flat, tmp_path / "a.png")
    bare = make_run(nn.ReLU(), torch.randn(2, 3))
    with pytest.raises(ft.InputError, match="nothing to draw"):
        draw("weights", bare, tmp_path / "a.png")


def test_matplotlib_is_an_extra(done: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(ft.InputError, match="pip install"):
        draw("cob", done, tmp_path / "a.png")


def test_an_image_of_any_size_and_colour(done: Run, tmp_path: Path) -> None:
    for mode, size in (("RGB", (40, 25)), ("L", (9, 30)), ("RGBA", (16, 16))):
        Image.new(mode, size).save(tmp_path / "image.png")
        draw("features", done, tmp_path / "a.png", image=tmp_path / "image.png", layers=["stem"])


def test_features_after_are_those_before_times_the_cob(done: Run) -> None:
    held = feature_maps._maps(done, done.loaded.args[0], ())
    assert len(held) > 1
    for maps in held:
        cob = torch.tensor(maps.cob)[:, None, None]
        torch.testing.assert_close(maps.after, maps.before * cob, rtol=1e-4, atol=1e-5)
        assert (cob != 1).any()


def test_features_of_tokens(make_run: Callable[..., Run]) -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.mix = nn.Conv2d(3, 6, 4, 4), nn.Linear(6, 6)
            self.token, self.head = nn.Parameter(torch.zeros(1, 1, 6)), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.embed(x).flatten(2).transpose(1, 2)
            x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
            return self.head(torch.relu(self.mix(x))[:, 0])

    done = make_run(Tokens(), torch.randn(2, 3, 16, 16))
    (maps,) = feature_maps._maps(done, done.loaded.args[0], ["mix"])
    assert maps.before.shape == (6, 4, 4)  # the class token is left out
    assert feature_maps._side(197) == 14 and feature_maps._side(196) == 14 and feature_maps._side(50) == 7
    assert feature_maps._side(130) == 0


def test_features_with_channels_last(make_run: Callable[..., Run]) -> None:
    """Swin's layout: the channels are where the CoB varies, or (pinned) what is no side of a square."""

    class ChannelsLast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.mix, self.head = nn.Conv2d(3, 6, 4, 4), nn.Linear(6, 9), nn.Linear(9, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.mix(self.embed(x).permute(0, 2, 3, 1)))
            return self.head(x).mean((1, 2))

    done = make_run(ChannelsLast(), torch.randn(2, 3, 16, 20))
    for layer, shape in (("embed", (6, 4, 5)), ("mix", (7, 4, 5))):
        (maps,) = feature_maps._maps(done, done.loaded.args[0], [layer])
        assert maps.before.shape == shape
        cob = torch.tensor(maps.cob)[:, None, None]
        torch.testing.assert_close(maps.after, maps.before * cob, rtol=1e-4, atol=1e-5)
    assert feature_maps.channel_axis(torch.zeros(1, 8, 8, 3), None) == 3
    assert feature_maps.channel_axis(torch.zeros(1, 3, 8, 8), None) == 1


@pytest.mark.parametrize("kind", PICTURES)
def test_titles_and_labels_are_within_the_figure(kind: str, make_run: Callable[..., Run]) -> None:
    import matplotlib

    from fxteleport.tools.plots.draw import _STYLE, _figure

    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(720, 2))
    done = make_run(
        model, torch.randn(2, 3, 16, 16), spec="a/rather/long/path/to/a/file_with_a_long_name.py:its_factory"
    )
    with matplotlib.rc_context(_STYLE):
        figure = _figure(kind, done, None, ())
        figure.draw_without_rendering()
    wide, high = figure.bbox.width, figure.bbox.height
    labels = [figure._suptitle, *(text for axis in figure.axes for text in (axis.xaxis.label, axis.yaxis.label))]
    for text in labels:
        box = text.get_window_extent()
        assert not text.get_text() or (box.x0 > -1 and box.y0 > -1 and box.x1 < wide + 1 and box.y1 < high + 1), text


def test_a_bin_has_values() -> None:
    assert weight_histograms.bins_for(144) == 11 and weight_histograms.bins_for(10**7) == 121
    assert all(weight_histograms.bins_for(n) % 2 for n in range(1, 10_000, 37))


def test_the_cob_is_that_of_the_layers(done: Run) -> None:
    held = cob_by_layer._cob_of_layers(done)
    free = done.plan.num_free
    drawn = np.unique(np.abs(np.concatenate(list(held.values()))))
    assert len(drawn) == free and np.allclose(np.sort(done.cob.values.abs().numpy()), drawn)
    assert len(held["stem"]) == 8 and "head" not in held  # outputs are pinned


def test_ranges_are_those_of_the_channels(done: Run) -> None:
    axis = channel_ranges.ranges(done, ["stem"]).axes[0]
    before, after = (m.get_parameter("stem.weight").detach().flatten(1) for m in (done.loaded.model, done.network))
    order = (before.amax(1) - before.amin(1)).argsort()
    _, high, low = (c.get_offsets()[:, 1] if len(c.get_offsets()) == 8 else None for c in axis.collections)
    assert np.allclose(high, after.amax(1)[order].numpy()) and np.allclose(low, after.amin(1)[order].numpy())


def test_pictures_of_unusual_weights(make_run: Callable[..., Run]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.Embedding(3000, 4), nn.Linear(4, 2)
            self.unused = nn.Parameter(torch.full((3, 2), float("nan")))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.relu(self.words(x)).mean(1))

    done = make_run(Net(), torch.randint(3000, (2, 5)))
    with torch.no_grad():
        for network in (done.loaded.model, done.network):
            network.get_parameter("unused").fill_(float("nan"))
    for kind in ("weights", "cob", "ranges"):
        assert rendered(kind, done, "svg") and len(rendered(kind, done, "svg")) < 3_000_000


def test_histograms_hold_every_weight(done: Run) -> None:
    axis = weight_histograms.weights(done, ["head"]).axes[1]
    patches = [p.get_data() for p in axis.patches]
    areas = [float((p.values * np.diff(p.edges)).sum()) for p in patches]
    assert len(areas) == 2 and all(0.999 < a < 1.001 for a in areas)


def test_layers_are_spread_over_the_depth() -> None:
    assert panels.spaced(5, 12) == [0, 1, 2, 3, 4]
    assert panels.spaced(100, 4) == [0, 33, 66, 99]
    assert panels.spaced(1, 4) == [0]


def test_colours() -> None:
    assert group_colour(1, "pinned") == group_colour(7, "pinned") != group_colour(7)
    assert len({group_colour(i) for i in range(12)}) == 12
    assert len({group_colour(i) for i in (0, 12, 24, 49)}) == 4  # a block of vit_tiny
    assert dark_text("#ffffff") and not dark_text("#000000")
