#!/usr/bin/env bash
# usage: test/e2e/units.sh [SUITE]...        (as root; SUITE: bookworm, trixie; default: both)
#
# Boots systemd in a container (systemd-nspawn) of each Debian suite, with the units, the user and
# the program of this tree, and the simulated platform, and runs test/e2e/units-inside.sh there:
# restarts under load, configurations that are refused, the watchdog, attempts to leave the sandbox.
# SCENARIOS names those that are run, of the list at the end of that file; default: all.
# IDLE_SECONDS is how long an idle agent is watched: 300. The trees are made once, in .cache/e2e, from Debian's archive. Nothing of this machine is changed.
#
# What a container cannot show (devices, packet filters by BPF, a real TPM) is left to the guest.
set -euo pipefail
cd "$(dirname "$0")/../.."
cache=$PWD/.cache/e2e

die() { printf 'units: %s\n' "$*" >&2; exit 1; }
cannot() { printf 'units: NOT RUN: %s\n' "$*" >&2; exit 77; }

[ "$(id -u)" -eq 0 ] || cannot "it needs root"
for tool in systemd-nspawn mmdebstrap nsenter; do
	command -v "$tool" >/dev/null || cannot "$tool is not installed (apt-get install systemd-container mmdebstrap)"
done

packages=systemd,systemd-sysv,dbus,passwd,curl,procps,iproute2,nftables,python3-minimal,libssl3

tree() { # SUITE: makes the tree of a suite, once
	local suite=$1 with=$packages
	[ "$suite" = bookworm ] || with=${packages/libssl3/libssl3t64}
	[ -e "$cache/$suite/usr/sbin/nft" ] && return
	rm -rf "${cache:?}/$suite" && mkdir -p "$cache"
	echo "units: making a tree of $suite"
	mmdebstrap --quiet --variant=apt --include="$with" "$suite" "$cache/$suite.new" ||
		cannot "no tree of $suite could be made: is Debian's archive in reach?"
	mv "$cache/$suite.new" "$cache/$suite"
}

build() {
	make --no-print-directory -s build BIN="$cache/bin/keyagent" VERSION=e2e
	CGO_ENABLED=1 go build -buildvcs=false -o "$cache/bin/azuresim" ./simulator/azuresim
	CGO_ENABLED=0 go build -buildvcs=false -o "$cache/bin/escapes" ./test/e2e/escapes
}

put_files() { # ROOT: what the package puts there
	local root=$1
	install -m755 "$cache/bin/keyagent" "$root/usr/bin/"
	install -m755 -D -t "$root/opt/e2e" "$cache"/bin/* test/e2e/units-inside.sh test/e2e/units-load.py test/e2e/escapes.sh
	install -m644 -D -t "$root/opt/e2e/dropins" systemd/dropins/*
	install -m644 -t "$root/usr/lib/systemd/system" systemd/units/*
	install -m644 -D -t "$root/usr/lib/sysusers.d" systemd/sysusers.d/*
	install -m644 -D -t "$root/usr/lib/tmpfiles.d" systemd/tmpfiles.d/*
	install -m644 -D -t "$root/usr/lib/systemd/system-preset" systemd/system-preset/*
}

work='' machine=''
cleanup() {
	if [ -n "$machine" ] && kill -0 "$machine" 2>/dev/null; then
		[ -z "$leader" ] || kill -s RTMIN+4 "$leader" 2>/dev/null || true
		for _ in $(seq 50); do kill -0 "$machine" 2>/dev/null || break; sleep 0.1; done
		kill -KILL "$machine" 2>/dev/null || true
		wait "$machine" 2>/dev/null || true
	fi
	if [ -n "$work" ]; then
		umount -l "$work/root" "$work" 2>/dev/null || true
		rmdir "$work" 2>/dev/null || true
	fi
	work='' machine='' leader=''
}
trap cleanup EXIT

boot() { # SUITE: sets leader, the first process of the container
	work=$(mktemp -d)
	mount -t tmpfs -o size=512m tmpfs "$work"
	mkdir "$work"/{upper,work,root}
	mount -t overlay -o "lowerdir=$cache/$1,upperdir=$work/upper,workdir=$work/work" overlay "$work/root"
	put_files "$work/root"
	# With an empty machine id, the container boots for the first time, and presets count.
	: >"$work/root/etc/machine-id"
	SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 systemd-nspawn -q -D "$work/root" --register=no --keep-unit --private-network \
		--system-call-filter='landlock_create_ruleset landlock_add_rule landlock_restrict_self' \
		--console=pipe -b </dev/null >"$cache/$1.console" 2>&1 &
	machine=$!
	leader=''
	for _ in $(seq 300); do
		sleep 0.2
		kill -0 "$machine" 2>/dev/null || break
		leader=$(pgrep -P "$machine" | head -n 1) || continue
		if inside systemctl is-system-running 2>/dev/null | grep -Eq 'running|degraded'; then return; fi
	done
	cat "$cache/$1.console" >&2
	die "$1 has not booted"
}

inside() { nsenter -t "$leader" -m -u -i -n -p -C "$@"; }

suites=("$@")
[ ${#suites[@]} -gt 0 ] || suites=(bookworm trixie)
build
failed=0
for suite in "${suites[@]}"; do
	tree "$suite"
	boot "$suite"
	printf '== %s: %s\n' "$suite" "$(inside systemctl --version | head -n 1)"
	# shellcheck disable=SC2086 # words
	inside env IDLE_SECONDS="${IDLE_SECONDS:-300}" bash /opt/e2e/units-inside.sh ${SCENARIOS:-} || failed=1
	cleanup
done
exit "$failed"
