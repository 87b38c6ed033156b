"""What a request's path and method mean: resource or not, which one, which verb.

/api/v1/namespaces/default/pods/web/log      core/v1, pods, default, web, log
/apis/apps/v1/deployments                    apps/v1, deployments, every namespace
/version                                     no resource
"""

from dataclasses import dataclass

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete", "GET": "get", "HEAD": "get"}

# Children of a namespace object that belong to the namespace itself, not to something that lives in it.
_NAMESPACE_SUBRESOURCES = frozenset({"status", "finalize"})


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """A parsed request line. `verb` is Kubernetes' (list, watch, deletecollection …) for resources."""

    path: str
    verb: str
    is_resource: bool = False
    group: str = ""
    version: str = ""
    plural: str = ""
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    rest: str = ""  # what follows the subresource (proxy paths)


def parse(method: str, path: str, watch: bool = False) -> RequestInfo:
    """Parses a path. What is no resource path comes back with `is_resource` unset and the method in lower case."""
    parts = [part for part in path.split("/") if part]
    nothing = RequestInfo(path, method.lower())
    if len(parts) >= 3 and parts[0] == "api":
        group, version, rest = "", parts[1], parts[2:]
    elif len(parts) >= 4 and parts[0] == "apis":
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return nothing
    verb = _VERBS.get(method, method.lower())
    if rest[0] == "watch" and len(rest) > 1:
        watch, rest = True, rest[1:]
    namespace = ""
    if rest[0] == "namespaces" and len(rest) >= 2:
        namespace = rest[1]
        if len(rest) > 2 and not (len(rest) == 3 and rest[2] in _NAMESPACE_SUBRESOURCES):
            rest = rest[2:]
    plural = rest[0]
    name = rest[1] if len(rest) > 1 else ""
    subresource = rest[2] if len(rest) > 2 else ""
    if verb == "get":
        if watch and subresource != "proxy":  # there the parameter is the business of what lies behind
            verb = "watch"
        elif not name:
            verb = "list"
    elif verb == "delete" and not name:
        verb = "deletecollection"
    return RequestInfo(path, verb, True, group, version, plural, namespace, name, subresource, "/".join(rest[3:]))
