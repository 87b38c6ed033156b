"""The tables that this node ought to have, one per family, kept by changed frontends.

Changes go in, `take` says what to install. Nothing here knows what is installed: `items` is for comparing with that.
"""

from collections.abc import Iterable

from raykube.kubeproxy.core.nftables.frontend import Numbered, items_of, number
from raykube.kubeproxy.core.nftables.layout import FAMILIES, Options, base, family_of
from raykube.kubeproxy.core.rules import Frontend, Rule
from raykube.kubeproxy.core.table import Change
from raykube.nftables.core.objects import Delta, Items
from raykube.nftables.core.ruleset import Ruleset

_BASE, _NODE_IPS = "base", "node-ips"


class Desired:
    """The tables of node `node`."""

    def __init__(self, node: str, options: Options, families: Iterable[str] = FAMILIES) -> None:
        self.rules: dict[Frontend, Rule] = {}
        self._node = node
        self._options = options
        self._rulesets = {family: Ruleset() for family in families}
        self._numbered: dict[Frontend, tuple[Numbered, Numbered]] = {}
        for family, ruleset in self._rulesets.items():
            ruleset.replace({_BASE: base(family, options)})

    @property
    def families(self) -> tuple[str, ...]:
        return tuple(self._rulesets)

    def items(self, family: str) -> Items:
        """Everything that ought to be in the table. Not to be changed."""
        return self._rulesets[family].items

    def base(self, family: str) -> Items:
        """The items that do not depend on Services."""
        return base(family, self._options)

    def set_node_ips(self, addresses: Iterable[str]) -> None:
        """Node ports are served on these."""
        found = list(addresses)
        for family, ruleset in self._rulesets.items():
            own: Items = {("node-ips", address): "" for address in found if family_of(address) == family}
            ruleset.replace({_NODE_IPS: own})

    def set_options(self, options: Options) -> None:
        """Every frontend is compiled again where they differ."""
        if options == self._options:
            return
        self._options = options
        for family, ruleset in self._rulesets.items():
            changes: dict[object, Items] = {_BASE: base(family, options)}
            for frontend, rule in self.rules.items():
                if family_of(frontend.address) == family:
                    changes[frontend] = self._items(frontend, rule)
            ruleset.replace(changes)

    def apply(self, change: Change) -> None:
        """What a sync of the table of rules changed."""
        changes: dict[str, dict[object, Items]] = {family: {} for family in self._rulesets}
        for frontend in change.removed:
            if (family := family_of(frontend.address)) in changes:
                changes[family][frontend] = {}
                self.rules.pop(frontend, None)
                self._numbered.pop(frontend, None)
        for frontend, rule in change.set.items():
            if (family := family_of(frontend.address)) in changes:
                self.rules[frontend] = rule
                changes[family][frontend] = self._items(frontend, rule)
        for family, ruleset in self._rulesets.items():
            ruleset.replace(changes[family])

    def _items(self, frontend: Frontend, rule: Rule) -> Items:
        endpoints, inside = self._numbered.get(frontend, ((), ()))
        numbered = number(rule.endpoints, endpoints), number(rule.inside or (), inside)
        self._numbered[frontend] = numbered
        return items_of(frontend, rule, *numbered, node=self._node, options=self._options)

    def take(self) -> dict[str, Delta]:
        """What has changed since the last call, by family."""
        return {family: ruleset.take() for family, ruleset in self._rulesets.items()}
