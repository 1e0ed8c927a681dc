// Package daemon runs the agent: it puts an engine, the rules and the local socket together,
// reloads the configuration and reports its own status. What cmd/keyagent serves and what the
// end-to-end tests start is the same value.
//
// # Start
//
//  1. check that this process sees real user ids
//  2. resolve the configuration: trust anchors, users and groups ([Check] stops here)
//  3. lock the state directory against a second agent
//  4. open the TPM and in it the binding key, or create the key, and test it
//  5. build the engine: evidence, IMDS client, binding certificates, acquirer
//  6. listen on the socket
//
// No request is answered before step 6. If a step fails, what the earlier steps opened is closed,
// and the error says what to do. Neither IMDS nor Entra has to answer for the agent to start.
//
// # Reload
//
// [Daemon.Reload] reads the configuration again. Everything that can be wrong with it is found
// first; then the trust anchors and trusted hosts change, and after that rules and identities in
// one step (docs/adr/0014).
//
// # Stop
//
// In reverse: the socket is closed first, requests under way finish, then the engine is closed with
// its key and TPM, and the lock of the state directory is released.
package daemon
