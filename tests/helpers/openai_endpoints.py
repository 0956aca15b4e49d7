"""Every endpoint and field of OpenAI's API that is about what this server does, and Anthropic's."""

from __future__ import annotations

from reellama.pipeline.server.anthropic.messages_schemas import CountTokensRequest, MessagesRequest
from reellama.pipeline.server.openai import openai_schemas as openai
from reellama.pipeline.server.responses.responses_schemas import ResponsesRequest
from tests.helpers.protocol_endpoint import (
    ABSENT,
    COUNT_TOKENS_FIELDS,
    FILE_LIFE_TEST,
    IGNORED,
    KEEP_ALIVE_TEST,
    MESSAGES_TESTS,
    NO_ACCOUNTS,
    OLLAMA_TESTS,
    OPENAI_ANSWER_FIELDS,
    OPENAI_EXTRA_FIELDS,
    OPENAI_TESTS,
    REFUSED,
    RESPONSES_TESTS,
    SAMPLING_TEST,
    STOP_TEST,
    THINKING_TEST,
    TOOL_TEST,
    VARIABLES_TEST,
    VIDEO_FIELDS,
    Endpoint,
)

OPENAI_ENDPOINTS = [
    Endpoint(
        "OpenAI",
        "POST /v1/chat/completions",
        f"{OPENAI_TESTS}a_conversation_about_a_video",
        openai.ChatCompletionRequest,
        {
            **OPENAI_ANSWER_FIELDS,
            "messages": f"{OPENAI_TESTS}a_conversation_about_a_video",
            "max_completion_tokens": STOP_TEST,
            "logprobs": f"{OPENAI_TESTS}logprobs_are_those_of_the_tokens_said",
            "top_logprobs": f"{OPENAI_TESTS}logprobs_are_those_of_the_tokens_said",
            "response_format": f"{OPENAI_TESTS}an_answer_follows_a_json_schema",
            "tools": TOOL_TEST,
            "tool_choice": TOOL_TEST,
            "parallel_tool_calls": TOOL_TEST,
            "reasoning_effort": THINKING_TEST,
            "store": f"{IGNORED}/v1/responses remembers",
            "metadata": f"{IGNORED}nothing is stored that it could be found by",
            "service_tier": NO_ACCOUNTS,
            "safety_identifier": NO_ACCOUNTS,
            "prompt_cache_key": f"{IGNORED}the KV cache is found by what it holds",
            "prediction": f"{IGNORED}there is no speculative decoding",
            "verbosity": f"{IGNORED}no model here knows it",
            "modalities": f"{IGNORED}answers are text",
            "audio": f"{IGNORED}answers are text",
            "web_search_options": f"{IGNORED}nothing is searched in the web",
            "functions": f"{IGNORED}the older form of tools",
            "function_call": f"{IGNORED}the older form of tool_choice",
        },
        {**OPENAI_EXTRA_FIELDS, "chat_template_kwargs": VARIABLES_TEST},
    ),
    Endpoint(
        "OpenAI",
        "POST /v1/completions",
        f"{OPENAI_TESTS}a_completion_goes_on_from_its_prompt",
        openai.CompletionRequest,
        {
            **OPENAI_ANSWER_FIELDS,
            "prompt": f"{OPENAI_TESTS}several_prompts_are_completed",
            "logprobs": f"{OPENAI_TESTS}a_completion_goes_on_from_its_prompt",
            "echo": (
                f"{OPENAI_TESTS}an_echoed_prompt_has_log_probabilities_but_for_its_first_token"
            ),
            "suffix": f"{OLLAMA_TESTS}text_between_two_others_is_written_where_the_model_can",
            "best_of": f"{REFUSED}all answers are given; above 1",
        },
        OPENAI_EXTRA_FIELDS,
    ),
    Endpoint(
        "OpenAI",
        "POST /v1/embeddings",
        f"{OPENAI_TESTS}embeddings_are_unit_vectors_in_both_encodings",
        openai.EmbeddingRequest,
        {
            "model": f"{OPENAI_TESTS}embeddings_are_unit_vectors_in_both_encodings",
            "input": f"{OPENAI_TESTS}token_ids_are_embedded_as_their_text_is",
            "encoding_format": f"{OPENAI_TESTS}embeddings_are_unit_vectors_in_both_encodings",
            "dimensions": f"{OPENAI_TESTS}token_ids_are_embedded_as_their_text_is",
            "user": OPENAI_ANSWER_FIELDS["user"],
        },
        {"keep_alive": KEEP_ALIVE_TEST},
    ),
    Endpoint("OpenAI", "GET /v1/models", f"{OPENAI_TESTS}the_bundle_is_among_the_models"),
    Endpoint("OpenAI", "GET /v1/models/{name}", f"{OPENAI_TESTS}the_bundle_is_among_the_models"),
    Endpoint("OpenAI", "DELETE /v1/models/{name}", f"{OPENAI_TESTS}the_bundle_is_among_the_models"),
    Endpoint(
        "OpenAI",
        "POST /v1/files",
        FILE_LIFE_TEST,
        None,
        dict.fromkeys(("file", "purpose", "expires_after"), FILE_LIFE_TEST),
    ),
    Endpoint(
        "OpenAI",
        "GET /v1/files",
        FILE_LIFE_TEST,
        None,
        dict.fromkeys(("purpose", "limit", "order", "after"), FILE_LIFE_TEST),
    ),
    *(
        Endpoint("OpenAI", f"{method} /v1/files/{{id_}}{rest}", FILE_LIFE_TEST)
        for method, rest in (("GET", ""), ("GET", "/content"), ("DELETE", ""))
    ),
    Endpoint(
        "OpenAI",
        "POST /v1/responses",
        f"{RESPONSES_TESTS}a_response_is_made_shown_and_deleted",
        ResponsesRequest,
        {
            "model": f"{RESPONSES_TESTS}a_response_is_made_shown_and_deleted",
            "input": f"{RESPONSES_TESTS}a_conversation_continues_from_a_stored_response",
            "instructions": f"{RESPONSES_TESTS}a_response_is_made_shown_and_deleted",
            "previous_response_id": f"{RESPONSES_TESTS}"
            "a_conversation_continues_from_a_stored_response",
            "store": f"{RESPONSES_TESTS}a_response_is_not_stored_where_store_is_false",
            "stream": f"{RESPONSES_TESTS}a_stream_says_what_the_whole_response_says",
            "max_output_tokens": f"{RESPONSES_TESTS}a_stream_says_what_the_whole_response_says",
            "tools": f"{RESPONSES_TESTS}a_tool_is_called_and_its_result_is_read",
            "tool_choice": f"{RESPONSES_TESTS}a_tool_is_called_and_its_result_is_read",
            "parallel_tool_calls": TOOL_TEST,
            "text": f"{RESPONSES_TESTS}a_stream_says_what_the_whole_response_says",
            "reasoning": THINKING_TEST,
            "metadata": f"{RESPONSES_TESTS}a_response_is_made_shown_and_deleted",
            "include": f"{RESPONSES_TESTS}logprobs_come_with_the_words",
            "top_logprobs": f"{RESPONSES_TESTS}logprobs_come_with_the_words",
            "temperature": SAMPLING_TEST,
            "top_p": SAMPLING_TEST,
            "truncation": f"{IGNORED}the oldest turns are left out, as with auto",
            "background": f"{REFUSED}answers are waited for",
            "conversation": f"{REFUSED}previous_response_id goes on with a conversation",
            "prompt": f"{REFUSED}no prompts are stored: send the text as instructions",
            "max_tool_calls": f"{IGNORED}the server runs no tools",
            "stream_options": f"{IGNORED}events are not padded",
            "service_tier": NO_ACCOUNTS,
            "safety_identifier": NO_ACCOUNTS,
            "prompt_cache_key": f"{IGNORED}the KV cache is found by what it holds",
            "user": OPENAI_ANSWER_FIELDS["user"],
        },
        {
            **OPENAI_EXTRA_FIELDS,
            **dict.fromkeys(("presence_penalty", "frequency_penalty", "seed"), SAMPLING_TEST),
        },
    ),
    Endpoint(
        "OpenAI",
        "POST /v1/responses/input_tokens",
        f"{RESPONSES_TESTS}tokens_are_counted_without_an_answer",
    ),
    *(
        Endpoint(
            "OpenAI",
            f"{method} /v1/responses/{{id_}}{rest}",
            f"{RESPONSES_TESTS}a_response_is_made_shown_and_deleted",
        )
        for method, rest in (("GET", ""), ("GET", "/input_items"), ("DELETE", ""))
    ),
    Endpoint("OpenAI", "POST /v1/responses/{id_}/cancel", f"{ABSENT}answers are waited for"),
]

ANTHROPIC_ENDPOINTS = [
    Endpoint(
        "Anthropic",
        "POST /v1/messages",
        f"{MESSAGES_TESTS}a_message_is_answered_and_says_what_it_took",
        MessagesRequest,
        {
            **COUNT_TOKENS_FIELDS,
            "max_tokens": f"{MESSAGES_TESTS}a_message_is_answered_and_says_what_it_took",
            "stream": f"{MESSAGES_TESTS}a_stream_says_what_the_whole_answer_says",
            "stop_sequences": f"{MESSAGES_TESTS}a_stop_sequence_is_told",
            **dict.fromkeys(
                ("output_config", "output_format"),
                f"{MESSAGES_TESTS}an_answer_follows_a_json_schema",
            ),
            "temperature": SAMPLING_TEST,
            "top_p": SAMPLING_TEST,
            "top_k": SAMPLING_TEST,
            "metadata": f"{IGNORED}clients are told apart by their address",
            "service_tier": NO_ACCOUNTS,
            "container": f"{IGNORED}the server runs no tools",
            "mcp_servers": f"{IGNORED}the server runs no tools",
            "context_management": f"{IGNORED}the oldest turns are left out",
        },
        {
            **{name: evidence for name, evidence in OPENAI_EXTRA_FIELDS.items() if name != "top_k"},
            **dict.fromkeys(("presence_penalty", "frequency_penalty", "seed"), SAMPLING_TEST),
        },
    ),
    Endpoint(
        "Anthropic",
        "POST /v1/messages/count_tokens",
        f"{MESSAGES_TESTS}tokens_are_counted_without_an_answer",
        CountTokensRequest,
        {
            **COUNT_TOKENS_FIELDS,
            "output_config": f"{IGNORED}a schema takes no tokens of the prompt",
        },
        {**VIDEO_FIELDS, "keep_alive": KEEP_ALIVE_TEST},
    ),
    Endpoint("Anthropic", "POST /v1/messages/batches", f"{ABSENT}requests wait in the queue"),
]
