"""Milliseconds that `import keras_tensornet` adds to `import keras`; run in a fresh process.

python benchmarks/importing.py
"""

import json
import time

import keras  # noqa: F401

start = time.perf_counter()
import keras_tensornet  # noqa: E402, F401

print(json.dumps({"import_ms": 1e3 * (time.perf_counter() - start)}))
