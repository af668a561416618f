# Everything happens in the virtual environment .venv and in build/; both may be deleted at any time.
# Needs Python >= 3.10 (PYTHON=python3.12 chooses another), a C++ compiler and cmake.

PYTHON ?= python3
PYTEST_ARGS ?=
DEMO_ARGS ?=
STUDY_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CPP_BUILD := build/python

# Everything about CUDA: docs/gpu-check.md
STAGES ?=
CUDA_TORCH ?= 2.11.0
CUDA_ARCHITECTURES ?= 9.0
CUDA_VENV ?= build/cuda-venv
CUDA_CHECK := build/cuda-check
EMULATED := build/emulated

CPP_FILES := $(shell find csrc tests bench -type f \( -name '*.h' -o -name '*.cpp' -o -name '*.inl' -o -name '*.cu' -o -name '*.cuh' \))
EXTENSION_SOURCES := $(shell find csrc -type f) CMakeLists.txt setup.py tools/cuda_build.py pyproject.toml VERSION

# Each stamp is touched when its step has been done, so that no step is done twice.
VENV_STAMP := $(VENV)/.created
TORCH_STAMP := $(VENV)/.torch-installed
TOOLS_STAMP := $(VENV)/.build-tools-installed
DEV_STAMP := $(VENV)/.dev-installed
STUDY_STAMP := $(VENV)/.study-data-installed
EXTENSION_STAMP := $(CPP_BUILD)/.installed

# Two pips at once would get in each other's way; ninja compiles in parallel all the same.
.NOTPARALLEL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help env build demo study test test-all cpp-test sanitize sanitize-threads lint format wheel clean
.PHONY: arm-check baseline-check
.PHONY: cuda-compile cuda-emulation-test build-cuda-check gpu-check

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-19s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

env: $(TORCH_STAMP) $(TOOLS_STAMP) $(DEV_STAMP) ## create .venv and install what building, testing and the examples need

build: $(EXTENSION_STAMP) ## compile and install lstmfast into .venv, so that changes of the Python files take effect at once

demo: build $(DEV_STAMP) ## train a language model with torch.nn.LSTM and with lstmfast.LSTM (DEMO_ARGS="--steps 300 ...")
	$(BIN)/python examples/char_lm.py $(DEMO_ARGS)

# Without its data an experiment is left out, and the command says what is missing.
study: build $(DEV_STAMP) $(STUDY_STAMP) ## LSTM against RNN, measured: build/study/report.html (STUDY_ARGS="--full --seeds 1 ...")
	$(BIN)/python -m lstmfast study run all --out build/study --data build/study-data $(STUDY_ARGS)

test: build $(DEV_STAMP) cpp-test ## the quick suite: C++ tests, then pytest without the slow ones (PYTEST_ARGS="-k packed ...")
	$(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS)

test-all: build $(DEV_STAMP) cpp-test ## all tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# They are linked to the kernels that the extension has, which are slow to compile. Without torch:
# cmake -S . -B build/cpp -G Ninja -DLSTMFAST_PYTHON=OFF && cmake --build build/cpp --target cpp_tests
cpp-test: build ## build and run the C++ tests
	cmake --build $(CPP_BUILD) --target cpp_tests
	ctest --test-dir $(CPP_BUILD) --output-on-failure

sanitize: $(TOOLS_STAMP) ## the C++ tests under the address and undefined-behaviour sanitizers (no torch; some ten minutes)
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S . -B build/sanitize -G Ninja -DLSTMFAST_PYTHON=OFF \
	  -DLSTMFAST_SANITIZE=address,undefined -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG=-O1
	cmake --build build/sanitize --target cpp_tests
	ctest --test-dir build/sanitize --output-on-failure

sanitize-threads: $(TOOLS_STAMP) ## the C++ tests that use threads, under the thread sanitizer
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S . -B build/sanitize-threads -G Ninja -DLSTMFAST_PYTHON=OFF \
	  -DLSTMFAST_SANITIZE=thread -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG=-O1
	cmake --build build/sanitize-threads --target test_kernels test_concurrency test_pool
	ctest --test-dir build/sanitize-threads --output-on-failure -R 'test_(kernels|concurrency|pool)'

# Debian and Ubuntu: apt-get install g++-aarch64-linux-gnu qemu-user
ARM_TESTS := test_cells test_plan test_kernels test_vector_math
arm-check: $(TOOLS_STAMP) ## the C++ tests of the kernels compiled for 64-bit Arm, run under qemu (needs a cross-compiler, qemu-user)
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S . -B build/arm -G Ninja -DLSTMFAST_PYTHON=OFF \
	  -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
	  -DCMAKE_CROSSCOMPILING_EMULATOR="qemu-aarch64;-L;/usr/aarch64-linux-gnu"
	cmake --build build/arm --target $(ARM_TESTS)
	ctest --test-dir build/arm --output-on-failure -R '$(subst $(eval ) ,|,$(ARM_TESTS:%=^%$$))'

baseline-check: build ## the C++ tests of the kernels on an emulated processor that has SSE2 and no more (needs qemu-user)
	cmake --build $(CPP_BUILD) --target test_kernels
	qemu-x86_64 -cpu qemu64 $(CPP_BUILD)/test_kernels

# The kernels need nvcc alone. The binding is compiled against torch's headers as they are in a CPU build, with stand-ins
# for the few that are missing there; it cannot be linked.
cuda-compile: build ## compile the CUDA kernels, watching registers and spills, and the binding (nothing without nvcc)
	@if [ -x "$$CUDA_HOME/bin/nvcc" ] || command -v nvcc; then set -ex; \
	  $(BIN)/python tools/check_cuda_kernels.py; \
	  cmake --build $(CPP_BUILD) --target cuda_binding_check; \
	else echo "nvcc was not found: no CUDA kernel has been compiled"; fi

# No module of this build may lie in lstmfast/, where the other build's is: pytest, not `python -m pytest`, which would
# find that one first. Left out: the fake kernels, which answer for the CPU's, and what only threads of a CPU can do.
EMULATED_TESTS := layouts gradients recompute recompute_use chunk_ops higher_orders forward_mode functorch_results
cuda-emulation-test: $(TOOLS_STAMP) $(DEV_STAMP) ## the Python tests of layouts and gradients with the CUDA kernels on an emulated GPU
	LSTMFAST_CUDA=0 LSTMFAST_BUILD_DIR=$(EMULATED) LSTMFAST_CMAKE_ARGS=-DLSTMFAST_EMULATE_CUDA=ON \
	  $(BIN)/python setup.py -q build --build-base $(EMULATED)/setuptools --build-lib $(EMULATED)/lib
	PYTHONPATH=$(EMULATED)/lib $(BIN)/pytest $(EMULATED_TESTS:%=tests/test_%.py) -m "not slow and not long" \
	  -k "not opcheck and not compile" -p no:cacheprovider $(PYTEST_ARGS)

build-cuda-check: $(CUDA_VENV)/.created ## build against a CUDA build of torch (some 5 GB are fetched), import, test; needs nvcc, no GPU
	LSTMFAST_CUDA=1 LSTMFAST_BUILD_DIR=$(CUDA_CHECK) TORCH_CUDA_ARCH_LIST="$(CUDA_ARCHITECTURES)" \
	  $(CUDA_VENV)/bin/python setup.py -q build --build-base $(CUDA_CHECK)/setuptools --build-lib $(CUDA_CHECK)/lib
	cd $(CUDA_CHECK)/lib && $(abspath $(CUDA_VENV))/bin/python -c "import lstmfast; print(lstmfast.build_info())"
	PYTHONPATH=$(CUDA_CHECK)/lib $(CUDA_VENV)/bin/pytest tests/test_ops.py tests/test_layouts.py tests/test_explain.py \
	  tests/cuda -m "not slow" -p no:cacheprovider $(PYTEST_ARGS)

# With the Python and the packages that are there: no virtual environment, no network.
gpu-check: ## on a machine with a GPU: build, tests, compute-sanitizer, bench (PYTHON=..., STAGES="build tests", OUT=folder)
	$(PYTHON) tools/gpu_check.py $(STAGES)

lint: $(DEV_STAMP) ## check style and format of Python and C++
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CPP_FILES)

format: $(DEV_STAMP) ## rewrite Python and C++ in the format that lint asks for
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP_FILES)

wheel: $(TORCH_STAMP) $(TOOLS_STAMP) ## build a wheel into dist/, for the torch that is in .venv
	$(PIP) wheel --no-build-isolation --no-deps --wheel-dir dist .

clean: ## delete what was built, but not .venv
	rm -rf build dist *.egg-info lstmfast/*.so .pytest_cache .ruff_cache .hypothesis
	find lstmfast tests examples bench -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV_STAMP):
	@$(PYTHON) -c 'import sys; sys.exit("lstmfast needs Python 3.10 or newer; choose one: make PYTHON=..." if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV)
	@touch $@

# torch comes before everything that might depend on it, or pip would choose a version of its own.
$(TORCH_STAMP): requirements/torch.txt $(VENV_STAMP)
	$(PIP) install -r $<
	@touch $@

$(TOOLS_STAMP): requirements/build.txt $(VENV_STAMP)
	$(PIP) install -r $<
	@touch $@

$(DEV_STAMP): requirements/dev.txt $(TORCH_STAMP)
	$(PIP) install -r $<
	@touch $@

$(STUDY_STAMP): requirements/study-data.txt $(VENV_STAMP)
	mkdir -p build/study-data
	$(PIP) install --no-deps -r $< && \
	  $(PIP) download -q --no-deps --no-binary :all: -d build/study-data vaderSentiment==3.3.2 && \
	  touch $@ || echo "the study's data could not be installed"

$(CUDA_VENV)/.created:
	$(PYTHON) -m venv $(CUDA_VENV)
	$(CUDA_VENV)/bin/python -m pip --disable-pip-version-check install torch==$(CUDA_TORCH) numpy pytest hypothesis \
	  expecttest -r requirements/build.txt
	@touch $@

$(EXTENSION_STAMP): $(TORCH_STAMP) $(TOOLS_STAMP) $(EXTENSION_SOURCES)
	$(PIP) install --no-build-isolation -e .
	@touch $@
