"""Run in a process of its own: load what a folder holds of each model, and say how far off it is.

    python -m tests.rewriting.fresh FOLDER

For each NAME.npz (inputs by name, in order, outputs, and names of inputs in LiteRT) it takes
NAME.keras, the SavedModel NAME and NAME.tflite, where they are there, and prints one line of JSON:
`{NAME: {form: distance}}`, the distance relative to the largest output, or the error's text.
"""

import json
import sys
from pathlib import Path

import keras
import numpy as np

import keras_tensornet  # noqa: F401 its layers are registered
import tests.rewriting.objects  # noqa: F401 and those of the tests
from keras_tensornet.export import clean_process
from keras_tensornet.reading import Signature


def run_keras(path, inputs):
    model = keras.models.load_model(path, compile=False)
    given = list(inputs.values())
    given = Signature.of(model).pack(given) if getattr(model, "inputs", None) else given[0]
    outputs = keras.tree.flatten(model(given, training=False))
    return {str(place): keras.ops.convert_to_numpy(one) for place, one in enumerate(outputs)}


FORMS = {
    "keras": (".keras", run_keras),
    "tf_saved_model": ("", lambda path, x: clean_process.load_tf_saved_model(str(path))(x)),
    "litert": (".tflite", lambda path, x: clean_process.load_litert(str(path))(x)),
}


def off(found: dict, outputs: dict) -> float:
    pairs = list(zip(found.values(), outputs.values(), strict=True))
    if set(found) == set(outputs):
        pairs = [(found[name], outputs[name]) for name in outputs]
    return max(float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-9)) for a, b in pairs)


def compare(record: Path) -> dict:
    with np.load(record) as file:
        inputs = {k.partition(":")[2]: file[k] for k in file.files if k.startswith("in:")}
        outputs = {k.partition(":")[2]: file[k] for k in file.files if k.startswith("out:")}
        litert = dict(zip(file["litert"].tolist(), inputs.values(), strict=True))
    result = {}
    for form, (suffix, run) in FORMS.items():
        path = record.with_name(record.stem + suffix)
        if not path.exists():
            continue
        wanted = outputs
        if form == "keras":
            wanted = {str(place): array for place, array in enumerate(outputs.values())}
        try:
            result[form] = off(run(path, litert if form == "litert" else inputs), wanted)
        except Exception as error:
            result[form] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return result


if __name__ == "__main__":
    records = sorted(Path(sys.argv[1]).glob("*.npz"))
    print("RESULT" + json.dumps({record.stem: compare(record) for record in records}))
