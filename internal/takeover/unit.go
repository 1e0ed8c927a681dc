package takeover

import "fmt"

// Unit is a systemd unit that loads the file at a path, by the nft at another, before any program
// with ordinary dependencies starts. Names and network are not needed: the file has numbers only.
//
// It is loaded anew when the services are restarted or reloaded that are known to flush all tables.
// Stopping it does not open the way to IMDS.
func Unit(file, nft string) string {
	return fmt.Sprintf(`# Loads the firewall's part of keyagent's takeover of 169.254.169.254, a file that is made from the
# agent's configuration (docs/takeover.md). Where there is none it fails: who enables this unit
# wants the takeover.
[Unit]
Description=Takeover of 169.254.169.254 by keyagent for chosen users
Documentation=https://github.com/keyagent/keyagent/blob/main/docs/takeover.md
DefaultDependencies=no
RequiresMountsFor=%[1]s
After=local-fs.target nftables.service
Before=sysinit.target network-pre.target shutdown.target
Wants=network-pre.target
Conflicts=shutdown.target
PartOf=nftables.service
ReloadPropagatedFrom=nftables.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=%[2]s -f %[1]s
ExecReload=%[2]s -f %[1]s
# The table stays when this unit stops: to end the takeover, disable the unit and run
#   nft delete table inet %[3]s
StandardInput=null
# Root, with the one capability that the firewall takes.
CapabilityBoundingSet=CAP_NET_ADMIN
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
RestrictAddressFamilies=AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
DevicePolicy=closed
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM

[Install]
WantedBy=sysinit.target nftables.service
`, file, nft, Table)
}
