# Everything a person types: `make demo`, `make test`. All that is fetched or built lies in .cache/.
# SEARCH=OFF leaves out the quantizing half, and with it libtorch; the program says so of the commands that it lacks then.
SEARCH ?= ON
SETUP := tools/setup $(if $(filter ON,$(SEARCH)),--search)
BUILD := .cache/build

.PHONY: help setup build test demo sanitize slow format clean
.NOTPARALLEL:

help:
	@echo "make demo      quantise a small public model to a stated size and compare it with full precision"
	@echo "make test      set up, build, run the tests (SEARCH=OFF: only what needs no libtorch)"
	@echo "make build     set up and build .cache/build (the program: .cache/build/src/cli/scalebits)"
	@echo "make setup     only install what is missing (apt packages, libtorch)"
	@echo "make sanitize  the tests without libtorch under address and undefined-behaviour sanitizers"
	@echo "make slow      the tests against live PyPI libraries (fetches them first), and those that take minutes"
	@echo "make format    clang-format on every C++ file (fetches it first)"
	@echo "make clean     remove what was built; rm -rf .cache removes what was fetched, too"

setup:
	@$(SETUP)

build: setup
	@tools/build $(BUILD) -DSCALEBITS_SEARCH=$(SEARCH)

test: build
	@tools/run_tests $(BUILD) -L '^(fast|e2e)$$'

demo: build
	@tools/fetch_smollm2
	@tools/demo

sanitize:
	@tools/setup
	@tools/build .cache/build-asan -DSCALEBITS_SANITIZE=ON -DSCALEBITS_SEARCH=OFF -DSCALEBITS_CUDA=OFF -DCMAKE_CXX_FLAGS_RELEASE=-O1 \
	  -DCMAKE_DISABLE_PRECOMPILE_HEADERS=ON
	@tools/run_tests .cache/build-asan -L '^(fast|e2e)$$'

slow: build
	@tools/setup --oracles
	@tools/fetch_smollm2
	@tools/run_tests $(BUILD) -L '^slow$$'

format:
	@tools/format

clean:
	@rm -rf $(BUILD) .cache/build-asan
