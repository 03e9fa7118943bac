"""The processes that share one extraction, by Lightning Fabric: none, torchrun's, ``fabric run``'s, its own.

Rank r of W computes chunks r, r + W, ...; rank 0 holds the lock meanwhile and joins them. Tested with two
processes on one machine; several nodes need a cache folder that all of them see, and were not tested here.
"""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xraykit.embedding_choice import Choice
from xraykit.errors import DataError

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


def team_size(devices: int | None, num_nodes: int | None) -> tuple[int, int]:
    """Processes on each machine, and machines: as given, else as torchrun started them, else (1, 1).

    Raises:
        DataError: a number below 1, or another one than torchrun started.
    """
    for name, value in (("devices", devices), ("num_nodes", num_nodes)):
        if value is not None and value < 1:
            raise DataError(f"{name} is {value}; at least 1 is needed")
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return devices or 1, num_nodes or 1
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    nodes = int(os.environ["WORLD_SIZE"]) // local
    if devices not in (None, local) or num_nodes not in (None, nodes):
        raise DataError(
            f"devices = {devices} and num_nodes = {num_nodes} were given, but torchrun started {local} "
            f"processes on each of {nodes} machines; leave them out"
        )
    return local, nodes


def join(choice: Choice, *, devices: int, num_nodes: int) -> Team:
    """Start the processes, or find the place of this one among those already started.

    With `devices` above 1 and no torchrun, Fabric starts this very command again for each further process.

    Raises:
        DataError: Fabric cannot have so many devices, or contradicts the options of ``fabric run``.
    """
    world = devices * num_nodes
    if world == 1 and choice.backend == "openvino":
        return Team(0, 1, 1, None)
    from lightning_fabric import Fabric
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    mixed = choice.backend == "torch" and choice.precision == "bf16"
    try:
        fabric = Fabric(
            accelerator=choice.device,
            devices=devices,
            num_nodes=num_nodes,
            precision="bf16-mixed" if mixed else "32-true",
        )
        if os.environ.get("LT_CLI_USED") != "1":  # ``fabric run`` has launched it
            fabric.launch()
    except (ValueError, MisconfigurationException) as error:
        raise DataError(f"{devices} x {choice.device} on {num_nodes} machines: {error}") from error
    return Team(fabric.global_rank, fabric.world_size, devices, fabric)
