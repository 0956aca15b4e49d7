"""An endpoint of a protocol, with its tests, and names of tests and fields that several share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel

OLLAMA_TESTS = "ollama/test_ollama_routes.py::test_"
OPENAI_TESTS = "openai/test_openai_routes.py::test_"
MESSAGES_TESTS = "anthropic/test_messages_routes.py::test_"
RESPONSES_TESTS = "responses/test_responses_routes.py::test_"
FILES_TESTS = "files/test_file_routes.py::test_"
FAULTS_TESTS = "test_faults.py::test_"
TOOL_TEST = "test_protocols.py::test_a_tool_is_called_in_every_protocol"
SAMPLING_TEST = "../test_options.py::test_both_protocols_take_all_sampling_options_by_their_names"
VIDEO_TEST = f"{FILES_TESTS}each_video_is_watched_as_its_part_says"
VARIABLES_TEST = "chat/test_tools.py::test_a_template_is_told_variables_of_a_request"
PUSH_TEST = "ollama/test_push.py::test_a_model_is_pushed_with_all_that_belongs_to_it"
IGNORED = "ignored: "
REFUSED = "refused: "
ABSENT = "no: "


@dataclass(frozen=True)
class Endpoint:
    """An endpoint of a protocol.

    evidence: the test of all of it, or why it is not there. fields: those of the request, each with
    its test, or IGNORED or REFUSED and the reason; `schema` has the request's fields.
    extra_fields: those that the protocol itself does not have.
    """

    protocol: str
    route: str
    evidence: str
    schema: type[BaseModel] | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    extra_fields: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_there(self) -> bool:
        """Whether the server has it."""
        return not self.evidence.startswith(ABSENT)


SUBTITLES_TEST = (
    "test_vision_models.py::test_subtitles_in_the_file_stand_beside_it_unless_they_are_off"
)
MODEL_ONLY_TEST = "test_planned_answers.py::test_the_model_alone_answers_where_that_is_asked_for"
VIDEO_FIELDS = {
    **dict.fromkeys(("frames", "sampling", "fps", "start", "end"), VIDEO_TEST),
    "subtitles": SUBTITLES_TEST,
    **dict.fromkeys(("tokens", "pooling"), VIDEO_TEST),
    "model_only": MODEL_ONLY_TEST,
}
EXTRA_SAMPLING_FIELDS = dict.fromkeys(
    ("top_k", "min_p", "typical_p", "repeat_penalty", "repeat_last_n"), SAMPLING_TEST
)
KEEP_ALIVE_TEST = f"{FAULTS_TESTS}the_same_bounds_hold_in_both_protocols"
OLLAMA_ANSWER_FIELDS = {
    "model": f"{OLLAMA_TESTS}errors_have_ollamas_shape",
    "format": f"{OLLAMA_TESTS}an_answer_keeps_to_a_schema",
    "options": SAMPLING_TEST,
    "stream": f"{OLLAMA_TESTS}logprobs_come_with_each_token",
    "keep_alive": f"{OLLAMA_TESTS}an_empty_prompt_loads_and_keep_alive_0_unloads",
    "logprobs": f"{OLLAMA_TESTS}logprobs_come_with_each_token",
    "top_logprobs": f"{OLLAMA_TESTS}logprobs_come_with_each_token",
    "think": f"{FAULTS_TESTS}values_that_ollama_takes_are_taken",
    "truncate": f"{OLLAMA_TESTS}a_conversation_too_long_is_refused_where_truncate_is_false",
    "shift": f"{IGNORED}an answer ends where the context is full",
}
STOP_TEST = f"{OPENAI_TESTS}max_tokens_ends_an_answer_by_length_and_a_stop_string_by_stop"
OPENAI_ANSWER_FIELDS = {
    "model": f"{OPENAI_TESTS}a_model_that_is_not_there_is_not_found",
    "stream": f"{OPENAI_TESTS}a_stream_says_what_the_whole_answer_says",
    "stream_options": f"{OPENAI_TESTS}a_stream_says_what_the_whole_answer_says",
    "n": f"{OPENAI_TESTS}several_answers_come_side_by_side",
    "max_tokens": STOP_TEST,
    "stop": STOP_TEST,
    "temperature": SAMPLING_TEST,
    "top_p": SAMPLING_TEST,
    "presence_penalty": SAMPLING_TEST,
    "frequency_penalty": SAMPLING_TEST,
    "seed": f"{OPENAI_TESTS}the_same_seed_gives_the_same_answer",
    "logit_bias": f"{OPENAI_TESTS}a_bias_keeps_a_token_out",
    "user": f"{IGNORED}clients are told apart by their address",
}
OPENAI_EXTRA_FIELDS = {**EXTRA_SAMPLING_FIELDS, **VIDEO_FIELDS, "keep_alive": KEEP_ALIVE_TEST}
BLOB_TEST = f"{OLLAMA_TESTS}a_blob_must_have_the_digest_that_it_is_sent_under"
THINKING_TEST = "test_protocols.py::test_a_model_that_cannot_think_says_so_in_every_protocol"
COUNT_TOKENS_FIELDS = {
    "model": f"{MESSAGES_TESTS}a_model_that_is_not_there_is_not_found",
    "messages": f"{MESSAGES_TESTS}a_conversation_about_a_video_and_a_file",
    "system": f"{MESSAGES_TESTS}a_message_is_answered_and_says_what_it_took",
    "tools": f"{MESSAGES_TESTS}a_tool_is_called_and_its_result_is_read",
    "tool_choice": f"{MESSAGES_TESTS}a_tool_is_called_and_its_result_is_read",
    "thinking": f"{MESSAGES_TESTS}unsupported_options_are_refused_with_a_reason",
}
CREATE_TEST = f"{FAULTS_TESTS}a_model_that_could_not_answer_is_not_created"
NO_ACCOUNTS = f"{IGNORED}there are no accounts and no tiers"
FILE_LIFE_TEST = f"{FILES_TESTS}a_file_is_kept_listed_read_and_deleted"
