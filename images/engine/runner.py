"""Builds targets in the order of their needs, several at a time; only one process works in a build folder at a time."""

from __future__ import annotations

import fcntl
import os
import queue
import shlex
import shutil
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from images.engine import containers, docker_images, process
from images.engine import progress as progress_views
from images.engine.errors import BuildError, Cancelled, StepFailed
from images.engine.graph import BuildDecision, Target, decisions
from images.engine.graph import epoch as newest
from images.engine.inputs import Inputs, given_epoch
from images.engine.interrupts import sigterm_raises
from images.engine.place import Place
from images.engine.process import Stop
from images.engine.step import Step

# Most steps are a child process that uses one core, and some wait for the network or the disk.
MAX_STEPS = max(2, os.cpu_count() or 1)
# In bytes, less than any image takes: when a step fails and no more is free, the message names the free space.
_LOW_DISK_BYTES = 256 << 20
# In s: by this much a clock may go back, as that of a virtual machine does, without harm.
_CLOCK_S = 10.0
# How long an interrupt may wait until it is handled.
_TURN_S = 0.2


def build(
    place: Place,
    targets: Mapping[str, Target],
    wanted: Iterable[str],
    *,
    force: Iterable[str] = (),
    repeat: Sequence[str] = (),
) -> list[str]:
    """Build the wanted targets and what they need, where an input changed; the names of those built, as they ended.

    `force` names targets to build in any case. `repeat` is the command that builds a target, without its name, for
    error messages. Raises BuildError: after a failure the steps that run are finished, and no new ones are begun. On
    Ctrl-C and SIGTERM all children are ended, all unfinished results removed, and KeyboardInterrupt is raised.
    """
    wanted, force = list(wanted), frozenset(force)
    place.build.mkdir(parents=True, exist_ok=True)
    _check_clock(place)
    if not plan(place, targets, wanted, force=force):
        return []
    with progress_views.chosen() as progress, _locked(place, progress), sigterm_raises(), process.usual_umask():
        # Planned again: another build may have done the work while we waited for its lock.
        todo = plan(place, targets, wanted, force=force)
        _remove_leftovers(place, progress)
        return _Run(place, targets, force, progress, repeat).build_all(todo)


def plan(
    place: Place, targets: Mapping[str, Target], wanted: Iterable[str], *, force: Iterable[str] = ()
) -> list[BuildDecision]:
    """The targets that a build would build, each after what it needs. Raises BadGraph."""
    found = decisions(targets, wanted, place.stamps.built, force=frozenset(force))
    return [decision for decision in found if decision.reason]


@contextmanager
def build_folder_locked(place: Place) -> Iterator[progress_views.Progress]:
    """Hold the lock of the build folder, for work with what was built; wait for it where another process has it.

    During the block a SIGTERM raises KeyboardInterrupt.
    """
    place.build.mkdir(parents=True, exist_ok=True)
    with progress_views.chosen() as progress, _locked(place, progress), sigterm_raises(), process.usual_umask():
        yield progress


class _Run:
    def __init__(
        self,
        place: Place,
        targets: Mapping[str, Target],
        force: frozenset[str],
        progress: progress_views.Progress,
        repeat: Sequence[str],
    ) -> None:
        self._place = place
        self._targets = targets
        self._force = force
        self._layout = place.layout
        self._stamps = place.stamps
        self._progress = progress
        self._repeat = repeat
        self._stop = Stop()
        self._ended: queue.SimpleQueue[tuple[BuildDecision, str | BaseException]] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._free_bytes: dict[str, int] = {}

    def build_all(self, todo: list[BuildDecision]) -> list[str]:
        waiting = {decision.target.name: decision for decision in todo}
        under_way: set[str] = set()
        built: list[str] = []
        failed: list[BuildError] = []
        try:
            while waiting or under_way:
                if not failed:
                    self._start_ready(waiting, under_way)
                if not under_way:
                    break
                decision, outcome = self._next_ended()
                under_way.discard(decision.target.name)
                if isinstance(outcome, str):
                    built.append(decision.target.name)
                    self._progress.ended(decision.target.name, outcome)
                else:
                    self._progress.ended(decision.target.name, "failed")
                    failed.append(self._explain(decision, outcome))
        except BaseException:
            self._progress.report("stopping: ending the steps that run")
            self._stop.set()
            for thread in self._threads:
                while thread.is_alive():
                    # Ctrl-C again changes nothing: the steps are being ended.
                    with suppress(KeyboardInterrupt):
                        thread.join()
            raise
        if failed:
            rest = f"{failed[0].hint or ''}"
            if waiting:
                rest += f"\n  not begun: {', '.join(waiting)}"
            raise StepFailed("\n".join(error.message for error in failed), hint=rest)
        self._layout.collect()
        return built

    def _next_ended(self) -> tuple[BuildDecision, str | BaseException]:
        """The next target that ended. Waits in turns.

        Python runs a signal's handler between two instructions of the main thread (signal, "Execution of Python signal
        handlers"): one that comes just before that thread begins to wait would be handled when the step has ended.
        """
        while True:
            with suppress(queue.Empty):
                return self._ended.get(timeout=_TURN_S)

    def _start_ready(self, waiting: dict[str, BuildDecision], under_way: set[str]) -> None:
        """Start targets whose needs are built, as many as may run; those that turn out to be up to date are dropped."""
        # `waiting` is in the order of needs: a target that is dropped frees the ones after it.
        for name, decision in list(waiting.items()):
            blocked = any(need in waiting or need in under_way for need in decision.target.needs)
            if not blocked and len(under_way) < MAX_STEPS:
                del waiting[name]
                if self._start(decision):
                    under_way.add(name)

    def _start(self, decision: BuildDecision) -> bool:
        """Start building a target; False when its inputs, known only now, turn out to be those of its last build."""
        name = decision.target.name
        if decision.inputs is None:
            decision = decisions(self._targets, [name], self._stamps.built, force=self._force & {name})[-1]
            if decision.reason is None:
                self._progress.report(f"{name}: up to date, what it is made of did not change")
                return False
        assert decision.inputs is not None, "the inputs of a target are known once its needs are built"
        self._progress.started(
            name, f"{decision.reason}; from the network" if decision.target.network else f"{decision.reason}"
        )
        thread = threading.Thread(target=self._build_one, args=(decision, decision.inputs), name=name)
        self._threads.append(thread)
        thread.start()
        return True

    def _build_one(self, decision: BuildDecision, inputs: Inputs) -> None:
        try:
            self._ended.put((decision, self._make(decision.target, inputs)))
        except BaseException as error:  # the main thread handles it, whatever it is
            self._ended.put((decision, error))

    def _make(self, target: Target, inputs: Inputs) -> str:
        """Build one target, in its own thread; returns `built` or `given to Docker`."""
        place = self._place
        scratch = _scratch(place) / target.name
        scratch.mkdir(parents=True)
        log = _log(place, target)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb", buffering=0) as file:
            step = Step(
                target=target,
                inputs=inputs,
                root=place.root,
                build=place.build,
                scratch=scratch,
                log=file,
                stop=self._stop,
                owner=place.owner,
                epoch=self._epoch(target),
                layout=self._layout,
            )
            try:
                if target.name not in self._force and step.recover():
                    self._stamps.write(target, inputs, step.given)
                    return "given to Docker"
                target.build(step)
                # From here on the build is not stopped: what follows is quick and must be done whole.
                self._stop.check()
                self._stamps.forget(target)
                step.finish()
                self._stamps.write(target, inputs, step.given)
            except BaseException as error:
                if not isinstance(error, BuildError | OSError):
                    file.write(traceback.format_exc().encode())
                # Before the scratch folder of this step, which may have filled the disk, is removed.
                self._free_bytes[target.name] = shutil.disk_usage(place.build).free
                raise
            finally:
                step.abandon()
        return "built"

    def _epoch(self, target: Target) -> int:
        given = given_epoch()
        return given if given is not None else newest(self._targets, target.name, self._stamps.built)

    def _explain(self, decision: BuildDecision, error: BaseException) -> BuildError:
        name = decision.target.name
        log = _log(self._place, decision.target).relative_to(self._place.root)
        if isinstance(error, Cancelled):
            return error
        lines = [f"log: {log}"]
        if decision.target.network:
            lines.insert(0, "it fetches from the network; what was fetched before is still in build/cache")
        if (free := self._free_bytes.get(name, _LOW_DISK_BYTES)) < _LOW_DISK_BYTES:
            lines.insert(0, f"only {free >> 20} MiB were free where {self._place.build} lies")
        if self._repeat:
            lines.append(f"again: {shlex.join([*self._repeat, name])}")
        repeat = "\n  ".join(lines)
        if isinstance(error, BuildError):
            hint = f"{error.hint}\n  {repeat}" if error.hint else repeat
            return StepFailed(f"{name} was not built: {error.message}", hint=hint)
        if isinstance(error, OSError):
            return StepFailed(f"{name} was not built: {error}", hint=repeat)
        # An error in our own code: the traceback is in the log.
        return StepFailed(f"{name} was not built: unexpected {type(error).__name__}: {error}", hint=repeat)


def _check_clock(place: Place) -> None:
    """Raises BuildError when the clock was put back since the last build: signatures made then lie in the future.

    dnf and gpg would refuse these too, but would call them bad signatures.
    """
    lock = place.build / "lock"
    then, now = (lock.stat().st_mtime if lock.exists() else 0.0), time.time()
    if then > now + _CLOCK_S:
        last, this = (datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") for moment in (then, now))
        raise BuildError(
            f"this machine's clock says {this}, and the last build of {place.build} was at {last}",
            hint="set the clock; if it was wrong then, remove the keys that were made, and what they signed:"
            f" rm -rf {place.build / 'keys'} {place.build / 'cache/stamps'} {lock}",
        )


def _scratch(place: Place) -> Path:
    return place.build / "tmp"


def _log(place: Place, target: Target) -> Path:
    return place.build / "logs" / f"{target.name}.log"


def _remove_leftovers(place: Place, progress: progress_views.Progress) -> None:
    """Remove containers, images and files that a killed build left. We hold the lock, so that no build uses them."""
    left = [f"container {name}" for name in containers.remove_leftovers(place.owner)]
    left += [f"image {tag}" for tag in docker_images.remove_leftovers(place.owner)]
    if _scratch(place).exists():
        left += [str(path.relative_to(place.root)) for path in _scratch(place).iterdir()]
        shutil.rmtree(_scratch(place))
    if left:
        progress.report(f"removed what a killed build left: {', '.join(left)}")


@contextmanager
def _locked(place: Place, progress: progress_views.Progress) -> Iterator[None]:
    """Hold the build folder's lock; wait while another process has it. The kernel frees it when this process ends."""
    with (place.build / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            progress.report(f"waiting for the build of process {lock.read().strip() or '?'} to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
