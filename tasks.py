"""`invoke --list` shows what can be done. This file only gathers: the work is in the collections it names."""

from __future__ import annotations

from invoke import Collection

import images.tasks
import rpm.tasks
import tests.cluster.tasks
import tests.tasks

namespace = Collection()
for whole in (tests.tasks.namespace,):
    for name in whole.task_names:
        namespace.add_task(whole[name])
namespace.add_task(images.tasks.build_all, name="build-all")
namespace.add_collection(images.tasks.namespace, name="images")
namespace.add_collection(rpm.tasks.namespace, name="rpm")
namespace.add_collection(tests.cluster.tasks.namespace, name="cluster")
