"""How much memory layers of a GGUF take on a GPU, and how many of them fit."""

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from gguf_tools.errors import ReellamaError
from gguf_tools.reader import GGUFFile

N_UBATCH = 512  # positions that are computed at once, llama.cpp's default
# What the driver's context and llama.cpp's own small buffers take on a GPU, in bytes; some 300 MB
# with CUDA.
OVERHEAD = 384 << 20


def gpu_layers(
    file: GGUFFile, n_ctx: int, free_bytes: int, type_k: str = "f16", type_v: str = "f16"
) -> int:
    """Return how many layers fit into `free_bytes` of GPU memory: 0 to n_layer + 1.

    Counted as llama.cpp's `n_gpu_layers` does: the first to move is the output layer, then the last
    layer, and on towards the first. A layer costs its tensors and its KV cache of `n_ctx`
    positions.
    """
    used = OVERHEAD + compute_bytes(file, n_ctx)
    fitting = 0
    for cost in _costs_in_order(file, n_ctx, type_k, type_v):
        used += cost
        if used > free_bytes:
            break
        fitting += 1
    return fitting


def kv_bytes(
    file: GGUFFile, layer: int, n_ctx: int, type_k: str = "f16", type_v: str = "f16"
) -> int:
    """Return the size of one layer's KV cache in bytes.

    Layers with a sliding window need less; they count in full, so that the estimate is never short.
    """
    n_head = _per_layer(file, "attention.head_count", layer, 1)
    n_head_kv = _per_layer(file, "attention.head_count_kv", layer, n_head)
    default = file.n_embd // max(n_head, 1)
    k_length = _per_layer(file, "attention.key_length", layer, default)
    v_length = _per_layer(file, "attention.value_length", layer, default)
    k_bytes = _bytes_of(n_ctx * n_head_kv * k_length, type_k)
    return k_bytes + _bytes_of(n_ctx * n_head_kv * v_length, type_v)


def layer_bytes(file: GGUFFile) -> list[int]:
    """Return the bytes of each layer's tensors, the output layer last: `n_layer + 1` numbers.

    Where the output matrix is the token embeddings again, these are what the output layer takes.
    """
    sizes = [0] * (file.n_layer + 1)
    for tensor in file.tensors.values():
        prefix, _, rest = tensor.name.partition(".")
        index = rest.partition(".")[0]
        if prefix == "blk" and index.isdecimal() and int(index) < file.n_layer:
            sizes[int(index)] += tensor.n_bytes
        elif prefix.startswith("output"):
            sizes[-1] += tensor.n_bytes
    if "output.weight" not in file.tensors and "token_embd.weight" in file.tensors:
        sizes[-1] += file.tensors["token_embd.weight"].n_bytes
    return sizes


def compute_bytes(file: GGUFFile, n_ctx: int) -> int:
    """Return an upper estimate of the buffer for intermediate results, in bytes.

    For N_UBATCH positions in float32: the logits; the attention scores of one layer, held twice;
    the feed-forward network's widest point, held twice; and eight vectors of the embedding's width.
    """
    embeddings = file.tensors.get("token_embd.weight")
    n_vocab = embeddings.shape[-1] if embeddings else 0
    n_head = _per_layer(file, "attention.head_count", 0, 1)
    n_ff = _per_layer(file, "feed_forward_length", 0, 4 * file.n_embd)
    return 4 * N_UBATCH * (n_vocab + 2 * n_head * n_ctx + 2 * n_ff + 8 * file.n_embd)


def _costs_in_order(file: GGUFFile, n_ctx: int, type_k: str, type_v: str) -> list[int]:
    *layers, output = layer_bytes(file)
    costs = [
        tensors + kv_bytes(file, layer, n_ctx, type_k, type_v)
        for layer, tensors in enumerate(layers)
    ]
    return [output, *reversed(costs)]


def _per_layer(file: GGUFFile, name: str, layer: int, default: int) -> int:
    """Return a hyperparameter that is one number, or a list of one for each layer."""
    value = file.metadata.get(f"{file.architecture}.{name}", default)
    if isinstance(value, list):
        value = value[layer] if layer < len(value) else default
    return value if isinstance(value, int) and value >= 0 else default


def _bytes_of(n_elements: int, type_name: str) -> int:
    try:
        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[type_name.upper()]]
    except KeyError:
        raise ReellamaError(f"no such KV cache type: {type_name}; take f16, q8_0 or q4_0") from None
    return -(-n_elements // block) * block_bytes
