"""Results that must have the same bytes on any number of ranks, and however the ranks share the work."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import same_bytes
import torch
from conftest import RunMpi

pytestmark = pytest.mark.mpi

Found = dict[str, Any]


@pytest.fixture(scope="module")
def four(run_mpi: RunMpi, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What four ranks found."""
    path = tmp_path_factory.mktemp("four") / "result.json"
    done = run_mpi(4, "same_bytes.py", path)
    assert done.returncode == 0, done.stderr
    found: Found = json.loads(path.read_text())
    return found


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As the ranks have it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("room", list(same_bytes.ROOMS))
def test_four_ranks_give_the_bytes_of_one(room: str, four: Found) -> None:
    assert four["bytes"][room] == same_bytes.ROOMS[room]()


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("room", list(same_bytes.ROUNDED))
def test_ranks_that_share_an_item_give_its_numbers_to_rounding(room: str, four: Found) -> None:
    alone = same_bytes.ROUNDED[room]()
    assert four["rounded"][room].keys() == alone.keys()
    for name, values in alone.items():
        rtol = 1e-12 if name in ("eigenvalues", "smallest") else 1e-9
        atol = (1e-9 if name == "density" else 1e-13) * np.abs(values).max()
        np.testing.assert_allclose(four["rounded"][room][name], values, rtol, atol, err_msg=name)


def test_the_ways_to_share_agree_and_what_differs_differs(four: Found) -> None:
    found = four["bytes"]
    surface, path, agreement = found["surface"], found["path"], found["agreement"]
    assert surface["items over ranks"] == surface["data over ranks"] != surface["batchnorm"]
    assert path["places over ranks"] == path["data over ranks"]
    assert agreement[""] == agreement["ranks_per_item"] != agreement["batchnorm"]
