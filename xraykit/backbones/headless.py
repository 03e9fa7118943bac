"""Any classifier up to its last feature map, found by following the data back from the classifying head."""

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from xraykit.errors import DataError


def head_name(model: nn.Module) -> str:
    """Name of the child that classifies: the last one, as in every classifier of torchvision."""
    return list(model.named_children())[-1][0]


def headless(model: nn.Module, images: torch.Tensor) -> fx.GraphModule:
    """`model` without its head and the global pooling before it.

    The graph of the forward pass is recorded (torch.fx), with the head as one step. From the head's input we
    go back through whatever has no picture any more, (B, D) or (B, D, 1, 1), which is pooling, flattening and
    dropout, to the last feature map (B, D, h, w). A transformer that classifies a token leads back to its
    (B, tokens, D) instead: then the head's input (B, D) itself is the output.

    Args:
        images: (B, C, S, S), any values, to find the shapes with; on the device of the model.

    Raises:
        DataError: a forward pass that torch.fx cannot record.
    """
    head, model = head_name(model), model.eval()
    try:
        graph = _Tracer(head).trace(model)
    except (fx.proxy.TraceError, TypeError, RuntimeError) as error:
        raise DataError(
            f"torch.fx cannot follow {type(model).__name__} to its feature map: {error}. Wrap the layers "
            "before the pooling in backbones.Pooled and use backbones.from_module"
        ) from error
    traced = fx.GraphModule(model, graph)
    with torch.no_grad():
        ShapeProp(traced).propagate(images)
    classify = next(node for node in graph.nodes if node.target == head)
    output = node = classify.args[0]
    while _shape(node)[2:] in ((), (1, 1)):
        node = node.args[0]
    if len(_shape(node)) == 4:
        output = node
    return up_to(traced, output)


def up_to(traced: fx.GraphModule, output: fx.Node | list[fx.Node]) -> fx.GraphModule:
    """`traced` itself, cut so that it returns the value of `output`, or the list of values."""
    graph = traced.graph
    graph.erase_node(graph.output_node())
    graph.output(output)
    graph.eliminate_dead_code()
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def after(traced: fx.GraphModule, point: fx.Node) -> fx.GraphModule:
    """`traced` itself, cut so that it takes the value of `point`, which every way through it passes.

    Raises:
        DataError: what stands behind `point` uses the size of the images.
    """
    graph = traced.graph
    images = next(node for node in graph.nodes if node.op == "placeholder")
    with graph.inserting_before(images):
        maps = graph.placeholder("maps")
    point.replace_all_uses_with(maps)
    graph.eliminate_dead_code()
    if images.users:
        raise DataError(f"behind {point.name} the network uses the size of its images; choose a later layer")
    graph.erase_node(images)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


class _Tracer(fx.Tracer):
    def __init__(self, head: str) -> None:
        super().__init__()
        self.head = head

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return qualified_name == self.head or super().is_leaf_module(module, qualified_name)


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta["tensor_meta"].shape)
