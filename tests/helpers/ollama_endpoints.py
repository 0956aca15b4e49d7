"""Every endpoint and field of Ollama's API."""

from __future__ import annotations

from reellama.pipeline.server.ollama import ollama_schemas as ollama
from tests.helpers.protocol_endpoint import (
    BLOB,
    FAULTS,
    FILES,
    IGNORED,
    MADE,
    OLLAMA,
    OLLAMA_ANSWER,
    PUSH,
    TOOL,
    VIDEO,
    Endpoint,
)

OLLAMA_ENDPOINTS = [
    Endpoint(
        "Ollama",
        "POST /api/generate",
        f"{OLLAMA}a_stop_text_and_raw_prompts",
        ollama.GenerateRequest,
        {
            **OLLAMA_ANSWER,
            "prompt": f"{OLLAMA}a_stop_text_and_raw_prompts",
            "suffix": f"{OLLAMA}text_between_two_others_is_written_where_the_model_can",
            "images": VIDEO,
            "system": f"{OLLAMA}a_context_is_gone_on_from",
            "template": f"{FAULTS}what_cannot_be_done_is_refused_and_the_next_request_is_answered",
            "raw": f"{OLLAMA}a_stop_text_and_raw_prompts",
            "context": f"{OLLAMA}a_context_is_gone_on_from",
            "width": f"{IGNORED}no model here draws pictures",
            "height": f"{IGNORED}no model here draws pictures",
            "steps": f"{IGNORED}no model here draws pictures",
        },
        {"videos": f"{FILES}a_question_names_the_file_and_decodes_it_once", "times": VIDEO},
    ),
    Endpoint(
        "Ollama",
        "POST /api/chat",
        "test_clients.py::test_ollamas_python_client",
        ollama.OllamaChatRequest,
        {
            **OLLAMA_ANSWER,
            "messages": "test_clients.py::test_ollamas_python_client",
            "tools": TOOL,
        },
        {"tool_choice": TOOL},
    ),
    Endpoint(
        "Ollama",
        "POST /api/create",
        f"{OLLAMA}a_model_is_made_copied_shown_and_deleted",
        ollama.CreateRequest,
        {
            "model": f"{OLLAMA}a_model_is_made_copied_shown_and_deleted",
            "stream": f"{OLLAMA}a_model_is_made_from_an_uploaded_file",
            "from": f"{OLLAMA}a_model_is_made_copied_shown_and_deleted",
            "files": f"{OLLAMA}a_model_is_made_from_an_uploaded_file",
            "adapters": f"{OLLAMA}an_adapter_is_part_of_the_model_that_it_was_created_with",
            "system": f"{OLLAMA}a_model_is_made_copied_shown_and_deleted",
            "parameters": f"{OLLAMA}a_model_is_made_copied_shown_and_deleted",
            "template": MADE,
            "license": MADE,
            "messages": MADE,
            "quantize": f"{OLLAMA}a_model_is_made_smaller",
        },
    ),
    *(Endpoint("Ollama", f"{method} /api/blobs/{{digest}}", BLOB) for method in ("HEAD", "POST")),
    Endpoint("Ollama", "GET /api/tags", f"{OLLAMA}tags_and_show_describe_the_bundle"),
    Endpoint("Ollama", "GET /api/ps", f"{OLLAMA}an_empty_prompt_loads_and_keep_alive_0_unloads"),
    Endpoint(
        "Ollama", "GET /api/version", "test_guard.py::test_the_servers_own_names_are_answered"
    ),
    Endpoint(
        "Ollama",
        "POST /api/show",
        f"{OLLAMA}tags_and_show_describe_the_bundle",
        ollama.ShowRequest,
        {
            "model": f"{OLLAMA}tags_and_show_describe_the_bundle",
            "verbose": f"{OLLAMA}tags_and_show_describe_the_bundle",
        },
        {"stream": f"{IGNORED}the answer is one piece"},
    ),
    Endpoint(
        "Ollama",
        "POST /api/copy",
        f"{OLLAMA}a_model_is_made_copied_shown_and_deleted",
        ollama.CopyRequest,
        dict.fromkeys(
            ("source", "destination"), f"{OLLAMA}a_model_is_made_copied_shown_and_deleted"
        ),
    ),
    Endpoint(
        "Ollama",
        "DELETE /api/delete",
        f"{OLLAMA}a_model_is_made_copied_shown_and_deleted",
        ollama.ModelRequest,
        {"model": f"{OLLAMA}a_model_is_made_copied_shown_and_deleted"},
        {"stream": f"{IGNORED}the answer is one piece"},
    ),
    Endpoint(
        "Ollama",
        "POST /api/pull",
        f"{OLLAMA}a_model_is_pulled_from_the_hub",
        ollama.ModelRequest,
        {
            "model": f"{OLLAMA}a_model_is_pulled_from_the_hub",
            "stream": f"{OLLAMA}a_model_is_pulled_from_the_hub",
            "insecure": f"{IGNORED}the hub is asked by HTTPS alone",
        },
    ),
    Endpoint(
        "Ollama",
        "POST /api/push",
        PUSH,
        ollama.PushRequest,
        dict.fromkeys(("model", "stream", "insecure"), PUSH),
    ),
    Endpoint(
        "Ollama",
        "POST /api/embed",
        f"{OLLAMA}embeddings_in_both_forms",
        ollama.EmbedRequest,
        {
            "model": f"{OLLAMA}embeddings_in_both_forms",
            "input": f"{OLLAMA}embeddings_in_both_forms",
            "truncate": f"{FAULTS}a_text_that_may_not_be_truncated_is_refused",
            "options": f"{IGNORED}none of them changes a vector",
            "keep_alive": f"{OLLAMA}an_empty_prompt_loads_and_keep_alive_0_unloads",
            "dimensions": f"{OLLAMA}embeddings_in_both_forms",
        },
        {"stream": f"{IGNORED}the answer is one piece"},
    ),
    Endpoint(
        "Ollama",
        "POST /api/embeddings",
        f"{OLLAMA}embeddings_in_both_forms",
        ollama.EmbeddingsRequest,
        {
            "model": f"{OLLAMA}embeddings_in_both_forms",
            "prompt": f"{OLLAMA}embeddings_in_both_forms",
            "options": f"{IGNORED}none of them changes a vector",
            "keep_alive": f"{OLLAMA}an_empty_prompt_loads_and_keep_alive_0_unloads",
        },
        {"stream": f"{IGNORED}the answer is one piece"},
    ),
]
