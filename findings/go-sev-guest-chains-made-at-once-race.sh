#!/usr/bin/env bash
# go-sev-guest 0.15.0, package testing: two certificate chains that are made at once are a data race.
#
# AmdSignerBuilder makes an ARK, an ASK and a VCEK for tests. Each builder is a value of its own, with keys of
# its own. All of them, and the signers that they make, take their randomness from one math/rand.Rand of the
# package, which is not safe for concurrent use and has no lock. So tests that make a chain each fail under the
# race detector as soon as they run in parallel, and the report points into math/rand.
#
# Expected: values that share nothing that a caller can see can be used by different goroutines, or the
# documentation says that they cannot.
#
# What it means: a test suite for SEV-SNP evidence is not parallel, or has a lock of its own around the builder.
#
# Seen with Go 1.26 on Linux:
#
#   one after the other: no race
#   at once: a data race in math/rand, called by AmdSignerBuilder
#
# Needs Go with a C compiler for the race detector, and the module proxy. Exit status 0 if it is still so, 1 if not.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"

cat >go.mod <<'MOD'
module finding

go 1.24

require github.com/google/go-sev-guest v0.15.0
MOD
cat >main.go <<'GO'
package main

import (
	"fmt"
	"os"
	"sync"
	"time"

	sevtest "github.com/google/go-sev-guest/testing"
)

func makeChain() {
	created := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	b := &sevtest.AmdSignerBuilder{
		Keys: sevtest.DefaultAmdKeys(), ProductName: "Milan-B0",
		ArkCreationTime: created, AskCreationTime: created, AsvkCreationTime: created, VcekCreationTime: created, VlekCreationTime: created,
	}
	if _, err := b.TestOnlyCertChain(); err != nil {
		panic(err)
	}
}

func main() {
	var all sync.WaitGroup
	for range 8 {
		all.Add(1)
		chain := func() {
			defer all.Done()
			makeChain()
		}
		if os.Args[1] == "at once" {
			go chain()
		} else {
			chain()
		}
	}
	all.Wait()
	fmt.Println("made")
}
GO

export GOFLAGS=-mod=mod GOWORK=off CGO_ENABLED=1
go mod tidy >/dev/null 2>&1
go build -race -o chains .

seen=
for how in "one after the other" "at once"; do
	said=$(./chains "$how" 2>&1) || :
	case $said in
	*"DATA RACE"*"math/rand"*AmdSignerBuilder*) seen+="$how: a data race in math/rand, called by AmdSignerBuilder"$'\n' ;;
	*"DATA RACE"*) seen+="$how: another data race"$'\n' ;;
	*) seen+="$how: no race"$'\n' ;;
	esac
done
printf '%s' "$seen"
[ "$seen" = "one after the other: no race
at once: a data race in math/rand, called by AmdSignerBuilder
" ]
