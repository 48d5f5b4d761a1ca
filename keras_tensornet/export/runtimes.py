"""Writers for PyTorch (`.pt2`) and OpenVINO (`.xml` with `.bin`).

Both take the model as a function of its inputs in order, with all weights as constants: what is
frozen is folded, and each number is in the file once. (Keras' own `model.export(format="torch")`
writes them twice, as parameters and as constants, with the cores of frozen layers beside them.)
Batch sizes and other open extents stay open.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras

from keras_tensornet.export import writers
from keras_tensornet.shapes import with_batch

# PyTorch makes constants of axes of length 1, so that open axes are traced with more.
TRACED_BATCH = 2


def write_torch(model: keras.Model, temporary: Path) -> None:
    """A `torch.export` program: `module()(*inputs) -> outputs by name`.

    Args:
        model: to write, on Keras' PyTorch backend.
        temporary: path of the file.

    Raises:
        RuntimeError: if PyTorch cannot trace the model.
    """
    import torch

    program = torch_program(model)
    program.example_inputs = None  # a batch of zeros, which the file would hold
    torch.export.save(program, str(temporary))


def torch_program(model: keras.Model) -> Any:
    """The model as a `torch.export.ExportedProgram` with open batch size.

    Raises:
        RuntimeError: if PyTorch cannot trace it.
        UnknownLengthError: if recurrent layers cannot be unrolled.
    """
    import torch

    serve = writers.serving_function(model)

    class Served(torch.nn.Module):
        """Holds no parameters, so that what the function reads becomes constants."""

        def forward(self, *inputs: Any) -> Any:
            return serve(*inputs)

    examples, open_axes = [], []
    for spec in writers.input_specs(model):
        shape = with_batch(spec.shape, TRACED_BATCH)
        examples.append(keras.ops.zeros(shape, spec.dtype))
        free = {n: torch.export.Dim.DYNAMIC for n, size in enumerate(spec.shape) if size is None}
        open_axes.append(free | {0: torch.export.Dim("batch", min=1)})
    try:
        with torch.no_grad(), writers.lengths_known(model):
            return torch.export.export(
                Served().eval(),
                tuple(examples),
                dynamic_shapes={"inputs": tuple(open_axes)},
                strict=False,
            )
    except writers.UnknownLengthError:
        raise
    except Exception as error:
        raise RuntimeError(
            "PyTorch cannot trace the model for inputs of every size. What it says: "
            f"{_first_line(error)} Layers on a T-Basis need as_='dense'; where Python code of a "
            "layer reads the batch size or an open length, export on the TensorFlow backend."
        ) from error


def write_openvino(model: keras.Model, temporary: Path, quantize: str | None) -> None:
    """An OpenVINO model, inputs and outputs by name: `.xml`, and `.bin` beside it.

    Args:
        model: to write, on Keras' TensorFlow or PyTorch backend.
        temporary: path of the `.xml` file.
        quantize: None, or "float16" for the weights.

    Raises:
        RuntimeError: if OpenVINO has no operation for one of the model's.
        ValueError: if a tensor is an output twice, or an input as well.
    """
    import openvino

    tensors = [id(tensor) for tensor in keras.tree.flatten([model.inputs, model.outputs])]
    if len(set(tensors)) < len(tensors):
        raise ValueError(
            "OpenVINO gives each tensor one name, so no output may be an input, or be given twice. "
            f"Received: outputs {', '.join(writers.output_names(model))}. Leave one of them out."
        )

    torch = keras.backend.backend() == "torch"
    source = torch_program(model) if torch else _traced(model)
    try:
        converted = openvino.convert_model(source)
    except Exception as error:
        raise RuntimeError(
            f"OpenVINO cannot convert the model. What it says: {_first_line(error)}"
        ) from error
    if not torch:  # what the graph leaves unused would be outputs too
        wanted = [converted.output(tensor.name).get_node() for tensor in source.outputs]
        converted = openvino.Model(wanted, converted.get_parameters())
    specs = writers.input_specs(model)
    for tensor, spec in zip(converted.inputs, specs, strict=True):
        shape = [-1 if size is None else size for size in spec.shape]
        tensor.get_node().set_partial_shape(openvino.PartialShape(shape))
        tensor.get_tensor().set_names({spec.name})
    converted.validate_nodes_and_infer_types()
    for tensor, name in zip(converted.outputs, writers.output_names(model), strict=True):
        tensor.get_tensor().set_names({name})
    openvino.save_model(converted, str(temporary), compress_to_fp16=quantize == "float16")


def _traced(model: keras.Model) -> Any:
    """The model as a concrete function of TensorFlow; its outputs are a list, in their order."""
    serve, names = writers.constant_function(model), writers.output_names(model)

    def listed(*inputs: Any) -> list[Any]:
        outputs = serve(*inputs)
        return [outputs[name] for name in names]

    with writers.lengths_known(model):
        return writers.signed(listed, model).get_concrete_function()


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'nothing'}"
