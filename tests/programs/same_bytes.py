"""What must have the same bytes on any number of ranks: mpiexec -n 4 python same_bytes.py RESULT.json"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import agreement_cases
import audit_cases
import basin_cases
import coherence_cases
import corpus_cases
import diagonal_cases
import evidence_cases
import forgetting_cases
import llc_cases
import path_cases
import phases_cases
import spectrum_cases
import structure_cases
import surface_cases
import torch

from landscape.run.comm import world

ROOMS: dict[str, Callable[[], dict[str, str]]] = {
    "surface": surface_cases.results,
    "path": path_cases.results,
    "agreement": agreement_cases.results,
    "diagonal": diagonal_cases.results,
    "evidence": evidence_cases.results,
    "coherence": coherence_cases.results,
    "llc": llc_cases.results,
    "phases": phases_cases.results,
    "corpus": corpus_cases.results,
    "spectrum": spectrum_cases.results,
    "structure": structure_cases.results,
    "audit": audit_cases.results,
    "basin": basin_cases.results,
    "forgetting": forgetting_cases.results,
}
# Where ranks share the data of one item, their sums differ by rounding: {room: the numbers of one item over ranks}
ROUNDED: dict[str, Callable[[], dict[str, list[float]]]] = {
    "diagonal": diagonal_cases.rounded,
    "spectrum": spectrum_cases.rounded,
    "structure": structure_cases.rounded,
    "forgetting": forgetting_cases.rounded,
}


def main() -> None:
    torch.set_num_threads(1)
    found = {
        "bytes": {name: results() for name, results in ROOMS.items()},
        "rounded": {name: results() for name, results in ROUNDED.items()},
    }
    assert len({json.dumps(f) for f in world().gather_all(found)}) == 1
    if world().rank == 0:
        Path(sys.argv[1]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
