"""Options of generating with Ray."""

from dataclasses import dataclass

from ovam.checks import whole


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """Where units are shared out.

    Attributes:
        address: Address of a Ray cluster, "auto" for the one that this machine belongs to; "" starts one on this
            machine alone, which ends with the run.
        workers: Processes that each load the model. With 0, there is one for each GPU of the cluster if the model runs
            on GPUs. On the CPU, it is the number of the cluster's cores divided by the number of threads that this
            process uses.

    Raises:
        OptionError: the number is negative.
    """

    address: str = ""
    workers: int = 0

    def __post_init__(self) -> None:
        whole("workers", self.workers, least=0)
