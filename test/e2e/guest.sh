#!/bin/bash
# What test/e2e/run has the machine do, as root: the day of an operator and of the programs. It runs once for each
# boot; the second begins where the first ended.
#
# The cloud is on the host: it has the identities, the authority, the TPM and the journal of all that was asked of
# it, and it outlives a boot.
# shellcheck disable=SC2317,SC1091,SC2154
. /payload/lib.sh
. /payload/cloud.env # IMDS_PORT PORTS RESOURCE API CONTROL LAST

memo=/var/lib/e2e/memo # what the next boot is to know
mkdir -p "$memo"
sock=/run/keyagent/agent.sock
state() { systemctl show -P "$1" "${2:-keyagent.service}"; }
until_() {
	local end=$((SECONDS + 120))
	while [ $SECONDS -lt $end ]; do
		"$@" >/dev/null 2>&1 && return
		sleep 0.3
	done
	"$@"
}
serving() { [ "$(state ActiveState)" = active ] && keyagent status; }
status() { keyagent status --json | jq -r "$1"; }
thumbprint() { as_web token --identity vm --resource "$RESOURCE" | jq -r .binding.thumbprint; }
issued() { curl -sS "$CONTROL/journal?operation=imds.issuecredential" | jq length; }
installed() { dpkg-query -W -f '${Version}' keyagent 2>/dev/null; }

# as_web runs keyagent as the service that has a rule, in a unit of its name.
as_web() { in_unit web.service keyagent "$@"; }
in_unit() {
	local unit=$1
	shift
	systemd-run --quiet --pipe --wait --collect --unit="$unit" -p User=www "$@" </dev/null
}

loopback_to_host() {
	cat >/etc/systemd/system/cloud.service <<-END
		[Unit]
		Description=The way to the simulated cloud, which is on the host
		DefaultDependencies=no
		After=systemd-udev-settle.service systemd-modules-load.service local-fs.target
		Wants=systemd-udev-settle.service
		Before=sockets.target
		[Service]
		Type=forking
		ExecStart=/bin/bash -c 'ip link set lo up; ip link set eth0 up; ip addr replace 10.0.2.15/24 dev eth0; ip addr replace 169.254.169.254/32 dev lo; \
			for p in $PORTS; do socat TCP-LISTEN:\$p,bind=127.0.0.1,fork,reuseaddr TCP:10.0.2.2:\$p & done; \
			socat TCP-LISTEN:80,bind=169.254.169.254,fork,reuseaddr TCP:10.0.2.2:$IMDS_PORT &'
		[Install]
		WantedBy=sysinit.target
	END
	systemctl daemon-reload
	systemctl enable --now cloud.service
	until_ curl -sS -o /dev/null "$CONTROL/journal"
}

# --- The operator's first five minutes ---------------------------------------------------------

install_package() {
	useradd --system www
	tpm2_getcap handles-persistent | sort >"$memo/handles"
	check "the package installs" dpkg -i /payload/keyagent-1.deb
	check "nothing of it runs" not systemctl --quiet is-active keyagent.service keyagent.socket
	check "nothing of it is enabled" [ -z "$(systemctl list-unit-files --state=enabled --no-legend 'keyagent*')" ]
	check "the service's user may open the TPM" runuser -u keyagent -- test -w /dev/tpmrm0
}

first_token() {
	local start=$SECONDS
	check "setup looks at the machine and writes a configuration" \
		keyagent setup --base /payload/base.yaml --user www --unit web.service --unit load.service --resource "$RESOURCE" --app-service --yes
	check "the service starts" systemctl enable --now keyagent.socket keyagent-app-service.socket keyagent.service
	until_ serving
	check "it is ready, and says so" says ready systemctl status keyagent.service
	check "the first token, for the service that the rule names" says access_token as_web token --identity vm --resource "$RESOURCE"
	note "" "  $((SECONDS - start)) s from setup to the first token, under emulation"
	check "it is attested, and bound to a key in this TPM" attested
	check "the same user outside of that unit gets none" exits 3 runuser -u www -- keyagent token --identity vm --resource "$RESOURCE"
	check "another unit of the same user gets none" exits 3 in_unit other.service keyagent token --identity vm --resource "$RESOURCE"
	check "an unmodified program gets one by the protocol of App Service" \
		in_unit web.service env "RESOURCE=$RESOURCE" "API_URL=$API/secrets?api-version=7.4" CA_FILE=/payload/ca.pem keyagent exec --identity vm -- /payload/sdk
	[ -n "$QUICK" ] || check "a program with Azure's SDK for Go gets one, unmodified and unprivileged, by its unit" \
		says '"token":"ey' in_unit web.service keyagent exec --identity vm -- /payload/azidentity azidentity "$RESOURCE"
	[ -n "$QUICK" ] || check "and in another unit it gets none" not says '"token":"ey' in_unit other.service keyagent exec --identity vm -- /payload/azidentity azidentity "$RESOURCE"
	check "doctor finds nothing wrong" runuser -u keyagent -- keyagent doctor
	check "the sandbox is as tight as promised" systemd-analyze security --threshold=16 keyagent.service
	thumbprint >"$memo/thumbprint"
	issued >"$memo/issued"
}

attested() { [ "$(as_web token --identity vm --resource "$RESOURCE" | jq -r '"\(.strength) \(.bound)"')" = "attested true" ]; }

exits() {
	local want=$1 got=0
	shift
	"$@" || got=$?
	[ "$got" = "$want" ] || { echo "exit code $got"; return 1; }
}

# --- Reload -------------------------------------------------------------------------------------

reload() {
	local config=/etc/keyagent/config.yaml
	cp -p $config /root/config.good
	echo 'no_such_setting: 1' >>$config
	check "a reload of a wrong configuration fails" not systemctl reload keyagent.service
	check "and tells why" says no_such_setting journalctl -u keyagent.service --no-pager
	check "and the configuration before stays in force" says access_token as_web token --identity vm --resource "$RESOURCE"
	cat /root/config.good >$config
	sed -i "/^rules:/a\\  - {name: other, users: [www], units: [other.service], identities: [vm], resources: [\"$RESOURCE\"], fresh: true}" $config
	check "a reload of a good one takes" systemctl reload keyagent.service
	check "a rule that it brings is in force" says access_token in_unit other.service keyagent token --identity vm --resource "$RESOURCE"
}

# --- Restarts, upgrades and crashes under load -----------------------------------------------------

start_load() {
	systemd-run --quiet --unit=load.service -p User=www -p StandardOutput=truncate:/run/load.txt -p StandardError=inherit \
		/payload/load $sock vm "$RESOURCE"
	sleep 2
}

stop_load() {
	sleep 2
	systemctl stop load.service
	sed 's/^/    /' /run/load.txt
	note "" "  $(awk '{ printf "%s%s: %s", sep, $1, $2; sep = ", " }' /run/load.txt)"
}

counted() { awk -v k="$1" '$1 == k { n = $2 } END { print n + 0 }' /run/load.txt; }
none() { [ "$(counted "$1")" = 0 ] || { grep "^$1" /run/load.txt; return 1; }; }

under_load() {
	local i inode
	inode=$(stat -c %i $sock)
	start_load
	for i in $(seq 20); do systemctl restart keyagent.service || echo "restart $i failed"; done
	stop_load
	check "20 restarts under load: no connection is refused" none refused
	check "20 restarts under load: no request is broken off" none broken
	check "20 restarts under load: each is answered, or told when to come back" none failed
	check "20 restarts under load: there was a load" [ "$(counted answered)" -gt 20 ]

	start_load
	for i in $(seq 2 "$LAST"); do dpkg -i "/payload/keyagent-$i.deb" || echo "upgrade $i failed"; done
	stop_load
	check "$((LAST - 1)) upgrades under load: no connection is refused" none refused
	check "$((LAST - 1)) upgrades under load: no request is broken off" none broken
	check "$((LAST - 1)) upgrades under load: each is answered, or told when to come back" none failed
	check "the new version serves" [ "$(status .version)" = "v0.0.$LAST" ]
	check "the socket is the same one all the time" [ "$(stat -c %i $sock)" = "$inode" ]
	check "the key is the same, and nothing was issued anew" same_key
}

same_key() {
	local now
	now="$(thumbprint) $(issued)"
	echo "now $now"
	[ -s "$memo/thumbprint" ] && [ "$now" = "$(cat "$memo/thumbprint") $(cat "$memo/issued")" ]
}

killed() {
	kill -9 "$(state MainPID)"
	check "after kill -9, it is back" until_ serving
	check "after kill -9, the key is the same, and nothing was issued anew" same_key
}

crashes() {
	local pid i
	start_load
	for i in $(seq 30); do
		pid=$(state MainPID)
		[ "$pid" = 0 ] || kill -9 "$pid"
		sleep "0.$((RANDOM % 9))"
	done
	until_ serving
	stop_load
	check "30 times kill -9: no connection is refused" none refused
	check "30 times kill -9: the service is back" serving
	check "30 times kill -9: the socket listens" systemctl --quiet is-active keyagent.socket
	check "30 times kill -9: the key is the same, and nothing was issued anew" same_key
}

# --- The machine misbehaves ---------------------------------------------------------------------

shared_tpm() {
	local i others working=yes
	for i in 1 2 3; do
		(for _ in 1 2 3 4; do tpm2_createprimary -Q -C o -c "/run/other-$i.ctx" && tpm2_getrandom --hex 8 >/dev/null && tpm2_flushcontext -t || exit 1; done) &
		others+=" $!"
	done
	check "the TPM is shared with tpm2-tools: the agent signs meanwhile" runuser -u keyagent -- keyagent key create beside --algorithm ecdsa-p256
	for i in $others; do wait "$i" || working=no; done
	check "the TPM is shared with tpm2-tools: they work, too" [ "$working" = yes ]
	check "the agent serves afterwards" serving
	encrypted_disk
}

# encrypted_disk is what else uses the TPM on such a machine: a disk that it unlocks.
encrypted_disk() {
	local disk=/var/tmp/luks attach
	attach=$(command -v systemd-cryptsetup || echo /lib/systemd/systemd-cryptsetup)
	truncate -s 32M $disk
	echo -n password >/run/luks.password
	modprobe -a loop dm-crypt
	check "a disk is encrypted" cryptsetup luksFormat --batch-mode --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 $disk /run/luks.password
	check "systemd-cryptenroll binds it to the TPM, while the agent serves" env "PASSWORD=password" systemd-cryptenroll --tpm2-device=auto --tpm2-pcrs=7 $disk
	check "the agent signs with the TPM afterwards" runuser -u keyagent -- keyagent key create besides --algorithm ecdsa-p256
	check "the TPM unlocks the disk, while the agent serves" "$attach" attach e2e-disk $disk none tpm2-device=auto,headless=true
	check "and it is open" test -b /dev/mapper/e2e-disk
	"$attach" detach e2e-disk
	rm -f $disk
	check "the agent serves beside it" serving
}

tpm_gone() {
	echo "@host tpm-gone"
	sleep 2
	check "the TPM is gone: others see it, too" not tpm2_getrandom --hex 8
	check "the TPM is gone: tokens in memory are served" says access_token as_web token --identity vm --resource "$RESOURCE"
	check "the TPM is gone: a command that needs it fails" not runuser -u keyagent -- keyagent key create nowhere --algorithm ecdsa-p256
	local pid
	pid=$(state MainPID)
	echo "@host tpm-back"
	sleep 2
	check "the TPM is back: others work" until_ tpm2_getrandom --hex 8
	check "the TPM is back: the agent signs again, without a restart" until_ in_unit other.service keyagent token --identity vm --resource "$RESOURCE" --force-refresh
	check "it is the same process" [ "$(state MainPID)" = "$pid" ]
	check "the key is the same, and nothing was issued anew" same_key
}

troubles() {
	echo "@host tpm-pause 6"
	sleep 1
	check "while the TPM does not answer, tokens in memory are served" says access_token as_web token --identity vm --resource "$RESOURCE"
	sleep 8
	check "the TPM answers again, without a restart" runuser -u keyagent -- keyagent key show
	tpm_gone

	fallocate -l "$(($(df --output=avail -B1 / | tail -n 1) - 4096))" /var/tmp/full 2>/dev/null
	cat /dev/zero >/var/tmp/full2 2>/dev/null
	check "the disk is full: tokens are served" says access_token as_web token --identity vm --resource "$RESOURCE"
	check "the disk is full: the service starts" systemctl restart keyagent.service
	check "the disk is full: it serves, too" until_ serving
	rm -f /var/tmp/full /var/tmp/full2
	check "nothing was torn by it" same_key

	mount -o remount,ro /
	check "the disk is read-only: tokens are served" says access_token as_web token --identity vm --resource "$RESOURCE"
	mount -o remount,rw /

	date -s '+2 hours' >/dev/null
	check "the clock jumps ahead: tokens are served" says access_token as_web token --identity vm --resource "$RESOURCE"
	date -s '-2 hours' >/dev/null
	check "and back" says access_token as_web token --identity vm --resource "$RESOURCE"
	check "nothing was issued anew for it" same_key
}

escapes() {
	[ -x /payload/escapes ] || { note skipped "escapes from the sandbox: the program is not there"; return; }
	ip route replace 169.254.0.0/16 dev eth0
	ADDRESSES="-unreachable 169.254.42.42:80 -needed 169.254.169.254:80 -needed 10.0.2.3:53" bash /payload/escapes.sh /payload/escapes >"$RESULTS/escapes" 2>&1
	check "escapes from the sandbox are refused, each" [ $? = 0 ]
	sed 's/^/    /' "$RESULTS/escapes"
	addresses
}

# What systemd can refuse of addresses: link-local ones by the unit itself; all but the proxy's by the drop-in.
addresses() {
	local dropin=/etc/systemd/system/keyagent.service.d/20-no-internet.conf
	ip route replace 169.254.0.0/16 dev eth0
	mkdir -p "${dropin%/*}"
	sed 's/^IPAddressAllow=192.0.2.1$/IPAddressAllow=10.0.2.2/' /usr/share/doc/keyagent/examples/dropins/20-no-internet.conf >$dropin
	systemctl daemon-reload
	ADDRESSES="-unreachable 169.254.42.42:80 -unreachable 10.0.2.3:53 -unreachable 10.0.2.4:443 -needed 169.254.169.254:80 -needed 10.0.2.2:9" \
		bash /payload/escapes.sh /payload/escapes >"$RESULTS/escapes-no-internet" 2>&1
	check "with the drop-in, addresses beside the proxy's are refused" [ $? = 0 ]
	grep '^network\|^needed\|datagram' "$RESULTS/escapes-no-internet" | sed 's/^/    /'
	check "with the drop-in, the agent starts" systemctl restart keyagent.service
	check "and serves" until_ in_unit other.service keyagent token --identity vm --resource "$RESOURCE" --force-refresh
	rm $dropin
	systemctl daemon-reload
	systemctl restart keyagent.service
	until_ serving
}

# --- After a boot, and the end -------------------------------------------------------------------

after_boot() {
	until_ serving
	check "after a reboot, the socket and the service are there by themselves" serving
	check "after a reboot, the key is the same, and nothing was issued anew" same_key
	note "" "  ready $(systemd-analyze 2>/dev/null | sed -n 's/^Startup.*= //p') after the machine's start, under emulation"
}

goes() {
	check "a key is kept in the TPM, too" runuser -u keyagent -- keyagent key create fast --algorithm ecdsa-p256 --persistent 0x81010001
	check "it is there" says 0x81010001 tpm2_getcap handles-persistent
	check "the package is removed" dpkg --remove keyagent
	check "its units are gone" not systemctl --quiet is-active keyagent.socket keyagent.service
	check "the keys are kept" test -d /var/lib/keyagent/keys/fast
	check "it is installed again, beside what is there" dpkg -i "/payload/keyagent-$LAST.deb"
	systemctl enable --now keyagent.socket keyagent.service
	until_ serving
	check "and goes on with the same key" same_key
	touch /etc/keyagent/purge-keys
	check "it is purged, and told to forget the keys" dpkg --purge keyagent
	check "the keys are gone" test ! -e /var/lib/keyagent
	check "the TPM has nothing of it" diff "$memo/handles" <(tpm2_getcap handles-persistent | sort)
	check "no unit of it is left" [ -z "$(systemctl list-units --all --no-legend 'keyagent*' | grep -v not-found)" ]
}

case $STAGE in
1)
	loopback_to_host
	install_package
	first_token
	reload
	if [ -n "$QUICK" ]; then
		killed
	else
		under_load
		crashes
		shared_tpm
		troubles
		escapes
	fi
	declare -p shown failures >"$memo/shown"
	exit 77
	;;
*)
	# shellcheck disable=SC1090
	. "$memo/shown"
	after_boot
	[ -n "$QUICK" ] || goes
	table "$(. /etc/os-release && echo "$PRETTY_NAME"), Linux $(uname -r), systemd $(systemctl --version | awk 'NR == 1 { print $2 }'):"
	;;
esac
