"""The models in memory: loaded on demand, unloaded when they expire or memory is short."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from reellama.gguf_tools.atomic_write import stamp
from reellama.gguf_tools.cgroups import usable_memory
from reellama.gguf_tools.errors import GGUFError, ReellamaError
from reellama.gguf_tools.memory.estimates import kv_bytes
from reellama.gguf_tools.quantization.merged_llm import make_merged
from reellama.pipeline.llm.batching.batcher import Batcher
from reellama.pipeline.server.loaded_model import Key, LoadedModel
from reellama.pipeline.server.model_registry.model_store import ModelStore
from reellama.pipeline.server.model_registry.registered_model import RegisteredModel
from reellama.pipeline.server.monitoring.logs import log
from reellama.pipeline.server.settings import Settings

# With less than this share of the memory free, unused models are unloaded.
MIN_FREE_MEMORY = 0.05
CHECK_SECONDS = 5.0  # between two checks for models to unload


class ModelPool:
    """Loads and unloads models. Belongs to one event loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        # Why no model can be used any more, "" while they can: only a new process helps then.
        # `on_failure` is called when that happens, in another thread.
        self.failure = ""
        self.on_failure: Callable[[], None] = lambda: None
        self._loaded: dict[Key, LoadedModel] = {}
        self._loading = asyncio.Lock()  # one model at a time: the next may need this one's memory
        self._acquiring: set[asyncio.Task[tuple[LoadedModel, float]]] = set()
        self._unloader: asyncio.Task[None] | None = None

    def loaded(self) -> list[LoadedModel]:
        """The models in memory, the most recently used first."""
        return sorted(self._loaded.values(), key=lambda model: model.last_used_at, reverse=True)

    async def acquire(
        self, registered: RegisteredModel, keep_alive: float | None
    ) -> tuple[LoadedModel, float]:
        """A model to use, and the seconds that loading it took; `release` it afterwards.

        Loading cannot be cancelled: if the caller is, the model is loaded for the next request.
        """
        task = asyncio.ensure_future(self._acquire(registered, keep_alive))
        self._acquiring.add(task)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(self._abandon)
            raise
        finally:
            task.add_done_callback(self._acquiring.discard)

    def _abandon(self, task: asyncio.Task[tuple[LoadedModel, float]]) -> None:
        """Release a model whose caller was cancelled while it was loaded."""
        if not task.cancelled() and task.exception() is None:
            loaded, _ = task.result()
            loaded.users -= 1
            loaded.last_used_at = time.monotonic()

    async def _acquire(
        self, registered: RegisteredModel, keep_alive: float | None
    ) -> tuple[LoadedModel, float]:
        lora = self._adapters(registered)
        llm: list[tuple[Path, float | None]] = [(path, None) for path in registered.files]
        key = tuple((path, stamp(path), scale) for path, scale in [*llm, *lora])
        async with self._loading:
            await self._unload_changed()
            load_seconds = 0.0
            if key not in self._loaded:
                started_at = time.perf_counter()
                self._loaded[key] = await self._load(registered, key, lora)
                load_seconds = time.perf_counter() - started_at
                self._loaded[key].load_seconds = load_seconds
            loaded = self._loaded[key]
            loaded.users += 1
            loaded.name = registered.service_name
            if registered.bundle is not None:
                loaded.bundles.add(registered.bundle)
        if keep_alive is not None:
            loaded.keep_alive = keep_alive
        return loaded, load_seconds

    async def release(self, loaded: LoadedModel) -> None:
        """End a request's use of a model."""
        loaded.users -= 1
        loaded.last_used_at = time.monotonic()
        if loaded.expired:
            await self._unload(loaded)

    async def close(self) -> None:
        """Unload all models; answers that are still being generated end with an error."""
        if self._unloader is not None:
            self._unloader.cancel()
            with suppress(asyncio.CancelledError):
                await self._unloader
        await asyncio.gather(*self._acquiring, return_exceptions=True)
        for loaded in list(self._loaded.values()):
            await self._unload(loaded)

    def _adapters(self, registered: RegisteredModel) -> list[tuple[Path, float]]:
        store = ModelStore(self.settings.store)
        bundled = registered.bundle.lora if registered.bundle else []
        return [*bundled, *((store.file(adapter), 1.0) for adapter in registered.manifest.adapters)]

    async def _load(
        self, registered: RegisteredModel, key: Key, lora: list[tuple[Path, float]]
    ) -> LoadedModel:
        if self._unloader is None:
            self._unloader = asyncio.create_task(self._unload_periodically())
        settings = self.settings
        n_cells = settings.n_parallel * settings.n_ctx
        await self._make_room(await asyncio.to_thread(_bytes_needed, registered, n_cells))
        path, lora = await asyncio.to_thread(self._merged, registered.path, lora)
        batcher = await asyncio.to_thread(
            Batcher,
            path,
            n_parallel=settings.n_parallel,
            n_ctx=settings.n_ctx,
            n_threads=settings.n_threads,
            n_gpu_layers=settings.n_gpu_layers,
            lora=lora,
            on_failure=self._report_failure,
        )
        return LoadedModel(registered.service_name, key, batcher, 0.0, settings.keep_alive)

    def _merged(
        self, path: Path, lora: list[tuple[Path, float]]
    ) -> tuple[Path, list[tuple[Path, float]]]:
        """The LLM with its adapters merged in, or both unchanged where they cannot be merged."""
        if self.settings.merged is not None:
            try:
                if merged := make_merged(path, lora, self.settings.merged):
                    return merged, []
            except ReellamaError as error:
                log.warning("adapters are not merged: %s", error)
        return path, lora

    def _report_failure(self) -> None:
        self.failure = "the thread of a model has died"
        log.critical(self.failure)
        self.on_failure()

    async def _unload_changed(self) -> None:
        """Unload models whose files have changed, each once no request uses it."""
        for loaded in self.loaded():
            if loaded.files_changed:
                loaded.keep_alive = 0
                if loaded.expired:
                    await self._unload(loaded)

    async def _make_room(self, n_bytes: int) -> None:
        """Unload unused models, the least recently used first, until `n_bytes` are free."""
        for model in reversed(self.loaded()):
            memory = usable_memory()
            if memory.available - n_bytes > MIN_FREE_MEMORY * memory.total:
                return
            if not model.users:  # which may have changed while another model was unloaded
                await self._unload(model)

    async def _unload(self, loaded: LoadedModel) -> None:
        if self._loaded.get(loaded.key) is loaded:
            del self._loaded[loaded.key]
            await asyncio.to_thread(loaded.close)
            for bundle in list(loaded.bundles):
                if all(bundle not in other.bundles for other in self._loaded.values()):
                    await asyncio.to_thread(bundle.unload)

    async def _unload_periodically(self) -> None:
        """Unload models that have expired, or when memory is short."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            for loaded in self.loaded():
                if loaded.expired:
                    await self._unload(loaded)
            await self._make_room(0)


def _bytes_needed(registered: RegisteredModel, n_cells: int) -> int:
    """Bytes of memory of a model with its KV cache, and of the tower that sees for it."""
    needed = registered.size
    if registered.bundle is not None:
        needed += registered.bundle.unloaded_bytes
    with suppress(GGUFError):  # of a damaged file, which loading it will report
        file = registered.gguf
        needed += sum(kv_bytes(file, layer, n_cells) for layer in range(file.n_layer))
    return needed
