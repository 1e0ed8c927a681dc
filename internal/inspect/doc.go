// Package inspect looks at the machine that the agent is set up on: its TPM, its instance metadata
// service, the agent's user, the service manager. [Machine] returns what package setup makes a
// proposal of.
//
// What always holds:
//   - Nothing is changed: no key is made, nothing is noted, no token and no certificate is asked
//     for.
//   - It ends within [Budget], whatever does not answer. For facts that could not be found out, the
//     result has the reason.
//
// What kind of machine it is, the TPM says (NV index 0x01400001, the report of the paravisor), and
// not the metadata service, which nobody signs.
package inspect
