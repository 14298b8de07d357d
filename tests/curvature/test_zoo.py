"""Hessian products of real architectures, against central differences of gradients by plain torch in float64.

Every model is built small from its own configuration with random weights. Where torchvision or transformers are not
installed, their models skip; both are in the extra `zoo`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from spectrum_nets import labels, seeded
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from landscape.curvature.operator import CurvatureOperator
from landscape.network.samples import SampleGradients
from landscape.objective.objective import Objective

Forward = Callable[[nn.Module, Any], tuple[Any, Any]]


@dataclass(frozen=True)
class Entry:
    """One architecture on a small batch; `forward` where the model is not called as model(inputs)."""

    model: nn.Module
    data: tuple[Tensor, Tensor]
    forward: Forward | None = None
    route: str = "double backward"
    rounds: bool = False  # to float32 inside, whatever the precision of its parameters


_LIBRARY: list[torch.library.Library] = []


def installed(name: str) -> ModuleType:
    """The package; torchvision's CUDA builds, which transformers loads too, miss two schemas beside a CPU torch."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed: pip install 'loss-landscape-engine[zoo]'")
    if not _LIBRARY and torch.version.cuda is None and "torchvision" not in sys.modules:
        _LIBRARY.append(torch.library.Library("torchvision", "DEF"))
        for operator in ("nms", "qnms"):
            _LIBRARY[0].define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module(name)


def transformers() -> ModuleType:
    return installed("transformers")


def vision() -> ModuleType:
    installed("torchvision")
    return importlib.import_module("torchvision.models")


def images(model: nn.Module, size: int, count: int = 3, classes: int = 4, **options: Any) -> Entry:
    return Entry(model, (seeded(count, 3, size, size), labels(count, classes=classes)), **options)


def texts(model: nn.Module, length: int = 6, *, shifted: bool, first: int = 1, rounds: bool = False) -> Entry:
    """A language model on texts: the next token, or each token itself, is to be told. Token 0 is the padding."""
    tokens = first + labels(3, length, classes=23 - first, seed=4)

    def forward(m: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        ids, targets = batch
        logits = m(input_ids=ids).logits
        if shifted:
            logits, targets = logits[:, :-1], targets[:, 1:]
        return logits.flatten(0, 1), targets.flatten()

    return Entry(model, (tokens, tokens), forward, rounds=rounds)


# -- plain torch ------------------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.LSTM | nn.GRU | nn.RNN]) -> None:
        super().__init__()
        self.rnn = kind(3, 5, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


def recurrent(kind: type[nn.LSTM | nn.GRU | nn.RNN]) -> Entry:
    return Entry(Recurrent(kind), (seeded(5, 6, 3), labels(5, classes=4)))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.out = nn.Embedding(11, 6), nn.Linear(6, 6), nn.Linear(6, 11, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(torch.tanh(self.mix(self.embed(tokens))).mean(1))


def tied() -> Entry:
    return Entry(Tied(), (labels(5, 7, classes=11), labels(5, classes=11)))


def group_norm() -> Entry:
    return images(
        nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 8, 3), nn.InstanceNorm2d(8, affine=True),
            nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4),
        ),
        8,
    )  # fmt: skip


def weight_norm(old: bool, dim: int) -> Entry:
    make = torch.nn.utils.weight_norm if old else torch.nn.utils.parametrizations.weight_norm
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = nn.Sequential(make(nn.Linear(3, 6), dim=dim), nn.Tanh(), make(nn.Linear(6, 4), dim=dim))
    return Entry(model, (seeded(5, 3), labels(5, classes=4)), route="any")


def spectral_norm() -> Entry:
    model = nn.Sequential(torch.nn.utils.parametrizations.spectral_norm(nn.Linear(3, 6)), nn.GELU(), nn.Linear(6, 4))
    return Entry(model, (seeded(5, 3), labels(5, classes=4)), route="any")


def encoder() -> Entry:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu", norm_first=True)
    model = nn.Sequential(nn.Linear(3, 8), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Flatten())
    model.append(nn.Linear(48, 4))
    return Entry(model, (seeded(5, 6, 3), labels(5, classes=4)))


# -- torchvision ------------------------------------------------------------------------------------------------------


def two_stages(model: nn.Module, width: int) -> nn.Module:
    """A ResNet of torchvision without its wide last stages; the first two hold every kind of block."""
    model.layer3, model.layer4, model.fc = nn.Identity(), nn.Identity(), nn.Linear(width, 4)
    return model


def resnet18() -> Entry:
    models = vision()
    return images(two_stages(models.ResNet(models.resnet.BasicBlock, [2, 2, 1, 1]), 128), 16)


def resnext() -> Entry:
    models = vision()
    model = models.ResNet(models.resnet.Bottleneck, [1, 1, 1, 1], groups=2, width_per_group=8)
    return images(two_stages(model, 512), 16)


def vit() -> Entry:
    model = vision().VisionTransformer(
        image_size=16, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=4
    )
    nn.init.normal_(model.heads.head.weight)  # zeros at the start
    return images(model, 16)


def swin() -> Entry:
    model = vision().SwinTransformer([2, 2], 8, [1, 1], [2, 2], [4, 4], num_classes=4)
    return images(model, 16)


def mobilenet() -> Entry:
    return images(vision().mobilenet_v2(num_classes=4, width_mult=0.1), 32, count=2)


def mobilenet_v3() -> Entry:
    """hardsigmoid has no second derivative in torch."""
    return images(vision().mobilenet_v3_small(num_classes=4, width_mult=0.2), 32, count=2, route="finite differences")


def efficientnet() -> Entry:
    models = vision()
    settings = [models.efficientnet.MBConvConfig(2, 3, 1, 8, 8, 1), models.efficientnet.MBConvConfig(2, 3, 2, 8, 16, 1)]
    return images(models.EfficientNet(settings, dropout=0.2, num_classes=4, last_channel=32), 16)


def convnext() -> Entry:
    models = vision()
    settings = [models.convnext.CNBlockConfig(8, 16, 1), models.convnext.CNBlockConfig(16, None, 1)]
    return images(models.ConvNeXt(settings, num_classes=4), 16)


def densenet() -> Entry:
    return images(vision().DenseNet(4, (2, 2), 8, num_classes=4), 32, count=2)


def vgg() -> Entry:
    models = vision()
    features = models.vgg.make_layers([4, "M", 8, "M"], batch_norm=True)
    model = models.VGG(features, num_classes=4)
    model.classifier = nn.Sequential(nn.Linear(8 * 49, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 4))
    return images(model, 16)


def squeezenet() -> Entry:
    return images(vision().squeezenet1_1(num_classes=4), 32, count=2)


# -- transformers -----------------------------------------------------------------------------------------------------

_SMALL = {
    "vocab_size": 23,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
}


def gpt2() -> Entry:
    package = transformers()
    return texts(
        package.GPT2LMHeadModel(package.GPT2Config(vocab_size=23, n_positions=16, n_embd=16, n_layer=2, n_head=2)),
        shifted=True,
    )


def bert() -> Entry:
    package = transformers()
    return texts(package.BertForMaskedLM(package.BertConfig(**_SMALL)), shifted=False)


def distilbert() -> Entry:
    package = transformers()
    config = package.DistilBertConfig(vocab_size=23, dim=16, hidden_dim=24, n_layers=2, n_heads=2)
    return texts(package.DistilBertForMaskedLM(config), shifted=False)


def llama() -> Entry:
    package = transformers()
    return texts(
        package.LlamaForCausalLM(package.LlamaConfig(**_SMALL, num_key_value_heads=1)), shifted=True, rounds=True
    )


def gpt_neox() -> Entry:
    package = transformers()
    return texts(package.GPTNeoXForCausalLM(package.GPTNeoXConfig(**_SMALL)), shifted=True)


def mixtral() -> Entry:
    """A mixture of experts: tokens are sent by the largest scores."""
    package = transformers()
    config = package.MixtralConfig(**_SMALL, num_key_value_heads=1, num_local_experts=3, num_experts_per_tok=2)
    config._experts_implementation = "eager"  # grouped products exist in float32 alone
    return texts(package.MixtralForCausalLM(config), shifted=True, rounds=True)


def t5() -> Entry:
    package = transformers()
    config = package.T5Config(vocab_size=23, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2)
    tokens = 1 + labels(3, 6, classes=22, seed=4)

    def forward(m: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        ids, targets = batch
        return m(input_ids=ids, decoder_input_ids=targets).logits.flatten(0, 1), targets.flatten()

    return Entry(package.T5ForConditionalGeneration(config), (tokens, tokens.roll(1, 1)), forward, rounds=True)


def mamba() -> Entry:
    package = transformers()
    config = package.MambaConfig(vocab_size=23, hidden_size=8, state_size=4, num_hidden_layers=1, use_mambapy=False)
    return texts(package.MambaForCausalLM(config), shifted=True, rounds=True)


ZOO: dict[str, Callable[[], Entry]] = {
    "LSTM": lambda: recurrent(nn.LSTM),
    "GRU": lambda: recurrent(nn.GRU),
    "RNN": lambda: recurrent(nn.RNN),
    "tied embedding": tied,
    "GroupNorm and InstanceNorm": group_norm,
    "weight_norm": lambda: weight_norm(False, 0),
    "old weight_norm, dim 0": lambda: weight_norm(True, 0),
    "old weight_norm, dim 1": lambda: weight_norm(True, 1),
    "spectral_norm": spectral_norm,
    "TransformerEncoder": encoder,
    "ResNet-18": resnet18,
    "ResNeXt": resnext,
    "ViT": vit,
    "Swin": swin,
    "MobileNetV2": mobilenet,
    "MobileNetV3": mobilenet_v3,
    "EfficientNet": efficientnet,
    "ConvNeXt": convnext,
    "DenseNet": densenet,
    "VGG": vgg,
    "SqueezeNet": squeezenet,
    "GPT-2": gpt2,
    "BERT": bert,
    "DistilBERT": distilbert,
    "Llama": llama,
    "GPT-NeoX": gpt_neox,
    "Mixtral": mixtral,
    "T5": t5,
    "Mamba": mamba,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", list(ZOO))
def test_product(name: str) -> None:
    """Along two random directions, to what a central difference is good for: 5e-6, with float32 inside 3e-3."""
    torch.manual_seed(0)
    entry = ZOO[name]()
    model = entry.model.double().eval()
    perturb(model)
    with CurvatureOperator(Objective(model, "cross_entropy", entry.data, forward=entry.forward)) as H:
        if entry.route != "any":
            assert H.check.route == entry.route, H.check.refused
        directions = seeded(2, H.size, seed=3)
        found = H.apply(directions)
        route = H.check.route
    assert found.abs().max() > 0
    for direction, image in zip(directions, found, strict=True):
        # a long step crosses kinks of ReLUs, a short one loses digits
        steps = (3e-3, 1e-3, 3e-4, 1e-4, 3e-5) if entry.rounds else (1e-5, 1e-6, 1e-7)
        gap = min(float((difference(entry, model, direction, h) - image).norm() / image.norm()) for h in steps)
        assert gap < (3e-3 if entry.rounds else 1e-4 if route == "finite differences" else 5e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["TransformerEncoder", "ResNet-18", "ViT", "GPT-2", "BERT", "Llama", "Mixtral", "T5"])
def test_products_whose_activations_are_computed_again(name: str) -> None:
    """They are those with activations kept: to rounding."""
    torch.manual_seed(0)
    entry = ZOO[name]()
    model = entry.model.double().eval()
    perturb(model)
    for module in model.modules():
        if hasattr(module, "config"):
            module.config.use_cache = False
    plain, again = (
        Objective(model, "cross_entropy", entry.data, forward=entry.forward, recompute=r) for r in (False, True)
    )
    assert len(again.recomputed) > 1
    with CurvatureOperator(plain) as H:
        directions = seeded(2, H.size, seed=3)
        found, gradient, check = H.apply(directions), H.gradient(), H.check
    with CurvatureOperator(again, check=check) as H:
        digits = 1e-5 if entry.rounds else 1e-10
        torch.testing.assert_close(H.apply(directions), found, rtol=digits, atol=digits * float(found.abs().max()))
        torch.testing.assert_close(H.gradient(), gradient, rtol=digits, atol=digits * float(gradient.abs().max()))


def test_a_cache_of_keys_is_refused_with_the_way_out() -> None:
    entry = gpt2()
    with pytest.raises(ValueError, match=r"cannot be computed again.*use_cache=False"):
        Objective(entry.model.eval(), "cross_entropy", entry.data, forward=entry.forward, recompute=True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "route"),
    [
        ("LSTM", "rules"),
        ("GRU", "rules"),
        ("tied embedding", "rules"),
        ("GroupNorm and InstanceNorm", "vmap"),
        ("old weight_norm, dim 0", "vmap"),
        ("TransformerEncoder", "vmap"),
        ("ResNeXt", "rules"),
        ("GPT-2", "rules"),
        ("Mixtral", "single"),
    ],
)
def test_gradients_of_single_samples(name: str, route: str) -> None:
    """Their sum, squares and products with a direction, against one backward pass for each."""
    torch.manual_seed(0)
    entry = ZOO[name]()
    model = entry.model.double().eval()
    perturb(model)
    objective = Objective(model, "cross_entropy", entry.data, forward=entry.forward)
    gradients, count = SampleGradients(objective, objective.layout.names, directions=True), objective.samples
    batch = objective.data.head(count).first
    with objective.differentiable() as (bound, parameters):
        found = gradients.of(bound, parameters, batch, count)
        along = gradients.along(bound, parameters, batch, count, found.gradient)
        outputs, targets = entry.forward(model, entry.data) if entry.forward else (model(entry.data[0]), entry.data[1])
        values = F.cross_entropy(outputs, targets, reduction="none").reshape(count, -1).sum(1)
        options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
        rows = [[g.double() for g in torch.autograd.grad(value, parameters, **options)] for value in values]
    squares = torch.stack([torch.stack([g.square().sum() for g in row]) for row in rows])
    loop = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    whole = torch.cat([g.flatten() for g in found.gradient]).double()
    assert gradients.route == route
    for one, true in ((found.squares, squares), (whole, loop.sum(0)), (along, loop @ loop.sum(0))):
        digits = 1e-6 if entry.rounds else 1e-10
        torch.testing.assert_close(one, true, rtol=digits, atol=digits * float(true.abs().max()))


def perturb(model: nn.Module) -> None:
    """Weights and statistics away from the zeros and ones of a fresh model."""
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            size = 0.1 * parameter.std() if parameter.ndim > 1 else torch.tensor(0.05)
            parameter += size.nan_to_num(0.05) * seeded(*parameter.shape, seed=100 + i)
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer += 0.5
            elif name.endswith("running_mean"):
                buffer += 0.1 * seeded(*buffer.shape, seed=7)


def difference(entry: Entry, model: nn.Module, direction: Tensor, step: float) -> Tensor:
    """(gradient at theta + h v - gradient at theta - h v) / 2 h of the mean loss, parameters in their order."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    parts = torch.split(direction, [p.numel() for p in parameters])
    found = []
    for sign in (1, -2):  # ahead, then behind
        with torch.no_grad():
            for parameter, part in zip(parameters, parts, strict=True):
                parameter += sign * step * part.view(parameter.shape)
        with sdpa_kernel(SDPBackend.MATH):
            outputs, targets = (
                entry.forward(model, entry.data) if entry.forward else (model(entry.data[0]), entry.data[1])
            )
        gradients = torch.autograd.grad(F.cross_entropy(outputs, targets), parameters, allow_unused=True)
        found.append(
            torch.cat(
                [
                    (torch.zeros_like(p) if g is None else g).flatten()
                    for p, g in zip(parameters, gradients, strict=True)
                ]
            )
        )
    with torch.no_grad():
        for parameter, part in zip(parameters, parts, strict=True):
            parameter += step * part.view(parameter.shape)
    return (found[0] - found[1]) / (2 * step)


def test_reentrant_checkpoints_are_refused_or_right() -> None:
    """Old activation checkpoints have no second derivative by autograd.grad; what is told is the way out."""

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(3, 6), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            from torch.utils.checkpoint import checkpoint

            return self.two(checkpoint(lambda y: torch.tanh(self.one(y)), x, use_reentrant=True))

    objective = Objective(Checkpointed().double(), "cross_entropy", (seeded(5, 3), labels(5, classes=4)))
    with pytest.raises(ValueError, match=r"(?s)no route to hessian products.*use_reentrant=True .give False"):
        CurvatureOperator(objective)


def test_padding_that_stands_in_the_data() -> None:
    """An embedding drops the gradient of its padding: what is left is the gradient of no function, and is refused."""
    entry = bert()
    model = entry.model.double().eval()
    tokens = labels(3, 6, classes=23, seed=4)
    assert (tokens == 0).any()
    objective = Objective(model, "cross_entropy", (tokens, tokens), forward=entry.forward)
    with pytest.raises(ValueError, match=r"(?s)no route to hessian products is right.*padding_idx stands in the data"):
        CurvatureOperator(objective)
