"""Settings of the stage that joins the others."""

from __future__ import annotations

from dataclasses import dataclass

from mvtec_ad.errors import SettingsError
from mvtec_ad.settings._shared import check_choice

OPINIONS = ("autoencoder", "padim", "patchcore", "f_anogan")  # the models that can be asked for a second opinion


@dataclass(frozen=True)
class InspectionSettings:
    """Stage 08: one inspector from the models of all notebooks."""

    second: str = "autoencoder"  # one of OPINIONS
    miss: float = 10.0  # cost of a defect that passes
    false_alarm: float = 1.0  # cost of a good part that is stopped
    widths: tuple[float, ...] = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # half-widths of the band that are tried
    backbone: str = "resnet18"  # that tells products apart
    weights: str = "imagenet"  # imagenet | random | drawn | path of a weights file
    image_size: int = 128  # pixels, for telling products apart
    rejected: float = 0.005  # share of images of known products that may be called none of these

    def __post_init__(self) -> None:
        check_choice("second opinion", self.second, OPINIONS)
        if not (0 < self.miss < float("inf") and 0 < self.false_alarm < float("inf")):
            raise SettingsError("the costs of a miss and of a false alarm must be positive numbers")
        if not self.widths or min(self.widths) < 0 or list(self.widths) != sorted(set(self.widths)):
            raise SettingsError(f"widths {self.widths} must be different numbers of 0 or more, in ascending order")
        if self.image_size < 32:
            raise SettingsError(f"image size {self.image_size} is too small for three layers: use 32 or more")
        if not 0 < self.rejected < 1:
            raise SettingsError(f"rejected share {self.rejected} must lie between 0 and 1, for example 0.005")
