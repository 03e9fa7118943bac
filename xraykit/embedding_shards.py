"""The processes that share one extraction, by Lightning Fabric: none, torchrun's, ``fabric run``'s, its own.

Rank r of W computes chunks r, r + W, ...; rank 0 holds the lock meanwhile and joins them. Tested with two
processes on one machine; several nodes need a cache folder that all of them see, and were not tested here.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xraykit.devices import launch
from xraykit.embedding_choice import Choice

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Team:
    """This process among those that share the work.

    Attributes:
        rank: 0 to world - 1.
        world: number of processes.
        local: number of them on this machine.
        fabric: None for OpenVINO alone, which needs none.
    """

    rank: int
    world: int
    local: int
    fabric: "Fabric | None"

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.world > 1:
            self.fabric.barrier()


def join(choice: Choice, *, devices: int, num_nodes: int) -> Team:
    """Start the processes, or find the place of this one among those already started.

    With `devices` above 1 and no torchrun, Fabric starts this very command again for each further process.

    Raises:
        DataError: Fabric cannot have so many devices, or contradicts the options of ``fabric run``.
    """
    world = devices * num_nodes
    if world == 1 and choice.backend == "openvino":
        return Team(0, 1, 1, None)
    fabric = launch(
        choice.device,
        choice.precision if choice.backend == "torch" else "fp32",
        devices=devices,
        num_nodes=num_nodes,
    )
    return Team(fabric.global_rank, fabric.world_size, devices, fabric)
