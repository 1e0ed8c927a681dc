// Package doctor checks what the agent and its keys need on this machine: configuration, state
// directory, room on disk, socket, TPM, storage root, keys with their certificates, and which forms
// of credentials work here.
//
// [Diagnose] returns findings, one or more for each check, with what to do. It opens the state
// directory, the TPM and the keys as the daemon would, so that what it finds is what the daemon
// will find.
//
// What always holds:
//   - Nothing is changed: no key is made, nothing is noted and no certificate is renewed.
//   - The network is not used. A running agent is asked through its local socket.
//   - Only the agent's user gets a diagnosis. Another user, root included, has other permissions
//     than the agent, and would be told of faults that the agent does not have.
//   - A new key is advised only where the key itself is at fault, not where the TPM cannot be used.
package doctor
