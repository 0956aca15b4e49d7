"""What of each protocol is there: every endpoint and field, yes or no, and the test that shows it.

    python -m tests.helpers.protocol_table > docs/protocols.md

`tests/pipeline/server/test_protocols.py` holds this table, the page, the schemas, the routes and
the tests together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel

from reellama.pipeline.server.ollama import ollama_schemas as ollama

HEAD = """# Protocols

Every endpoint and field of [Ollama's API](https://docs.ollama.com/api), of
[OpenAI's](https://platform.openai.com/docs/api-reference) chat completions, completions, embeddings, responses, models
and files, and of [Anthropic's](https://docs.anthropic.com/en/api/messages) messages: whether it is there, and a test
that shows it, under `tests/pipeline/server`. "ignored" changes nothing here; "refused" is answered with status 400.
`python -m tests.helpers.protocol_table` writes this page, and `test_protocols.py` holds it to the code.
"""
OLLAMA = "ollama/test_ollama_routes.py::test_"
OPENAI = "openai/test_openai_routes.py::test_"
MESSAGES = "anthropic/test_messages_routes.py::test_"
RESPONSES = "responses/test_responses_routes.py::test_"
FILES = "files/test_file_routes.py::test_"
FAULTS = "test_faults.py::test_"
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


WATCHED = dict.fromkeys(("frames", "sampling", "fps", "start", "end", "tokens", "pooling"), VIDEO)
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
            "tools": f"{MESSAGES}a_tool_is_called_and_its_result_is_read",
        },
        {"tool_choice": f"{MESSAGES}a_tool_is_called_and_its_result_is_read"},
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
            "template": f"{FAULTS}a_model_is_made_only_of_what_can_be_used",
            "license": f"{FAULTS}a_model_is_made_only_of_what_can_be_used",
            "messages": f"{FAULTS}a_model_is_made_only_of_what_can_be_used",
            "quantize": f"{FAULTS}a_model_is_made_only_of_what_can_be_used",
        },
    ),
]
