"""Frozen feature extractors: ``load("densenet161:imagenet")``, or one's own.

A network of one's own, trained or not, is a backbone in three lines; `register` gives it a name:

    def build(weights, *, seed, weights_dir):
        net = Pooled(my_convolutions, mean=[0.5], std=[0.25])
        return from_module(net, name="mine", size=96, pretraining=Pretraining(data=("kermany",)))

    register("mine", build)
    load("mine")
"""

from xraykit.backbones.base import (
    UNKNOWN,
    Backbone,
    Pooled,
    Pretraining,
    check_unseen,
    from_module,
    network_input,
    unnormalised,
    unpooled,
    weights_hash,
)
from xraykit.backbones.layers import at_layer, at_layers, layer_names, split_at
from xraykit.backbones.registry import load, names, register
from xraykit.backbones.weight_files import weights_dir, weights_path

__all__ = [
    "UNKNOWN",
    "Backbone",
    "Pooled",
    "Pretraining",
    "at_layer",
    "at_layers",
    "check_unseen",
    "from_module",
    "layer_names",
    "load",
    "names",
    "network_input",
    "register",
    "split_at",
    "unnormalised",
    "unpooled",
    "weights_dir",
    "weights_hash",
    "weights_path",
]
