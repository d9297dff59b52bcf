"""The stable: which models are alive, who waits for them, who uses them, who leaves."""

from beastd.fleet.lease import Lease
from beastd.fleet.pool import Pool
from beastd.fleet.spec import Want, WorkerSpec
from beastd.fleet.status import FleetStatus, WorkerStatus
from beastd.fleet.worker import Worker

__all__ = ["FleetStatus", "Lease", "Pool", "Want", "Worker", "WorkerSpec", "WorkerStatus"]
