"""Results that must have the same bytes on any number of ranks, and however the ranks share the work."""

from __future__ import annotations

import json

import pytest
import same_bytes
import torch
from conftest import RunMpi

pytestmark = pytest.mark.mpi

Found = dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def four(run_mpi: RunMpi, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What four ranks found."""
    path = tmp_path_factory.mktemp("four") / "result.json"
    done = run_mpi(4, "same_bytes.py", path)
    assert done.returncode == 0, done.stderr
    found: Found = json.loads(path.read_text())
    return found


@pytest.mark.parametrize("room", list(same_bytes.ROOMS))
def test_four_ranks_give_the_bytes_of_one(room: str, four: Found) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert four[room] == same_bytes.ROOMS[room]()
    finally:
        torch.set_num_threads(threads)


def test_the_ways_to_share_agree_and_what_differs_differs(four: Found) -> None:
    surface, path, agreement = four["surface"], four["path"], four["agreement"]
    assert surface["items over ranks"] == surface["data over ranks"] != surface["batchnorm"]
    assert path["places over ranks"] == path["data over ranks"]
    assert agreement[""] == agreement["ranks_per_item"] != agreement["batchnorm"]
