// Package keystore owns the life of the named keys of a state directory: making, adopting, rotating and deleting them, and the
// certificates that lie beside them. No other package writes, moves or deletes anything in a key's directory.
//
// A [Store] keeps each key in generations. A rotation makes the next generation beside the current one ([Store.BeginRotation]),
// and switches to it when a [Prove] has shown that key and certificate work together ([Store.FinishRotation]). [ProveHere] and
// [ProveAt] do that by TLS handshakes.
//
// [Store.Import] puts a certificate beside a key. It keeps what it replaces, and replaces a certificate that works and is in use
// only if that is meant; [Store.Replaced] is the way back.
//
// What always holds:
//
//   - A key file is written once and never overwritten; a generation's key file is removed last, so that a removal that was
//     interrupted can be repeated.
//   - At each moment, and after a power cut at each moment, key and certificate of one generation are in use together.
//   - Who changes something holds the store's lock, and looks again under it. Who reads needs no lock.
//
// # Errors
//
// [ErrNoKey], [ErrGenerationMissing] and [ErrKeyExists] say what is there; [InUseError] and [ErrNoneReplaced] are Import's and
// Replaced's; [ErrNoCertificate] and [ErrNotAsked] are those of proofs. Errors of packages signer, certreq and tpm pass through.
//
// # Sources
//
// flock(2). RFC 8446 (TLS 1.3), 2: when a client knows that its certificate was accepted. RFC 7515, 4.1.8: x5t#S256.
package keystore
