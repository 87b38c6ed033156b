"""One score of one pod on each node, as `raykube plan --explain` shows it."""

from raykube.scheduler.core.arguments import DEFAULTS, Arguments
from raykube.scheduler.core.cluster import Cluster
from raykube.scheduler.core.profile import Profile
from tests.scheduler.objects import Object


def cluster(*nodes: Object, arguments: Arguments = DEFAULTS) -> Cluster:
    made = Cluster([Profile(arguments=arguments)])
    for one in nodes:
        made.on_node(one)
    return made


def run(found: Cluster, obj: Object, node: str) -> None:
    obj["spec"]["nodeName"] = node
    found.on_pod(found.read_pod(obj))


def scores(found: Cluster, obj: Object, name: str) -> dict[str, float]:
    """Node → score, rounded to thousandths; nodes that do not fit are left out."""
    verdicts = found.explain(found.read_pod(obj)).verdicts
    return {one.node: round(one.scores[name], 3) for one in verdicts if one.fits and name in one.scores}
