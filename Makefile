# make help lists what there is.

PYTHON ?= python3
VIDEO ?= demo.mp4
QUESTION ?= What happens in the video?
# The shell reads these two from its environment, so that any character in them is safe.
export VIDEO QUESTION

PIP := .venv/bin/python -m pip
REELLAMA := .venv/bin/reellama
# As many workers as processors; the tests of one file stay together, in the order of tests/conftest.py.
PYTEST := .venv/bin/python -m pytest -n logical --dist loadgroup --no-loadscope-reorder

.PHONY: help demo test test-slow test-kernels test-perturbed lint format bench screenshots train-mini clean
.DELETE_ON_ERROR:

help: ## say what each target does
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 24

demo: .venv/.installed ## ask about a video: the project's own, or VIDEO=path (QUESTION="...")
	$(REELLAMA) ask --timings "$$VIDEO" "$$QUESTION"
ifeq ($(VIDEO),demo.mp4)
demo: demo.mp4
endif

demo.mp4: | .venv/.installed
	$(REELLAMA) demo-video demo.mp4

test: .venv/.installed-dev ## install torch and the rest, run all but the slow tests (ARGS="-k name" to choose)
	$(PYTEST) -m "not slow" $(ARGS)

test-slow: .venv/.installed-dev ## run the slow tests
	$(PYTEST) -m slow $(ARGS)

test-kernels: test-kernels-avx2 test-kernels-x86-64 ## the numeric tests as older processors would run them (RUNS=1)

PERTURBED := $(CURDIR)/.venv/perturbed
SEED ?= 1

test-perturbed: .venv/.installed-dev ## the numeric tests with an LLM whose logits are a little off, as on another processor (SEED=1)
	.venv/bin/python -m tests.helpers.perturbed_llm $(SEED) $(PERTURBED)
	PYTHONPATH="$(PERTURBED)" $(PYTEST) -m "numeric and not slow" $(ARGS)

lint: .venv/.installed-dev ## ruff and mypy
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: .venv/.installed-dev ## let ruff mend what it can
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

bench: .venv/.installed-dev ## two of the benchmarks, engine and seek (benchmarks/README.md has them all)
	for name in engine seek; do .venv/bin/python -m "benchmarks.$$name" || exit 1; done

train-mini: .venv/.installed-dev ## train the stages of `mini` on drawn clips (not those on footage), or go on where that was stopped
	$(REELLAMA) train models/configs/mini.toml --out runs/mini

screenshots: .venv/.installed demo.mp4 ## draw the screenshots in the README (needs tmux)
	.venv/bin/python docs/make_screenshot.py chat demo.mp4 docs/chat.svg \
		"What happens in the video?" "Which way does it move?"
	.venv/bin/python docs/make_screenshot.py inspect demo.mp4 docs/inspect.svg 6

# llama.cpp and torch choose their kernels by the processor, and each kernel rounds in its own way.
# Here llama.cpp is built once more for an older one, and what computes beside it is kept to the same.
KERNELS := $(CURDIR)/.venv/kernels
RUNS ?= 1
avx2_CMAKE := -DGGML_NATIVE=OFF -DGGML_AVX512=OFF
avx2_ENV := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 OPENBLAS_CORETYPE=Haswell
x86-64_CMAKE := -DGGML_NATIVE=OFF $(foreach set,SSE42 AVX AVX2 AVX512 FMA F16C BMI2,-DGGML_$(set)=OFF)
x86-64_ENV := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2 OPENBLAS_CORETYPE=Nehalem

.PHONY: test-kernels-avx2 test-kernels-x86-64
test-kernels-avx2 test-kernels-x86-64: test-kernels-%: .venv/kernels/%/.built
	export PYTHONPATH="$(KERNELS)/$*" $($*_ENV) && .venv/bin/python tests/helpers/kernels.py $* && \
		for run in $$(seq $(RUNS)); do $(PYTEST) -m numeric $(ARGS) || exit 1; done

.venv/kernels/%/.built: .venv/.installed-dev
	@echo "Compiling llama.cpp for $*: about five minutes on two cores"
	rm -rf .venv/kernels/$*
	CMAKE_ARGS="$($*_CMAKE)" $(PIP) install --quiet --no-deps --no-cache-dir --no-binary llama-cpp-python \
		--target .venv/kernels/$* "$$($(PIP) freeze | grep -i '^llama.cpp.python==')"
	touch $@

clean: ## remove the virtual environment and what was rendered
	rm -rf .venv demo.mp4

# One pip call a stamp, so that the resolver sees every requirement at once. The second stamp also
# makes the first newer, since what it installs includes everything the first needs.
.venv/.installed: pyproject.toml | .venv/bin/python
	@echo "Installing into .venv (llama.cpp is compiled: about five minutes on two cores)"
	$(PIP) install --quiet -e .
	touch $@

.venv/.installed-dev: pyproject.toml | .venv/bin/python
	@echo "Installing into .venv (llama.cpp is compiled: about five minutes on two cores)"
	$(PIP) install --quiet -e ".[train,plots,eval,serve,test,dev]"
	touch .venv/.installed $@

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "reellama needs Python 3.10 or newer: make PYTHON=python3.12" >&2; exit 1; }
	@command -v c++ >/dev/null || \
		{ echo "llama.cpp needs a C++ compiler: apt install g++ (Debian), xcode-select --install (macOS)" >&2; exit 1; }
	$(PYTHON) -m venv .venv
