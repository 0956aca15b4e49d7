"""Bodies of requests as pydantic models, and in words what is wrong with one."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from pydantic_core import SchemaValidator, from_json

from reellama.gguf_tools.errors import ReellamaError
from reellama.pipeline.server.admission.work_threads import WorkThreads
from reellama.pipeline.server.replies import finite_numbers, large_bodies

# Bodies of up to this size are parsed side by side, in threads; larger ones one after the other.
PARALLEL_PARSE_BYTES = 64 << 10
# In larger bodies the place of a problem is told as pydantic's path, which also names types.
MAX_SEARCHED_BYTES = 4 << 20
# Values of a body, by the commas between them: to read more would hold up everyone else's answers.
# So many tokens are all that OpenAI takes of the texts of one request.
MAX_VALUES = 300_000
# Lists, by the brackets that open them, fields, and objects: messages, their parts, tools, and what
# is in them. Each takes longer than a number, and while a body is read nobody else is answered.
MAX_LISTS = 50_000
MAX_FIELDS = 100_000
MAX_OBJECTS = 10_000
MAX_SHOWN_CHARACTERS = 100  # of a place that an error names
MAX_BYTES = 16 << 20  # beside long strings, which are read apart
# How an object begins, and where a field's name ends. In a text no quotation mark can stand behind
# a brace: JSON escapes it.
_OBJECT = re.compile(rb'\{\s*["}]')
_FIELD = re.compile(rb'"\s*:')
PIECE = 1 << 20  # bytes that are looked through before others may go on


class BodyProblem(ReellamaError):
    """A body that is not what it should be. `option`: the field, where it is one; `status`: 400."""

    status = 400

    def __init__(self, message: str, option: str | None = None) -> None:
        super().__init__(message)
        self.option = option


def json_body(schema: type[BaseModel]) -> Any:
    """The request's body as `schema`, whatever its content type: curl's -d does not say JSON."""

    async def read(request: Request) -> BaseModel:
        data = await _received(request)
        if len(data) <= PARALLEL_PARSE_BYTES:
            return await asyncio.to_thread(parse_body, schema, data)
        # Several threads that parse would share the interpreter with the event loop.
        threads: WorkThreads = request.app.state.bodies
        parsed: BaseModel = await threads.run(partial(parse_body, schema, data))
        return parsed

    return Depends(read)


async def _received(request: Request) -> bytes:
    """The request's body, which was never in pieces: to join large ones holds everyone up."""
    data = io.BytesIO()
    async for piece in request.stream():
        data.write(piece)
    return data.getvalue()


def parse_body(schema: type[BaseModel], data: bytes) -> Any:
    """A body as `schema`. Raises BodyProblem."""
    if len(data) < large_bodies.SPLIT_ABOVE_BYTES and not data.strip():
        raise BodyProblem("missing request body")
    validator = _validator(schema)
    try:
        if len(data) < large_bodies.SPLIT_ABOVE_BYTES:
            check_size(data)
            request = validator.validate_json(data)
            check_numbers(data)
            return request
        body = large_bodies.LargeBody(data)
        check_size(body.rest)
        request = validator.validate_python(body.put_back(from_json(body.rest)))
        check_numbers(body.rest)
        return request
    except ValidationError as error:
        raise body_problem(error, _searchable(data)) from error
    except ValueError as error:
        raise BodyProblem(f"the body is not JSON: {error}") from error


def check_size(data: bytes) -> None:
    """Raise BodyProblem for a body of too much: it is not read."""
    if len(data) > MAX_BYTES:
        raise BodyProblem(
            f"the body has {len(data)} bytes beside pictures and videos in base64 without line "
            f"breaks: at most {MAX_BYTES} are taken"
        )
    limits: list[tuple[str, int, Callable[[bytes], int]]] = [
        ("objects", MAX_OBJECTS, lambda piece: len(_OBJECT.findall(piece))),
        ("fields", MAX_FIELDS, lambda piece: len(_FIELD.findall(piece))),
        ("lists", MAX_LISTS, lambda piece: piece.count(b"[")),
        ("values", MAX_VALUES, lambda piece: piece.count(b",")),
    ]
    for what, limit, count in limits:
        n = sum(count(data[i : i + PIECE]) for i in range(0, len(data), PIECE))
        if n > limit:
            hint = " (messages, their parts, tools)" if what == "objects" else ""
            raise BodyProblem(f"the body has about {n} {what}{hint}: at most {limit} are taken")


def check_numbers(data: bytes) -> None:
    """Raise BodyProblem for a number that is not finite, in a body that is JSON."""
    if finite_numbers.may_have_nonfinite(data):
        for steps in finite_numbers.nonfinite_places(from_json(data)):
            place = ".".join(map(str, steps))[:MAX_SHOWN_CHARACTERS]
            raise BodyProblem(f"{place}: a number is finite, and at most 1.8e308", place)


@lru_cache
def _validator(schema: type[BaseModel]) -> SchemaValidator:
    """A schema's validator, which tells only the first problem of a list.

    To tell of a hundred thousand takes seconds, in which nobody else is answered.
    """
    core_schema = _fail_fast(schema.__pydantic_core_schema__)
    try:
        return SchemaValidator(core_schema, _use_prebuilt=False)
    except TypeError:  # an older pydantic: lists in parts that are models tell all that is wrong
        return SchemaValidator(core_schema)


def _fail_fast(core_schema: Any) -> Any:
    """A core schema, or part of one, whose lists and objects fail at the first problem."""
    if isinstance(core_schema, list):
        return [_fail_fast(part) for part in core_schema]
    if not isinstance(core_schema, dict):
        return core_schema
    schema = {name: _fail_fast(part) for name, part in core_schema.items()}
    if core_schema.get("type") in ("list", "tuple", "set", "dict"):
        schema["fail_fast"] = True
    return schema


def body_problem(error: ValidationError, body: Any = None) -> BodyProblem:
    """The first problem and its place, without the value itself, which may be a whole video.

    body: what was validated, as far as it is JSON, for the names of places in it.
    """
    problems = error.errors(include_url=False, include_input=False)
    if problems[0]["type"] == "json_invalid":
        return BodyProblem(f"the body is not JSON: {problems[0]['msg']}")
    places = [_place(problem["loc"], body, problem["type"] == "missing") for problem in problems]
    # Where a value may be of several types, the problem of the type that fits best is told.
    deepest = max(range(len(problems)), key=lambda i: (len(places[i]), -i))
    message = str(problems[deepest]["msg"]).removeprefix("Value error, ")
    place = ".".join(map(str, places[deepest]))
    return BodyProblem(f"{place}: {message}" if place else message, place or None)


def address_problem(error: RequestValidationError) -> str:
    """What was wrong first with an address, and where."""
    problem = error.errors()[0]
    return f"{problem['loc'][-1]}: {problem['msg']}"


def _searchable(data: bytes) -> Any:
    try:
        return json.loads(data) if len(data) <= MAX_SEARCHED_BYTES else None
    except (ValueError, RecursionError):
        return None


def _place(steps: Sequence[int | str], body: Any, is_missing: bool) -> list[int | str]:
    """The fields that lead to a value, without the names of what it was compared with."""
    if body is None:
        return [*steps]
    place: list[int | str] = []
    compared: Any = None  # where a step was passed over as the name of a kind
    for i, step in enumerate(steps):
        in_list = isinstance(body, list) and isinstance(step, int) and step < len(body)
        is_kind = isinstance(body, dict) and body.get("type") == step and compared is not body
        if is_kind:
            compared = body
        elif in_list or (isinstance(body, dict) and step in body):
            place.append(step)
            body = body[step]
        elif is_missing and i == len(steps) - 1:
            place.append(step)
    return place
