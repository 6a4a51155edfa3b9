"""The maps of nodes in regions, each of which is wrapped as one operation (`regions.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx, nn

from fxteleport.passes.constrain.node_maps import NodeMaps
from fxteleport.passes.constrain.regions import Region, factor_before, map_behind, power_of, regions
from fxteleport.passes.constrain.rule_application import Settings
from fxteleport.passes.constrain.rule_context import RuleContext
from fxteleport.passes.domain.cob_map import CobMap
from fxteleport.passes.graph.conditions import Condition
from fxteleport.passes.graph.node_info import info
from fxteleport.passes.graph.source_location import quoted
from fxteleport.passes.rules.call import EPSILON_STAYS, Wrap
from fxteleport.passes.rules.operands import map_like


class RegionMaps:
    """Finds the regions of graphs, and gives the maps of their nodes.

    Args:
        settings: `full`: a region may be wrapped. `norms` "scaled": only norms with an epsilon are regions, and keep
            it; the rules of the operations cover the others.
    """

    def __init__(
        self, context: RuleContext, modules: Mapping[str, nn.Module], maps: NodeMaps, settings: Settings
    ) -> None:
        self._context, self._modules, self._maps, self._settings = context, modules, maps, settings
        self._regions: dict[fx.Node, Region] = {}
        self._factors: dict[Region, CobMap] = {}  # of norms whose epsilon stays, the map of their entry

    def __contains__(self, node: fx.Node) -> bool:
        return node in self._regions

    def find(self, graph: fx.Graph) -> None:
        """Find those of a graph."""
        if not self._settings.full and self._settings.norms != "scaled":
            return
        in_graph = regions(graph, self._modules, self._context.sources)
        if not self._settings.full:
            in_graph = {n: r for n, r in in_graph.items() if r.common is not None and r.common.epsilons}
        self._regions |= in_graph

    def of(self, node: fx.Node) -> tuple[Any, Wrap | None, Wrap | None]:
        """The map of a node; at a region's exit also how it is wrapped, or the factor of a norm that keeps its epsilon.

        Inside a region the values are the original's; its exit has the region's map.
        """
        region = self._regions[node]
        if self._settings.norms == "scaled":
            return self._in_scaled_norm(node, region)
        if node is not region.exit:
            return map_like(info(node).value), None, None
        cob, wrap = map_behind(region, self._maps.convert(region.entry), self._context.system)
        return cob, wrap, None

    def _in_scaled_norm(self, node: fx.Node, region: Region) -> tuple[Any, None, Wrap | None]:
        """Inside a norm that keeps its epsilon, the CoBs are powers of the entry's factor."""
        assert region.common is not None
        if region not in self._factors:
            self._factors[region] = factor_before(region, self._maps.convert(region.entry), self._context.system)
        one, known, scaled = self._factors[region], info(node), None
        if node is region.exit and one.factors:
            scaled = Wrap(one, None, region=(region.entry, region.inside), common=region.common)
            condition = Condition("norm", node.name, known.path, quoted(known.source), EPSILON_STAYS)
            self._context.conditions.append(condition)
        parts = known.value if isinstance(known.value, tuple) else (known.value,)
        degrees = region.common.degrees[node.name]
        maps = [power_of(one, degree, part.ndim) for degree, part in zip(degrees, parts, strict=True)]
        return maps if isinstance(known.value, tuple) else maps[0], None, scaled
