#!/usr/bin/env bash
# usage: test/e2e/escapes.sh PROGRAM
#
# On a booted machine with the package's units and user, as root: starts PROGRAM, which
# test/e2e/escapes makes, in the agent's own sandbox, and prints the table of what it tried. The
# unit is keyagent.service as it is installed, drop-ins included, with another program in the
# place of the agent's. Ends with 0 if everything was refused that must be.
set -euo pipefail

program=$(realpath "${1:?usage: test/e2e/escapes.sh PROGRAM}")
unit=keyagent-escapes.service
file=/run/systemd/system/$unit
table=/run/keyagent-escapes.txt

# What is refused must be refused by the sandbox, and not because nothing is there.
bait() {
	local path
	mkdir -p /home/alice /root /srv /var/lib/everybodys
	chmod 0755 /home/alice /srv
	chmod 0777 /var/lib/everybodys
	for path in /home/alice/secret /root/secret /srv/secret /tmp/escapes-was-here; do
		echo bait >"$path"
		chmod 0644 "$path"
	done
}

# The whole [Service] section of the agent and of its drop-ins, but for what makes it the agent.
sandbox() {
	systemctl cat keyagent.service | sed -n '/^\[Service\]/,/^\[\(Install\|Unit\)\]/p' |
		grep -Ev '^(\[|#|Exec|Type=|NotifyAccess=|Sockets=|Restart|Timeout|Watchdog|$)' | grep -v '^Exec\(Start\|Reload\)'
	systemctl cat keyagent.service | grep '^ExecPaths='
}

# shellcheck disable=SC2317 # called by trap
cleanup() { rm -f "$file" "$table"; systemctl daemon-reload; }
trap cleanup EXIT

bait
mkdir -p "${file%/*}"
{
	printf '[Unit]\nDescription=Attempts to leave the sandbox of keyagent\n[Service]\nType=oneshot\n'
	sandbox
	printf 'BindReadOnlyPaths=%s:/usr/bin/keyagent\n' "$program"
	printf 'StandardOutput=truncate:%s\nStandardError=inherit\n' "$table"
	printf 'ExecStart=/usr/bin/keyagent %s /var/lib/keyagent\n' "${ADDRESSES:-}"
} >"$file"
systemctl daemon-reload
status=0
systemctl start "$unit" || status=1
cat "$table"
if [ "$status" -ne 0 ]; then
	systemctl status --no-pager --lines=20 "$unit" || true
	echo "escapes: something was not refused, or something needed was: see the table" >&2
fi
exit "$status"
