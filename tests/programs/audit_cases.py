"""Small trained models and their audit, which must have the same bytes on any number of ranks; see same_bytes.py."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import landscape as ls
from landscape.checkpoints.trained import TrainedModels

CELLS = {"batch_size": [8, 16], "fraction": [0.25, 0.5, 1.0]}
RECIPE = {"epochs": 2, "lr": 0.1, "momentum": 0.0, "precision": "float64"}
ASKED: dict[str, Any] = {"knobs": ["batch_size", "rescaled"], "complexity": "batch_size", "within": 0.2, "draws": 200}
SIZE = ls.measure("size", lambda subject: subject.theta.square().sum())  # of all parameters as they stand
MEASURES = ("params", "param_norm", "fro_dist", SIZE)
NAMES = ("params", "param_norm", "fro_dist", "size")


def net() -> nn.Module:
    """An MLP with a BatchNorm after its first layer."""
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, eps=1e-12), nn.ReLU(), nn.Linear(5, 3)).double()


@functools.cache
def data(samples: int = 64, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Inputs and labels that follow from them."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, 4, generator=generator, dtype=torch.float64)
    return inputs, inputs[:, :3].argmax(1)


def trained(out: Path, **options: Any) -> ls.Training:
    """Six cells of two seeds, unless the options say otherwise."""
    asked = {"recipe": RECIPE, "cells": CELLS, "seeds": 2, "test": data(200, 2)} | options
    return ls.train_models(net, data(), out=out, **asked)


def models(folder: Path) -> TrainedModels:
    """Gradient descent from each seed to well above chance, where noise has an effect; written anew by every rank."""
    inputs, labels = data()
    rows = [(lr, seed) for lr in (0.5, 1.0) for seed in (0, 1)]
    finals, initials = [], []
    for lr, seed in rows:
        torch.manual_seed(seed)
        model = net()
        initials.append(folder / f"{lr}-{seed}-initial.pt")
        torch.save(model.state_dict(), initials[-1])
        for _ in range(40):
            gradients = torch.autograd.grad(
                nn.functional.cross_entropy(model(inputs), labels), list(model.parameters())
            )
            with torch.no_grad():
                for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                    parameter -= lr * gradient
        finals.append(folder / f"{lr}-{seed}.pt")
        torch.save(model.state_dict(), finals[-1])
    keys = {"lr": tuple(lr for lr, _ in rows)}
    errors = {"test_error": np.full(len(rows), 0.25)}
    return TrainedModels(keys, tuple(seed for _, seed in rows), tuple(initials), tuple(finals), errors)


def results() -> dict[str, str]:
    """Every number of an audit as text."""
    with tempfile.TemporaryDirectory() as folder:
        asked: dict[str, Any] = {"factory": net, "data": data(), "draws": 100}
        found = ls.audit_fragility(models(Path(folder)), [*MEASURES, "pacbayes_orig"], ["lr", "rescaled"], **asked)
    arrays = {**found.values, **found.comparisons.values}
    return {name: values.tobytes().hex() for name, values in arrays.items()}
