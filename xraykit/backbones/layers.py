"""Feature maps inside a network: its last point at every resolution, alone or several at once."""

import copy
from collections.abc import Sequence

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from xraykit.backbones.base import Backbone, Pooled, from_module, pooled_module
from xraykit.backbones.headless import after, up_to
from xraykit.errors import DataError


def layer_names(backbone: Backbone) -> list[str]:
    """The last point of every resolution of the network's feature maps, shallow to deep.

    A point is where everything that the network goes on with is one map (B, D, h, w): the end of a residual
    block, but nothing beside a shortcut. It is called by the outermost part of the network that ends there
    and holds no earlier point, such as ``"layer2"`` of ResNet-18, ``"features.5"`` of SqueezeNet or
    ``"blocks.1"`` of phantom; where no part ends, by the step itself, such as ``"relu"``, the last of
    DenseNet-121.

    Raises:
        DataError: a network without feature maps, or one that torch.fx cannot record.
    """
    return list(_points(_recorded(backbone)))


def at_layers(backbone: Backbone, names: Sequence[str]) -> nn.Module:
    """The network up to the deepest of `names`; nothing behind it is computed.

    Returns:
        A frozen copy on the CPU: grey images (B, 1, S, S) in 0..1, which it normalises as the backbone does,
        to a list of maps (B, D_l, h_l, w_l), in the order of `names`.

    Raises:
        DataError: no name or an unknown one (the message lists those that exist), or as `layer_names`.
    """
    if len(names) == 0:
        raise DataError(f"no layer was given; choose of {', '.join(layer_names(backbone))}")
    return _Maps(**_cut(backbone, list(names))).eval().requires_grad_(False)


def at_layer(backbone: Backbone, name: str) -> Backbone:
    """The backbone cut behind one layer, whose maps are averaged over the picture.

    For `embeddings.extract`; its name is ``"<backbone.name> at <layer>"``.

    Raises:
        DataError: as `at_layers`.
    """
    pooled = Pooled(**_cut(backbone, name))
    about = {"size": backbone.size, "pretraining": backbone.pretraining}
    return from_module(pooled, name=f"{backbone.name} at {name}", **about)


def split_at(backbone: Backbone, name: str) -> tuple[nn.Module, nn.Module]:
    """The network in two parts: from images to the maps of one layer, and from these to the features.

    Returns:
        The first part as from `at_layers`, for this one layer; and a module from its maps (B, D, h, w) to
        the backbone's features (B, D'), frozen as well.

    Raises:
        DataError: an unknown layer, one behind which the network uses the size of the images, or as
            `layer_names`.
    """
    first, recorded = at_layers(backbone, [name]), _recorded(backbone)
    rest = Pooled(after(recorded, _points(recorded)[name]), mean=[0.0], std=[1.0])
    return first, rest.eval().requires_grad_(False)


class _Maps(Pooled):
    """`Pooled` without the pooling: the maps themselves, a list of them."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return self._before_pooling(x)


def _cut(backbone: Backbone, wanted: str | list[str]) -> dict:
    """What `Pooled` takes: the network that returns one map, or the list of several, and mean and std."""
    recorded = _recorded(backbone)
    points = _points(recorded)
    unknown = {wanted} - points.keys() if isinstance(wanted, str) else set(wanted) - points.keys()
    if unknown:
        raise DataError(
            f"{backbone.name} has no layer {', '.join(map(repr, sorted(unknown)))}; "
            f"choose of {', '.join(points)}"
        )
    output = points[wanted] if isinstance(wanted, str) else [points[name] for name in wanted]
    statistics = {name: getattr(backbone.module, name).flatten().tolist() for name in ("mean", "std")}
    return {"maps": up_to(recorded, output)} | statistics


def _recorded(backbone: Backbone) -> fx.GraphModule:
    """A copy of the network as a graph, with the shape of every value for one image."""
    pooled = pooled_module(backbone, "feature maps")
    maps = copy.deepcopy(pooled.maps)
    if not isinstance(maps, fx.GraphModule):  # recording again would lose which part a step belongs to
        try:
            maps = fx.symbolic_trace(maps)
        except (fx.proxy.TraceError, TypeError, RuntimeError) as error:
            raise DataError(f"torch.fx cannot follow {backbone.name} to its layers: {error}") from error
    with torch.no_grad():
        ShapeProp(maps).propagate(torch.zeros(1, pooled.mean.numel(), backbone.size, backbone.size))
    if not _is_map(maps.graph.output_node().args[0]):
        raise DataError(
            f"{backbone.name} has no feature maps to choose from; take a convolutional one, such as resnet18"
        )
    return maps


def _points(recorded: fx.GraphModule) -> dict[str, fx.Node]:
    """The last point of every resolution by its name."""
    last = {}
    for node in _passed_by_all(recorded.graph):
        last[node.meta["tensor_meta"].shape[2:]] = node
    ends = {part: node for node in recorded.graph.nodes for part in _parts(node)}
    found, before = {}, set()
    for node in last.values():
        names = [part for part in _parts(node) if ends[part] is node and part not in before]
        found[names[0] if names else node.name] = node
        before.update(_parts(node))
    return found


def _passed_by_all(graph: fx.Graph) -> list[fx.Node]:
    """The maps in order that every way from the image to the output leads through."""
    order = {node: position for position, node in enumerate(graph.nodes)}
    found, needed_until = [], 0
    for node, position in order.items():
        if node.op in ("get_attr", "output") or "tensor_meta" not in node.meta:
            continue  # weights do not come from the image, sizes bring no picture of it
        if node.op != "placeholder" and needed_until <= position and _is_map(node):
            found.append(node)
        needed_until = max([needed_until, *(order[user] for user in node.users)])
    return found


def _is_map(node: fx.Node) -> bool:
    """Whether a value is (1, D, h, h); Swin's (1, h, h, D) and tokens (1, n, D) are not."""
    shape = getattr(node.meta["tensor_meta"], "shape", ())  # of several values it is a tuple
    return len(shape) == 4 and shape[0] == 1 and shape[2] == shape[3]


def _parts(node: fx.Node) -> list[str]:
    """Names of the modules in whose forward pass a step is, outermost first."""
    return [part for part, _ in node.meta.get("nn_module_stack", {}).values()]
