"""Vision GGUFs of real sizes and random weights: what they cost is real, what they say is not.

The tower is of SigLIP-B's size (12 layers of 768, 16 x 16 patches of 224 pixels: 196 tokens a
frame) with LLaVA-OneVision's projector, made by transformers and written by `gguf convert`.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from reellama.gguf_tools import quantize
from reellama.gguf_tools.conversion.convert import convert
from reellama.gguf_tools.locate import find
from reellama.gguf_tools.locate.vision_models import VisionModel

IMAGE_SIZE, PATCH_SIZE = 224, 16  # pixels
TOWER = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": IMAGE_SIZE,
    "patch_size": PATCH_SIZE,
}
QWEN2_05B = {
    "vocab_size": 151936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
}
# An LLM of SmolLM2-135M's width, of which only the projector is kept.
NARROW = {
    "vocab_size": 1024,
    "hidden_size": 576,
    "intermediate_size": 576,
    "num_hidden_layers": 1,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NAMES = ("SmolLM2-135M", "Qwen2-0.5B")


def make_vision_gguf(name: str, folder: Path) -> VisionModel:
    """One of NAMES in a folder: SmolLM2 as the package has it, or an LLM of Qwen2-0.5B's shape in
    Q8_0, each with an mmproj in F16. What lies there already is taken."""
    folder.mkdir(parents=True, exist_ok=True)
    small = name == NAMES[0]
    llm = find.smollm2() if small else folder / f"{name}-Q8_0.gguf"
    mmproj = folder / f"mmproj-{name}-F16.gguf"
    if llm.exists() and mmproj.exists():
        return VisionModel(llm, mmproj)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        checkpoint = _save_checkpoint(NARROW if small else QWEN2_05B, Path(work) / name)
        made = convert(checkpoint, "BF16", Path(work) / "llm.gguf", mmproj_type="F16")
        assert made.mmproj is not None
        if not small:
            quantize(made.path, "Q8_0", llm)
        made.mmproj.path.replace(mmproj)
    return VisionModel(llm, mmproj)


def _save_checkpoint(text: dict[str, int], folder: Path) -> Path:
    """Write a model of transformers with random weights, and a tokenizer, to a new folder."""
    # Every measurement imports this module, and these take seconds.
    import torch
    import transformers

    from tests.helpers import tiny_hf

    tokenizer = tiny_hf.byte_level("qwen2")
    tokenizer.add_special_tokens(["<image>", "<video>"])
    fast = tiny_hf.save_tokenizer(tokenizer, folder, chat_template=CHAT_TEMPLATE)
    torch.manual_seed(0)
    config = transformers.LlavaOnevisionConfig(
        vision_config=transformers.SiglipVisionConfig(**TOWER),
        text_config=transformers.Qwen2Config(**text),
        image_token_index=fast.convert_tokens_to_ids("<image>"),
        video_token_index=fast.convert_tokens_to_ids("<video>"),
    )
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 255}
    size = {"size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE}}
    (folder / "preprocessor_config.json").write_text(json.dumps({**half, **size}))
    model = transformers.LlavaOnevisionForConditionalGeneration._from_config(
        config, dtype=torch.float16
    )
    model.save_pretrained(folder)
    return folder
