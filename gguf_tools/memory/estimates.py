"""Estimate llama.cpp's memory for a GGUF from its header: weights, KV cache, compute buffers.

The sizes are those that llama.cpp prints when it loads a model and creates a context
(src/llama-kv-cache.cpp, src/llama-graph.cpp). The tests compare them.
"""

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.reader import TOKEN_EMBEDDINGS, GGUFFile

N_UBATCH = 512  # positions in a micro-batch, llama.cpp's default
KV_TYPE_NAMES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
KV_CACHE_MULTIPLE = 256  # a KV cache holds a multiple of this many positions

# If a file does not say which layers have a sliding window: all but every n-th have. Architectures
# that are not listed have no window.
SLIDING_PATTERNS = {
    "cohere2": 4,
    "gemma2": 2,
    "gemma3": 6,
    "gemma3n": 5,
    "gpt-oss": 2,
    "llama4": 4,
    "mellum": 4,
    "olmo2": 4,
}


def sliding_window(file: GGUFFile) -> int:
    """Return the size of the sliding window in positions, 0 without one."""
    return _per_layer(file, "attention.sliding_window", 0, 0)


def has_sliding_window(file: GGUFFile, layer: int) -> bool:
    """Whether a layer's attention is confined to the sliding window."""
    if not sliding_window(file):
        return False
    default = SLIDING_PATTERNS.get(file.architecture, 1)
    pattern = file.metadata.get(f"{file.architecture}.attention.sliding_window_pattern", default)
    if isinstance(pattern, list):
        return layer < len(pattern) and bool(pattern[layer])
    period = pattern if isinstance(pattern, int) else default
    return period > 0 and layer % period < period - 1


def kv_bytes_per_position(
    file: GGUFFile, layer: int, type_k: str = "f16", type_v: str = "f16"
) -> int:
    """Return the size of one position in the KV cache of one layer, in bytes."""
    if file.metadata.get(f"{file.architecture}.attention.causal") is False:
        return 0  # encoders have no KV cache
    if layer >= file.n_layer - _per_layer(file, "attention.shared_kv_layers", layer, 0):
        return 0  # the layer shares the cache of an earlier one
    n_head = _per_layer(file, "attention.head_count", layer, 1)
    n_head_kv = _per_layer(file, "attention.head_count_kv", layer, n_head)
    k_length, v_length = (_head_length(file, name, layer) for name in ("key", "value"))
    if f"{file.architecture}.attention.key_length_mla" in file.metadata:
        v_length = 0  # multi-head latent attention: values are a part of the keys
    k_bytes = _bytes_of(n_head_kv * k_length, type_k)
    return k_bytes + _bytes_of(n_head_kv * v_length, type_v)


def kv_bytes(
    file: GGUFFile,
    layer: int,
    n_ctx: int,
    type_k: str = "f16",
    type_v: str = "f16",
    *,
    swa_full: bool = True,
) -> int:
    """Return the size of one layer's KV cache, or of its recurrent state, in bytes.

    Args:
        file: header of the model.
        layer: index of the layer.
        n_ctx: positions; rounded up to a multiple of 256, as in llama.cpp.
        type_k, type_v: types of the cache.
        swa_full: llama.cpp's option: whether layers with a sliding window keep all positions, which
            the engine needs to go back in a conversation. Without it they keep the window and one
            micro-batch.
    """
    per_position = kv_bytes_per_position(file, layer, type_k, type_v)
    if not per_position:
        return recurrent_bytes(file)
    return _cells(file, n_ctx, not swa_full and has_sliding_window(file, layer)) * per_position


def recurrent_bytes(file: GGUFFile) -> int:
    """Return the size of a recurrent layer's state (Mamba, Mamba 2) in bytes, 0 for no state."""
    d_inner, d_state, d_conv, n_group = (
        _per_layer(file, f"ssm.{name}", 0, 0)
        for name in ("inner_size", "state_size", "conv_kernel", "group_count")
    )
    convolution = max(d_conv - 1, 0) * (d_inner + 2 * n_group * d_state)
    return 4 * (d_inner * d_state + convolution)  # float32


def layer_weight_bytes(file: GGUFFile) -> list[int]:
    """Return the size of each layer's tensors in bytes, the output layer last: `n_layer + 1`
    numbers. With tied embeddings, the output layer's size is that of the token embeddings."""
    sizes = [0] * (file.n_layer + 1)
    for tensor in file.tensors.values():
        prefix, _, suffix = tensor.name.partition(".")
        index = suffix.partition(".")[0]
        if prefix == "blk" and index.isdecimal() and int(index) < file.n_layer:
            sizes[int(index)] += tensor.n_bytes
        elif prefix.startswith("output"):
            sizes[-1] += tensor.n_bytes
    if "output.weight" not in file.tensors and TOKEN_EMBEDDINGS in file.tensors:
        sizes[-1] += file.tensors[TOKEN_EMBEDDINGS].n_bytes
    return sizes


def compute_bytes(
    file: GGUFFile,
    n_ctx: int,
    *,
    flash_attn: bool = True,
    n_outputs: int = N_UBATCH,
    swa_full: bool = True,
) -> int:
    """Return an upper estimate of the compute buffer for N_UBATCH positions, in bytes.

    It is eight vectors of a layer's width, plus the larger of two: the logits of `n_outputs`
    positions (by default llama.cpp reserves all), or one layer's attention mask and twice the
    widest vectors of its feed-forward network.

    Flash attention, which llama.cpp uses if the device supports it, does not store attention
    scores. Without it they are added, and the mask is twice as large.
    """
    embeddings = file.tensors.get(TOKEN_EMBEDDINGS)
    n_vocab = embeddings.shape[-1] if embeddings and embeddings.shape else 0
    masks = [_cells(file, n_ctx, cut=False)]
    if any(has_sliding_window(file, layer) for layer in range(file.n_layer)):
        masks.append(_cells(file, n_ctx, cut=not swa_full))
    n_head = _largest(file, "attention.head_count", 1)
    attention = sum(masks) * N_UBATCH * 2  # float16
    if not flash_attn:
        attention = (sum(masks) + n_head * masks[0]) * N_UBATCH * 4
    key_length = max(_largest(file, f"attention.key_length{swa}", 0) for swa in ("", "_swa"))
    width = max(file.n_embd, n_head * key_length, _largest(file, "ssm.inner_size", 0))
    vectors = 8 * width * N_UBATCH * 4
    logits = n_vocab * min(n_outputs, N_UBATCH) * 4
    return max(logits, attention + 2 * _feed_forward(file) * N_UBATCH * 4) + vectors


def _cells(file: GGUFFile, n_ctx: int, cut: bool) -> int:
    """The positions of a layer's KV cache. cut: whether it is limited to the sliding window."""
    n = min(n_ctx, sliding_window(file) + N_UBATCH) if cut else n_ctx
    return -(-n // KV_CACHE_MULTIPLE) * KV_CACHE_MULTIPLE


def _head_length(file: GGUFFile, name: str, layer: int) -> int:
    """Length of a "key" or a "value" of one attention head."""
    n_head = _per_layer(file, "attention.head_count", layer, 1)
    length = _per_layer(file, f"attention.{name}_length", layer, file.n_embd // max(n_head, 1))
    if has_sliding_window(file, layer):
        length = _per_layer(file, f"attention.{name}_length_swa", layer, length)
    return length


def _feed_forward(file: GGUFFile) -> int:
    """The width of a feed-forward network; for a mixture, the sum over all active experts."""
    n_used = _largest(file, "expert_used_count", 0)
    experts = n_used * (_largest(file, "expert_feed_forward_length", 0) + file.n_embd)
    return max(_largest(file, "feed_forward_length", 4 * file.n_embd), experts)


def _largest(file: GGUFFile, name: str, default: int) -> int:
    """The largest value of a hyperparameter over all layers."""
    value = file.metadata.get(f"{file.architecture}.{name}")
    layers = range(file.n_layer if isinstance(value, list) else 1)
    return max(_per_layer(file, name, layer, default) for layer in layers)


def _per_layer(file: GGUFFile, name: str, layer: int, default: int) -> int:
    """Return a hyperparameter that is one number, or a list of one for each layer."""
    value = file.metadata.get(f"{file.architecture}.{name}", default)
    if isinstance(value, list):
        value = value[layer] if layer < len(value) else default
    return value if isinstance(value, int) and value >= 0 else default


def _bytes_of(n_elements: int, type_name: str) -> int:
    if type_name not in KV_TYPE_NAMES:
        raise ReellamaError(
            f"no such KV cache type: {type_name:.20}; take {', '.join(KV_TYPE_NAMES)}"
        )
    block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[type_name.upper()]]
    return -(-n_elements // block) * block_bytes
