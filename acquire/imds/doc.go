// Package imds is a client of the Azure Instance Metadata Service as far as managed
// identities and their endpoints need it:
//
//   - MSI v2: getplatformmetadata and issuecredential, for a binding certificate with which the
//     agent itself requests tokens from Entra;
//   - MSI v1: a Bearer token that IMDS requests from Entra. No key of this machine is used, so it
//     is the weakest of all credentials;
//   - whether the host has either ([Client.Probe]), and the VM's region.
//
// IMDS is plain HTTP on a link-local address. An attacker who takes its place can send any answer,
// so no answer is trusted: answers are limited in size and must name IMDS as their server, ids must
// be GUIDs, and the hosts in them must be https and on the operator's [HostList], because the agent
// sends evidence to one of them and authenticates to the other. An identity that is selected by
// client id must be the one in the answer, and an answer must not contradict the token in it. An
// identity that is selected otherwise cannot be distinguished from another one of the same VM,
// which is why configurations should prefer the client id.
//
// # Retries
//
// The schedule is that of Microsoft's own clients for all three requests: 404, 408, 429, 5xx and
// time-outs are retried three times after 1, 2 and 4 seconds; 410, which IMDS answers for up to 70
// seconds while it is updated, seven times after 10 seconds. The count is chosen once, by the first
// failure. Retry-After is ignored. A refused connection is not retried. A probe takes 404 as an
// answer, and the search for the region has two seconds in all.
//
// # Errors
//
// [*Error] is a refusal by IMDS, as its Server header says, with its status and IMDS' own code.
// [ErrUnreachable] wraps every failure to get an answer at all, and statuses of another server that
// are retried, except 404. [ErrBadAnswer] wraps an answer that breaks the protocol, and all other
// answers of another server: a server in IMDS' place can neither refuse nor say what the host has.
// [ErrNotSupported] is joined in when the host has no MSI v2 endpoints, or the operator switched
// MSI v2 off.
package imds
