"""What is said of an endpoint of a protocol, and names of tests that several share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel

OLLAMA = "ollama/test_ollama_routes.py::test_"
OPENAI = "openai/test_openai_routes.py::test_"
MESSAGES = "anthropic/test_messages_routes.py::test_"
RESPONSES = "responses/test_responses_routes.py::test_"
FILES = "files/test_file_routes.py::test_"
FAULTS = "test_faults.py::test_"
TOOL = "test_protocols.py::test_a_tool_is_called_in_every_protocol"
SAMPLING = "../test_options.py::test_both_protocols_take_all_sampling_options_by_their_names"
VIDEO = f"{FILES}each_video_is_watched_as_its_part_says"
VARIABLES = "chat/test_tools.py::test_a_template_is_told_variables_of_a_request"
PUSH = "ollama/test_push.py::test_a_model_is_pushed_with_all_that_belongs_to_it"
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
