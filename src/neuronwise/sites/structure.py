"""Discovery by structure: the neurons of a model that no row of the table of architectures covers.

The forward pass is traced with torch.fx, which computes nothing; where a module cannot be traced, its parts are. In the
graph, the neurons of a linear layer are its input, where that comes elementwise from other linear layers (so attention
and residual streams are none); those of a convolution are its channels after norm, residual sum and
activation; those of a recurrent layer are its output. Each value is one site. What a module that could not
be traced does around its parts is not seen: there, the calls of a module that runs several times are not told apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import fx, nn

from neuronwise.sites._address import Address, address_of, call_of
from neuronwise.sites._conv import Settled, next_layer, settle
from neuronwise.sites._dense import Source, dense_sources, is_feed_forward
from neuronwise.sites._ops import Op, first_input, op_of
from neuronwise.sites._trace import Graph, trace
from neuronwise.sites._weights import (
    RNNS,
    conv_shape,
    dense_shape,
    reads_through,
    rnn_width,
    writes_through,
)
from neuronwise.sites.site import Site, WeightSlice

__all__ = ["layer_of", "structure_sites"]

_CONTAINERS = (nn.ModuleList, nn.ModuleDict)
_BLOCKS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


def structure_sites(model: nn.Module) -> list[Site]:
    """Return the sites found by structure, in the order in which they run as far as that can be seen.

    Layers are numbered by their place in the nearest list (``ModuleList`` or ``Sequential``) of modules that have
    parts of their own, such as blocks; its path is the ``stack``. If no site is in such a list, sites are numbered
    as they run; if only some are, the others have no layer number.
    """
    found = {site.name: site for site in _explore("", model, {}).sites}
    placed = []
    for site in found.values():
        # Neurons belong to the layer that computes them, which need not be the one where they are caught.
        home = site.reads[0].parameter.rpartition(".")[0] if site.reads else site.path
        stack, layer = layer_of(model, home)
        placed.append(replace(site, stack=stack, layer=layer))
    if all(site.layer is None for site in placed):
        placed = [replace(site, layer=number) for number, site in enumerate(placed)]
    return placed


def layer_of(model: nn.Module, path: str) -> tuple[str, int | None]:
    """Return ``(stack, layer)`` of a module: its nearest list of composite modules, and its place there."""
    names = path.split(".") if path else []
    for end in range(len(names), 0, -1):
        stack = ".".join(names[: end - 1])
        element = model.get_submodule(".".join(names[:end]))
        inside_list = isinstance(model.get_submodule(stack), nn.ModuleList | nn.Sequential)
        if inside_list and names[end - 1].isdigit() and any(True for _ in element.children()):
            return stack, int(names[end - 1])
    return "", None


@dataclass(frozen=True, slots=True)
class _Explored:
    """The sites inside a module, and the modules there that its parents must take as one step each."""

    sites: tuple[Site, ...]
    opaque: frozenset[nn.Module] = frozenset()


def _explore(path: str, module: nn.Module, memo: dict[str, _Explored]) -> _Explored:
    if path not in memo:
        memo[path] = _explore_anew(path, module, memo)
    return memo[path]


def _explore_anew(path: str, module: nn.Module, memo: dict[str, _Explored]) -> _Explored:
    known = _known_module(path, module)
    if known is not None:
        return _Explored(known)
    graph = trace(module)
    if graph is not None:
        return _Explored(tuple(_graph_sites(path, graph, memo)))
    parts = [_explore(_join(path, name), child, memo) for name, child in module.named_children()]
    opaque = frozenset[nn.Module]().union(*(part.opaque for part in parts))
    if opaque:
        graph = trace(module, opaque=opaque)
        if graph is not None:
            return _Explored(tuple(_graph_sites(path, graph, memo)), opaque)
    sites = [site for part in parts for site in part.sites]
    sites += [site for site in _pairs(path, module) if site.name not in {s.name for s in sites}]
    return _Explored(tuple(sites), opaque if isinstance(module, _CONTAINERS) else frozenset([module]))


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name


def _known_module(path: str, module: nn.Module) -> tuple[Site, ...] | None:
    """Return the sites of a module that is known by its type, or has no parts; None if it has to be looked into."""
    if isinstance(module, RNNS):
        return (Site(path, "output", rnn_width(module), kind="rnn"),)
    if isinstance(module, _BLOCKS):
        return (_dense_site(path, "linear2", module.linear2, (("linear1", module.linear1, "in"),), "ffn"),)
    if isinstance(module, nn.MultiheadAttention) or dense_shape(module) is not None:
        return ()
    channels = conv_shape(module)
    if channels is not None:
        read = reads_through(path, module)
        return (Site(path, "output", channels[1], 1, kind="conv", reads=(read,) if read else ()),)
    return None if any(True for _ in module.children()) else ()


def _dense_site(
    path: str, down: str, module: nn.Module, ups: tuple[tuple[str, nn.Module, str], ...], kind: str
) -> Site:
    """Make the site of a down projection whose up projections are known by name."""
    shape = dense_shape(module)
    width = 0 if shape is None else shape[0]
    reads = (reads_through(_join(path, name), up, role=role) for name, up, role in ups)
    where = _join(path, down)
    return Site(
        where,
        "input",
        width,
        kind=kind,
        reads=tuple(read for read in reads if read is not None),
        writes=writes_through(where, module),
    )


def _pairs(path: str, module: nn.Module) -> Iterator[Site]:
    """Find feed-forward pairs by their widths alone, among the linear layers that a module holds directly."""
    shapes = {name: (child, dense_shape(child)) for name, child in module.named_children()}
    dense = {name: (child, shape) for name, (child, shape) in shapes.items() if shape is not None}
    for down, (child, (width, out)) in dense.items():
        ups = [(name, up) for name, (up, shape) in dense.items() if shape == (out, width)]
        if ups and width > out:
            roles = ("in",) if len(ups) == 1 else ("gate", "up")
            reads = tuple((name, up, role) for (name, up), role in zip(ups, roles, strict=False))
            yield _dense_site(path, down, child, reads, "ffn")


def _graph_sites(path: str, graph: Graph, memo: dict[str, _Explored]) -> Iterator[Site]:
    """Find the sites of a traced module, in the order of the graph."""
    taken: set[fx.Node] = set()
    looked_into: set[nn.Module] = set()
    convs = _settled_convs(graph, root=not path)
    for node in graph.nodes:
        op, module = op_of(node, graph), graph.module(node)
        if module is None:
            continue
        if op is Op.DENSE:
            sources, value = dense_sources(node, graph), first_input(node)
            if sources and value is not None and value not in taken:
                taken.add(value)
                yield _graph_dense(path, node, value, sources, graph)
        elif op is Op.CONV:
            if node in convs and convs[node].value not in taken:
                settled = convs[node]
                taken.add(settled.value)
                same = [other for other, end in convs.items() if end.value is settled.value]
                yield _graph_conv(path, settled, same, graph)
        elif op is Op.RNN:
            yield _graph_rnn(path, node, graph)
        elif module not in looked_into:
            looked_into.add(module)
            yield from _explore(_join(path, str(node.target)), module, memo).sites


def _settled_convs(graph: Graph, *, root: bool) -> dict[fx.Node, Settled]:
    settled = {node: settle(node, graph) for node in graph.nodes if op_of(node, graph) is Op.CONV}
    if not root:
        return settled
    # A convolution whose bare output is the model's output makes logits or pixels, as the last linear layer does.
    return {
        node: end
        for node, end in settled.items()
        if end.value is not node or any(user.op != "output" for user in node.users)
    }


def _graph_dense(path: str, node: fx.Node, value: fx.Node, sources: tuple[Source, ...], graph: Graph) -> Site:
    where = Address(str(node.target), "input", call_of(node, graph))
    writes = writes_through(_join(path, where.path), graph.modules[where.path])
    if len(value.users) > 1:
        # Several layers read these neurons: an address before them all catches what each of them gets.
        where, writes = address_of(value, graph) or where, None
    reads = []
    for source, role in zip(sources, _roles(sources), strict=True):
        up = str(source.node.target)
        whole = reads_through(_join(path, up), graph.modules[up], role=role)
        if whole is not None:
            reads.append(replace(whole, start=source.start, stop=source.stop))
    kind = "ffn" if is_feed_forward(sources, node, graph) else "hidden"
    width = sources[0].stop - sources[0].start
    return _site(path, where, width, -1, kind, tuple(reads), writes)


def _roles(sources: tuple[Source, ...]) -> list[str]:
    if len(sources) == 2 and sources[0].activated != sources[1].activated:
        return ["gate" if source.activated else "up" for source in sources]
    return ["in" if number == 0 else f"in{number + 1}" for number in range(len(sources))]


def _graph_conv(path: str, settled: Settled, convs: list[fx.Node], graph: Graph) -> Site:
    value = settled.value
    where = address_of(value, graph)
    if where is None:
        # A functional activation that no module takes whole: then what goes into it.
        value = settled.plain
        where = Address(str(value.target), "output", call_of(value, graph))
    reads = []
    for number, conv in enumerate(convs):
        name = str(conv.target)
        read = reads_through(
            _join(path, name), graph.modules[name], role="in" if number == 0 else f"in{number + 1}"
        )
        if read is not None:
            reads.append(read)
    module = graph.module(convs[0])
    channels = None if module is None else conv_shape(module)
    width = 0 if channels is None else channels[1]
    return _site(path, where, width, 1, "conv", tuple(reads), _writes(path, value, width, graph))


def _graph_rnn(path: str, node: fx.Node, graph: Graph) -> Site:
    module = graph.module(node)
    width = rnn_width(module) if isinstance(module, nn.RNNBase | nn.RNNCellBase) else 0
    where = Address(str(node.target), "output", call_of(node, graph))
    return _site(path, where, width, -1, "rnn", (), None)


def _writes(path: str, value: fx.Node, width: int, graph: Graph) -> WeightSlice | None:
    name = next_layer(value, width, graph)
    return None if name is None else writes_through(_join(path, name), graph.modules[name])


def _site(
    path: str,
    where: Address,
    width: int,
    axis: int,
    kind: str,
    reads: tuple[WeightSlice, ...],
    writes: WeightSlice | None,
) -> Site:
    return Site(
        _join(path, where.path),
        where.tensor,
        width,
        axis,
        kind=kind,
        call=where.call,
        reads=reads,
        writes=writes,
    )
