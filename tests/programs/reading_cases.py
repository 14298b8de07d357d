"""Jobs in the current folder whose data are read once or by each rank: mpiexec -n 2 python reading_cases.py

reading.json gets, of each case, how often data were read, and the exit code and messages of every rank.
"""

from __future__ import annotations

import json
from pathlib import Path

from landscape_jobs.cli import app
from typer.testing import CliRunner

from landscape.run.comm import world

CASES = {
    "once": ["run.read=once"],
    "each": ["run.read=each"],
    "dataset": ["run.read=once", 'data.args={kind="dataset"}'],
    "broken": ["run.read=once", 'data.args={kind="broken"}'],
}


def main() -> None:
    told = {}
    for name, settings in CASES.items():
        words = [word for setting in (*settings, f"run.out={name}") for word in ("--set", setting)]
        done = CliRunner().invoke(app, ["run", "job.toml", *words])
        ranks = world().gather_all((done.exit_code, done.stderr))
        if world().rank == 0:
            calls = Path("calls")
            told[name] = {"calls": len(calls.read_text()) if calls.exists() else 0, "ranks": ranks}
            calls.unlink(missing_ok=True)
        world().gather_all(None)  # no rank reads for the next case before that
    if world().rank == 0:
        Path("reading.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
