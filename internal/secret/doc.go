// Package secret holds values that must not be shown: access tokens, attestation tokens, client
// assertions.
//
// A [String] prints as "[redacted]" whatever verb, encoder or logger it meets, compares in constant
// time, and gives its value away only by [String.Reveal]. To find where a token can leave the
// process, search for that one name.
//
// What always holds:
//   - No formatting verb, no slog handler and no encoder of the standard library shows the value,
//     also when the String sits in an unexported field of a struct that is printed by reflection.
//   - The zero value is an empty secret and is ready for use.
//   - A String is immutable and safe for concurrent use.
//
// No promise about memory is made: the bytes are ordinary garbage-collected memory. A process that
// may read this one's memory, a core dump or a debugger sees them. Private keys are never held
// here: they live in the TPM.
package secret
