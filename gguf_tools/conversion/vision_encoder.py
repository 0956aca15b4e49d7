"""Convert the configuration of a vision encoder and its projector for an mmproj.

Sources: models and config classes of the transformers library, and llama.cpp's
`tools/mtmd/clip.cpp`. llama.cpp does not check a model, so variants that it would compute wrongly
are refused here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from gguf import GGUFWriter

from reellama.gguf_tools.conversion.architectures import Config
from reellama.gguf_tools.conversion.hf_folder import read_json_if_there, reporting_damage
from reellama.gguf_tools.conversion.model_config import MAX_LAYERS
from reellama.gguf_tools.errors import ReellamaError

# llama.cpp has only the tanh approximation of "gelu", which differs by at most 0.0005.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
}
QWEN_WINDOW = 112  # pixels; the only one that llama.cpp supports
QWEN_EPS = 1e-6  # a constant in transformers' code
QWEN_IMAGE_SIZE = 560  # pixels; llama.cpp requires a value but does not use it
# The defaults of transformers for keys that vision_config leaves out, by its model_type.
_VIT: Config = {"num_hidden_layers": 12, "intermediate_size": 3072, "image_size": 224}
_SIGLIP = {**_VIT, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
_SMALL = {"hidden_size": 768, "num_attention_heads": 12}
_SO400M = {**_SIGLIP, "hidden_size": 1152, "num_attention_heads": 16, "patch_size": 32}
DEFAULTS: dict[str, Config] = {
    "clip_vision_model": {
        **_VIT,
        **_SMALL,
        "patch_size": 32,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    },
    "siglip_vision_model": {**_SIGLIP, **_SMALL, "patch_size": 16},
    "idefics3_vision": _SO400M,
    "smolvlm_vision": _SO400M,
    "qwen2_5_vl": {
        "depth": 32,
        "hidden_size": 3584,
        "intermediate_size": 3420,
        "num_heads": 16,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": QWEN_WINDOW,
        "fullatt_block_indexes": (7, 15, 23, 31),
        "hidden_act": "silu",
    },
}
# model_type of other versions of transformers -> key of DEFAULTS.
RENAMED = {
    "idefics3": "idefics3_vision",
    "smolvlm": "smolvlm_vision",
    "qwen2_5_vl_vision": "qwen2_5_vl",
}


@dataclass(frozen=True)
class VisionEncoder:
    """The metadata of an mmproj. Pictures and patches are squares, with sides in pixels."""

    projector: str  # llama.cpp's name of the projector's family
    n_embd: int
    n_ff: int
    n_head: int
    n_layer: int  # layers that are computed; the weights of later ones are not needed
    image_size: int
    patch_size: int
    n_embd_text: int  # width of the language model
    eps: float
    activation: str
    image_mean: list[float]
    image_std: list[float]
    class_token: bool = False  # before the patches, as in CLIP
    final_norm: bool = True  # whether the last layer's output is normalized
    n_merge: int = 0  # patches on a side of the square that becomes one token; 0 for a fixed number
    # Further settings of the projector, by key without "clip.vision.".
    settings: Mapping[str, int | list[int]] = field(default_factory=dict)

    @property
    def side(self) -> int:
        """Patches on a side of a picture."""
        return self.image_size // self.patch_size


def read_vision_encoder(folder: Path, config: Config) -> VisionEncoder | None:
    """Return the vision encoder of a folder, or None for a model without one.

    config: from `read_config`. Raises ReellamaError for an encoder that llama.cpp does not support,
    and if no file says how pixels are normalized.
    """
    family = FAMILIES.get(str((config.get("architectures") or ["none"])[0]))
    if family is None or not config.get("vision_config"):
        return None
    path = folder / "config.json"
    with reporting_damage(path):
        vision = config["vision_config"]
        kind = str(vision.get("model_type") or family.encoders[0])
        kind = RENAMED.get(kind, kind)
        if kind not in family.encoders:
            raise ReellamaError(
                f"{path}: the vision encoder {kind!r:.80} is not known in a model of this "
                f"architecture; known are: {', '.join(family.encoders)}"
            )
        vision = {**DEFAULTS[kind], **vision, "model_type": kind}
        preprocessor = _preprocessor(folder)
        try:
            encoder = _encoder(family.projector, config, vision, preprocessor)
            return family.complete({**family.defaults, **config}, vision, preprocessor, encoder)
        except UnsupportedFeatureError as error:
            raise ReellamaError(
                f"{path}: llama.cpp has no {error} in the vision encoder of such a model"
            ) from error


def add_vision_metadata(writer: GGUFWriter, encoder: VisionEncoder) -> None:
    """Add everything that llama.cpp reads about a vision encoder."""
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type(encoder.projector)
    writer.add_vision_image_size(encoder.image_size)
    writer.add_vision_patch_size(encoder.patch_size)
    writer.add_vision_embedding_length(encoder.n_embd)
    writer.add_vision_feed_forward_length(encoder.n_ff)
    writer.add_vision_projection_dim(encoder.n_embd_text)
    writer.add_vision_block_count(encoder.n_layer)
    writer.add_vision_head_count(encoder.n_head)
    writer.add_vision_attention_layernorm_eps(encoder.eps)
    writer.add_vision_image_mean(encoder.image_mean)
    writer.add_vision_image_std(encoder.image_std)
    writer.add_vision_use_gelu(encoder.activation == "gelu")
    writer.add_vision_use_silu(encoder.activation == "silu")
    if encoder.n_merge:
        writer.add_vision_projector_scale_factor(encoder.n_merge)
    for key, value in encoder.settings.items():
        if isinstance(value, int):
            writer.add_uint32(f"clip.vision.{key}", value)
        else:
            writer.add_array(f"clip.vision.{key}", value)


def vision_notes(encoder: VisionEncoder) -> list[str]:
    """Return lines for users about where llama.cpp only approximates a vision encoder."""
    if not encoder.class_token:
        return []
    note = (
        "llama.cpp puts CLIP's class token last and reads it as the first (its issue 25814): where "
        "that is so, the first patch is lost and each has the position of the one before it"
    )
    return [note]


class UnsupportedFeatureError(Exception):
    """A feature that llama.cpp lacks; the message names it."""


def _encoder(projector: str, config: Config, vision: Config, preprocessor: Config) -> VisionEncoder:
    """The settings that all families have. Raises UnsupportedFeatureError."""

    def size(*names: str) -> int:
        name = next((name for name in names if name in vision), names[0])
        value = vision.get(name)
        if type(value) is not int or value <= 0:
            raise UnsupportedFeatureError(f"{name} {value!r:.80}")
        return value

    encoder = VisionEncoder(
        projector=projector,
        n_embd=size("hidden_size"),
        n_ff=size("intermediate_size"),
        n_head=size("num_heads", "num_attention_heads"),
        n_layer=size("depth", "num_hidden_layers"),
        image_size=QWEN_IMAGE_SIZE if projector == QWEN25VL else size("image_size"),
        patch_size=size("patch_size"),
        n_embd_text=config["hidden_size"],
        eps=_finite(vision.get("layer_norm_eps", QWEN_EPS)),
        activation=ACTIVATIONS.get(vision["hidden_act"], ""),
        image_mean=_three(preprocessor["image_mean"]),
        image_std=_three(preprocessor["image_std"]),
        class_token=vision["model_type"] == "clip_vision_model",
    )
    if not encoder.activation:
        raise UnsupportedFeatureError(f"activation {vision['hidden_act']!r:.80}")
    if encoder.n_embd % encoder.n_head or encoder.n_embd // encoder.n_head % 2:
        raise UnsupportedFeatureError(f"{encoder.n_head} heads for a width of {encoder.n_embd}")
    if encoder.n_layer > MAX_LAYERS:
        raise UnsupportedFeatureError(f"room for {encoder.n_layer} layers")
    if encoder.n_ff == encoder.n_embd:  # llama.cpp would swap the matrices, as old files need it
        raise UnsupportedFeatureError("intermediate_size that is hidden_size")
    if encoder.image_size < encoder.patch_size:
        raise UnsupportedFeatureError(f"pictures of {encoder.image_size} pixels")
    return encoder


def _llava(config: Config, _: Config, __: Config, encoder: VisionEncoder) -> VisionEncoder:
    """An MLP after one of the last layers, https://arxiv.org/abs/2310.03744."""
    if config.get("projector_hidden_act", "gelu") != "gelu":
        raise UnsupportedFeatureError(
            f"projector_hidden_act {config['projector_hidden_act']!r:.80}"
        )
    layer = config["vision_feature_layer"]
    if type(layer) is not int:
        raise UnsupportedFeatureError("features of several layers")
    n_layer = layer if layer >= 0 else encoder.n_layer + 1 + layer
    if not 0 < n_layer <= encoder.n_layer:
        raise UnsupportedFeatureError(f"layer {layer}")
    # "default" leaves the first token out, which is the class token of CLIP and a patch in SigLIP.
    strategy = config["vision_feature_select_strategy"]
    if (strategy == "default") != encoder.class_token:
        raise UnsupportedFeatureError(f"vision_feature_select_strategy {strategy!r:.80}")
    settings = {"feature_layer": [n_layer]}
    return replace(encoder, n_layer=n_layer, final_norm=False, settings=settings)


def _idefics3(
    config: Config, _: Config, preprocessor: Config, encoder: VisionEncoder
) -> VisionEncoder:
    """Squares of patches folded into one, then a matrix, https://arxiv.org/abs/2408.12637."""
    factor = config["scale_factor"]
    if type(factor) is not int or factor < 2 or encoder.side % factor:
        raise UnsupportedFeatureError(
            f"scale_factor {factor!r:.80} for {encoder.side} x {encoder.side} patches"
        )
    # A picture is scaled to this length, and cut into tiles of `image_size`.
    longest = (preprocessor.get("size") or {}).get("longest_edge") or encoder.image_size
    return replace(encoder, n_merge=factor, settings={"preproc_image_size": int(longest)})


def _gemma3(config: Config, _: Config, __: Config, encoder: VisionEncoder) -> VisionEncoder:
    """Means of squares of patches, a norm, then a matrix, https://arxiv.org/abs/2503.19786."""
    n_tokens = config["mm_tokens_per_image"]
    factor = encoder.side // math.isqrt(n_tokens)
    if not factor or (encoder.side // factor) ** 2 != n_tokens:
        raise UnsupportedFeatureError(
            f"{n_tokens} tokens for {encoder.side} x {encoder.side} patches"
        )
    return replace(encoder, n_merge=factor)


def _qwen25vl(config: Config, vision: Config, _: Config, encoder: VisionEncoder) -> VisionEncoder:
    """Attention in windows, two frames in one, https://arxiv.org/abs/2502.13923."""
    fixed = {"spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": QWEN_WINDOW}
    for key, value in fixed.items():
        if vision[key] != value:
            raise UnsupportedFeatureError(f"{key} {vision[key]!r:.80}")
    if encoder.activation != "silu":
        raise UnsupportedFeatureError(f"activation {vision['hidden_act']}")
    full = list(vision["fullatt_block_indexes"])
    every = full[0] + 1
    if full != list(range(every - 1, encoder.n_layer, every)):
        raise UnsupportedFeatureError(f"fullatt_block_indexes {full!r:.80}")
    return replace(encoder, settings={"n_wa_pattern": every})


def _preprocessor(folder: Path) -> Config:
    """The image preprocessor's config; newer folders have it in the processor's file."""
    config = read_json_if_there(folder / "preprocessor_config.json")
    config |= read_json_if_there(folder / "processor_config.json").get("image_processor") or {}
    if missing := {"image_mean", "image_std"} - set(config):
        raise ReellamaError(
            f"{folder} has no {min(missing)} in preprocessor_config.json, so that it is not known "
            "how pixels are normalized; download it"
        )
    return config


def _three(numbers: list[float]) -> list[float]:
    red, green, blue = numbers
    return [_finite(red), _finite(green), _finite(blue)]


def _finite(number: float) -> float:
    if not math.isfinite(number):
        raise ValueError(f"{number} is given as a number")
    return float(number)


Complete = Callable[[Config, Config, Config, VisionEncoder], VisionEncoder]


@dataclass(frozen=True)
class VisionFamily:
    """The vision side of a Hugging Face architecture."""

    projector: str
    encoders: tuple[str, ...]  # model_type of vision_config, the default first
    complete: Complete  # adds the family's own settings, and checks them
    defaults: Config = field(default_factory=dict)  # of transformers, for config.json


QWEN25VL = "qwen2.5vl_merger"
_LLAVA = {"vision_feature_layer": -2, "vision_feature_select_strategy": "default"}
_ONEVISION = {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"}
_LLAVA_ENCODERS = ("clip_vision_model", "siglip_vision_model")
_IDEFICS3 = VisionFamily(
    "idefics3", ("idefics3_vision", "smolvlm_vision"), _idefics3, {"scale_factor": 2}
)
FAMILIES = {
    "LlavaForConditionalGeneration": VisionFamily("mlp", _LLAVA_ENCODERS, _llava, _LLAVA),
    "LlavaOnevisionForConditionalGeneration": VisionFamily(
        "mlp", _LLAVA_ENCODERS[::-1], _llava, _ONEVISION
    ),
    "Idefics3ForConditionalGeneration": _IDEFICS3,
    "SmolVLMForConditionalGeneration": _IDEFICS3,
    "Gemma3ForConditionalGeneration": VisionFamily(
        "gemma3", ("siglip_vision_model",), _gemma3, {"mm_tokens_per_image": 256}
    ),
    "Qwen2_5_VLForConditionalGeneration": VisionFamily(QWEN25VL, ("qwen2_5_vl",), _qwen25vl),
}
