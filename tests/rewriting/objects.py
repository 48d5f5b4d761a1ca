"""Keras objects that hold layers in every way that a graph does not show."""

import keras
from keras import layers, ops


@keras.saving.register_keras_serializable("tests")
class Encoder(layers.Layer):
    """Attention, a list of norms and a dict of dense layers, all made in `build`."""

    def __init__(self, inner=24, heads=2, **kwargs):
        super().__init__(**kwargs)
        self.inner, self.heads, self.supports_masking = inner, heads, True

    def build(self, inputs_shape):
        width = inputs_shape[-1]
        self._self_attention_layer = layers.MultiHeadAttention(self.heads, width // self.heads)
        self._self_attention_layer.build(inputs_shape, inputs_shape)
        self.norms = [layers.LayerNormalization() for _ in range(2)]
        for norm in self.norms:
            norm.build(inputs_shape)
        self.ff = {"in": layers.Dense(self.inner, activation="relu"), "out": layers.Dense(width)}
        self.ff["in"].build(inputs_shape)
        self.ff["out"].build((*inputs_shape[:-1], self.inner))
        self.scale = self.add_weight(shape=(width,), initializer="ones")
        self.built = True

    def call(self, x, training=None):
        y = self.norms[0](x + self._self_attention_layer(x, x, training=training))
        return self.norms[1](y + self.scale * self.ff["out"](self.ff["in"](y)))

    def get_config(self):
        return {**super().get_config(), "inner": self.inner, "heads": self.heads}


@keras.saving.register_keras_serializable("tests")
class Pyramid(layers.Layer):
    """Sequentials of unnamed layers in a list and a tuple; `build` adds a tuple to a shape."""

    def __init__(self, filters=8, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.channels = filters, []

    def build(self, shape):
        for rate in (1, 2):
            convolution = layers.Conv2D(
                self.filters, 3, padding="same", dilation_rate=rate, use_bias=False
            )
            self.channels.append(keras.Sequential([convolution, layers.BatchNormalization()]))
        for channel in self.channels:
            channel.build(shape)
        self.projection = (keras.Sequential([layers.Conv2D(self.filters, 1)]), "last")
        self.projection[0].build(shape[:-1] + (2 * self.filters,))
        self.built = True

    def call(self, x, training=None):
        parts = [channel(x, training=training) for channel in self.channels]
        return self.projection[0](ops.concatenate(parts, -1))

    def get_config(self):
        return {**super().get_config(), "filters": self.filters}


@keras.saving.register_keras_serializable("tests")
class Tied(layers.Layer):
    """An output projection that holds the embedding it is tied to."""

    def __init__(self, emb, **kwargs):
        super().__init__(**kwargs)
        self.emb = emb

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.emb.embeddings))

    def get_config(self):
        return {**super().get_config(), "emb": keras.saving.serialize_keras_object(self.emb)}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        config["emb"] = keras.saving.deserialize_keras_object(config["emb"])
        return cls(**config)


@keras.saving.register_keras_serializable("tests")
class Residual(layers.Layer):
    """Layers made in `__init__`, no `build` of its own."""

    def __init__(self, units=16, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.first, self.second = layers.Dense(units, "relu"), layers.Dense(units)

    def call(self, x):
        return x + self.second(self.first(x))

    def compute_output_shape(self, shape):
        return shape

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("tests")
class Classifier(keras.Model):
    """A subclassed model over composites, a nested Functional model and a recurrent layer."""

    def __init__(self, classes=5, **kwargs):
        super().__init__(**kwargs)
        self.classes = classes
        self.tokens = layers.Embedding(30, 16)
        self.blocks = [Encoder(), Residual()]
        self.mixer = layers.LSTM(16, return_sequences=True)
        inputs = keras.Input((None, 16))
        self.inner = keras.Model(inputs, layers.Dense(16, name="within")(inputs), name="inner")
        self.head = layers.Dense(classes)

    def call(self, x, training=None):
        x = self.tokens(x)
        for block in self.blocks:
            x = block(x)
        return self.head(ops.mean(self.inner(self.mixer(x)), axis=1))

    def get_config(self):
        return {**super().get_config(), "classes": self.classes}


def encoder():
    inputs = keras.Input((6, 16))
    return keras.Model(inputs, layers.Dense(4, name="head")(Encoder(name="encoder")(inputs)))


def pyramid():
    inputs = keras.Input((8, 8, 12))
    return keras.Model(inputs, Pyramid(name="pyramid")(inputs))


def tied():
    inputs = keras.Input((6,), dtype="int32")
    embedding = layers.Embedding(50, 16, name="e")
    hidden = layers.Dense(16, name="h")(embedding(inputs))
    return keras.Model(inputs, Tied(embedding, name="t")(hidden))


def classifier():
    model = Classifier(name="mine")
    model(ops.zeros((1, 6), "int32"))
    return model


def mixed():
    """A Functional model over a subclassed one, composites without `build`, and a wrapper."""
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(30, 16, name="e")(inputs)
    x = layers.TimeDistributed(Residual(name="step"), name="steps")(x)
    x = Encoder(name="encoder")(x)
    outputs = {"a": layers.Dense(3, name="a")(x), "b": Classifier()(inputs)}
    model = keras.Model(inputs, outputs)
    model(ops.zeros((1, 6), "int32"))  # TimeDistributed builds what it holds at the first call
    return model


OBJECTS = {made.__name__: made for made in (encoder, pyramid, tied, classifier, mixed)}


def data(model, batch=3, seed=0):
    """Inputs for one of the models."""
    import numpy as np

    random = np.random.default_rng(seed)
    if isinstance(model, Classifier) or model.inputs[0].dtype == "int32":
        return random.integers(0, 30, (batch, 6))
    return random.normal(size=(batch, *model.inputs[0].shape[1:])).astype("float32")
