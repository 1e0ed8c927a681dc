// Package daemon builds the agent from its configuration and runs it. It is the
// only place that knows all packages; what cmd/keyagent serves and what the
// end-to-end tests start is the same value.
//
// # Start
//
//  1. check that this process sees real user ids
//  2. resolve the configuration: users, groups, trust anchors ([Check] stops here)
//  3. open the state directory and the TPM
//  4. load the binding key, or create it, and test it
//  5. build evidence collector, IMDS client, certificate manager, acquirer
//  6. listen on the socket
//
// Until 6 nothing is offered to anybody; if a step fails, what the earlier ones
// opened is closed and the error says what to do. Neither IMDS nor Entra needs
// to answer for the agent to start.
//
// # Stop
//
// In reverse: the socket goes first, requests under way finish, then the
// acquirer's flights, the key, the TPM.
package daemon
