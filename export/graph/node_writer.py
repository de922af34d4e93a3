"""Write new nodes into a graph in place of others."""

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from export.onnx_export import CLASS_KEY, MODULE_KEY, node_metadata


class NodeWriter:
    """Nodes in order, and their constants; named after the node `first`, whose module and class they get."""

    def __init__(self, proto: onnx.ModelProto, first: str, label: str):
        self.nodes: list[onnx.NodeProto] = []
        self._graph = proto.graph
        self._first = first
        self._prefix = f"{first}_{label}"
        # float64 graphs are how tests prove a rewrite
        is_double = any(value.data_type == onnx.TensorProto.DOUBLE for value in proto.graph.initializer)
        self._dtype = np.float64 if is_double else np.float32
        model = next(node for node in proto.graph.node if node.name == first)
        self._metadata = {key: node_metadata(model, key) for key in (MODULE_KEY, CLASS_KEY)}

    def node(
        self, operator: str, *inputs: str, output: str = "", module: str = "", kind: str = "", **attributes: object
    ) -> str:  # fmt: skip
        """Append a node and give the name of its output.

        `module` is the one that it belongs to where that is another than the first node's, `kind` that module's class.
        """
        result = self._append(operator, inputs, [output or self._fresh(0)], attributes)[0]
        for entry in self.nodes[-1].metadata_props if module else ():
            entry.value = module if entry.key == MODULE_KEY else f"{entry.value} {kind}"
        return result

    def split(self, source: str, *sizes: int, axis: int = -1, names: Sequence[str] = ()) -> list[str]:
        """Parts along an axis; `names` are those of the first ones, "" for any."""
        outputs = [*names, *[""] * (len(sizes) - len(names))]
        outputs = [name or self._fresh(part) for part, name in enumerate(outputs)]
        return self._append("Split", (source, self.integers(*sizes)), outputs, {"axis": axis})

    def mean(self, source: str, axis: int) -> str:
        """The mean over one axis, which stays with size 1."""
        return self.node("ReduceMean", source, self.integers(axis), keepdims=1)

    def floats(self, values: NDArray[np.float64] | float) -> str:
        """A constant in the graph's own type."""
        return self._constant(np.asarray(values, dtype=self._dtype))

    def integers(self, *values: int) -> str:
        """A one-dimensional constant in int64."""
        return self._constant(np.asarray(values, dtype=np.int64))

    def index(self, value: int) -> str:
        """A scalar constant in int64."""
        return self._constant(np.asarray(value, dtype=np.int64))

    def replace(self, names: tuple[str, ...]) -> None:
        """Put the written nodes where the first of the nodes `names` is, and drop those, what only they needed, and constants."""
        removed = set(names)
        nodes = list(self._graph.node)
        place = next(index for index, node in enumerate(nodes) if node.name in removed)
        kept = [node for node in nodes if node.name not in removed]
        written = self._needed([*kept[:place], *self.nodes, *kept[place:]])
        del self._graph.node[:]
        self._graph.node.extend(written)
        used = {name for node in self._graph.node for name in node.input}
        constants = [value for value in self._graph.initializer if value.name in used]
        del self._graph.initializer[:]
        self._graph.initializer.extend(constants)

    def _needed(self, nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """Without nodes that nothing takes a result of."""
        wanted = {value.name for value in self._graph.output}
        kept = []
        for node in reversed(nodes):
            if wanted & set(node.output):
                wanted.update(node.input)
                kept.append(node)
        return kept[::-1]

    def _fresh(self, part: int) -> str:
        return f"{self._prefix}_{len(self.nodes):02d}_{part}"

    def _append(
        self, operator: str, inputs: tuple[str, ...], outputs: list[str], attributes: dict[str, object]
    ) -> list[str]:
        name = f"{self._prefix}_{len(self.nodes):02d}"
        node = helper.make_node(operator, list(inputs), outputs, name)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        for key, value in self._metadata.items():
            node.metadata_props.add(key=key, value=value)
        self.nodes.append(node)
        return outputs

    def _constant(self, values: NDArray[np.generic]) -> str:
        name = f"{self._prefix}_constant_{len(self._graph.initializer):05d}"
        self._graph.initializer.append(numpy_helper.from_array(values, name))
        return name
