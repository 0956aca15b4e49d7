"""What of each protocol is there: every endpoint and field, yes or no, and the test that shows it.

    python -m tests.helpers.protocol_table > docs/protocols.md

`tests/pipeline/server/test_protocols.py` holds this table, the page, the schemas, the routes and
the tests together.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel

from reellama.pipeline.server.anthropic.messages_schemas import CountTokensRequest, MessagesRequest
from reellama.pipeline.server.ollama import ollama_schemas as ollama
from reellama.pipeline.server.openai import openai_schemas as openai
from reellama.pipeline.server.responses.responses_schemas import ResponsesRequest

HEAD = """# Protocols

Every endpoint and field of [Ollama's API](https://docs.ollama.com/api), of chat completions,
completions, embeddings, responses, models and files of
[OpenAI's](https://platform.openai.com/docs/api-reference), and of
[Anthropic's](https://docs.anthropic.com/en/api/messages) messages: whether it is there, and a test
that shows it, under `tests/pipeline/server`. What is ignored changes nothing here; what is refused
is answered with status 400. `python -m tests.helpers.protocol_table` writes this page, and
`test_protocols.py` holds it to the code.
"""
OLLAMA = "ollama/test_ollama_routes.py::test_"
OPENAI = "openai/test_openai_routes.py::test_"
MESSAGES = "anthropic/test_messages_routes.py::test_"
RESPONSES = "responses/test_responses_routes.py::test_"
FILES = "files/test_file_routes.py::test_"
FAULTS = "test_faults.py::test_"
TOOL = "test_protocols.py::test_a_tool_is_called_in_every_protocol"
SAMPLING = "../test_options.py::test_both_protocols_take_all_sampling_options_by_their_names"
VIDEO = f"{FILES}each_video_is_watched_as_its_part_says"
IGNORED = "ignored: "
REFUSED = "refused: "
ABSENT = "no: "


@dataclass(frozen=True)
class Endpoint:
    """An endpoint of a protocol.

    shown: the test of all of it, or why it is not there. fields: those that have a test of their
    own, or begin with IGNORED or REFUSED and the reason; `schema` has the request's fields.
    ours: fields that the protocol does not have.
    """

    protocol: str
    route: str
    shown: str
    schema: type[BaseModel] | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    ours: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_there(self) -> bool:
        """Whether the server has it."""
        return not self.shown.startswith(ABSENT)


SUBTITLES = "test_vision_models.py::test_subtitles_in_the_file_stand_beside_it_unless_they_are_off"
WATCHED = {
    **dict.fromkeys(("frames", "sampling", "fps", "start", "end"), VIDEO),
    "subtitles": SUBTITLES,
    **dict.fromkeys(("tokens", "pooling"), VIDEO),
}
MORE_SAMPLING = dict.fromkeys(
    ("top_k", "min_p", "typical_p", "repeat_penalty", "repeat_last_n"), SAMPLING
)
KEEP = f"{FAULTS}the_same_bounds_hold_in_both_protocols"
OLLAMA_ANSWER = {
    "model": f"{OLLAMA}errors_have_ollamas_shape",
    "format": f"{OLLAMA}an_answer_keeps_to_a_schema",
    "options": SAMPLING,
    "stream": f"{OLLAMA}logprobs_come_with_each_token",
    "keep_alive": f"{OLLAMA}an_empty_prompt_loads_and_keep_alive_0_unloads",
    "logprobs": f"{OLLAMA}logprobs_come_with_each_token",
    "top_logprobs": f"{OLLAMA}logprobs_come_with_each_token",
    "think": f"{FAULTS}what_ollama_takes_is_taken",
    "truncate": f"{OLLAMA}what_is_too_long_is_refused_where_it_may_not_be_cut",
    "shift": f"{IGNORED}an answer ends where the context is full",
}
NO_SERVER_TOOLS = f"{REFUSED}the server runs no tools, containers or prompts of its own"
OPENAI_COMMON = {
    "model": f"{OPENAI}a_model_that_is_not_there_is_not_found",
    "stream": f"{OPENAI}a_stream_says_what_the_whole_answer_says",
    "stream_options": f"{OPENAI}a_stream_says_what_the_whole_answer_says",
    "n": f"{OPENAI}several_answers_come_side_by_side",
    "max_tokens": f"{OPENAI}max_tokens_ends_an_answer_by_length_and_a_stop_string_by_stop",
    "stop": f"{OPENAI}max_tokens_ends_an_answer_by_length_and_a_stop_string_by_stop",
    "temperature": SAMPLING,
    "top_p": SAMPLING,
    "presence_penalty": SAMPLING,
    "frequency_penalty": SAMPLING,
    "seed": f"{OPENAI}the_same_seed_gives_the_same_answer",
    "logit_bias": f"{OPENAI}a_bias_keeps_a_token_out",
    "user": f"{IGNORED}clients are told apart by their address",
}
OPENAI_OURS = {**MORE_SAMPLING, **WATCHED, "keep_alive": KEEP}
BLOB = f"{OLLAMA}a_blob_must_have_the_digest_that_it_is_sent_under"
VERSION = "test_guard.py::test_the_servers_own_names_are_answered"
ENDS = "max_tokens_ends_an_answer_by_length_and_a_stop_string_by_stop"
THINKS = "test_protocols.py::test_a_model_that_cannot_think_says_so_in_every_protocol"
COUNTED = {
    "model": f"{MESSAGES}a_model_that_is_not_there_is_not_found",
    "messages": f"{MESSAGES}a_conversation_about_a_video_and_a_file",
    "system": f"{MESSAGES}a_message_is_answered_and_says_what_it_took",
    "tools": f"{MESSAGES}a_tool_is_called_and_its_result_is_read",
    "tool_choice": f"{MESSAGES}a_tool_is_called_and_its_result_is_read",
    "thinking": f"{MESSAGES}what_cannot_be_done_is_refused_with_a_reason",
}
MADE = f"{FAULTS}a_model_that_could_not_answer_is_not_created"
NO_ACCOUNTS = f"{IGNORED}there are no accounts and no tiers"
EVERY_FILE = f"{FILES}a_file_is_kept_listed_read_and_deleted"

ENDPOINTS = [
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
    Endpoint("Ollama", "POST /api/push", f"{ABSENT}models stay on this machine"),
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
    Endpoint(
        "OpenAI",
        "POST /v1/chat/completions",
        f"{OPENAI}a_conversation_about_a_video",
        openai.ChatCompletionRequest,
        {
            **OPENAI_COMMON,
            "messages": f"{OPENAI}a_conversation_about_a_video",
            "max_completion_tokens": f"{OPENAI}{ENDS}",
            "logprobs": f"{OPENAI}logprobs_are_those_of_the_tokens_said",
            "top_logprobs": f"{OPENAI}logprobs_are_those_of_the_tokens_said",
            "response_format": f"{OPENAI}an_answer_follows_a_json_schema",
            "tools": TOOL,
            "tool_choice": TOOL,
            "parallel_tool_calls": TOOL,
            "reasoning_effort": THINKS,
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
        OPENAI_OURS,
    ),
    Endpoint(
        "OpenAI",
        "POST /v1/completions",
        f"{OPENAI}a_completion_goes_on_from_its_prompt",
        openai.CompletionRequest,
        {
            **OPENAI_COMMON,
            "prompt": f"{OPENAI}several_prompts_are_gone_on_from",
            "logprobs": f"{OPENAI}a_completion_goes_on_from_its_prompt",
            "echo": f"{OPENAI}a_completion_goes_on_from_its_prompt",
            "suffix": f"{OLLAMA}text_between_two_others_is_written_where_the_model_can",
            "best_of": f"{REFUSED}all answers are given; above 1",
        },
        OPENAI_OURS,
    ),
    Endpoint(
        "OpenAI",
        "POST /v1/embeddings",
        f"{OPENAI}embeddings_are_unit_vectors_in_both_encodings",
        openai.EmbeddingRequest,
        {
            "model": f"{OPENAI}embeddings_are_unit_vectors_in_both_encodings",
            "input": f"{OPENAI}token_ids_are_embedded_as_their_text_is",
            "encoding_format": f"{OPENAI}embeddings_are_unit_vectors_in_both_encodings",
            "dimensions": f"{OPENAI}token_ids_are_embedded_as_their_text_is",
            "user": OPENAI_COMMON["user"],
        },
        {"keep_alive": KEEP},
    ),
    Endpoint("OpenAI", "GET /v1/models", f"{OPENAI}the_bundle_is_among_the_models"),
    Endpoint("OpenAI", "GET /v1/models/{name}", f"{OPENAI}the_bundle_is_among_the_models"),
    Endpoint("OpenAI", "DELETE /v1/models/{name}", f"{OPENAI}the_bundle_is_among_the_models"),
    Endpoint(
        "OpenAI",
        "POST /v1/files",
        EVERY_FILE,
        None,
        dict.fromkeys(("file", "purpose", "expires_after"), EVERY_FILE),
    ),
    Endpoint(
        "OpenAI",
        "GET /v1/files",
        EVERY_FILE,
        None,
        dict.fromkeys(("purpose", "limit", "order", "after"), EVERY_FILE),
    ),
    *(
        Endpoint("OpenAI", f"{method} /v1/files/{{id_}}{rest}", EVERY_FILE)
        for method, rest in (("GET", ""), ("GET", "/content"), ("DELETE", ""))
    ),
    Endpoint(
        "OpenAI",
        "POST /v1/responses",
        f"{RESPONSES}a_response_is_made_shown_and_deleted",
        ResponsesRequest,
        {
            "model": f"{RESPONSES}a_response_is_made_shown_and_deleted",
            "input": f"{RESPONSES}it_goes_on_from_a_response_that_is_remembered",
            "instructions": f"{RESPONSES}a_response_is_made_shown_and_deleted",
            "previous_response_id": f"{RESPONSES}it_goes_on_from_a_response_that_is_remembered",
            "store": f"{RESPONSES}what_is_not_to_be_stored_is_not",
            "stream": f"{RESPONSES}a_stream_says_what_the_whole_response_says",
            "max_output_tokens": f"{RESPONSES}a_stream_says_what_the_whole_response_says",
            "tools": f"{RESPONSES}a_tool_is_called_and_its_result_is_read",
            "tool_choice": f"{RESPONSES}a_tool_is_called_and_its_result_is_read",
            "parallel_tool_calls": TOOL,
            "text": f"{RESPONSES}a_stream_says_what_the_whole_response_says",
            "reasoning": THINKS,
            "metadata": f"{RESPONSES}a_response_is_made_shown_and_deleted",
            "include": f"{RESPONSES}logprobs_come_with_the_words",
            "top_logprobs": f"{RESPONSES}logprobs_come_with_the_words",
            "temperature": SAMPLING,
            "top_p": SAMPLING,
            "truncation": f"{IGNORED}the oldest turns are left out, as with auto",
            "background": f"{REFUSED}answers are waited for",
            "conversation": NO_SERVER_TOOLS,
            "prompt": NO_SERVER_TOOLS,
            "max_tool_calls": f"{IGNORED}the server runs no tools",
            "stream_options": f"{IGNORED}events are not padded",
            "service_tier": NO_ACCOUNTS,
            "safety_identifier": NO_ACCOUNTS,
            "prompt_cache_key": f"{IGNORED}the KV cache is found by what it holds",
            "user": OPENAI_COMMON["user"],
        },
        {
            **OPENAI_OURS,
            **dict.fromkeys(("presence_penalty", "frequency_penalty", "seed"), SAMPLING),
        },
    ),
    *(
        Endpoint(
            "OpenAI",
            f"{method} /v1/responses/{{id_}}{rest}",
            f"{RESPONSES}a_response_is_made_shown_and_deleted",
        )
        for method, rest in (("GET", ""), ("GET", "/input_items"), ("DELETE", ""))
    ),
    Endpoint("OpenAI", "POST /v1/responses/{id_}/cancel", f"{ABSENT}answers are waited for"),
    Endpoint(
        "Anthropic",
        "POST /v1/messages",
        f"{MESSAGES}a_message_is_answered_and_says_what_it_took",
        MessagesRequest,
        {
            **COUNTED,
            "max_tokens": f"{MESSAGES}a_message_is_answered_and_says_what_it_took",
            "stream": f"{MESSAGES}a_stream_says_what_the_whole_answer_says",
            "stop_sequences": f"{MESSAGES}a_stop_sequence_is_told",
            "temperature": SAMPLING,
            "top_p": SAMPLING,
            "top_k": SAMPLING,
            "metadata": f"{IGNORED}clients are told apart by their address",
            "service_tier": NO_ACCOUNTS,
            "container": f"{IGNORED}the server runs no tools",
            "mcp_servers": f"{IGNORED}the server runs no tools",
            "context_management": f"{IGNORED}the oldest turns are left out",
        },
        {
            **OPENAI_OURS,
            **dict.fromkeys(("presence_penalty", "frequency_penalty", "seed"), SAMPLING),
        },
    ),
    Endpoint(
        "Anthropic",
        "POST /v1/messages/count_tokens",
        f"{MESSAGES}tokens_are_counted_without_an_answer",
        CountTokensRequest,
        COUNTED,
        {**WATCHED, "keep_alive": KEEP},
    ),
    Endpoint("Anthropic", "POST /v1/messages/batches", f"{ABSENT}requests wait in the queue"),
]


def page() -> str:
    """The page."""
    lines = [HEAD]
    for protocol in ("Ollama", "OpenAI", "Anthropic"):
        lines += [f"## {protocol}", ""]
        for endpoint in (each for each in ENDPOINTS if each.protocol == protocol):
            lines += [f"### `{endpoint.route}`", "", f"{_said(endpoint.shown)}", ""]
            rows = [(name, said) for name, said in endpoint.fields.items()]
            rows += [(f"{name}` (of our own) `", said) for name, said in endpoint.ours.items()]
            if rows:
                lines += ["| field | |", "| --- | --- |"]
                lines += [f"| `{name}` | {_said(said)} |".replace(" ``", "") for name, said in rows]
                lines.append("")
    return "\n".join(lines)


def _said(said: str) -> str:
    for kind in (IGNORED, REFUSED, ABSENT):
        if said.startswith(kind):
            return said
    return f"yes: `{said.removeprefix('../')}`"


if __name__ == "__main__":
    sys.stdout.write(page())
