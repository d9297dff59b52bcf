"""The stable: which models are alive, who waits for them, who uses them, who leaves."""

from beastd.fleet.lease import Lease
from beastd.fleet.pool import Pool, WorkerStatus
from beastd.fleet.spec import WorkerSpec
from beastd.fleet.worker import Worker

__all__ = ["Lease", "Pool", "Worker", "WorkerSpec", "WorkerStatus"]
