# shellcheck shell=bash
# Sourced by the other scripts: where things are, and how a pinned tool is had.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# What sourcing scripts use.
# shellcheck disable=SC2034
cache=$root/.cache

# A checkout that belongs to another user makes the go command fail on reading its
# version-control state. Nothing here needs it: versions come from the Makefile.
export GOFLAGS="${GOFLAGS:+$GOFLAGS }-buildvcs=false"

say() { printf '%s\n' "$@"; }

# tool NAME PACKAGE VERSION makes sure that .cache/bin holds the tool in exactly this
# version, prints its path, and returns 1 when it cannot be had (no network, for one).
# What went wrong is left in .cache/bin/NAME.log.
#
# The tool is built with the toolchain that go.mod names: an analyser that was built
# with an older Go refuses newer code.
tool() {
	local name=$1 package=$2 version=$3 bin=$cache/bin
	local path=$bin/$name-$version
	if [ ! -x "$path" ]; then
		mkdir -p "$bin/.new"
		if ! GOTOOLCHAIN=$(cd "$root" && go env GOVERSION) GOBIN=$bin/.new \
			go install "$package@$version" >"$bin/$name.log" 2>&1; then
			return 1
		fi
		mv "$bin/.new/$name" "$path"
	fi
	printf '%s\n' "$path"
}

# tool_present NAME VERSION says whether tool would have nothing to fetch.
tool_present() { [ -x "$cache/bin/$1-$2" ]; }
