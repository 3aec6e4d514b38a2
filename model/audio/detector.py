"""The detector for speech: frozen networks hear windows, heads decide; one score a clip."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..cpu import choose_dtype
from ..heads import Decision, from_arrays
from ..weights import Manifest, WeightsError, load_manifest, load_tensors
from .cepstra import CepstraArchitecture, CepstralVectors
from .picture import PictureArchitecture, PictureEncoder
from .views import WINDOWS, ViewConfig, split_windows

PICTURE, CEPSTRA = "picture", "cepstra"  # features: of the spectrum as a picture, and Fisher vectors of cepstra
_NETWORKS = ("picture.", "cepstra.vectors.")  # prefixes of the networks' tensors in the file; others are the heads'
_FULL_SCALE = 32768


class AudioNetwork(nn.Module):
    """The frozen networks: windows -> named features, side by side."""

    def __init__(self, *, picture: PictureArchitecture, cepstra: CepstraArchitecture) -> None:
        super().__init__()
        self.picture = PictureEncoder(**picture)
        self.cepstra = CepstralVectors(**cepstra)

    @property
    def sizes(self) -> dict[str, int]:
        """Name -> size of every feature, in the order of the output."""
        return {PICTURE: self.picture.num_features, CEPSTRA: self.cepstra.num_features}

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """int16 (B, N) at 16 kHz -> float32 (B, D)."""
        samples = windows.float() / _FULL_SCALE
        return torch.cat([self.picture(samples), self.cepstra(samples)], dim=1)


class AudioDetector:
    """The network on one device, and the decision. Serves `modality.Detector`."""

    def __init__(
        self,
        network: AudioNetwork,
        decision: Decision,
        manifest: Manifest,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """dtype: of products on a CPU."""
        self.manifest = manifest
        self.view_config = manifest.configured("views", ViewConfig)
        self.views_per_clip = self.view_config.max_windows
        self.device = device
        self._sizes, self._decision = network.sizes, decision
        self._network = network.eval().to(device)
        if device.type == "cpu":
            self._network.picture.prepare_for_cpu(self.view_config.window_samples, dtype)

    def split(self, content: np.ndarray) -> dict[str, np.ndarray]:
        """uint8 (n,), as prepared -> {"windows": int16 (V, N)}, without copies. Raises: ValueError."""
        return {WINDOWS: split_windows(content, self.view_config)}

    @torch.inference_mode()
    def features(self, views: torch.Tensor, kind: str) -> torch.Tensor:
        """int16 (B, N), of any clips, on any device -> float32 (B, D) on the detector's. Raises: ValueError."""
        if kind != WINDOWS:
            raise ValueError(f"kind is {kind!r}; the only one is {WINDOWS!r}")
        return self._network(views.to(self.device, non_blocking=True))

    def clip_features(self, content: np.ndarray) -> dict[str, np.ndarray]:
        """Of one clip: uint8 (n,) -> kind -> float32 (V, D), for `score`."""
        return {
            kind: self.features(torch.from_numpy(part), kind).cpu().numpy()
            for kind, part in self.split(content).items()
        }

    def score(self, features: Mapping[str, np.ndarray]) -> float:
        """Kind -> (V, D) of one clip -> calibrated log-likelihood ratio."""
        return float(self._decision.scores(self._named(pool_windows(features[WINDOWS][None])))[0])

    def view_scores(self, features: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Kind -> (V, D) of one clip -> kind -> (V,): its score if all windows were like this one."""
        return {kind: self._decision.scores(self._named(array)) for kind, array in features.items()}

    def _named(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """(N, D) -> name -> (N, D of the name)."""
        parts = np.split(features, np.cumsum(list(self._sizes.values()))[:-1], axis=1)
        return dict(zip(self._sizes, parts, strict=True))


def pool_windows(windows: np.ndarray) -> np.ndarray:
    """Features of clips' windows (N, V, D) -> of the clips, float32 (N, D): the mean."""
    return windows.mean(axis=1, dtype=np.float64).astype(np.float32)


def load_network(manifest: Manifest) -> tuple[AudioNetwork, Decision]:
    """Build what the manifest describes and load its verified weights, strictly. Raises: WeightsError."""
    tensors = load_tensors(manifest)
    try:
        network = AudioNetwork(**manifest.architecture)
        own = {name: tensor.float() for name, tensor in tensors.items() if name.startswith(_NETWORKS)}
        network.load_state_dict(own, strict=True)
        arrays = {name: tensor.float().numpy() for name, tensor in tensors.items() if name not in own}
        decision = from_arrays(arrays, manifest.heads, manifest.offset, network.sizes)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(f"{manifest.file} does not fit the architecture in {manifest.path}: {error}") from error
    return network, decision


def load_detector(folder: Path, device: torch.device, precision: str = "float32") -> AudioDetector:
    """The detector of `folder`'s manifest and weights. Raises: WeightsError.

    precision: on a CPU, one of `cpu.PRECISIONS`.
    """
    manifest = load_manifest(folder)
    dtype = choose_dtype(precision) if device.type == "cpu" else torch.float32
    return AudioDetector(*load_network(manifest), manifest, device, dtype)
