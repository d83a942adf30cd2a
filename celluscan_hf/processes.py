"""Processes that torchrun, accelerate launch or mpirun has started, for commands that are not split over them."""

import os
import sys

_RANK = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")  # as Accelerate reads them
_SIZE = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def number_of_processes() -> int:
    """Number of processes that were started together; 1 without a launcher."""
    return _first_of(_SIZE, 1)


def left_to_first_process() -> bool:
    """Whether rank 0 does the work of this process; if so, a line on standard error says it."""
    rank, size = _first_of(_RANK, 0), number_of_processes()
    if size < 2 or rank == 0:
        return False
    print(f"rank {rank} of {size}: not split over processes, rank 0 does all of it", file=sys.stderr)
    return True


def _first_of(names: tuple[str, ...], default: int) -> int:
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdecimal()), default)
