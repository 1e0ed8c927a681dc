// Package agentapi serves the agent's local API: it finds out who is calling, decides what the
// caller may have, and answers.
//
// Callers come by a face (face.go): a listener with its way to identify callers, its routes and its
// form of errors. The Unix socket is one; App Service and IMDS on loopback are others
// (loopback.go), for programs that speak nothing else, and a program has a secret for the first
// (package appsecret). A connection is identified once, when it is accepted, by what the kernel
// knows of its peer (package peer). Each request on it goes through the face's table (routes.go),
// which says which permission a path takes, then through the rules (package policy), and only then
// to the source of tokens. The same token is served by two protocols: the native API, described by
// wire/openapi.yaml, and that of Azure's Instance Metadata Service (IMDS), which unmodified SDKs
// speak.
//
//	accept → identify → route → permission → parameters → policy.Decide → source → audit → answer
//
// Programs ask for the same token again and again. A connection remembers its last request that
// policy.Decide allowed, and does not ask again for the same request while the rules are the same
// (approval.go).
//
// Administrators have their own face (admin.go), and monitoring has a port on loopback that serves
// every local user. Each answer has an id, which its record and the log have too (requestid.go),
// and is counted (metrics.go).
//
// # Invariants
//
//   - A route without a permission does not exist; [New] fails on one. A path that is not in the
//     table is answered 404, or 400 on loopback, where programs go on asking after a 404.
//   - Paths are compared byte for byte, undecoded. Only the paths of SDKs may carry
//     duplicate slashes and a trailing one, because SDKs send them.
//   - No request is passed on but those to [wire.PathBridge], on the Unix socket alone (bridge.go),
//     and those for the machine's metadata that the takeover has in its own table, which never
//     has a path of tokens. Where a call of the bridge goes, a rule says: by https, to a host that
//     it gives the caller together with the identity and the resource, and with the agent's token
//     in the place of the caller's Authorization.
//   - On loopback, a request is meant for the literal address or refused; at App Service, it takes
//     the owner of the socket and a secret that is for that owner. A URL with a secret is refused,
//     and not put on record.
//   - Every token, and every signature for a caller's TLS handshake, leaves one audit record,
//     written before it is sent. Every other answer does, too, up to a bound for each account
//     (quota.go), beyond which answers are counted and the count is recorded. (Bytes that are not
//     HTTP are answered 400 or 431 by net/http and leave none.)
//   - Nobody waits longer than half a second for a record, whatever reads it. If the
//     record of a token is not written by then, [Config.AuditRequired] decides
//     whether the token is refused, or sent and the lost record counted.
//   - No record, log line, metric or error holds a token. Nothing that a caller sends becomes a
//     label of a metric.
//   - Where callers are not asked who they are, no name of the configuration is told,
//     and nothing is done for which the TPM is asked more than once in two seconds.
//   - A token is answered only if it is of the identity and the type that the
//     policy allowed, is not empty and has not expired, and one that is bound to a
//     certificate only if it is known to which. There is no 200 without a token.
//   - Rules go by the name of an identity. An id that was learnt at run time, from a token's
//     claims, is looked for among the identities that rules give the caller, and the token that is
//     sent must have that id itself. To learn an id, nothing is fetched but a token that rules give
//     the caller.
//   - With the keys that tokens are bound to, nothing is signed for a caller but TLS handshakes, of
//     which the agent sees the message and, in TLS 1.2, the server (binding.go).
//   - A caller learns of no identity but those of its rules. To skip the cache
//     takes a rule; a claims challenge, which a resource has made, does not.
//   - A failure that may pass is 503 or 429 with Retry-After, never 500: SDKs
//     retry it at the right pace. The server stays up whatever the token source
//     does.
//   - Each request looks again at who is calling. When the caller's process has ended, rules by
//     unit and executable do not name it any more. When a TCP connection has ended, nothing
//     counts.
//   - No user can take all connections, however many subordinate uids it has. There is a bound in
//     total, one for each uid, one for all callers together that are known by a group only (a
//     user's other uids keep its groups), one for each unit's callers that are known by nothing
//     else, and one for all strangers together. Strangers, named by neither a rule nor the
//     administration, get the refusal and are disconnected; if they send no request, they are
//     disconnected within seconds.
//   - No caller can use up what IMDS and Entra allow an identity: fetches are bounded for each
//     uid or unit, and for all callers together who are known by a group only. Beyond the bound
//     the caller is told when to come back, tokens in memory are given as before, and others do
//     not notice.
//   - When told to stop, the server lets requests that it has begun finish,
//     within a bound.
//
// # What is not defended against
//
// A process that connects and then hands the connection to another one (see package peer), a user's
// own processes against each other, and the members of groups against each other's connections: the
// boundary is the user and the group, and the unit as far as its user is its own. Root can do
// everything.
//
// # Sources
//
// Azure, "How to use managed identities on an Azure VM to acquire an access token" (the IMDS
// protocol and its errors); RFC 9457 (problem details); RFC 9110, 15.5.6 (405 and Allow) and 10.2.3
// (Retry-After). Byte-exact paths are the lesson of CVE-2022-23551 (aad-pod-identity), where a
// pattern matched /metadata/identity\oauth2\token and the request went on to the real service.
package agentapi
