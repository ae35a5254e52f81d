"""What a session asks a policy on a bag, without a policy."""

from vla_prune_ros.bags.events import BAG_READER, Replay
from vla_prune_ros.runtime.params import SessionParams
from vla_prune_ros.runtime.session import Observer


def requests(bag, topics, profile, params=None, **options):
    """The requests of a bag, and the observer that made them."""
    observer = Observer(profile, params or SessionParams(), BAG_READER, **options)
    found = []
    for event in Replay(bag, topics, observer).events():
        if event.request is not None:
            observer.begin(event.request)
            found.append(event.request)
    return found, observer


def frames(bag, topics, profile, params=None, **options):
    """The observations of all requests; one of them must not be refused."""
    found, observer = requests(bag, topics, profile, params, **options)
    return [observer.observe(r.pair.items, r.instruction, r.stamp_ns) for r in found]
