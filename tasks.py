"""`invoke --list` shows what can be done. This file only gathers: the work is in the collections it names."""

from __future__ import annotations

from invoke.collection import Collection

import images.reporting
import images.ship.tasks
import images.tasks
import rpm.tasks
import tests.cluster.tasks
import tests.perf.tasks
import tests.tasks

namespace = Collection()
namespace.add_task(images.tasks.build_all, name="build-all")
for short in (tests.tasks.namespace, tests.perf.tasks.namespace):
    for name in short.task_names:
        namespace.add_task(short[name], name=name)
namespace.add_task(images.ship.tasks.release, name="release")
for shipped in (images.ship.tasks.push, images.ship.tasks.save, images.ship.tasks.load):
    images.tasks.namespace.add_task(shipped)
namespace.add_collection(images.tasks.namespace)
namespace.add_collection(rpm.tasks.namespace)
namespace.add_collection(tests.cluster.tasks.namespace)
images.reporting.cover(namespace)
images.reporting.guard()
