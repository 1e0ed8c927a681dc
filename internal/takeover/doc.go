// Package takeover makes the firewall's part of the takeover of 169.254.169.254: the one static
// nftables file that sends the traffic of chosen users to the agent, the systemd unit that loads
// it, and the comparison of the loaded rules with the plan's.
//
// It is pure: it reads no file of its own accord and starts no program. A [Plan] comes from the
// configuration ([Resolve]); [Plan.Ruleset] is the file and [Unit] the unit; [Read] reads the
// output of `nft -j list ruleset`, and [Plan.Check] finds its faults.
//
// What the loaded table holds to (ADR 0023):
//   - A connection that a chosen user opens to 169.254.169.254, port 80, arrives at the agent. If
//     the agent does not run, it is refused.
//   - Nothing else of theirs is sent to that address: other ports, other protocols, connections
//     that were open when the table was loaded, source routes. Nor does anything go there whose
//     owner the kernel cannot name, except what ends a connection that others have opened.
//   - Only redirected connections arrive at the agent's port. A direct one could make the redirect
//     change a source port, and then a user could be taken for another.
//   - All other users reach the service as before.
//
// Sources: nft(8); netfilter's hooks and their priorities, <linux/netfilter_ipv4.h>;
// systemd.unit(5); subuid(5).
package takeover
