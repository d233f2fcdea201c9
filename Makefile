# ForgeOne. `make` alone lists the targets.
SHELL     := /bin/sh
BIN       := bin
EXAMPLES  := $(BIN)/examples
TOOLS     := go tool -modfile=.ci/tools.mod
GO        := go
PURE      := CGO_ENABLED=0 $(GO) build -trimpath
FUZZTIME  ?= 60s
BENCHTIME ?= 1s
COUNT     ?= 5
MODULES   ?= 100000
SEED      ?= 0
# Anything that answers to cc builds the cgo engines; without one they are left out, and said to be.
HAVE_CC   := $(shell command -v $${CC:-cc} >/dev/null 2>&1 && echo yes)
WASMER    := $(shell $(GO) env GOMODCACHE)/github.com/wasmerio/wasmer-go@v1.0.4/wasmer/packaged/lib/$(shell $(GO) env GOOS)-$(subst arm64,aarch64,$(shell $(GO) env GOARCH))
# Packages that only a WASM guest can hold.
GUESTS    := ./sdk ./sdk/guest ./plugins/examples/summarise-wasm ./plugins/examples/rogue-wasm ./abi/forge/testdata/guest ./abi/wasi/testdata/command ./engines/bench/testdata/program
PLATFORMS := linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64

.DEFAULT_GOAL := help
.PHONY: help build examples demo test test-all lint race bench bench-rivals fuzz diff cross clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## bin/forgeone (pure Go) and, with a C compiler, the engine binaries beside it
	$(PURE) -o $(BIN)/forgeone ./cmd/forgeone
	$(PURE) -o $(BIN)/forgeone-engine-wazero ./cmd/forgeone-engine
ifeq ($(HAVE_CC),yes)
	CGO_ENABLED=1 CGO_LDFLAGS='-Wl,-rpath,$$ORIGIN' $(GO) build -trimpath -tags wasmer -o $(BIN)/forgeone-engine-wasmer ./cmd/forgeone-engine
	cp -f $(WASMER)/libwasmer.* $(BIN)/
	chmod u+w $(BIN)/libwasmer.*
	CGO_ENABLED=1 $(GO) build -trimpath -tags wasmtime -o $(BIN)/forgeone-engine-wasmtime ./cmd/forgeone-engine
else
	@echo "no C compiler: $(BIN)/forgeone-engine-wasmer and -wasmtime are left out (set CC, or install one)"
endif

examples: ## the example plugins, WASM and native, with the Go toolchain alone
	@mkdir -p $(EXAMPLES)
	GOOS=wasip1 GOARCH=wasm $(GO) build -trimpath -buildmode=c-shared -o $(EXAMPLES)/summarise.wasm ./plugins/examples/summarise-wasm
	GOOS=wasip1 GOARCH=wasm $(GO) build -trimpath -buildmode=c-shared -o $(EXAMPLES)/rogue.wasm ./plugins/examples/rogue-wasm
	GOOS=wasip1 GOARCH=wasm $(GO) build -trimpath -ldflags='-s -w' -buildmode=c-shared -o $(EXAMPLES)/bench-go.wasm ./engines/bench/testdata/program
	$(PURE) -o $(EXAMPLES)/summarise ./plugins/examples/summarise-native
	$(PURE) -o $(EXAMPLES)/rogue ./plugins/examples/rogue-native

demo: examples ## build, bring up a kernel with four plugins, and show what the gate does
	$(PURE) -o $(BIN)/forgeone ./cmd/forgeone
	$(GO) run ./plugins/examples/demo

test: ## every test that needs the Go toolchain alone
	CGO_ENABLED=0 $(GO) test ./...

# The suites of the engines. What ran is counted, and none may be missing.
test-all: test ## and those that need a C compiler: the wasmer and wasmtime adapters
	@mkdir -p $(BIN)
ifeq ($(HAVE_CC),yes)
	{ CGO_ENABLED=1 $(GO) test -count=1 -v -tags wasmer ./engines/... ./cmd/forgeone-engine/... ./cmd/forgeone/builtins; \
	  CGO_ENABLED=1 $(GO) test -count=1 -v -tags wasmtime ./engines/wasmtime ./engines/enginetest/diff ./cmd/forgeone-engine/... ./cmd/forgeone/builtins; } \
	  | grep -E 'enginetest[/a-z]*: |^--- |^ok|^FAIL|^panic' | grep -v -- '--- PASS' | tee $(BIN)/test-all.log
	@awk -f .ci/test-all.awk $(BIN)/test-all.log
else
	@echo "no C compiler: the wasmer and wasmtime adapters cannot be tested; set CC, or install one" && exit 1
endif

lint: ## gofmt, go vet, staticcheck
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo "run gofmt -w on these"; exit 1; }
	$(GO) vet ./...
	GOOS=wasip1 GOARCH=wasm $(GO) vet $(GUESTS)
	$(TOOLS) staticcheck ./...

race: ## the tests under the race detector
	CGO_ENABLED=1 $(GO) test -race ./...

bench: ## the benchmarks, each with its rival in the same run; benchstat format
	@mkdir -p $(BIN)
	$(GO) test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) -count $(COUNT) ./... | grep -v 'no test files' | tee $(BIN)/bench.txt
	$(TOOLS) benchstat $(BIN)/bench.txt

RIVALS := $(GO) test -run '^$$' -benchtime $(BENCHTIME) -bench

bench-rivals: ## tables for docs/engines.md: limits, adapters and Extism, each beside its rival (cgo engines if there is a C compiler)
	@mkdir -p $(BIN)
	{ $(RIVALS) Wazero ./engines/meter ./engines/wazero; \
	  cd benchmarks && $(RIVALS) . .; } | tee $(BIN)/bench-rivals.txt
ifeq ($(HAVE_CC),yes)
	{ CGO_ENABLED=1 $(RIVALS) Wasmer -tags wasmer ./engines/meter ./engines/wasmer; \
	  CGO_ENABLED=1 $(RIVALS) Wasmtime -tags wasmtime ./engines/meter ./engines/wasmtime; } | tee -a $(BIN)/bench-rivals.txt
endif
	$(GO) run ./engines/enginetest/versus/markdown < $(BIN)/bench-rivals.txt

fuzz: ## every fuzz target for FUZZTIME (60s) each
	@for pkg in $$($(GO) list ./...); do \
	  for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
	    echo "$$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1x $$pkg || exit 1; \
	  done; done

diff: ## MODULES (100000) random modules from SEED (0) on, on wazero and wasmer, and on wazero and wasmtime
	.ci/diff $(MODULES) $(SEED)

cross: ## bin/forgeone for every system it is made for
	@for p in $(PLATFORMS); do \
	  echo "$$p"; GOOS=$${p%/*} GOARCH=$${p#*/} $(PURE) -o /dev/null ./cmd/forgeone || exit 1; \
	done

clean: ## remove what was built and the demo's state
	rm -rf $(BIN) var
