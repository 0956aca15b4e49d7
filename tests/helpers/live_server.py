"""A real server for tests: the app on uvicorn, on a free port of this machine."""

import base64
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from reellama.pipeline.server.app import create_app
from reellama.pipeline.server.settings import Settings
from reellama.pipeline.server.uvicorn_server import uvicorn_config


@contextmanager
def serving(**settings: Any) -> Iterator[str]:
    """Serve in a thread of this process; gives the server's address, without a slash at its end.

    Nothing is kept on disk between runs unless the settings say where.
    """
    app = create_app(Settings(**{"cache": None, "merged": None, **settings}))
    server = uvicorn.Server(uvicorn_config(app, log_level="warning"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the server did not start"
                time.sleep(0.01)
            yield "http://{}:{}".format(*listener.getsockname())
        finally:
            server.should_exit = True
            thread.join()


def data_url(path: Path, kind: str = "video/mp4") -> str:
    """The file as a data URL."""
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
