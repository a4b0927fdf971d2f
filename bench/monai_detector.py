"""The whole process of MONAI's LUNA16 detector, to be timed from outside: ``PYTHON bench/monai_detector.py FOLDER``.

Runs in an interpreter that has ``monai``, ``torch``, ``torchvision`` and ``itk``; none of them is needed otherwise. The
network, its resampling and its windows are those of the bundle ``lung_nodule_ct_detection`` of MONAI's model zoo. Its
weights are not loaded: random ones take as long and leave next to no box to be sorted, which only flatters it.
"""

from __future__ import annotations

import sys
import time

import torch
from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector
from monai.apps.detection.networks.retinanet_network import RetinaNet, resnet_fpn_feature_extractor
from monai.apps.detection.utils.anchor_utils import AnchorGeneratorWithAnchorShape
from monai.networks.nets.resnet import resnet50
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    Orientationd,
    ScaleIntensityRanged,
    Spacingd,
)

WINDOW = (512, 512, 192)


def volume(folder: str) -> torch.Tensor:
    """A DICOM series on the network's grid, ``(1, x, y, z)``."""
    key = "image"
    load = Compose(
        [
            LoadImaged(key, reader="itkreader", affine_lps_to_ras=True),
            EnsureChannelFirstd(key),
            Orientationd(key, axcodes="RAS"),
            Spacingd(key, pixdim=(0.703125, 0.703125, 1.25)),
            ScaleIntensityRanged(key, a_min=-1024.0, a_max=300.0, b_min=0.0, b_max=1.0, clip=True),
        ]
    )
    return load({key: folder})[key].as_tensor()


def detector() -> RetinaNetDetector:
    """A RetinaNet on a 3D ResNet-50, untrained."""
    backbone = resnet50(spatial_dims=3, n_input_channels=1, conv1_t_stride=[2, 2, 1], conv1_t_size=[7, 7, 7])
    features = resnet_fpn_feature_extractor(backbone, 3, False, [1, 2], None)
    network = RetinaNet(3, 1, 3, features, size_divisible=[16, 16, 8])
    anchors = AnchorGeneratorWithAnchorShape((1, 2, 4), ([6, 8, 4], [8, 6, 5], [10, 10, 6]))
    made = RetinaNetDetector(network, anchors)
    made.set_box_selector_parameters(
        score_thresh=0.02, topk_candidates_per_level=1000, nms_thresh=0.22, detections_per_img=300
    )
    made.set_sliding_window_inferer(roi_size=WINDOW, overlap=0.25, sw_batch_size=1, mode="constant", device="cpu")
    return made.eval()


def main() -> None:
    """Read, detect, say what took how long."""
    start = time.perf_counter()
    image = volume(sys.argv[1])
    read = time.perf_counter()
    with torch.inference_mode():
        boxes = detector()([image], use_inferer=True)[0]["boxes"]
    done = time.perf_counter()
    sys.stderr.write(
        f"{tuple(image.shape)}: read {read - start:.1f} s, detect {done - read:.1f} s, {len(boxes)} boxes\n"
    )


if __name__ == "__main__":
    main()
