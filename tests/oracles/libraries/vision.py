"""Segmentation, detection and medical images: segmentation_models_pytorch, ultralytics, effdet, torchvision, monai."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from survey import call

from libraries.called import Called, noise, of

IMAGES = call(noise(2, 3, 64, 64))
OTHER = call(noise(1, 3, 96, 64))


def segmenter(name: str, encoder: str, **settings: Any) -> Callable[[], Called]:
    def make() -> Called:
        import segmentation_models_pytorch as library

        network = getattr(library, name)(encoder, encoder_weights=None, classes=4, **settings)
        return Called(
            network, call(noise(2, 3, 128, 128)) if name == "PAN" else IMAGES, (OTHER,) if name != "PAN" else ()
        )

    return make


for name, encoder, settings in (
    ("Unet", "resnet18", {}),
    ("UnetPlusPlus", "resnet18", {}),
    ("MAnet", "resnet18", {}),
    ("Linknet", "resnet18", {}),
    ("FPN", "resnet18", {}),
    ("PSPNet", "resnet18", {}),
    ("PAN", "resnet18", {}),
    ("DeepLabV3Plus", "resnet18", {}),
    ("UPerNet", "resnet18", {}),
    ("Segformer", "mit_b0", {}),
    ("Unet", "efficientnet-b0", {}),
    ("Unet", "tu-mobilenetv3_small_100", {"decoder_attention_type": "scse"}),
):
    of("segmentation_models_pytorch", f"{name}, {encoder}")(segmenter(name, encoder, **settings))


def yolo(kind: str, file: str) -> Callable[[], Called]:
    def make() -> Called:
        from ultralytics.nn import tasks

        return Called(getattr(tasks, kind)(file, verbose=False), IMAGES, (OTHER,))

    return make


for kind, file in (
    ("DetectionModel", "yolov8n.yaml"),
    ("DetectionModel", "yolo11n.yaml"),
    ("DetectionModel", "yolov5n.yaml"),
    ("SegmentationModel", "yolov8n-seg.yaml"),
    ("PoseModel", "yolov8n-pose.yaml"),
    ("OBBModel", "yolov8n-obb.yaml"),
    ("ClassificationModel", "yolov8n-cls.yaml"),
    ("DetectionModel", "yolov10n.yaml"),
    ("DetectionModel", "yolo12n.yaml"),
    ("RTDETRDetectionModel", "rtdetr-l.yaml"),
):
    of("ultralytics", f"{kind}, {file}")(yolo(kind, file))


@of("ultralytics", "the wrapper's model, YOLO('yolov8n.yaml').model")
def yolo_model() -> Called:
    from ultralytics import YOLO

    return Called(YOLO("yolov8n.yaml").model, IMAGES, (OTHER,))


@of("ultralytics", "the wrapper, YOLO('yolov8n.yaml')")
def yolo_wrapper() -> Called:
    from ultralytics import YOLO

    return Called(YOLO("yolov8n.yaml"), IMAGES)


@of("effdet", "EfficientDet D0")
def efficient_det() -> Called:
    import effdet

    config = effdet.get_efficientdet_config("tf_efficientdet_d0")
    config.image_size, config.num_classes = (128, 128), 3
    network = effdet.EfficientDet(config, pretrained_backbone=False)
    return Called(network, call(noise(2, 3, 128, 128)), (call(noise(1, 3, 128, 128)),))


@of("effdet", "EfficientDet D0, DetBenchPredict")
def efficient_det_bench() -> Called:
    import effdet

    config = effdet.get_efficientdet_config("tf_efficientdet_d0")
    config.image_size, config.num_classes = (128, 128), 3
    network = effdet.DetBenchPredict(effdet.EfficientDet(config, pretrained_backbone=False))
    return Called(network, call(noise(2, 3, 128, 128)), (call(noise(1, 3, 128, 128)),))


@of("effdet", "EfficientDet D0, DetBenchTrain in eval mode")
def efficient_det_train() -> Called:
    import effdet

    config = effdet.get_efficientdet_config("tf_efficientdet_d0")
    config.image_size, config.num_classes = (128, 128), 3
    network = effdet.DetBenchTrain(effdet.EfficientDet(config, pretrained_backbone=False), create_labeler=True)
    target = {
        "bbox": torch.tensor([[[10.0, 10.0, 60.0, 80.0]], [[20.0, 30.0, 100.0, 90.0]]]),
        "cls": torch.ones(2, 1),
        "img_scale": torch.ones(2),
        "img_size": torch.full((2, 2), 128.0),
    }
    return Called(network, call(noise(2, 3, 128, 128), target))


PICTURES = call([noise(3, 64, 80).sigmoid(), noise(3, 80, 64).sigmoid()])
MORE = call([noise(3, 64, 64).sigmoid()])


def detector(name: str, **settings: Any) -> Callable[[], Called]:
    def make() -> Called:
        from torchvision.models import detection

        network = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=4, **settings)
        return Called(network, PICTURES, (MORE,))

    return make


SMALL = {"min_size": 64, "max_size": 96}
for name, settings in (
    ("fasterrcnn_resnet50_fpn", SMALL),
    ("fasterrcnn_resnet50_fpn_v2", SMALL),
    ("maskrcnn_resnet50_fpn", SMALL),
    ("keypointrcnn_resnet50_fpn", SMALL),
    ("retinanet_resnet50_fpn", SMALL),
    ("fcos_resnet50_fpn", SMALL),
    ("fasterrcnn_mobilenet_v3_large_320_fpn", SMALL),
    ("ssd300_vgg16", {}),
    ("ssdlite320_mobilenet_v3_large", {}),
):
    of("torchvision", name)(detector(name, **settings))


def segmentation(name: str) -> Callable[[], Called]:
    def make() -> Called:
        from torchvision.models import segmentation

        network = getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=4, aux_loss=True)
        return Called(network, IMAGES, (OTHER,))

    return make


for name in ("fcn_resnet50", "deeplabv3_resnet50"):
    of("torchvision", name)(segmentation(name))


@of("torchvision", "raft_small")
def raft() -> Called:
    from torchvision.models.optical_flow import raft_small

    return Called(
        raft_small(weights=None), call(noise(1, 3, 128, 128), noise(1, 3, 128, 128, seed=1), num_flow_updates=2)
    )


def medical(name: str, settings: dict[str, Any], shape: tuple[int, ...], other: bool = True) -> Callable[[], Called]:
    def make() -> Called:
        from monai.networks import nets

        others = (call(noise(1, *shape[:-1], 2 * shape[-1])),) if other else ()
        return Called(getattr(nets, name)(**settings), call(noise(2, *shape)), others)

    return make


TWO = {"in_channels": 1, "out_channels": 2}
VOLUME = {"spatial_dims": 3} | TWO
for name, settings, shape, other in (
    ("UNet", VOLUME | {"channels": (8, 16, 32), "strides": (2, 2), "num_res_units": 2}, (1, 16, 16, 16), True),
    ("BasicUNet", VOLUME | {"features": (8, 8, 16, 16, 32, 8)}, (1, 32, 32, 32), True),
    ("SegResNet", VOLUME | {"init_filters": 8}, (1, 16, 16, 16), True),
    ("VNet", VOLUME, (1, 16, 16, 16), True),
    ("AttentionUnet", VOLUME | {"channels": (8, 16, 32), "strides": (2, 2)}, (1, 16, 16, 16), True),
    (
        "DynUNet",
        VOLUME
        | {"kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [8, 16, 32]},
        (1, 16, 16, 16),
        True,
    ),
    (
        "UNETR",
        TWO | {"img_size": 32, "feature_size": 8, "hidden_size": 24, "mlp_dim": 32, "num_heads": 4},
        (1, 32, 32, 32),
        False,
    ),
    ("SwinUNETR", TWO | {"spatial_dims": 2, "feature_size": 12}, (1, 64, 64), True),
    ("HighResNet", VOLUME, (1, 16, 16, 16), True),
    ("DenseNet121", VOLUME | {"init_features": 8, "growth_rate": 4}, (1, 32, 32, 32), True),
    ("SEResNet50", {"spatial_dims": 2, "in_channels": 3, "num_classes": 2}, (3, 64, 64), True),
    ("EfficientNetBN", {"model_name": "efficientnet-b0", "pretrained": False, "in_channels": 3}, (3, 64, 64), True),
    (
        "ViT",
        {
            "in_channels": 1,
            "img_size": 16,
            "patch_size": 8,
            "hidden_size": 24,
            "mlp_dim": 32,
            "num_heads": 4,
            "num_layers": 2,
            "classification": True,
        },
        (1, 16, 16, 16),
        False,
    ),
    (
        "ViTAutoEnc",
        {
            "in_channels": 1,
            "img_size": 16,
            "patch_size": 4,
            "hidden_size": 24,
            "mlp_dim": 32,
            "num_heads": 4,
            "num_layers": 2,
        },
        (1, 16, 16, 16),
        False,
    ),
    ("AutoEncoder", VOLUME | {"channels": (8, 16), "strides": (2, 2)}, (1, 16, 16, 16), True),
    (
        "VarAutoEncoder",
        {
            "spatial_dims": 2,
            "in_shape": (1, 16, 16),
            "out_channels": 1,
            "latent_size": 4,
            "channels": (8, 16),
            "strides": (2, 2),
        },
        (1, 16, 16),
        False,
    ),
    (
        "ResNet",
        {
            "block": "basic",
            "layers": [1, 1, 1, 1],
            "block_inplanes": [8, 16, 24, 32],
            "n_input_channels": 1,
            "num_classes": 3,
        },
        (1, 32, 32, 32),
        True,
    ),
    (
        "FlexibleUNet",
        {"in_channels": 3, "out_channels": 2, "backbone": "efficientnet-b0", "spatial_dims": 2},
        (3, 64, 64),
        True,
    ),
    (
        "AutoencoderKL",
        {
            "spatial_dims": 2,
            "in_channels": 1,
            "out_channels": 1,
            "channels": (8, 16),
            "num_res_blocks": 1,
            "attention_levels": (False, True),
            "latent_channels": 3,
            "norm_num_groups": 4,
        },
        (1, 16, 16),
        True,
    ),
):
    of("monai", name)(medical(name, settings, shape, other))


@of("monai", "DiffusionModelUNet")
def diffusion_unet() -> Called:
    from monai.networks.nets import DiffusionModelUNet

    network = DiffusionModelUNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        channels=(8, 16),
        num_res_blocks=1,
        attention_levels=(False, True),
        norm_num_groups=4,
        num_head_channels=4,
        with_conditioning=True,
        cross_attention_dim=6,
    )
    given = call(noise(2, 1, 16, 16), torch.tensor([3, 8]), noise(2, 5, 6))
    return Called(network, given, (call(noise(1, 1, 32, 16), torch.tensor([3]), noise(1, 7, 6)),))
