"""Shipping a model: one call from a Keras model to a file that was run in a process of its own.

    report = export_model(model, "model.tflite", format="litert")
    print(report)

- `exporting`: `export_model`, the order of things.
- `forms`: factorized, dense or stock layers, the rule that chooses, plans for the serving batch.
- `writers`: one function for each file format.
- `verification` and `clean_process`: the exported file run where this package cannot be imported.
"""

from keras_tensornet.export.exporting import ExportReport, export_model
from keras_tensornet.export.forms import choose_form

__all__ = ["ExportReport", "choose_form", "export_model"]
