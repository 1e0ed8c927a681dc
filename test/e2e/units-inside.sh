#!/usr/bin/env bash
# shellcheck disable=SC2016 # what stands in single quotes is for another shell
# usage: units-inside.sh [SCENARIO]...        (on the machine that test/e2e/units.sh has booted)
#
# Runs the scenarios of the units on a machine whose first process is systemd, and prints a line for
# each thing that was looked at. Ends with 1 if any was not as it should be.
set -uo pipefail
cd /opt/e2e || exit 1

failed=0 looked=0
ok() { looked=$((looked + 1)); printf 'ok    %s\n' "$1"; }
no() { looked=$((looked + 1)); failed=$((failed + 1)); printf 'FAIL  %s\n' "$1"; shift; [ $# -eq 0 ] || printf '      %s\n' "$@"; }
check() { # WHAT COMMAND...: the command succeeds
	local what=$1 said
	shift
	if said=$("$@" 2>&1); then ok "$what"; else no "$what" "$* ended with $?" "$said"; fi
}
refuses() { # WHAT COMMAND...: it does not
	local what=$1 said
	shift
	if said=$("$@" 2>&1); then no "$what" "$* did not fail" "$said"; else ok "$what"; fi
}
is() { # WHAT GOT WANT
	if [ "$2" = "$3" ]; then ok "$1"; else no "$1" "got \"$2\", want \"$3\""; fi
}
has() { # WHAT TEXT PART
	case $2 in *"$3"*) ok "$1" ;; *) no "$1" "\"$2\" has no \"$3\"" ;; esac
}
within() { # SECONDS COMMAND...: until it succeeds
	local until=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ "$SECONDS" -lt "$until" ] || return 1
		sleep 0.1
	done
}
show() { systemctl show --value -p "$1" "${2:-keyagent.service}"; }
log() { journalctl -q -o cat _SYSTEMD_INVOCATION_ID="$(show InvocationID)"; }
dropin() { # NAME LINE...: "" LINE removes it
	local file=/run/systemd/system/keyagent.service.d/$1.conf
	shift
	mkdir -p "${file%/*}"
	if [ $# -eq 0 ]; then rm -f "$file"; else printf '%s\n' '[Service]' "$@" >"$file"; fi
	systemctl daemon-reload
}
as_app() { setpriv --reuid app --regid app --init-groups "$@"; }
token() { keyagent token --identity vm --resource https://vault.azure.net --output json; }
answers() { token | grep -q access_token; }
status_of() { curl -s -o /dev/null -w '%{http_code} %header{retry-after}' --max-time 20 --unix-socket /run/keyagent/agent.sock 'http://agent/v1/token?identity=vm&resource=https%3A%2F%2Fvault.azure.net'; }

config=/etc/keyagent/config.yaml
good_config() { # what azuresim has written, for this machine, with more settings from standard input
	{
		sed -e '/^state_dir:/d; /^socket:/d; /^endpoints:/d; /^  app_service: {listen/d; /^  imds: {listen/d; /- name: app-fic/,/^rules:/{/^rules:/!d}' \
			-e 's/, app-fic, app-cert//; s/users: \["root"\]/users: ["root", "keyagent"]/' /opt/sim/keyagent.yaml
		cat <<-'E'
			  - name: unit
			    units: [web.service]
			    users: [app]
			    identities: [vm]
			    resources: ["https://vault.azure.net"]
		E
		cat
	} >$config.new
	chgrp keyagent $config.new && chmod 0640 $config.new && mv $config.new $config
}

platform() {
	ip link set lo up
	getent passwd app >/dev/null || useradd -r app
	mkdir -p /opt/sim
	systemd-run -q --unit=azuresim.service /opt/e2e/azuresim --dir /opt/sim
	within 30 test -e /opt/sim/azuresim.json || { no "azuresim has started"; exit 1; }
	chmod a+rX /opt/sim /opt/sim/*.pem && chmod a+rw /opt/sim/tpm.sock
}

unconfigured() {
	echo "-- a machine without a configuration"
	is "nothing is enabled" "$(systemctl is-enabled keyagent.service keyagent.socket keyagent-imds.socket 2>/dev/null | sort -u)" disabled
	check "the socket starts" systemctl enable --now keyagent.socket
	local said
	said=$(status_of)
	has "who asks is told to come back" "$said" "503 5"
	is "the service is up, and does not loop" "$(show ActiveState) $(show NRestarts)" "active 0"
	has "systemctl status says that nothing is served" "$(show StatusText)" "serving nothing: the configuration cannot be used"
	has "the log says why" "$(log)" "no configuration at $config"
	has "the status says why to root" "$(keyagent status 2>&1)" "no configuration at $config"
	refuses "a reload fails as well" systemctl reload keyagent.service
	good_config </dev/null
	check "a reload takes the configuration that is there now" systemctl reload keyagent.service
	check "tokens are served" answers
	has "systemctl status says so" "$(show StatusText)" "serving: 2 identities"
	is "all in one process" "$(show NRestarts)" 0
}

reloads() {
	echo "-- reload"
	good_config <<<"nonsense: true"
	refuses "a configuration that is refused fails the reload" systemctl reload keyagent.service
	has "with the reason" "$(journalctl -q -o cat -u keyagent.service -n 20)" "the configuration was refused, and the one before stays in force"
	is "the service stays" "$(show ActiveState)/$(show SubState)" active/running
	check "the one before serves on" answers
	has "systemctl status says that it was refused, and not why" "$(show StatusText)" "the last reload was refused, and the log says why"
	check "a restart with it succeeds" systemctl restart keyagent.service
	has "and serves nothing" "$(status_of)" "503 5"
	is "without a loop" "$(show NRestarts)" 0
	good_config </dev/null
	check "it is cured by a reload" systemctl reload keyagent.service
	check "tokens are served again" answers
}

credentials() {
	echo "-- credentials"
	good_config <<<'proxy: {url: "http://127.0.0.1:9", credential: keyagent.proxy}'
	check "a credential that is missing stops nothing" systemctl restart keyagent.service
	has "nothing is served" "$(status_of)" "503 5"
	has "the log names it" "$(log)" "keyagent.proxy"
	is "the socket stays" "$(systemctl is-active keyagent.socket)" active
	mkdir -p /etc/credstore && (umask 077 && echo user:secret >/etc/credstore/keyagent.proxy)
	check "with the credential it starts" systemctl restart keyagent.service
	has "and serves" "$(show StatusText)" "serving: 2 identities"
	rm /etc/credstore/keyagent.proxy
	good_config </dev/null
	check "without either, it starts" systemctl restart keyagent.service
}

load() { # WHAT COMMAND: the command runs under load, and no connection is refused
	local said status
	rm -f /run/load.stop
	python3 /opt/e2e/units-load.py /run/keyagent/agent.sock /run/load.stop 8 >/run/load.txt &
	local loader=$!
	sleep 0.5
	"$2" >/run/load.err 2>&1 || no "$1: the command" "$(cat /run/load.err)" "$(journalctl -q -o short-precise -u keyagent.service -n 400 | grep -v '"msg":"answer"' | tail -n 25 | cut -c1-220)"
	touch /run/load.stop
	wait "$loader"
	status=$?
	said=$(cat /run/load.txt)
	if [ "$status" -eq 0 ]; then ok "$1: $said"; else no "$1: $said"; fi
}
restart20() { for _ in $(seq 20); do systemctl restart keyagent.service || return; done; }
kill20() {
	local pid
	for _ in $(seq 20); do
		pid=$(show MainPID)
		[ "$pid" = 0 ] || kill -KILL "$pid" 2>/dev/null
		within 15 answers || return
	done
}

restarts() {
	echo "-- restarts under load"
	local inode
	inode=$(stat -c %i /run/keyagent/agent.sock)
	load "20 restarts refuse nobody" restart20
	is "the socket is the same" "$(stat -c %i /run/keyagent/agent.sock)" "$inode"
	kill20 || no "20 times kill -9: it came back each time"
	is "the socket stays" "$(systemctl is-active keyagent.socket)" active
	check "tokens are served" answers
}

crashes() {
	echo "-- a crash loop"
	dropin crash 'ExecStart=' 'ExecStart=/usr/bin/keyagent serve --no-such-flag'
	systemctl restart keyagent.service 2>/dev/null
	status_of >/run/waited.txt &
	local waiting=$!
	sleep 8
	has "the service is started again and again" "$(show NRestarts | sed 's/^[4-9]$/some/; s/^[1-9][0-9]$/some/')" some
	is "the socket listens all the time" "$(systemctl is-active keyagent.socket)" active
	dropin crash
	check "it ends with the cause" within 10 answers
	wait "$waiting"
	has "who waited is answered" "$(cat /run/waited.txt)" "200"
}

watchdog() {
	echo "-- the watchdog"
	dropin watchdog WatchdogSec=2 TimeoutAbortSec=2
	systemctl restart keyagent.service
	check "it is fed" within 10 sh -c '[ "$(systemctl show --value -p WatchdogTimestampMonotonic keyagent.service)" != 0 ]'
	sleep 5
	is "and nothing is killed" "$(show NRestarts)" 0
	kill -STOP "$(show MainPID)"
	check "an agent that stands still is killed and started again" within 15 sh -c '[ "$(systemctl show --value -p NRestarts keyagent.service)" -ge 1 ]'
	has "by the watchdog" "$(journalctl -q -o cat -u keyagent.service -n 4000)" "Watchdog timeout"
	check "tokens are served" within 15 answers
	dropin watchdog
	systemctl restart keyagent.service
}

faces() {
	echo "-- sockets that are enabled, and those that are not"
	is "a socket that is not enabled is not opened" "$(systemctl is-active keyagent-app-service.socket)" inactive
	good_config <<<'endpoints: {app_service: {listen: "127.0.0.1:840"}, admin: {socket: /run/keyagent/admin.sock}}'
	systemctl restart keyagent.service
	has "what is configured without a socket is named" "$(show StatusText)" "off, since systemd passes no socket: admin, app-service"
	systemctl enable -q keyagent-app-service.socket keyagent-admin.socket
	systemctl restart keyagent.service
	is "a restart opens what was enabled" "$(systemctl is-active keyagent-app-service.socket keyagent-admin.socket | sort -u)" active
	has "all is served" "$(show StatusText)" "serving: 2 identities, 2 rules"
	check "administrators have a socket of their own" keyagent status --socket /run/keyagent/admin.sock
	check "a reload goes by it" systemctl reload keyagent.service
	systemctl enable -q keyagent-imds.socket
	systemctl restart keyagent.service
	has "a socket that nothing is configured for disconnects" "52 56" "$(curl -s -o /dev/null --max-time 5 http://127.0.0.1:841/; echo $?)"
	systemctl disable -q --now keyagent-imds.socket 2>/dev/null
}

callers() {
	echo "-- callers by their unit"
	refuses "a user whom no rule names gets nothing" as_app keyagent token --identity vm --resource https://vault.azure.net
	check "in its unit it gets a token" systemd-run -q --wait --pipe --unit=web.service -p User=app \
		keyagent token --identity vm --resource https://vault.azure.net --output json
	refuses "and in another unit none" systemd-run -q --wait --pipe --unit=other.service -p User=app \
		keyagent token --identity vm --resource https://vault.azure.net
	check "also over loopback, unmodified" systemd-run -q --wait --pipe --unit=web.service -p User=app \
		keyagent exec --identity vm -- sh -c 'curl -sf -H "X-IDENTITY-HEADER: $IDENTITY_HEADER" "$IDENTITY_ENDPOINT?api-version=2019-08-01&resource=https://vault.azure.net" | grep -q access_token'
}

# What a program asks IMDS, as a user.
imds() { setpriv --reuid "$1" --regid "$1" --init-groups curl -s --max-time 20 -H Metadata:true \
	'http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net'; }

takeover() {
	echo "-- 169.254.169.254 is taken over for chosen users"
	getent passwd chosen >/dev/null || useradd -r chosen
	# The platform is on another machine, so that ways past the firewall would lead to it.
	ip netns add cloud
	ip link add cloud type veth peer name vm netns cloud
	ip address add 192.0.2.1/30 dev cloud && ip link set cloud up
	ip -n cloud address add 192.0.2.2/30 dev vm && ip -n cloud link set vm up && ip -n cloud link set lo up
	ip -n cloud address add 169.254.169.254/32 dev lo
	ip route add 169.254.169.254 via 192.0.2.2
	systemd-run -q --unit=imds.service ip netns exec cloud python3 -c "
import socket
s = socket.create_server(('169.254.169.254', 80))
while True:
    c = s.accept()[0]
    c.recv(65536)
    c.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 12\r\nConnection: close\r\n\r\nthe platform')
    c.close()"
	check "the platform answers" within 10 curl -sf --max-time 5 http://169.254.169.254/
	good_config <<-'E'
		  - {name: chosen, users: [chosen], identities: [vm], resources: ["https://vault.azure.net"]}
		endpoints: {takeover: {listen: "127.0.0.1:842", users: [chosen]}}
	E
	systemctl enable -q keyagent-takeover.socket
	systemctl restart keyagent.service
	is "before, it answers everybody" "$(imds chosen)" "the platform"
	check "the firewall's file is written" sh -c 'keyagent takeover print >/etc/keyagent/takeover.nft'
	check "the unit loads it" systemctl enable -q --now keyagent-takeover.service
	has "before programs start" "$(show Before keyagent-takeover.service)" sysinit.target
	has "a chosen user gets the agent's token" "$(imds chosen)" '"access_token":"'
	is "another user the platform" "$(imds app)" "the platform"
	is "so does the agent itself" "$(imds keyagent)" "the platform"
	check "takeover check finds it in order" keyagent takeover check
	check "and so it does as one of the users" setpriv --reuid chosen --regid chosen --init-groups keyagent takeover check
	systemctl kill -s KILL keyagent.service
	has "a user whose agent was killed waits for the next" "$(imds chosen)" '"access_token":"'
	nft flush ruleset
	refuses "a firewall that was flushed is noticed" keyagent takeover check
	check "and loaded again by a reload" systemctl reload keyagent-takeover.service
	has "which takes over again" "$(imds chosen)" '"access_token":"'
	systemctl disable -q --now keyagent-takeover.service
	has "to stop the unit changes nothing" "$(imds chosen)" '"access_token":"'
	nft delete table inet keyagent_takeover
	is "to delete the table ends it" "$(imds chosen)" "the platform"
	systemctl disable -q --now keyagent-takeover.socket 2>/dev/null
	systemctl stop imds.service
	ip link del cloud
	ip netns del cloud
}

environment() {
	echo "-- a unit has the environment of keyagent env"
	good_config <<<'endpoints: {app_service: {listen: "127.0.0.1:840"}}'
	systemctl enable -q keyagent-app-service.socket
	systemctl restart keyagent.service
	local unit=/run/systemd/system/web.service
	cat >/opt/e2e/ask-app-service <<-'E'
		#!/bin/sh
		exec curl -s -o /dev/null -w '%{http_code}' --max-time 20 -H "X-IDENTITY-HEADER: $IDENTITY_HEADER" "$IDENTITY_ENDPOINT?api-version=2019-08-01&resource=https://vault.azure.net"
	E
	chmod 755 /opt/e2e/ask-app-service
	printf '%s\n' '[Service]' 'User=app' 'ExecStart=/bin/sh -c "/opt/e2e/ask-app-service >/run/web/first; until test -e /opt/e2e/again; do sleep 0.2; done; /opt/e2e/ask-app-service >/run/web/second; sleep 60"' >$unit
	mkdir -p $unit.d
	keyagent env --identity vm --drop-in web.service >$unit.d/50-keyagent.conf
	systemctl daemon-reload
	check "the unit starts with its drop-in" systemctl start web.service
	check "its program has asked" within 20 test -s /run/web/first
	is "and has got a token" "$(cat /run/web/first)" 200
	is "its environment is nobody else's to read" "$(stat -c '%a %U' "$(sed -n 's/^EnvironmentFile=-\{0,1\}//p' $unit.d/50-keyagent.conf)")" "600 app"
	systemctl restart keyagent.service
	touch /opt/e2e/again
	check "after a restart of the agent it asks again" within 20 test -s /run/web/second
	is "with the same secret" "$(cat /run/web/second)" 200
	cp "$(sed -n 's/^EnvironmentFile=-\{0,1\}//p' $unit.d/50-keyagent.conf)" /run/stolen.env
	is "another unit of the user gets nothing by it" "$(systemd-run -q --wait --pipe --unit=other.service -p User=app -p EnvironmentFile=/run/stolen.env /opt/e2e/ask-app-service)" 403
	systemctl stop web.service
	is "nor does it itself, once it has ended" "$(systemd-run -q --wait --pipe --unit=web2.service -p User=app -p EnvironmentFile=/run/stolen.env /opt/e2e/ask-app-service)" 403
	rm -rf /run/stolen.env $unit $unit.d /opt/e2e/again
	systemctl daemon-reload
}

limits() {
	echo "-- what it says before it fails"
	dropin limits 'RestrictAddressFamilies=' 'RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6' 'ProtectControlGroups=yes'
	good_config </dev/null
	systemctl restart keyagent.service
	has "no netlink" "$(log)" "callers over loopback are not known"
	dropin limits
	sed -i 's|^tpm: .*|tpm: "device:/dev/tpmrm0"|' $config
	systemctl restart --no-block keyagent.service
	check "no TPM" within 10 sh -c 'journalctl -q -o cat -u keyagent.service | grep -q "the TPM cannot be used"'
	is "the socket stays meanwhile" "$(systemctl is-active keyagent.socket)" active
	good_config </dev/null
	systemctl restart keyagent.service
	check "tokens are served" within 10 answers
}

second_wall() {
	echo "-- Landlock, the second wall"
	systemctl restart keyagent.service
	has "the agent confines itself" "$(log)" "the agent writes in its own directories only from now on (Landlock)"
	check "tokens are served, a reload works" systemctl reload keyagent.service
	dropin landlock CapabilityBoundingSet=CAP_SYS_PTRACE AmbientCapabilities=CAP_SYS_PTRACE
	systemctl restart keyagent.service
	has "but for an agent that must see programs" "$(log)" "Landlock is not used"
	dropin landlock
	systemctl restart keyagent.service
}

newer() {
	echo "-- drop-ins"
	local name
	for name in 10-executable-rules 20-no-internet 30-systemd-257; do
		cp "dropins/$name.conf" /run/systemd/system/keyagent.service.d/
		systemctl daemon-reload
		check "with $name.conf it starts" systemctl restart keyagent.service
		check "and serves" within 10 answers
		rm "/run/systemd/system/keyagent.service.d/$name.conf"
	done
	systemctl daemon-reload
	systemctl restart keyagent.service
}

# What an agent costs that nobody asks. CPU time is what the kernel's scheduler counts, of all threads.
idle() {
	local seconds=${IDLE_SECONDS:-300} pid cpu switches rss now before awake=0
	echo "-- $seconds seconds without requests"
	systemctl restart keyagent.service
	check "tokens are served" within 10 answers
	sleep 15 # the start is over
	pid=$(show MainPID)
	cpu=$(cpu_of "$pid") switches=$(switches_of "$pid")
	before=$switches
	for _ in $(seq "$seconds"); do
		sleep 1
		now=$(switches_of "$pid")
		[ "$now" = "$before" ] || awake=$((awake + 1))
		before=$now
	done
	is "it is the same process" "$(show MainPID)" "$pid"
	cpu=$(($(cpu_of "$pid") - cpu)) switches=$(($(switches_of "$pid") - switches))
	rss=$(($(awk '/^VmRSS:/ { print $2 }' "/proc/$pid/status") * 1024))
	printf '      %d us of CPU time (%d allowed), awake in %d seconds, %d context switches, %d bytes resident, of which anonymous: %s\n' \
		"$((cpu / 1000))" "$((seconds * 200))" "$awake" "$switches" "$rss" "$(awk '/^RssAnon:/ { print $2, $3 }' "/proc/$pid/status")"
	check "CPU time is at most 0.02 %" [ "$cpu" -le $((seconds * 200000)) ]
	check "18 MB are resident at most" [ "$rss" -le 18000000 ]
	# Its timers: what is to be renewed is looked at every 10 seconds, the watchdog's look is once a minute, and
	# garbage is collected every two minutes and then given back bit by bit.
	check "nothing wakes it but its timers: it is awake in a fifth of the seconds at most" [ "$awake" -le $((seconds / 5)) ]
}
cpu_of() { cat /proc/"$1"/task/*/schedstat | awk '{ n += $1 } END { print n }'; }
switches_of() { cat /proc/"$1"/task/*/status | awk '/ctxt_switches:/ { n += $2 } END { print n }'; }

sandbox() {
	echo "-- attempts to leave the sandbox"
	bash /opt/e2e/escapes.sh /opt/e2e/escapes
	is "all were refused" $? 0
}

ends() {
	echo "-- the end"
	check "the service stops" systemctl stop keyagent.service
	is "cleanly" "$(show Result)" success
	is "the socket file stays" "$(stat -c %F /run/keyagent/agent.sock)" socket
	check "who connects starts it again" answers
}

scenarios=("$@")
[ $# -gt 0 ] || scenarios=(reloads credentials restarts crashes watchdog faces callers takeover environment limits second_wall newer sandbox idle ends)
platform
unconfigured
for scenario in "${scenarios[@]}"; do "$scenario"; done
printf '%s: %d passed, %d failed\n' "$(systemctl --version | sed -n 's/^systemd \([0-9]*\).*/systemd \1/p')" $((looked - failed)) "$failed"
[ "$failed" -eq 0 ]
