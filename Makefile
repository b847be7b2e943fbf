# The front door: everything a user or a developer does, in one word. CMake does the work (CMakePresets.json).

BUILD := build/release
SPEY := $(BUILD)/spey
JOBS := $(shell nproc)

.PHONY: all build demo test check check-gpu bench tidy format fuzz install clean help deps
.DEFAULT_GOAL := build

help:
	@echo "make              build spey into $(SPEY)"
	@echo "make demo         install what is missing, build, and let the demo model write"
	@echo "make test         the tests alone (release build)"
	@echo "make check        install what is missing, build, and run everything that CI runs"
	@echo "make check-gpu    the CUDA rows and the device layer, on a machine with a GPU"
	@echo "make bench        kernels against this machine's ceilings, and the demo model"
	@echo "make tidy         the rules of style.md that a program can check"
	@echo "make format       clang-format, in place"
	@echo "make fuzz         every fuzz target for FUZZ_SECONDS (20), with new inputs"
	@echo "make install      into PREFIX (/usr/local)"
	@echo "make clean        remove build/"

deps:
	@tools/install-deps build

build: deps
	@cmake --preset release >/dev/null
	@cmake --build $(BUILD) -j $(JOBS)

demo: deps
	@cmake --preset release >/dev/null
	@cmake --build $(BUILD) -j $(JOBS) --target spey
	@echo
	@echo "$$ $(SPEY) build models/demo -o build/demo.spey"
	@$(SPEY) build models/demo -o build/demo.spey
	@echo "$$ $(SPEY) run build/demo.spey \"Once upon a time\" --temperature 0.8 --top-p 0.95 --seed 6"
	@$(SPEY) run build/demo.spey "Once upon a time" --temperature 0.8 --top-p 0.95 --seed 6
	@echo
	@echo "Now try your own:  $(SPEY) run build/demo.spey \"It was a dark night\""

test: build
	@ctest --test-dir $(BUILD) --output-on-failure -j $(JOBS)

check:
	@tools/install-deps check
	@tools/check

check-gpu: build
	@tools/check-gpu

bench: build
	@$(BUILD)/tests/check/checkkernel --bench
	@$(SPEY) bench latency models/demo --isl 128 --osl 128

tidy:
	@tools/install-deps check
	@cmake --preset release >/dev/null && cmake --build $(BUILD) -j $(JOBS)
	@tools/tidy $(BUILD)

format:
	@git ls-files '*.c' '*.h' '*.cu' '*.cuh' | xargs clang-format -i

fuzz:
	@tools/install-deps check
	@tools/fuzz

install: build
	@cmake --install $(BUILD) --prefix $(or $(PREFIX),/usr/local)

clean:
	@rm -rf build
