// Package takeover makes the firewall's part of the takeover of 169.254.169.254: the one static
// nftables file that sends the traffic of chosen users to the agent, the systemd unit that loads
// it, and the comparison of what is loaded with what should be.
//
// It is pure: it reads no file of its own accord and starts no program. A [Plan] comes from the
// configuration ([Resolve]); [Plan.Ruleset] is the file and [Unit] the unit; [Read] reads what
// `nft -j list ruleset` prints, and [Plan.Check] says what is wrong with it.
//
// What the loaded table holds to (ADR 0023):
//   - A connection that a chosen user opens to 169.254.169.254, port 80, arrives at the agent. If
//     the agent does not run, it is refused.
//   - Nothing else of theirs is sent to that address: other ports, other protocols, connections
//     that were open when the table was loaded, source routes. Nor does anything go there whose
//     owner the kernel cannot name, except what ends a connection that others have opened.
//   - At the agent's port nothing arrives but what was redirected, so that no direct connection has
//     the redirect change a source port, and nobody is taken for somebody else.
//   - All other users reach the service as before.
//
// Sources: nft(8); netfilter's hooks and their priorities, <linux/netfilter_ipv4.h>;
// systemd.unit(5); subuid(5).
package takeover
