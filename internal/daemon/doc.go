// Package daemon builds the agent from its configuration and runs it. It is the
// only place that knows all packages; what cmd/keyagent serves and what the
// end-to-end tests start is the same value.
//
// # Start
//
//  1. check that this process sees real user ids
//  2. resolve the configuration: users, groups, trust anchors ([Check] stops here)
//  3. open the state directory, which no other agent may have locked, and the TPM
//  4. load the binding key, or create it, and test it
//  5. build evidence collector, IMDS client, certificate manager, acquirer
//  6. listen on the socket
//
// Until 6 nothing is offered to anybody; if a step fails, what the earlier ones
// opened is closed and the error says what to do. Neither IMDS nor Entra needs
// to answer for the agent to start.
//
// # Reload
//
// [Daemon.Reload] reads the configuration again. Everything that can be wrong with
// it is found out first; then whom the agent believes is changed, and after that
// rules and identities in one step (docs/adr/0014).
//
// # Stop
//
// In reverse: the socket goes first, requests under way finish, then the
// acquirer's flights, the key, the TPM, the lock of the state directory.
package daemon
