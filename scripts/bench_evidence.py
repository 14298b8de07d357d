"""Speed of log evidence and of kernels, as ratios against GPy in one run; prints a Markdown table.

    python scripts/bench_evidence.py [--only PART ...] [--peer PYTHON] [--samples N] [--quick]

GPy 1.15.0 is no dependency: `--peer` is the interpreter of an environment that holds it, as `python -m venv FOLDER` and
`FOLDER/bin/pip install GPy` make one. Both get the same file with a kernel and signs, and one thread. Every ratio is
the peer's processor time over ours (above 1: we are faster); of ours the median of three runs, of GPy's one. The
kernel's memory is the peak of a process of its own.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from benchmarks import Ratios, print_heading, print_row
from landscape_kernels.evidence import Evidence, laplace_evidence, signed_correlations
from landscape_kernels.nngp import nngp_kernel
from landscape_kernels.propagation import propagated_orthant

PARTS = ("ep", "probit", "laplace", "kernel")
WORDS = {"ep": "expectation propagation, Heaviside", "probit": "the same, probit", "laplace": "Laplace"}
PEER = """
import sys, time
import numpy as np
import GPy
from GPy.inference.latent_function_inference.expectation_propagation import EP
from GPy.inference.latent_function_inference.laplace import Laplace
from GPy.likelihoods.link_functions import Heaviside

class Given(GPy.kern.Kern):
    def __init__(self, values):
        super().__init__(1, [0], "given")
        self.values = values
    def K(self, X, X2=None):
        return self.values
    def Kdiag(self, X):
        return np.diag(self.values).copy()
    def update_gradients_full(self, *_):
        pass

found, part, parallel = np.load(sys.argv[1]), sys.argv[2], sys.argv[3] == "parallel"
likelihood = GPy.likelihoods.Bernoulli(gp_link=Heaviside() if part == "ep" else None)
method = Laplace() if part == "laplace" else EP(parallel_updates=parallel)
began = time.process_time()
model = GPy.core.GP(
    X=np.arange(len(found["signs"]))[:, None].astype(float),
    Y=(found["signs"] > 0).astype(int)[:, None],
    kernel=Given(found["kernel"]),
    inference_method=method,
    likelihood=likelihood,
)
print(float(model.log_likelihood()), time.process_time() - began)
"""
MEMORY = """
import resource, sys, time
import numpy as np
from landscape_kernels.nngp import nngp_kernel

inputs = np.random.default_rng(0).normal(size=(int(sys.argv[1]), 784))
before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
nngp_kernel(inputs, 2)
print(time.process_time() - began, before / 2**20, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


def problem(samples: int) -> tuple[np.ndarray, np.ndarray]:
    """A kernel of random images in two classes, and their signs."""
    stream = np.random.default_rng(0)
    signs = stream.choice([-1.0, 1.0], samples)
    inputs = stream.normal(size=(samples, 100)) + 0.3 * signs[:, None]
    return nngp_kernel(inputs, 2), signs


def ours(part: str, kernel: np.ndarray, signs: np.ndarray) -> tuple[Evidence, float]:
    """(what was found, the median of three processor times)."""
    times, found = [], Evidence(np.nan, np.nan)
    for _ in range(3):
        began = time.process_time()
        if part == "laplace":
            found = laplace_evidence(kernel, signs)
        else:
            noise = np.eye(len(kernel)) if part == "probit" else 0.0
            found = propagated_orthant(signed_correlations(kernel + noise, signs))
        times.append(time.process_time() - began)
    return found, statistics.median(times)


def run(python: str, text: str, *arguments: str) -> list[float]:
    """Numbers that a program prints in its last line."""
    done = subprocess.run([python, "-c", text, *arguments], capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.strip().splitlines()[-1].split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--peer", help="the interpreter of an environment with GPy")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--quick", action="store_true", help="60 samples: to see that all runs")
    parser.add_argument("--shared", type=Path, help="not used here")
    asked = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        if os.environ.get(name) != "1":  # the libraries read it when they are loaded
            os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
            os.execv(sys.executable, [sys.executable, *sys.argv])
    samples = 60 if asked.quick else asked.samples
    print_heading()
    kernel, signs = problem(samples)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "problem.npz"
        np.savez(path, kernel=kernel, signs=signs)
        for part in (part for part in asked.only if part != "kernel"):
            found, seconds = ours(part, kernel, signs)
            for order in ("parallel", "serial") if part != "laplace" else ("",):
                title = f"log evidence, {WORDS[part]}, {samples} samples"
                against = f"GPy 1.15.0{', ' + order + ' updates' if order else ''}"
                if asked.peer is None:
                    print_row(title, against, "no --peer", "", f"{seconds:.3g} s")
                    continue
                log, theirs = run(asked.peer, PEER, str(path), part, order or "parallel")
                times = f"{seconds:.3g} s against {theirs:.3g} s; gap {abs(log - found.log):.1e}"
                asked_for = ">= 10" if order else ""
                print_row(title, against, Ratios((theirs / seconds,), seconds, theirs), asked_for, times)
    if "kernel" in asked.only:
        count = 500 if asked.quick else 5000
        seconds, before, peak = run(sys.executable, MEMORY, str(count))
        told = f"{seconds:.3g} s, on top of {before:.3g} GiB"
        print_row(f"NNGP kernel of {count:,} images: memory", "", f"{peak - before:.3g} GiB", "<= 2 GiB", told)


if __name__ == "__main__":
    main()
