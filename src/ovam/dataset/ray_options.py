"""Options of generating with Ray."""

from dataclasses import dataclass

from ovam.checks import whole


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """Where units are shared out.

    Attributes:
        address: Address of a Ray cluster, "auto" for the one that this machine belongs to; "" starts one on this
            machine alone, which ends with the run.
        workers: Processes that each load the model. 0 is one for each GPU of the cluster on GPUs; on the CPU, as many
            as the cluster's cores allow with as many threads as this process computes with.

    Raises:
        OptionError: the number is negative.
    """

    address: str = ""
    workers: int = 0

    def __post_init__(self) -> None:
        whole("workers", self.workers, least=0)
