"""Parts of messages in OpenAI's protocols: texts, pictures, videos and files.

Chat completions and responses have different shapes of parts; both APIs accept all of them.
Extensions are the fields of `VideoFields` in each part, and the part `input_video`, a
`MediaReference`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator

from reellama.pipeline.server.media.media_references import MediaReference, VideoFields


class TextPart(BaseModel):
    """A part of text."""

    type: Literal["text", "input_text", "output_text"]
    text: str


class RefusalPart(BaseModel):
    """A part in which the assistant refuses to answer."""

    type: Literal["refusal"]
    refusal: str

    @property
    def text(self) -> str:
        """The text of the refusal."""
        return self.refusal


WordsPart = TextPart | RefusalPart


class _MediaPart(VideoFields):
    """A part with a picture or video. Validation makes its reference, to find errors early."""

    def reference(self) -> MediaReference:
        """The part as a media reference."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _check_source(self) -> _MediaPart:
        self.reference()
        return self

    def _reference_to(self, **source: object) -> MediaReference:
        fields = {name: getattr(self, name) for name in VideoFields.model_fields}
        fields |= {name: value for name, value in source.items() if value is not None}
        return MediaReference.model_validate(fields)


class MediaLocation(BaseModel):
    """The URL of a picture or video: data:, or one that the settings allow."""

    url: str


class ImageURL(_MediaPart):
    """A picture by its URL."""

    type: Literal["image_url"]
    image_url: MediaLocation | str

    def reference(self) -> MediaReference:
        """The picture."""
        return self._reference_to(url=_url(self.image_url))


class VideoURL(_MediaPart):
    """A video by its URL."""

    type: Literal["video_url"]
    video_url: MediaLocation | str

    def reference(self) -> MediaReference:
        """The video."""
        return self._reference_to(url=_url(self.video_url))


class FileLocation(BaseModel):
    """The id of an uploaded file, or the bytes of a file."""

    file_id: str | None = None
    file_data: str | None = None
    filename: str | None = None


class FilePart(_MediaPart):
    """A file, as chat completions write it."""

    type: Literal["file"]
    file: FileLocation

    def reference(self) -> MediaReference:
        """The picture or video in it."""
        self.name = self.name or self.file.filename
        return self._reference_to(file_id=self.file.file_id, data=self.file.file_data)


class InputFile(_MediaPart):
    """A file, as responses write it."""

    type: Literal["input_file"]
    file_id: str | None = None
    file_data: str | None = None
    file_url: str | None = None
    filename: str | None = None

    def reference(self) -> MediaReference:
        """The picture or video in it."""
        self.name = self.name or self.filename
        return self._reference_to(file_id=self.file_id, data=self.file_data, url=self.file_url)


class InputImage(_MediaPart):
    """A picture, as responses write it."""

    type: Literal["input_image"]
    image_url: str | None = None
    file_id: str | None = None

    def reference(self) -> MediaReference:
        """The picture."""
        return self._reference_to(url=self.image_url, file_id=self.file_id)


class InputVideo(MediaReference):
    """A video, or pictures with times."""

    type: Literal["input_video"]

    def reference(self) -> MediaReference:
        """The video."""
        return self


MessagePart = Annotated[
    WordsPart | ImageURL | VideoURL | FilePart | InputFile | InputImage | InputVideo,
    Field(discriminator="type"),
]


def parts_text(parts: list[MessagePart]) -> str:
    """The text parts, a line each."""
    return "\n".join(part.text for part in parts if isinstance(part, WordsPart))


def parts_media(parts: list[MessagePart]) -> list[MediaReference]:
    """The media references of the other parts, in order."""
    return [part.reference() for part in parts if not isinstance(part, WordsPart)]


class PartsMessage(BaseModel):
    """A message: a string, or parts of text, pictures and videos."""

    role: str
    content: str | list[MessagePart] | None

    @property
    def text(self) -> str:
        """The message's text parts, a line each."""
        return parts_text(self.content) if isinstance(self.content, list) else self.content or ""

    @property
    def media(self) -> list[MediaReference]:
        """The message's pictures and videos, in order."""
        return parts_media(self.content) if isinstance(self.content, list) else []

    @model_validator(mode="after")
    def _check_media_role(self) -> PartsMessage:
        if self.role != "user" and self.media:
            raise ValueError(f"pictures and videos belong in user messages, not {self.role}'s")
        return self


def _url(location: MediaLocation | str) -> str:
    return location if isinstance(location, str) else location.url
