#!/usr/bin/env bash
# usage: test/e2e/kills.sh [KILLS]        (default: 200)
#
# Kills the agent, and the commands that change its state, at random moments of key creation, rotation,
# renewal and state writing, a quarter of KILLS each; after each kill the next start must serve with
# the last good state. What is killed is the production binary; the platform and its TPM are simulated. A
# line for each kind says how many kills hit unfinished work, and the seed that repeats them
# (KEYAGENT_KILL_SEED=..., as far as a machine repeats anything).
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../../scripts/lib.sh"
cd "$root"

kills=${1:-200}
make --no-print-directory -s build BIN="$cache/bin/keyagent" VERSION=e2e
start=$SECONDS
KEYAGENT_KILLS=$kills KEYAGENT_KILL_PROGRAM=$cache/bin/keyagent \
	go test ./cmd/keyagent -count 1 -timeout 60m -v -run '^TestWhateverIsKilledTheLastGoodStateServes$' >"$cache/kills.log" 2>&1 || {
	cat "$cache/kills.log"
	exit 1
}
grep -o '[a-z ]*: [0-9]* kills, .*' "$cache/kills.log"
echo "$kills times kill -9 in $((SECONDS - start)) s: each next start served with the last good state, and no file was torn"
