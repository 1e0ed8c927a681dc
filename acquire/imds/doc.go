// Package imds is a client of the Azure Instance Metadata Service as far as managed
// identities and their endpoints need it:
//
//   - MSI v2: leg 1, getplatformmetadata, and leg 2, issuecredential, for a binding
//     certificate with which the agent itself asks Entra for tokens;
//   - MSI v1: a Bearer token that IMDS asks Entra for. No key of this machine has a
//     part in it, so it is the weakest of all credentials;
//   - whether the host has either ([Client.Probe]), and the VM's region.
//
// IMDS is plain HTTP on a link-local address. Whoever can stand in its place
// can answer what he likes, so nothing that it says is taken on trust: answers
// are limited in size and must name IMDS as their server, ids must be GUIDs, and the
// hosts that it names must be https and on the operator's [HostList], because the agent
// is about to send evidence to one and to authenticate to the other. An identity that is
// selected by client id must be the one that is answered, and an answer must not contradict
// the token in it; an identity that is selected otherwise cannot be told from another of the
// same VM, which is why configurations should prefer the client id.
//
// # Retries
//
// The schedule is that of Microsoft's own clients for all three legs: 404, 408, 429,
// 5xx and time-outs are retried three times after 1, 2 and 4 seconds; 410, which
// IMDS answers for up to 70 seconds while it is updated, seven times after 10
// seconds. The count is chosen once, by the first failure. Retry-After is
// ignored. A refused connection is not retried: nobody is there. A probe takes 404 for
// an answer, and the search for the region has two seconds in all.
//
// # Errors
//
// [*Error] is an answer by which IMDS, as its Server header says, refuses, with its
// status and IMDS' own code. [ErrUnreachable] wraps every failure to get an answer at
// all, a stranger's statuses that are retried among them, but for 404. [ErrBadAnswer] wraps
// an answer that breaks the protocol, and all else that a stranger says: whoever
// answers in IMDS' place can neither refuse nor say what the host has.
// [ErrNotSupported] is joined in when the host has no MSI v2 endpoints, or the operator
// switched MSI v2 off.
package imds
