"""
Job objects: the limits that Windows keeps for all processes of a container together, and their commit charge.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from infra.simulated.model.errors import COMMITMENT_LIMIT, WindowsError

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1024 * 1024

LIMIT_PROCESS_MEMORY = 0x100
LIMIT_JOB_MEMORY = 0x200
LIMIT_KILL_ON_JOB_CLOSE = 0x2000
CPU_RATE_ENABLE = 0x1
CPU_RATE_HARD_CAP = 0x4

MEMORY = {"cmd.exe": 4 * MIB, "conhost.exe": 6 * MIB, "powershell.exe": 70 * MIB}
"""What a program commits by merely running, in bytes: rough, as seen in Task Manager; others take 2 MiB."""
OTHER_MEMORY = 2 * MIB


@dataclass(frozen=True, slots=True)
class JobView:
    """
    What QueryInformationJobObject tells: the limit flags, both memory limits in bytes (0 when not set), and the CPU
    rate control's flags and rate (hundredths of a percent of all processors).
    """

    limit_flags: int = LIMIT_KILL_ON_JOB_CLOSE
    job_memory_limit: int = 0
    process_memory_limit: int = 0
    cpu_flags: int = 0
    cpu_rate: int = 0


@dataclass(slots=True, eq=False)
class Job:
    """
    A job object: its limits, the processes in it, and the most they ever committed together (bytes).
    """

    limits: JobView
    may_commit: Callable[[Process, int], bool]
    job_of_child: Callable[[Job], Job]
    processes: list[Process] = field(default_factory=list)
    peak: int = 0

    @property
    def commit(self) -> int:
        """
        What all processes in the job have committed, in bytes.
        """
        return sum(process.commit for process in self.processes)

    def process(self, image: str) -> Process:
        """
        Put a new process into the job, with nothing committed yet.
        """
        process = Process(self, image)
        self.processes.append(process)
        return process


@dataclass(slots=True, eq=False)
class Process:
    """
    One process in a job. ``image`` is its program's file name, ``commit`` its commit charge in bytes.
    """

    job: Job
    image: str
    commit: int = 0

    def allocate(self, size: int) -> bool:
        """
        Commit ``size`` more bytes; False when the job's limits refuse.
        """
        if not self.job.may_commit(self, size):
            return False
        self.commit += size
        self.job.peak = max(self.job.peak, self.job.commit)
        return True

    def begin(self) -> bool:
        """
        Commit what the program takes by merely running; False when that is already refused.
        """
        return self.allocate(MEMORY.get(self.image, OTHER_MEMORY))

    def spawn(self, image: str = "powershell.exe") -> Process:
        """
        Start a child, by the rule for children in the same job. Raises WindowsError 1455 when the limits refuse what
        it needs to run.
        """
        child = self.job.job_of_child(self.job).process(image)
        if not child.begin():
            child.end()
            raise WindowsError(COMMITMENT_LIMIT)
        return child

    def end(self) -> None:
        """
        End the process; what it had committed is free again.
        """
        if self in self.job.processes:
            self.job.processes.remove(self)
        self.commit = 0


def may_commit(process: Process, size: int) -> bool:
    """
    A commit is refused when it would pass the limit of the process or that of the whole job; nothing is killed and
    nobody is told.

    Source: hcsshim@0.11.7 internal/jobobject/limits.go and internal/jobcontainers/jobcontainer.go (the job's memory
    message is not acted on).
    """
    limits = process.job.limits
    if limits.limit_flags & LIMIT_PROCESS_MEMORY and process.commit + size > limits.process_memory_limit:
        return False
    return not (limits.limit_flags & LIMIT_JOB_MEMORY and process.job.commit + size > limits.job_memory_limit)


def job_of_child(job: Job) -> Job:
    """
    A child belongs to the job of its parent.

    Source: hcsshim@0.9.12 internal/exec (the job stands in the attribute list, so no child comes before it).
    """
    return job
