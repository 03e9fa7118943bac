"""The network of a bundle as tensors and a description, and made again from them without any download.

Only architectures of the package and of its libraries are saved: a network of one's own would need the code
that builds it, and a bundle carries no code.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from xraykit import backbones, classifiers
from xraykit.backbones import Backbone, Pooled, Pretraining, from_module, torchvision_nets, xrv_nets
from xraykit.backbones.headless import headless
from xraykit.bundle import Bundle
from xraykit.classifiers import Classifier
from xraykit.errors import BundleError
from xraykit.nets import SmallEncoder

CNNS = ("cnn", "cnn-small", "cnn-group-norm", "cnn-small-group-norm")
OWN = ("phantom", "pixels", *CNNS)
WIDEST = 512
SIDES = (16, 1024)


def _is_known(architecture: str) -> bool:
    # One of ours first: the names of torchvision's need its import, which takes as long as PyTorch's.
    return architecture in (*OWN, *xrv_nets.DATA) or architecture in torchvision_nets.names()


def describe(bundle: Bundle) -> dict[str, object]:
    """What beside the tensors is needed to make the network again, as JSON values.

    Raises:
        BundleError: an architecture that is not the package's or a library's.
    """
    if not _is_known(bundle.architecture):
        registered = bundle.architecture in backbones.names()
        why = (
            "was registered by you, and a bundle carries no code to build it" if registered else "is unknown"
        )
        raise BundleError(
            f"the architecture {bundle.architecture!r} {why}; save bundles of phantom, "
            f"pixels, {', '.join(CNNS)}, or of a network of torchvision or torchxrayvision"
        )
    body, about = bundle.backbone.module, bundle.backbone.pretraining
    if not isinstance(body, Pooled) and bundle.architecture != "pixels":
        raise _other(bundle)
    network = {
        "architecture": bundle.architecture,
        "name": bundle.backbone.name,
        "size": bundle.backbone.size,
        "built_for": bundle.backbone.size if bundle.few_shot else bundle.head.size,
        "mean": body.mean.flatten().tolist() if isinstance(body, Pooled) else [],
        "std": body.std.flatten().tolist() if isinstance(body, Pooled) else [],
        "pretraining": {
            "data": list(about.data),
            "labels": list(about.labels),
            "source": about.source,
            "seeds": about.seeds,
        },
    }
    if not bundle.few_shot:
        head = bundle.head
        network |= {"model": head.name, "n_outputs": head.n_outputs, "dropout": head.dropout}
    return network


def tensors(bundle: Bundle) -> dict[str, torch.Tensor]:
    """The weights by name: of the backbone, or of the whole network."""
    module = bundle.backbone.module if bundle.few_shot else bundle.head
    return {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}


def check_same(bundle: Bundle, backbone: Backbone, model: Classifier | None) -> None:
    """Raise BundleError unless what was made again computes what that of `bundle` does."""
    size = bundle.backbone.size
    x = torch.rand(2, 1, size, size, generator=torch.Generator().manual_seed(0))
    pairs = [(bundle.backbone.module, backbone.module)] + ([(bundle.head, model)] if model else [])
    with torch.inference_mode():
        found = [(first(x), second(x)) for first, second in pairs]
    # Weights that lie in memory in another order are summed in another order.
    if not all(a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in found):
        raise _other(bundle)


def _other(bundle: Bundle) -> BundleError:
    return BundleError(
        f"{bundle.backbone.name} is not the {bundle.architecture} that xraykit builds, and a bundle carries "
        "no code; name its architecture, or save one that backbones.load or classifiers.build makes"
    )


def rebuild(
    about: Mapping[str, object], state: Mapping[str, torch.Tensor]
) -> tuple[Backbone, Classifier | None]:
    """The backbone of `describe` and `tensors`, and the network, where they are of one.

    Nothing is computed, and no weight takes memory, before the tensors are known to be those of the network.

    Raises:
        BundleError: tensors that are not those of the architecture, or not finite; sizes out of range.
    """
    whole, of = "n_outputs" in about, about["architecture"]
    prefix = "body." if whole else ""
    inside = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    outside = {k: v for k, v in state.items() if not k.startswith(prefix)}
    module = _skeleton(about, inside)
    _check_shapes(module, inside, architecture=of)
    pretraining = Pretraining(
        data=tuple(about["pretraining"]["data"]),
        labels=tuple(about["pretraining"]["labels"]),
        source=about["pretraining"]["source"],
        seeds=about["pretraining"]["seeds"],
    )
    named = {"name": about["name"], "size": about["size"], "pretraining": pretraining}
    _fill(module, inside, assign=True)
    if not whole:
        return from_module(module, **named), None
    _check_outputs(outside, about["n_outputs"])
    body = from_module(module, name=about["model"], size=about["built_for"], pretraining=pretraining)
    model = Classifier(body, about["n_outputs"], dropout=about["dropout"]).eval()
    _check_shapes(model, state, architecture=of)
    _fill(model, state, assign=False)
    return classifiers.as_backbone(model, **named), model


def _skeleton(about: Mapping[str, object], state: Mapping[str, torch.Tensor]) -> nn.Module:
    """The network of the architecture, its weights on PyTorch's meta device, where they have shapes alone."""
    architecture, side = about["architecture"], about["built_for"]
    if not _is_known(architecture):
        raise BundleError(
            f"its architecture {architecture!r} is unknown here; pip install -U xraykit torchvision"
        )
    if not all(SIDES[0] <= pixels <= SIDES[1] for pixels in (side, about["size"])):
        raise BundleError(
            f"its network takes {about['size']} pixels, made for {side}; a side is {SIDES[0]}..{SIDES[1]}"
        )
    if architecture == "pixels":
        return nn.Flatten()
    channels = 1 if architecture in (*OWN, *xrv_nets.DATA) else 3
    mean, std = about["mean"], about["std"]
    if len(mean) != channels or len(std) != channels:
        raise BundleError(
            f"its mean {mean} and std {std} are not of {architecture}, which has {channels} channels"
        )
    return Pooled(_maps(architecture, side, state), mean=mean, std=std)


def _maps(architecture: str, side: int, state: Mapping[str, torch.Tensor]) -> nn.Module:
    if architecture in CNNS:
        return backbones.load(architecture).module.maps
    with torch.device("meta"):
        if architecture == "phantom":
            return SmallEncoder(_width(state))
        if architecture in xrv_nets.DATA and architecture.startswith("densenet"):
            return nn.Sequential(xrv_nets.library().models.DenseNet(weights=None).features, nn.ReLU())
        ours = architecture in xrv_nets.DATA
        with _Constants():
            model = torchvision_nets.untrained("resnet50" if ours else architecture, size=side, seed=0)
        if ours:
            model.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    return headless(model.to("meta"), torch.zeros(1, 1 if ours else 3, side, side, device="meta"))


class _Constants(TorchFunctionMode):
    """Constants keep their values on the meta device: RegNet computes its widths from them."""

    def __torch_function__(
        self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        return func(
            *args, **(kwargs or {}) | ({"device": "cpu"} if func in (torch.arange, torch.tensor) else {})
        )


def _width(state: Mapping[str, torch.Tensor]) -> int:
    first = state.get("maps.stem.0.weight")
    width = len(first) if first is not None and first.ndim == 4 else 0
    if not 1 <= width <= WIDEST:
        raise BundleError(f"its phantom has {width} channels in the first layer; 1..{WIDEST} are possible")
    return width


def _check_shapes(module: nn.Module, state: Mapping[str, torch.Tensor], *, architecture: str) -> None:
    own = module.state_dict()
    shapes, given = ({k: (v.dtype, tuple(v.shape)) for k, v in s.items()} for s in (own, state))
    wrong = sorted({*shapes.items()} ^ {*given.items()}, key=str)
    if wrong:
        name, (dtype, shape) = wrong[0]
        raise BundleError(
            f"its weights are not those of {architecture}: {len({k for k, _ in wrong})} tensors "
            f"differ, such as {name} {dtype} {shape}; get the bundle again"
        )
    bad = [k for k, v in state.items() if v.is_floating_point() and not v.isfinite().all()]
    if bad:
        raise BundleError(
            f"its weights have NaN or infinite numbers, in {', '.join(bad[:3])}; get the bundle again"
        )


def _check_outputs(state: Mapping[str, torch.Tensor], outputs: int) -> None:
    rows = {name: len(tensor) if tensor.ndim else 0 for name, tensor in state.items()}
    wanted = dict.fromkeys(("head.1.weight", "head.1.bias"), outputs)
    if rows != wanted:
        raise BundleError(f"its head has the rows {rows!r:.200} instead of {wanted}; get the bundle again")


def _fill(module: nn.Module, state: Mapping[str, torch.Tensor], *, assign: bool) -> None:
    """Load the tensors: `assign` them to a module without memory of its own, else copy them."""
    fitting = OrderedDict(state)
    fitting._metadata = module.state_dict()._metadata  # versions of the layers, which some of them insist on
    module.load_state_dict(fitting, assign=assign)
