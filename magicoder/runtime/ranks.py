"""Find the rank of this process in the environment that torchrun, Slurm or Fabric set."""

import os


def is_first() -> bool:
    """Return whether this process prints for all."""
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        if name in os.environ:
            return os.environ[name] == "0"
    return True


def find_launched_processes() -> tuple[int, int] | None:
    """Return processes per machine and machines of torchrun or Slurm; None if this program starts its processes."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        return local, int(os.environ["WORLD_SIZE"]) // local
    if "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        nodes = int(os.environ.get("SLURM_NNODES", "1"))
        return int(os.environ["SLURM_NTASKS"]) // nodes, nodes
    return None
