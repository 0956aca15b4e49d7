"""Hugging Face folders made on the spot: small random models with tokenizers that were trained."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.numpy import save_file
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from reellama.gguf_tools.conversion.tokenizers.pre_tokenizers import GPT4O, LLAMA3, QWEN2, TEKKEN
from reellama.gguf_tools.format.reader import GGUFFile
from reellama.models.vision.torchvision_compat import ensure_torchvision

ensure_torchvision()
import transformers  # noqa: E402  # needs the line before

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

CORPUS = [
    "The old lighthouse keeper climbed the narrow stairs every evening, carrying a small lamp.",
    "When the wind rose over the bay, he wrote down the hour and the colour of the clouds.",
    "Nobody ever asked him to read these notes aloud, but he'd kept them for 1987 years.",
    "def add(a: int, b: int) -> int:\n    return a + b  # 12345\n\nif __name__ == '__main__':",
    "Größe, naïve, Ελληνικά, русский язык, 中文字符 日本語 한국어 العربية",
    "HelloWorld camelCase SHOUTING don't WE'LL they're 3.14159 100,000 x86_64",
    "   spaces    and\ttabs\n\n\nand lines\r\n  end   ",
] * 8
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
)
LLAMA_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
ENDS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SPM_NAMES = ["<unk>", "<s>", "</s>"]


def byte_level(kind: str) -> Tokenizer:
    """A byte-level BPE that cuts text as llama-bpe, qwen2, smollm, gpt-2, tekken or gpt-4o do."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=kind in ("llama-bpe", "tekken")))
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    splits = {
        "llama-bpe": LLAMA3,
        "dbrx": LLAMA3,
        "qwen2": QWEN2,
        "tekken": TEKKEN,
        "gpt-4o": GPT4O,
    }
    if kind in splits:
        split = pre_tokenizers.Split(Regex(splits[kind]), behavior="isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, plain])
    else:
        digits = [pre_tokenizers.Digits(individual_digits=True)] if kind == "smollm" else []
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*digits, gpt2])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=ENDS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([AddedToken("<think>", normalized=False), AddedToken("<|looks|>")])
    return tokenizer


def sentencepiece(prefix: bool = True) -> Tokenizer:
    """A BPE with byte fallback whose merges are all that its tokens allow, as Llama 2 has it."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=500, show_progress=False)
    learner.train_from_iterator(CORPUS, trainer)
    vocab = learner.get_vocab()
    order = sorted((text for text in vocab if len(text) > 1), key=vocab.__getitem__)
    order += sorted(text for text in vocab if len(text) == 1)
    tokens = [*SPM_NAMES, *(f"<0x{byte:02X}>" for byte in range(256)), *order]
    ids = {text: number for number, text in enumerate(tokens)}
    merges = [
        pair
        for text in order
        for pair in sorted(
            ((text[:i], text[i:]) for i in range(1, len(text))),
            key=lambda pair: (len(pair[0]), len(pair[1])),
        )
        if pair[0] in ids and pair[1] in ids
    ]
    bpe = models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(bpe)
    replace = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = (
        normalizers.Sequence([normalizers.Prepend("▁"), replace]) if prefix else replace
    )
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    tokenizer.add_special_tokens(SPM_NAMES)
    tokenizer.add_special_tokens(["<start_of_turn>", "<end_of_turn>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", ids["<s>"])]
    )
    return tokenizer


def sentencepiece_file(texts: list[str], scores: list[float], types: list[int]) -> bytes:
    """The protocol buffer of a tokenizer.model: its pieces, and that it is a BPE."""

    def field(number: int, data: bytes) -> bytes:
        assert len(data) < 128
        return bytes([number << 3 | 2, len(data)]) + data

    pieces = (
        field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + bytes([0x18, kind])
        for text, score, kind in zip(texts, scores, types, strict=True)
    )
    trainer = field(2, bytes([0x18, 2]))
    return b"".join(field(1, piece) for piece in pieces) + trainer + field(3, bytes([0x18, 1]))


def save_tokenizer(tokenizer: Tokenizer, folder: Path, **settings: Any) -> Any:
    """Write a tokenizer to a folder as transformers does; returns transformers' tokenizer."""
    if "<s>" in tokenizer.get_vocab():
        names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    else:
        names = {"bos_token": ENDS[1], "eos_token": ENDS[2], "pad_token": ENDS[0]}
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{**names, "chat_template": CHATML, **settings}
    )
    fast.save_pretrained(folder)
    return fast


def save_model(
    config: Any, folder: Path, dtype: torch.dtype = torch.float32, **options: Any
) -> Any:
    """Write a model with random weights to a folder; returns it in float32, ready to compute.

    Norms and biases are random as well, so that none of them is forgotten unnoticed.
    """
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.copy_(torch.randn_like(weight) * 0.2 + name.endswith(".weight"))
            else:
                weight.copy_(torch.randn_like(weight) * 0.15)
    model = model.to(dtype)
    model.save_pretrained(folder, **options)
    return model.float().eval()


def edited_copy(folder: Path, target: Path, **changes: object) -> Path:
    """Copy a folder, with changes to its config.json; None takes a key out."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text()) | changes
    kept = {key: value for key, value in config.items() if changes.get(key, 0) is not None}
    (target / "config.json").write_text(json.dumps(kept))
    return target


def llama_config(vocab_size: int, **changes: Any) -> Any:
    """The configuration of the smallest model that makes sense."""
    sizes = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 256,
    }
    return transformers.LlamaConfig(**{**sizes, **changes})


def numbers(file: GGUFFile, name: str) -> np.ndarray:
    """A tensor of a GGUF as float32, the length of a row last."""
    tensor = file.tensors[name]
    n_rows = tensor.shape[1] if len(tensor.shape) > 1 else 1
    data = np.memmap(file.path, np.uint8, "r", tensor.offset, (n_rows, tensor.n_bytes // n_rows))
    return gguf.dequantize(data, tensor.type).reshape(tensor.shape[::-1])


def save_unpacked(file: GGUFFile, folder: Path, n_layers: int) -> None:
    """Write the first layers of a Llama's GGUF, and its tokenizer, as a folder of transformers."""
    names = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
    }
    for layer in range(n_layers):
        for ours, theirs in LLAMA_NAMES.items():
            names[f"blk.{layer}.{ours}.weight"] = f"model.layers.{layer}.{theirs}.weight"
    weights = {theirs: numbers(file, ours) for ours, theirs in names.items()}
    for name, weight in weights.items():
        if "q_proj" in name or "k_proj" in name:  # pairs of rows become halves of a head
            pairs = weight.reshape(-1, file.hparam("rope.dimension_count") // 2, 2, file.n_embd)
            weights[name] = np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(weight.shape)
    save_file(weights, folder / "model.safetensors")
    metadata = file.metadata
    transformers.LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=len(metadata["tokenizer.ggml.tokens"]),
        hidden_size=file.n_embd,
        intermediate_size=file.hparam("feed_forward_length"),
        num_hidden_layers=n_layers,
        num_attention_heads=file.hparam("attention.head_count"),
        num_key_value_heads=file.hparam("attention.head_count_kv"),
        max_position_embeddings=file.n_ctx_train,
        rms_norm_eps=metadata["llama.attention.layer_norm_rms_epsilon"],
        rope_theta=metadata["llama.rope.freq_base"],
        tie_word_embeddings=True,
    ).save_pretrained(folder)
    tokens = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({text: i for i, text in enumerate(tokens)}, merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    types = metadata["tokenizer.ggml.token_type"]
    control = [text for text, kind in zip(tokens, types, strict=True) if kind == 3]
    tokenizer.add_special_tokens(control)
    kinds = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
    special = {f"{kind}_token": file.token(name) for kind, name in kinds.items()}
    save_tokenizer(tokenizer, folder, **special, chat_template=file.chat_template)
