"""A layer of every class that keras.layers exports, with inputs for it."""

import numpy as np
from keras import layers as L


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


class Scaled(L.Layer):
    """Computes with a number, an array and a table that its configuration does not hold."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.factor, self.shift, self.table = 1.0, None, {"bias": [0.0]}

    def build(self, input_shape):
        self.factor = 1.0

    def learn(self, data):
        self.factor, self.shift = float(data.std()), data.mean(axis=0)
        self.table = {"bias": [float(data.max())]}
        return self

    def call(self, inputs):
        shift = 0.0 if self.shift is None else self.shift
        return self.factor * (inputs - shift) + self.table["bias"][0]


class Twice(L.Wrapper):
    def call(self, inputs):
        return self.layer(self.layer(inputs))


def adapted(layer, data):
    layer.adapt(data)
    return layer


IMAGE, VOLUME, SERIES, ROWS = (
    normal(2, 8, 8, 3),
    normal(2, 4, 4, 4, 2),
    normal(2, 6, 4),
    normal(4, 5),
)
PICTURE = np.random.default_rng(2).integers(0, 255, (2, 8, 8, 3)).astype("float32")
WORDS, NUMBERS = np.array([["a"], ["d"], ["z"]]), np.array([[10], [30], [77]])
TOKENS = np.array([[1, 2, 0], [3, 1, 2]])
PAIR = [SERIES, normal(2, 6, 4, seed=5)]
IDS = np.array([[1], [0], [2]])


def words():
    return np.array(["b", "a", "c", "d", "a", "b", "a"])


# What stands for each class of keras.layers: `name -> list of (layer, inputs)`; several where a
# class has several ways to hold state.
CASES = {
    "Activation": lambda: [(L.Activation("gelu"), ROWS)],
    "ActivityRegularization": lambda: [(L.ActivityRegularization(0.1), ROWS)],
    "AdaptiveAveragePooling1D": lambda: [(L.AdaptiveAveragePooling1D(3), SERIES)],
    "AdaptiveAveragePooling2D": lambda: [(L.AdaptiveAveragePooling2D(3), IMAGE)],
    "AdaptiveAveragePooling3D": lambda: [(L.AdaptiveAveragePooling3D(3), VOLUME)],
    "AdaptiveMaxPooling1D": lambda: [(L.AdaptiveMaxPooling1D(3), SERIES)],
    "AdaptiveMaxPooling2D": lambda: [(L.AdaptiveMaxPooling2D(3), IMAGE)],
    "AdaptiveMaxPooling3D": lambda: [(L.AdaptiveMaxPooling3D(3), VOLUME)],
    "Add": lambda: [(L.Add(), PAIR)],
    "AdditiveAttention": lambda: [(L.AdditiveAttention(), PAIR)],
    "AlphaDropout": lambda: [(L.AlphaDropout(0.5), ROWS)],
    "Attention": lambda: [(L.Attention(use_scale=True, score_mode="concat", dropout=0.2), PAIR)],
    "AugMix": lambda: [(L.AugMix(), PICTURE)],
    "AutoContrast": lambda: [(L.AutoContrast(), PICTURE)],
    "Average": lambda: [(L.Average(), PAIR)],
    "AveragePooling1D": lambda: [(L.AveragePooling1D(2), SERIES)],
    "AveragePooling2D": lambda: [(L.AveragePooling2D(2), IMAGE)],
    "AveragePooling3D": lambda: [(L.AveragePooling3D(2), VOLUME)],
    "BatchNormalization": lambda: [(L.BatchNormalization(), IMAGE)],
    "Bidirectional": lambda: [(L.Bidirectional(L.LSTM(3)), SERIES)],
    "CategoryEncoding": lambda: [(L.CategoryEncoding(4), TOKENS)],
    "CenterCrop": lambda: [(L.CenterCrop(4, 5), IMAGE)],
    "Concatenate": lambda: [(L.Concatenate(), PAIR)],
    "ContrastLimitedAdaptiveHistogramEqualization": lambda: [
        (L.ContrastLimitedAdaptiveHistogramEqualization(tile_grid_size=(2, 2)), PICTURE)
    ],
    "Conv1D": lambda: [(L.Conv1D(4, 3), SERIES)],
    "Conv1DTranspose": lambda: [(L.Conv1DTranspose(4, 3), SERIES)],
    "Conv2D": lambda: [(L.Conv2D(4, 3, groups=1), IMAGE)],
    "Conv2DTranspose": lambda: [(L.Conv2DTranspose(4, 3), IMAGE)],
    "Conv3D": lambda: [(L.Conv3D(4, 3), VOLUME)],
    "Conv3DTranspose": lambda: [(L.Conv3DTranspose(4, 3), VOLUME)],
    "ConvLSTM1D": lambda: [(L.ConvLSTM1D(2, 3), normal(2, 3, 6, 2))],
    "ConvLSTM2D": lambda: [(L.ConvLSTM2D(2, 3), normal(2, 3, 6, 6, 2))],
    "ConvLSTM3D": lambda: [(L.ConvLSTM3D(2, 2), normal(2, 2, 4, 4, 4, 1))],
    "Cropping1D": lambda: [(L.Cropping1D(1), SERIES)],
    "Cropping2D": lambda: [(L.Cropping2D(1), IMAGE)],
    "Cropping3D": lambda: [(L.Cropping3D(1), VOLUME)],
    "CutMix": lambda: [(L.CutMix(), {"images": PICTURE, "labels": normal(2, 3)})],
    "Dense": lambda: [(L.Dense(4), ROWS)],
    "DepthwiseConv1D": lambda: [(L.DepthwiseConv1D(3), SERIES)],
    "DepthwiseConv2D": lambda: [(L.DepthwiseConv2D(3), IMAGE)],
    "Discretization": lambda: [
        (adapted(L.Discretization(num_bins=3), normal(50, 1)), normal(6, 1, seed=3)),
        (adapted(L.Discretization(num_bins=3, output_mode="one_hot"), normal(50)), normal(6, 1)),
        (L.Discretization([-0.5, 0.1]), ROWS),
    ],
    "Dot": lambda: [(L.Dot(2), PAIR)],
    "Dropout": lambda: [(L.Dropout(0.5), ROWS), (L.Dropout(0.5, seed=3), ROWS)],
    "ELU": lambda: [(L.ELU(0.3), ROWS)],
    "EinsumDense": lambda: [(L.EinsumDense("abc,cd->abd", (None, 5), bias_axes="d"), SERIES)],
    "Embedding": lambda: [(L.Embedding(5, 4), TOKENS)],
    "Equalization": lambda: [
        # Alone it cannot stand in a graph: its symbolic output is its input.
        (L.Pipeline([L.Equalization()]), PICTURE)
    ],
    "Flatten": lambda: [(L.Flatten(), SERIES)],
    "GRU": lambda: [(L.GRU(3, dropout=0.3, recurrent_dropout=0.3), SERIES)],
    "GRUCell": lambda: [(L.RNN(L.GRUCell(3)), SERIES)],
    "GaussianDropout": lambda: [(L.GaussianDropout(0.3), ROWS)],
    "GaussianNoise": lambda: [(L.GaussianNoise(0.3), ROWS)],
    "GlobalAveragePooling1D": lambda: [(L.GlobalAveragePooling1D(), SERIES)],
    "GlobalAveragePooling2D": lambda: [(L.GlobalAveragePooling2D(), IMAGE)],
    "GlobalAveragePooling3D": lambda: [(L.GlobalAveragePooling3D(), VOLUME)],
    "GlobalMaxPooling1D": lambda: [(L.GlobalMaxPooling1D(), SERIES)],
    "GlobalMaxPooling2D": lambda: [(L.GlobalMaxPooling2D(), IMAGE)],
    "GlobalMaxPooling3D": lambda: [(L.GlobalMaxPooling3D(), VOLUME)],
    "GroupNormalization": lambda: [(L.GroupNormalization(3), IMAGE)],
    "GroupedQueryAttention": lambda: [(L.GroupQueryAttention(3, 4, 2), PAIR)],
    "HashedCrossing": lambda: [(L.HashedCrossing(5), [WORDS, NUMBERS])],
    "Hashing": lambda: [(L.Hashing(5, salt=[7, 8]), WORDS), (L.Hashing(5), NUMBERS)],
    "Identity": lambda: [(L.Identity(), ROWS)],
    "IntegerLookup": lambda: [
        (adapted(L.IntegerLookup(), np.array([10, 20, 30])), NUMBERS),
        (L.IntegerLookup(vocabulary=[10, 20]), NUMBERS),
        (adapted(L.IntegerLookup(output_mode="multi_hot", num_oov_indices=2), [10, 30]), NUMBERS),
        (adapted(L.IntegerLookup(invert=True), [10, 30, 40]), TOKENS),
    ],
    "LSTM": lambda: [
        (L.LSTM(3, dropout=0.3, return_sequences=True), SERIES),
        (L.LSTM(3, return_state=True), SERIES),
    ],
    "LSTMCell": lambda: [(L.RNN(L.LSTMCell(3)), SERIES)],
    "Lambda": lambda: [(L.Lambda(lambda x: 2.0 * x), ROWS)],
    "Layer": lambda: [(Scaled(), ROWS)],
    "LayerNormalization": lambda: [(L.LayerNormalization(), SERIES)],
    "LeakyReLU": lambda: [(L.LeakyReLU(0.1), ROWS)],
    "Masking": lambda: [(L.Masking(), SERIES)],
    "MaxNumBoundingBoxes": lambda: [
        (
            L.MaxNumBoundingBoxes(2, bounding_box_format="xyxy"),
            {
                "images": PICTURE,
                "bounding_boxes": {
                    "boxes": np.ones((2, 3, 4), "float32"),
                    "labels": np.ones((2, 3)),
                },
            },
        )
    ],
    "MaxPooling1D": lambda: [(L.MaxPooling1D(2), SERIES)],
    "MaxPooling2D": lambda: [(L.MaxPooling2D(2), IMAGE)],
    "MaxPooling3D": lambda: [(L.MaxPooling3D(2), VOLUME)],
    "Maximum": lambda: [(L.Maximum(), PAIR)],
    "MelSpectrogram": lambda: [
        (L.MelSpectrogram(fft_length=64, sequence_stride=16, num_mel_bins=4), normal(2, 256))
    ],
    "Minimum": lambda: [(L.Minimum(), PAIR)],
    "MixUp": lambda: [(L.MixUp(), {"images": PICTURE, "labels": normal(2, 3)})],
    "MultiHeadAttention": lambda: [(L.MultiHeadAttention(2, 3, dropout=0.2), PAIR)],
    "Multiply": lambda: [(L.Multiply(), PAIR)],
    "Normalization": lambda: [
        (adapted(L.Normalization(), 5 + 3 * normal(50, 5)), ROWS),
        (adapted(L.Normalization(axis=None), 5 + 3 * normal(50, 5)), ROWS),
        (adapted(L.Normalization(axis=(1, -1), invert=True), 5 + normal(9, 6, 4)), SERIES),
        (L.Normalization(mean=2.0, variance=3.0), ROWS),
    ],
    "PReLU": lambda: [(L.PReLU(), ROWS)],
    "Permute": lambda: [(L.Permute((2, 1)), SERIES)],
    "Pipeline": lambda: [(L.Pipeline([L.Rescaling(0.5), L.RandomFlip(seed=1)]), IMAGE)],
    "RMSNormalization": lambda: [(L.RMSNormalization(), ROWS)],
    "RNN": lambda: [(L.RNN([L.LSTMCell(3), L.GRUCell(2)]), SERIES)],
    "RandAugment": lambda: [(L.RandAugment(), PICTURE)],
    "RandomBrightness": lambda: [(L.RandomBrightness(0.4), PICTURE)],
    "RandomColorDegeneration": lambda: [(L.RandomColorDegeneration(0.4), PICTURE)],
    "RandomColorJitter": lambda: [(L.RandomColorJitter(brightness_factor=0.4), PICTURE)],
    "RandomContrast": lambda: [(L.RandomContrast(0.4), PICTURE)],
    "RandomCrop": lambda: [(L.RandomCrop(4, 5), IMAGE)],
    "RandomElasticTransform": lambda: [(L.RandomElasticTransform(), PICTURE)],
    "RandomErasing": lambda: [(L.RandomErasing(), PICTURE)],
    "RandomFlip": lambda: [(L.RandomFlip(), IMAGE)],
    "RandomGaussianBlur": lambda: [(L.RandomGaussianBlur(), PICTURE)],
    "RandomGrayscale": lambda: [(L.RandomGrayscale(), PICTURE)],
    "RandomHue": lambda: [(L.RandomHue(0.4), PICTURE)],
    "RandomInvert": lambda: [(L.RandomInvert(), PICTURE)],
    "RandomPerspective": lambda: [(L.RandomPerspective(), PICTURE)],
    "RandomPosterization": lambda: [(L.RandomPosterization(4), PICTURE)],
    "RandomRotation": lambda: [(L.RandomRotation(0.3), IMAGE)],
    "RandomSaturation": lambda: [(L.RandomSaturation(0.4), PICTURE)],
    "RandomSharpness": lambda: [(L.RandomSharpness(0.4), PICTURE)],
    "RandomShear": lambda: [(L.RandomShear(0.3, 0.3), PICTURE)],
    "RandomTranslation": lambda: [(L.RandomTranslation(0.3, 0.3), IMAGE)],
    "RandomZoom": lambda: [(L.RandomZoom(0.3), IMAGE)],
    "ReLU": lambda: [(L.ReLU(2.0), ROWS)],
    "RepeatVector": lambda: [(L.RepeatVector(2), ROWS)],
    "Rescaling": lambda: [(L.Rescaling([0.1, 0.2, 0.3], [1.0, 2.0, 3.0]), IMAGE)],
    "Reshape": lambda: [(L.Reshape((4, 6)), SERIES)],
    "Resizing": lambda: [(L.Resizing(4, 5), IMAGE)],
    "ReversibleEmbedding": lambda: [(L.ReversibleEmbedding(5, 4, tie_weights=False), TOKENS)],
    "STFTSpectrogram": lambda: [
        (L.STFTSpectrogram(frame_length=16, frame_step=8, fft_length=16), normal(2, 64, 1))
    ],
    "SeparableConv1D": lambda: [(L.SeparableConv1D(4, 3), SERIES)],
    "SeparableConv2D": lambda: [(L.SeparableConv2D(4, 3), IMAGE)],
    "SimpleRNN": lambda: [(L.SimpleRNN(3), SERIES)],
    "SimpleRNNCell": lambda: [(L.RNN(L.SimpleRNNCell(3)), SERIES)],
    "Softmax": lambda: [(L.Softmax(), ROWS)],
    "Solarization": lambda: [(L.Solarization(0.3, 0.4), PICTURE)],
    "SpatialDropout1D": lambda: [(L.SpatialDropout1D(0.5), SERIES)],
    "SpatialDropout2D": lambda: [(L.SpatialDropout2D(0.5), IMAGE)],
    "SpatialDropout3D": lambda: [(L.SpatialDropout3D(0.5), VOLUME)],
    "SpectralNormalization": lambda: [(L.SpectralNormalization(L.Dense(4)), ROWS)],
    "StackedRNNCells": lambda: [
        (L.RNN(L.StackedRNNCells([L.GRUCell(3), L.SimpleRNNCell(2)])), SERIES)
    ],
    "StringLookup": lambda: [
        (adapted(L.StringLookup(), words()), WORDS),
        (adapted(L.StringLookup(num_oov_indices=3, mask_token="z"), words()), WORDS),
        (adapted(L.StringLookup(output_mode="one_hot"), words()), WORDS),
        (adapted(L.StringLookup(output_mode="tf_idf"), words()), WORDS),
        (
            L.StringLookup(vocabulary=["a", "d"], idf_weights=[0.3, 0.7], output_mode="tf_idf"),
            WORDS,
        ),
        (
            adapted(
                L.StringLookup(output_mode="count", max_tokens=9, pad_to_max_tokens=True), words()
            ),
            WORDS,
        ),
        (adapted(L.StringLookup(invert=True), words()), TOKENS),
        (adapted(L.StringLookup(), np.array(["a line\nand another", "", "d\u2028", "a"])), WORDS),
    ],
    "Subtract": lambda: [(L.Subtract(), PAIR)],
    "TextVectorization": lambda: [
        (adapted(L.TextVectorization(output_sequence_length=4), ["a b c", "a b", "a"]), WORDS),
        (adapted(L.TextVectorization(output_mode="tf_idf"), ["a b c", "a b", "a"]), WORDS),
        (adapted(L.TextVectorization(output_mode="multi_hot", ngrams=2), ["a b d", "a b"]), WORDS),
        (L.TextVectorization(vocabulary=["a", "d"], split="character"), WORDS),
    ],
    "TimeDistributed": lambda: [(L.TimeDistributed(L.Dense(3)), SERIES)],
    "UnitNormalization": lambda: [(L.UnitNormalization(), ROWS)],
    "UpSampling1D": lambda: [(L.UpSampling1D(2), SERIES)],
    "UpSampling2D": lambda: [(L.UpSampling2D(2), IMAGE)],
    "UpSampling3D": lambda: [(L.UpSampling3D(2), VOLUME)],
    "Wrapper": lambda: [(Twice(L.Dense(5)), ROWS)],
    "ZeroPadding1D": lambda: [(L.ZeroPadding1D(1), SERIES)],
    "ZeroPadding2D": lambda: [(L.ZeroPadding2D(1), IMAGE)],
    "ZeroPadding3D": lambda: [(L.ZeroPadding3D(1), VOLUME)],
}
# Classes that no graph of this backend can hold as a layer.
WITHOUT_CASE = {
    "FlaxLayer": "needs JAX",
    "JaxLayer": "needs JAX",
    "TorchModuleWrapper": "needs PyTorch",
    "InputLayer": "the inputs themselves",
    "TFSMLayer": "tested below, on a file",
}
