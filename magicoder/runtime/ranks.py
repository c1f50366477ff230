"""Which of several processes this is, by what torchrun, Slurm or Fabric tell it in the environment."""

import os


def is_first() -> bool:
    """Whether this process speaks for all."""
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        if name in os.environ:
            return os.environ[name] == "0"
    return True


def started_elsewhere() -> tuple[int, int] | None:
    """Processes on each machine, and machines, that torchrun or Slurm started; None where this program starts them."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        return local, int(os.environ["WORLD_SIZE"]) // local
    if "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        nodes = int(os.environ.get("SLURM_NNODES", "1"))
        return int(os.environ["SLURM_NTASKS"]) // nodes, nodes
    return None
