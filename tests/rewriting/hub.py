"""Small KerasHub models with random weights, and inputs for them."""

import numpy as np

TOKENS = np.arange(24).reshape(2, 12) % 40
TEXT = {"token_ids": TOKENS, "padding_mask": np.ones((2, 12), "int32")}
SEGMENTS = {**TEXT, "segment_ids": 0 * TOKENS}
IMAGES = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
SOUND = np.random.default_rng(0).normal(size=(2, 20, 8)).astype("float32")
WIDTHS = {"num_layers": 2, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 32}
DECODER = {
    "vocabulary_size": 50,
    "num_layers": 2,
    "num_query_heads": 2,
    "num_key_value_heads": 1,
    "hidden_dim": 16,
    "intermediate_dim": 32,
}


def models():
    from keras_hub import models

    return models


def bert():
    return models().BertBackbone(vocabulary_size=50, max_sequence_length=12, **WIDTHS)


def bert_classifier():
    return models().BertTextClassifier(backbone=bert(), num_classes=3, preprocessor=None)


def distil_bert():
    return models().DistilBertBackbone(vocabulary_size=50, max_sequence_length=12, **WIDTHS)


def vit():
    return models().ViTBackbone(
        image_shape=(32, 32, 3), patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32
    )


def gemma():
    return models().GemmaBackbone(head_dim=8, **DECODER)


def gemma_lm():
    return models().GemmaCausalLM(backbone=gemma(), preprocessor=None)


def gpt2_lm():
    backbone = models().GPT2Backbone(vocabulary_size=50, max_sequence_length=12, **WIDTHS)
    return models().GPT2CausalLM(backbone=backbone, preprocessor=None)


def llama():
    return models().LlamaBackbone(**DECODER)


def whisper():
    return models().WhisperBackbone(
        vocabulary_size=50,
        num_mels=8,
        max_encoder_sequence_length=20,
        max_decoder_sequence_length=12,
        **{**WIDTHS, "num_layers": 1},
    )


def resnet(filters=(64, 16)):
    return models().ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=list(filters),
        stackwise_num_blocks=[1] * len(filters),
        stackwise_num_strides=[1] + [2] * (len(filters) - 1),
        block_type="basic_block",
        use_pre_activation=False,
        image_shape=(32, 32, 3),
    )


def resnet_classifier():
    return models().ResNetImageClassifier(backbone=resnet(), num_classes=4)


def segformer():
    encoder = models().MiTBackbone(
        layerwise_depths=[1, 1],
        image_shape=(32, 32, 3),
        hidden_dims=[8, 16],
        num_layers=2,
        layerwise_num_heads=[1, 2],
        layerwise_sr_ratios=[2, 1],
        max_drop_path_rate=0.0,
        layerwise_patch_sizes=[7, 3],
        layerwise_strides=[4, 2],
    )
    return models().SegFormerBackbone(image_encoder=encoder, projection_filters=16)


def deeplab():
    backbone = models().DeepLabV3Backbone(
        image_encoder=resnet((64, 8, 8, 8)),
        low_level_feature_key="P2",
        spatial_pyramid_pooling_key="P4",
        dilation_rates=[2, 3],
        upsampling_size=4,
        projection_filters=8,
    )
    return models().DeepLabV3ImageSegmenter(backbone=backbone, num_classes=3)


SPEECH = {
    "encoder_features": SOUND,
    "decoder_token_ids": TOKENS,
    "decoder_padding_mask": TEXT["padding_mask"],
}
CASES = {
    "bert": (bert, SEGMENTS),
    "bert_classifier": (bert_classifier, SEGMENTS),
    "distil_bert": (distil_bert, TEXT),
    "vit": (vit, IMAGES),
    "gemma": (gemma, TEXT),
    "gemma_lm": (gemma_lm, TEXT),
    "llama": (llama, TEXT),
    "whisper": (whisper, SPEECH),
    "resnet": (resnet, IMAGES),
    "resnet_classifier": (resnet_classifier, IMAGES),
    "segformer": (segformer, IMAGES),
    "deeplab": (deeplab, IMAGES),
}
