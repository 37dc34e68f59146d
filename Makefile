# The targets that the README names, and those for contributors. `make` alone lists them.

BINARY   := bin/caddy-doku
LINTER   := bin/tools/golangci-lint
ARGS     :=
FUZZTIME := 30s
KILLS    := 200
TIMEOUT  :=
PACKAGES := ./...

# What the binary is built from. The folders are there too: their time changes with a file removed.
SOURCES := go.mod go.sum xcaddy.sh tools/go.mod tools/go.sum $(shell find . -mindepth 1 \
	\( -path ./.git -o -path ./bin -o -path ./integration -o -path ./tools -o -name testdata \) -prune \
	-o \( -type d -o -name '*.go' ! -name '*_test.go' \) -print)

# The programs that the tests start are found by their whole path: tests run in their own folders.
export CADDY_DOKU_BIN = $(CURDIR)/$(BINARY)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help build run test test-busy golden check-deploy test-tracing bench race soak fuzz lint fmt vet tidy vuln programs scrapes clean always

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: $(BINARY) ## build bin/caddy-doku, if anything changed

$(BINARY): $(SOURCES)
	@./xcaddy.sh $@

run: $(BINARY) ## take the tour: simulator, sidecar and demo app on this machine (ARGS=--once: leave after it)
	@$(BINARY) doku tour $(ARGS)

test: $(BINARY) programs ## run all tests, those against the built binary too
	go test -count=1 -parallel=4 -timeout=$(or $(TIMEOUT),10m) $(PACKAGES)

test-busy: $(BINARY) programs ## run `make test` and `make race` on a busy machine, and what waits for time 20 times (hours)
	@tools/busy.sh

golden: $(BINARY) ## write testdata/golden anew: the names and the JSON that users rely on
	go test -count=1 ./integration/golden -update
	go test -count=1 -run '^TestMetricsAndAdminAnswersHaveTheSameNamesAsBefore$$' ./integration -update

# DRAW=docs/pictures runs a sidecar for a minute, and draws the dashboard from its metrics.
check-deploy: export CADDY_DOKU_DRAW = $(if $(DRAW),$(abspath $(DRAW)))
check-deploy: export CADDY_DOKU_SCRAPES = $(if $(DRAW),$(CURDIR)/bin/scrapes)
check-deploy: $(if $(DRAW),scrapes) ## check alerts and dashboard, with Prometheus' and Grafana's own packages
	go -C tools/deploy test -mod=readonly -count=1 ./...

scrapes: $(BINARY)
	@rm -rf bin/scrapes && mkdir -p bin/scrapes
	go test -count=1 -timeout=5m -run '^TestAMinuteOfTradeIsScraped$$' ./integration

# DRAW=docs/pictures writes the pictures of the traces anew.
test-tracing: export CADDY_DOKU_DRAW = $(if $(DRAW),$(abspath $(DRAW)))
test-tracing: $(BINARY) programs ## check the traces that arrive at a real Jaeger, if its modules can be downloaded
	@tools/jaeger.sh $(CURDIR)/bin/tools/jaeger go test -count=1 -timeout=5m -run '^TestJaeger' ./integration

bench: $(BINARY) ## measure the cost of signing and verifying beside a plain reverse_proxy (ARGS=-quick: a first look)
	go run ./integration/bench -caddy $(BINARY) $(ARGS)

# The sidecar has the detector too, and stops at the first race, which fails its test.
race: export CADDY_DOKU_BIN = $(CURDIR)/$(BINARY)-race
race: export CGO_ENABLED = 1
race: export GORACE = halt_on_error=1
race: programs ## run all tests with the race detector (needs a C compiler)
	go build -race -buildvcs=false -o $(BINARY)-race ./cmd/caddy
	go test -race -count=1 -parallel=4 -timeout=$(or $(TIMEOUT),30m) $(PACKAGES)

soak: export DOKU_KILLS = $(KILLS)
soak: $(BINARY) programs ## kill sidecars KILLS (200) times under load, on both stores, take Redis away, stop sidecars, damage files, and count lost and doubled payments
	go test -count=1 -timeout=2h -run '^TestNoKillLosesAPayment$$' -v ./integration
	DOKU_DAMAGES=$(KILLS) go test -count=1 -timeout=2h -run '^TestWhateverIsDamagedTheRestIsSaved$$' -v ./internal/inbox/callstore
	go test -count=1 -timeout=2h -run '^TestWhateverHappensToTheInboxInUseNothingHangs$$' -v ./integration
	DOKU_OUTAGES=all go test -count=1 -timeout=2h -parallel=9 -run '^(TestAnOutageOfRedisDoublesNothing|TestAStoppedSidecarLosesNothing)$$' -v ./integration

fuzz: ## look for inputs that break the parsers, FUZZTIME (30s) for each fuzz test
	@grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n 1 dirname | sort -u | while read -r package; do \
		for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$$package"/*_test.go); do \
			echo "$$package $$target"; \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x "$$package" || exit 1; \
		done; \
	done

lint: $(LINTER) ## check the code with the pinned golangci-lint
	$(LINTER) config verify
	$(LINTER) run $(PACKAGES)

fmt: $(LINTER) ## format the code
	$(LINTER) fmt

vet: ## run go vet
	go vet $(PACKAGES)

tidy: ## check that go.mod and go.sum are what the code needs
	go mod tidy -diff

vuln: bin/tools/govulncheck ## look for known vulnerabilities, if their database can be reached
	@tools/vuln.sh $<

programs: # installs the programs that tests start besides the sidecar, if that needs no password
	@tools/programs.sh

clean: ## remove what was built
	rm -rf bin

# `go build` knows better than a file's time whether a tool is the pinned one; it takes half a second.
$(LINTER): always
	@mkdir -p $(@D)
	@go build -C tools/lint -mod=readonly -o "$(CURDIR)/$@" github.com/golangci/golangci-lint/v2/cmd/golangci-lint

bin/tools/govulncheck: always
	@mkdir -p $(@D)
	@go build -C tools -mod=readonly -o "$(CURDIR)/$@" golang.org/x/vuln/cmd/govulncheck
