"""Tables of trained models: what they hold, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from landscape.checkpoints.trained import read_models
from landscape.errors import InputError

CSV = """\
width,batch_size,kind,seed,final,initial,loss,test_error
8, 32,plain,0,a.pt,a0.pt,0.5,0.25
8, 32,plain,1,b.pt,,0.25,
16,32,7,0,c.pt,,,
"""
TOML = """\
[[model]]
width = 8
batch_size = 32
kind = "plain"
seed = 0
final = "a.pt"
initial = "a0.pt"
loss = 0.5
test_error = 0.25

[[model]]
width = 8
batch_size = 32
kind = "plain"
seed = 1
final = "b.pt"
loss = 0.25

[[model]]
width = 16
batch_size = 32
kind = "7"
seed = 0
final = "c.pt"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.pt", "a0.pt", "b.pt", "c.pt"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(("name", "text"), [("models.csv", CSV), ("models.toml", TOML)])
def test_a_table_says_the_same_in_both_forms(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    models = read_models(folder / name)
    assert models.keys == {"width": (8, 8, 16), "batch_size": (32, 32, 32), "kind": ("plain", "plain", "7")}
    assert models.seed == (0, 1, 0)
    assert models.final == (folder / "a.pt", folder / "b.pt", folder / "c.pt")
    assert models.initial == (folder / "a0.pt", None, None)
    assert models.values["loss"][:2].tolist() == [0.5, 0.25]
    assert models.values["test_error"][0] == 0.25
    assert math.isnan(models.values["loss"][2])
    assert all(map(math.isnan, models.values["error"]))
    assert models.cells() == {(8, 32, "plain"): (0, 1), (16, 32, "7"): (2,)}
    assert models.trained() == (0, 1, 2)
    assert models.label(1) == "width=8,batch_size=32,kind=plain,seed=1"
    frame = models.to_pandas()
    assert frame["width"].tolist() == [8, 8, 16]
    assert frame["initial"].tolist() == [str(folder / "a0.pt"), "", ""]
    assert repr(models) == "TrainedModels(3 models in 2 cells by width, batch_size, kind)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no rows"),
        ("seed,final\n", "has no rows"),
        ("width,final\n8,a.pt\n", r"model 1: 'seed' is not given"),
        ("width,seed,fnal\n8,0,a.pt\n", r"model 1: 'final' is not given.*did you mean 'fnal'"),
        ("width,seed,final\n8,0,z.pt\n", r"final = 'z.pt' is not there; paths start from the folder of the table"),
        ("width,seed,final\n8,0.5,a.pt\n", r"seed = 0.5; give a whole number"),
        ("width,seed,final\n8,0,a.pt\n8,0,b.pt\n", r"the model width=8,seed=0 is there twice"),
        ("width,seed,final\n8,0,a.pt\n,1,b.pt\n", r"model 2: 'width' is not given"),
        ("width,seed,final\n8,0\n", r"model 1: 2 values for 3 columns"),
        ("width,width,seed,final\n8,8,0,a.pt\n", "column 'width' is there twice"),
        ("seed,final,test_error\n0,a.pt,40\n", r"test_error = 40; give a fraction from 0 to 1"),
        ("seed,final,loss\n0,a.pt,low\n", r"loss = 'low'; give a number"),
    ],
)
def test_tables_that_are_refused(folder: Path, text: str, message: str) -> None:
    (folder / "models.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_models(folder / "models.csv")


def test_files_that_are_no_table(folder: Path) -> None:
    (folder / "models.toml").write_text("[train]\nlr = 1\n")
    with pytest.raises(InputError, match=r"holds train; a table of models is a list of \[\[model\]\]"):
        read_models(folder / "models.toml")
    (folder / "models.toml").write_text("[[model]\n")
    with pytest.raises(InputError, match="is not valid TOML"):
        read_models(folder / "models.toml")
    (folder / "models.toml").write_text('[[model]]\nseed = 0\nfinal = "a.pt"\nwidth = [8]\n')
    with pytest.raises(InputError, match=r"width = \[8\]; the key of a cell is a number or a text"):
        read_models(folder / "models.toml")
    for name, message in (
        ("a.pt", "is no table"),
        (".", "is a folder"),
        ("none.csv", "cannot be read: No such file"),
        ("gone", "is not there"),
    ):
        with pytest.raises(InputError, match=message):
            read_models(folder / name)
