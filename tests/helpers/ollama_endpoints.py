"""Every endpoint and field of Ollama's API."""

from __future__ import annotations

from reellama.pipeline.server.ollama import ollama_schemas as ollama
from tests.helpers.protocol_endpoint import (
    BLOB_TEST,
    CREATE_TEST,
    FAULTS_TESTS,
    FILES_TESTS,
    IGNORED,
    OLLAMA_ANSWER_FIELDS,
    OLLAMA_TESTS,
    PUSH_TEST,
    TOOL_TEST,
    VIDEO_TEST,
    Endpoint,
)

OLLAMA_ENDPOINTS = [
    Endpoint(
        "Ollama",
        "POST /api/generate",
        f"{OLLAMA_TESTS}a_stop_text_and_raw_prompts",
        ollama.GenerateRequest,
        {
            **OLLAMA_ANSWER_FIELDS,
            "prompt": f"{OLLAMA_TESTS}a_stop_text_and_raw_prompts",
            "suffix": f"{OLLAMA_TESTS}text_between_two_others_is_written_where_the_model_can",
            "images": VIDEO_TEST,
            "system": f"{OLLAMA_TESTS}a_context_is_continued",
            "template": f"{FAULTS_TESTS}an_invalid_request_is_refused_and_the_next_one_answered",
            "raw": f"{OLLAMA_TESTS}a_stop_text_and_raw_prompts",
            "context": f"{OLLAMA_TESTS}a_context_is_continued",
            "width": f"{IGNORED}no model here draws pictures",
            "height": f"{IGNORED}no model here draws pictures",
            "steps": f"{IGNORED}no model here draws pictures",
        },
        {
            "videos": f"{FILES_TESTS}a_question_names_the_file_and_decodes_it_once",
            "times": VIDEO_TEST,
        },
    ),
    Endpoint(
        "Ollama",
        "POST /api/chat",
        "test_clients.py::test_ollamas_python_client",
        ollama.OllamaChatRequest,
        {
            **OLLAMA_ANSWER_FIELDS,
            "messages": "test_clients.py::test_ollamas_python_client",
            "tools": TOOL_TEST,
        },
        {"tool_choice": TOOL_TEST},
    ),
    Endpoint(
        "Ollama",
        "POST /api/create",
        f"{OLLAMA_TESTS}a_model_is_made_copied_shown_and_deleted",
        ollama.CreateRequest,
        {
            "model": f"{OLLAMA_TESTS}a_model_is_made_copied_shown_and_deleted",
            "stream": f"{OLLAMA_TESTS}a_model_is_made_from_an_uploaded_file",
            "from": f"{OLLAMA_TESTS}a_model_is_made_copied_shown_and_deleted",
            "files": f"{OLLAMA_TESTS}a_model_is_made_from_an_uploaded_file",
            "adapters": f"{OLLAMA_TESTS}an_adapter_is_part_of_the_model_that_it_was_created_with",
            "system": f"{OLLAMA_TESTS}a_model_is_made_copied_shown_and_deleted",
            "parameters": f"{OLLAMA_TESTS}a_model_is_made_copied_shown_and_deleted",
            "template": CREATE_TEST,
            "license": CREATE_TEST,
            "messages": CREATE_TEST,
            "quantize": f"{OLLAMA_TESTS}a_model_is_made_smaller",
        },
    ),
    *(
        Endpoint("Ollama", f"{method} /api/blobs/{{digest}}", BLOB_TEST)
        for method in ("HEAD", "POST")
    ),
    Endpoint("Ollama", "GET /api/tags", f"{OLLAMA_TESTS}tags_and_show_describe_the_bundle"),
    Endpoint(
        "Ollama", "GET /api/ps", f"{OLLAMA_TESTS}an_empty_prompt_loads_and_keep_alive_0_unloads"
    ),
    Endpoint(
        "Ollama",
        "GET /api/version",
        "middleware/test_allowed_hosts.py::test_the_servers_own_names_are_answered",
    ),
    Endpoint(
        "Ollama",
        "POST /api/show",
        f"{OLLAMA_TESTS}tags_and_show_describe_the_bundle",
        ollama.ShowRequest,
        {
            "model": f"{OLLAMA_TESTS}tags_and_show_describe_the_bundle",
            "verbose": f"{OLLAMA_TESTS}tags_and_show_describe_the_bundle",
        },
        {"stream": f"{IGNORED}the answer is one piece"},
    ),
    Endpoint(
        "Ollama",
        "POST /api/copy",
        f"{OLLAMA_TESTS}a_model_is_made_copied_shown_and_deleted",
        ollama.CopyRequest,
        dict.fromkeys(
            ("source", "destination"), f"{OLLAMA_TESTS}a_model_is_made_copied_shown_and_deleted"
        ),
    ),
    Endpoint(
        "Ollama",
        "DELETE /api/delete",
        f"{OLLAMA_TESTS}a_model_is_made_copied_shown_and_deleted",
        ollama.ModelRequest,
        {"model": f"{OLLAMA_TESTS}a_model_is_made_copied_shown_and_deleted"},
        {"stream": f"{IGNORED}the answer is one piece"},
    ),
    Endpoint(
        "Ollama",
        "POST /api/pull",
        f"{OLLAMA_TESTS}a_model_is_pulled_from_the_hub",
        ollama.ModelRequest,
        {
            "model": f"{OLLAMA_TESTS}a_model_is_pulled_from_the_hub",
            "stream": f"{OLLAMA_TESTS}a_model_is_pulled_from_the_hub",
            "insecure": f"{IGNORED}the hub is asked by HTTPS alone",
        },
    ),
    Endpoint(
        "Ollama",
        "POST /api/push",
        PUSH_TEST,
        ollama.PushRequest,
        dict.fromkeys(("model", "stream", "insecure"), PUSH_TEST),
    ),
    Endpoint(
        "Ollama",
        "POST /api/embed",
        f"{OLLAMA_TESTS}embeddings_in_both_forms",
        ollama.EmbedRequest,
        {
            "model": f"{OLLAMA_TESTS}embeddings_in_both_forms",
            "input": f"{OLLAMA_TESTS}embeddings_in_both_forms",
            "truncate": f"{FAULTS_TESTS}a_text_that_may_not_be_truncated_is_refused",
            "options": f"{IGNORED}none of them changes a vector",
            "keep_alive": f"{OLLAMA_TESTS}an_empty_prompt_loads_and_keep_alive_0_unloads",
            "dimensions": f"{OLLAMA_TESTS}embeddings_in_both_forms",
        },
        {"stream": f"{IGNORED}the answer is one piece"},
    ),
    Endpoint(
        "Ollama",
        "POST /api/embeddings",
        f"{OLLAMA_TESTS}embeddings_in_both_forms",
        ollama.EmbeddingsRequest,
        {
            "model": f"{OLLAMA_TESTS}embeddings_in_both_forms",
            "prompt": f"{OLLAMA_TESTS}embeddings_in_both_forms",
            "options": f"{IGNORED}none of them changes a vector",
            "keep_alive": f"{OLLAMA_TESTS}an_empty_prompt_loads_and_keep_alive_0_unloads",
        },
        {"stream": f"{IGNORED}the answer is one piece"},
    ),
]
