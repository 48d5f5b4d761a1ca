"""The page of the reference, made from the public names: `python -m tests.reference` prints it."""

import importlib
import inspect

import keras_tensornet

# The rooms whose names are public, in the order of the page.
ROOMS = {
    "Compressing a model": "compression",
    "Augmentation": "augment",
    "Back to Keras": "back_to_keras",
    "Reports": "reports",
    "Serving": "serving",
    "Export": "export",
    "Training": "training",
    "One basis for a network": "tbasis",
    "Searching": "tuner",
    "Layers": "layers",
    "Initializers": "initializers",
    "Regularizers": "regularizers",
    "Formats": "formats",
    "Decompositions": "decompositions",
    "Ranks": "ranks",
    "Contraction": "contraction",
    "Reading data": "reading",
    "Data sets": "datasets",
    "Networks of the papers": "models",
    "t3f": "interop",
    "Words of the signatures": "types",
}
HEAD = """# Reference

Everything public, by module. Shapes, units, errors and sources are in the docstrings.

## The package

"""


def public_names(module):
    """The public names of a module: `__all__`, or the functions and classes that it defines."""
    if hasattr(module, "__all__"):
        return sorted(module.__all__)
    return sorted(
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == module.__name__
    )


def own_names():
    """The names of the package that are no modules, as they are used: `keras_tensornet.merge`."""
    names = (name for name in keras_tensornet.__all__ if not name.startswith("_"))
    return [name for name in names if not inspect.ismodule(getattr(keras_tensornet, name))]


def index(module, names):
    """A line of links to the names; a link that leads nowhere fails the build of the pages."""
    return ",\n".join(f"[`{name}`][{module}.{name}]" for name in names) + ".\n"


def page():
    """The whole page."""
    names = own_names()
    members = "".join(f"        - {name}\n" for name in names)
    parts = [
        HEAD + index("keras_tensornet", names),
        f"::: keras_tensornet\n    options:\n      members:\n{members}",
    ]
    for title, room in ROOMS.items():
        module = importlib.import_module(f"keras_tensornet.{room}")
        parts.append(f"## {title}\n\n{index(module.__name__, public_names(module))}")
        listed = "".join(f"        - {name}\n" for name in public_names(module))
        parts.append(f"::: {module.__name__}\n    options:\n      members:\n{listed}")
    return "\n".join(parts)


if __name__ == "__main__":
    print(page(), end="")
