"""LiteRT files without the bytes that nobody reads.

A network of many small kernels spends much of its file on everything but weights: names of inner
tensors, an empty buffer for every activation, and a vector of eight-byte zero points, all of them
0, for each kernel that is quantized per channel. Here inner names go, equal buffers become one, and
equal vectors are written once: a flatbuffer may point to one vector from many places. What the
interpreter sees is the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras


def compacted(content: bytes) -> bytes:
    """The same LiteRT model in fewer bytes; what it was given, if it is not made smaller."""
    from tensorflow.lite.python import schema_py_generated as schema

    root = schema.Model.GetRootAsModel(content, 0)
    model = schema.ModelT.InitFromObj(root)
    if any(buffer.offset > 1 for buffer in model.buffers):
        return content  # beyond 2 GiB data lie behind the flatbuffer
    for graph in model.subgraphs:
        _drop_names(graph)
    _share_buffers(model)
    builder = _sharing_builder()
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    smaller = bytes(builder.Output())
    return smaller if len(smaller) < len(content) else content


def _drop_names(graph: Any) -> None:
    """Leave names to inputs and outputs only."""
    kept = {*graph.inputs, *graph.outputs}
    for number, tensor in enumerate(graph.tensors):
        if number not in kept:
            tensor.name = b""


def _share_buffers(model: keras.Model) -> None:
    """One buffer for all tensors of the same constant, and buffer 0 for those without one."""
    empty = model.buffers[0]
    kept, places, numbers = [empty], {}, {}
    metadata = {entry.buffer for entry in model.metadata or []}
    for number, buffer in enumerate(model.buffers):
        data = b"" if buffer.data is None else bytes(bytearray(buffer.data))
        if number in metadata or (data and data not in places):
            numbers[number] = len(kept)
            kept.append(buffer)
            if number not in metadata:
                places[data] = numbers[number]
        else:
            numbers[number] = places[data] if data else 0
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            tensor.buffer = numbers[tensor.buffer]
    for entry in model.metadata or []:
        entry.buffer = numbers[entry.buffer]
    model.buffers = kept


def _sharing_builder() -> Any:
    """A builder of flatbuffers that writes equal vectors once."""
    import flatbuffers

    class Sharing(flatbuffers.Builder):
        """Remembers what vectors of numbers and texts it has written."""

        def __init__(self) -> None:
            super().__init__(1 << 16)
            self.known: dict[tuple[Any, ...], int] = {}
            self.begin, self.alignment, self.points = 0, 1, False

        def StartVector(self, elemSize: Any, numElems: Any, alignment: Any) -> Any:
            """Note where a vector begins."""
            self.begin, self.alignment, self.points = self.Offset(), alignment, False
            return super().StartVector(elemSize, numElems, alignment)

        def CreateString(self, s: Any, encoding: str = "utf-8", errors: str = "strict") -> Any:
            """Note where a text begins."""
            self.begin, self.alignment, self.points = self.Offset(), 1, False
            return super().CreateString(s, encoding, errors)

        def PrependUOffsetTRelative(self, off: Any) -> Any:
            """Places are relative, so vectors of them are never equal."""
            self.points = True
            return super().PrependUOffsetTRelative(off)

        def EndVector(self, *args: Any, **kwargs: Any) -> Any:
            """The vector just written, or the equal one that was written before."""
            end = super().EndVector(*args, **kwargs)
            if self.points:
                return end
            first = len(self.Bytes) - end
            length = int.from_bytes(self.Bytes[first : first + 4], "little")
            content = bytes(self.Bytes[first : len(self.Bytes) - self.begin])
            key = (self.alignment, length, content)
            if key in self.known:
                self.head = len(self.Bytes) - self.begin  # take it back
                return self.known[key]
            self.known[key] = end
            return end

    return Sharing()
