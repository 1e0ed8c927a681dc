# Everything a newcomer needs is a target here; `make help` explains each one.

# A go command that a distribution packages may be told to stay what it is. Unless the
# environment says so too, the toolchain line of go.mod may fetch the right one.
ifeq ($(origin GOTOOLCHAIN),undefined)
export GOTOOLCHAIN := auto
endif

FUZZTIME ?= 10s
BIN      ?= bin/keyagent
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
COMMIT   ?= $(shell git rev-parse --verify --quiet HEAD 2>/dev/null)

# Nothing in the binary may depend on where, when or by whom it was built.
STATIC  := CGO_ENABLED=0 go build -trimpath -buildvcs=false
LDFLAGS := -s -w -buildid= -X main.version=$(VERSION) -X main.commit=$(COMMIT)

.PHONY: help
help: ## this list
	@echo 'usage: make TARGET        (times: two cores, first run without downloads; later runs are shorter)'
	@echo
	@sed -n 's/^\([a-z0-9]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r t d; do printf '  make %-7s %s\n' "$$t" "$$d"; done

.PHONY: demo
demo: ## the main job against a simulated Azure, and what a thief gets; 1 to 3 minutes
	@scripts/bootstrap demo
	@$(MAKE) --no-print-directory build simulators
	@bin/demo

.PHONY: test
test: ## what CI runs: format, vet, static analysis, race tests, static build; 4 to 12 minutes
	@scripts/bootstrap test
	@scripts/test

.PHONY: bench
bench: ## us beside references, peers and an older build of ours in the same run; rows, and bench/results.json; 12 to 15 minutes
	@scripts/bootstrap bench
	@cd bench && go run . -repo ..

.PHONY: plots
plots: ## docs/performance.md and its plots, drawn from what make bench left; seconds
	@cd bench && go run ./plots

.PHONY: build
build: ## the static production binary bin/keyagent; half a minute
	$(STATIC) -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/keyagent

# The simulated platform needs a C compiler: its TPM is the TCG's reference code.
.PHONY: simulators
simulators:
	CGO_ENABLED=1 go build -buildvcs=false -o bin/azuresim ./simulator/azuresim
	CGO_ENABLED=1 go build -buildvcs=false -o bin/demo ./simulator/demo

.PHONY: package
package: ## dist/: .deb and .rpm for amd64 and arm64, with man pages, completions, SBOM; 1 to 3 minutes
	@packaging/build

.PHONY: e2e
e2e: ## 200 times kill -9, units in booted containers, packages in fresh systems, then an operator's day on a machine that boots, in QEMU (SUITE=trixie: Debian 13); root, 15 to 40 minutes
	@scripts/bootstrap demo
	@test/e2e/kills.sh
	@test/e2e/units.sh || [ $$? = 77 ]
	@test/e2e/install.sh || [ $$? = 77 ]
	@test/e2e/run || [ $$? = 77 ]

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (10s) each; about 15 seconds per target
	@scripts/bootstrap demo
	@FUZZTIME=$(FUZZTIME) scripts/fuzz

.PHONY: mutate
mutate: ## each check of the evidence verifier taken out in turn: its tests must notice; 5 to 10 minutes
	@go run ./attest/internal/mutate -out attest/testdata/mutants.txt

.PHONY: lint
lint: ## vet, staticcheck, golangci-lint, shellcheck and nothing else; 1 to 4 minutes
	@scripts/bootstrap lint
	@LINT=full scripts/test gofmt vet staticcheck golangci-lint shellcheck

.PHONY: fmt
fmt: ## gofmt; seconds
	@find . -name '*.go' -not -path './.cache/*' -print0 | xargs -0 -r gofmt -l -w

.PHONY: clean
clean: ## remove what the targets above made (bin, dist, .cache, bench/results.json, bench/series.json)
	rm -rf bin dist .cache bench/results.json bench/series.json
