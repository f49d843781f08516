"""Asks the other members, before etcd joins them, which cluster they are of and whether it knows this member.

A problem is what would end etcd, or make it wait without an end. Members that do not answer are no problem for a member
that has data, nor in a new cluster: they may be starting too.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from etcd_container import data as folder
from etcd_container import settings as words
from etcd_container import trust
from etcd_container.problem import Problem

_TIMEOUT_S = 2.0
_MOST_BYTES = 1 << 20


class Answer(NamedTuple):
    """The answer of the member at `url`: the id of its cluster, and its members as etcd's peer port lists them."""

    url: str
    cluster: int
    members: list[dict[str, Any]]


def check(settings: Mapping[str, str]) -> list[Problem]:
    """The problems that stop this member from joining the cluster that ETCD_INITIAL_CLUSTER names."""
    name, cluster = settings.get("ETCD_NAME", ""), words.initial_cluster(settings)
    others = [url for member, listed in cluster.items() if member != name for url in listed]
    if not others or "ETCD_CONFIG_FILE" in settings:
        return []
    silent: list[str] = []
    for url in others:
        try:
            answer = ask(settings, words.parsed(url))
        except (OSError, ValueError, http.client.HTTPException) as error:
            silent.append(f"{url} ({why(error)})")
            continue
        return list(judge(settings, answer, folder.identity(Path(settings.get("ETCD_DATA_DIR", words.DATA)))))
    data = Path(settings.get("ETCD_DATA_DIR", words.DATA))
    if settings.get("ETCD_INITIAL_CLUSTER_STATE") == "existing" and not folder.has_data(data):
        what = f"this member is to join a cluster, and none of its members answers: {', '.join(silent)}"
        return [Problem(what, "start them first; see that peers' addresses in ETCD_INITIAL_CLUSTER are right")]
    return []


def judge(settings: Mapping[str, str], answer: Answer, ours: folder.Identity | None) -> Iterator[Problem]:
    """The problems that an answer means for this member. `ours` is the identity in its data, None without any. Pure."""
    name, cluster = settings.get("ETCD_NAME", ""), words.initial_cluster(settings)
    if ours is not None:
        if ours.cluster != answer.cluster:
            what = f"the data is of cluster {ours.cluster:x}, and the member at {answer.url} of {answer.cluster:x}"
            yield Problem(what, "mount this member's own volume, or an empty one as README.md says of a new member")
        elif ours.member not in [member.get("id") for member in answer.members]:
            what = f"the cluster no longer knows the member {ours.member:x}, whose data this is"
            remedy = "if it was removed: add it anew, and start it with an empty volume and "
            yield Problem(what, f"{remedy}ETCD_INITIAL_CLUSTER_STATE=existing", fatal=False)
        return
    own = set(cluster.get(name, ()))
    known = [member for member in answer.members if own & set(member.get("peerURLs") or ())]
    add = f"etcdctl member add {name} --peer-urls={','.join(sorted(own))}"
    if settings.get("ETCD_INITIAL_CLUSTER_STATE", "new") == "new":
        # A member has client URLs once it ran: in a new cluster the others have none yet.
        if known and known[0].get("clientURLs"):
            what = f"the cluster knows {name} (member {known[0].get('id', 0):x}), and its data is not on this volume"
            remedy = f"mount its volume; if that is lost: etcdctl member remove {known[0].get('id', 0):x}, then {add}"
            yield Problem(what, f"{remedy}, and start with ETCD_INITIAL_CLUSTER_STATE=existing")
        return
    if not known:
        urls = ", ".join(sorted(own))
        yield Problem(f"the cluster of {answer.url} knows no member at {urls}", f"in a container that runs: {add}")
        return
    theirs = {url for member in answer.members for url in member.get("peerURLs") or ()}
    listed = {url for urls in cluster.values() for url in urls}
    if theirs != listed:
        lacks, more = ", ".join(sorted(theirs - listed)), ", ".join(sorted(listed - theirs))
        what = "ETCD_INITIAL_CLUSTER is not what the cluster is:"
        what += f" it lacks {lacks}" if lacks else ""
        what += f"{' and' if lacks and more else ''} has {more} too much" if more else ""
        yield Problem(what, "name exactly the members that `etcdctl member list` shows, this one included")


def ask(settings: Mapping[str, str], url: words.Url) -> Answer:
    """Ask the member at a peer URL for its cluster. Raises OSError, ValueError or HTTPException."""
    connection = http.client.HTTPConnection(url.host, url.port, timeout=_TIMEOUT_S)
    if url.scheme == "https":
        context = trust.client_context(settings, "PEER")
        connection = http.client.HTTPSConnection(url.host, url.port, timeout=_TIMEOUT_S, context=context)
    try:
        connection.request("GET", "/members")
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            raise ValueError(f"it answers {answer.status} {answer.reason}")
        members = json.loads(answer.read(_MOST_BYTES))
        cluster = int(answer.headers.get("X-Etcd-Cluster-ID", ""), 16)
    finally:
        connection.close()
    if not isinstance(members, list) or not all(isinstance(member, dict) for member in members):
        raise ValueError("it does not answer as etcd does")
    return Answer(str(url), cluster, members)


def why(error: Exception) -> str:
    """An error of a connection, in words."""
    if isinstance(error, ssl.SSLError):
        return trust.reason(error)
    if isinstance(error, socket.timeout):
        return "no answer"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error) or type(error).__name__
