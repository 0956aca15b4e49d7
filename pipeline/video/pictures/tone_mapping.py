"""Pictures with a high dynamic range (HDR) as a standard display shows them.

Their numbers mean light in another way than those of sRGB; taken as such they look grey. What is as
bright as paper or less comes out as it is, brighter light is compressed.
"""

from __future__ import annotations

import numpy as np

# Transfer characteristics as H.273 numbers them: SMPTE ST 2084, and hybrid log-gamma of BT.2100.
PQ, HLG = 16, 18
# Light of white paper, in candela a square metre (ITU-R BT.2408), and the peak HLG is made for.
_WHITE, _HLG_PEAK = 203.0, 1000.0
# Up to this share of white the light stays as it is.
_KNEE = 0.6
# Y'CbCr to R'G'B', and linear RGB of BT.2020 to that of BT.709, which sRGB shares (BT.2087).
_YCC_TO_RGB = np.array([[1, 0, 1.4746], [1, -0.16455, -0.57135], [1, 1.8814, 0]], np.float32)
_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
_LUMINANCE = np.array([0.2627, 0.678, 0.0593], np.float32)  # of linear RGB of BT.2020


def tone_map(ycc: np.ndarray, transfer: int, full_range: bool = False) -> np.ndarray:
    """uint8 sRGB [height, width, 3] of 16-bit Y'CbCr of BT.2020 [height, width, 3].

    transfer: PQ or HLG.
    """
    black, luma, chroma = (0, 65535, 65535) if full_range else (16 << 8, 219 << 8, 224 << 8)
    y = (ycc[..., :1].astype(np.float32) - black) / luma
    cbcr = (ycc[..., 1:].astype(np.float32) - (128 << 8)) / chroma
    signal = (np.concatenate([y, cbcr], axis=-1) @ _YCC_TO_RGB.T).clip(0.0, 1.0)
    light = (_pq_light(signal) if transfer == PQ else _hlg_light(signal)) / _WHITE
    light = (light @ _TO_BT709.T).clip(0.0, None)
    # By the brightest channel, so that a colour keeps its hue.
    brightest = light.max(axis=-1, keepdims=True).clip(1e-6, None)
    over, room = (brightest - _KNEE).clip(0.0, None), 1.0 - _KNEE
    compressed = np.minimum(brightest, _KNEE) + room * over / (over + room)
    return _srgb(light * (compressed / brightest))


def _pq_light(signal: np.ndarray) -> np.ndarray:
    """Candela a square metre by SMPTE ST 2084."""
    root = signal ** np.float32(1 / 78.84375)
    return 10000.0 * ((root - 0.8359375).clip(0) / (18.8515625 - 18.6875 * root)) ** 6.2773946


def _hlg_light(signal: np.ndarray) -> np.ndarray:
    """Candela a square metre by ITU-R BT.2100: what the camera saw, and a display's own gamma."""
    scene = np.where(
        signal <= 0.5,
        signal**2 / 3.0,
        (np.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12,
    )
    return _HLG_PEAK * scene * (scene @ _LUMINANCE)[..., None].clip(1e-6, None) ** 0.2


def _srgb(light: np.ndarray) -> np.ndarray:
    low, high = 12.92 * light, 1.055 * light.clip(1e-6, None) ** (1 / 2.4) - 0.055
    return (np.where(light <= 0.0031308, low, high) * 255.0).round().clip(0, 255).astype(np.uint8)
