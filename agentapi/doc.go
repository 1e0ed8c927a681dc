// Package agentapi is the agent's local socket: who is calling, what may they
// have, and the answer.
//
// A connection is identified once, when it is accepted, by what the kernel
// knows of its peer (package peer). Each request on it goes through one table
// (routes.go) that says which permission a path takes, then through the rules
// (package policy), and only then to the source of tokens. The same token is
// served in two shapes: the native API, described by wire/openapi.yaml, and the
// protocol of Azure's Instance Metadata Service, which unmodified SDKs speak.
//
//	accept → peer.Of → route → permission → parameters → policy.Decide → TokenSource → audit → answer
//
// # Invariants
//
//   - A route without a permission does not exist; [New] fails on one. What is
//     not in the table is 404.
//   - Paths are compared byte for byte, undecoded. Only the IMDS path may carry
//     duplicate slashes and a trailing one, because SDKs send them. Nothing is
//     ever proxied.
//   - Every token leaves one audit record, written before the token is sent. Every
//     other answer does, too, up to a bound for each account (quota.go), beyond
//     which answers are counted and the count is recorded. (What is not HTTP at all
//     is answered 400 or 431 by net/http and leaves none.)
//   - Nobody waits longer than half a second for a record, whatever reads it. If the
//     record of a token is not written by then, [Config.AuditRequired] decides
//     whether the token is refused, or sent and the lost record counted.
//   - No record, log line or error holds a token.
//   - A token is answered only if it is of the identity and the type that the
//     policy allowed, is not empty and has not expired, and one that is bound to a
//     certificate only if it is known to which. There is no 200 without a token.
//   - Rules go by the name of an identity. An id that was learnt at run time, from what
//     a token says of its owner, leads to a name among those that rules give the caller,
//     and the token that is answered must have that id itself. Nothing is fetched to
//     learn an id but a token that rules give the caller.
//   - A caller learns of no identity but those of its rules. To skip the cache
//     takes a rule; a claims challenge, which a resource has made, does not.
//   - A failure that may pass is 503 or 429 with Retry-After, never 500: SDKs
//     retry it at the right pace. The server stays up whatever the token source
//     does.
//   - No user can take all connections, however many subordinate uids it has:
//     they are bounded in total, by uid, together for all whom only a group makes
//     known (a user's other uids keep its groups), and together for all whom
//     nothing makes known. These get the refusal and are disconnected, and soon
//     if they do not ask.
//   - No caller can use up what IMDS and Entra allow an identity: the tokens that are
//     fetched because of one uid, and because of all together whom only a group makes
//     known, are bounded. Beyond that the caller is told when to come back, what is in
//     memory is given as before, and others do not notice.
//   - When told to stop, the server lets requests that it has begun finish,
//     within a bound.
//
// # What is not defended against
//
// A process that connects and then hands the connection to another one (see
// package peer), a user's own processes against each other, and the members of
// groups against each other's connections: the boundary is the user and the
// group. Root can do everything.
//
// # Sources
//
// Azure, "How to use managed identities on an Azure VM to acquire an access
// token" (the IMDS shape and its errors); RFC 9457 (problem details); RFC 9110,
// 15.5.6 (405 and Allow) and 10.2.3 (Retry-After). Byte-exact paths are the
// lesson of CVE-2022-23551 (aad-pod-identity), where a pattern matched
// /metadata/identity\oauth2\token and the request went on to the real service.
package agentapi
