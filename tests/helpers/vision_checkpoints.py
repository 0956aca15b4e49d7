"""Small vision-language checkpoints of random weights, in the folders that transformers writes.

One function a family. Towers take pictures of 112 pixels in patches of 14; SmolVLM's, Gemma 3's
and Qwen2.5-VL's give 4 x 4 tokens for one, LLaVA's 8 x 8. Language models are 64 wide.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer

from tests.helpers import tiny_hf
from tests.helpers.vision_models import IMAGE_SIZE

PATCH_SIZE = 14  # pixels
N_EMBD = 64  # of every language model
CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]
HALF = [0.5, 0.5, 0.5]

TEXT: dict[str, Any] = {
    "hidden_size": N_EMBD,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": IMAGE_SIZE,
    "patch_size": PATCH_SIZE,
}
# A message's content is text, or a list of texts and pictures.
CONTENT = """\
{%- macro content(message) -%}
{%- if message['content'] is string -%}{{ message['content'] }}
{%- else -%}{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}{{ IMAGE }}{%- else -%}{{ part['text'] }}{%- endif -%}
{%- endfor -%}{%- endif -%}
{%- endmacro -%}
"""
LLAVA_TEMPLATE = (
    CONTENT.replace("IMAGE", "'<image>\\n'")
    + """\
{%- for message in messages -%}
{{ message['role'] | upper }}: {{ content(message) }}{{ '</s>' if message['role'] == 'assistant' }}
{% endfor -%}
{%- if add_generation_prompt -%}ASSISTANT:{%- endif -%}"""
)
SMOLVLM_TEMPLATE = (
    CONTENT.replace("IMAGE", "'<image>'")
    + """\
<|im_start|>
{%- for message in messages -%}
{{ message['role'] | capitalize }}: {{ content(message) }}<end_of_utterance>
{% endfor -%}
{%- if add_generation_prompt -%}Assistant:{%- endif -%}"""
)
GEMMA3_TEMPLATE = (
    CONTENT.replace("IMAGE", "'<start_of_image>'")
    + """\
{{ bos_token }}
{%- for message in messages -%}
<start_of_turn>{{ 'model' if message['role'] == 'assistant' else 'user' }}
{{ content(message) }}<end_of_turn>
{% endfor -%}
{%- if add_generation_prompt -%}<start_of_turn>model
{% endif -%}"""
)
CHATML_TURNS = """\
{%- for message in messages -%}
<|im_start|>{{ message['role'] }}
{{ content(message) }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}"""
ONEVISION_TEMPLATE = CONTENT.replace("IMAGE", "'<image>\\n'") + CHATML_TURNS
QWEN_TEMPLATE = (
    CONTENT.replace("IMAGE", "'<|vision_start|><|image_pad|><|vision_end|>'") + CHATML_TURNS
)


def make_llava(folder: Path) -> Path:
    """LLaVA-1.5: CLIP's last layer but one, an MLP, Llama. Its tower takes squares only."""
    fast = _save_tokenizer(
        tiny_hf.sentencepiece(), folder, ["<image>", "<pad>"], chat_template=LLAVA_TEMPLATE
    )
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION, projection_dim=32),
        text_config=transformers.LlamaConfig(**TEXT, vocab_size=len(fast)),
        image_token_index=fast.convert_tokens_to_ids("<image>"),
        image_seq_length=64,
    )
    _save_preprocessor(folder, CLIP_MEAN, CLIP_STD, size={"shortest_edge": IMAGE_SIZE})
    return _save_model(transformers.LlavaForConditionalGeneration(config), folder)


def make_llava_onevision(folder: Path) -> Path:
    """LLaVA-OneVision: all of SigLIP's layers, an MLP, Qwen2."""
    names = ["<image>", "<video>"]
    fast = _save_tokenizer(
        tiny_hf.byte_level("qwen2"), folder, names, chat_template=ONEVISION_TEMPLATE
    )
    config = transformers.LlavaOnevisionConfig(
        vision_config=transformers.SiglipVisionConfig(**VISION),
        text_config=transformers.Qwen2Config(**TEXT, vocab_size=len(fast)),
        image_token_index=fast.convert_tokens_to_ids("<image>"),
        video_token_index=fast.convert_tokens_to_ids("<video>"),
    )
    _save_preprocessor(folder, HALF, HALF, size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
    return _save_model(transformers.LlavaOnevisionForConditionalGeneration(config), folder)


def make_smolvlm(folder: Path) -> Path:
    """SmolVLM: SigLIP, 2 x 2 patches folded into one, Llama. A picture becomes 2 x 2 tiles."""
    grid = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    around = ["<fake_token_around_image>", "<image>", "<global-img>", "<end_of_utterance>"]
    fast = _save_tokenizer(
        tiny_hf.byte_level("smollm"),
        folder,
        [*around, *grid],
        chat_template=SMOLVLM_TEMPLATE,
        eos_token="<end_of_utterance>",
    )
    config = transformers.SmolVLMConfig(
        vision_config=VISION,
        text_config=transformers.LlamaConfig(**TEXT, vocab_size=len(fast)).to_dict(),
        image_token_id=fast.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    size = {
        "size": {"longest_edge": 2 * IMAGE_SIZE},
        "max_image_size": {"longest_edge": IMAGE_SIZE},
    }
    _save_preprocessor(folder, HALF, HALF, **size)
    return _save_model(transformers.SmolVLMForConditionalGeneration(config), folder)


def make_gemma3(folder: Path) -> Path:
    """Gemma 3: SigLIP, means of 2 x 2 patches, a layer with a sliding window and one without."""
    names = ["<start_of_image>", "<end_of_image>", "<image_soft_token>"]
    fast = _save_tokenizer(
        tiny_hf.sentencepiece(False), folder, names, chat_template=GEMMA3_TEMPLATE
    )
    text = transformers.Gemma3TextConfig(
        **TEXT,
        vocab_size=len(fast),
        head_dim=32,
        query_pre_attn_scalar=32,
        sliding_window=512,
        layer_types=["sliding_attention", "full_attention"],
    )
    config = transformers.Gemma3Config(
        vision_config=transformers.SiglipVisionConfig(**VISION, vision_use_head=False).to_dict(),
        text_config=text.to_dict(),
        mm_tokens_per_image=16,
        boi_token_index=fast.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=fast.convert_tokens_to_ids("<end_of_image>"),
        image_token_index=fast.convert_tokens_to_ids("<image_soft_token>"),
    )
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    _save_preprocessor(folder, HALF, HALF, size=size, image_seq_length=16)
    return _save_model(transformers.Gemma3ForConditionalGeneration(config), folder)


def make_qwen25vl(folder: Path) -> Path:
    """Qwen2.5-VL: pictures of any multiple of 28 pixels, at least 8 tokens; every second of four
    layers sees the whole picture, the others windows of 112 pixels."""
    names = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    fast = _save_tokenizer(tiny_hf.byte_level("qwen2"), folder, names, chat_template=QWEN_TEMPLATE)
    start, end, image, video = (fast.convert_tokens_to_ids(name) for name in names)
    config = transformers.Qwen2_5_VLConfig(
        vision_config={
            "depth": 4,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": N_EMBD,
            "patch_size": PATCH_SIZE,
            "fullatt_block_indexes": [1, 3],
        },
        text_config=TEXT
        | {
            "vocab_size": len(fast),
            "bos_token_id": fast.bos_token_id,
            "eos_token_id": fast.eos_token_id,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [2, 3, 3],
            },
        },
        vision_start_token_id=start,
        vision_end_token_id=end,
        image_token_id=image,
        video_token_id=video,
    )
    _save_preprocessor(folder, CLIP_MEAN, CLIP_STD, patch_size=PATCH_SIZE, merge_size=2)
    return _save_model(transformers.Qwen2_5_VLForConditionalGeneration(config), folder)


MAKERS = {
    "llava": make_llava,
    "llava onevision": make_llava_onevision,
    "smolvlm": make_smolvlm,
    "gemma3": make_gemma3,
    "qwen2.5-vl": make_qwen25vl,
}


def load(folder: Path) -> Any:
    """The model of a folder in transformers, in float32."""
    model = transformers.AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    return model.eval()


def picture_embeddings(model: Any, picture: np.ndarray) -> list[np.ndarray]:
    """What transformers makes of a picture: float32 `[tokens, n_embd]` for each tile.

    `picture` is uint8 RGB `[height, width, 3]` of the encoder's own size, so that nothing is
    resized: of SmolVLM's, each of its tiles is. The view of the whole is not among them.
    """
    kind = model.config.model_type
    clip = kind in ("llava", "qwen2_5_vl")
    mean, std = (CLIP_MEAN, CLIP_STD) if clip else (HALF, HALF)
    scaled = (picture / 255 - np.array(mean)) / np.array(std)
    pixels = torch.from_numpy(scaled.astype(np.float32)).permute(2, 0, 1)  # [3, H, W]
    with torch.inference_mode():
        if kind == "qwen2_5_vl":
            grid = torch.tensor([[1, pixels.shape[1] // PATCH_SIZE, pixels.shape[2] // PATCH_SIZE]])
            features = model.get_image_features(_qwen_patches(pixels), grid).pooler_output
        elif kind == "smolvlm":
            tiles = pixels.unfold(1, IMAGE_SIZE, IMAGE_SIZE).unfold(2, IMAGE_SIZE, IMAGE_SIZE)
            tiles = tiles.permute(1, 2, 0, 3, 4).reshape(-1, 3, IMAGE_SIZE, IMAGE_SIZE)
            together = model.get_image_features(tiles[None]).pooler_output[0]
            features = together.view(len(tiles), -1, N_EMBD)
        elif kind == "llava_onevision":  # without the tiles of a large picture
            hidden = model.model.vision_tower(pixels[None], output_hidden_states=True).hidden_states
            features = model.model.multi_modal_projector(hidden[model.config.vision_feature_layer])
        elif kind == "llava":
            features = model.get_image_features(
                pixels[None],
                vision_feature_layer=model.config.vision_feature_layer,
                vision_feature_select_strategy=model.config.vision_feature_select_strategy,
            ).pooler_output
        else:
            features = model.get_image_features(pixels[None]).pooler_output
    return [feature.numpy() for feature in features]


def _qwen_patches(pixels: torch.Tensor) -> torch.Tensor:
    """A picture as Qwen2.5-VL takes it: patches in squares of 2 x 2, of two frames that are equal.

    `[3, H, W]` to `[patches, 3 * 2 * PATCH_SIZE ** 2]`.
    """
    rows, columns = (length // PATCH_SIZE // 2 for length in pixels.shape[1:])
    cut = pixels.reshape(3, rows, 2, PATCH_SIZE, columns, 2, PATCH_SIZE)
    cut = cut.permute(1, 4, 2, 5, 0, 3, 6)[:, :, :, :, :, None]
    return cut.expand(-1, -1, -1, -1, -1, 2, -1, -1).reshape(4 * rows * columns, -1)


def _save_tokenizer(
    tokenizer: Tokenizer, folder: Path, special: Sequence[str], **settings: Any
) -> Any:
    """Write a tokenizer that has these special tokens as well; returns transformers' tokenizer."""
    tokenizer.add_special_tokens(list(special))
    return tiny_hf.save_tokenizer(tokenizer, folder, **settings)


def _save_preprocessor(
    folder: Path, mean: Sequence[float], std: Sequence[float], **settings: Any
) -> None:
    settings = {"image_mean": mean, "image_std": std, "rescale_factor": 1 / 255, **settings}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


def _save_model(model: Any, folder: Path) -> Path:
    """Fill a model with numbers that leave none of its tensors without effect, and write it."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                # The norms of Gemma itself multiply by one more than the weight.
                gemma = isinstance(model, transformers.Gemma3ForConditionalGeneration)
                one = "norm" in name and not (gemma and "vision_tower" not in name)
                weight.copy_(torch.randn_like(weight) * 0.2 + one)
            else:
                weight.copy_(torch.randn_like(weight) * 0.15)
    model.save_pretrained(folder)
    return folder
