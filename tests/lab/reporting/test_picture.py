"""Pictures: drawn by matplotlib without a display, and only where it is asked for."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from importlib.resources import files

import pytest
from matplotlib.image import imread

from resilient.lab.reporting.picture import PALETTE, draw_png, write_pngs
from tests.lab.samples import made, run, sample


def pixels(png: bytes) -> tuple[int, int, set[int]]:
    """Width, height and the colours of all pixels, as 0xRRGGBB."""
    image = (imread(io.BytesIO(png))[:, :, :3] * 255).round().astype(int)
    height, width, _ = image.shape
    return width, height, set((image @ [0x10000, 0x100, 1]).ravel().tolist())


def rgb(name: str) -> int:
    return int(PALETTE[name][1:], 16)


def test_every_policy_is_drawn_in_its_colour():
    found = sample(scenarios=["metastable-retry-storm"], seeds=2)
    width, height, colours = pixels(draw_png(found, "metastable-retry-storm"))
    assert width > 1200
    assert 500 < height < width
    assert {rgb(name) for name in ("c0", "c1", "c2", "c3", "grey")} <= colours
    assert rgb("c4") not in colours
    assert 0xFFFFFF in colours


def test_a_picture_is_written_for_each_scenario(tmp_path):
    written = write_pngs(sample(policies=["default"], seeds=1), tmp_path / "new" / "folder")
    assert [path.name for path in written] == ["metastable-retry-storm.png", "slow-instance.png", "recovery-herd.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)


def test_a_name_does_not_lead_out_of_the_folder(tmp_path):
    (path,) = write_pngs(made([run("../../etc/x", "a", 0, series={"p99": [1.0]})]), tmp_path)
    assert path.parent == tmp_path


@pytest.mark.parametrize(
    "runs",
    [
        [run("o", "a", 0)],
        [run("o", "a", 0, series={"p99": [None, None]})],
        [run("o", f"policy {number}", 0, series={"own": [number, number + 1.0]}) for number in range(9)],
    ],
    ids=["no series", "no values", "more policies than colours"],
)
def test_what_there_is_can_be_drawn(runs):
    assert draw_png(made(runs), "o").startswith(b"\x89PNG")


def test_the_same_results_are_the_same_picture():
    found = sample(scenarios=["slow-instance"], policies=["none", "default"], seeds=2)
    assert draw_png(found, "slow-instance") == draw_png(found, "slow-instance")


def test_the_colours_are_those_of_the_page():
    css = files("resilient.lab.drawing").joinpath("report.css").read_text(encoding="utf-8")
    light = dict(re.findall(r"--([a-z0-9]+): (#[0-9a-f]{6});", css[: css.index("@media")]))
    assert {name: light[name] for name in PALETTE} == PALETTE


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)


def test_matplotlib_is_loaded_only_for_a_picture():
    code = "import sys; from resilient.lab.reporting import page, picture; sys.exit('matplotlib' in sys.modules)"
    assert python(code).returncode == 0


def test_without_matplotlib_the_error_names_the_extra():
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from resilient.lab.reporting.picture import draw_png\n"
        "draw_png(None, 'any')\n"
    )
    error = python(code).stderr.splitlines()[-1]
    assert error == "ModuleNotFoundError: pictures need matplotlib: pip install 'resilient-mesh[lab]'"


def test_a_display_is_not_needed_and_the_users_backend_is_left_alone():
    code = (
        "import matplotlib; matplotlib.use('svg')\n"
        "from resilient.lab.reporting.picture import draw_png\n"
        "from tests.lab.samples import sample\n"
        "draw_png(sample(seeds=1), 'recovery-herd')\n"
        "assert matplotlib.get_backend() == 'svg'\n"
        "import sys; assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr
