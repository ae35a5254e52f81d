"""What a worker of a replay is given and gives back, and the worker that asks no policy: without
torch its processes start in a fraction of a second."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import VlaPruneError
from .replay_records import Recording, ReplayedQuery
from .replay_scan import scan
from .replay_setting import ReplaySetting
from .replay_store import Key, ReplayStore

if TYPE_CHECKING:
    from .methods import Method


@dataclass(frozen=True)
class ReplayJob:
    """A pass over a bag, or a method on it.

    :param folder: of the bag's results.
    :param key: what the results are of.
    :param method: None for the pass that asks no policy.
    """

    bag: Path
    folder: Path
    key: Key
    method: 'Method | None' = None


@dataclass(frozen=True)
class ReplayOutcome:
    """What became of a job: what it found, or why it found nothing and the mend. An exception
    crosses no process: not every one can be pickled."""

    job: ReplayJob
    recording: Recording | None = None
    answers: tuple[ReplayedQuery, ...] | None = None
    wrong: tuple[str, str] | None = None


class ScanWorker:
    """Reads bags through, one after the other.

    :param setting: what all jobs have in common.
    """

    def __init__(self, setting: ReplaySetting) -> None:
        self._setting = setting

    def run(self, job: ReplayJob) -> ReplayOutcome:
        """Do a job, or take what an earlier run has done of it."""
        try:
            return ReplayOutcome(job, recording=self._scan(job))
        except VlaPruneError as error:
            return ReplayOutcome(job, wrong=(error.what, error.mend))

    def close(self) -> None:
        """Nothing is held open."""

    def _scan(self, job: ReplayJob) -> Recording:
        store = ReplayStore(job.folder)
        found = store.recording(job.key)
        if found is None:
            found = scan(job.bag, self._setting)
            store.put_recording(job.key, found)
        return found
