"""Writes shards and records for ever, until it is killed: python writer.py FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

import light  # noqa: F401
import numpy as np

from landscape.files import hdf5
from landscape.run.shards import write_shard

folder = Path(sys.argv[1])
for number in range(10**9):
    rows = [(number, {"vector": np.full(20_000, float(number))})]
    write_shard(folder / f"{number:06d}.npz", rows, {"vector": (20_000,)})
    hdf5.write(folder / "result.h5", hdf5.Group({"v": hdf5.Variable(("x",), np.full(50_000, float(number)))}))
