"""Prompt text as data files, one prompt a file, so that it can be read and changed without code."""

from importlib.resources import files


def load(name: str) -> str:
    """Return the prompt `name` (`"system"`, `"describe"`), without the file's closing newline.

    Raises KeyError, which lists the names there are, when there is none of that name.
    """
    prompts = {
        file.name.removesuffix(".txt"): file
        for file in files(__name__).iterdir()
        if file.name.endswith(".txt")
    }
    if name not in prompts:
        raise KeyError(f"no prompt named {name!r}; there are: {', '.join(sorted(prompts))}")
    return prompts[name].read_text(encoding="utf-8").strip()
