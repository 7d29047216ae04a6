"""The page: complete, self-contained, well-formed, and true to the numbers."""

import html.parser
import json
import re
import subprocess
import sys

import numpy as np
import pytest

from ntk_train import main
from ntk_train.report import ReportError, read_run, write_report
from ntk_train.report.charts import Chart, Line, chart_html, shown, thinned
from ntk_train.report.density import density_picture
from ntk_train.report.page import page_of
from ntk_train.report.parts import smaller
from ntk_train.report.read import Series
from tests.report.run import make_run
from tests.test_imports import ROOT

VOID = {"meta", "img", "input", "line", "path", "circle", "image"}


class Page(html.parser.HTMLParser):
    """Checks that elements are closed in order; keeps texts and addresses."""

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.tags, self.words = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.addresses += [v for k, v in attributes if k in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.addresses += [v for k, v in attributes if k in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_has_everything_and_needs_nothing_else(tmp_path):
    folder = make_run(tmp_path, failures=2)
    path = write_report(folder)
    assert path == folder / "report.html"
    text = path.read_text()
    page = Page(text)
    outside = [address for address in page.addresses if not address.startswith("#")]
    assert all(address.startswith("data:image/png;base64,") for address in outside)
    assert not re.search(r"https?://|@import|url\(", text)
    words = " ".join(page.words)
    run = read_run(folder)
    for name in ("lambda_max", "effective_rank", "kernel_target_alignment", "relative_change"):
        assert shown(run.scalars[f"ntk/{name}"].last, False) in words, name
    for title in ("Loss", "Accuracy", "Eigenvalues", "Condition number", "Ranks", "Layers"):
        assert title in page.words
    assert "ntk: 2 measurements or writes failed, first noticed at step 0" in words
    assert "model.name" in page.words
    assert "trace <b>" in page.words, "the convention is text, not markup"
    assert len([tag for tag, _ in page.tags if tag == "img"]) == 3


def test_the_contents_lead_to_each_section(tmp_path):
    make_run(tmp_path)
    make_run(tmp_path, prefix="ntk_test")
    page = Page(page_of(read_run(tmp_path)))
    links = [address[1:] for address in page.addresses if address.startswith("#")]
    names = ("steps", "layers", "pictures", "convention")
    expected = [
        address for at in ("ntk", "ntk_test") for address in (at, *(f"{at}-{n}" for n in names))
    ]
    assert links == [*expected, "rest"]
    addresses = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert sorted(addresses) == sorted(links)  # each there, and there once


class Enclosing(Page):
    """Notes within which elements each table lies."""

    def __init__(self, text):
        self.classes, self.around = [], []
        super().__init__(text)

    def handle_starttag(self, tag, attributes):
        super().handle_starttag(tag, attributes)
        if tag == "table":
            self.around.append(list(self.classes))
        if tag not in VOID:
            self.classes.append(dict(attributes).get("class") or "")

    def handle_endtag(self, tag):
        super().handle_endtag(tag)
        self.classes.pop()


def test_every_table_scrolls_by_itself(tmp_path):
    text = page_of(read_run(make_run(tmp_path)))
    around = Enclosing(text).around
    assert len(around) == 4  # layers, convention, config, all numbers
    assert all("wide" in classes for classes in around)
    assert re.search(r"\.wide \{[^}]*overflow-x: auto", text)


def test_colours_have_a_dark_form(tmp_path):
    """Each variable of a colour has another value there, and ink stands out from paper."""
    style = re.search("<style>(.*?)</style>", page_of(read_run(make_run(tmp_path))), re.S).group(1)
    light, dark = (
        dict(re.findall(r"--(\w+): (#\w+)", block))
        for block in re.findall(r":root \{(.*?)\}", style, re.S)
    )
    assert light.keys() == dark.keys()
    for colours in (light, dark):
        for text, least in (("ink", 10), ("muted", 4.5), ("blue", 4.5), ("warm", 3)):
            for ground in ("paper", "desk"):
                assert contrast(colours[text], colours[ground]) > least, (text, ground)
    assert "prefers-color-scheme: dark" in style


def contrast(one, other):
    """The ratio of luminances, by WCAG 2.2."""

    def luminance(colour):
        digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_values_beside_the_charts_are_those_of_the_run(tmp_path):
    run = read_run(make_run(tmp_path))
    text = page_of(run)
    charts = {
        title: json.loads(data)
        for title, data in re.findall(
            r"<h3>([^<]*)</h3>.*?<script type=\"application/json\">(.*?)</script>", text
        )
    }
    (loss,) = charts["Loss"]
    assert loss["steps"] == [0, 5, 10]
    assert loss["texts"] == [shown(v, False) for v in run.scalars["train_loss"].values]
    largest = charts["Eigenvalues"][0]
    assert largest["texts"][-1] == shown(run.scalars["ntk/lambda_max"].last, False)
    (accuracy,) = charts["Accuracy"]
    assert accuracy["texts"] == ["0 %", "5 %", "10 %"]


def test_each_kernel_has_its_part(tmp_path):
    make_run(tmp_path, prefix="ntk/train")
    make_run(tmp_path, prefix="ntk/test")
    words = Page(page_of(read_run(tmp_path))).words
    assert words.count("Condition number") == 2
    assert {"ntk/train", "ntk/test"} <= set(words)


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_pictures_of_so_many_steps_with_the_last_in_sight(frames, tmp_path):
    run = read_run(make_run(tmp_path, steps=range(0, 70, 10)))
    images = [a for tag, a in Page(page_of(run, frames=frames)).tags if tag == "img"]
    steps = [int(image["data-step"]) for image in images]
    assert len(steps) == frames
    assert steps == sorted(steps, reverse=True)
    assert steps[0] == (60 if frames > 1 else 0)
    assert [image["class"] for image in images] == ["on"] + [""] * (frames - 1)


def drawn(values, **kwargs):
    series = Series(np.arange(len(values)), np.array(values, dtype=np.float64))
    chart = Chart("title & co", "note", (Line("curve", series),), **kwargs)
    return chart_html(chart, (0, len(values) - 1))


def test_a_curve_is_broken_where_a_value_has_no_place():
    path = re.search(r'<path d="([^"]*)"', drawn([1.0, 2.0, np.nan, 3.0, np.inf, 2.0])).group(1)
    assert path.count("M") == 3
    assert path.count("L") == 1


@pytest.mark.parametrize("values", [[1.0], [0.0, 0.0], [1e-300, 1e300], [-1.0, 1e30], [np.nan, 1]])
@pytest.mark.parametrize("log", [None, True])
def test_no_values_break_a_chart(values, log):
    text = drawn(values, log=log)
    assert "nan" not in re.search(r"<svg.*</svg>", text).group(0)
    assert "title &amp; co" in text
    Page(text)


def test_a_chart_without_values_is_left_out():
    assert drawn([np.nan, np.inf]) == ""


def test_values_without_a_place_on_a_log_axis_are_counted():
    assert "(2 ≤ 0)" in drawn([1.0, 0.0, -1.0, 5.0], log=True)


def test_bounds_are_hollow_and_said():
    series = Series(np.arange(3), np.array([5.0, 6.0, 7.0]))
    line = Line("curve", series, hollow=np.array([False, True, True]))
    text = chart_html(Chart("", "", (line,)), (0, 2))
    assert text.count('fill="var(--paper)"') == 2
    assert '["5", "≥ 6", "≥ 7"]' in text


def test_long_curves_are_thinned_and_keep_their_end():
    series = thinned(Series(np.arange(1003), np.arange(1003.0)), 100)
    assert len(series.steps) <= 101
    assert (series.steps[0], series.steps[-1]) == (0, 1002)


def test_the_density_shows_where_the_eigenvalues_are():
    pytest.importorskip("PIL")
    import io

    from PIL import Image

    low = np.array([[0.0, 0.1, 5.0], [0.1, 2.0, 0.0]])
    high = np.array([[0.0, 1.9, 0.0], [1.9, 2.0, 5.0]])
    png, bottom, top, first, last = density_picture({10: low, 20: high})
    assert (first, last) == (10, 20)
    assert (bottom, top) == pytest.approx((10**-0.02, 10**2.02))
    alpha = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))[..., 3]
    assert np.flatnonzero(alpha[:, 0]).min() > len(alpha) / 2, "the first step: low, below"
    assert np.flatnonzero(alpha[:, -1]).max() < len(alpha) / 2
    assert density_picture({10: low}) is None


def test_the_command_writes_where_it_is_told(tmp_path, monkeypatch, capsys):
    folder = make_run(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ntk-train", "report", str(folder), "--output", "a.html"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="0"):
        main.cli()
    assert capsys.readouterr().out.startswith("a.html (")
    Page((tmp_path / "a.html").read_text())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["missing"], "WORKDIR missing is no folder"),
        ([".", "--output", "no/such/a.html"], "--output no/such/a.html is a folder or lies in"),
        ([".", "--frames", "0"], "frames=0; expected 1 or more"),
    ],
)
def test_errors_of_the_command(arguments, text, tmp_path, monkeypatch, capsys):
    make_run(tmp_path, steps=[0], picture=False)
    monkeypatch.setattr(sys, "argv", ["ntk-train", "report", *arguments])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="1"):
        main.cli()
    assert capsys.readouterr().err.startswith(f"ntk-train report: {text}")


def test_an_output_that_is_a_folder_is_refused_before_reading(tmp_path):
    with pytest.raises(ReportError, match="expected a file to write"):
        write_report(tmp_path / "missing", tmp_path)


def test_the_page_is_made_without_tensorflow_and_matplotlib(tmp_path):
    folder = make_run(tmp_path, steps=[0])
    blocked = ["tensorflow", "clu", "matplotlib", "PIL", "tensorboardX"]
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked!r}))\n"
        f"sys.argv = ['ntk-train', 'report', {str(folder)!r}]\n"
        "from ntk_train.main import cli; cli()"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (folder / "report.html").exists()


def test_smaller_pictures_keep_thin_lines_of_a_colour_of_their_own():
    import io

    from PIL import Image

    ramp = np.tile(np.arange(256, dtype=np.uint8)[:, None, None], (1, 256, 3))
    ramp[..., 2] = 255  # from blue to white, as a kernel
    ramp[128, :, :] = (0, 158, 115)
    out = io.BytesIO()
    Image.fromarray(ramp).save(out, "PNG")
    found = smaller(out.getvalue())
    assert len(found) <= len(out.getvalue())
    pixels = np.asarray(Image.open(io.BytesIO(found)).convert("RGB")).astype(int)
    assert np.abs(pixels - ramp).max() <= 8
