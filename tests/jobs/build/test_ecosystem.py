"""Checkpoints, models and adapters of other libraries as they come: Lightning, transformers, timm, torchvision, PEFT.

Every model is built small from its own configuration with random weights; where a library is missing its tests skip.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import shutil
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from landscape_jobs.build.objects import build
from landscape_jobs.build.run import run_job
from landscape_jobs.spec.job import parse_job
from safetensors.torch import load_file, save_file
from test_zoo import installed
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import landscape as ls
from landscape.errors import InputError

# Warnings of these libraries are theirs; and processes of pytest hand on none whose class only a worker can import.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


# -- Lightning --------------------------------------------------------------------------------------------------------

X, Y = torch.randn(20, 3, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 2


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


@pytest.fixture
def lightning() -> ModuleType:
    if importlib.util.find_spec("lightning") is None:
        pytest.skip("lightning is not installed: pip install 'loss-landscape-engine[lightning]'")
    if importlib.util.find_spec("torchvision") is not None:
        installed("torchvision")  # which torchmetrics loads
    return importlib.import_module("lightning.pytorch")


def checkpoint(lightning: ModuleType, path: Path, seed: int = 0, **arguments: Any) -> dict[str, Tensor]:
    """Train a Lightning module for two steps and save its checkpoint; the state of its network."""

    class Module(lightning.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self, width: int = 4, where: Any = None) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.net = network(seed)
            self.loss = nn.CrossEntropyLoss(weight=torch.ones(2))

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            return self.loss(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters())

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    module, quiet = Module(**arguments), {"enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False, **quiet)
    trainer.fit(module, torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), 10))
    trainer.save_checkpoint(path)
    return {name: value.clone() for name, value in module.net.state_dict().items()}


def test_a_checkpoint_of_lightning(lightning: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = [tmp_path / f"epoch={i}-step={2 * i}.ckpt" for i in (1, 5, 10)]
    states = [checkpoint(lightning, path, seed) for seed, path in enumerate(files)]
    model = network(9)
    with caplog.at_level(logging.INFO, "landscape"):
        ls.load_checkpoint(model, files[0])
    assert "names are taken after 'net.'; 1 tensors beside it are left out" in caplog.text
    assert all(torch.equal(value, states[0][name]) for name, value in model.state_dict().items())
    objective = ls.Objective(model, data=(X, Y))
    plane = ls.pca_plane(objective, tmp_path)
    assert plane.points is not None
    assert plane.points.labels == ("2", "10", "20")
    assert torch.equal(plane.points.vectors[2], objective.layout.flatten({n: states[2][n] for n in states[2]}))
    assert torch.equal(plane.points.buffers[2]["1.running_mean"], states[2]["1.running_mean"])
    aligned = ls.align(objective, files[0], files[1])  # under the network's own names, too
    assert aligned.keys() == model.state_dict().keys()
    assert not torch.equal(aligned["2.weight"], states[1]["2.weight"])


def test_hyperparameters_that_are_objects_are_refused_with_a_way_out(lightning: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    checkpoint(lightning, path, where=tmp_path)
    with pytest.raises(InputError, match=r"Path\).*is refused.*save_hyperparameters\(ignore=.*add_safe_globals"):
        ls.read_state(path)
    with torch.serialization.safe_globals([type(tmp_path)]):
        assert "net.0.weight" in ls.read_state(path)


def test_prefixes_of_an_attribute(tmp_path: Path) -> None:
    inner, other = network(1).state_dict(), network(2).state_dict()

    def under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {prefix + name: value for name, value in state.items()}

    objective = ls.Objective(network(), data=(X, Y))

    def read(state: Mapping[str, Tensor]) -> Tensor:
        plane = ls.plane_through(objective, [state, objective.theta])
        return plane.centre

    expected = read(inner)
    for state in (
        under("model.", inner),
        under("module.model.net.", inner),
        under("_orig_mod.net.", inner) | {"_orig_mod.head.weight": torch.ones(3)},
        under("net.", inner) | under("ema.", inner),  # the same twice
    ):
        assert torch.equal(read(state), expected)
    wrapped = nn.ModuleDict({"net": network()})  # the model has the attribute, the checkpoint has not
    save_file(inner, tmp_path / "inner.safetensors")
    ls.load_checkpoint(wrapped, tmp_path / "inner.safetensors")
    assert torch.equal(wrapped["net"][0].weight, inner["0.weight"])

    small = {name: value for name, value in inner.items() if name != "0.bias"}
    for state, says in (
        (under("net.", inner) | under("ema.", other), r"more than one network.*after 'net\.', or after 'ema\.'"),
        (under("net.", small), r"its names taken after 'net\.', does not fit the model; missing: 0\.bias"),
        (under("net.", inner | {"2.bias": torch.ones(3)}), r"of another shape: 2\.bias \(3,\) against \(2,\)"),
        (under("net.", inner | {"5.bias": torch.ones(3)}), r"unexpected: 5\.bias"),
        ({"a": torch.ones(3), "b.c": torch.ones(2)}, r"missing: 0\.weight.*unexpected: a, b\.c"),
    ):
        with pytest.raises(InputError, match=says):
            read(state)


# -- transformers -----------------------------------------------------------------------------------------------------

TOKENS = (torch.arange(6)[:, None] * 3 + torch.arange(6)[None]) % 11


def forward(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    return model(input_ids=batch[0]).logits[:, :-1].transpose(1, 2), batch[0][:, 1:]


@pytest.fixture
def transformers() -> ModuleType:
    package = installed("transformers")
    package.utils.logging.set_verbosity_error()
    package.utils.logging.disable_progress_bar()
    return package


def gpt2(transformers: ModuleType, seed: int = 0, **options: Any) -> nn.Module:
    torch.manual_seed(seed)
    sizes = {"vocab_size": 11, "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 2}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    model: nn.Module = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **ends, **options))
    return model


def language_objective(model: nn.Module) -> ls.Objective:
    return ls.Objective(model, data=(TOKENS,), forward=forward)


@pytest.mark.parametrize("form", ["whole", "sharded", "bin", "only the last name of the tied"])
def test_folders_of_transformers(transformers: ModuleType, tmp_path: Path, form: str) -> None:
    saved, model = gpt2(transformers, 1), gpt2(transformers, 2)
    options: dict[str, Any] = {"max_shard_size": "2KB"} if form == "sharded" else {}
    saved.save_pretrained(tmp_path, **options)
    assert (tmp_path / "model.safetensors.index.json").exists() == (form == "sharded")
    if form == "bin":
        state = load_file(tmp_path / "model.safetensors")
        (tmp_path / "model.safetensors").unlink()
        torch.save(state, tmp_path / "pytorch_model.bin")
    if form.startswith("only"):  # as safetensors.torch.save_model leaves it
        state = load_file(tmp_path / "model.safetensors")
        state["lm_head.weight"] = state.pop("transformer.wte.weight")
        save_file(state, tmp_path / "model.safetensors")
    assert ("lm_head.weight" in ls.read_state(tmp_path)) == form.startswith("only")
    ls.load_checkpoint(model, tmp_path)
    assert all(torch.equal(value, saved.state_dict()[name]) for name, value in model.state_dict().items())
    assert model.lm_head.weight is model.transformer.wte.weight
    objective = language_objective(gpt2(transformers, 3))
    plane = ls.plane_through(objective, [tmp_path, objective.theta])
    assert torch.equal(plane.centre, torch.cat([p.detach().flatten() for p in saved.parameters()]))


def test_the_body_of_a_model_and_what_does_not_fit(transformers: ModuleType, tmp_path: Path) -> None:
    saved, model = gpt2(transformers, 1), gpt2(transformers, 2)
    saved.transformer.save_pretrained(tmp_path / "body")
    ls.load_checkpoint(model, tmp_path / "body")  # lacks the prefix, and the head, which is tied
    assert torch.equal(model.lm_head.weight, saved.transformer.wte.weight)
    gpt2(transformers, 1, n_inner=7).save_pretrained(tmp_path / "narrow")
    with pytest.raises(InputError, match=r"of another shape: transformer\.h\.0\.mlp\.c_fc\.weight \(8, 7\)"):
        ls.load_checkpoint(model, tmp_path / "narrow")
    untied = gpt2(transformers, 1, tie_word_embeddings=False)
    untied.save_pretrained(tmp_path / "untied")
    with pytest.raises(InputError, match=r"different values for 'transformer\.wte\.weight' and 'lm_head\.weight'"):
        ls.load_checkpoint(model, tmp_path / "untied")


def test_a_tree_of_checkpoints(transformers: ModuleType, tmp_path: Path) -> None:
    models = {step: gpt2(transformers, step) for step in (5, 10, 40, 200)}
    for step, model in models.items():
        model.save_pretrained(tmp_path / f"checkpoint-{step}")
    models[200].save_pretrained(tmp_path)  # what Trainer.save_model leaves beside them
    (tmp_path / "runs").mkdir()
    objective = language_objective(models[200])
    expected = [torch.cat([p.detach().flatten() for p in model.parameters()]) for model in models.values()]
    as_text = sorted(tmp_path.glob("checkpoint-*"))
    assert as_text[0].name == "checkpoint-10"
    for given in (tmp_path, str(tmp_path), as_text, [str(path) for path in as_text]):
        plane = ls.pca_plane(objective, given)
        assert plane.points is not None
        assert plane.points.labels == ("5", "10", "40", "200")
        assert all(torch.equal(a, b) for a, b in zip(plane.points.vectors, expected, strict=True))
    plane = ls.pca_plane(objective, as_text, labels=[path.name[11:] + "!" for path in as_text])
    assert plane.points is not None
    assert plane.points.labels == ("5!", "10!", "40!", "200!")
    assert torch.equal(objective.layout.flatten(ls.read_state(tmp_path)), expected[-1])
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"folder of 4 checkpoints; name one, such as .*checkpoint-200"):
        ls.read_state(tmp_path)
    shutil.rmtree(tmp_path / "checkpoint-40")
    (tmp_path / "checkpoint-40").mkdir()
    with pytest.raises(InputError, match=r"checkpoint-40 is not a file, nor the folder of a checkpoint"):
        ls.pca_plane(objective, tmp_path)


def test_a_shard_that_is_missing_or_elsewhere(transformers: ModuleType, tmp_path: Path) -> None:
    gpt2(transformers).save_pretrained(tmp_path, max_shard_size="2KB")
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    part = sorted(set(content["weight_map"].values()))[0]
    (tmp_path / part).rename(tmp_path.parent / "elsewhere.safetensors")
    with pytest.raises(InputError, match=rf"names '{part}', which is not in its folder"):
        ls.read_state(tmp_path)
    first = next(iter(content["weight_map"]))
    content["weight_map"][first] = "../elsewhere.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"names '\.\./elsewhere\.safetensors', which is not in its folder"):
        ls.read_state(tmp_path)
    index.write_text("[1]")
    with pytest.raises(InputError, match="not the index of a sharded checkpoint"):
        ls.read_state(tmp_path)


# -- PEFT -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def peft(transformers: ModuleType) -> ModuleType:
    return installed("peft")


def adapted(peft: ModuleType, transformers: ModuleType, seed: int = 0, **options: Any) -> nn.Module:
    """GPT-2 with an adapter that is not zero, on the same base for every seed."""
    settings = {"r": 2, "target_modules": ["c_attn"], "fan_in_fan_out": True, **options}
    model: nn.Module = peft.get_peft_model(gpt2(transformers), peft.LoraConfig(**settings))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def test_an_adapter_is_a_model_of_its_own_parameters(peft: ModuleType, transformers: ModuleType) -> None:
    model = adapted(peft, transformers)
    objective = language_objective(model)
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert objective.layout.names == tuple(trainable)
    assert objective.layout.size < sum(p.numel() for p in model.parameters())
    spectrum = ls.measure_spectrum(objective, k=1, trace=False, density=False)
    with sdpa_kernel(SDPBackend.MATH):
        loss = nn.functional.cross_entropy(*forward(model.eval(), (TOKENS,)))
    gradient = torch.autograd.grad(loss, list(trainable.values()), create_graph=True)
    flat = torch.cat([g.flatten() for g in gradient])
    rows = [torch.autograd.grad(g, list(trainable.values()), retain_graph=True) for g in flat]
    hessian = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows]).double()
    assert spectrum.eigenvalues[0] == pytest.approx(float(torch.linalg.eigvalsh(hessian)[-1]), rel=1e-3)
    surface = ls.measure_surface(objective, ls.random_plane(objective), x=(-1, 1, 3), y=(-1, 1, 3))
    assert surface.values["loss"][1, 1] == pytest.approx(float(loss), rel=1e-5)


def test_patterns_restrict_a_plane_to_an_adapter(peft: ModuleType, transformers: ModuleType) -> None:
    model = adapted(peft, transformers)
    model.requires_grad_(True)  # everything varies, unless the plane says otherwise
    objective = language_objective(model)
    plane = ls.random_plane(objective, params="*.lora_*", orthogonal=True)
    for direction in plane.directions:
        moved = {name for name, part in objective.layout.unflatten(direction).items() if part.any()}
        assert moved == {name for name in objective.layout.names if ".lora_" in name}
    spectrum = ls.measure_spectrum(objective, k=1, params="*.lora_*", trace=False, density=False)
    own = ls.measure_spectrum(language_objective(adapted(peft, transformers)), k=1, trace=False, density=False)
    assert spectrum.eigenvalues[0] == pytest.approx(own.eigenvalues[0], rel=1e-3)


@pytest.mark.parametrize("more", [{}, {"modules_to_save": ["ln_f"]}, {"target_modules": ["c_attn", "wpe"]}])
def test_adapters_are_states_over_their_base(
    peft: ModuleType, transformers: ModuleType, tmp_path: Path, more: dict[str, Any]
) -> None:
    models = [adapted(peft, transformers, seed, **more) for seed in range(4)]
    for step, model in zip((8, 9, 10), models, strict=False):
        model.save_pretrained(tmp_path / f"checkpoint-{step}")
    objective = language_objective(models[3])
    plane = ls.pca_plane(objective, tmp_path)
    assert plane.points is not None
    assert plane.points.labels == ("8", "9", "10")
    for model, vector in zip(models, plane.points.vectors, strict=False):
        assert torch.equal(vector, torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad]))
    ls.load_checkpoint(models[3], tmp_path / "checkpoint-8")
    for name, value in models[3].state_dict().items():
        assert torch.equal(value, models[0].state_dict()[name]), name
    with pytest.raises(InputError, match=r"holds a PEFT adapter, and the model has none.*PeftModel\.from_pretrained"):
        ls.load_checkpoint(gpt2(transformers), tmp_path / "checkpoint-8")
    if not more:
        wider = adapted(peft, transformers, r=3)
        with pytest.raises(InputError, match=r"of another shape: .*lora_A\.default\.weight \(2, 8\) against \(3, 8\)"):
            ls.load_checkpoint(wider, tmp_path / "checkpoint-8")
        longer = adapted(peft, transformers, target_modules=["c_attn", "c_proj"])
        with pytest.raises(InputError, match=r"missing: .*c_proj\.lora_A"):
            ls.load_checkpoint(longer, tmp_path / "checkpoint-8")


# -- factories of job files -------------------------------------------------------------------------------------------

JOB = """
[model]
factory = "{factory}"
args = {args}
{checkpoint}
[data]
factory = "my_images:{data}"
[surface]
x = [-0.2, 0.2, 2]
[run]
out = "run"
"""
DATA = """
import torch


def images():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 3, 32, 32, generator=generator), torch.arange(4)


def folder():
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    steps = [v2.ToImage(), v2.Resize([32, 32]), v2.ToDtype(torch.float32, scale=True)]
    return ImageFolder("{images}", v2.Compose(steps))
"""


def job(home: Path, factory: str, args: str, checkpoint: str = "", data: str = "images") -> Any:
    (home / "my_images.py").write_text(DATA.replace("{images}", str(home / "pictures")))
    text = JOB.replace("{factory}", factory).replace("{args}", args)
    return parse_job(text.replace("{checkpoint}", checkpoint).replace("{data}", data), home / "job.toml")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_images", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("package", "factory", "args"),
    [
        ("torchvision", "torchvision.models:resnet18", "{ num_classes = 4 }"),
        ("timm", "timm:create_model", '{ model_name = "test_resnet", num_classes = 4, pretrained = false }'),
    ],
)
def test_models_of_other_packages_by_name(home: Path, package: str, factory: str, args: str) -> None:
    installed("torchvision")
    installed(package)
    module, _, name = factory.partition(":")
    trained = getattr(importlib.import_module(module), name)(**tomllib.loads(f"args = {args}")["args"])
    save_file(trained.state_dict(), home / "trained.safetensors")
    given = job(home, factory, args, 'checkpoint = "trained.safetensors"')
    objective = build(given).subject
    assert torch.equal(objective.theta, torch.cat([p.detach().flatten() for p in trained.parameters()]))
    surface = run_job(given)
    assert isinstance(surface, ls.Surface)
    assert surface.values["loss"].shape == (2,)
    assert len(set(surface.values["loss"])) == 2


def test_methods_are_factories(home: Path, transformers: ModuleType) -> None:
    installed("torchvision")
    settings = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=32, num_labels=4
    )
    torch.manual_seed(0)
    saved = transformers.ViTForImageClassification(settings)
    saved.save_pretrained(home / "vit")
    factory, args = "transformers:AutoModelForImageClassification.from_pretrained", "pretrained_model_name_or_path"
    objective = build(job(home, factory, f'{{ {args} = "vit" }}')).subject
    assert torch.equal(objective.theta, torch.cat([p.detach().flatten() for p in saved.parameters()]))
    with pytest.raises(InputError, match=r"has no 'AutoModelForImageClassification\.from_pretraind'; did you mean"):
        build(job(home, f"{factory[:-2]}d", f'{{ {args} = "vit" }}'))


def test_a_folder_of_images(home: Path) -> None:
    installed("torchvision")
    image = pytest.importorskip("PIL.Image")
    for number, name in enumerate(("bees", "cats", "dogs", "hens")):
        folder = home / "pictures" / name
        folder.mkdir(parents=True)
        for k in range(2):
            image.new("RGB", (40, 30 + k), (60 * number, 100, 50 * k)).save(folder / f"{k}.png")
    built = build(job(home, "torchvision.models:resnet18", "{ num_classes = 4 }", data="folder"))
    assert built.subject.samples == 8
    bare = job(home, "torchvision.models:resnet18", "{ num_classes = 4 }")
    args = {"factory": "torchvision.datasets:ImageFolder", "args": {"root": str(home / "pictures")}}
    bare = bare.model_copy(update={"data": bare.data.model_copy(update=args)})
    with pytest.raises(InputError, match="Image"):  # pictures, not tensors: a transform cannot be said in TOML
        build(bare)
