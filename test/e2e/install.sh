#!/usr/bin/env bash
# usage: test/e2e/install.sh [SUITE...]
#
# Installs, upgrades, removes and purges the packages in fresh systems of Debian, which have nothing but what
# they must have: bookworm (Debian 12) and trixie (Debian 13) unless others are named, Ubuntu's noble for
# instance, where its mirror is reachable. Installs the rpm into another. DEMO=1 follows README.md in the first, with a
# Go from outside: make demo, and what make test installs.
#
# systemd does not run in these systems; what the scripts do to units is tested in packaging/scripts_test.go and,
# on a machine that boots, by test/e2e/run. It takes root, mmdebstrap and the network, and minutes. What
# is there already of a system is in .cache/e2e.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../../scripts/lib.sh"
# shellcheck source=test/e2e/lib.sh
. "$root/test/e2e/lib.sh"
cd "$root"

cannot() { say "install.sh was NOT run: $*" >&2; exit 77; }
[ "$(id -u)" = 0 ] || cannot "it takes root, for a system's files and for chroot"
command -v mmdebstrap >/dev/null || cannot "mmdebstrap is not installed: apt-get install mmdebstrap"
suites=${*:-bookworm trixie}

store=$cache/e2e
work=$(mktemp -d)
mkdir -p "$store" "$work"
mounted=()
finish() {
	local m
	for m in "${mounted[@]}"; do umount -l "$m" || :; done
	rm -rf --one-file-system "$work"
}
trap finish EXIT

# Two versions of the same, for this machine.
build_packages() {
	local v
	for v in 1 2; do
		VERSION=v0.0.$v ARCHS=$(go env GOHOSTARCH) packaging/build "$work/v$v" >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
		mv "$work/v$v"/*.deb "$work/keyagent-$v.deb"
		mv "$work/v$v"/*.rpm "$work/keyagent-$v.rpm"
	done
}

# system SUITE makes a fresh system in $sys.
system() {
	local tar=$store/$1.tar
	sys=$work/$1
	if [ ! -s "$tar" ]; then
		mmdebstrap --quiet --format=tar --variant=minbase --include=ca-certificates "$1" "$tar.new" || cannot "no system of $1 could be made"
		mv "$tar.new" "$tar"
	fi
	mkdir "$sys"
	tar -xf "$tar" -C "$sys" --exclude=./dev/\*
	cp -L /etc/resolv.conf "$sys/etc/resolv.conf"
	mount --bind /dev "$sys/dev" && mounted+=("$sys/dev")
	mount -t proc proc "$sys/proc" && mounted+=("$sys/proc")
	cp "$work"/keyagent-*.deb "$work"/keyagent-*.rpm "$sys/"
}

in_system() { chroot "$sys" /usr/bin/env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@" </dev/null; }
apt() { in_system apt-get -q -y --no-install-recommends "$@"; }
mode() { [ "$(in_system stat -c '%a %U:%G' "$2")" = "$1" ]; }
there() { [ -e "$sys/$1" ]; }
quiet() { "$@" >"$work/last.log" 2>&1 || { tail -n 20 "$work/last.log"; return 1; }; }
said() { grep -qF -- "$1" "$work/last.log"; }
enabled() { [ -n "$(in_system find /etc/systemd/system -name 'keyagent*')" ]; }

# What an operator and the agent leave there. What is in a key's files does not matter to the scripts.
leave_state() {
	in_system sh -c 'umask 077; mkdir -p /var/lib/keyagent/keys/app; echo key >/var/lib/keyagent/keys/app/1.tss.pem; chown -R keyagent: /var/lib/keyagent
		install -m 640 -g keyagent /usr/share/doc/keyagent/examples/config.yaml /etc/keyagent/config.yaml; echo "# mine" >>/etc/keyagent/config.yaml'
}
state_stays() { grep -q key "$sys/var/lib/keyagent/keys/app/1.tss.pem" && grep -q '# mine' "$sys/etc/keyagent/config.yaml"; }

# What is left of the package, other than the user, and what apt knows.
leftovers() { in_system find / -xdev \( -path /proc -o -path /dev -o -path /var/lib/dpkg -o -path '/var/lib/apt' -o -path '/keyagent-*' -o -path /src \) -prune -o -name '*keyagent*' -print; }

none_left() { ! leftovers | grep .; }

debian() {
	local at="$1:"
	system "$1"
	quiet apt update
	check "$at installs, with what it depends on" quiet apt install /keyagent-1.deb
	check "$at says what comes next" said 'keyagent setup'
	check "$at the program runs" says 'keyagent v0.0.1' in_system keyagent version
	check "$at the user is a member of tss" says tss in_system id -nG keyagent
	check "$at the state is the agent's alone" mode '700 keyagent:keyagent' /var/lib/keyagent
	check "$at the configuration is root's, for the agent to read" mode '750 root:keyagent' /etc/keyagent
	check "$at nothing is enabled" not enabled
	check "$at there is no configuration" not there etc/keyagent/config.yaml
	check "$at the example is valid" in_system keyagent config check --config /usr/share/doc/keyagent/examples/config.yaml
	check "$at dpkg finds no file that differs" in_system dpkg --verify keyagent
	leave_state
	check "$at the agent's user can read the configuration" in_system setpriv --reuid keyagent --regid keyagent --init-groups keyagent config check
	in_system sh -c 'mkdir -p /etc/systemd/system/sockets.target.wants && ln -s /usr/lib/systemd/system/keyagent.socket /etc/systemd/system/sockets.target.wants/'

	check "$at upgrades without a question" quiet apt install /keyagent-2.deb
	check "$at the program is the new one" says 'keyagent v0.0.2' in_system keyagent version
	check "$at keys and configuration are as before" state_stays
	check "$at what was enabled still is" enabled
	check "$at goes back to the version before" quiet apt install --allow-downgrades /keyagent-1.deb
	check "$at installs again" quiet apt install --reinstall /keyagent-1.deb
	check "$at removes" quiet apt remove keyagent
	check "$at a removal keeps keys and configuration" state_stays
	check "$at nothing is enabled after a removal" not enabled

	check "$at installs beside what is there" quiet apt install /keyagent-2.deb
	check "$at says that the configuration is from before" said 'beside a configuration from before'
	check "$at keys and configuration are as before" state_stays
	check "$at purges" quiet apt purge keyagent
	check "$at a purge says that it keeps the keys, and how to have it delete them" said '/etc/keyagent/purge-keys'
	check "$at a purge keeps the keys" there var/lib/keyagent/keys/app/1.tss.pem
	check "$at a purge takes the configuration" not there etc/keyagent

	check "$at installs again" quiet apt install /keyagent-2.deb
	in_system touch /etc/keyagent/purge-keys
	check "$at purges what is to be forgotten" quiet apt purge keyagent
	check "$at the keys are gone" not there var/lib/keyagent
	check "$at nothing is left" none_left
	by_rpm "$at"
}

# rpm on a system that it is not at home on, which it may change all the same.
by_rpm() {
	command -v rpm >/dev/null || { note skipped "$1 rpm is not installed: apt-get install rpm"; return; }
	local rpm=(rpm --root "$sys" --dbpath /var/lib/rpm)
	check "$1 rpm installs" quiet "${rpm[@]}" --nodeps -i "$work/keyagent-1.rpm"
	check "$1 rpm says what comes next" said 'keyagent setup'
	check "$1 rpm made user and state" mode '700 keyagent:keyagent' /var/lib/keyagent
	check "$1 rpm finds no file that differs" "${rpm[@]}" --nodeps -V keyagent
	leave_state
	check "$1 rpm upgrades" quiet "${rpm[@]}" --nodeps -U "$work/keyagent-2.rpm"
	check "$1 rpm has one version" [ "$("${rpm[@]}" -q keyagent)" = "keyagent-0.0.2-1.$(uname -m)" ]
	check "$1 the program is the new one" says 'keyagent v0.0.2' in_system keyagent version
	check "$1 keys and configuration are as before" state_stays
	check "$1 rpm erases" quiet "${rpm[@]}" -e keyagent
	check "$1 keys and configuration stay" state_stays
	check "$1 rpm installs again" quiet "${rpm[@]}" --nodeps -i "$work/keyagent-2.rpm"
	in_system touch /etc/keyagent/purge-keys
	check "$1 rpm erases what is to be forgotten" quiet "${rpm[@]}" -e keyagent
	check "$1 the keys are gone" not there var/lib/keyagent
	rm -rf "$sys/var/lib/rpm"
	check "$1 nothing is left" none_left
}

# What README.md tells a newcomer to do, on a system with git, make and a Go, which they have from go.dev.
follow_readme() {
	quiet apt install git make ca-certificates
	mkdir -p "$sys/usr/local/go" "$sys/root/go/pkg/mod" "$sys/src"
	mount --bind -o ro "$(go env GOROOT)" "$sys/usr/local/go" && mounted+=("$sys/usr/local/go")
	mount --bind "$(go env GOMODCACHE)" "$sys/root/go/pkg/mod" && mounted+=("$sys/root/go/pkg/mod")
	git clone -q . "$sys/src"
	local go=(env "GOPROXY=$(go env GOPROXY)" "GOFLAGS=-buildvcs=false" PATH=/usr/local/go/bin:/usr/sbin:/usr/bin:/sbin:/bin)
	check "$1: make demo" quiet in_system "${go[@]}" make -C /src demo
	check "$1: make test finds what it needs, or installs it" quiet in_system "${go[@]}" sh -c 'cd /src && KEYAGENT_REQUIRE_TOOLS=1 scripts/bootstrap test'
	check "$1: and has nothing to install then" [ -z "$(in_system "${go[@]}" sh -c 'cd /src && scripts/bootstrap test' 2>&1)" ]
}

build_packages
for suite in $suites; do
	debian "$suite"
	if [ "${DEMO:-}" = 1 ] && [ "$suite" = "${suites%% *}" ]; then follow_readme "$suite"; fi
done
table "packages in fresh systems:"
