"""Feature extractors of torchvision, timm and Keras behind one call.

backbone = load_backbone("efficientnet_lite0", weights="imagenet")
layers = backbone(images)        # uint8 (B, H, W, 3) -> [float32 (B, h, w, C) per layer, shallow to deep]
"""

from mvtec_ad.backbones.backbone import BACKBONES, Backbone, artifact_backbone, batch_size, load_backbone

__all__ = ["BACKBONES", "Backbone", "artifact_backbone", "batch_size", "load_backbone"]
