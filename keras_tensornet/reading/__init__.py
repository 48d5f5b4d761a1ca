"""One reader for data in every form that `fit` and `predict` take.

    inputs = read_inputs(model, data, batch_size=64)        # what predict takes; targets are left
    examples = read_examples(model, data, batch_size=64)    # what fit takes: x, y, sample weights

Both give `Batches`, which can be read as often as needed, in batches of one size whatever the data
came in, so that every form of the same data gives the same statistics.

- `arrays`: what counts as an array, and one row range of it in NumPy.
- `signature`: the inputs of a model, and whether something fits them.
- `forms`: which of the readings of a value fits; more than one is refused in words.
- `sources`: arrays, datasets and iterators as parts of a stream.
- `batches`: `Batches`, what everything else in the package reads.
"""

from keras_tensornet.reading.batches import Batch, Batches, read_examples, read_inputs
from keras_tensornet.reading.signature import Signature

__all__ = ["Batch", "Batches", "Signature", "read_examples", "read_inputs"]
