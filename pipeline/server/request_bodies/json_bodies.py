"""JSON bodies as pydantic models, and errors that say what is wrong with a body and where."""

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
from reellama.pipeline.server.admission.fair_thread_pool import FairThreadPool
from reellama.pipeline.server.request_bodies import finite_numbers, large_bodies

# Bodies of up to this size are parsed in parallel, in threads; larger ones one after the other.
PARALLEL_PARSE_BYTES = 64 << 10
# Errors in larger bodies name pydantic's path of a field, which has names of types in it.
MAX_SEARCHED_BYTES = 4 << 20
# While a body is parsed no other request is answered, so its parts are counted before: values by
# the commas between them (OpenAI takes as many tokens in the texts of one request), lists by their
# opening brackets, fields, and objects: messages, their parts, tools, and what these contain.
MAX_VALUES = 300_000
MAX_LISTS = 50_000
MAX_FIELDS = 100_000
MAX_OBJECTS = 10_000
MAX_SHOWN_CHARACTERS = 100  # of a field's path in an error
MAX_MESSAGE_CHARACTERS = 400  # of what pydantic says of a field: it repeats a wrong tag
MAX_BYTES = 16 << 20  # without the long strings that `LargeBody` cuts out
# The beginning of an object, and the end of a field's name. Neither matches inside of a string,
# where quotation marks are escaped.
_OBJECT = re.compile(rb'\{\s*["}]')
_FIELD = re.compile(rb'"\s*:')
_PIECE = 1 << 20  # bytes counted at a time: other threads run in between


class InvalidBody(ReellamaError):
    """A body that cannot be used. `option`: the field at fault, if known; `status` is HTTP's."""

    status = 400

    def __init__(self, message: str, option: str | None = None) -> None:
        super().__init__(message)
        self.option = option


def json_body(schema: type[BaseModel]) -> Any:
    """A dependency: the body as `schema`. The content type is ignored: curl's -d sets another."""

    async def read(request: Request) -> BaseModel:
        data = await _read_body(request)
        if len(data) <= PARALLEL_PARSE_BYTES:
            return await asyncio.to_thread(parse_body, schema, data)
        # In one thread: several that parse would leave the event loop a small share of the time.
        thread_pool: FairThreadPool = request.app.state.bodies
        parsed: BaseModel = await thread_pool.run(partial(parse_body, schema, data))
        return parsed

    return Depends(read)


async def _read_body(request: Request) -> bytes:
    """Read the body into one buffer: joining its pieces at the end would block the event loop."""
    data = io.BytesIO()
    async for piece in request.stream():
        data.write(piece)
    return data.getvalue()


def parse_body(schema: type[BaseModel], data: bytes) -> Any:
    """Parse and validate a body. Raises InvalidBody."""
    if len(data) < large_bodies.SPLIT_ABOVE_BYTES and not data.strip():
        raise InvalidBody("missing request body")
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
        raise invalid_body(error, _parsed_if_small(data)) from error
    except ValueError as error:
        raise InvalidBody(f"the body is not JSON: {error}") from error


def check_size(data: bytes) -> None:
    """Raise InvalidBody for a body with too many bytes or parts, before it is parsed."""
    if len(data) > MAX_BYTES:
        raise InvalidBody(
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
        n = sum(count(data[i : i + _PIECE]) for i in range(0, len(data), _PIECE))
        if n > limit:
            hint = " (messages, their parts, tools)" if what == "objects" else ""
            raise InvalidBody(f"the body has about {n} {what}{hint}: at most {limit} are taken")


def check_numbers(data: bytes) -> None:
    """Raise InvalidBody for a number that is not finite, in a body that is JSON."""
    if finite_numbers.may_have_nonfinite(data):
        for path in finite_numbers.nonfinite_paths(from_json(data)):
            field = ".".join(map(str, path))[:MAX_SHOWN_CHARACTERS]
            raise InvalidBody(f"{field}: a number is finite, and at most 1.8e308", field)


@lru_cache
def _validator(schema: type[BaseModel]) -> SchemaValidator:
    """A schema's validator, which reports only the first error in a list or object.

    To report a hundred thousand takes seconds, in which no other request is answered.
    """
    core_schema = _fail_fast(schema.__pydantic_core_schema__)
    try:
        return SchemaValidator(core_schema, _use_prebuilt=False)
    except TypeError:  # an older pydantic reports all errors in lists of nested models
        return SchemaValidator(core_schema)


def _fail_fast(core_schema: Any) -> Any:
    """A core schema, or part of one, whose lists and objects fail at the first error."""
    if isinstance(core_schema, list):
        return [_fail_fast(part) for part in core_schema]
    if not isinstance(core_schema, dict):
        return core_schema
    schema = {name: _fail_fast(part) for name, part in core_schema.items()}
    if core_schema.get("type") in ("list", "tuple", "set", "dict"):
        schema["fail_fast"] = True
    return schema


def invalid_body(error: ValidationError, body: Any = None) -> InvalidBody:
    """The InvalidBody for a validation error: its field and message, without the value.

    body: the parsed body, if known, in which the field is looked up.
    """
    details = error.errors(include_url=False, include_input=False)
    if details[0]["type"] == "json_invalid":
        return InvalidBody(f"the body is not JSON: {details[0]['msg']}")
    paths = [_field_path(detail["loc"], body, detail["type"] == "missing") for detail in details]
    # A value that may be of several types has an error for each: that of the closest type is shown.
    deepest = max(range(len(details)), key=lambda i: (len(paths[i]), -i))
    message = _shortened(str(details[deepest]["msg"]).removeprefix("Value error, "))
    field = ".".join(map(str, paths[deepest]))
    return InvalidBody(f"{field}: {message}" if field else message, field or None)


def _shortened(message: str) -> str:
    """A message that may repeat a long value of the body, without the middle of that."""
    half = MAX_MESSAGE_CHARACTERS // 2
    long = len(message) > MAX_MESSAGE_CHARACTERS
    return f"{message[:half]} ... {message[-half:]}" if long else message


def invalid_parameter_message(error: RequestValidationError) -> str:
    """The first error in the parameters of a URL, and which parameter it is."""
    detail = error.errors()[0]
    return f"{detail['loc'][-1]}: {detail['msg']}"


def _parsed_if_small(data: bytes) -> Any:
    try:
        return json.loads(data) if len(data) <= MAX_SEARCHED_BYTES else None
    except (ValueError, RecursionError):
        return None


def _field_path(loc: Sequence[int | str], body: Any, is_missing: bool) -> list[int | str]:
    """The path of a field in the body: pydantic's `loc` without the types of unions in it."""
    if body is None:
        return [*loc]
    path: list[int | str] = []
    tagged: Any = None  # the object whose tag in a discriminated union was skipped last
    for i, step in enumerate(loc):
        in_list = isinstance(body, list) and isinstance(step, int) and step < len(body)
        is_tag = isinstance(body, dict) and body.get("type") == step and tagged is not body
        if is_tag:
            tagged = body
        elif in_list or (isinstance(body, dict) and step in body):
            path.append(step)
            body = body[step]
        elif is_missing and i == len(loc) - 1:
            path.append(step)
    return path
